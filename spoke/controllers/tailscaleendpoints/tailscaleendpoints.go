// Package tailscaleendpoints tells the spoke of the TailscaleEndpoints of the local cluster, looks up the names of
// endpoints that are outside of the tailnet, and says in the objects' status what came of them.
package tailscaleendpoints

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"github.com/tailgate-project/tailgate/api/v1alpha1"
	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/federation/discovery"
	"github.com/tailgate-project/tailgate/spoke"
)

const (
	// lookupInterval is between two looks at the name of an endpoint outside of the tailnet, lookupTimeout bounds one.
	lookupInterval = 30 * time.Second
	lookupTimeout  = 5 * time.Second
)

// Spoke is told of the backends, and tells how they are.
type Spoke interface {
	SetBackend(ctx context.Context, b spoke.Backend) error
	RemoveBackend(ctx context.Context, name spoke.Name) error
	SetExternal(ctx context.Context, svc spoke.Service) error
	RemoveExternal(ctx context.Context, name spoke.Name) error
	Backends(ctx context.Context) ([]spoke.BackendStatus, error)
	Status(ctx context.Context) (spoke.Status, error)
}

// Reconciler acts on TailscaleEndpoints objects.
type Reconciler struct {
	Client client.Client
	Spoke  Spoke
	// Changes brings an event for each object whose status may have changed.
	Changes <-chan event.GenericEvent
	// Lookup returns the addresses of a name, as [net.Resolver.LookupNetIP] does.
	Lookup func(ctx context.Context, network, host string) ([]netip.Addr, error)
	// Discover asks what a TailscaleTailnet has, at most so old. It returns [ErrNoTailnet], wrapped, if there is none.
	Discover func(ctx context.Context, tailnet string, q discovery.Query, maxAge time.Duration) (Found, error)
	// Now is the clock, time.Now by default.
	Now func() time.Time

	mu sync.Mutex
	// inventories are what was discovered for each object.
	inventories map[types.NamespacedName]discovered
	// outside are the endpoints outside of the tailnet of each object. The inner maps are not changed any more.
	outside map[types.NamespacedName]map[string]lookup
}

// lookup is what is known of an endpoint outside of the tailnet.
type lookup struct {
	target target
	addrs  []netip.Addr
	// err is of the last look, whose time is at. Addresses that were found before it stay.
	err error
	at  time.Time
}

// +kubebuilder:rbac:groups=gateway.tailscale.com,resources=tailscaleendpoints,verbs=get;list;watch
// +kubebuilder:rbac:groups=gateway.tailscale.com,resources=tailscaleendpoints/status,verbs=patch

// SetupWithManager has the manager call the reconciler.
func (r *Reconciler) SetupWithManager(mgr ctrl.Manager) error {
	return ctrl.NewControllerManagedBy(mgr).Named("tailscaleendpoints").
		For(&v1alpha1.TailscaleEndpoints{}, builder.WithPredicates(predicate.GenerationChangedPredicate{})).
		Watches(&v1alpha1.TailscaleGateway{}, handler.EnqueueRequestsFromMapFunc(r.all), builder.WithPredicates(predicate.GenerationChangedPredicate{})).
		WatchesRawSource(source.Channel(r.Changes, &handler.EnqueueRequestForObject{})).
		Complete(r)
}

// all returns all objects: the tailnets that the cluster joins may have changed.
func (r *Reconciler) all(ctx context.Context, _ client.Object) []reconcile.Request {
	var list v1alpha1.TailscaleEndpointsList
	if err := r.Client.List(ctx, &list); err != nil {
		ctrl.LoggerFrom(ctx).Error(err, "list TailscaleEndpoints")
		return nil
	}
	var out []reconcile.Request
	for i := range list.Items {
		out = append(out, reconcile.Request{NamespacedName: client.ObjectKeyFromObject(&list.Items[i])})
	}
	return out
}

// Reconcile tells the spoke of the object, and writes its status.
func (r *Reconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	var o v1alpha1.TailscaleEndpoints
	err := r.Client.Get(ctx, req.NamespacedName, &o)
	if apierrors.IsNotFound(err) || err == nil && !o.DeletionTimestamp.IsZero() {
		return ctrl.Result{}, r.remove(ctx, req.NamespacedName)
	}
	if err != nil {
		return ctrl.Result{}, fmt.Errorf("get TailscaleEndpoints: %w", err)
	}
	verdict, again, err := r.set(ctx, &o)
	if err != nil {
		return ctrl.Result{}, err
	}
	next, err := r.status(ctx, &o, verdict)
	if err != nil {
		return ctrl.Result{}, err
	}
	if equality.Semantic.DeepEqual(o.Status, next) {
		return ctrl.Result{RequeueAfter: again}, nil
	}
	before := o.DeepCopy()
	o.Status = next
	if err := r.Client.Status().Patch(ctx, &o, client.MergeFrom(before)); client.IgnoreNotFound(err) != nil {
		return ctrl.Result{}, fmt.Errorf("write the status of the TailscaleEndpoints: %w", err)
	}
	return ctrl.Result{RequeueAfter: again}, nil
}

