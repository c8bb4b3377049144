package translate

import (
	"net/netip"

	"github.com/tailgate-project/tailgate/federation"
)

// Snapshot is what a spoke knows that shapes routes and clusters. It is a value: whoever has handed one over must not
// change it any more. Endpoints are not in it, so that a failover changes no snapshot.
type Snapshot struct {
	// Cluster is the member cluster whose Envoys are configured.
	Cluster  federation.ClusterID
	Gateways []Gateway
	Services []Service
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
	// Ingress and Egress are the TailscaleGateway's route templates; an empty pattern makes no route.
	Ingress RouteTemplate
	Egress  RouteTemplate
	// Tailnet is the name that the TailscaleGateway gives its tailnet.
	Tailnet string
	// Listeners are the Gateway's HTTP and HTTPS listeners.
	Listeners []Listener
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
	// Port is the port of the service.
	Port uint16
	// Clusters have an export of the service, the local cluster among them where it has one; sorted.
	Clusters []federation.ClusterID
	// Tailnet is the name of the tailnet that carries the service.
	Tailnet string
}

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
