package tailnet

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"github.com/tailgate-project/tailgate/api/v1alpha1"
	"github.com/tailgate-project/tailgate/hub/tailnet"
)

// Finalizer keeps a TailscaleTailnet that is deleted until its tailnet has no VIP of this federation left.
const Finalizer = "gateway.tailscale.com/vips"

const (
	// checkInterval is the time between two reads by which credentials that work are tried; each scope has its turn.
	checkInterval = 100 * time.Second
	// firstRetry and lastRetry bound the time after which credentials that do not work are tried again.
	firstRetry = 5 * time.Second
	lastRetry  = 5 * time.Minute
)

// +kubebuilder:rbac:groups=gateway.tailscale.com,resources=tailscaletailnets,verbs=get;list;watch;patch
// +kubebuilder:rbac:groups=gateway.tailscale.com,resources=tailscaletailnets/status,verbs=update
// +kubebuilder:rbac:groups="",namespace=tailgate-system,resources=secrets,verbs=get;watch
// +kubebuilder:rbac:groups="",namespace=tailgate-system,resources=serviceaccounts/token,resourceNames=tailgate-hub,verbs=create
// +kubebuilder:rbac:groups="",resources=namespaces,resourceNames=kube-system,verbs=get
// +kubebuilder:rbac:groups=events.k8s.io,resources=events,verbs=create;patch

// AddTo lets the manager of the hub's own cluster run the reconciler.
func (t *Tailnets) AddTo(mgr ctrl.Manager) error {
	watcher, err := client.NewWithWatch(mgr.GetConfig(), client.Options{Scheme: mgr.GetScheme(), Mapper: mgr.GetRESTMapper(), HTTPClient: mgr.GetHTTPClient()})
	if err != nil {
		return fmt.Errorf("make a client to watch the tailnets' Secrets: %w", err)
	}
	recorder := mgr.GetEventRecorder("tailgate-hub")
	t.record = func(o *v1alpha1.TailscaleTailnet, c metav1.Condition) {
		kind := corev1.EventTypeWarning
		if c.Status == metav1.ConditionTrue {
			kind = corev1.EventTypeNormal
		}
		recorder.Eventf(o, nil, kind, c.Reason, "Check", "%s is %s: %s", c.Type, c.Status, c.Message)
	}
	err = ctrl.NewControllerManagedBy(mgr).
		Named("tailnet").
		For(&v1alpha1.TailscaleTailnet{}, builder.WithPredicates(predicate.GenerationChangedPredicate{})).
		WatchesRawSource(source.Channel(t.secrets.wake, &handler.EnqueueRequestForObject{})).
		WithOptions(controller.Options{MaxConcurrentReconciles: 4}). // an API that does not answer must not hold up the others
		Complete(t)
	if err != nil {
		return fmt.Errorf("add the controller of TailscaleTailnets: %w", err)
	}
	if err := mgr.Add(manager.RunnableFunc(func(ctx context.Context) error { return t.secrets.run(ctx, watcher) })); err != nil {
		return fmt.Errorf("add the watch of the tailnets' Secrets: %w", err)
	}
	if err := mgr.Add(manager.RunnableFunc(t.begin)); err != nil {
		return fmt.Errorf("add the first look at TailscaleTailnets: %w", err)
	}
	return nil
}