// Set tells the spoke of the object without touching its status, for a start at which the spoke has to know all there
// is.
func (r *Reconciler) Set(ctx context.Context, o *v1alpha1.TailscaleEndpoints) error {
	_, _, err := r.set(ctx, o)
	return err
}

func (r *Reconciler) remove(ctx context.Context, name types.NamespacedName) error {
	for endpoint := range r.known(name) {
		if err := r.Spoke.RemoveExternal(ctx, spoke.Name{Namespace: name.Namespace, Name: endpoint}); err != nil {
			return err
		}
	}
	r.keep(name, nil)
	r.keepFound(name, nil)
	return r.Spoke.RemoveBackend(ctx, spoke.Name{Namespace: name.Namespace, Name: name.Name})
}

// verdict is what can be said of an object as it stands.
type verdict struct {
	// reason and message say why none of it can be used; empty if it can.
	reason, message string
	// problems are those of single endpoints.
	problems map[string]string
	outside  map[string]lookup
	// discovered are the endpoints that were, by name; discovery is what came of it, nil where none was asked for.
	discovered map[string]origin
	discovery  *discovered
	backend    spoke.Backend
}

// set tells the spoke what the object asks for, and returns after how long names have to be looked up again.
func (r *Reconciler) set(ctx context.Context, o *v1alpha1.TailscaleEndpoints) (verdict, time.Duration, error) {
	name := client.ObjectKeyFromObject(o)
	joined, err := r.joins(ctx, o.Spec.Tailnet)
	if err != nil {
		return verdict{}, 0, err
	}
	if !joined {
		return verdict{reason: v1alpha1.ReasonTailnetNotFound, message: fmt.Sprintf(
			"no TailscaleGateway of this cluster joins the tailnet %q: add it to spec.tailnets of one, or correct spec.tailnet", o.Spec.Tailnet)}, 0, r.remove(ctx, name)
	}
	backend, targets, problems := plan(o)
	if targets, err = r.unclaimed(ctx, o, targets, problems); err != nil {
		return verdict{}, 0, err
	}
	again, err := r.look(ctx, name, targets)
	if err != nil {
		return verdict{}, 0, err
	}
	v := verdict{problems: problems, outside: r.known(name)}
	if _, wanted := queryOf(o); wanted {
		d, next := r.discover(ctx, o)
		v.discovery, v.discovered = &d, planDiscovered(o, d.found.Inventory, &backend)
		again = sooner(again, next)
	}
	v.backend = backend
	return v, again, r.Spoke.SetBackend(ctx, backend)
}

// sooner returns the shorter of two times to wait, of which 0 is for ever.
func sooner(a, b time.Duration) time.Duration {
	if a == 0 || b == 0 {
		return max(a, b)
	}
	return min(a, b)
}

// unclaimed returns the targets that have their name for themselves, and notes what is wrong with the others: of the objects
// that export an endpoint of the same name the oldest counts, and a Service comes before all.
func (r *Reconciler) unclaimed(ctx context.Context, o *v1alpha1.TailscaleEndpoints, targets []target, problems map[string]string) ([]target, error) {
	if len(targets) == 0 {
		return nil, nil
	}
	var list v1alpha1.TailscaleEndpointsList
	if err := r.Client.List(ctx, &list, client.InNamespace(o.Namespace)); err != nil {
		return nil, fmt.Errorf("list TailscaleEndpoints: %w", err)
	}
	var out []target
	for _, t := range targets {
		i := slices.IndexFunc(list.Items, func(other v1alpha1.TailscaleEndpoints) bool { return older(&other, o) && exports(&other, t.Endpoint) })
		if i >= 0 {
			problems[t.Endpoint] = fmt.Sprintf("the older TailscaleEndpoints %q exports an endpoint of this name: give this one another", list.Items[i].Name)
			continue
		}
		err := r.Client.Get(ctx, types.NamespacedName{Namespace: o.Namespace, Name: t.Endpoint}, &corev1.Service{})
		switch {
		case err == nil:
			problems[t.Endpoint] = "there is a Service of this name, which is used instead: give the endpoint another"
		case !apierrors.IsNotFound(err):
			return nil, fmt.Errorf("get Service: %w", err)
		default:
			out = append(out, t)
		}
	}
	return out, nil
}

// older reports whether a comes before b where both want the same.
func older(a, b *v1alpha1.TailscaleEndpoints) bool {
	return a.DeletionTimestamp.IsZero() && cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), cmp.Compare(a.Name, b.Name)) < 0
}

