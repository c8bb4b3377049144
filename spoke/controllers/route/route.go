// Package route tells the spoke which rules of the local cluster's routes send to TailscaleEndpoints.
//
// Envoy Gateway hands the objects over to the extension server, but neither the port nor the weight that a rule names,
// and rules with several backends cannot be served without them.
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

	"github.com/tailgate-project/tailgate/api/v1alpha1"
	"github.com/tailgate-project/tailgate/spoke"
)

// The kinds of routes that carry requests.
const (
	KindHTTPRoute = "HTTPRoute"
	KindGRPCRoute = "GRPCRoute"
)

// Spoke is told of the rules.
type Spoke interface {
	// SetRules replaces all rules. They are sorted, and whoever is told must not change them.
	SetRules(ctx context.Context, rules []spoke.Rule) error
}

// Reconciler tells the spoke of all rules whenever they are others than before.
type Reconciler struct {
	Client client.Reader
	Spoke  Spoke

	kinds []kind

	// mu is held while the spoke is told, so that what it hears last is what was read last.
	mu   sync.Mutex
	told bool
	last []spoke.Rule
}

// kind is a kind of routes that the cluster has.
type kind struct {
	name string
	// rules lists the rules of all routes of the kind.
	rules func(context.Context, client.Reader) ([]spoke.Rule, error)
}

// +kubebuilder:rbac:groups=gateway.networking.k8s.io,resources=httproutes;grpcroutes,verbs=get;list;watch

// SetupWithManager has the manager call the reconciler for those kinds of routes that the cluster has at this moment.
func (r *Reconciler) SetupWithManager(mgr ctrl.Manager) error {
	b := ctrl.NewControllerManagedBy(mgr).Named("route")
	// All events are one: the whole set is read again, and that once for however many events wait.
	whole := handler.EnqueueRequestsFromMapFunc(func(context.Context, client.Object) []reconcile.Request {
		return []reconcile.Request{{NamespacedName: types.NamespacedName{Name: "all"}}}
	})
	r.kinds = nil
	for _, k := range []struct {
		kind
		object client.Object
	}{
		{kind{KindHTTPRoute, httpRules}, &gatewayv1.HTTPRoute{}},
		{kind{KindGRPCRoute, grpcRules}, &gatewayv1.GRPCRoute{}},
	} {
		_, err := mgr.GetRESTMapper().RESTMapping(schema.GroupKind{Group: gatewayv1.GroupName, Kind: k.name}, gatewayv1.GroupVersion.Version)
		if meta.IsNoMatchError(err) {
			mgr.GetLogger().Info("the cluster has no such kind; when its CRD is there, restart the spoke", "kind", k.name)
			continue
		}
		if err != nil {
			return fmt.Errorf("ask the API server for %s: %w", k.name, err)
		}
		r.kinds = append(r.kinds, k.kind)
		b = b.Watches(k.object, whole, builder.WithPredicates(predicate.GenerationChangedPredicate{}))
	}
	if len(r.kinds) == 0 {
		return nil
	}
	return b.Complete(r)
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
	r.told, r.last = true, rules
	return nil
}

func httpRules(ctx context.Context, c client.Reader) ([]spoke.Rule, error) {
	var list gatewayv1.HTTPRouteList
	if err := c.List(ctx, &list, client.UnsafeDisableDeepCopy); err != nil { // they are only read
		return nil, fmt.Errorf("list HTTPRoutes: %w", err)
	}
	var out []spoke.Rule
	for i := range list.Items {
		o := &list.Items[i]
		for index, rule := range o.Spec.Rules {
			refs := make([]gatewayv1.BackendRef, 0, len(rule.BackendRefs))
			for _, ref := range rule.BackendRefs {
				refs = append(refs, ref.BackendRef)
			}
			out = appendRule(out, spoke.Rule{Kind: KindHTTPRoute, Namespace: o.Namespace, Name: o.Name, Index: index}, refs)
		}
	}
	return out, nil
}

func grpcRules(ctx context.Context, c client.Reader) ([]spoke.Rule, error) {
	var list gatewayv1.GRPCRouteList
	if err := c.List(ctx, &list, client.UnsafeDisableDeepCopy); err != nil {
		return nil, fmt.Errorf("list GRPCRoutes: %w", err)
	}
	var out []spoke.Rule
	for i := range list.Items {
		o := &list.Items[i]
		for index, rule := range o.Spec.Rules {
			refs := make([]gatewayv1.BackendRef, 0, len(rule.BackendRefs))
			for _, ref := range rule.BackendRefs {
				refs = append(refs, ref.BackendRef)
			}
			out = appendRule(out, spoke.Rule{Kind: KindGRPCRoute, Namespace: o.Namespace, Name: o.Name, Index: index}, refs)
		}
	}
	return out, nil
}

// appendRule appends the rule with its backends if a TailscaleEndpoints is among them.
func appendRule(all []spoke.Rule, rule spoke.Rule, refs []gatewayv1.BackendRef) []spoke.Rule {
	custom := false
	for _, ref := range refs {
		b := spoke.RuleBackend{Custom: isCustom(ref), Namespace: rule.Namespace, Name: string(ref.Name), Weight: 1}
		if ref.Namespace != nil {
			b.Namespace = string(*ref.Namespace)
		}
		if ref.Port != nil {
			b.Port = uint16(*ref.Port)
		}
		if ref.Weight != nil {
			b.Weight = uint32(max(*ref.Weight, 0))
		}
		custom = custom || b.Custom
		rule.Backends = append(rule.Backends, b)
	}
	if !custom {
		return all
	}
	return append(all, rule)
}

func isCustom(ref gatewayv1.BackendRef) bool {
	return ref.Group != nil && *ref.Group == v1alpha1.GroupName && ref.Kind != nil && *ref.Kind == v1alpha1.KindTailscaleEndpoints
}
