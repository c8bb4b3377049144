package translate

import (
	"net/netip"
	"strconv"

	"github.com/tailgate-project/tailgate/federation"
)

// Snapshot is what a spoke knows that shapes routes and clusters. It is a value: whoever has handed one over must not
// change it any more. Endpoints are not in it, so that a failover changes no snapshot.
type Snapshot struct {
	// Cluster is the member cluster whose Envoys are configured.
	Cluster  federation.ClusterID
	Gateways []Gateway
	Services []Service
	// Backends are the cluster's TailscaleEndpoints, and Rules those of its routes that send to them.
	Backends []Backend
	Rules    []Rule
}

// Gateway is a local Gateway that a TailscaleGateway has joined to the federation.
type Gateway struct {
	// Namespace and Name are those of the Gateway API object.
	Namespace, Name string
	// Policy is the name of the policy object, in the same namespace, that makes Envoy Gateway translate again.
	Policy string
	// TailscaleGateway is the name of the TailscaleGateway that joined it.
	TailscaleGateway string
	// Revision is the policy revision that this snapshot was written with.
	Revision int64
	// Tailnets are those of the TailscaleGateway, in its order.
	Tailnets []Tailnet
	// Listeners are the Gateway's HTTP and HTTPS listeners.
	Listeners []Listener
}

// Tailnet is a tailnet that a Gateway is joined to.
type Tailnet struct {
	// Name is what the TailscaleGateway calls it, Ref the TailscaleTailnet that the name stands for.
	Name, Ref string
	// Ingress and Egress are the templates of the routes to the services in this tailnet; an empty pattern makes no route.
	Ingress RouteTemplate
	Egress  RouteTemplate
}

// RouteTemplate says where services appear. Its patterns may contain {service}, {namespace}, {cluster}, {tailnet} and
// {domain}, which is gateway.local. Where {cluster} stands, each export has a route of its own.
type RouteTemplate struct {
	// HostPattern is a host name such as {service}.{tailnet}.{domain}. It must contain {service}.
	HostPattern string
	// PathPrefix is a path such as /api/{service}/. For egress it stands in each virtual host and must contain
	// {service}; for ingress it stands under the host pattern.
	PathPrefix string
	// Protocol is HTTP (also when empty) or HTTPS; nothing else has routes.
	Protocol string
}

// Listener is a listener of a local Gateway.
type Listener struct {
	Name string
	// Port is the port as the Gateway object has it, not the one Envoy binds.
	Port uint16
	// TLS is set for an HTTPS listener.
	TLS bool
}

// Service is a federated service that gateways of this cluster offer.
type Service struct {
	ID federation.ServiceID
	// Port is the port of the service, App what is spoken there.
	Port uint16
	App  federation.AppProtocol
	// Clusters have an export of the service, the local cluster among them where it has one; sorted.
	Clusters []federation.ClusterID
	// Tailnets are the TailscaleTailnets in which some export of the service has its VIP. None stands for all.
	Tailnets []string
}

// Backend is a TailscaleEndpoints object.
type Backend struct {
	Namespace, Name string
	// Ports carry connections, and those requests where their protocol has any. Each stands once.
	Ports []BackendPort
	// Datagrams are the ports that carry UDP. Each stands once.
	Datagrams []uint16
}

// BackendPort is a port of a [Backend] that routes may refer to.
type BackendPort struct {
	Port uint16
	App  federation.AppProtocol
}

// Rule is a rule of a route of this cluster's that has at least one TailscaleEndpoints as backend. Envoy Gateway gives
// such a backend neither endpoints nor its share of the traffic, and does not say which port was meant, so that the
// routes' own text has to be known as well.
type Rule struct {
	// Kind is HTTPRoute, GRPCRoute, TCPRoute, TLSRoute or UDPRoute.
	Kind            string
	Namespace, Name string
	// Index is the rule's place in its route, from 0.
	Index int
	// Backends are all that the rule names, the ordinary ones too.
	Backends []RuleBackend
}

// RuleBackend is a backend that a [Rule] sends to.
type RuleBackend struct {
	// Custom is set for a TailscaleEndpoints, and not for what Envoy Gateway knows by itself.
	Custom          bool
	Namespace, Name string
	// Port is 0 where the rule names none: that means the only one that the backend has.
	Port uint16
	// Weight is its share of the requests, relative to the rule's other backends. With 0 it is sent nothing.
	Weight uint32
	// Denied is set where a TailscaleEndpoints is in another namespace whose ReferenceGrants do not let the route refer to
	// it. It counts for TCPRoutes, TLSRoutes and UDPRoutes; of the others Envoy Gateway says it itself.
	Denied bool
}

// BackendCluster returns the name of the Envoy cluster of a port of a TailscaleEndpoints, which is also its EDS service
// name: tsgw/endpoints/<namespace>/<name>/<port>. The clusters of connections have the same EDS service name.
func BackendCluster(namespace, name string, port uint16) string {
	return Prefix + "endpoints/" + namespace + "/" + name + "/" + portText(port)
}

// DatagramCluster returns the name of the Envoy cluster of a port of a TailscaleEndpoints that carries UDP, which is also
// its EDS service name: tsgw/datagrams/<namespace>/<name>/<port>.
func DatagramCluster(namespace, name string, port uint16) string {
	return Prefix + "datagrams/" + namespace + "/" + name + "/" + portText(port)
}

func portText(port uint16) string { return strconv.Itoa(int(port)) }

// ClusterName returns the name of the federated service's Envoy cluster, which is also its EDS service name:
// tsgw/federated/<namespace>/<name>.
func ClusterName(id federation.ServiceID) string {
	return Prefix + "federated/" + id.Namespace + "/" + id.Name
}

// ClusterNameIn returns the name of the Envoy cluster that prefers the export of member c and falls back to the
// others by policy: tsgw/cluster/<cluster>/<namespace>/<name>.
func ClusterNameIn(id federation.ServiceID, c federation.ClusterID) string {
	return Prefix + "cluster/" + string(c) + "/" + id.Namespace + "/" + id.Name
}

// Endpoint is one address behind a cluster.
type Endpoint struct {
	Addr netip.AddrPort
	// Priority is 0 for the first choice, without gaps; Weight is relative within the priority, at least 1.
	Priority, Weight uint32
	Health           federation.Health
	Locality         federation.Locality
	Cluster          federation.ClusterID
}
