package export

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tailgate-project/tailgate/api/v1alpha1"
	"github.com/tailgate-project/tailgate/federation"
)

// An endpoint of a TailscaleEndpoints that has an external target is exported as if it were a Service of its name: it is
// what gives something outside of the clusters a VIP.

// endpointsOf lists the TailscaleEndpoints in a namespace of a member, or all of them; one without the CRD has none.
func (c *Controller) endpointsOf(ctx context.Context, m member, namespace string) ([]v1alpha1.TailscaleEndpoints, error) {
	if !c.clusters.Serves(m.name, tailscaleEndpointsKind) {
		return nil, nil
	}
	var list v1alpha1.TailscaleEndpointsList
	if err := m.GetClient().List(ctx, &list, client.InNamespace(namespace), client.UnsafeDisableDeepCopy); err != nil {
		return nil, fmt.Errorf("list the TailscaleEndpoints: %w", err)
	}
	return list.Items, nil
}

// outsideNames returns the names under which endpoints of a TailscaleEndpoints are exported.
func outsideNames(set *v1alpha1.TailscaleEndpoints) []types.NamespacedName {
	var out []types.NamespacedName
	for i := range set.Spec.Endpoints {
		if e := &set.Spec.Endpoints[i]; e.ExternalTarget != "" {
			out = append(out, types.NamespacedName{Namespace: set.Namespace, Name: e.Name})
		}
	}
	return out
}

// planOutside returns what is exported under a name that no Service of the member has: the endpoint of the oldest
// TailscaleEndpoints that has one with an external target, if its tailnet is one that the member joins.
func planOutside(id federation.ClusterID, gateways []v1alpha1.TailscaleGateway, sets []v1alpha1.TailscaleEndpoints, name types.NamespacedName) (federation.Export, bool) {
	sets = slices.SortedFunc(slices.Values(sets), func(a, b v1alpha1.TailscaleEndpoints) int {
		return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), cmp.Compare(a.Name, b.Name))
	})
	for i := range sets {
		set := &sets[i]
		j := slices.IndexFunc(set.Spec.Endpoints, func(e v1alpha1.TailscaleEndpoint) bool { return e.Name == name.Name && e.ExternalTarget != "" })
		if j < 0 || set.Namespace != name.Namespace || !set.DeletionTimestamp.IsZero() {
			continue
		}
		tailnet, ok := joinedTailnet(gateways, set.Spec.Tailnet)
		if !ok {
			return federation.Export{}, false
		}
		e := &set.Spec.Endpoints[j]
		port := federation.Port{Port: uint16(e.Port), Protocol: federation.TCP, App: endpointProtocol(e.Protocol)}
		if e.Protocol == v1alpha1.EndpointUDP {
			port.Protocol = federation.UDP
		}
		return federation.Export{
			Key:     federation.ExportKey{Cluster: id, Service: federation.Service(name.Namespace, name.Name)},
			Tailnet: tailnet.Name, TailnetRef: set.Spec.Tailnet, Ports: []federation.Port{port}, Ready: 1, Desired: 1, Labels: set.Labels,
			Federated: set.Annotations[v1alpha1.AnnotationFederatedVIP] == "true",
		}, true
	}
	return federation.Export{}, false
}

// joinedTailnet returns the first tailnet by which the member joins a TailscaleTailnet.
func joinedTailnet(gateways []v1alpha1.TailscaleGateway, ref string) (v1alpha1.TailnetConfig, bool) {
	for _, g := range effective(gateways) {
		for _, t := range g.Spec.Tailnets {
			if t.TailscaleTailnetRef.Name == ref {
				return t, true
			}
		}
	}
	return v1alpha1.TailnetConfig{}, false
}

// endpointProtocol is what is spoken at an endpoint; HTTP where it does not say.
func endpointProtocol(p v1alpha1.EndpointProtocol) federation.AppProtocol {
	return federation.ParseAppProtocol(string(cmp.Or(p, v1alpha1.EndpointHTTP)))
}
