package spoke_test

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/federation/endpoints"
	"github.com/tailgate-project/tailgate/federation/linkstate"
	"github.com/tailgate-project/tailgate/spoke"
)

var (
	webapp  = federation.Service("production", "webapp")
	http80  = []federation.Port{{Name: "http", Port: 80, Protocol: federation.TCP}}
	equate  = cmpopts.EquateComparable(netip.Addr{}, netip.AddrPort{})
	gateway = spoke.Joined{
		TailscaleGateway: spoke.Name{Namespace: "production", Name: "ts"}, Gateway: spoke.Name{Namespace: "production", Name: "main"},
		Tailnets: []spoke.JoinedTailnet{{Name: "production", Ref: "acme"}}, Listeners: []spoke.Listener{{Name: "http", Port: 80}},
	}
)

// envoy is an extension that remembers what it was last given.
type envoy struct {
	mu        sync.Mutex
	structure spoke.Structure
	endpoints map[string][]spoke.Endpoint
	pushes    int
}

func (e *envoy) SetStructure(s spoke.Structure) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.structure = s
}

func (e *envoy) SetEndpoints(changes map[spoke.Assignment][]spoke.Endpoint) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.endpoints == nil {
		e.endpoints = map[string][]spoke.Endpoint{}
	}
	e.pushes++
	for a, es := range changes {
		e.endpoints[a.String()] = es
		if es == nil {
			delete(e.endpoints, a.String())
		}
	}
}

// brief returns cluster:health of an assignment's endpoints in their order.
func (e *envoy) brief(a spoke.Assignment) string {
	e.mu.Lock()
	defer e.mu.Unlock()
	var out []string
	for _, ep := range e.endpoints[a.String()] {
		out = append(out, string(ep.Cluster)+":"+ep.Health.String())
	}
	return strings.Join(out, " ")
}

type bed struct {
	t     *testing.T
	dir   string
	envoy *envoy
	*spoke.Spoke
}

// start runs a spoke in cluster1 until the test ends or stop is called. The edits change its configuration.
func start(t *testing.T, dir string, edits ...func(*spoke.Config)) (b *bed, stop func()) {
	t.Helper()
	b = &bed{t: t, dir: dir, envoy: &envoy{}}
	c := spoke.Config{
		Cluster: "cluster1", StateDir: dir, EgressAddr: netip.MustParseAddr("127.0.0.1"),
		EgressPorts: spoke.PortRange{Low: 20000, High: 20003}, Extension: b.envoy, Log: slog.New(slog.DiscardHandler),
	}
	for _, edit := range edits {
		edit(&c)
	}
	var err error
	b.Spoke, err = spoke.New(c)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- b.Run(ctx) }()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run: %v", err)
		}
	}
	t.Cleanup(stop)
	return b, stop
}

func (b *bed) must(err error) {
	b.t.Helper()
	if err != nil {
		b.t.Fatal(err)
	}
}

func set(clusters ...federation.ClusterID) linkstate.Resource {
	s := &federation.EndpointSet{Consumer: "cluster1", Service: webapp}
	for i, c := range clusters {
		s.Endpoints = append(s.Endpoints, federation.Endpoint{
			Cluster: c, Addr: netip.AddrFrom4([4]byte{100, 100, 0, c[len(c)-1] - '0'}), Ports: http80, Priority: uint32(i), Weight: 1,
		})
	}
	return linkstate.Resource{EndpointSet: s}
}

func peer(c federation.ClusterID) linkstate.Resource {
	return linkstate.Resource{Peer: &federation.Peer{
		Cluster: c, Ingress: []netip.AddrPort{netip.AddrPortFrom(netip.AddrFrom4([4]byte{100, 64, 0, c[len(c)-1] - '0'}), 9440)},
	}}
}

func full(version uint64, rs ...linkstate.Resource) linkstate.Update {
	return linkstate.Update{Epoch: 1, Version: version, Full: true, Upserts: rs}
}

