package proxyserver_test

import (
	"context"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/spoke"
	"github.com/tailgate-project/tailgate/spoke/proxy/proxyapi"
	"github.com/tailgate-project/tailgate/spoke/proxyserver"
)

// TestEndpointsOfBackends reads what the proxies are told of endpoints that are no VIPs.
func TestEndpointsOfBackends(t *testing.T) {
	s, client, _ := start(t)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	checked := func(c spoke.Check) *spoke.HealthCheck {
		return &spoke.HealthCheck{Check: c, Interval: 10 * time.Second, Timeout: 2 * time.Second, Healthy: 2, Unhealthy: 3}
	}
	web := spoke.Check{
		Kind: spoke.CheckHTTPS, Path: "/healthz?deep=1", Host: "app.example", Expected: []spoke.StatusRange{{Low: 200, High: 204}, {Low: 301, High: 301}},
	}
	err := s.SetBackend(ctx, spoke.Backend{Name: spoke.Name{Namespace: "a", Name: "b"}, Endpoints: []spoke.BackendEndpoint{
		{Name: "dns-tcp", Host: "dns", Port: 53, TargetPort: 53, Protocol: federation.TCP, Weight: 1, Check: checked(spoke.Check{})},
		{Name: "dns-udp", Host: "dns", Port: 53, TargetPort: 53, Protocol: federation.UDP, Weight: 1, Check: checked(spoke.Check{})},
		{Name: "rpc", Host: "rpc.tailgate.ts.net", Port: 80, TargetPort: 8080, Protocol: federation.TCP, Weight: 1, Check: checked(spoke.Check{Kind: spoke.CheckGRPC, Service: "app.v1"})},
		{Name: "unchecked", Addr: netip.MustParseAddr("100.64.0.7"), Port: 80, TargetPort: 8080, Protocol: federation.TCP, Weight: 1},
		{Name: "web", Addr: netip.MustParseAddr("fd7a:115c:a1e0::7"), Port: 443, TargetPort: 8443, Protocol: federation.TCP, Weight: 1, Check: checked(web)},
	}})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Apply(ctx, update(1)); err != nil {
		t.Fatal(err)
	}
	configs, err := client.Watch(ctx, &proxyapi.WatchRequest{Role: "egress"})
	if err != nil {
		t.Fatal(err)
	}
	config := next(t, configs, func(c *proxyapi.Config) bool { return len(c.GetEgress()) == 6 && len(c.GetProbes()) == 6 })

	egress := map[string]*proxyapi.Egress{}
	for _, e := range config.GetEgress() {
		e.Listen = ""
		egress[e.GetService()] = e
	}
	wantEgress := map[string]*proxyapi.Egress{
		"Service/a/web":          {Service: "Service/a/web", Remote: "100.100.0.2:80", Protocol: "TCP", Cluster: "c2"},
		"Endpoint/a/b/dns-tcp":   {Service: "Endpoint/a/b/dns-tcp", Name: "dns", Port: 53, Protocol: "TCP"},
		"Endpoint/a/b/dns-udp":   {Service: "Endpoint/a/b/dns-udp", Name: "dns", Port: 53, Protocol: "UDP"},
		"Endpoint/a/b/rpc":       {Service: "Endpoint/a/b/rpc", Name: "rpc.tailgate.ts.net", Port: 8080, Protocol: "TCP"},
		"Endpoint/a/b/unchecked": {Service: "Endpoint/a/b/unchecked", Remote: "100.64.0.7:8080", Protocol: "TCP"},
		"Endpoint/a/b/web":       {Service: "Endpoint/a/b/web", Remote: "[fd7a:115c:a1e0::7]:8443", Protocol: "TCP"},
	}
	if diff := cmp.Diff(wantEgress, egress, protocmp.Transform()); diff != "" {
		t.Errorf("egress (-want +got)\n%s", diff)
	}

	probes := map[string]*proxyapi.Probe{}
	for _, p := range config.GetProbes() {
		probes[p.GetId()] = p
	}
	wantProbes := map[string]*proxyapi.Probe{
		// The federation's own have no check, and mean what they always meant.
		"cluster/c2":           {Id: "cluster/c2", Addrs: []string{"100.64.0.2:9440"}, IntervalMs: 500, TimeoutMs: 500, IngressOf: "c2"},
		"vip/c2/Service/a/web": {Id: "vip/c2/Service/a/web", Addrs: []string{"100.100.0.2:80"}, IntervalMs: 5000, TimeoutMs: probes["vip/c2/Service/a/web"].GetTimeoutMs()},
		"endpoint/a/b/dns-tcp": {Id: "endpoint/a/b/dns-tcp", Name: "dns", Port: 53, IntervalMs: 10000, TimeoutMs: 2000, Check: &proxyapi.Check{}},
		"endpoint/a/b/dns-udp": {Id: "endpoint/a/b/dns-udp", Name: "dns", Port: 53, Protocol: "UDP", IntervalMs: 10000, TimeoutMs: 2000, Check: &proxyapi.Check{}},
		"endpoint/a/b/rpc": {
			Id: "endpoint/a/b/rpc", Name: "rpc.tailgate.ts.net", Port: 8080, IntervalMs: 10000, TimeoutMs: 2000,
			Check: &proxyapi.Check{Kind: "grpc", Service: "app.v1"},
		},
		"endpoint/a/b/web": {
			Id: "endpoint/a/b/web", Addrs: []string{"[fd7a:115c:a1e0::7]:8443"}, IntervalMs: 10000, TimeoutMs: 2000,
			Check: &proxyapi.Check{
				Kind: "https", Path: "/healthz?deep=1", Host: "app.example", Expected: []*proxyapi.StatusRange{{Low: 200, High: 204}, {Low: 301, High: 301}},
			},
		},
	}
	if diff := cmp.Diff(wantProbes, probes, protocmp.Transform()); diff != "" {
		t.Errorf("probes (-want +got)\n%s", diff)
	}
}

