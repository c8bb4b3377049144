package coordinator_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/federation/coordinator"
	"github.com/tailgate-project/tailgate/federation/failover"
	"github.com/tailgate-project/tailgate/federation/ledger"
	"github.com/tailgate-project/tailgate/federation/linkstate"
	"github.com/tailgate-project/tailgate/federation/policy"
	"github.com/tailgate-project/tailgate/federation/vip"
)

var (
	start  = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	webapp = federation.Service("default", "webapp")
	equal  = cmp.Options{cmpopts.EquateComparable(netip.Addr{}, netip.AddrPort{}), cmpopts.EquateEmpty()}
	config = coordinator.Config{VIPs: vip.Options{Quarantine: time.Hour}}
)

// hub is what a hub does with a coordinator, without a hub: it keeps batches, edits views and knows what the tailnet
// was asked for.
type hub struct {
	*testing.T
	*coordinator.Coordinator
	now      time.Time
	kept     kept
	views    map[federation.ClusterID]map[string]linkstate.Resource
	queue    *coordinator.Queue
	next     netip.Addr
	journal  []failover.Decision
	problems []error
}

func newHub(t *testing.T) *hub {
	t.Helper()
	h := &hub{T: t, now: start, kept: newKept(), views: map[federation.ClusterID]map[string]linkstate.Resource{}, next: netip.MustParseAddr("100.100.0.1")}
	h.restart()
	h.rebuilt()
	return h
}

// rebuilt has a hub that finds its store empty learn that there is nothing.
func (h *hub) rebuilt() {
	h.Helper()
	h.do(coordinator.MembersExpected{})
	h.do(coordinator.VIPsListed{})
	if h.Rebuilding() {
		h.Fatal("still rebuilding, though there is nothing to be learned")
	}
}

// restart goes on from what was kept.
func (h *hub) restart() {
	h.Helper()
	c, err := coordinator.New(config, h.kept.state(), h.now)
	if err != nil {
		h.Fatal(err)
	}
	h.Coordinator, h.queue = c, coordinator.NewQueue()
	h.queue.Add(c.Everything())
}

func (h *hub) do(e coordinator.Event) {
	h.Helper()
	s := h.Plan(e, h.now)
	h.kept.take(s.Batch)
	h.journal = append(h.journal, s.Batch.Journal...)
	h.problems = append(h.problems, s.Problems...)
	effects := h.Apply(s)
	h.queue.Add(effects)
	edit(h.views, effects)
	for _, err := range h.Check() {
		h.Fatalf("after %+v: %v", e, err)
	}
}

func edit(views map[federation.ClusterID]map[string]linkstate.Resource, e coordinator.Effects) {
	for c, changes := range e.Views {
		if views[c] == nil {
			views[c] = map[string]linkstate.Resource{}
		}
		for _, ch := range changes {
			if ch.Resource == nil {
				delete(views[c], ch.Key)
			} else {
				views[c][ch.Key] = *ch.Resource
			}
		}
	}
	for _, c := range e.Gone {
		delete(views, c)
	}
	for _, c := range e.Speak {
		if views[c] == nil {
			views[c] = map[string]linkstate.Resource{}
		}
	}
}

// tailnet answers all that is asked of it.
func (h *hub) tailnet() {
	h.Helper()
	for t, ok := h.queue.Next(h.now); ok; t, ok = h.queue.Next(h.now) {
		h.queue.Done(t, nil, h.now)
		if t.Remove {
			h.do(coordinator.VIPDeleted{Service: t.VIP.ServiceName})
			continue
		}
		addrs := t.VIP.Addrs
		if len(addrs) == 0 {
			addrs, h.next = []netip.Addr{h.next}, h.next.Next()
		}
		h.do(coordinator.VIPAssigned{Service: t.VIP.ServiceName, Addrs: addrs})
	}
}

