// Package vipservice keeps a Service in the cluster for each VIP that the cluster has or refers to. kubectl shows what VIPs
// there are and where they lead, and pods reach the VIPs of other clusters by name, through the egress proxies.
//
// The Services have type LoadBalancer and a class of their own: the load balancer is the tailnet, and the VIP stands where
// kubectl shows external addresses. kube-proxy is told to leave that address alone (ipMode Proxy). Endpoints are the
// reconciler's too, as the Services have no selector.
package vipservice

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"github.com/tailgate-project/tailgate/api/v1alpha1"
	"github.com/tailgate-project/tailgate/spoke"
)

// Spoke tells which VIPs there are.
type Spoke interface {
	VIPs(ctx context.Context) (spoke.VIPs, error)
}

// ReasonNameTaken is the reason of the Event that a TailscaleGateway gets where a Service of somebody else has the name of
// a VIP's.
const ReasonNameTaken = "VIPServiceNameTaken"

// staleRetry is how long a write that was made from an old object waits for the cache to have the new one.
const staleRetry = 100 * time.Millisecond

// Reconciler brings all Services of VIPs in line with the VIPs.
type Reconciler struct {
	Client client.Client
	Spoke  Spoke
	// Changes brings an event when the spoke may have other VIPs.
	Changes <-chan event.GenericEvent
	// Record tells users of a TailscaleGateway that something is wrong; nil tells nobody.
	Record func(o client.Object, reason, message string)

	// told are the Services of others that an Event has told of. Only one call of Reconcile runs at a time.
	told map[spoke.Name]bool
}

// +kubebuilder:rbac:groups="",resources=services,verbs=get;list;watch;create;update;delete
// +kubebuilder:rbac:groups="",resources=services/status,verbs=update
// +kubebuilder:rbac:groups=discovery.k8s.io,resources=endpointslices,verbs=get;list;watch;create;update;delete
// +kubebuilder:rbac:groups=gateway.tailscale.com,resources=tailscalegateways,verbs=get;list;watch

// all stands for all VIPs: names and owners of one depend on the others.
var all = reconcile.Request{NamespacedName: types.NamespacedName{Name: "all"}}

// SetupWithManager has the manager call the reconciler.
func (r *Reconciler) SetupWithManager(mgr ctrl.Manager) error {
	everything := handler.EnqueueRequestsFromMapFunc(func(context.Context, client.Object) []reconcile.Request { return []reconcile.Request{all} })
	own := builder.WithPredicates(predicate.NewPredicateFuncs(mine))
	return ctrl.NewControllerManagedBy(mgr).Named("vipservice").
		Watches(&corev1.Service{}, everything, own).
		Watches(&discoveryv1.EndpointSlice{}, everything, own).
		WatchesRawSource(source.Channel(r.Changes, everything)).
		Complete(r)
}

// mine reports whether an object was made by a spoke.
func mine(o client.Object) bool {
	switch o.(type) {
	case *corev1.Service:
		return o.GetLabels()[v1alpha1.LabelVIPService] == "true" && o.GetLabels()[labelManagedBy] == manager
	case *discoveryv1.EndpointSlice:
		return o.GetLabels()[discoveryv1.LabelManagedBy] == manager
	}
	return false
}

// Reconcile makes the Services and EndpointSlices that there should be, mends them, and deletes what is too much. What
// fails does not keep it from the rest.
func (r *Reconciler) Reconcile(ctx context.Context, _ ctrl.Request) (ctrl.Result, error) {
	vips, err := r.Spoke.VIPs(ctx)
	if err != nil {
		return ctrl.Result{}, err
	}
	if !vips.Known {
		return ctrl.Result{}, nil // an address in the cluster must not change because the spoke knows nothing yet
	}
	p := pass{Reconciler: r, taken: map[spoke.Name]bool{}}
	if err := p.read(ctx); err != nil {
		return ctrl.Result{}, err
	}
	var failed []error
	again := time.Duration(0)
	for _, o := range plan(vips) {
		err := p.ensure(ctx, o)
		if apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err) { // the cache was behind
			again, err = staleRetry, nil
		}
		failed = append(failed, err)
	}
	failed = append(failed, p.prune(ctx))
	r.told = p.taken
	return ctrl.Result{RequeueAfter: again}, errors.Join(failed...)
}

