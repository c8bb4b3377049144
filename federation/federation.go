// Package federation is the vocabulary of Tailgate: the words in which clusters, exports, VIPs, endpoint sets and
// decisions are spoken about by the hub, the spokes and the extension server.
//
// Everything below this package is pure: values in, values out, the time an argument. The packages beside it
// decide (vip, failover, endpoints); nothing here reads a clock, takes a lock or talks to anybody.
package federation

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// MaxLabel is the longest name that is valid as one DNS label (RFC 1123), in bytes.
const MaxLabel = 63

// ErrInvalidClusterID reports a cluster id that is not an RFC 1123 label.
var ErrInvalidClusterID = errors.New("invalid cluster id")

// ClusterID names a member cluster. It is the value of the cluster.clusterset.k8s.io ClusterProperty: an RFC 1123
// label, unique in the federation and unchanged for as long as the cluster is a member.
type ClusterID string

// Validate returns an error that wraps [ErrInvalidClusterID] and says what is wrong, or nil.
func (c ClusterID) Validate() error {
	if !IsLabel(string(c)) {
		return fmt.Errorf("%w %q: use 1 to %d lower case letters, digits and '-', starting and ending with a letter or digit (RFC 1123 label)",
			ErrInvalidClusterID, string(c), MaxLabel)
	}
	return nil
}

// IsLabel reports whether s is an RFC 1123 label.
func IsLabel(s string) bool {
	if len(s) == 0 || len(s) > MaxLabel || s[0] == '-' || s[len(s)-1] == '-' {
		return false
	}
	return strings.IndexFunc(s, func(r rune) bool {
		return r != '-' && (r < '0' || r > '9') && (r < 'a' || r > 'z')
	}) < 0
}

// Kind says what an export is made of.
type Kind string

const (
	// KindService is a Kubernetes Service of a member.
	KindService Kind = "Service"
	// KindListener is a listener of a Gateway of a member.
	KindListener Kind = "Listener"
)

// ServiceID names a federated service: all exports of the same kind, namespace and name are copies of one service
// (namespace sameness, as in the MCS API, KEP-1645).
type ServiceID struct {
	Kind      Kind
	Namespace string
	// Name is the Service's name, or gateway/listener for a listener; a slash can stand in neither.
	Name string
}

// Service returns the id of the Service namespace/name.
func Service(namespace, name string) ServiceID {
	return ServiceID{Kind: KindService, Namespace: namespace, Name: name}
}

// Listener returns the id of a listener of the Gateway namespace/gateway.
func Listener(namespace, gateway, listener string) ServiceID {
	return ServiceID{Kind: KindListener, Namespace: namespace, Name: gateway + "/" + listener}
}

// Gateway returns the gateway's and the listener's name of a listener's id.
func (s ServiceID) Gateway() (gateway, listener string) {
	gateway, listener, _ = strings.Cut(s.Name, "/")
	return gateway, listener
}

// String returns Kind/namespace/name, the form that [ParseServiceID] reads and that keys, journal and logs use.
func (s ServiceID) String() string { return string(s.Kind) + "/" + s.Namespace + "/" + s.Name }

// Compare orders ids by kind, namespace and name.
func (s ServiceID) Compare(o ServiceID) int {
	return cmp.Or(cmp.Compare(s.Kind, o.Kind), cmp.Compare(s.Namespace, o.Namespace), cmp.Compare(s.Name, o.Name))
}

// ParseServiceID reads what [ServiceID.String] wrote.
func ParseServiceID(s string) (ServiceID, error) {
	kind, rest, ok := strings.Cut(s, "/")
	namespace, name, ok2 := strings.Cut(rest, "/")
	if !ok || !ok2 || namespace == "" || name == "" || (Kind(kind) != KindService && Kind(kind) != KindListener) {
		return ServiceID{}, fmt.Errorf("service id %q: want Service/namespace/name or Listener/namespace/gateway/listener", s)
	}
	return ServiceID{Kind: Kind(kind), Namespace: namespace, Name: name}, nil
}

// ExportKey names one export: one cluster's copy of a service.
type ExportKey struct {
	Cluster ClusterID
	Service ServiceID
}

// String returns cluster/Kind/namespace/name.
func (k ExportKey) String() string { return string(k.Cluster) + "/" + k.Service.String() }

// Compare orders keys by service, then cluster, so that the copies of a service stand together.
func (k ExportKey) Compare(o ExportKey) int {
	return cmp.Or(k.Service.Compare(o.Service), cmp.Compare(k.Cluster, o.Cluster))
}

// Protocol is a transport protocol.
type Protocol string