func TestConfigOfATailnet(t *testing.T) {
	all := spoke.ProxyConfig{
		Version: 7, Cluster: "c1",
		Ingress:  []spoke.IngressVIP{{Tailnet: "acme", Service: "a"}, {Tailnet: "partner", Service: "p"}, {Service: "any"}},
		Egress:   []spoke.EgressPort{{Tailnet: "acme", Cluster: "a"}, {Tailnet: "partner", Cluster: "p"}, {Cluster: "any"}},
		Probes:   []spoke.Probe{{Tailnet: "acme", ID: "a"}, {Tailnet: "partner", ID: "p"}, {ID: "any"}},
		Released: []spoke.ProxyID{{Role: spoke.Ingress, Tailnet: "partner", Replica: 1}},
	}
	for name, tc := range map[string]struct {
		id   spoke.ProxyID
		want string
	}{
		"one":                       {spoke.ProxyID{Role: spoke.Ingress, Tailnet: "acme", Replica: 1}, "a any"},
		"another":                   {spoke.ProxyID{Role: spoke.Egress, Tailnet: "partner"}, "p any"},
		"the-only-one":              {spoke.ProxyID{Role: spoke.Egress}, "a p any"},
		"released":                  {spoke.ProxyID{Role: spoke.Ingress, Tailnet: "partner", Replica: 1}, ""},
		"egress-is-not-released":    {spoke.ProxyID{Role: spoke.Egress, Tailnet: "partner", Replica: 1}, "p any"},
		"one-that-nothing-concerns": {spoke.ProxyID{Role: spoke.Egress, Tailnet: "nobodys"}, "any"},
	} {
		t.Run(name, func(t *testing.T) {
			c := proxyserver.ToConfig(all, tc.id)
			var ingress, egress, probes []string
			for _, v := range c.GetIngress() {
				ingress = append(ingress, v.GetServiceName())
			}
			for _, e := range c.GetEgress() {
				egress = append(egress, e.GetCluster())
			}
			for _, p := range c.GetProbes() {
				probes = append(probes, p.GetId())
			}
			for _, got := range [][]string{ingress, egress, probes} {
				if text := strings.Join(got, " "); text != tc.want {
					t.Errorf("got %q, want %q", text, tc.want)
				}
			}
			if c.GetVersion() != 7 || c.GetCluster() != "c1" {
				t.Errorf("got %v", c)
			}
		})
	}
}
