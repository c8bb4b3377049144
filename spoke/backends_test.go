package spoke_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/spoke"
)

var apis = spoke.Name{Namespace: "production", Name: "apis"}

// onTailnet is an endpoint of a backend that is asked every second; two answers in a row count.
func onTailnet(name, addr string, weight uint32) spoke.BackendEndpoint {
	return spoke.BackendEndpoint{
		Name: name, Addr: netip.MustParseAddr(addr), Port: 80, TargetPort: 8080, Protocol: federation.TCP, App: federation.AppHTTP, Weight: weight,
		Check: &spoke.HealthCheck{Check: spoke.Check{Kind: spoke.CheckHTTP, Path: "/healthz"}, Interval: time.Second, Timeout: time.Second, Healthy: 2, Unhealthy: 2},
	}
}

// sent returns address, share and health of the endpoints of the backend's port.
func (b *bed) sent(port uint16) string {
	b.envoy.mu.Lock()
	defer b.envoy.mu.Unlock()
	es, ok := b.envoy.endpoints[spoke.Assignment{Backend: apis, Port: port}.String()]
	if !ok {
		return "none"
	}
	var out []string
	for _, e := range es {
		out = append(out, fmt.Sprintf("%s %d/%d %s", e.Addr, e.Priority, e.Weight, e.Health))
	}
	return strings.Join(out, ", ")
}

func (b *bed) wantSent(when string, port uint16, want string) {
	b.t.Helper()
	if got := b.sent(port); got != want {
		b.t.Errorf("%s: port %d is sent to\n%s, want\n%s", when, port, got, want)
	}
}

// checked has a replica of the egress proxy report on an endpoint, so many times, a second apart.
func (b *bed) checked(replica uint32, endpoint string, ok bool, times int) {
	b.t.Helper()
	for range times {
		time.Sleep(time.Second)
		r := spoke.ProbeResult{ID: "endpoint/production/apis/" + endpoint, Reachable: ok, At: time.Now()}
		if !ok {
			r.Error = "status-503"
		}
		b.must(b.ProxyReported(b.t.Context(), spoke.ProxyStatus{Role: spoke.Egress, Replica: replica, NodeID: "e", Applied: 1, Results: []spoke.ProbeResult{r}}))
	}
}

func TestBackends(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, stop := start(t, t.TempDir())
		defer stop()
		ctx := t.Context()
		b.must(b.ProxyOpened(ctx, spoke.ProxyID{Role: spoke.Egress}))
		b.must(b.ProxyOpened(ctx, spoke.ProxyID{Role: spoke.Egress, Replica: 1}))
		named := onTailnet("c", "100.64.1.3", 1)
		named.Addr, named.Host, named.Check, named.Port, named.TargetPort = netip.Addr{}, "db", nil, 443, 443
		backend := spoke.Backend{Name: apis, Endpoints: []spoke.BackendEndpoint{
			onTailnet("a", "100.64.1.1", 3), onTailnet("b", "100.64.1.2", 1), named, onTailnet("idle", "100.64.1.4", 0),
		}}
		b.must(b.SetBackend(ctx, backend))
		b.wantSent("before the first check", 80, "127.0.0.1:20000 0/3000 healthy, 127.0.0.1:20001 0/1000 healthy")
		b.wantSent("of a port of its own", 443, "127.0.0.1:20002 0/1000 healthy")
		want := []spoke.BackendPort{{Port: 80, App: federation.AppHTTP}, {Port: 443, App: federation.AppHTTP}}
		if d := cmp.Diff([]spoke.RoutedBackend{{Name: apis, Ports: want}}, b.envoy.structure.Backends); d != "" {
			t.Errorf("structure (-want +got)\n%s", d)
		}
		config, _ := b.ProxyConfig(spoke.Egress)
		var told []string
		for _, e := range config.Egress {
			told = append(told, fmt.Sprintf("%s to %s%s", e.Listen, e.Name, e.Remote))
		}
		if d := cmp.Diff([]string{
			"127.0.0.1:20000 to 100.64.1.1:8080", "127.0.0.1:20001 to 100.64.1.2:8080",
			"127.0.0.1:20002 to dbinvalid AddrPort", "127.0.0.1:20003 to 100.64.1.4:8080",
		}, told); d != "" {
			t.Errorf("egress (-want +got)\n%s", d)
		}
		if len(config.Probes) != 3 || config.Probes[0].Check.Path != "/healthz" {
			t.Errorf("probes %+v, want one for each endpoint that is checked", config.Probes)
		}

		b.checked(0, "a", false, 1)
		b.wantSent("after one failure", 80, "127.0.0.1:20000 0/3000 healthy, 127.0.0.1:20001 0/1000 healthy")
		b.checked(0, "a", false, 1)
		b.wantSent("after two", 80, "127.0.0.1:20000 0/3000 unhealthy, 127.0.0.1:20001 0/1000 healthy")
		b.checked(1, "a", true, 2)
		b.wantSent("while another replica reaches it", 80, "127.0.0.1:20000 0/3000 healthy, 127.0.0.1:20001 0/1000 healthy")
		b.must(b.ProxyClosed(ctx, spoke.ProxyID{Role: spoke.Egress, Replica: 1}))
		time.Sleep(time.Second)
		b.wantSent("when that replica is gone", 80, "127.0.0.1:20000 0/3000 unhealthy, 127.0.0.1:20001 0/1000 healthy")
		b.checked(0, "b", false, 2)
		b.wantSent("when all fail", 80, "127.0.0.1:20000 0/3000 degraded, 127.0.0.1:20001 0/1000 degraded")
		statuses, err := b.Backends(ctx)
		b.must(err)
		var health []string
		for _, e := range statuses[0].Endpoints {
			health = append(health, fmt.Sprintf("%s %s %s", e.Name, e.Health, e.Reason))
		}
		if d := cmp.Diff([]string{"a Unhealthy status-503", "b Unhealthy status-503", "c Disabled ", "idle Unknown "}, health); d != "" {
			t.Errorf("status (-want +got)\n%s", d)
		}

		backend.Endpoints = backend.Endpoints[:1]
		b.must(b.SetBackend(ctx, backend))
		b.wantSent("when the others were taken out", 80, "127.0.0.1:20000 0/3000 degraded")
		b.wantSent("when the others were taken out", 443, "none")
		b.must(b.RemoveBackend(ctx, apis))
		b.wantSent("when the object is gone", 80, "none")
	})
}