// until lets time pass.
func (h *hub) until(d time.Duration) {
	h.Helper()
	for range 10_000 {
		at, ok := h.Coordinator.Deadline()
		if !ok || at.After(start.Add(d)) {
			h.now = start.Add(d)
			return
		}
		if at.After(h.now) {
			h.now = at
		}
		h.do(coordinator.Tick{})
	}
	h.Fatal("ticks without end")
}

func (h *hub) decide(e failover.Event) { h.Helper(); h.do(coordinator.Failover{Event: e}) }

func (h *hub) join(ids ...federation.ClusterID) {
	h.Helper()
	for _, c := range ids {
		h.do(coordinator.MemberSeen{Cluster: c, Locality: federation.Locality{Region: "r"}})
		h.do(coordinator.MemberInterest{Cluster: c, Interest: federation.Interest{All: true}})
		h.do(coordinator.MemberHosts{Cluster: c, Hosts: []ledger.Host{{NodeID: "n-" + string(c), Addr: "100.64.0.1:9440"}}})
		h.decide(failover.LinkChanged{Cluster: c, Up: true})
	}
}

func export(c federation.ClusterID, id federation.ServiceID, ready int) federation.Export {
	return federation.Export{
		Key: federation.ExportKey{Cluster: c, Service: id}, Tailnet: "production", TailnetRef: "production",
		Ports: []federation.Port{{Name: "http", Port: 80, Protocol: federation.TCP}}, Ready: ready, Desired: 2,
	}
}

// told returns the endpoints that a member is told, a word each.
func (h *hub) told(c federation.ClusterID, id federation.ServiceID) []string {
	var out []string
	if set := h.views[c][linkstate.Resource{EndpointSet: &federation.EndpointSet{Service: id}}.Key()].EndpointSet; set != nil {
		for _, e := range set.Endpoints {
			out = append(out, fmt.Sprintf("%s/%d/%v/%s", e.Cluster, e.Priority, e.Health, e.Reason))
		}
	}
	return out
}

func (h *hub) wantTold(c federation.ClusterID, want ...string) {
	h.Helper()
	if d := cmp.Diff(want, h.told(c, webapp), equal); d != "" {
		h.Errorf("%s is told (-want +got)\n%s", c, d)
	}
}

// hosts returns the Tailscale Services that a member is told to host.
func (h *hub) hosts(c federation.ClusterID) []string {
	var out []string
	for _, r := range h.views[c] {
		if r.VIP != nil {
			out = append(out, r.VIP.ServiceName)
		}
	}
	slices.Sort(out)
	return out
}

func (h *hub) wantHosts(c federation.ClusterID, want ...string) {
	h.Helper()
	if d := cmp.Diff(want, h.hosts(c), equal); d != "" {
		h.Errorf("%s hosts (-want +got)\n%s", c, d)
	}
}

// kept is a store in memory.
type kept struct {
	vips     map[string]vip.Entry
	exports  map[federation.ExportKey]failover.Saved
	clusters map[federation.ClusterID]failover.SavedCluster
	members  map[federation.ClusterID]ledger.Member
	policies map[string]policy.Policy
}

func newKept() kept {
	return kept{
		vips: map[string]vip.Entry{}, exports: map[federation.ExportKey]failover.Saved{}, clusters: map[federation.ClusterID]failover.SavedCluster{},
		members: map[federation.ClusterID]ledger.Member{}, policies: map[string]policy.Policy{},
	}
}

func (k kept) take(b ledger.Batch) {
	for _, c := range b.VIPs {
		if delete(k.vips, c.Entry.ServiceName); !c.Delete {
			k.vips[c.Entry.ServiceName] = c.Entry
		}
	}
	put(k.exports, b.Exports)
	put(k.clusters, b.Clusters)
	put(k.members, b.Members)
	put(k.policies, b.Policies)
}

func put[K comparable, V any](into map[K]V, from map[K]*V) {
	for key, v := range from {
		if delete(into, key); v != nil {
			into[key] = *v
		}
	}
}

func values[K comparable, V any](m map[K]V) []V {
	var out []V
	for _, v := range m {
		out = append(out, v)
	}
	return out
}