// Reconcile brings the API of a tailnet in line with its object and credentials, tries them when it is time, and says in
// the status what came of it.
func (t *Tailnets) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	object := &v1alpha1.TailscaleTailnet{}
	err := t.Client.Get(ctx, req.NamespacedName, object)
	if apierrors.IsNotFound(err) || err == nil && !object.DeletionTimestamp.IsZero() && !controllerutil.ContainsFinalizer(object, Finalizer) {
		t.forget(req.Name)
		return ctrl.Result{}, nil
	}
	if err != nil {
		return ctrl.Result{}, fmt.Errorf("get the TailscaleTailnet: %w", err)
	}
	leaving := !object.DeletionTimestamp.IsZero()
	if !leaving {
		// Before the API is given to anybody, who could make a VIP.
		if err := t.setFinalizer(ctx, object, true); err != nil {
			return again(err)
		}
	}
	e, err := t.load(ctx, object)
	if err != nil {
		return ctrl.Result{}, err
	}
	if leaving {
		return t.leave(ctx, object, e)
	}
	if e.api != nil && !t.Now().Before(e.trial.retry) {
		if e, err = t.check(ctx, req.Name, e); err != nil {
			return ctrl.Result{}, err
		}
	}
	if err := t.report(ctx, object, describe(object, e, t.Now())); err != nil {
		return again(err)
	}
	return ctrl.Result{RequeueAfter: t.untilNext(e)}, nil
}

// untilNext is how long until a tailnet is to be looked at again without being told; zero is never.
func (t *Tailnets) untilNext(e entry) time.Duration {
	var wait time.Duration
	if e.api != nil {
		wait = max(e.trial.retry.Sub(t.Now()), time.Millisecond)
	}
	if e.secret.Name != "" && !t.secrets.isWatched(e.secret) && (wait == 0 || wait > t.LookInterval) {
		wait = t.LookInterval
	}
	return wait
}

// again is the result of a write that failed. One that is due to an old copy of the object is made again with the newer
// one, which the cache has soon; what is gone needs none.
func again(err error) (ctrl.Result, error) {
	switch {
	case apierrors.IsConflict(err):
		return ctrl.Result{RequeueAfter: time.Second}, nil
	case apierrors.IsNotFound(err):
		return ctrl.Result{}, nil
	}
	return ctrl.Result{}, err
}

// setFinalizer adds or removes the finalizer, where that is not done yet.
func (t *Tailnets) setFinalizer(ctx context.Context, object *v1alpha1.TailscaleTailnet, want bool) error {
	before := object.DeepCopy()
	edit := controllerutil.RemoveFinalizer
	if want {
		edit = controllerutil.AddFinalizer
	}
	if !edit(object, Finalizer) {
		return nil
	}
	if err := t.Client.Patch(ctx, object, client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{})); err != nil {
		return fmt.Errorf("write the finalizer: %w", err)
	}
	return nil
}

// report writes a status if it differs from what is there, and makes an Event of each condition that turned.
func (t *Tailnets) report(ctx context.Context, object *v1alpha1.TailscaleTailnet, status v1alpha1.TailscaleTailnetStatus) error {
	if equality.Semantic.DeepEqual(status, object.Status) {
		return nil
	}
	before := object.Status.Conditions
	object.Status = status
	if err := t.Client.Status().Update(ctx, object); err != nil {
		return fmt.Errorf("write the status: %w", err)
	}
	for _, c := range status.Conditions {
		old := meta.FindStatusCondition(before, c.Type)
		if old == nil || old.Status != c.Status || old.Reason != c.Reason {
			t.record(object, c)
		}
	}
	return nil
}

// check tries the credentials and remembers the result, which the error is no part of.
func (t *Tailnets) check(ctx context.Context, name string, e entry) (entry, error) {
	trial := e.trial
	info, err := try(ctx, e.api, &trial)
	if ctx.Err() != nil {
		return e, ctx.Err()
	}
	now := t.Now()
	switch {
	case err == nil, errors.Is(err, errTags):
		trial.info, trial.checked, trial.taken = info, now, true
	case errors.Is(err, tailnet.ErrForbidden):
		trial.taken = true // and what is known stays, for not all could be read
	}
	trial.err = err
	if err == nil {
		trial.failures, trial.retry = 0, now.Add(checkInterval)
	} else {
		wait := min(firstRetry<<min(trial.failures, 10), lastRetry)
		trial.retry = now.Add(wait/2 + rand.N(wait/2))
		if next := e.api.NextCall(); next.After(trial.retry) { // it asked for a rest, or has trouble
			trial.retry = next
		}
		trial.failures++
	}
	e.trial = trial
	t.mu.Lock()
	defer t.mu.Unlock()
	if current := t.tailnets[name]; current != nil && current.api == e.api {
		current.trial = trial
	}
	return e, nil
}

