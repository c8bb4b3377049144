package spoke_test

import (
	"net/netip"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/federation/linkstate"
	"github.com/tailgate-project/tailgate/spoke"
)

// TestFederatedVIPBesideTheOwn has the cluster serve a service under its own VIP and under the federated one, which the
// hub then gives to others, and gives back.
func TestFederatedVIPBesideTheOwn(t *testing.T) {
	dir := t.TempDir()
	b, stop := start(t, dir)
	ctx := t.Context()
	b.must(b.SetService(ctx, pods("10.1.0.1:8080")))
	vip := func(owner federation.ClusterID, name string, addr string) linkstate.Resource {
		return linkstate.Resource{VIP: &federation.VIP{
			Owner: federation.ExportKey{Cluster: owner, Service: webapp}, Name: name, ServiceName: name + "-s", Ports: http80,
			Addrs: []netip.Addr{netip.MustParseAddr(addr)},
		}}
	}
	own, federated := vip("cluster1", "local", "100.100.0.1"), vip("", "federated", "100.100.0.2")
	want := func(b *bed, services ...string) {
		t.Helper()
		config, _ := b.ProxyConfig(spoke.Ingress)
		got := map[string][]netip.AddrPort{}
		for _, v := range config.Ingress {
			got[v.Service] = v.Ports[0].Ready
		}
		hosts := map[string][]netip.AddrPort{}
		for _, name := range services {
			hosts[name] = []netip.AddrPort{netip.MustParseAddrPort("10.1.0.1:8080")}
		}
		if d := cmp.Diff(hosts, got, equate); d != "" {
			t.Errorf("hosted (-want +got)\n%s", d)
		}
		st, err := b.Status(ctx)
		b.must(err)
		if len(st.VIPs) != 1 || st.VIPs[0].Name != "local" || len(st.FederatedVIPs) != len(services)-1 {
			t.Errorf("own VIPs %v, federated ones %v", st.VIPs, st.FederatedVIPs)
		}
	}
	b.must(b.Apply(ctx, full(1, own, federated)))
	want(b, "local-s", "federated-s")
	waitFile(t, filepath.Join(dir, "snapshot.json"))
	stop()

	b, _ = start(t, dir)
	b.must(b.SetService(ctx, pods("10.1.0.1:8080")))
	want(b, "local-s", "federated-s")
	b.must(b.Apply(ctx, linkstate.Update{Epoch: 1, Version: 2, Base: 1, Removed: []string{federated.Key()}}))
	want(b, "local-s")
	b.must(b.Apply(ctx, linkstate.Update{Epoch: 1, Version: 3, Base: 2, Upserts: []linkstate.Resource{federated}}))
	want(b, "local-s", "federated-s")
}