func (k kept) state() ledger.State {
	return ledger.State{VIPs: values(k.vips), Exports: values(k.exports), Clusters: values(k.clusters), Members: values(k.members), Policies: values(k.policies)}
}

func TestAnExportReachesThoseWhoReferToIt(t *testing.T) {
	h := newHub(t)
	h.join("c1", "c2", "c3")
	h.do(coordinator.MemberInterest{Cluster: "c3"})
	h.decide(failover.ExportChanged{Export: export("c2", webapp, 2)})
	h.wantTold("c1") // no address yet
	h.tailnet()
	h.wantTold("c1", "c2/0/healthy/Serving")
	h.wantTold("c2", "c2/0/healthy/Serving")
	h.wantTold("c3")
	h.wantHosts("c2", "local-production-webapp-c2")
	h.do(coordinator.MemberInterest{Cluster: "c3", Interest: federation.Interest{Services: []federation.ServiceID{webapp}}})
	h.wantTold("c3", "c2/0/healthy/Serving")
	h.do(coordinator.MemberInterest{Cluster: "c3"})
	h.wantTold("c3")
	h.decide(failover.ExportRemoved{Key: export("c2", webapp, 0).Key})
	h.wantTold("c1")
	h.wantHosts("c2")
}

func TestADeadClusterIsOneDecision(t *testing.T) {
	h := newHub(t)
	h.join("c1", "c2", "c3")
	for i := range 20 {
		h.decide(failover.ExportChanged{Export: export("c2", federation.Service("default", fmt.Sprintf("s%02d", i)), 2)})
	}
	h.tailnet()
	h.journal = nil
	for _, o := range []federation.ClusterID{"c1", "c3"} {
		h.decide(failover.Observed{Observer: o, Target: federation.Target{Cluster: "c2"}, At: h.now})
	}
	var all int
	for _, d := range h.journal {
		if d.Consumer == "" {
			all++
		}
	}
	if all != 1 {
		t.Errorf("%d decisions for everybody, want 1: %+v", all, h.journal)
	}
	if got := h.told("c1", federation.Service("default", "s07")); !slices.Equal(got, []string{"c2/0/degraded/AllDown"}) {
		t.Errorf("c1 is told %v", got)
	}
}

func TestAFederatedVIPIsHostedWhereTheServiceServes(t *testing.T) {
	h := newHub(t)
	h.join("c1", "c2", "c3")
	for _, c := range []federation.ClusterID{"c2", "c3"} {
		x := export(c, webapp, 2)
		x.Federated = true
		h.decide(failover.ExportChanged{Export: x})
	}
	h.tailnet()
	const shared = "federated-production-webapp"
	h.wantHosts("c2", shared, "local-production-webapp-c2")
	h.wantHosts("c3", shared, "local-production-webapp-c3")
	h.wantHosts("c1")

	h.decide(failover.Operated{Subject: federation.Target{Cluster: "c2"}, Mode: failover.Drain, Ramp: 10 * time.Second})
	h.wantHosts("c2", shared, "local-production-webapp-c2") // it ramps
	h.until(10 * time.Second)
	h.wantHosts("c2", "local-production-webapp-c2")
	h.wantHosts("c3", shared, "local-production-webapp-c3")

	down := export("c3", webapp, 0)
	down.Federated = true
	h.decide(failover.ExportChanged{Export: down})
	h.wantHosts("c2", shared, "local-production-webapp-c2") // nobody serves: all that share it
	h.wantHosts("c3", shared, "local-production-webapp-c3")

	h.decide(failover.ExportChanged{Export: export("c2", webapp, 2)})
	h.decide(failover.ExportChanged{Export: export("c3", webapp, 2)})
	h.wantHosts("c2", "local-production-webapp-c2") // nobody asks for it any more
	h.wantHosts("c3", "local-production-webapp-c3")
}