func pods(addrs ...string) spoke.Service {
	svc := spoke.Service{Name: spoke.Name{Namespace: "production", Name: "webapp"}, Ports: []spoke.ServicePort{{Port: http80[0]}}}
	for _, a := range addrs {
		svc.Ports[0].Ready = append(svc.Ports[0].Ready, netip.MustParseAddrPort(a))
	}
	return svc
}

func (b *bed) probed(id string, reachable bool) {
	b.t.Helper()
	b.must(b.ProxyReported(b.t.Context(), spoke.ProxyStatus{
		Role: spoke.Egress, NodeID: "e", Applied: 1, Results: []spoke.ProbeResult{{ID: id, Reachable: reachable, At: time.Now()}},
	}))
}

func in(c federation.ClusterID) spoke.Assignment {
	return spoke.Assignment{Service: webapp, Cluster: c}
}

func TestOwnProbesCountAtOnceAndRecoverSlowly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, stop := start(t, t.TempDir())
		defer stop()
		ctx := t.Context()
		b.must(b.SetJoined(ctx, gateway))
		b.must(b.Apply(ctx, full(1, set("cluster2", "cluster3"), peer("cluster2"), peer("cluster3"))))
		want := func(at, text string) {
			t.Helper()
			if got := b.envoy.brief(in("cluster2")); got != text {
				t.Errorf("%s: endpoints %q, want %q", at, got, text)
			}
		}
		resets := func() (out []federation.ClusterID) {
			config, _ := b.ProxyConfig(spoke.Egress)
			for _, e := range config.Egress {
				if e.Reset {
					out = append(out, e.Cluster)
				}
			}
			return out
		}
		want("at first", "cluster2:healthy cluster3:healthy")
		b.probed("cluster/cluster2", true)
		structure, pushes := b.envoy.structure, b.envoy.pushes

		b.probed("cluster/cluster2", false)
		want("after the failed probe", "cluster2:unhealthy cluster3:healthy")
		if d := cmp.Diff([]federation.ClusterID{"cluster2"}, resets()); d != "" {
			t.Errorf("resets (-want +got)\n%s", d)
		}
		if b.envoy.pushes != pushes+1 {
			t.Errorf("%d pushes for one failure, want 1", b.envoy.pushes-pushes)
		}
		for range 5 { // 2.5 s of good probes are not enough
			b.probed("cluster/cluster2", true)
			time.Sleep(500 * time.Millisecond)
		}
		want("after 2.5 s of good probes", "cluster2:unhealthy cluster3:healthy")
		b.probed("cluster/cluster2", true)
		time.Sleep(600 * time.Millisecond)
		want("after 3.1 s of good probes", "cluster2:healthy cluster3:healthy")
		if len(resets()) != 0 {
			t.Errorf("still reset: %v", resets())
		}
		if d := cmp.Diff(structure, b.envoy.structure, equate); d != "" {
			t.Errorf("the failover changed the structure\n%s", d)
		}
		st, err := b.Status(ctx)
		b.must(err)
		if len(st.Decisions) != 2 || st.Decisions[0].Reason != endpoints.ReasonUnreachableHere {
			t.Errorf("decisions: %+v", st.Decisions)
		}
	})
}

func TestNewClusterIsUsedWithItsFirstAnswer(t *testing.T) {
	b, _ := start(t, t.TempDir())
	b.must(b.Apply(t.Context(), full(1, set("cluster2", "cluster3"), peer("cluster2"), peer("cluster3"))))
	b.probed("cluster/cluster2", false)
	b.probed("cluster/cluster2", true)
	if got := b.envoy.brief(in("")); got != "cluster2:healthy cluster3:healthy" {
		t.Errorf("endpoints %q", got)
	}
}

func TestResultsThatGrowOldCountNoMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, stop := start(t, t.TempDir())
		defer stop()
		b.must(b.Apply(t.Context(), full(1, set("cluster2", "cluster3"), peer("cluster2"), peer("cluster3"))))
		b.probed("cluster/cluster2", false)
		time.Sleep(4 * time.Second)
		synctest.Wait()
		if got := b.envoy.brief(in("")); got != "cluster2:healthy cluster3:healthy" {
			t.Errorf("endpoints %q", got)
		}
		if r, _ := b.LastReport(); len(r.Observations) != 0 {
			t.Errorf("old observations are reported: %v", r.Observations)
		}
	})
}