// try tries credentials: those that worked the last time by the one read whose turn it is, others by all. VIPs that have
// not the tags of the tailnet get them.
func try(ctx context.Context, api *tailnet.API, last *trial) (info tailnet.Info, err error) {
	if last.err != nil || last.checked.IsZero() {
		info, err = api.Validate(ctx)
	} else {
		scopes := tailnet.Scopes()
		info, err = api.Look(ctx, scopes[last.turn%len(scopes)], last.info)
		last.turn++
		if errors.Is(err, tailnet.ErrForbidden) {
			info, err = api.Validate(ctx) // which says what is missing
		}
	}
	if err != nil || len(info.Untagged) == 0 {
		return info, err
	}
	switch err := api.Retag(ctx, info.Untagged); {
	case errors.Is(err, tailnet.ErrRejected), errors.Is(err, tailnet.ErrForbidden):
		return info, fmt.Errorf("%w: %w", errTags, err)
	case err != nil:
		return info, err
	}
	info.Untagged = nil
	return info, nil
}

// leave lets an object go that is being deleted, once its tailnet has no VIP of this federation left, or another object
// gives access to it. Until then the API serves on, for the VIPs to be deleted by it.
func (t *Tailnets) leave(ctx context.Context, object *v1alpha1.TailscaleTailnet, e entry) (ctrl.Result, error) {
	vips, err := t.left(ctx, object, e)
	if ctx.Err() != nil {
		return ctrl.Result{}, ctx.Err()
	}
	lost := errors.Is(err, errNoCredentials) || errors.Is(err, tailnet.ErrUnauthorized) || errors.Is(err, tailnet.ErrForbidden)
	// Where the API was never read, there was nobody who could have made a VIP.
	if err == nil && len(vips) == 0 || lost && count(object) == 0 || err != nil && object.Status.VIPCount == nil {
		if err := t.setFinalizer(ctx, object, false); err != nil {
			return again(err)
		}
		t.forget(object.Name)
		return ctrl.Result{}, nil
	}
	status := *object.Status.DeepCopy()
	status.ObservedGeneration = object.Generation
	c := inUse(object, vips, err, lost)
	c.ObservedGeneration, c.LastTransitionTime = object.Generation, metav1.NewTime(t.Now())
	meta.SetStatusCondition(&status.Conditions, c)
	if err == nil {
		status.VIPCount = new(int32(len(vips)))
	}
	if err := t.report(ctx, object, status); err != nil {
		return again(err)
	}
	return ctrl.Result{RequeueAfter: t.LookInterval}, nil
}

// errNoCredentials reports that a tailnet cannot be asked any more.
var errNoCredentials = errors.New("there are no credentials any more")

// left returns the VIPs that nobody could delete any more without this object.
func (t *Tailnets) left(ctx context.Context, object *v1alpha1.TailscaleTailnet, e entry) ([]string, error) {
	if e.api == nil {
		return nil, fmt.Errorf("%w: %s", errNoCredentials, e.refused.Message)
	}
	if t.another(object.Name, e) {
		return nil, nil
	}
	return e.api.VIPNames(ctx)
}

// another reports whether another object that works and stays gives access to the same tailnet.
func (t *Tailnets) another(name string, e entry) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	for other, o := range t.tailnets {
		if other == name || o.api == nil || o.leaving || o.trial.err != nil || o.trial.checked.IsZero() || o.setup.baseURL != e.setup.baseURL {
			continue
		}
		suffix := o.trial.info.MagicDNSSuffix
		if o.setup.clientID == e.setup.clientID && o.setup.tailnet == e.setup.tailnet || suffix != "" && suffix == e.trial.info.MagicDNSSuffix {
			return true
		}
	}
	return false
}