func TestPoliciesRankTheClusters(t *testing.T) {
	h := newHub(t)
	h.join("c1", "c2", "c3")
	h.decide(failover.ExportChanged{Export: export("c1", webapp, 2)})
	h.decide(failover.ExportChanged{Export: export("c2", webapp, 2)})
	h.decide(failover.ExportChanged{Export: export("c3", webapp, 2)})
	h.tailnet()
	h.wantTold("c1", "c1/0/healthy/Serving", "c2/1/healthy/Serving", "c3/1/healthy/Serving")
	ordered := policy.Default()
	ordered.Name, ordered.Select.Names = "ordered", []string{"webapp"}
	ordered.Order = []policy.Place{{Cluster: "c3"}, {Cluster: "c2"}}
	h.do(coordinator.PoliciesSet{Fallback: policy.Default(), Policies: []policy.Policy{ordered}})
	h.wantTold("c1", "c3/0/healthy/Serving", "c2/1/healthy/Serving", "c1/2/healthy/Serving")
	h.restart()
	if got := h.Set("c1", webapp).Endpoints[0].Cluster; got != "c3" {
		t.Errorf("after a restart %s is first: the policies are kept", got)
	}
	h.do(coordinator.PoliciesSet{Fallback: policy.Default()})
	h.wantTold("c1", "c1/0/healthy/Serving", "c2/1/healthy/Serving", "c3/1/healthy/Serving")
}

func TestMembersThatDoNotComeBackAfterAStartAreLost(t *testing.T) {
	h := newHub(t)
	h.join("c1", "c2")
	h.decide(failover.ExportChanged{Export: export("c2", webapp, 2)})
	h.tailnet()
	h.restart()
	h.decide(failover.LinkChanged{Cluster: "c1", Up: true})
	h.until(34 * time.Second)
	if v, _ := h.Verdict(export("c2", webapp, 0).Key, "c1"); v.Health != federation.Healthy {
		t.Errorf("evicted within the grace of the start: %+v", v)
	}
	h.until(36 * time.Second) // 30 s for the start and 5 s of grace for the link
	if v, _ := h.Verdict(export("c2", webapp, 0).Key, "c1"); v.Reason != failover.ControlLostUnobserved {
		t.Errorf("%+v, want down since nobody hears of it", v)
	}
	if v, _ := h.Verdict(export("c1", webapp, 0).Key, "c2"); v.Health != federation.Healthy {
		t.Errorf("the one that came back: %+v", v)
	}
}

func TestAMemberThatLeavesTakesItsVIPsAlong(t *testing.T) {
	h := newHub(t)
	h.join("c1", "c2")
	h.decide(failover.ExportChanged{Export: export("c2", webapp, 2)})
	h.tailnet()
	h.do(coordinator.MemberGone{Cluster: "c2"})
	h.do(coordinator.MemberGone{Cluster: "c2"}) // said twice
	h.wantTold("c1")
	if _, ok := h.views["c1"]["peer/c2"]; ok {
		t.Error("c1 is still told to probe c2")
	}
	h.decide(failover.Observed{Observer: "c1", Target: federation.Target{Cluster: "c2"}, At: h.now}) // late
	h.until(2 * time.Hour)
	h.tailnet()
	if e := h.Registry().Entries(); len(e) > 0 {
		t.Errorf("left in the registry: %+v", e)
	}
	if len(h.kept.state().Clusters)+len(h.kept.state().Exports)+len(h.kept.state().VIPs) > 0 || len(h.kept.members) != 1 {
		t.Errorf("left in the store: %+v", h.kept)
	}
}

