// Package exportevent tells users by Events on their own objects what becomes of what they export: that a VIP was given or
// withdrawn, that the hub refuses one, that clusters contradict each other, that an annotation says nothing.
//
// An Event tells of a change, once. What a spoke knew when it ended it has on its disk, and tells of what is different
// after a restart only; one that starts without it tells everything.
package exportevent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/tailgate-project/tailgate/api/v1alpha1"
	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/spoke"
)

// Spoke tells what the hub has said.
type Spoke interface {
	Status(ctx context.Context) (spoke.Status, error)
}

// untilBegun is how long what comes before [Reconciler.Begin] is put off.
const untilBegun = 100 * time.Millisecond

// Reconciler tells of each change once. It does nothing before Begin was called.
type Reconciler struct {
	Client client.Reader
	Spoke  Spoke
	// Changes brings an event when the hub may have said something else.
	Changes <-chan event.GenericEvent
	// Record writes an Event about an object.
	Record func(o client.Object, e Event)

	begun atomic.Bool
	// What was told. Begin writes it, and from then on Reconcile, of which one call runs at a time.
	exports  map[federation.ServiceID]facts
	services map[types.NamespacedName][]Event
}

// +kubebuilder:rbac:groups="",resources=services,verbs=get;list;watch
// +kubebuilder:rbac:groups=gateway.networking.k8s.io,resources=gateways,verbs=get;list;watch
// +kubebuilder:rbac:groups=gateway.tailscale.com,resources=tailscalegateways;tailscaleendpoints,verbs=get;list;watch
// +kubebuilder:rbac:groups=events.k8s.io,resources=events,verbs=create;patch

// SetupWithManager has the manager call the reconciler.
func (r *Reconciler) SetupWithManager(mgr ctrl.Manager) error {
	all := handler.EnqueueRequestsFromMapFunc(func(context.Context, client.Object) []reconcile.Request { return []reconcile.Request{{}} })
	return ctrl.NewControllerManagedBy(mgr).Named("exportevent").
		For(&corev1.Service{}).
		WatchesRawSource(source.Channel(r.Changes, all)).
		Complete(r)
}

// Begin notes what needs not be told because the spoke knew it when it ended. It is to be called once, when the caches are
// synced and before the hub is heard.
func (r *Reconciler) Begin(ctx context.Context) error {
	now, err := r.Spoke.Status(ctx)
	if err != nil {
		return err
	}
	r.exports, r.services = map[federation.ServiceID]facts{}, map[types.NamespacedName][]Event{}
	if now.Version > 0 {
		r.exports = read(now)
		var services corev1.ServiceList
		if err := r.Client.List(ctx, &services, client.UnsafeDisableDeepCopy); err != nil {
			return fmt.Errorf("list Services: %w", err)
		}
		for i := range services.Items {
			svc := &services.Items[i]
			if told := advice(svc); len(told) > 0 {
				r.services[client.ObjectKeyFromObject(svc)] = told
			}
		}
	}
	r.begun.Store(true)
	return nil
}

// Reconcile tells what is new of a Service or, for the empty request, of what the hub says of all exports.
func (r *Reconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	switch {
	case !r.begun.Load():
		return ctrl.Result{RequeueAfter: untilBegun}, nil
	case req.NamespacedName == types.NamespacedName{}:
		return ctrl.Result{}, r.tellExports(ctx)
	}
	return ctrl.Result{}, r.tellService(ctx, req.NamespacedName)
}

func (r *Reconciler) tellService(ctx context.Context, name types.NamespacedName) error {
	var svc corev1.Service
	if err := r.Client.Get(ctx, name, &svc); err != nil {
		delete(r.services, name)
		return client.IgnoreNotFound(err)
	}
	events := advice(&svc)
	for _, e := range without(events, r.services[name]) {
		r.Record(&svc, e)
	}
	if r.services[name] = events; len(events) == 0 {
		delete(r.services, name)
	}
	return nil
}