// TestBackendOutsideOfTheTailnet has an endpoint with an external target: the cluster sends to it itself, and to the other
// clusters' copies when the federation knows of it.
func TestBackendOutsideOfTheTailnet(t *testing.T) {
	b, _ := start(t, t.TempDir())
	ctx := t.Context()
	b.must(b.SetBackend(ctx, spoke.Backend{Name: apis, Endpoints: []spoke.BackendEndpoint{
		onTailnet("a", "100.64.1.1", 1),
		{Name: "webapp", Service: webapp, Port: 80, TargetPort: 80, Protocol: federation.TCP, Weight: 3},
	}}))
	b.wantSent("before its name is looked up", 80, "127.0.0.1:20000 0/1000 healthy")
	b.must(b.SetExternal(ctx, pods("192.0.2.1:8080", "192.0.2.2:8080")))
	b.wantSent("then", 80, "127.0.0.1:20000 0/1000 healthy, 192.0.2.1:8080 0/1500 healthy, 192.0.2.2:8080 0/1500 healthy")
	b.must(b.Apply(ctx, full(1, set("cluster1", "cluster2"), peer("cluster2"))))
	b.wantSent("when the federation knows it", 80, "127.0.0.1:20000 0/1000 healthy, 192.0.2.1:8080 0/1500 healthy, 192.0.2.2:8080 0/1500 healthy, 127.0.0.1:20001 1/3000 healthy")
	b.must(b.SetService(ctx, pods("10.1.0.1:8080")))
	b.wantSent("when a Service has its name", 80, "127.0.0.1:20000 0/1000 healthy, 10.1.0.1:8080 0/3000 healthy, 127.0.0.1:20001 1/3000 healthy")
	b.must(b.RemoveService(ctx, spoke.Name(pods().Name)))
	b.must(b.RemoveExternal(ctx, spoke.Name(pods().Name)))
	b.wantSent("when nothing is behind it here", 80, "127.0.0.1:20000 0/1000 healthy, 127.0.0.1:20001 0/3000 healthy")
}

// TestDatagrams has a port of both protocols: each is sent to its own endpoints.
func TestDatagrams(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, stop := start(t, t.TempDir())
		defer stop()
		b.must(b.ProxyOpened(t.Context(), spoke.ProxyID{Role: spoke.Egress}))
		tcp, udp := onTailnet("a", "100.64.1.1", 1), onTailnet("b", "100.64.1.2", 1)
		udp.Protocol, udp.Check = federation.UDP, nil
		b.must(b.SetBackend(t.Context(), spoke.Backend{Name: apis, Endpoints: []spoke.BackendEndpoint{tcp, udp}}))
		b.wantSent("of TCP", 80, "127.0.0.1:20000 0/1000 healthy")
		b.envoy.mu.Lock()
		defer b.envoy.mu.Unlock()
		es := b.envoy.endpoints[spoke.Assignment{Backend: apis, Port: 80, UDP: true}.String()]
		if len(es) != 1 || es[0].Addr != netip.MustParseAddrPort("127.0.0.1:20001") {
			t.Errorf("datagrams are sent to %v", es)
		}
		want := []spoke.RoutedBackend{{Name: apis, Ports: []spoke.BackendPort{{Port: 80, App: federation.AppHTTP}}, Datagrams: []uint16{80}}}
		if d := cmp.Diff(want, b.envoy.structure.Backends); d != "" {
			t.Errorf("structure (-want +got)\n%s", d)
		}
	})
}