// TestAMemberThatLeavesForGood has VIPs of three kinds: of an export, of one that went before, and a federated one.
func TestAMemberThatLeavesForGood(t *testing.T) {
	for name, tc := range map[string]struct {
		// shared: another cluster exports the federated service, too. before: it was taken out before, as one that may come back.
		shared, before bool
		// left are the VIPs that stay.
		left []string
	}{
		"alone":                  {},
		"shared":                 {shared: true, left: []string{"federated-production-shop", "local-production-shop-c1"}},
		"after-it-was-gone":      {before: true, left: []string{"federated-production-shop"}}, // whose that was is not known any more
		"gone-before-and-shared": {before: true, shared: true, left: []string{"federated-production-shop", "local-production-shop-c1"}},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHub(t)
			h.join("c1", "c2")
			shop := federation.Service("default", "shop")
			federated := export("c2", shop, 1)
			federated.Federated = true
			h.decide(failover.ExportChanged{Export: federated})
			if tc.shared {
				federated.Key.Cluster = "c1"
				h.decide(failover.ExportChanged{Export: federated})
			}
			h.decide(failover.ExportChanged{Export: export("c2", webapp, 2)})
			h.decide(failover.ExportChanged{Export: export("c2", federation.Service("default", "old"), 1)})
			h.tailnet()
			h.decide(failover.ExportRemoved{Key: export("c2", federation.Service("default", "old"), 0).Key})
			if tc.before {
				h.do(coordinator.MemberGone{Cluster: "c2"})
				h.tailnet()
				if n := len(h.Registry().Entries()); n < 4 {
					t.Fatalf("of one that may come back %d VIPs are left", n)
				}
			}
			h.do(coordinator.MemberGone{Cluster: "c2", ForGood: true})
			h.restart() // what is not deleted yet is not forgotten
			h.until(time.Minute)
			h.tailnet()
			var left []string
			for _, e := range h.Registry().Entries() {
				left = append(left, e.ServiceName)
			}
			if diff := cmp.Diff(tc.left, left); diff != "" {
				t.Errorf("VIPs in the registry (-want +got):\n%s", diff)
			}
		})
	}
}

func TestWhatIsRefusedIsToldToTheMember(t *testing.T) {
	h := newHub(t)
	h.join("c1", "c2")
	x := export("c2", webapp, 2)
	x.Ports = nil
	h.decide(failover.ExportChanged{Export: x})
	if n := h.views["c2"]["notice/export/"+webapp.String()].Notice; n == nil || n.Reason != "VIPRefused" || len(h.problems) != 1 {
		t.Errorf("c2 is told %+v, logged %v", n, h.problems)
	}
	h.decide(failover.ExportChanged{Export: export("c2", webapp, 2)})
	name := "local-production-webapp-c2"
	h.do(coordinator.VIPRefused{Service: name, Notice: federation.Notice{Subject: "tailnet/production", Reason: "TailnetNotFound"}})
	if n := h.views["c2"]["notice/tailnet/production"].Notice; n == nil {
		t.Error("c2 is not told of the missing tailnet")
	}
	h.tailnet()
	for key, r := range h.views["c2"] {
		if r.Notice != nil {
			t.Errorf("still told %s after it was cured", key)
		}
	}
	h.problems = nil
	h.do(coordinator.VIPAssigned{Service: name, Addrs: []netip.Addr{netip.MustParseAddr("100.100.9.9")}})
	if len(h.problems) != 1 || !errors.Is(h.problems[0], vip.ErrAddressChanged) {
		t.Errorf("another address: %v", h.problems)
	}
	h.problems = nil
	taken := []netip.Addr{h.Set("c1", webapp).Endpoints[0].Addr}
	h.do(coordinator.VIPFound{VIP: federation.VIP{Owner: export("c1", webapp, 0).Key, Name: "x", ServiceName: "x", Addrs: taken}})
	if len(h.problems) != 1 || !errors.Is(h.problems[0], vip.ErrAddressTaken) {
		t.Errorf("a VIP of the tailnet with somebody's address: %v", h.problems)
	}
}

