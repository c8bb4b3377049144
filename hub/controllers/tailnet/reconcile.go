package tailnet

import (
	"context"
	"errors"
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/predicate"

	"github.com/tailgate-project/tailgate/api/v1alpha1"
	"github.com/tailgate-project/tailgate/hub/tailnet"
)

const (
	// lookInterval is how often a tailnet's Secret is read.
	lookInterval = 30 * time.Second
	// checkInterval is how often credentials that worked are tried again, failedInterval how often those that did not.
	checkInterval  = 5 * time.Minute
	failedInterval = time.Minute
)

// +kubebuilder:rbac:groups=gateway.tailscale.com,resources=tailscaletailnets,verbs=get;list;watch
// +kubebuilder:rbac:groups=gateway.tailscale.com,resources=tailscaletailnets/status,verbs=update
// +kubebuilder:rbac:groups="",namespace=tailgate-system,resources=secrets,verbs=get
// +kubebuilder:rbac:groups="",resources=namespaces,resourceNames=kube-system,verbs=get

// AddTo lets the manager of the hub's own cluster run the reconciler.
func (t *Tailnets) AddTo(mgr ctrl.Manager) error {
	err := ctrl.NewControllerManagedBy(mgr).
		Named("tailnet").
		For(&v1alpha1.TailscaleTailnet{}, builder.WithPredicates(predicate.GenerationChangedPredicate{})).
		WithOptions(controller.Options{MaxConcurrentReconciles: 4}). // an API that does not answer must not hold up the others
		Complete(t)
	if err != nil {
		return fmt.Errorf("add the controller of TailscaleTailnets: %w", err)
	}
	if err := mgr.Add(manager.RunnableFunc(t.begin)); err != nil {
		return fmt.Errorf("add the first look at TailscaleTailnets: %w", err)
	}
	return nil
}

// Reconcile brings the API of a tailnet in line with its object and Secret, tries the credentials when it is time, and
// says in the status what came of it.
func (t *Tailnets) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	object := &v1alpha1.TailscaleTailnet{}
	err := t.Client.Get(ctx, req.NamespacedName, object)
	if apierrors.IsNotFound(err) || err == nil && !object.DeletionTimestamp.IsZero() {
		t.forget(req.Name)
		return ctrl.Result{}, nil
	}
	if err != nil {
		return ctrl.Result{}, fmt.Errorf("get the TailscaleTailnet: %w", err)
	}
	e, err := t.load(ctx, object)
	if err != nil {
		return ctrl.Result{}, err
	}
	if e.api != nil && !t.Now().Before(e.retry) {
		if e, err = t.check(ctx, req.Name, e); err != nil {
			return ctrl.Result{}, err
		}
	}
	result := ctrl.Result{RequeueAfter: lookInterval}
	status := describe(object, e, t.Now())
	if equality.Semantic.DeepEqual(status, object.Status) {
		return result, nil
	}
	object.Status = status
	if err := t.Client.Status().Update(ctx, object); err != nil && !apierrors.IsNotFound(err) {
		if apierrors.IsConflict(err) {
			return ctrl.Result{RequeueAfter: time.Second}, nil // the cache has the newer object soon
		}
		return ctrl.Result{}, fmt.Errorf("write the status: %w", err)
	}
	return result, nil
}

// check tries the credentials and remembers the result, which the error is no part of.
func (t *Tailnets) check(ctx context.Context, name string, e entry) (entry, error) {
	info, err := e.api.Validate(ctx)
	if ctx.Err() != nil {
		return e, ctx.Err()
	}
	now := t.Now()
	e.err = err
	switch answer, ok := errors.AsType[*tailnet.Error](err); {
	case err == nil:
		e.checked, e.info, e.retry = now, info, now.Add(checkInterval)
	case ok && answer.RetryAfter > 0:
		e.retry = now.Add(answer.RetryAfter)
	default:
		e.retry = now.Add(failedInterval)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if current := t.tailnets[name]; current != nil && current.api == e.api {
		*current = e
	}
	return e, nil
}

// describe returns the status of a tailnet.
func describe(object *v1alpha1.TailscaleTailnet, e entry, now time.Time) v1alpha1.TailscaleTailnetStatus {
	status := *object.Status.DeepCopy()
	status.ObservedGeneration = object.Generation
	set := func(c metav1.Condition) {
		c.ObservedGeneration = object.Generation
		c.LastTransitionTime = metav1.NewTime(now)
		meta.SetStatusCondition(&status.Conditions, c)
	}
	if e.api == nil {
		set(e.refused)
		meta.RemoveStatusCondition(&status.Conditions, v1alpha1.ConditionAuthenticated)
		set(notReady(e.refused))
		return status
	}
	set(metav1.Condition{Type: v1alpha1.ConditionAccepted, Status: metav1.ConditionTrue, Reason: v1alpha1.ReasonAccepted, Message: "the Secret has an OAuth client"})
	authenticated := authentication(e)
	set(authenticated)
	if authenticated.Status == metav1.ConditionTrue {
		set(metav1.Condition{Type: v1alpha1.ConditionReady, Status: metav1.ConditionTrue, Reason: v1alpha1.ReasonReady, Message: "the hub can manage the tailnet"})
	} else {
		set(notReady(authenticated))
	}
	if !e.checked.IsZero() {
		devices, vips, at := int32(e.info.Devices), int32(e.info.VIPs), metav1.NewTime(e.checked.Truncate(time.Second)) // the API keeps no fractions
		status.TailnetInfo = &v1alpha1.TailnetInfo{Name: nameOf(object, e), MagicDNSSuffix: e.info.MagicDNSSuffix}
		status.DeviceCount, status.VIPCount = &devices, &vips
		if status.LastSyncTime == nil || !status.LastSyncTime.Equal(&at) {
			status.LastSyncTime = &at
		}
	}
	return status
}

// notReady is the sum of conditions of which one is not True.
func notReady(because metav1.Condition) metav1.Condition {
	because.Type, because.Status = v1alpha1.ConditionReady, metav1.ConditionFalse
	return because
}

// nameOf is the tailnet's name: the one in the spec or, where that means the OAuth client's own, what its nodes' names
// end in.
func nameOf(object *v1alpha1.TailscaleTailnet, e entry) string {
	if n := object.Spec.Tailnet; n != "" && n != "-" {
		return n
	}
	return e.info.MagicDNSSuffix
}

// authentication says what the last try of the credentials showed.
func authentication(e entry) metav1.Condition {
	c := metav1.Condition{Type: v1alpha1.ConditionAuthenticated, Status: metav1.ConditionUnknown}
	if e.err == nil {
		c.Status, c.Reason, c.Message = metav1.ConditionTrue, v1alpha1.ReasonAuthenticated, "the Tailscale API takes the OAuth client"
		return c
	}
	c.Message = e.err.Error()
	switch {
	case errors.Is(e.err, tailnet.ErrUnauthorized):
		c.Status, c.Reason = metav1.ConditionFalse, v1alpha1.ReasonUnauthorized
	case errors.Is(e.err, tailnet.ErrForbidden):
		c.Status, c.Reason = metav1.ConditionFalse, v1alpha1.ReasonForbidden
	case errors.Is(e.err, tailnet.ErrRateLimited):
		c.Reason = v1alpha1.ReasonRateLimited
		c.Message += "; the next call is due at " + e.retry.UTC().Format(time.RFC3339)
	default:
		c.Reason = v1alpha1.ReasonAPIUnreachable
		c.Message += "; what exists goes on working, changes wait"
	}
	return c
}
