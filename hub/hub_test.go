package hub_test

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/federation/ledger"
	"github.com/tailgate-project/tailgate/federation/linkstate"
	"github.com/tailgate-project/tailgate/hub"
	"github.com/tailgate-project/tailgate/hub/store/bolt"
)

var (
	webapp = federation.Service("default", "webapp")
	equal  = cmp.Options{cmpopts.EquateComparable(netip.Addr{}, netip.AddrPort{}), cmpopts.EquateEmpty()}

	errNoTailnet = errors.New("no tailnet")
)

// tailnet is a provider that gives addresses in the order of asking.
type tailnet struct {
	mu      sync.Mutex
	vips    map[string]federation.VIP
	fail    error // the answer of EnsureVIP, if not nil
	asked   int
	deleted []string
}

func (p *tailnet) EnsureVIP(_ context.Context, v federation.VIP) ([]netip.Addr, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.asked++
	if p.fail != nil {
		return nil, p.fail
	}
	if old, ok := p.vips[v.ServiceName]; ok {
		return old.Addrs, nil
	}
	if p.vips == nil {
		p.vips = map[string]federation.VIP{}
	}
	v.Addrs = []netip.Addr{netip.AddrFrom4([4]byte{100, 100, 0, byte(len(p.vips) + 1)})}
	p.vips[v.ServiceName] = v
	return v.Addrs, nil
}

func (p *tailnet) DeleteVIP(_ context.Context, v federation.VIP) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.vips, v.ServiceName)
	p.deleted = append(p.deleted, v.ServiceName)
	return nil
}

func (p *tailnet) ListVIPs(context.Context) ([]federation.VIP, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []federation.VIP
	for _, v := range p.vips {
		out = append(out, v)
	}
	return out, nil
}

func (p *tailnet) Refusal(_ federation.VIP, err error) (federation.Notice, bool) {
	return federation.Notice{Subject: "tailnet/production", Reason: "TailnetNotFound", Message: err.Error()}, errors.Is(err, errNoTailnet)
}

func (p *tailnet) failWith(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.fail = err
}

// calls returns how often a VIP was asked for, and what was deleted.
func (p *tailnet) calls() (asked int, deleted []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.asked, slices.Clone(p.deleted)
}

// pass lets the bubble's time pass, and everybody finish what they do then.
func pass(d time.Duration) {
	time.Sleep(d) // no wall time: the bubble's clock jumps
	synctest.Wait()
}

// rig is a running hub on a store in a file.
type rig struct {
	*testing.T
	*hub.Hub
	db       *bolt.DB
	path     string
	provider *tailnet
	stop     func()
}

func start(t *testing.T, path string, p *tailnet) *rig {
	t.Helper()
	db, err := bolt.Open(path, bolt.Options{NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	h, err := hub.New(t.Context(), hub.Config{Store: db, Provider: p, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- h.Run(ctx) }()
	var once sync.Once
	if err := h.Expect(ctx, nil); err != nil { // nobody but those whom the test joins
		t.Fatal(err)
	}
	r := &rig{T: t, Hub: h, db: db, path: path, provider: p, stop: func() {
		once.Do(func() {
			cancel()
			if err := <-done; err != nil {
				t.Errorf("Run: %v", err)
			}
			if err := errors.Join(db.Check(context.WithoutCancel(ctx)), db.Close()); err != nil {
				t.Error(err)
			}
		})
	}}
	t.Cleanup(r.stop)
	return r
}

func (r *rig) must(err error) {
	r.Helper()
	if err != nil {
		r.Fatal(err)
	}
}

// members joins clusters that refer to every service.
func (r *rig) members(ids ...federation.ClusterID) {
	r.Helper()
	for _, c := range ids {
		r.must(r.Joined(r.Context(), c, federation.Locality{}))
		r.must(r.Interest(r.Context(), c, federation.Interest{All: true}))
		r.must(r.LinkState(r.Context(), c, true))
		r.must(r.Hosts(r.Context(), c, []ledger.Host{{NodeID: "n" + string(c), Addr: "100.64.0.9:9440"}}))
	}
}

func (r *rig) export(c federation.ClusterID, ready int) {
	r.Helper()
	r.must(r.SetExport(r.Context(), federation.Export{
		Key: federation.ExportKey{Cluster: c, Service: webapp}, Tailnet: "production",
		Ports: []federation.Port{{Port: 80, Protocol: federation.TCP}}, Ready: ready,
	}))
}

// all returns everything that a member is told.
func (r *rig) all(c federation.ClusterID) map[string]linkstate.Resource {
	r.Helper()
	synctest.Wait()
	u, err := r.Next(r.Context(), c, 0, 0)
	r.must(err)
	out := map[string]linkstate.Resource{}
	for _, x := range u.Upserts {
		out[x.Key()] = x
	}
	return out
}

// health returns the health of a cluster's webapp as the consumer is told it.
func (r *rig) health(consumer, cluster federation.ClusterID) string {
	r.Helper()
	set := r.all(consumer)["endpoints/"+webapp.String()].EndpointSet
	if set == nil {
		return "no set"
	}
	for _, e := range set.Endpoints {
		if e.Cluster == cluster {
			return e.Health.String() + " " + e.Reason
		}
	}
	return "not in the set"
}

func TestAnExportReachesTheOthersWithItsVIP(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, filepath.Join(t.TempDir(), "hub.db"), &tailnet{})
		r.members("cluster1", "cluster2", "cluster3")
		r.export("cluster2", 1)
		if got := r.health("cluster1", "cluster2"); got != "healthy Serving" {
			t.Errorf("cluster1 is told %q", got)
		}
		own := r.all("cluster2")["vip/"+webapp.String()].VIP
		if own == nil || own.ServiceName != "local-production-webapp-cluster2" || len(own.Addrs) != 1 {
			t.Errorf("cluster2 is told to host %+v", own)
		}
		if p := r.all("cluster1")["peer/cluster2"].Peer; p == nil || len(p.Ingress) != 1 {
			t.Errorf("cluster1 is told to probe %+v", p)
		}
	})
}

