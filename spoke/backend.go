package spoke

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/tailgate-project/tailgate/federation"
)

// Backend is a TailscaleEndpoints object as the loop needs it: endpoints that routes of this cluster may send to.
type Backend struct {
	Name Name
	// Tailnet is the TailscaleTailnet that the endpoints are in.
	Tailnet string
	// Endpoints are sorted by name.
	Endpoints []BackendEndpoint
}

// BackendEndpoint is one endpoint of a [Backend].
type BackendEndpoint struct {
	// Name is unique in the backend.
	Name string
	// Addr is the endpoint's address in the tailnet. Where it is not valid, Host is its name there.
	Addr netip.Addr
	Host string
	// Service stands in place of both: the endpoint is wherever the federation serves this service.
	Service federation.ServiceID
	// Port is what routes refer to, TargetPort the endpoint's own.
	Port, TargetPort uint16
	Protocol         federation.Protocol
	App              federation.AppProtocol
	// Weight is relative to the others of the same port. With 0 it is sent nothing.
	Weight uint32
	// Check says how it is asked whether it is well; nil for not at all.
	Check *HealthCheck
}

// HealthCheck says how and how often an endpoint is asked whether it is well, and how many answers in a row count.
type HealthCheck struct {
	Check              Check
	Interval, Timeout  time.Duration
	Healthy, Unhealthy int
}

func (h *HealthCheck) equal(o *HealthCheck) bool {
	if h == nil || o == nil {
		return h == o
	}
	return h.Check.equal(o.Check) && h.Interval == o.Interval && h.Timeout == o.Timeout && h.Healthy == o.Healthy && h.Unhealthy == o.Unhealthy
}

func (b Backend) equal(o Backend) bool {
	return b.Name == o.Name && b.Tailnet == o.Tailnet && slices.EqualFunc(b.Endpoints, o.Endpoints, func(x, y BackendEndpoint) bool {
		same := x.Check.equal(y.Check)
		x.Check, y.Check = nil, nil
		return same && x == y
	})
}

// BackendPort is a port of a backend that routes may refer to.
type BackendPort struct {
	Port uint16
	App  federation.AppProtocol
}

// RoutedBackend is a backend as routes and clusters need it.
type RoutedBackend struct {
	Name Name
	// Ports are those of TCP, and Datagrams those of UDP; sorted, each once.
	Ports     []BackendPort
	Datagrams []uint16
}

// routed returns the backend's ports that routes may refer to. Where endpoints speak different things on the same port, the
// first by name counts, for an Envoy cluster speaks one.
func (b Backend) routed() RoutedBackend {
	out := RoutedBackend{Name: b.Name}
	for _, e := range b.Endpoints {
		known := slices.ContainsFunc(out.Ports, func(p BackendPort) bool { return p.Port == e.Port })
		if e.Protocol == federation.TCP && !known {
			out.Ports = append(out.Ports, BackendPort{Port: e.Port, App: e.App})
		}
		if e.Protocol == federation.UDP && !slices.Contains(out.Datagrams, e.Port) {
			out.Datagrams = append(out.Datagrams, e.Port)
		}
	}
	slices.Sort(out.Datagrams)
	slices.SortFunc(out.Ports, func(a, b BackendPort) int { return cmp.Compare(a.Port, b.Port) })
	return out
}

func (b RoutedBackend) equal(o RoutedBackend) bool {
	return b.Name == o.Name && slices.Equal(b.Ports, o.Ports) && slices.Equal(b.Datagrams, o.Datagrams)
}

// KindEndpoint is the kind under which an endpoint of a backend has its egress port: namespace, and backend/endpoint.
// The federation knows nothing of it.
const KindEndpoint federation.Kind = "Endpoint"

// endpointID names an endpoint of a backend among what the egress proxies lead to.
func endpointID(backend Name, endpoint string) federation.ServiceID {
	return federation.ServiceID{Kind: KindEndpoint, Namespace: backend.Namespace, Name: backend.Name + "/" + endpoint}
}

// probeID names the probe of an endpoint.
func probeID(backend Name, endpoint string) string {
	return fmt.Sprintf("endpoint/%s/%s", backend, endpoint)
}

// EndpointHealth is what the checks of an endpoint say.
type EndpointHealth string

// The health of an endpoint.
const (
	// EndpointHealthy passes its check, EndpointUnhealthy does not. EndpointUnknown has not been asked often enough, and
	// is sent traffic. EndpointUnchecked is never asked.
	EndpointHealthy   EndpointHealth = "Healthy"
	EndpointUnhealthy EndpointHealth = "Unhealthy"
	EndpointUnknown   EndpointHealth = "Unknown"
	EndpointUnchecked EndpointHealth = "Disabled"
)

// BackendStatus is what is known of a backend's endpoints, in their order.
type BackendStatus struct {
	Name      Name
	Endpoints []BackendEndpointStatus
}

// BackendEndpointStatus is what is known of an endpoint.
type BackendEndpointStatus struct {
	Name   string
	Addr   netip.Addr
	Host   string
	Health EndpointHealth
	// Reason is that of the last failure, while the endpoint is unhealthy.
	Reason string
}