func TestFailOpenWhenNothingAnswers(t *testing.T) {
	b, _ := start(t, t.TempDir())
	b.must(b.Apply(t.Context(), full(1, set("cluster2", "cluster3"), peer("cluster2"), peer("cluster3"))))
	b.probed("cluster/cluster2", false)
	b.probed("cluster/cluster3", false)
	if got := b.envoy.brief(in("")); got != "cluster2:degraded cluster3:degraded" {
		t.Errorf("endpoints %q", got)
	}
}

func TestOwnExportIsItsPods(t *testing.T) {
	b, _ := start(t, t.TempDir())
	ctx := t.Context()
	b.must(b.SetService(ctx, pods("10.1.0.1:8080", "10.1.0.2:8080")))
	b.must(b.Apply(ctx, full(1, set("cluster1", "cluster2"), peer("cluster2"))))
	want := func(a spoke.Assignment, text string) {
		t.Helper()
		if got := b.envoy.brief(a); got != text {
			t.Errorf("%s: %q, want %q", a, got, text)
		}
	}
	want(in(""), "cluster1:healthy cluster1:healthy cluster2:healthy")
	want(in("cluster2"), "cluster2:healthy cluster1:healthy cluster1:healthy")
	wantEndpoints := []spoke.Endpoint{
		{Addr: netip.MustParseAddrPort("10.1.0.1:8080"), Priority: 0, Weight: 1, Cluster: "cluster1"},
		{Addr: netip.MustParseAddrPort("10.1.0.2:8080"), Priority: 0, Weight: 1, Cluster: "cluster1"},
		{Addr: netip.MustParseAddrPort("127.0.0.1:20000"), Priority: 1, Weight: 1, Cluster: "cluster2"},
	}
	if d := cmp.Diff(wantEndpoints, b.envoy.endpoints[in("").String()], equate); d != "" {
		t.Errorf("(-want +got)\n%s", d)
	}
	b.must(b.SetService(ctx, pods())) // no hub is needed to see that the pods are gone
	want(in(""), "cluster2:healthy")
	if p := b.envoy.endpoints[in("").String()][0].Priority; p != 0 {
		t.Errorf("a gap was left: the first priority is %d", p)
	}
	b.probed("cluster/cluster2", false)
	want(in(""), "cluster2:degraded")
	b.must(b.SetService(ctx, pods("10.1.0.1:8080")))
	want(in(""), "cluster1:healthy cluster2:unhealthy")
}

func TestIngressOfServicesAndListeners(t *testing.T) {
	b, _ := start(t, t.TempDir())
	ctx := t.Context()
	b.must(b.SetService(ctx, pods("10.1.0.1:8080")))
	b.must(b.SetService(ctx, spoke.Service{
		Name: spoke.Name{Namespace: "envoy-gateway-system", Name: "envoy-x"}, Gateway: gateway.Gateway,
		Ports: []spoke.ServicePort{{Port: http80[0], Ready: []netip.AddrPort{netip.MustParseAddrPort("10.1.0.9:10080")}}},
	}))
	vip := func(id federation.ServiceID, name string) linkstate.Resource {
		return linkstate.Resource{VIP: &federation.VIP{Owner: federation.ExportKey{Cluster: "cluster1", Service: id}, ServiceName: name, Ports: http80}}
	}
	b.must(b.Apply(ctx, full(1, vip(webapp, "webapp-c1"), vip(federation.Listener("production", "main", "http"), "main-c1"),
		vip(federation.Service("production", "gone"), "gone-c1"))))
	config, _ := b.ProxyConfig(spoke.Ingress)
	got := map[string][]netip.AddrPort{}
	for _, v := range config.Ingress {
		got[v.Service] = v.Ports[0].Ready
	}
	want := map[string][]netip.AddrPort{
		"webapp-c1": {netip.MustParseAddrPort("10.1.0.1:8080")}, "main-c1": {netip.MustParseAddrPort("10.1.0.9:10080")}, "gone-c1": nil,
	}
	if d := cmp.Diff(want, got, equate); d != "" {
		t.Errorf("(-want +got)\n%s", d)
	}
	version := config.Version
	b.must(b.SetService(ctx, pods("10.1.0.1:8080")))
	if config, _ = b.ProxyConfig(spoke.Ingress); config.Version != version {
		t.Error("a change that says nothing new was published")
	}
}

