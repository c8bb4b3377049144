package spoke

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/federation/probes"
)

// Name names an object of the local cluster.
type Name struct{ Namespace, Name string }

// String returns namespace/name.
func (n Name) String() string { return n.Namespace + "/" + n.Name }

// Compare orders names by namespace, then name.
func (n Name) Compare(o Name) int {
	return cmp.Or(cmp.Compare(n.Namespace, o.Namespace), cmp.Compare(n.Name, o.Name))
}

// Service is a Service of the local cluster with its ready endpoints.
type Service struct {
	Name Name
	// Gateway is the Gateway whose Envoy this is the Service of; zero for all other Services.
	Gateway Name
	// Proxies are the proxies whose headless Service this is; zero for all other Services.
	Proxies ProxySet
	Ports   []ServicePort
}

// ServicePort is a port of a [Service].
type ServicePort struct {
	Port federation.Port
	// Ready are the endpoints' own addresses and ports, sorted.
	Ready []netip.AddrPort
}

// ready returns the ready endpoints behind a port.
func (s Service) ready(port uint16, protocol federation.Protocol) []netip.AddrPort {
	for _, p := range s.Ports {
		if p.Port.Port == port && p.Port.Protocol == protocol {
			return p.Ready
		}
	}
	return nil
}

func (s Service) equal(o Service) bool {
	return s.Name == o.Name && s.Gateway == o.Gateway && s.Proxies == o.Proxies && slices.EqualFunc(s.Ports, o.Ports, func(a, b ServicePort) bool {
		return a.Port == b.Port && slices.Equal(a.Ready, b.Ready)
	})
}

// Listener is a listener of a Gateway that can have routes: an HTTP or HTTPS one.
type Listener struct {
	Name string
	Port uint16
	// TLS is set for an HTTPS listener.
	TLS bool
}

// RouteTemplate says where services appear; see the extension's type of the same name.
type RouteTemplate struct {
	HostPattern, PathPrefix, Protocol string
}

// Joined is a Gateway that a TailscaleGateway joins to the federation.
type Joined struct {
	// TailscaleGateway is the object that says so; Gateway is in the same namespace.
	TailscaleGateway Name
	Gateway          Name
	Listeners        []Listener
	// Tailnets are those of the TailscaleGateway, in its order.
	Tailnets []JoinedTailnet
}

// JoinedTailnet is a tailnet that a Gateway is joined to.
type JoinedTailnet struct {
	// Name is what the TailscaleGateway calls it, Ref the TailscaleTailnet.
	Name, Ref string
	// Ingress and Egress say where the services in it appear.
	Ingress, Egress RouteTemplate
}

// On reports whether the Gateway is joined to what its TailscaleGateway calls by this name.
func (j Joined) On(tailnet string) bool {
	return slices.ContainsFunc(j.Tailnets, func(t JoinedTailnet) bool { return t.Name == tailnet })
}

func (j Joined) equal(o Joined) bool {
	return j.TailscaleGateway == o.TailscaleGateway && j.Gateway == o.Gateway && slices.Equal(j.Listeners, o.Listeners) && slices.Equal(j.Tailnets, o.Tailnets)
}

// Structure is what shapes routes and clusters of this cluster's Envoys. Endpoints are not in it.
type Structure struct {
	Cluster  federation.ClusterID
	Gateways []Gateway
	Services []RoutedService
	Backends []RoutedBackend
	// Rules are those of the routes that send to a backend. They are sorted and must not be changed.
	Rules []Rule
}

// Gateway is a joined Gateway with the policy that makes Envoy Gateway translate it again.
type Gateway struct {
	Joined
	Policy   string
	Revision int64
}

// RoutedService is a federated service that the Gateways offer.
type RoutedService struct {
	ID federation.ServiceID
	// Port is the one port that routes lead to, App what is spoken there.
	Port uint16
	App  federation.AppProtocol
	// Clusters have an export of the service; sorted.
	Clusters []federation.ClusterID
	// Tailnets are the TailscaleTailnets that their VIPs are in; sorted, each once.
	Tailnets []string
}