// pass is one call of Reconcile.
type pass struct {
	*Reconciler
	services map[spoke.Name]*corev1.Service
	slices   map[spoke.Name]*discoveryv1.EndpointSlice
	taken    map[spoke.Name]bool
}

// read takes in all that there is of ours.
func (p *pass) read(ctx context.Context) error {
	var services corev1.ServiceList
	if err := p.Client.List(ctx, &services, client.MatchingLabels{v1alpha1.LabelVIPService: "true", labelManagedBy: manager}); err != nil {
		return fmt.Errorf("list the Services of VIPs: %w", err)
	}
	var slicesOf discoveryv1.EndpointSliceList
	if err := p.Client.List(ctx, &slicesOf, client.MatchingLabels{discoveryv1.LabelManagedBy: manager}); err != nil {
		return fmt.Errorf("list the EndpointSlices of VIPs: %w", err)
	}
	p.services, p.slices = make(map[spoke.Name]*corev1.Service, len(services.Items)), make(map[spoke.Name]*discoveryv1.EndpointSlice, len(slicesOf.Items))
	for i := range services.Items {
		p.services[key(&services.Items[i])] = &services.Items[i]
	}
	for i := range slicesOf.Items {
		p.slices[key(&slicesOf.Items[i])] = &slicesOf.Items[i]
	}
	return nil
}

// ensure makes one Service with its slices what they should be, and takes them from what is too much.
func (p *pass) ensure(ctx context.Context, o object) error {
	name := key(o.service)
	have := p.services[name]
	delete(p.services, name)
	var owner v1alpha1.TailscaleGateway
	if err := p.Client.Get(ctx, types.NamespacedName{Namespace: o.owner.Namespace, Name: o.owner.Name}, &owner); err != nil {
		return client.IgnoreNotFound(err) // it was just deleted, and takes its Services with it
	}
	if have == nil {
		var other corev1.Service
		err := p.Client.Get(ctx, types.NamespacedName(name), &other)
		if err == nil && !mine(&other) {
			p.nameTaken(&owner, name)
			return nil
		}
		if client.IgnoreNotFound(err) != nil {
			return fmt.Errorf("get Service %s: %w", name, err)
		}
	}
	if err := controllerutil.SetControllerReference(&owner, o.service, p.Client.Scheme(), controllerutil.WithBlockOwnerDeletion(false)); err != nil {
		return fmt.Errorf("own Service %s: %w", name, err)
	}
	svc, err := p.ensureService(ctx, have, o.service)
	if err != nil {
		return err
	}
	var failed []error
	for _, s := range o.slices {
		if err := controllerutil.SetControllerReference(svc, s, p.Client.Scheme(), controllerutil.WithBlockOwnerDeletion(false)); err != nil {
			return fmt.Errorf("own EndpointSlice %s: %w", key(s), err)
		}
		failed = append(failed, p.ensureSlice(ctx, s))
	}
	return errors.Join(failed...)
}

// nameTaken tells the owner once that a Service of somebody else has the name.
func (p *pass) nameTaken(owner *v1alpha1.TailscaleGateway, name spoke.Name) {
	p.taken[name] = true
	if p.Record != nil && !p.told[name] {
		p.Record(owner, ReasonNameTaken, fmt.Sprintf("a VIP's Service would be called %q, and a Service of that name is there that Tailgate did not make: "+
			"it is left alone, and the VIP has no Service in this namespace; rename or delete yours to get it", name.Name))
	}
}