func TestADeadClusterLeavesAllSetsAndComesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, filepath.Join(t.TempDir(), "hub.db"), &tailnet{})
		r.members("cluster1", "cluster2", "cluster3")
		r.export("cluster2", 1)
		r.export("cluster3", 1)
		observe := func(reachable bool) {
			for _, o := range []federation.ClusterID{"cluster1", "cluster3"} {
				r.must(r.Observed(r.Context(), o, federation.Target{Cluster: "cluster2"}, reachable, 0))
			}
		}
		observe(true)
		observe(false)
		if got := r.health("cluster1", "cluster2"); got != "unhealthy UnreachableByQuorum" {
			t.Errorf("after both observers failed: %q", got)
		}
		if got := r.health("cluster1", "cluster3"); got != "healthy Serving" {
			t.Errorf("the other cluster: %q", got)
		}
		for range 12 {
			observe(true)
			pass(time.Second)
		}
		if got := r.health("cluster1", "cluster2"); got != "healthy Serving" {
			t.Errorf("12 s after it was back: %q", got)
		}
	})
}

func TestARestartOfTheHubChangesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &tailnet{}
		r := start(t, filepath.Join(t.TempDir(), "hub.db"), p)
		r.members("cluster1", "cluster2", "cluster3")
		r.export("cluster2", 1)
		r.export("cluster3", 0)
		before := r.all("cluster1")
		epoch := r.Epoch()
		r.stop()

		r = start(t, r.path, p)
		if d := cmp.Diff(before, r.all("cluster1"), equal); d != "" {
			t.Errorf("after the restart (-before +after)\n%s", d)
		}
		if r.Epoch() <= epoch {
			t.Errorf("epoch %d after %d", r.Epoch(), epoch)
		}
	})
}

func TestALostStoreChangesNoVIP(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &tailnet{}
		r := start(t, filepath.Join(t.TempDir(), "hub.db"), p)
		r.members("cluster1", "cluster2", "cluster3")
		r.export("cluster3", 1)
		r.export("cluster2", 1)
		before := r.all("cluster1")
		r.stop()

		r = start(t, filepath.Join(t.TempDir(), "new.db"), p)
		r.members("cluster1", "cluster2", "cluster3")
		r.export("cluster2", 1)
		r.export("cluster3", 1)
		if d := cmp.Diff(before, r.all("cluster1"), equal); d != "" {
			t.Errorf("with a new store (-before +after)\n%s", d)
		}
	})
}

