package spoke_test

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/federation/linkstate"
	"github.com/tailgate-project/tailgate/spoke"
)

func TestVIPServices(t *testing.T) {
	b, _ := start(t, t.TempDir())
	ctx := t.Context()
	b.must(b.SetJoined(ctx, gateway))
	b.must(b.SetService(ctx, pods("10.1.0.1:8080")))
	owned := func(owner federation.ClusterID, name, addr string) linkstate.Resource {
		return linkstate.Resource{VIP: &federation.VIP{
			Owner: federation.ExportKey{Cluster: owner, Service: webapp}, Name: name, ServiceName: name + "-s", Tailnet: "production", Ports: http80,
			Addrs: []netip.Addr{netip.MustParseAddr(addr)},
		}}
	}
	if none, err := b.VIPs(ctx); err != nil || none.Known {
		t.Errorf("before the hub was heard: %v, %v", none, err)
	}
	own, federated := owned("cluster1", "local-production-webapp", "100.100.0.8"), owned("", "federated-production-webapp", "100.100.0.9")
	b.must(b.Apply(ctx, full(1, own, federated, set("cluster1", "cluster2"), peer("cluster2"))))

	addrs := func(texts ...string) (out []netip.AddrPort) {
		for _, x := range texts {
			out = append(out, netip.MustParseAddrPort(x))
		}
		return out
	}
	vip := func(cluster federation.ClusterID, name, addr, target string, backends ...string) spoke.VIPService {
		v := spoke.VIPService{
			Cluster: cluster, Service: webapp, Name: name, Addrs: []netip.Addr{netip.MustParseAddr(addr)}, Target: target,
			Ports: []spoke.VIPPort{{Port: http80[0], Backends: addrs(backends...)}},
		}
		if name != "" {
			v.TailscaleService, v.Tailnet = name+"-s", "production"
		}
		return v
	}
	want := func(when string, vips ...spoke.VIPService) {
		t.Helper()
		got, err := b.VIPs(ctx)
		b.must(err)
		if d := cmp.Diff(vips, got.Services, equate); d != "" {
			t.Errorf("%s (-want +got)\n%s", when, d)
		}
		if !got.Known || len(got.Joined) != 1 || got.Joined[0].TailscaleGateway != gateway.TailscaleGateway {
			t.Errorf("%s: known %v, joined %v", when, got.Known, got.Joined)
		}
	}
	everywhere, here := "every cluster that serves production/webapp", "webapp.production.svc.cluster.local"
	want("all serve", vip("", "federated-production-webapp", "100.100.0.9", everywhere, "10.1.0.1:8080"),
		vip("cluster1", "local-production-webapp", "100.100.0.8", here, "10.1.0.1:8080"), vip("cluster2", "", "100.100.0.2", "cluster2", "127.0.0.1:20000"))
	b.must(b.SetService(ctx, pods()))
	want("the own pods are gone", vip("", "federated-production-webapp", "100.100.0.9", everywhere, "127.0.0.1:20000"),
		vip("cluster1", "local-production-webapp", "100.100.0.8", here), vip("cluster2", "", "100.100.0.2", "cluster2", "127.0.0.1:20000"))
	b.probed("cluster/cluster2", false)
	want("and the other cluster too: its VIP stays", vip("", "federated-production-webapp", "100.100.0.9", everywhere, "127.0.0.1:20000"),
		vip("cluster1", "local-production-webapp", "100.100.0.8", here), vip("cluster2", "", "100.100.0.2", "cluster2", "127.0.0.1:20000"))
	b.must(b.Apply(ctx, full(2, federated, set("cluster1"))))
	want("VIPs that are gone", vip("", "federated-production-webapp", "100.100.0.9", everywhere))
}
