// Package routepolicy keeps the policy objects that make Envoy Gateway translate a Gateway again when the structure
// of its routes has changed.
//
// Envoy Gateway does not try again after an error, so the revision grows once more, with growing pauses, for as long
// as no hook was called with the newest one.
package routepolicy

import (
	"context"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/source"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/tailgate-project/tailgate/api/v1alpha1"
	"github.com/tailgate-project/tailgate/spoke"
)

// AnnotationHash holds the hash of the structure that the policy's revision stands for.
const AnnotationHash = v1alpha1.GroupName + "/structure-hash"

const (
	// debounce is how long the structure must have been the same before the revision grows.
	debounce = 250 * time.Millisecond
	// unseenMin and unseenMax bound the pause before a revision that no hook has seen grows again.
	unseenMin = 2 * time.Second
	unseenMax = time.Minute
)

// Spoke says which policies there should be.
type Spoke interface {
	Policies(ctx context.Context) ([]spoke.Policy, error)
	SetRevision(ctx context.Context, tailscaleGateway spoke.Name, revision int64) error
}

// Reconciler keeps one policy at a time. It must not run for two at once.
type Reconciler struct {
	Client client.Client
	Spoke  Spoke
	// Changes brings an event for each policy that may have to change.
	Changes <-chan event.GenericEvent
	// Now is the clock, time.Now by default.
	Now func() time.Time

	bumps map[types.NamespacedName]bump
}

// bump is the newest revision that was written for a policy, and how long a hook may take to see it.
type bump struct {
	revision int64
	at       time.Time
	pause    time.Duration
}

// +kubebuilder:rbac:groups=gateway.tailscale.com,resources=tailscaleroutepolicies,verbs=get;list;watch;create;update;delete

// SetupWithManager has the manager call the reconciler.
func (r *Reconciler) SetupWithManager(mgr ctrl.Manager) error {
	return ctrl.NewControllerManagedBy(mgr).Named("routepolicy").
		For(&v1alpha1.TailscaleRoutePolicy{}, builder.WithPredicates(predicate.GenerationChangedPredicate{})).
		WatchesRawSource(source.Channel(r.Changes, &handler.EnqueueRequestForObject{})).
		Complete(r)
}

// Reconcile brings the policy in line with the structure.
func (r *Reconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	if r.Now == nil {
		r.Now = time.Now
	}
	if r.bumps == nil {
		r.bumps = map[types.NamespacedName]bump{}
	}
	want, ok, err := r.wanted(ctx, req.NamespacedName)
	if err != nil {
		return ctrl.Result{}, err
	}
	var have v1alpha1.TailscaleRoutePolicy
	err = r.Client.Get(ctx, req.NamespacedName, &have)
	missing := apierrors.IsNotFound(err)
	if err != nil && !missing {
		return ctrl.Result{}, fmt.Errorf("get TailscaleRoutePolicy: %w", err)
	}
	switch now := r.Now(); {
	case !ok && missing:
		delete(r.bumps, req.NamespacedName)
		return ctrl.Result{}, nil
	case !ok:
		delete(r.bumps, req.NamespacedName)
		return ctrl.Result{}, r.remove(ctx, &have)
	case now.Before(want.ChangedAt.Add(debounce)):
		return ctrl.Result{RequeueAfter: want.ChangedAt.Add(debounce).Sub(now)}, nil
	case r.behind(req.NamespacedName, have.Spec.Revision, now):
		return ctrl.Result{RequeueAfter: debounce}, nil
	case missing:
		return r.create(ctx, want)
	case have.Annotations[AnnotationHash] != want.Hash || !targets(&have, want):
		return r.bump(ctx, &have, want, unseenMin)
	default:
		return r.check(ctx, &have, want)
	}
}

// behind reports whether the cache does not have what was just written.
func (r *Reconciler) behind(name types.NamespacedName, revision int64, now time.Time) bool {
	b := r.bumps[name]
	return b.revision > revision && now.Sub(b.at) < unseenMin
}

func (r *Reconciler) wanted(ctx context.Context, name types.NamespacedName) (spoke.Policy, bool, error) {
	policies, err := r.Spoke.Policies(ctx)
	if err != nil {
		return spoke.Policy{}, false, err
	}
	for _, p := range policies {
		if p.TailscaleGateway == (spoke.Name{Namespace: name.Namespace, Name: name.Name}) {
			return p, true, nil
		}
	}
	return spoke.Policy{}, false, nil
}

