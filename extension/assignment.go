package extension

import (
	"cmp"
	"slices"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/tailgate-project/tailgate/federation"
)

// place is where an endpoint stands in Envoy's load balancing: one group for each.
type place struct {
	priority uint32
	locality federation.Locality
	cluster  federation.ClusterID
}

func (p place) compare(o place) int {
	return cmp.Or(cmp.Compare(p.priority, o.priority), cmp.Compare(p.locality.Region, o.locality.Region),
		cmp.Compare(p.locality.Zone, o.locality.Zone), cmp.Compare(p.cluster, o.cluster))
}

// loadAssignment returns Envoy's form of an assignment. The same endpoints in another order give the same bytes.
// Priorities without an endpoint are closed up, because Envoy wants none; invalid addresses are left out.
func loadAssignment(name string, a Assignment) *endpointv3.ClusterLoadAssignment {
	es := slices.DeleteFunc(slices.Clone(a.Endpoints), func(e Endpoint) bool { return !e.Addr.IsValid() || e.Addr.Port() == 0 })
	at := func(e Endpoint) place { return place{e.Priority, e.Locality, e.Cluster} }
	slices.SortFunc(es, func(a, b Endpoint) int {
		return cmp.Or(at(a).compare(at(b)), a.Addr.Compare(b.Addr), cmp.Compare(a.Health, b.Health), cmp.Compare(b.Weight, a.Weight))
	})
	es = slices.CompactFunc(es, func(a, b Endpoint) bool { return at(a) == at(b) && a.Addr == b.Addr })

	out := &endpointv3.ClusterLoadAssignment{ClusterName: name}
	priority := uint32(0)
	for i, e := range es {
		if i > 0 && e.Priority != es[i-1].Priority {
			priority++
		}
		if i == 0 || at(e) != at(es[i-1]) {
			out.Endpoints = append(out.Endpoints, &endpointv3.LocalityLbEndpoints{
				Priority: priority, LoadBalancingWeight: wrapperspb.UInt32(0),
				Locality: &corev3.Locality{Region: e.Locality.Region, Zone: e.Locality.Zone, SubZone: string(e.Cluster)},
			})
		}
		group := out.Endpoints[len(out.Endpoints)-1]
		weight := max(e.Weight, 1)
		// Where a user's policy turns on weights of localities, one without a weight would get nothing.
		group.LoadBalancingWeight.Value += weight
		group.LbEndpoints = append(group.LbEndpoints, lbEndpoint(e, weight))
	}
	return out
}

func lbEndpoint(e Endpoint, weight uint32) *endpointv3.LbEndpoint {
	return &endpointv3.LbEndpoint{
		HealthStatus:        healthStatus(e.Health),
		LoadBalancingWeight: wrapperspb.UInt32(weight),
		HostIdentifier: &endpointv3.LbEndpoint_Endpoint{Endpoint: &endpointv3.Endpoint{Address: &corev3.Address{
			Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
				Address: e.Addr.Addr().String(), PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: uint32(e.Addr.Port())},
			}},
		}}},
	}
}

func healthStatus(h federation.Health) corev3.HealthStatus {
	switch h {
	case federation.Healthy:
		return corev3.HealthStatus_HEALTHY
	case federation.Degraded:
		return corev3.HealthStatus_DEGRADED
	default:
		return corev3.HealthStatus_UNHEALTHY
	}
}