func TestAMissingTailnetIsToldToTheMember(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &tailnet{fail: errNoTailnet}
		r := start(t, filepath.Join(t.TempDir(), "hub.db"), p)
		r.members("cluster1", "cluster2")
		r.export("cluster2", 1)
		if n := r.all("cluster2")["notice/tailnet/production"].Notice; n == nil || n.Reason != "TailnetNotFound" {
			t.Errorf("cluster2 is told %+v", n)
		}
		p.failWith(nil)
		pass(2 * time.Second)
		if n := r.all("cluster2")["notice/tailnet/production"].Notice; n != nil {
			t.Errorf("still told after it was cured: %+v", n)
		}
		if got := r.health("cluster1", "cluster2"); got != "healthy Serving" {
			t.Errorf("cluster1 is told %q", got)
		}
	})
}

func TestATailnetThatFailsIsAskedAgainLessAndLess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &tailnet{fail: errors.New("429")}
		r := start(t, filepath.Join(t.TempDir(), "hub.db"), p)
		r.members("cluster1", "cluster2")
		r.export("cluster2", 1)
		pass(10 * time.Minute)
		if asked, _ := p.calls(); asked < 8 || asked > 40 {
			t.Errorf("asked %d times in ten minutes", asked)
		}
		p.failWith(nil)
		pass(2 * time.Minute)
		if got := r.health("cluster1", "cluster2"); got != "healthy Serving" {
			t.Errorf("cluster1 is told %q", got)
		}
	})
}

func TestAVIPEndsWithItsQuarantine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &tailnet{}
		r := start(t, filepath.Join(t.TempDir(), "hub.db"), p)
		r.members("cluster1", "cluster2")
		r.export("cluster2", 1)
		synctest.Wait()
		r.must(r.RemoveExport(r.Context(), federation.ExportKey{Cluster: "cluster2", Service: webapp}))
		if got := r.health("cluster1", "cluster2"); got != "no set" {
			t.Errorf("cluster1 is told %q", got)
		}
		pass(59 * time.Minute)
		if _, deleted := p.calls(); len(deleted) > 0 {
			t.Errorf("deleted before the quarantine's end: %v", deleted)
		}
		pass(2 * time.Minute)
		if _, deleted := p.calls(); !slices.Equal(deleted, []string{"local-production-webapp-cluster2"}) {
			t.Errorf("deleted %v", deleted)
		}
	})
}

func TestNextSendsOnlyWhatChanged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, filepath.Join(t.TempDir(), "hub.db"), &tailnet{})
		r.members("cluster1", "cluster2")
		r.export("cluster2", 1)
		synctest.Wait()
		u, err := r.Next(t.Context(), "cluster1", 0, 0)
		r.must(err)
		if !u.Full {
			t.Error("the first update is not full")
		}
		r.export("cluster2", 0)
		synctest.Wait()
		d, err := r.Next(t.Context(), "cluster1", u.Epoch, u.Version)
		r.must(err)
		if d.Full || len(d.Upserts) != 1 || d.Upserts[0].EndpointSet == nil || len(d.Removed) > 0 {
			t.Errorf("delta %+v", d)
		}
		r.must(r.RemoveCluster(t.Context(), "cluster2"))
		synctest.Wait()
		d, err = r.Next(t.Context(), "cluster1", d.Epoch, d.Version)
		r.must(err)
		if want := []string{"endpoints/" + webapp.String(), "peer/cluster2"}; d.Full || !slices.Equal(d.Removed, want) {
			t.Errorf("removed %v, want %v", d.Removed, want)
		}
		if again, err := r.Next(t.Context(), "cluster1", d.Epoch+1, d.Version); err != nil || !again.Full {
			t.Errorf("another epoch: full %v, %v", again.Full, err)
		}
	})
}

func TestTheJournalTellsWhy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, filepath.Join(t.TempDir(), "hub.db"), &tailnet{})
		r.members("cluster1", "cluster2", "cluster3")
		r.export("cluster2", 1)
		r.must(r.Observed(t.Context(), "cluster1", federation.Target{Cluster: "cluster2"}, false, 100*time.Millisecond))
		synctest.Wait()
		records, err := r.db.Journal(t.Context(), 0, 10, webapp)
		r.must(err)
		var got []string
		for _, x := range records {
			got = append(got, string(x.Consumer)+" "+x.To.String()+" "+string(x.Reason))
		}
		want := []string{" healthy Serving", " unhealthy UnreachableByQuorum", "cluster1 unhealthy UnreachableByObserver"}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("journal (-want +got)\n%s", d)
		}
		if v := records[1].Inputs.Votes; v.Fail != 1 || v.Reach != 0 || !slices.Equal(v.Failing, []federation.ClusterID{"cluster1"}) {
			t.Errorf("inputs %+v", records[1].Inputs)
		}
	})
}
