package extension

import (
	"github.com/tailgate-project/tailgate/extension/translate"
	"github.com/tailgate-project/tailgate/federation"
)

// The input of the routes and clusters, defined where it is read: see package translate.
type (
	Snapshot      = translate.Snapshot
	Gateway       = translate.Gateway
	Tailnet       = translate.Tailnet
	RouteTemplate = translate.RouteTemplate
	Listener      = translate.Listener
	Service       = translate.Service
	Backend       = translate.Backend
	BackendPort   = translate.BackendPort
	Rule          = translate.Rule
	RuleBackend   = translate.RuleBackend
	// RouteCount is how many routes a Gateway has.
	RouteCount = translate.RouteCount
	// Note says what could not be done.
	Note = translate.Note
)

// CountRoutes returns what each Gateway of a snapshot offers, in their order.
func CountRoutes(s Snapshot) []RouteCount { return translate.CountRoutes(s) }

// Endpoint is one address of an [Assignment].
type Endpoint = translate.Endpoint

// Assignment is where one Envoy cluster's traffic goes now. An empty one is legal and answers 503.
type Assignment struct {
	// Endpoints may come in any order.
	Endpoints []Endpoint
}

// ClusterName returns the Envoy cluster and EDS name of a federated service: tsgw/federated/<namespace>/<name>.
func ClusterName(id federation.ServiceID) string { return translate.ClusterName(id) }

// ClusterNameIn returns the Envoy cluster and EDS name under which cluster c's export is preferred:
// tsgw/cluster/<cluster>/<namespace>/<name>.
func ClusterNameIn(id federation.ServiceID, c federation.ClusterID) string {
	return translate.ClusterNameIn(id, c)
}

// BackendCluster returns the Envoy cluster and EDS name of a port of a TailscaleEndpoints:
// tsgw/endpoints/<namespace>/<name>/<port>.
func BackendCluster(namespace, name string, port uint16) string {
	return translate.BackendCluster(namespace, name, port)
}

// DatagramCluster returns the Envoy cluster and EDS name of a port of a TailscaleEndpoints that carries UDP:
// tsgw/datagrams/<namespace>/<name>/<port>.
func DatagramCluster(namespace, name string, port uint16) string {
	return translate.DatagramCluster(namespace, name, port)
}