func (p *pass) ensureService(ctx context.Context, have, want *corev1.Service) (*corev1.Service, error) {
	status := want.Status
	switch next := merged(have, want); {
	case have == nil:
		want.Status = corev1.ServiceStatus{}
		if err := p.Client.Create(ctx, want); err != nil {
			return nil, fmt.Errorf("create Service %s: %w", key(want), err)
		}
		have = want
	case !equality.Semantic.DeepEqual(have, next):
		if err := p.Client.Update(ctx, next); err != nil {
			return nil, fmt.Errorf("update Service %s: %w", key(next), err)
		}
		have = next
	}
	if equality.Semantic.DeepEqual(have.Status.LoadBalancer.Ingress, status.LoadBalancer.Ingress) {
		return have, nil
	}
	next := have.DeepCopy()
	next.Status.LoadBalancer.Ingress = status.LoadBalancer.Ingress
	if err := p.Client.Status().Update(ctx, next); err != nil {
		return nil, fmt.Errorf("write the VIP of Service %s: %w", key(next), err)
	}
	return next, nil
}

// merged returns the Service with what it should have, and what others and the API server put there.
func merged(have, want *corev1.Service) *corev1.Service {
	if have == nil {
		return nil
	}
	next := have.DeepCopy()
	next.Labels, next.Annotations = overlay(next.Labels, want.Labels), overlay(next.Annotations, want.Annotations)
	for _, gone := range []string{v1alpha1.AnnotationUnreachable, v1alpha1.AnnotationTailscaleService} {
		if _, ok := want.Annotations[gone]; !ok {
			delete(next.Annotations, gone)
		}
	}
	if _, ok := want.Labels[v1alpha1.LabelCluster]; !ok {
		delete(next.Labels, v1alpha1.LabelCluster)
	}
	next.OwnerReferences = want.OwnerReferences
	next.Spec.Type, next.Spec.AllocateLoadBalancerNodePorts = want.Spec.Type, want.Spec.AllocateLoadBalancerNodePorts
	if !slices.EqualFunc(next.Spec.Ports, want.Spec.Ports, func(a, b corev1.ServicePort) bool {
		return a.Name == b.Name && a.Port == b.Port && a.Protocol == b.Protocol && equality.Semantic.DeepEqual(a.AppProtocol, b.AppProtocol)
	}) {
		next.Spec.Ports = want.Spec.Ports
	}
	return next
}

func overlay(have, want map[string]string) map[string]string {
	if have == nil {
		have = map[string]string{}
	}
	maps.Copy(have, want)
	return have
}

func (p *pass) ensureSlice(ctx context.Context, want *discoveryv1.EndpointSlice) error {
	have := p.slices[key(want)]
	delete(p.slices, key(want))
	if have == nil {
		if err := p.Client.Create(ctx, want); err != nil {
			return fmt.Errorf("create EndpointSlice %s: %w", key(want), err)
		}
		return nil
	}
	next := have.DeepCopy()
	next.Labels, next.OwnerReferences = overlay(next.Labels, want.Labels), want.OwnerReferences
	next.Endpoints, next.Ports = want.Endpoints, want.Ports
	if equality.Semantic.DeepEqual(have, next) {
		return nil
	}
	if err := p.Client.Update(ctx, next); err != nil {
		return fmt.Errorf("update EndpointSlice %s: %w", key(next), err)
	}
	return nil
}

// prune deletes what nobody wanted.
func (p *pass) prune(ctx context.Context) error {
	var failed []error
	remove := func(kind string, o client.Object) {
		uid := client.Preconditions{UID: new(o.GetUID())}
		if err := p.Client.Delete(ctx, o, uid); client.IgnoreNotFound(err) != nil {
			failed = append(failed, fmt.Errorf("delete %s %s: %w", kind, key(o), err))
		}
	}
	for _, n := range slices.SortedFunc(maps.Keys(p.slices), spoke.Name.Compare) {
		remove("EndpointSlice", p.slices[n])
	}
	for _, n := range slices.SortedFunc(maps.Keys(p.services), spoke.Name.Compare) {
		remove("Service", p.services[n])
	}
	return errors.Join(failed...)
}