// remove deletes a policy of ours whose TailscaleGateway no longer joins a Gateway. Others' are left alone.
func (r *Reconciler) remove(ctx context.Context, p *v1alpha1.TailscaleRoutePolicy) error {
	if owner := metav1.GetControllerOf(p); owner == nil || owner.Kind != v1alpha1.KindTailscaleGateway {
		return nil
	}
	if err := client.IgnoreNotFound(r.Client.Delete(ctx, p)); err != nil {
		return fmt.Errorf("delete TailscaleRoutePolicy: %w", err)
	}
	return nil
}

// check sees to it that a hook was called with the policy's revision.
func (r *Reconciler) check(ctx context.Context, p *v1alpha1.TailscaleRoutePolicy, want spoke.Policy) (ctrl.Result, error) {
	key := client.ObjectKeyFromObject(p)
	if err := r.Spoke.SetRevision(ctx, want.TailscaleGateway, p.Spec.Revision); err != nil {
		return ctrl.Result{}, err
	}
	if want.Seen >= p.Spec.Revision {
		delete(r.bumps, key)
		return ctrl.Result{}, nil
	}
	b, ok := r.bumps[key]
	if !ok || b.revision != p.Spec.Revision { // written by the spoke before this one
		b = bump{revision: p.Spec.Revision, at: r.Now(), pause: unseenMin}
		r.bumps[key] = b
	}
	if left := b.at.Add(b.pause).Sub(r.Now()); left > 0 {
		return ctrl.Result{RequeueAfter: left}, nil
	}
	return r.bump(ctx, p, want, min(2*b.pause, unseenMax))
}

func (r *Reconciler) create(ctx context.Context, want spoke.Policy) (ctrl.Result, error) {
	p := &v1alpha1.TailscaleRoutePolicy{ObjectMeta: metav1.ObjectMeta{Namespace: want.TailscaleGateway.Namespace, Name: want.TailscaleGateway.Name}}
	return r.write(ctx, p, want, unseenMin, func() error { return r.Client.Create(ctx, p) })
}

func (r *Reconciler) bump(ctx context.Context, p *v1alpha1.TailscaleRoutePolicy, want spoke.Policy, pause time.Duration) (ctrl.Result, error) {
	return r.write(ctx, p, want, pause, func() error { return r.Client.Update(ctx, p) })
}

// write gives the policy its next revision. The structure is published under it first, so that the hook that follows
// finds it.
func (r *Reconciler) write(ctx context.Context, p *v1alpha1.TailscaleRoutePolicy, want spoke.Policy, pause time.Duration, write func() error) (ctrl.Result, error) {
	var owner v1alpha1.TailscaleGateway
	key := types.NamespacedName{Namespace: want.TailscaleGateway.Namespace, Name: want.TailscaleGateway.Name}
	if err := r.Client.Get(ctx, key, &owner); err != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err) // it is gone, and the spoke will hear of it
	}
	if err := controllerutil.SetControllerReference(&owner, p, r.Client.Scheme()); err != nil {
		return ctrl.Result{}, fmt.Errorf("own TailscaleRoutePolicy: %w", err)
	}
	p.Spec.Revision = max(p.Spec.Revision, want.Revision) + 1
	p.Spec.TargetRefs = []gatewayv1.LocalPolicyTargetReference{{
		Group: gatewayv1.GroupName, Kind: "Gateway", Name: gatewayv1.ObjectName(want.Gateway.Name),
	}}
	p.Spec.TailscaleGatewayRef.Name = want.TailscaleGateway.Name
	metav1.SetMetaDataAnnotation(&p.ObjectMeta, AnnotationHash, want.Hash)
	if err := r.Spoke.SetRevision(ctx, want.TailscaleGateway, p.Spec.Revision); err != nil {
		return ctrl.Result{}, err
	}
	if err := write(); err != nil {
		if apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err) {
			return ctrl.Result{RequeueAfter: debounce}, nil // the cache is behind
		}
		return ctrl.Result{}, fmt.Errorf("write TailscaleRoutePolicy: %w", err)
	}
	r.bumps[key] = bump{revision: p.Spec.Revision, at: r.Now(), pause: pause}
	return ctrl.Result{RequeueAfter: pause}, nil
}

func targets(p *v1alpha1.TailscaleRoutePolicy, want spoke.Policy) bool {
	return len(p.Spec.TargetRefs) == 1 && string(p.Spec.TargetRefs[0].Name) == want.Gateway.Name
}
