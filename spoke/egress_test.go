package spoke_test

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/spoke"
)

// replicas has the egress proxies be pods behind a Service.
func replicas(c *spoke.Config) {
	c.EgressAddr, c.EgressPods = netip.IPv4Unspecified(), true
}

// egressPods says which of them Kubernetes calls ready.
func (b *bed) egressPods(addrs ...string) {
	b.t.Helper()
	b.egressPodsOf("", addrs...)
}

// egressPodsOf is egressPods for one of several tailnets.
func (b *bed) egressPodsOf(tailnet string, addrs ...string) {
	b.t.Helper()
	svc := spoke.Service{Name: spoke.Name{Namespace: "tailgate-system", Name: "egress" + tailnet}, Proxies: spoke.ProxySet{Role: spoke.Egress, Tailnet: tailnet}, Ports: []spoke.ServicePort{{Port: federation.Port{Name: "status", Port: 8086, Protocol: federation.TCP}}}}
	for _, a := range addrs {
		svc.Ports[0].Ready = append(svc.Ports[0].Ready, netip.AddrPortFrom(netip.MustParseAddr(a), 8086))
	}
	b.must(b.SetService(b.t.Context(), svc))
}

func (b *bed) replica(i uint32, addr string, draining bool) {
	b.t.Helper()
	b.must(b.ProxyReported(b.t.Context(), spoke.ProxyStatus{
		Role: spoke.Egress, Replica: i, NodeID: fmt.Sprint("e", i), Applied: 1, Listen: netip.MustParseAddr(addr), Draining: draining,
	}))
}

// led returns where a service is sent, as address:port*weight.
func (b *bed) led() string {
	b.envoy.mu.Lock()
	defer b.envoy.mu.Unlock()
	var out []string
	for _, e := range b.envoy.endpoints[in("").String()] {
		out = append(out, fmt.Sprintf("%s*%d", e.Addr, e.Weight))
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

func TestEgressReplicas(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, stop := start(t, t.TempDir(), replicas)
		defer stop()
		ctx := t.Context()
		want := func(when, text string) {
			t.Helper()
			if got := b.led(); got != text {
				t.Errorf("%s: sent to %q, want %q", when, got, text)
			}
		}
		b.must(b.Apply(ctx, full(1, set("cluster2"), peer("cluster2"))))
		want("no replica", "")
		b.egressPods("10.0.0.1", "10.0.0.2")
		want("Kubernetes knows two, and neither was heard yet", "10.0.0.1:20000*1 10.0.0.2:20000*1")
		for i, a := range []string{"10.0.0.1", "10.0.0.2", "10.0.0.3"} {
			b.must(b.ProxyOpened(ctx, spoke.ProxyID{Role: spoke.Egress, Replica: uint32(i)}))
			b.replica(uint32(i), a, false)
		}
		want("a third is heard before Kubernetes knows it", "10.0.0.1:20000*1 10.0.0.2:20000*1 10.0.0.3:20000*1")
		b.egressPods("10.0.0.1", "10.0.0.2", "10.0.0.3")

		b.egressPods("10.0.0.1", "10.0.0.2")
		want("Kubernetes is about to end one, which has not been told yet", "10.0.0.1:20000*1 10.0.0.2:20000*1")
		b.replica(2, "10.0.0.3", false)
		want("and it goes on to be heard", "10.0.0.1:20000*1 10.0.0.2:20000*1")
		b.egressPods("10.0.0.1", "10.0.0.2", "10.0.0.3")
		want("and it is ready again", "10.0.0.1:20000*1 10.0.0.2:20000*1 10.0.0.3:20000*1")

		b.must(b.ProxyClosed(ctx, spoke.ProxyID{Role: spoke.Egress}))
		time.Sleep(time.Second)
		synctest.Wait()
		want("one is dead, and Kubernetes has not noticed", "10.0.0.2:20000*1 10.0.0.3:20000*1")
		b.replica(1, "10.0.0.2", true)
		want("another one drains", "10.0.0.3:20000*1")
		b.must(b.ProxyClosed(ctx, spoke.ProxyID{Role: spoke.Egress, Replica: 1}))
		b.must(b.ProxyClosed(ctx, spoke.ProxyID{Role: spoke.Egress, Replica: 2}))
		time.Sleep(time.Second)
		synctest.Wait()
		want("none is heard any more: better all than none", "10.0.0.1:20000*1 10.0.0.2:20000*1 10.0.0.3:20000*1")

		b.egressPods("10.0.0.2")
		want("Kubernetes knows one", "10.0.0.2:20000*1")
		b.egressPods("10.0.0.1", "10.0.0.2")
		want("the dead one's address is another pod's", "10.0.0.1:20000*1")
		b.must(b.SetService(ctx, pods("10.1.0.1:8080", "10.1.0.2:8080", "10.1.0.3:8080")))
		b.egressPods("10.0.0.4", "10.0.0.5")
		own := set("cluster1", "cluster2")
		own.EndpointSet.Endpoints[0].Weight, own.EndpointSet.Endpoints[1].Weight, own.EndpointSet.Endpoints[1].Priority = 1, 3, 0
		b.must(b.Apply(ctx, full(2, own, peer("cluster2"))))
		want("a quarter of the requests stays, whatever the numbers of pods and replicas",
			"10.0.0.4:20000*9 10.0.0.5:20000*9 10.1.0.1:8080*2 10.1.0.2:8080*2 10.1.0.3:8080*2")
	})
}

func TestEgressOfSeveralTailnets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, stop := start(t, t.TempDir(), replicas)
		defer stop()
		ctx := t.Context()
		s := set("cluster2", "cluster3")
		s.EndpointSet.Endpoints[0].TailnetRef, s.EndpointSet.Endpoints[1].TailnetRef = "acme", "partner"
		b.must(b.Apply(ctx, full(1, s, peer("cluster2"), peer("cluster3"))))
		b.egressPodsOf("acme", "10.0.0.1")
		if got := b.led(); got != "10.0.0.1:20000*1" {
			t.Errorf("without proxies in one of the tailnets: sent to %q", got)
		}
		b.egressPodsOf("partner", "10.0.0.2", "10.0.0.3")
		if got := b.led(); got != "10.0.0.1:20000*1 10.0.0.2:20001*1 10.0.0.3:20001*1" {
			t.Errorf("sent to %q", got)
		}
		// The replicas of both have the same ordinals. What one tailnet's cannot reach, the other's may.
		at := func(tailnet, id string, reachable bool) {
			b.must(b.ProxyReported(ctx, spoke.ProxyStatus{
				Role: spoke.Egress, Tailnet: tailnet, NodeID: tailnet, Applied: 1, Listen: netip.MustParseAddr("10.0.0.1"),
				Results: []spoke.ProbeResult{{ID: id, Reachable: reachable, At: time.Now()}},
			}))
		}
		for _, tailnet := range []string{"acme", "partner"} {
			b.must(b.ProxyOpened(ctx, spoke.ProxyID{Role: spoke.Egress, Tailnet: tailnet}))
		}
		at("acme", "cluster/cluster3", false)
		at("partner", "cluster/cluster3", true)
		at("acme", "cluster/cluster3", false)
		st, err := b.Status(ctx)
		b.must(err)
		for _, p := range st.Probes {
			if p.Target == "cluster3" && (p.Unreachable || !p.Reachable) {
				t.Errorf("one tailnet's proxies reach it and it is %+v", p)
			}
		}
	})
}
