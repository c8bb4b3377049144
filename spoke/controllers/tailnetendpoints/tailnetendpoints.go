// Package tailnetendpoints makes a TailscaleEndpoints for each tailnet of each TailscaleGateway: what carries
// [v1alpha1.TagEndpoint] in the tailnet is in it, and routes can refer to it without anybody writing one.
//
// It is called <TailscaleGateway>-<tailnet> and belongs to the TailscaleGateway. From then on it is the user's to change: the
// reconciler makes it and takes it away, and nothing in between. An object of that name that somebody else has made is left
// alone.
package tailnetendpoints

import (
	"context"
	"errors"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/predicate"

	"github.com/tailgate-project/tailgate/api/v1alpha1"
	"github.com/tailgate-project/tailgate/federation/vip"
)

const (
	labelManagedBy = "app.kubernetes.io/managed-by"
	manager        = "tailgate-spoke"
	// syncInterval is that of the objects. Nobody may use them, so the tailnet is asked rarely.
	syncInterval = 5 * time.Minute
)

// ReasonConflict is the reason of the Event about an object of somebody else that has the name of one of ours.
const ReasonConflict = "EndpointsConflict"

// Reconciler acts on one TailscaleGateway at a time.
type Reconciler struct {
	Client client.Client
	// Record tells users of an object what is in the way; nil tells nobody.
	Record func(o client.Object, reason, message string)

	told map[client.ObjectKey]bool
}

// +kubebuilder:rbac:groups=gateway.tailscale.com,resources=tailscaleendpoints,verbs=get;list;watch;create;delete
// +kubebuilder:rbac:groups=gateway.tailscale.com,resources=tailscalegateways/finalizers,verbs=update

// SetupWithManager has the manager call the reconciler.
func (r *Reconciler) SetupWithManager(mgr ctrl.Manager) error {
	return ctrl.NewControllerManagedBy(mgr).Named("tailnetendpoints").
		For(&v1alpha1.TailscaleGateway{}, builder.WithPredicates(predicate.GenerationChangedPredicate{})).
		Owns(&v1alpha1.TailscaleEndpoints{}, builder.WithPredicates(predicate.GenerationChangedPredicate{})).
		Complete(r)
}

// Reconcile makes the objects that there should be, and deletes those whose tailnet the TailscaleGateway no longer names.
// Those of a TailscaleGateway that is gone are the garbage collector's.
func (r *Reconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	var g v1alpha1.TailscaleGateway
	if err := r.Client.Get(ctx, req.NamespacedName, &g); err != nil || !g.DeletionTimestamp.IsZero() {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	var have v1alpha1.TailscaleEndpointsList
	if err := r.Client.List(ctx, &have, client.InNamespace(g.Namespace)); err != nil {
		return ctrl.Result{}, fmt.Errorf("list TailscaleEndpoints: %w", err)
	}
	there := map[string]*v1alpha1.TailscaleEndpoints{}
	for i := range have.Items {
		there[have.Items[i].Name] = &have.Items[i]
	}
	wanted := map[string]bool{}
	var errs []error
	for _, want := range Objects(&g) {
		wanted[want.Name] = true
		errs = append(errs, r.ensure(ctx, &g, there[want.Name], want))
	}
	for name, o := range there {
		if mine(&g, o) && !wanted[name] && o.DeletionTimestamp.IsZero() {
			if err := r.Client.Delete(ctx, o, client.Preconditions{UID: &o.UID}); client.IgnoreNotFound(err) != nil {
				errs = append(errs, fmt.Errorf("delete TailscaleEndpoints %s: %w", name, err))
			}
		}
	}
	return ctrl.Result{}, errors.Join(errs...)
}

func (r *Reconciler) ensure(ctx context.Context, g *v1alpha1.TailscaleGateway, have, want *v1alpha1.TailscaleEndpoints) error {
	if have != nil {
		r.tell(g, have)
		if !mine(g, have) || have.Spec.Tailnet == want.Spec.Tailnet {
			return nil
		}
		// The name stands for another tailnet now, and what is listed there is nothing of this one.
		if err := r.Client.Delete(ctx, have, client.Preconditions{UID: &have.UID}); client.IgnoreNotFound(err) != nil {
			return fmt.Errorf("delete TailscaleEndpoints %s: %w", have.Name, err)
		}
	}
	if err := r.Client.Create(ctx, want); err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("create TailscaleEndpoints %s: %w", want.Name, err)
	}
	return nil
}

// tell tells the TailscaleGateway's users once of an object that is in the way.
func (r *Reconciler) tell(g *v1alpha1.TailscaleGateway, have *v1alpha1.TailscaleEndpoints) {
	key := client.ObjectKeyFromObject(have)
	if mine(g, have) {
		delete(r.told, key)
		return
	}
	if r.told[key] || r.Record == nil {
		return
	}
	if r.told == nil {
		r.told = map[client.ObjectKey]bool{}
	}
	r.told[key] = true
	r.Record(g, ReasonConflict, fmt.Sprintf("TailscaleEndpoints %s is somebody else's and left alone: none is made for this tailnet", have.Name))
}

// mine reports whether an object was made for the TailscaleGateway.
func mine(g *v1alpha1.TailscaleGateway, o *v1alpha1.TailscaleEndpoints) bool {
	return o.Labels[labelManagedBy] == manager && metav1.IsControlledBy(o, g)
}

// Objects returns what a TailscaleGateway gets, as it is made.
func Objects(g *v1alpha1.TailscaleGateway) []*v1alpha1.TailscaleEndpoints {
	var out []*v1alpha1.TailscaleEndpoints
	for _, t := range g.Spec.Tailnets {
		out = append(out, &v1alpha1.TailscaleEndpoints{
			ObjectMeta: metav1.ObjectMeta{
				Namespace: g.Namespace, Name: vip.Label(g.Name, t.Name), Labels: map[string]string{labelManagedBy: manager},
				OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(g, v1alpha1.GroupVersion.WithKind(v1alpha1.KindTailscaleGateway))},
			},
			Spec: v1alpha1.TailscaleEndpointsSpec{
				Tailnet: t.TailscaleTailnetRef.Name,
				Ports:   []v1alpha1.PortMapping{{Name: "http", Port: 80, Protocol: v1alpha1.TransportTCP}},
				AutoDiscovery: &v1alpha1.EndpointAutoDiscovery{
					SyncInterval:     &metav1.Duration{Duration: syncInterval},
					TagSelectors:     []v1alpha1.TagSelector{{Tag: v1alpha1.TagEndpoint, Operator: v1alpha1.TagExists}},
					ServiceDiscovery: &v1alpha1.VIPServiceDiscoveryConfig{Enabled: new(true), ServiceTags: []v1alpha1.Tag{v1alpha1.TagEndpoint}},
				},
			},
		})
	}
	return out
}
