package failoverpolicy

import (
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tailgate-project/tailgate/api/v1alpha1"
	"github.com/tailgate-project/tailgate/federation/policy"
)

// describe returns the status of an object that has the condition.
func describe(object *v1alpha1.FailoverPolicy, c metav1.Condition, now time.Time) v1alpha1.FailoverPolicyStatus {
	status := *object.Status.DeepCopy()
	status.ObservedGeneration = object.Generation
	c.ObservedGeneration = object.Generation
	c.LastTransitionTime = metav1.NewTime(now)
	meta.SetStatusCondition(&status.Conditions, c)
	return status
}

// accepted says whether the object of that name, which may have been refused, counts in the set.
func accepted(name string, refused error, set *policy.Set) metav1.Condition {
	c := metav1.Condition{Type: v1alpha1.ConditionAccepted, Status: metav1.ConditionFalse}
	isDefault := name == v1alpha1.DefaultFailoverPolicy
	switch by, shadowed := set.Shadow(name); {
	case refused != nil && isDefault:
		c.Reason = v1alpha1.ReasonInvalid
		c.Message = refused.Error() + "; until that is mended, the hub's own default counts for whatever no other policy selects and for clusters as a whole"
	case refused != nil:
		c.Reason = v1alpha1.ReasonInvalid
		c.Message = refused.Error() + "; until that is mended, what it selects follows the other policies that select it, or the default"
	case shadowed:
		c.Reason = v1alpha1.ReasonShadowed
		c.Message = "the FailoverPolicy " + by.Name + " comes first by precedence and selects all that this one does, so this one never counts: " +
			"let one of them select less, or delete one"
	case isDefault:
		c.Status, c.Reason = metav1.ConditionTrue, v1alpha1.ReasonAccepted
		c.Message = "counts for whatever no other policy selects and for clusters as a whole"
	default:
		c.Status, c.Reason = metav1.ConditionTrue, v1alpha1.ReasonAccepted
		c.Message = "counts for what it selects, except where a policy that comes first by precedence selects it too"
	}
	return c
}