// Assignment names the endpoints of one Envoy cluster: those of the service by the hub's order, those where the export
// of one member is preferred, or those of a backend's port.
type Assignment struct {
	Service federation.ServiceID
	// Cluster is the preferred member; empty for none.
	Cluster federation.ClusterID
	// Backend and Port stand in place of both; UDP is set for a port that carries it.
	Backend Name
	Port    uint16
	UDP     bool
}

// String returns the service, and the preferred member where there is one; or the backend and its port.
func (a Assignment) String() string {
	if a.Backend != (Name{}) {
		text := fmt.Sprintf("%s/%s:%d", KindEndpoint, a.Backend, a.Port)
		if a.UDP {
			text += "/udp"
		}
		return text
	}
	if a.Cluster == "" {
		return a.Service.String()
	}
	return a.Service.String() + "@" + string(a.Cluster)
}

// Endpoint is one address behind an Envoy cluster.
type Endpoint struct {
	Addr netip.AddrPort
	// Priority is 0 for the first choice, without gaps; Weight is relative within the priority, at least 1.
	Priority, Weight uint32
	Health           federation.Health
	Locality         federation.Locality
	Cluster          federation.ClusterID
}

// Role is what a proxy does.
type Role string

// The roles of proxies.
const (
	Ingress Role = "ingress"
	Egress  Role = "egress"
)

// ProxyID names a proxy of this cluster.
type ProxyID struct {
	Role Role
	// Tailnet is the TailscaleTailnet that the proxy is in; empty for the only one there is.
	Tailnet string
	Replica uint32
}

// Compare orders ids by role, tailnet and replica.
func (p ProxyID) Compare(o ProxyID) int {
	return cmp.Or(cmp.Compare(p.Role, o.Role), cmp.Compare(p.Tailnet, o.Tailnet), cmp.Compare(p.Replica, o.Replica))
}

// ProxySet are the replicas of one role in one tailnet.
type ProxySet struct {
	Role    Role
	Tailnet string
}

// ProxyConfig is what the proxies of one role are to do, those of all tailnets.
type ProxyConfig struct {
	Version uint64
	Cluster federation.ClusterID
	Ingress []IngressVIP
	Egress  []EgressPort
	Probes  []Probe
	// Released are the ingress proxies that drained and whose VIPs have moved, sorted: they have nothing to host any more.
	Released []ProxyID
}

// IngressVIP is a VIP that the ingress proxies host.
type IngressVIP struct {
	// Tailnet is the TailscaleTailnet that the VIP is in.
	Tailnet string
	// Service is the Tailscale Service without svc:.
	Service string
	Ports   []ServicePort
}

// EgressPort is a port of a remote VIP, or of another endpoint in the tailnet, with its stable local address.
type EgressPort struct {
	// Tailnet is the TailscaleTailnet that the endpoint is in; empty where it is not known.
	Tailnet        string
	Listen, Remote netip.AddrPort
	// Name is the endpoint's name in the tailnet, where Remote has a port only. It is looked up for each connection.
	Name     string
	Protocol federation.Protocol
	// Cluster owns the VIP; it is empty for an endpoint that belongs to no cluster.
	Cluster federation.ClusterID
	Service federation.ServiceID
	// Reset is set while the spoke's own probes find the cluster unreachable.
	Reset bool
}

// Probe is what the egress proxies probe.
type Probe struct {
	ID string
	// Tailnet is the TailscaleTailnet that the target is in; empty for one that may be reached in any.
	Tailnet string
	Target  federation.Target
	Addrs   []netip.AddrPort
	// Name is as in [EgressPort]; Addrs has one entry then, whose port counts.
	Name string
	// Check says what must come back; the zero value wants a connection only.
	Check Check
	// Interval is between two probes, Timeout for one.
	Interval, Timeout time.Duration
}

// CheckKind is how an endpoint is asked whether it is well.
type CheckKind string

// The kinds of checks. A TLS certificate is not verified: what is asked is whether there is somebody, not who.
const (
	// CheckConnect wants a TCP connection, and for UDP no more than that nobody refuses.
	CheckConnect CheckKind = ""
	// CheckHTTP and CheckHTTPS want an answer to a GET with an expected status.
	CheckHTTP  CheckKind = "http"
	CheckHTTPS CheckKind = "https"
	// CheckGRPC wants the status SERVING of grpc.health.v1, CheckGRPCS the same over TLS.
	CheckGRPC  CheckKind = "grpc"
	CheckGRPCS CheckKind = "grpcs"
	// CheckTLS wants a TLS handshake.
	CheckTLS CheckKind = "tls"
)