// The protocols that a VIP can carry.
const (
	TCP Protocol = "TCP"
	UDP Protocol = "UDP"
)

// AppProtocol is what is spoken over a TCP port, as far as whoever sends requests there must know.
type AppProtocol uint8

// The application protocols. An unknown one is taken for HTTP/1.1 where requests are sent.
const (
	AppUnknown AppProtocol = iota
	// AppHTTP is HTTP/1.1, also with an upgrade to WebSocket.
	AppHTTP
	// AppH2C is HTTP/2 without TLS, as gRPC mostly is.
	AppH2C
	// AppHTTPS is HTTP over TLS, in the version that both ends agree on.
	AppHTTPS
	// AppGRPCS is HTTP/2 over TLS.
	AppGRPCS
	// AppTLS is anything else over TLS, AppTCP anything else: there are no requests in it that could be routed.
	AppTLS
	AppTCP
)

// appProtocols are the names that users write.
var appProtocols = []string{"", "http", "h2c", "https", "grpcs", "tls", "tcp"}

// String returns the name that users write, nothing for AppUnknown.
func (a AppProtocol) String() string {
	if int(a) < len(appProtocols) {
		return appProtocols[a]
	}
	return "AppProtocol(" + strconv.Itoa(int(a)) + ")"
}

// ParseAppProtocol reads the appProtocol of a Service's port or the beginning of its name up to a dash, as Kubernetes,
// the Gateway API and the meshes have them: http, http2, h2c, grpc, https, grpcs, ws, wss, tls, tcp, with or without
// kubernetes.io/ before. Case does not matter. Of a name that it does not know it returns AppUnknown.
func ParseAppProtocol(name string) AppProtocol {
	switch strings.TrimPrefix(strings.ToLower(name), "kubernetes.io/") {
	case "http", "http1", "ws":
		return AppHTTP
	case "h2c", "http2", "grpc":
		return AppH2C
	case "https", "wss":
		return AppHTTPS
	case "grpcs":
		return AppGRPCS
	case "tls":
		return AppTLS
	case "tcp":
		return AppTCP
	}
	return AppUnknown
}

// Port is a port that an export offers on its VIP.
type Port struct {
	Name     string
	Port     uint16
	App      AppProtocol
	Protocol Protocol
}

// Compare orders ports by number, protocol, name and application protocol.
func (p Port) Compare(o Port) int {
	return cmp.Or(cmp.Compare(p.Port, o.Port), cmp.Compare(p.Protocol, o.Protocol), cmp.Compare(p.Name, o.Name), cmp.Compare(p.App, o.App))
}

// Export is what a member offers to the federation, as its API server tells: the control view.
type Export struct {
	Key ExportKey
	// Tailnet is the name that the member's TailscaleGateway gives the tailnet (spec.tailnets[].name).
	Tailnet string
	// TailnetRef is the TailscaleTailnet that this name stands for, in the hub's cluster.
	TailnetRef string
	// Ports are sorted and not empty.
	Ports []Port
	// Ready counts the endpoints that the member's API server calls ready, Desired all that it has. A Desired below
	// Ready says nothing: then all that are ready count as all there are.
	Ready, Desired int
	// Labels are those of the object, for policies to select by.
	Labels map[string]string
	// Federated asks for a VIP of the whole federated service beside the export's own.
	Federated bool
	// Weight is the share of the traffic that the member asks for, in relation to the service's other exports of the same
	// rank; 0 says nothing and counts as 1. Policies with weights of their own pass it over.
	Weight uint32
	// ClusterPinned asks that whoever names this cluster for the service gets this export and no other.
	ClusterPinned bool
}

// Equal reports whether both say the same.
func (x Export) Equal(o Export) bool {
	return x.Key == o.Key && x.Tailnet == o.Tailnet && x.TailnetRef == o.TailnetRef && x.Ready == o.Ready && x.Desired == o.Desired &&
		x.Federated == o.Federated && x.Weight == o.Weight && x.ClusterPinned == o.ClusterPinned &&
		slices.Equal(x.Ports, o.Ports) && maps.Equal(x.Labels, o.Labels)
}

// Interest says which services a member refers to.
type Interest struct {
	// All stands for every service there is or will be.
	All bool
	// Services are sorted, each once.
	Services []ServiceID
}

// Wants reports whether the interest covers a service.
func (i Interest) Wants(id ServiceID) bool {
	if i.All {
		return true
	}
	_, found := slices.BinarySearchFunc(i.Services, id, ServiceID.Compare)
	return found
}

