package route

import (
	"context"
	"slices"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/tailgate-project/tailgate/api/v1alpha1"
	"github.com/tailgate-project/tailgate/spoke"
)

// allGrants returns the cluster's ReferenceGrants, of which a cluster without that kind has none.
func (r *Reconciler) allGrants(ctx context.Context) ([]gatewayv1.ReferenceGrant, error) {
	if !r.grants {
		return nil, nil
	}
	var all gatewayv1.ReferenceGrantList
	if err := list(ctx, r.Client, kindReferenceGrant, &all); err != nil {
		return nil, err
	}
	return all.Items, nil
}

// deny marks the TailscaleEndpoints of other namespaces that no grant lets a route of connections or datagrams refer to.
func deny(rules []spoke.Rule, grants []gatewayv1.ReferenceGrant) {
	for _, rule := range rules {
		if rule.Kind == KindHTTPRoute || rule.Kind == KindGRPCRoute {
			continue
		}
		for i, b := range rule.Backends {
			rule.Backends[i].Denied = b.Custom && b.Namespace != rule.Namespace &&
				!slices.ContainsFunc(grants, func(g gatewayv1.ReferenceGrant) bool { return allows(g, rule, b) })
		}
	}
}

// allows reports whether a grant lets a rule refer to a TailscaleEndpoints.
func allows(g gatewayv1.ReferenceGrant, rule spoke.Rule, b spoke.RuleBackend) bool {
	return g.Namespace == b.Namespace &&
		slices.ContainsFunc(g.Spec.From, func(f gatewayv1.ReferenceGrantFrom) bool {
			return f.Group == gatewayv1.GroupName && string(f.Kind) == rule.Kind && string(f.Namespace) == rule.Namespace
		}) &&
		slices.ContainsFunc(g.Spec.To, func(t gatewayv1.ReferenceGrantTo) bool {
			return t.Group == v1alpha1.GroupName && t.Kind == v1alpha1.KindTailscaleEndpoints && (t.Name == nil || *t.Name == "" || string(*t.Name) == b.Name)
		})
}
