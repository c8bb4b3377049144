// Package route tells the spoke which rules of the local cluster's routes send to TailscaleEndpoints.
//
// Envoy Gateway hands the objects over to the extension server, but neither the port nor the weight that a rule names,
// and rules with several backends cannot be served without them. Of TCPRoutes, TLSRoutes and UDPRoutes it does not even
// look at such backends, so that ReferenceGrants are read here as well.
package route

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"

	"github.com/go-logr/logr"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/tailgate-project/tailgate/spoke"
)

// The kinds of routes: of requests, and of connections and datagrams.
const (
	KindHTTPRoute = "HTTPRoute"
	KindGRPCRoute = "GRPCRoute"
	KindTCPRoute  = "TCPRoute"
	KindTLSRoute  = "TLSRoute"
	KindUDPRoute  = "UDPRoute"
)

const kindReferenceGrant = "ReferenceGrant"

// Spoke is told of the rules.
type Spoke interface {
	// SetRules replaces all rules. They are sorted, and whoever is told must not change them.
	SetRules(ctx context.Context, rules []spoke.Rule) error
}

// Reconciler tells the spoke of all rules whenever they are others than before.
type Reconciler struct {
	Client client.Reader
	Spoke  Spoke
	// Record tells a user of a route by an Event; nil tells nobody.
	Record func(client.Object, Event)

	kinds []kind
	// grants is set where the cluster has ReferenceGrants.
	grants bool

	// mu is held while the spoke is told, so that what it hears last is what was read last.
	mu   sync.Mutex
	told bool
	last []spoke.Rule
}

// +kubebuilder:rbac:groups=gateway.networking.k8s.io,resources=httproutes;grpcroutes;tcproutes;tlsroutes;udproutes,verbs=get;list;watch
// +kubebuilder:rbac:groups=gateway.networking.k8s.io,resources=referencegrants,verbs=get;list;watch

// SetupWithManager has the manager call the reconciler for those kinds of routes that the cluster has at this moment.
func (r *Reconciler) SetupWithManager(mgr ctrl.Manager) error {
	b := ctrl.NewControllerManagedBy(mgr).Named("route")
	// All events are one: the whole set is read again, and that once for however many events wait.
	whole := handler.EnqueueRequestsFromMapFunc(func(context.Context, client.Object) []reconcile.Request {
		return []reconcile.Request{{NamespacedName: types.NamespacedName{Name: "all"}}}
	})
	r.kinds, r.grants = nil, false
	for _, k := range kinds {
		there, err := serves(mgr, k.name)
		if err != nil {
			return err
		}
		if there {
			r.kinds = append(r.kinds, k)
			b = b.Watches(k.object, whole, builder.WithPredicates(predicate.GenerationChangedPredicate{}))
		}
	}
	if len(r.kinds) == 0 {
		return nil
	}
	there, err := serves(mgr, kindReferenceGrant)
	if err != nil {
		return err
	}
	if r.grants = there; there {
		b = b.Watches(&gatewayv1.ReferenceGrant{}, whole, builder.WithPredicates(predicate.GenerationChangedPredicate{}))
	}
	return b.Complete(r)
}

// serves reports whether the cluster has a kind of the Gateway API.
func serves(mgr ctrl.Manager, kind string) (bool, error) {
	_, err := mgr.GetRESTMapper().RESTMapping(schema.GroupKind{Group: gatewayv1.GroupName, Kind: kind}, gatewayv1.GroupVersion.Version)
	if meta.IsNoMatchError(err) {
		mgr.GetLogger().Info("the cluster has no such kind; when its CRD is there, restart the spoke", "kind", kind, "version", gatewayv1.GroupVersion.Version)
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("ask the API server for %s: %w", kind, err)
	}
	return true, nil
}

// Reconcile reads all routes and tells the spoke.
func (r *Reconciler) Reconcile(ctx context.Context, _ ctrl.Request) (ctrl.Result, error) {
	return ctrl.Result{}, r.Set(ctx)
}

// Set tells the spoke of the rules if they are others than before, or if it was never told.
func (r *Reconciler) Set(ctx context.Context) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	rules := []spoke.Rule{}
	for _, k := range r.kinds {
		more, err := k.rules(ctx, r.Client)
		if err != nil {
			return err
		}
		rules = append(rules, more...)
	}
	grants, err := r.allGrants(ctx)
	if err != nil {
		return err
	}
	deny(rules, grants)
	slices.SortFunc(rules, func(a, b spoke.Rule) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name), cmp.Compare(a.Index, b.Index))
	})
	if r.told && slices.EqualFunc(r.last, rules, spoke.Rule.Equal) {
		return nil
	}
	if err := r.Spoke.SetRules(ctx, rules); err != nil {
		return fmt.Errorf("tell the spoke of the routes: %w", err)
	}
	logr.FromContextOrDiscard(ctx).V(1).Info("rules with TailscaleEndpoints have changed", "rules", len(rules))
	before := r.last
	r.told, r.last = true, rules
	r.tell(ctx, before, rules)
	return nil
}