func exports(o *v1alpha1.TailscaleEndpoints, endpoint string) bool {
	return slices.ContainsFunc(o.Spec.Endpoints, func(e v1alpha1.TailscaleEndpoint) bool { return e.Name == endpoint && e.ExternalTarget != "" })
}

// joins reports whether a TailscaleGateway of the cluster joins the tailnet.
func (r *Reconciler) joins(ctx context.Context, tailnet string) (bool, error) {
	var list v1alpha1.TailscaleGatewayList
	if err := r.Client.List(ctx, &list); err != nil {
		return false, fmt.Errorf("list TailscaleGateways: %w", err)
	}
	return slices.ContainsFunc(list.Items, func(g v1alpha1.TailscaleGateway) bool {
		return g.DeletionTimestamp.IsZero() && slices.ContainsFunc(g.Spec.Tailnets, func(t v1alpha1.TailnetConfig) bool {
			return t.TailscaleTailnetRef.Name == tailnet
		})
	}), nil
}

// known returns what is known of an object's endpoints outside of the tailnet; keep replaces it.
func (r *Reconciler) known(name types.NamespacedName) map[string]lookup {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.outside[name]
}

func (r *Reconciler) keep(name types.NamespacedName, next map[string]lookup) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.outside == nil {
		r.outside = map[types.NamespacedName]map[string]lookup{}
	}
	r.outside[name] = next
	if len(next) == 0 {
		delete(r.outside, name)
	}
}

func (r *Reconciler) now() time.Time {
	if r.Now != nil {
		return r.Now()
	}
	return time.Now()
}

// look looks up the endpoints outside of the tailnet whose time has come, and tells the spoke of all of them.
func (r *Reconciler) look(ctx context.Context, name types.NamespacedName, targets []target) (again time.Duration, err error) {
	old, next := r.known(name), map[string]lookup{}
	for _, t := range targets {
		l := old[t.Endpoint]
		if l.target != t {
			l = lookup{target: t}
		}
		if now := r.now(); l.at.IsZero() || now.Sub(l.at) >= lookupInterval {
			l = l.again(ctx, r.Lookup, now)
		}
		next[t.Endpoint] = l
		again = lookupInterval
		if err := r.Spoke.SetExternal(ctx, external(name.Namespace, t, l.addrs)); err != nil {
			return 0, err
		}
	}
	for endpoint := range old {
		if _, ok := next[endpoint]; ok {
			continue
		}
		if err := r.Spoke.RemoveExternal(ctx, spoke.Name{Namespace: name.Namespace, Name: endpoint}); err != nil {
			return 0, err
		}
	}
	r.keep(name, next)
	return again, nil
}

// again looks the name up. What was found before stays where nothing is found now: a name server that is away is no
// reason to stop.
func (l lookup) again(ctx context.Context, find func(ctx context.Context, network, host string) ([]netip.Addr, error), now time.Time) lookup {
	l.at = now
	if addr, err := netip.ParseAddr(l.target.Host); err == nil {
		l.addrs, l.err = []netip.Addr{addr}, nil
		return l
	}
	ctx, cancel := context.WithTimeout(ctx, lookupTimeout)
	defer cancel()
	addrs, err := find(ctx, "ip", l.target.Host)
	if err == nil && len(addrs) == 0 {
		err = fmt.Errorf("%s has no address", l.target.Host)
	}
	if l.err = err; err == nil {
		l.addrs = slices.SortedFunc(maps.Keys(set(addrs)), netip.Addr.Compare)
	}
	return l
}

func set(addrs []netip.Addr) map[netip.Addr]bool {
	out := map[netip.Addr]bool{}
	for _, a := range addrs {
		out[a.Unmap()] = true
	}
	return out
}

// status returns the status that the object should have.
func (r *Reconciler) status(ctx context.Context, o *v1alpha1.TailscaleEndpoints, v verdict) (v1alpha1.TailscaleEndpointsStatus, error) {
	all, err := r.Spoke.Backends(ctx)
	if err != nil {
		return v1alpha1.TailscaleEndpointsStatus{}, err
	}
	now, err := r.Spoke.Status(ctx)
	if err != nil {
		return v1alpha1.TailscaleEndpointsStatus{}, err
	}
	known := map[string]spoke.BackendEndpointStatus{}
	for _, b := range all {
		if b.Name == (spoke.Name{Namespace: o.Namespace, Name: o.Name}) {
			for _, e := range b.Endpoints {
				known[e.Name] = e
			}
		}
	}
	return judge(o, v, known, vipsOf(now), now.EgressReady), nil
}

// vipsOf returns the address of each of the cluster's own VIPs.
func vipsOf(now spoke.Status) map[federation.ServiceID]netip.Addr {
	out := map[federation.ServiceID]netip.Addr{}
	for _, v := range now.VIPs {
		if len(v.Addrs) > 0 {
			out[v.Owner.Service] = v.Addrs[0]
		}
	}
	return out
}
