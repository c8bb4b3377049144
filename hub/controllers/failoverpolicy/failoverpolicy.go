// Package failoverpolicy reads the FailoverPolicies in the hub's cluster, tells the hub which policies there are, and says
// in the status of each object what came of it.
//
// Policies have an order of precedence and one of them is the default, so what one object means depends on all others:
// whatever changes, all are looked at and the whole set is given.
package failoverpolicy

import (
	"context"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"github.com/tailgate-project/tailgate/api/v1alpha1"
	"github.com/tailgate-project/tailgate/federation/policy"
)

// +kubebuilder:rbac:groups=gateway.tailscale.com,resources=failoverpolicies,verbs=get;list;watch
// +kubebuilder:rbac:groups=gateway.tailscale.com,resources=failoverpolicies/status,verbs=update
// +kubebuilder:rbac:groups=events.k8s.io,resources=events,verbs=create;patch

// staleRetry is how long a status that was made from an old object waits for the cache to have the new one.
const staleRetry = 100 * time.Millisecond

// Policies is told which policies there are. What it is told takes the place of all that it was told before.
type Policies interface {
	SetPolicies(ctx context.Context, fallback policy.Policy, policies []policy.Policy) error
}

// Options are what a reconciler needs. Client and Policies are required.
type Options struct {
	// Client reads through the cache of the hub's cluster.
	Client   client.Client
	Policies Policies
	// Fallback counts for whatever no policy selects while there is no valid FailoverPolicy named default. The zero Policy
	// stands for policy.Default.
	Fallback policy.Policy
	// Now is the clock, time.Now by default.
	Now func() time.Time
	// Record makes an Event of an object that does not count. By default, AddTo has the manager do it.
	Record func(o client.Object, reason, message string)
}

// Reconciler brings the hub's policies in line with the FailoverPolicies. It is made by [New] and works once it is given
// to a manager.
type Reconciler struct{ Options }

// New returns a reconciler.
func New(o Options) *Reconciler {
	if o.Fallback.Equal(policy.Policy{}) {
		o.Fallback = policy.Default()
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return &Reconciler{Options: o}
}

// all stands for all FailoverPolicies: there is no work on one alone.
var all = reconcile.Request{NamespacedName: types.NamespacedName{Name: "all"}}

// AddTo lets the manager of the hub's own cluster run the reconciler.
func (r *Reconciler) AddTo(mgr ctrl.Manager) error {
	if r.Record == nil {
		recorder := mgr.GetEventRecorder("tailgate-hub")
		r.Record = func(o client.Object, reason, message string) {
			recorder.Eventf(o, nil, corev1.EventTypeWarning, reason, "Accept", "%s", message)
		}
	}
	toAll := handler.EnqueueRequestsFromMapFunc(func(context.Context, client.Object) []reconcile.Request { return []reconcile.Request{all} })
	err := ctrl.NewControllerManagedBy(mgr).
		Named("failoverpolicy").
		Watches(&v1alpha1.FailoverPolicy{}, toAll, builder.WithPredicates(predicate.GenerationChangedPredicate{})).
		// Once without any event: the last object may have been deleted while the hub was away.
		WatchesRawSource(source.Func(func(_ context.Context, q workqueue.TypedRateLimitingInterface[reconcile.Request]) error {
			q.Add(all)
			return nil
		})).
		Complete(r)
	if err != nil {
		return fmt.Errorf("add the controller of FailoverPolicies: %w", err)
	}
	return nil
}

// Reconcile gives the hub all policies that there are and are valid, and then says in the status of each object whether
// it counts, and what does instead if it does not.
func (r *Reconciler) Reconcile(ctx context.Context, _ ctrl.Request) (ctrl.Result, error) {
	var list v1alpha1.FailoverPolicyList
	if err := r.Client.List(ctx, &list); err != nil {
		return ctrl.Result{}, fmt.Errorf("list the FailoverPolicies: %w", err)
	}
	rd := read(r.Fallback, list.Items)
	if err := r.Policies.SetPolicies(ctx, rd.fallback, rd.policies); err != nil {
		return ctrl.Result{}, fmt.Errorf("give the hub its policies: %w", err)
	}
	set := policy.NewSet(rd.fallback, rd.policies)
	var (
		result ctrl.Result
		failed []error
	)
	for i := range list.Items {
		object := &list.Items[i]
		if !object.DeletionTimestamp.IsZero() {
			continue
		}
		switch err := r.tell(ctx, object, accepted(object.Name, rd.refused[object.Name], set)); {
		case apierrors.IsNotFound(err): // deleted meanwhile, which is an event of its own
		case apierrors.IsConflict(err):
			result.RequeueAfter = staleRetry
		case err != nil:
			failed = append(failed, fmt.Errorf("write the status of the FailoverPolicy %s: %w", object.Name, err))
		}
	}
	return result, errors.Join(failed...)
}

// tell writes the condition to the object's status, and records it if the object does not count, where that is news.
func (r *Reconciler) tell(ctx context.Context, object *v1alpha1.FailoverPolicy, c metav1.Condition) error {
	status := describe(object, c, r.Now())
	if equality.Semantic.DeepEqual(status, object.Status) {
		return nil
	}
	before := meta.FindStatusCondition(object.Status.Conditions, c.Type)
	object.Status = status
	if err := r.Client.Status().Update(ctx, object); err != nil {
		return err
	}
	if c.Status == metav1.ConditionFalse && (before == nil || before.Message != c.Message) {
		r.Record(object, c.Reason, c.Message)
	}
	return nil
}

var _ reconcile.Reconciler = (*Reconciler)(nil)
