package translate_test

import (
	"fmt"
	"testing"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"

	"github.com/tailgate-project/tailgate/extension/translate"
	"github.com/tailgate-project/tailgate/federation"
)

// BenchmarkTranslate translates a gateway with many routes of the user's for a federation of some services.
func BenchmarkTranslate(b *testing.B) {
	in := translate.Resources{}
	rc := &routev3.RouteConfiguration{Name: "default/eg/http"}
	for h := range 20 {
		vh := &routev3.VirtualHost{Name: fmt.Sprintf("default/eg/http/h%d_example_com", h), Domains: []string{fmt.Sprintf("h%d.example.com", h)}}
		for r := range 100 {
			name := fmt.Sprintf("httproute/default/r%d-%d/rule/0", h, r)
			vh.Routes = append(vh.Routes, &routev3.Route{
				Name: name + "/match/0/x", Match: &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_PathSeparatedPrefix{PathSeparatedPrefix: fmt.Sprintf("/r%d", r)}},
				Action: &routev3.Route_Route{Route: &routev3.RouteAction{ClusterSpecifier: &routev3.RouteAction_Cluster{Cluster: name}}},
			})
			in.Clusters = append(in.Clusters, &clusterv3.Cluster{Name: name, ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: clusterv3.Cluster_EDS}})
		}
		rc.VirtualHosts = append(rc.VirtualHosts, vh)
	}
	in.Routes = append(in.Routes, rc)
	s := translate.Snapshot{Cluster: "c1", Gateways: []translate.Gateway{{Namespace: "default", Name: "eg", Listeners: []translate.Listener{{Name: "http", Port: 80}},
		Tailnets: []translate.Tailnet{{Egress: translate.RouteTemplate{PathPrefix: "/api/{service}/"}, Ingress: translate.RouteTemplate{HostPattern: "{service}.production.gateway.local"}}}}}}
	for i := range 20 {
		s.Services = append(s.Services, translate.Service{ID: federation.Service("default", fmt.Sprintf("service%d", i)), Clusters: []federation.ClusterID{"c1", "c2", "c3"}})
	}
	policies := []translate.Policy{{Namespace: "default", Name: "p", Gateways: []string{"eg"}}}
	for b.Loop() {
		out, notes := translate.Translate(in, policies, s)
		if len(notes) > 0 || len(out.Routes) != 1 {
			b.Fatal(notes)
		}
	}
}