// Check says how an endpoint is asked whether it is well.
type Check struct {
	Kind CheckKind
	// Path, with a query where there is one, is for HTTP; Host is its Host header and the SNI name of TLS, by default the
	// endpoint's name or address.
	Path, Host string
	// Expected are the statuses of HTTP that are well, none for 200 to 399.
	Expected []StatusRange
	// Service is the service that gRPC is asked about, empty for the server as a whole.
	Service string
}

// StatusRange is a range of statuses of HTTP, both ends in it.
type StatusRange struct{ Low, High uint16 }

func (p Probe) equal(o Probe) bool {
	return p.ID == o.ID && p.Tailnet == o.Tailnet && p.Target == o.Target && p.Name == o.Name && p.Interval == o.Interval && p.Timeout == o.Timeout &&
		slices.Equal(p.Addrs, o.Addrs) && p.Check.equal(o.Check)
}

func (c Check) equal(o Check) bool {
	return c.Kind == o.Kind && c.Path == o.Path && c.Host == o.Host && c.Service == o.Service && slices.Equal(c.Expected, o.Expected)
}

// ProbeResult is what a proxy found.
type ProbeResult struct {
	ID        string
	Reachable bool
	At        time.Time
	RTT       time.Duration
	Error     string
	// Row is how many results in a row were like this one; 0 if unknown.
	Row int
}

func (r ProbeResult) result() probes.Result {
	return probes.Result{Reachable: r.Reachable, At: r.At, RTT: r.RTT, Error: r.Error}
}

// ProxyStatus is what a proxy says of itself.
type ProxyStatus struct {
	Role    Role
	Replica uint32
	// Tailnet is the TailscaleTailnet that the proxy is in; empty for the only one there is.
	Tailnet string
	// Listen is where an egress proxy listens; not valid for what its configuration says.
	Listen netip.Addr
	// NodeID is the node's stable id, Addr its tailnet address with the probe port.
	NodeID  string
	Addr    netip.AddrPort
	Applied uint64
	Results []ProbeResult
	// Errors are what could not be applied, by name.
	Errors   map[string]string
	Draining bool
}

// ID names the proxy.
func (st ProxyStatus) ID() ProxyID { return ProxyID{st.Role, st.Tailnet, st.Replica} }

// Report is what the hub should know. It is immutable.
type Report struct {
	Epoch, Version uint64
	Observations   map[federation.Target]probes.Result
	// All says that the cluster refers to every service.
	All bool
	// HostsKnown is false until the spoke knows its ingress hosts: a spoke that starts must not withdraw them.
	HostsKnown bool
	Hosts      []Host
	// Devices are the nodes of all proxies.
	Devices []Device
}

// Device is the node of a proxy. Tailnet is the TailscaleTailnet that it is in, empty for the spoke's.
type Device struct{ Tailnet, NodeID string }

// Host is an ingress host.
type Host struct {
	NodeID string
	Addr   netip.AddrPort
}

// PortRange is a range of ports, both ends in it.
type PortRange struct{ Low, High uint16 }

// ParsePortRange reads LOW-HIGH.
func ParsePortRange(s string) (PortRange, error) {
	low, high, ok := strings.Cut(s, "-")
	l, err1 := strconv.ParseUint(low, 10, 16)
	h, err2 := strconv.ParseUint(high, 10, 16)
	r := PortRange{Low: uint16(l), High: uint16(h)}
	if !ok || err1 != nil || err2 != nil || r.validate() != nil {
		return PortRange{}, fmt.Errorf("port range %q: want LOW-HIGH, such as 20000-29999", s)
	}
	return r, nil
}

func (r PortRange) validate() error {
	if r.Low == 0 || r.High < r.Low {
		return fmt.Errorf("port range %d-%d: want two ports from 1 to 65535, the lower first", r.Low, r.High)
	}
	return nil
}