func TestDryRunOfADrainAndOfALoss(t *testing.T) {
	h := newHub(t)
	h.join("c1", "c2", "c3")
	for _, c := range []federation.ClusterID{"c2", "c3"} {
		h.decide(failover.ExportChanged{Export: export(c, webapp, 2)})
	}
	h.tailnet()
	before := h.Set("c1", webapp)
	drain := h.DryRun([]failover.Event{failover.Operated{Subject: federation.Target{Cluster: "c2"}, Mode: failover.Drain, Ramp: -1}}, h.now, time.Minute)
	if len(drain.Changed) != 3 || drain.Changed[0].Consumer != "c1" || !slices.ContainsFunc(drain.Changed[0].Endpoints, func(e federation.Endpoint) bool {
		return e.Cluster == "c2" && e.Health == federation.Unhealthy && e.Reason == string(failover.Drained)
	}) {
		t.Errorf("drain: %+v", drain.Changed)
	}
	if last := drain.Decisions[len(drain.Decisions)-1]; last.Reason != failover.Drained {
		t.Errorf("drain ends with %+v", last)
	}
	loss := h.DryRun(h.Loss("c3", h.now), h.now, time.Minute)
	if len(loss.Changed) != 3 {
		t.Errorf("loss: %+v", loss.Changed)
	}
	if d := cmp.Diff(before, h.Set("c1", webapp), equal); d != "" {
		t.Errorf("a dry run changed something\n%s", d)
	}
}

func TestABrokenStoreIsRefused(t *testing.T) {
	one := vip.Entry{VIP: federation.VIP{Owner: export("c1", webapp, 0).Key, Name: "a", ServiceName: "a", Addrs: []netip.Addr{netip.MustParseAddr("100.100.0.1")}}}
	two := one
	two.ServiceName, two.Owner.Cluster = "b", "c2"
	if _, err := coordinator.New(config, ledger.State{VIPs: []vip.Entry{one, two}}, start); err == nil {
		t.Error("a registry with one address held twice was taken")
	}
}

// FuzzIncrementalEqualsWhole plays random events and checks the laws: what the members were told in pieces is what they
// would be told as a whole; a coordinator that starts from what was kept tells the same, but for what is stale.
func FuzzIncrementalEqualsWhole(f *testing.F) {
	for seed := range uint64(12) {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, seed uint64) {
		h := newHub(t)
		w := walk{hub: h, Rand: rand.New(rand.NewPCG(seed, 3))}
		for i := range 150 {
			w.step()
			whole := map[federation.ClusterID]map[string]linkstate.Resource{}
			edit(whole, h.Everything())
			if d := cmp.Diff(withoutNotices(whole), withoutNotices(h.views), equal); d != "" {
				t.Fatalf("step %d: in pieces (+) and as a whole (-)\n%s", i, d)
			}
		}
		if err := failover.ReplayAll(failover.Table(), h.journal); err != nil {
			t.Error(err)
		}
		again, err := coordinator.New(config, h.kept.state(), h.now)
		if err != nil {
			t.Fatal(err)
		}
		restarted := map[federation.ClusterID]map[string]linkstate.Resource{}
		edit(restarted, again.Everything())
		if d := cmp.Diff(withoutStale(h.views), withoutStale(restarted), equal); d != "" {
			t.Errorf("a restart changes (-before +after)\n%s", d)
		}
	})
}

// withoutNotices drops what is said once and not kept, and members that are told nothing. Conflicts are no events: they
// follow from what there is.
func withoutNotices(views map[federation.ClusterID]map[string]linkstate.Resource) map[federation.ClusterID]map[string]linkstate.Resource {
	out := map[federation.ClusterID]map[string]linkstate.Resource{}
	for c, view := range views {
		for key, r := range view {
			if r.Notice == nil || strings.HasPrefix(r.Notice.Subject, "conflict/") {
				if out[c] == nil {
					out[c] = map[string]linkstate.Resource{}
				}
				out[c][key] = r
			}
		}
	}
	return out
}

func withoutStale(views map[federation.ClusterID]map[string]linkstate.Resource) map[federation.ClusterID]map[string]linkstate.Resource {
	out := withoutNotices(views)
	for _, view := range out {
		for key, r := range view {
			if r.EndpointSet == nil {
				continue
			}
			set := *r.EndpointSet
			set.Endpoints = slices.Clone(set.Endpoints)
			for i := range set.Endpoints {
				e := &set.Endpoints[i]
				if e.Stale = false; e.Reason == string(failover.ServingStale) {
					e.Reason = string(failover.Serving)
				}
			}
			view[key] = linkstate.Resource{EndpointSet: &set}
		}
	}
	return out
}