// Equal reports whether both cover the same, as far as they say it in the same words.
func (i Interest) Equal(o Interest) bool {
	return i.All == o.All && slices.Equal(i.Services, o.Services)
}

// Locality is where a cluster stands; empty parts are unknown and equal nothing.
type Locality struct{ Region, Zone string }

// VIP is an entry of the registry: the stable addresses of one export, or of a whole federated service.
type VIP struct {
	// Owner is the export that has the VIP. Its Cluster is empty for a federated VIP, which every cluster that should
	// serve the service advertises.
	Owner ExportKey
	// Name is the registry name that users were promised, such as local-production-webapp.
	Name string
	// ServiceName is Name with the cluster's id, without the svc: prefix: the Tailscale Service.
	ServiceName string
	// Tailnet and TailnetRef are as in [Export].
	Tailnet, TailnetRef string
	// Addrs are the addresses, IPv4 first. They are empty until the VIP provider has given them.
	Addrs []netip.Addr
	Ports []Port
}

// Federated reports whether the VIP is of a federated service and not of one cluster's export.
func (v VIP) Federated() bool { return v.Owner.Cluster == "" }

// Health is what a consumer should think of an endpoint.
type Health uint8

const (
	// Healthy endpoints take traffic.
	Healthy Health = iota
	// Degraded endpoints take traffic only where no healthy one is left (fail open).
	Degraded
	// Unhealthy endpoints take none.
	Unhealthy
)

// String returns the name in lower case.
func (h Health) String() string {
	switch h {
	case Healthy:
		return "healthy"
	case Degraded:
		return "degraded"
	case Unhealthy:
		return "unhealthy"
	}
	return fmt.Sprintf("Health(%d)", uint8(h))
}

// MarshalText writes the name, so that stored and printed decisions can be read.
func (h Health) MarshalText() ([]byte, error) { return []byte(h.String()), nil }

// UnmarshalText reads a name that MarshalText wrote.
func (h *Health) UnmarshalText(b []byte) error {
	for _, v := range []Health{Healthy, Degraded, Unhealthy} {
		if v.String() == string(b) {
			*h = v
			return nil
		}
	}
	return fmt.Errorf("health %q: want healthy, degraded or unhealthy", b)
}

// Endpoint is one cluster's VIP in an endpoint set.
type Endpoint struct {
	Cluster ClusterID
	// Addr is the VIP's address, IPv4 where it has one.
	Addr  netip.Addr
	Ports []Port
	// Priority is 0 for the first choice; priorities of a set have no gaps.
	Priority uint32
	// Weight is the endpoint's share of the traffic of its priority, relative to the others there; at least 1.
	Weight uint32
	Health Health
	// Reason says why Health is what it is; see the constants of package failover.
	Reason string
	// Stale is set when the control view of the cluster is lost while its data view is good.
	Stale bool
	// ClusterPinned endpoints have no stand-in: who names their cluster for the service reaches them or nobody.
	ClusterPinned bool
	// TailnetRef is the TailscaleTailnet that the VIP is in.
	TailnetRef string
}

// EndpointSet says to one consumer cluster which VIPs to use for one federated service.
type EndpointSet struct {
	Consumer ClusterID
	Service  ServiceID
	// Endpoints are sorted by priority, then cluster. The consumer's own export is among them.
	Endpoints []Endpoint
}

// Peer is another member as a spoke needs to know it: whom to probe, and where.
type Peer struct {
	Cluster  ClusterID
	Locality Locality
	// Ingress are the tailnet addresses of the probe ports of the cluster's ingress hosts.
	Ingress []netip.AddrPort
	// Consumer says that the cluster refers to every service.
	Consumer bool
}

// Target is what an observer probes: all of a cluster's ingress, or one service's VIP there.
type Target struct {
	Cluster ClusterID
	// Service is zero for the cluster's ingress hosts.
	Service ServiceID
}

// String returns the cluster, and the service where there is one.
func (t Target) String() string {
	if t.Service == (ServiceID{}) {
		return string(t.Cluster)
	}
	return string(t.Cluster) + "/" + t.Service.String()
}

// Compare orders targets by cluster, then service.
func (t Target) Compare(o Target) int {
	return cmp.Or(cmp.Compare(t.Cluster, o.Cluster), t.Service.Compare(o.Service))
}

// Notice tells a member what the federation refuses of it, and why.
type Notice struct {
	// Subject is tailnet/<name> for a tailnet that a TailscaleGateway names, export/<service id> for an export that gets no
	// VIP, or conflict/<service id> for one that differs from the same service's exports of other members.
	Subject string
	// Reason is a CamelCase word for a condition, Message a sentence that says what to do.
	Reason, Message string
}