func TestStartsFromTheLastSnapshot(t *testing.T) {
	dir := t.TempDir()
	b, stop := start(t, dir)
	b.must(b.Apply(t.Context(), full(7, set("cluster2", "cluster3"), peer("cluster2"))))
	config, _ := b.ProxyConfig(spoke.Egress)
	waitFile(t, filepath.Join(dir, "snapshot.json"))
	stop()

	again, stop := start(t, dir)
	epoch, version, err := again.Position(t.Context())
	again.must(err)
	if epoch != 1 || version != 7 {
		t.Errorf("position %d/%d, want 1/7", epoch, version)
	}
	if got := again.envoy.brief(in("cluster3")); got != "cluster3:healthy cluster2:healthy" {
		t.Errorf("endpoints %q", got)
	}
	after, _ := again.ProxyConfig(spoke.Egress)
	if d := cmp.Diff(config.Egress, after.Egress, equate); d != "" {
		t.Errorf("egress ports moved (-before +after)\n%s", d)
	}
	if st, err := again.Status(t.Context()); err != nil || st.Link.Up || st.Link.Since.IsZero() {
		t.Errorf("link %+v, %v: want down since a time", st.Link, err)
	}
	stop()
}

func waitFile(t *testing.T, path string) {
	t.Helper()
	deadline := time.NewTimer(2 * time.Minute)
	defer deadline.Stop()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		if _, err := os.Stat(path); err == nil {
			return
		}
		select {
		case <-deadline.C:
			t.Fatalf("no %s after 10 s", path)
		case <-tick.C:
		}
	}
}

func TestUnreadableSnapshotIsNamedAndNotFatal(t *testing.T) {
	for name, content := range map[string]string{
		"not-json": "\x00\x01", "newer-format": `{"Format":99}`, "other-cluster": `{"Format":1,"Cluster":"cluster9","Epoch":1,"Version":1}`,
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, "snapshot.json")
			if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
			b, _ := start(t, dir)
			st, err := b.Status(t.Context())
			b.must(err)
			if p := st.Problems["last snapshot"]; !strings.Contains(p, path) || !strings.Contains(p, "started without it") {
				t.Errorf("problem %q: want the file's name and what was done", p)
			}
		})
	}
}

func TestOlderEpochIsRefused(t *testing.T) {
	b, _ := start(t, t.TempDir())
	b.must(b.Apply(t.Context(), linkstate.Update{Epoch: 5, Version: 1, Full: true, Upserts: []linkstate.Resource{set("cluster2")}}))
	err := b.Apply(t.Context(), linkstate.Update{Epoch: 4, Version: 9, Full: true})
	if !errors.Is(err, linkstate.ErrOldEpoch) {
		t.Errorf("error %v", err)
	}
	if got := b.envoy.brief(in("")); got != "cluster2:healthy" {
		t.Errorf("endpoints %q", got)
	}
}

