package translate_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tailgate-project/tailgate/extension/translate"
	"github.com/tailgate-project/tailgate/federation"
)

func TestCountRoutes(t *testing.T) {
	service := func(name string, tailnets []string, clusters ...federation.ClusterID) translate.Service {
		return translate.Service{ID: federation.Service("shop", name), Port: 80, Clusters: clusters, Tailnets: tailnets}
	}
	path := translate.RouteTemplate{PathPrefix: "/api/{service}/"}
	host := translate.RouteTemplate{HostPattern: "{service}.{tailnet}.example.com"}
	s := translate.Snapshot{
		Cluster: "c1",
		Gateways: []translate.Gateway{
			{Namespace: "shop", Name: "plain", Listeners: []translate.Listener{{Name: "http", Port: 80}}},
			{Namespace: "shop", Name: "one", Tailnets: []translate.Tailnet{{Name: "a", Ref: "acme", Ingress: host, Egress: path}}},
			{Namespace: "shop", Name: "both", Tailnets: []translate.Tailnet{
				{Name: "a", Ref: "acme", Ingress: host, Egress: path}, {Name: "p", Ref: "partner", Ingress: host, Egress: path},
			}},
			{Namespace: "shop", Name: "per-cluster", Tailnets: []translate.Tailnet{{Egress: translate.RouteTemplate{PathPrefix: "/{cluster}/{service}/"}}}},
			{Namespace: "shop", Name: "nonsense", Tailnets: []translate.Tailnet{{Egress: translate.RouteTemplate{PathPrefix: "/all/"}}}},
		},
		Services: []translate.Service{service("web", []string{"acme"}, "c2", "c3"), service("api", []string{"acme", "partner"}, "c2")},
	}
	// By name, with each cluster, and each also with its namespace: 2+4 of web, 2+2 of api.
	const cross = 10
	want := []translate.RouteCount{
		{CrossCluster: cross},
		{CrossCluster: cross, Ingress: 2, Egress: 2},
		{CrossCluster: cross, Ingress: 3, Egress: 2},
		{CrossCluster: cross, Egress: 3},
		{CrossCluster: cross},
	}
	if diff := cmp.Diff(want, translate.CountRoutes(s)); diff != "" {
		t.Error(diff)
	}
}