// walk does random things to a hub.
type walk struct {
	*hub
	*rand.Rand
}

var services = []federation.ServiceID{webapp, federation.Service("default", "api"), federation.Service("shop", "webapp"), federation.Listener("infra", "main", "http")}

func (w walk) cluster() federation.ClusterID {
	return federation.ClusterID(fmt.Sprintf("c%d", 1+w.IntN(4)))
}

func (w walk) service() federation.ServiceID { return services[w.IntN(len(services))] }

func (w walk) step() {
	w.now = w.now.Add(time.Duration(w.IntN(1500)) * time.Millisecond)
	switch w.IntN(16) {
	case 0:
		w.do(coordinator.MemberSeen{Cluster: w.cluster(), Locality: federation.Locality{Region: fmt.Sprintf("r%d", w.IntN(2))}})
	case 1:
		w.do(coordinator.MemberHosts{Cluster: w.cluster(), Hosts: []ledger.Host{{NodeID: "n", Addr: fmt.Sprintf("100.64.0.%d:9440", 1+w.IntN(3))}}})
	case 2:
		i := federation.Interest{All: w.IntN(2) == 0}
		if !i.All && w.IntN(2) == 0 {
			i.Services = []federation.ServiceID{webapp}
		}
		w.do(coordinator.MemberInterest{Cluster: w.cluster(), Interest: i})
	case 3, 4, 5:
		x := export(w.cluster(), w.service(), w.IntN(3))
		x.Federated, x.Weight, x.ClusterPinned = w.IntN(3) == 0, uint32(w.IntN(3)), w.IntN(4) == 0
		if w.IntN(4) == 0 {
			x.Ports = append(x.Ports, federation.Port{Name: "grpc", Port: 9090, Protocol: federation.TCP, App: federation.AppH2C})
		}
		if _, member := w.Member(x.Key.Cluster); member {
			w.decide(failover.ExportChanged{Export: x})
		}
	case 6:
		w.decide(failover.ExportRemoved{Key: export(w.cluster(), w.service(), 0).Key})
	case 7:
		w.decide(failover.LinkChanged{Cluster: w.cluster(), Up: w.IntN(2) == 0})
	case 8:
		w.decide(failover.APIChanged{Cluster: w.cluster(), Up: w.IntN(2) == 0})
	case 9:
		w.tailnet()
	case 10:
		mode := []failover.Mode{failover.Normal, failover.Drain, failover.Cordon, failover.Pin}[w.IntN(4)]
		subject := federation.Target{Cluster: w.cluster()}
		if w.IntN(2) == 0 {
			subject.Service = w.service()
		}
		w.decide(failover.Operated{Subject: subject, Mode: mode, Ramp: time.Duration(w.IntN(4)-1) * 5 * time.Second})
	case 11:
		if w.IntN(8) == 0 {
			w.do(coordinator.MemberGone{Cluster: w.cluster(), ForGood: w.IntN(2) == 0})
		}
	case 12:
		p := policy.Default()
		p.Name, p.Select.Namespaces = "p", []string{"default"}
		p.Order = []policy.Place{{Cluster: w.cluster()}}
		p.FailbackDelay = time.Duration(1+w.IntN(30)) * time.Second
		w.do(coordinator.PoliciesSet{Fallback: policy.Default(), Policies: []policy.Policy{p}[:w.IntN(2)]})
	default:
		t := federation.Target{Cluster: w.cluster()}
		if w.IntN(3) == 0 {
			t.Service = w.service()
		}
		w.decide(failover.Observed{Observer: w.cluster(), Target: t, Reachable: w.IntN(3) > 0, At: w.now})
	}
	if at, ok := w.Coordinator.Deadline(); ok && !at.After(w.now) {
		w.do(coordinator.Tick{})
	}
}
