package upstream

import (
	"fmt"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/tailgate-project/tailgate/e2e-kind/standin/strict"
)

// Endpoints is a compiled ClusterLoadAssignment.
type Endpoints struct {
	Name             string
	Overprovisioning uint32 // percent
	Localities       []Locality
}

// Locality is one group of endpoints.
type Locality struct {
	Name      string // region/zone/sub-zone
	Priority  int
	Weight    uint32
	Endpoints []Endpoint
}

// Endpoint is one address.
type Endpoint struct {
	Address   string // host:port
	Hostname  string
	Weight    uint32
	Health    corev3.HealthStatus
	CheckHost string
	CheckPort uint32
	Unchecked bool // no active health checks
	match     *structpb.Struct
}

// CompileEndpoints compiles a load assignment; nil has no endpoints.
func CompileEndpoints(in *endpointv3.ClusterLoadAssignment) (*Endpoints, error) {
	e := &Endpoints{Name: in.GetClusterName(), Overprovisioning: 140}
	if in == nil {
		return e, nil
	}
	if err := strict.Check(in); err != nil {
		return nil, err
	}
	if f := in.GetPolicy().GetOverprovisioningFactor(); f != nil {
		e.Overprovisioning = f.GetValue()
	}
	priorities := 0
	for _, l := range in.GetEndpoints() {
		loc := Locality{
			Name:     l.GetLocality().GetRegion() + "/" + l.GetLocality().GetZone() + "/" + l.GetLocality().GetSubZone(),
			Priority: int(l.GetPriority()), Weight: l.GetLoadBalancingWeight().GetValue(),
		}
		priorities = max(priorities, loc.Priority+1)
		for _, lb := range l.GetLbEndpoints() {
			sa := lb.GetEndpoint().GetAddress().GetSocketAddress()
			if sa.GetProtocol() != corev3.SocketAddress_TCP {
				return nil, strict.Unsupported("envoy.config.core.v3.SocketAddress.protocol=" + sa.GetProtocol().String())
			}
			ep := Endpoint{
				Address: hostPort(sa), Hostname: lb.GetEndpoint().GetHostname(), Weight: 1, Health: lb.GetHealthStatus(),
				CheckHost: lb.GetEndpoint().GetHealthCheckConfig().GetHostname(),
				CheckPort: lb.GetEndpoint().GetHealthCheckConfig().GetPortValue(),
				Unchecked: lb.GetEndpoint().GetHealthCheckConfig().GetDisableActiveHealthCheck(),
				match:     lb.GetMetadata().GetFilterMetadata()["envoy.transport_socket_match"],
			}
			if w := lb.GetLoadBalancingWeight(); w != nil {
				ep.Weight = w.GetValue()
			}
			loc.Endpoints = append(loc.Endpoints, ep)
		}
		e.Localities = append(e.Localities, loc)
	}
	// Envoy's limit; it also keeps a wrong priority from allocating without bound.
	if priorities > 129 {
		return nil, fmt.Errorf("priority %d of %s is above 128", priorities-1, in.GetClusterName())
	}
	return e, nil
}
