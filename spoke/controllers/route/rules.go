package route

import (
	"context"
	"fmt"

	"sigs.k8s.io/controller-runtime/pkg/client"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/tailgate-project/tailgate/api/v1alpha1"
	"github.com/tailgate-project/tailgate/spoke"
)

// kind is a kind of routes.
type kind struct {
	name   string
	object client.Object
	// rules lists the rules of all routes of the kind that have TailscaleEndpoints as backends.
	rules func(context.Context, client.Reader) ([]spoke.Rule, error)
}

var kinds = []kind{
	{KindHTTPRoute, &gatewayv1.HTTPRoute{}, httpRules},
	{KindGRPCRoute, &gatewayv1.GRPCRoute{}, grpcRules},
	{KindTCPRoute, &gatewayv1.TCPRoute{}, tcpRules},
	{KindTLSRoute, &gatewayv1.TLSRoute{}, tlsRules},
	{KindUDPRoute, &gatewayv1.UDPRoute{}, udpRules},
}

// list reads all objects of a kind. They are only read, so that the cache need not copy them.
func list(ctx context.Context, c client.Reader, kind string, into client.ObjectList) error {
	if err := c.List(ctx, into, client.UnsafeDisableDeepCopy); err != nil {
		return fmt.Errorf("list %ss: %w", kind, err)
	}
	return nil
}

func httpRules(ctx context.Context, c client.Reader) ([]spoke.Rule, error) {
	var all gatewayv1.HTTPRouteList
	if err := list(ctx, c, KindHTTPRoute, &all); err != nil {
		return nil, err
	}
	var out []spoke.Rule
	for i := range all.Items {
		o := &all.Items[i]
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
	var all gatewayv1.GRPCRouteList
	if err := list(ctx, c, KindGRPCRoute, &all); err != nil {
		return nil, err
	}
	var out []spoke.Rule
	for i := range all.Items {
		o := &all.Items[i]
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

func tcpRules(ctx context.Context, c client.Reader) ([]spoke.Rule, error) {
	var all gatewayv1.TCPRouteList
	if err := list(ctx, c, KindTCPRoute, &all); err != nil {
		return nil, err
	}
	var out []spoke.Rule
	for i := range all.Items {
		o := &all.Items[i]
		for index, rule := range o.Spec.Rules {
			out = appendRule(out, spoke.Rule{Kind: KindTCPRoute, Namespace: o.Namespace, Name: o.Name, Index: index}, rule.BackendRefs)
		}
	}
	return out, nil
}

func tlsRules(ctx context.Context, c client.Reader) ([]spoke.Rule, error) {
	var all gatewayv1.TLSRouteList
	if err := list(ctx, c, KindTLSRoute, &all); err != nil {
		return nil, err
	}
	var out []spoke.Rule
	for i := range all.Items {
		o := &all.Items[i]
		// Envoy Gateway makes one of all rules of a TLSRoute, so that those without our backends matter, too.
		rules := make([]spoke.Rule, 0, len(o.Spec.Rules))
		ours := false
		for index, rule := range o.Spec.Rules {
			next, custom := ruleOf(spoke.Rule{Kind: KindTLSRoute, Namespace: o.Namespace, Name: o.Name, Index: index}, rule.BackendRefs)
			ours = ours || custom
			rules = append(rules, next)
		}
		if ours {
			out = append(out, rules...)
		}
	}
	return out, nil
}

func udpRules(ctx context.Context, c client.Reader) ([]spoke.Rule, error) {
	var all gatewayv1.UDPRouteList
	if err := list(ctx, c, KindUDPRoute, &all); err != nil {
		return nil, err
	}
	var out []spoke.Rule
	for i := range all.Items {
		o := &all.Items[i]
		for index, rule := range o.Spec.Rules {
			out = appendRule(out, spoke.Rule{Kind: KindUDPRoute, Namespace: o.Namespace, Name: o.Name, Index: index}, rule.BackendRefs)
		}
	}
	return out, nil
}

// appendRule appends the rule with its backends if a TailscaleEndpoints is among them.
func appendRule(all []spoke.Rule, rule spoke.Rule, refs []gatewayv1.BackendRef) []spoke.Rule {
	rule, custom := ruleOf(rule, refs)
	if !custom {
		return all
	}
	return append(all, rule)
}

// ruleOf returns the rule with its backends, and whether a TailscaleEndpoints is among them.
func ruleOf(rule spoke.Rule, refs []gatewayv1.BackendRef) (spoke.Rule, bool) {
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
	return rule, custom
}

func isCustom(ref gatewayv1.BackendRef) bool {
	return ref.Group != nil && *ref.Group == v1alpha1.GroupName && ref.Kind != nil && *ref.Kind == v1alpha1.KindTailscaleEndpoints
}