func TestEgressPortsAreNotGivenToAnotherSoon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, stop := start(t, t.TempDir())
		defer stop()
		ctx := t.Context()
		listen := func() (out []string) {
			config, _ := b.ProxyConfig(spoke.Egress)
			for _, e := range config.Egress {
				out = append(out, string(e.Cluster)+" "+e.Listen.String())
			}
			return out
		}
		b.must(b.Apply(ctx, full(1, set("cluster2", "cluster3"))))
		b.must(b.Apply(ctx, full(2, set("cluster4"))))
		if d := cmp.Diff([]string{"cluster4 127.0.0.1:20002"}, listen()); d != "" {
			t.Errorf("while the others rest (-want +got)\n%s", d)
		}
		time.Sleep(11 * time.Minute)
		b.must(b.Apply(ctx, full(3, set("cluster4", "cluster5"))))
		b.must(b.Apply(ctx, full(4, set("cluster4", "cluster5", "cluster6"))))
		want := []string{"cluster4 127.0.0.1:20002", "cluster5 127.0.0.1:20000", "cluster6 127.0.0.1:20001"}
		if d := cmp.Diff(want, listen()); d != "" {
			t.Errorf("after the rest (-want +got)\n%s", d)
		}
		b.must(b.Apply(ctx, full(5, set("cluster4", "cluster5", "cluster6", "cluster7", "cluster8"))))
		st, err := b.Status(ctx)
		b.must(err)
		if p := st.Problems["egress ports"]; !strings.Contains(p, "--egress-ports") {
			t.Errorf("problem %q: want the flag to widen", p)
		}
	})
}

func TestHostsAreUnknownUntilAnIngressProxyIsHeard(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, stop := start(t, t.TempDir())
		defer stop()
		ctx := t.Context()
		if r, _ := b.LastReport(); r.HostsKnown {
			t.Error("a spoke that has just started knows its hosts")
		}
		addr := netip.MustParseAddrPort("100.64.0.7:9440")
		b.must(b.ProxyOpened(ctx, spoke.ProxyID{Role: spoke.Ingress}))
		b.must(b.ProxyReported(ctx, spoke.ProxyStatus{Role: spoke.Ingress, NodeID: "n7", Addr: addr}))
		r, _ := b.LastReport()
		if d := cmp.Diff([]spoke.Host{{NodeID: "n7", Addr: addr}}, r.Hosts, equate); d != "" || !r.HostsKnown {
			t.Errorf("hosts (-want +got)\n%s", d)
		}
		b.must(b.ProxyClosed(ctx, spoke.ProxyID{Role: spoke.Ingress}))
		if r, _ = b.LastReport(); len(r.Hosts) != 1 {
			t.Error("dropped before the grace time")
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if r, _ = b.LastReport(); len(r.Hosts) != 0 || !r.HostsKnown {
			t.Errorf("a proxy that is gone is still a host: %+v", r)
		}
	})
}

func TestRevisionsFollowTheStructureOnly(t *testing.T) {
	b, _ := start(t, t.TempDir())
	ctx := t.Context()
	policy := func() spoke.Policy {
		t.Helper()
		ps, err := b.Policies(ctx)
		b.must(err)
		if len(ps) != 1 {
			t.Fatalf("%d policies, want 1", len(ps))
		}
		return ps[0]
	}
	b.must(b.SetJoined(ctx, gateway))
	b.must(b.Apply(ctx, full(1, set("cluster2", "cluster3"), peer("cluster2"))))
	first := policy()
	b.must(b.SetRevision(ctx, gateway.TailscaleGateway, 4))
	if got := b.envoy.structure.Gateways[0].Revision; got != 4 {
		t.Errorf("the structure has revision %d, want 4", got)
	}
	b.probed("cluster/cluster2", false)
	if got := policy(); got.Hash != first.Hash {
		t.Error("a failover or a revision changed the hash")
	}
	b.must(b.Apply(ctx, full(2, set("cluster2"), peer("cluster2"))))
	if got := policy(); got.Hash == first.Hash {
		t.Error("a cluster left and the hash is the same")
	}
	b.must(b.Hooked(ctx, spoke.HookCall{Policy: gateway.TailscaleGateway.String(), Revision: 4}))
	if got := policy(); got.Seen != 4 {
		t.Errorf("seen %d, want 4", got.Seen)
	}
	b.must(b.RemoveJoined(ctx, gateway.TailscaleGateway))
	if ps, err := b.Policies(ctx); err != nil || len(ps) != 0 {
		t.Errorf("policies %v, %v after the TailscaleGateway left", ps, err)
	}
}