func (r *Reconciler) tellExports(ctx context.Context) error {
	now, err := r.Spoke.Status(ctx)
	if err != nil {
		return err
	}
	if now.Version == 0 {
		return nil // the hub has said nothing, which is not to say that there is nothing
	}
	next := read(now)
	ids := maps.Clone(next)
	maps.Copy(ids, r.exports)
	var failed []error
	for _, id := range slices.SortedFunc(maps.Keys(ids), federation.ServiceID.Compare) {
		was, is := r.exports[id], next[id]
		events := compare(was, is)
		if len(events) == 0 {
			continue
		}
		o, err := r.object(ctx, id, cmp.Or(is.tailnet, was.tailnet))
		if err != nil {
			failed = append(failed, err)
			next[id] = was // told the next time
			continue
		}
		for _, e := range events {
			if o.user != nil {
				e.Message = o.prefix + e.Message
				r.Record(o.user, e)
			}
		}
	}
	r.exports = next
	return errors.Join(failed...)
}

// target is the object that an Event is about, nil where there is none left.
type target struct {
	user client.Object
	// prefix names the export in messages where the object is not the export itself.
	prefix string
}

// object finds whom an Event about an export concerns: the Gateway of a listener; the Service, or the TailscaleEndpoints that
// stands in its place; and where that is gone, the TailscaleGateway that exported it.
func (r *Reconciler) object(ctx context.Context, id federation.ServiceID, tailnet string) (target, error) {
	var o client.Object = &corev1.Service{}
	t := target{}
	name := types.NamespacedName{Namespace: id.Namespace, Name: id.Name}
	if id.Kind == federation.KindListener {
		gateway, listener := id.Gateway()
		o, name.Name, t.prefix = &gatewayv1.Gateway{}, gateway, "listener "+listener+": "
	}
	err := r.Client.Get(ctx, name, o)
	if err == nil {
		t.user = o
		return t, nil
	}
	if !apierrors.IsNotFound(err) {
		return t, fmt.Errorf("get the exported %s: %w", id, err)
	}
	t.prefix = fmt.Sprintf("%s %s/%s: ", id.Kind, id.Namespace, id.Name)
	if id.Kind == federation.KindService {
		if t.user, err = r.outside(ctx, id); t.user != nil || err != nil {
			return t, err
		}
	}
	t.user, err = r.gateway(ctx, tailnet)
	return t, err
}

// outside returns the oldest TailscaleEndpoints that has an endpoint with an external target of the service's name.
func (r *Reconciler) outside(ctx context.Context, id federation.ServiceID) (client.Object, error) {
	var list v1alpha1.TailscaleEndpointsList
	if err := r.Client.List(ctx, &list, client.InNamespace(id.Namespace)); err != nil {
		return nil, fmt.Errorf("list TailscaleEndpoints: %w", err)
	}
	return oldest(list.Items, func(o *v1alpha1.TailscaleEndpoints) bool {
		return slices.ContainsFunc(o.Spec.Endpoints, func(e v1alpha1.TailscaleEndpoint) bool { return e.Name == id.Name && e.ExternalTarget != "" })
	}), nil
}

// gateway returns the oldest TailscaleGateway that calls a tailnet by the name.
func (r *Reconciler) gateway(ctx context.Context, tailnet string) (client.Object, error) {
	var list v1alpha1.TailscaleGatewayList
	if err := r.Client.List(ctx, &list); err != nil {
		return nil, fmt.Errorf("list TailscaleGateways: %w", err)
	}
	return oldest(list.Items, func(o *v1alpha1.TailscaleGateway) bool {
		return slices.ContainsFunc(o.Spec.Tailnets, func(t v1alpha1.TailnetConfig) bool { return t.Name == tailnet })
	}), nil
}

// oldest returns the oldest object of which something is true, nil if there is none.
func oldest[T any, P interface {
	*T
	client.Object
}](items []T, is func(P) bool) client.Object {
	var found client.Object
	for i := range items {
		o := P(&items[i])
		if !is(o) {
			continue
		}
		if found == nil || cmp.Or(
			o.GetCreationTimestamp().Compare(found.GetCreationTimestamp().Time),
			cmp.Compare(o.GetNamespace(), found.GetNamespace()), cmp.Compare(o.GetName(), found.GetName()),
		) < 0 {
			found = o
		}
	}
	return found
}
