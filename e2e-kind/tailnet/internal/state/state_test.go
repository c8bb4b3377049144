package state_test

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"tailscale.com/tailcfg"
	"tailscale.com/types/key"

	"github.com/tailgate-project/tailgate/e2e-kind/tailnet/internal/state"
)

// fixture is a tailnet with a clock that the test sets.
type fixture struct {
	*state.State
	t   *testing.T
	now time.Time
}

func newFixture(t *testing.T, vips string) *fixture {
	t.Helper()
	f := &fixture{t: t, now: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)}
	st, err := state.New(state.Config{
		Domain:         "x.ts.net",
		Policy:         `{"tagOwners": {"tag:a": []}, "autoApprovers": {"services": {"svc:web": ["tag:a"]}, "routes": {"10.0.0.0/8": ["tag:a"]}}}`,
		VIPPrefix:      netip.MustParsePrefix(vips),
		FailoverAfter:  15 * time.Second,
		EphemeralAfter: time.Minute,
		Now:            func() time.Time { return f.now },
	})
	if err != nil {
		t.Fatal(err)
	}
	f.State = st
	return f
}

// node is a registered device, and what ends its map stream.
type node struct {
	key     key.NodePublic
	id      tailcfg.StableNodeID
	hangUp  func()
	stopped bool
}

func (f *fixture) join(name string, spec state.KeySpec, hi tailcfg.Hostinfo) *node {
	f.t.Helper()
	k, err := f.CreateKey(spec)
	if err != nil {
		f.t.Fatal(err)
	}
	n := &node{key: key.NewNode().Public()}
	hi.Hostname = name
	if v := f.Register(state.Registration{NodeKey: n.key, Machine: key.NewMachine().Public(), AuthKey: k.Secret, Hostinfo: &hi}); v != (state.Verdict{}) {
		f.t.Fatalf("register %s: %+v", name, v)
	}
	count := len(f.Devices())
	f.Settle(n.key, tailcfg.NodeID(count+1), []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{100, 64, 0, byte(count + 1)}), 32)})
	n.id = f.Devices()[count].ID
	f.connect(n)
	return n
}

func (f *fixture) connect(n *node) { n.hangUp = f.Connect(n.key, func() { n.stopped = true }) }

// pass lets time pass, and what is due happen.
func (f *fixture) pass(d time.Duration) (next time.Time) {
	f.now = f.now.Add(d)
	return f.Tick()
}

func (f *fixture) wantService(hosts []tailcfg.StableNodeID, primary *node) {
	f.t.Helper()
	svc, err := f.Service("svc:web")
	if err != nil {
		f.t.Fatal(err)
	}
	want := tailcfg.StableNodeID("")
	if primary != nil {
		want = primary.id
	}
	if diff := cmp.Diff(hosts, svc.Hosts); diff != "" || svc.Primary != want {
		f.t.Errorf("primary %q, want %q; hosts (-want +got):\n%s", svc.Primary, want, diff)
	}
}

func TestPrimaryHost(t *testing.T) {
	f := newFixture(t, "100.100.0.0/16")
	if _, err := f.PutService(state.Service{Name: "svc:web"}); err != nil {
		t.Fatal(err)
	}
	tagged := state.KeySpec{Tags: []string{"tag:a"}}
	a, b := f.join("a", tagged, tailcfg.Hostinfo{}), f.join("b", tagged, tailcfg.Hostinfo{})
	untagged := f.join("c", state.KeySpec{}, tailcfg.Hostinfo{})
	web := []tailcfg.ServiceName{"svc:web"}
	offer := func(n *node, services []tailcfg.ServiceName) {
		f.SetServices(n.key, "", services, fmt.Sprint(services))
	}

	f.wantService(nil, nil)
	offer(untagged, web)
	f.wantService(nil, nil)
	offer(b, web)
	offer(a, web)
	f.wantService([]tailcfg.StableNodeID{b.id, a.id}, b)

	// Offline for less than it takes.
	b.hangUp()
	if next, want := f.pass(14*time.Second), f.now.Add(time.Second); !next.Equal(want) {
		t.Errorf("next tick at %v, want %v", next, want)
	}
	f.wantService([]tailcfg.StableNodeID{b.id, a.id}, b)
	f.connect(b)
	f.pass(time.Minute)
	f.wantService([]tailcfg.StableNodeID{b.id, a.id}, b)

	// And for long enough; it doesn't fail back.
	b.hangUp()
	f.pass(15 * time.Second)
	f.wantService([]tailcfg.StableNodeID{b.id, a.id}, a)
	f.connect(b)
	f.wantService([]tailcfg.StableNodeID{b.id, a.id}, a)

	// With nobody else online, the route stays.
	b.hangUp()
	a.hangUp()
	if next := f.pass(time.Hour); !next.IsZero() {
		t.Errorf("next tick at %v with nobody to move to", next)
	}
	f.wantService([]tailcfg.StableNodeID{b.id, a.id}, a)
	f.connect(b)
	f.wantService([]tailcfg.StableNodeID{b.id, a.id}, b)

	// Who stops offering, loses it at once; so does who is deleted.
	f.connect(a)
	offer(b, nil)
	f.wantService([]tailcfg.StableNodeID{a.id}, a)
	offer(b, web)
	if err := f.DeleteDevice(string(a.id)); err != nil {
		t.Fatal(err)
	}
	f.wantService([]tailcfg.StableNodeID{b.id}, b)
	if _, err := f.Approve("svc:web", string(b.id), false); err != nil {
		t.Fatal(err)
	}
	f.wantService([]tailcfg.StableNodeID{}, nil)
	if _, err := f.Approve("svc:web", string(untagged.id), true); err == nil {
		t.Error("an untagged device may host a service")
	}
}

// TestAnOlderListHidesNoNewerAnnouncement lets a node announce a second change while it is asked about the first.
func TestAnOlderListHidesNoNewerAnnouncement(t *testing.T) {
	f := newFixture(t, "100.100.0.0/30")
	n := f.join("a", state.KeySpec{Tags: []string{"tag:a"}}, tailcfg.Hostinfo{})
	announce := func(hash string) {
		f.Update(state.Report{NodeKey: n.key, Hostinfo: &tailcfg.Hostinfo{Hostname: "a", ServicesHash: hash}})
	}
	want := func(hash string) {
		t.Helper()
		if got := f.NeedServices()[n.key]; got != hash {
			t.Errorf("the list to be asked for is of %q, want %q", got, hash)
		}
	}
	announce("first")
	want("first")
	announce("second")
	f.SetServices(n.key, "first", []tailcfg.ServiceName{"svc:web"}, "first")
	want("second")
	f.SetServices(n.key, "second", []tailcfg.ServiceName{"svc:web", "svc:db"}, "second")
	want("")
	// An answer that is newer than the question: the report that belongs to it asks for nothing more.
	announce("third")
	f.SetServices(n.key, "third", []tailcfg.ServiceName{"svc:db"}, "fourth")
	want("")
	announce("fourth")
	want("")
}

func TestStreamsDecideWhoIsOnline(t *testing.T) {
	f := newFixture(t, "100.100.0.0/16")
	n := f.join("n", state.KeySpec{}, tailcfg.Hostinfo{})
	old := n.hangUp
	f.connect(n)
	if !n.stopped {
		t.Error("the stream that was replaced goes on")
	}
	old()
	if !f.Devices()[0].Online {
		t.Error("the end of the old stream took the node offline")
	}
	n.hangUp()
	if d := f.Devices()[0]; d.Online || !d.LastSeen.Equal(f.now) {
		t.Errorf("device = %+v, want it offline since now", d)
	}
	n.stopped = false
	if err := f.SetOffline(string(n.id), true); err != nil {
		t.Fatal(err)
	}
	if f.connect(n); !n.stopped || f.Devices()[0].Online {
		t.Error("a node that is cut off could connect")
	}
}

func TestRegister(t *testing.T) {
	f := newFixture(t, "100.100.0.0/16")
	n := f.join("n", state.KeySpec{Tags: []string{"tag:a"}}, tailcfg.Hostinfo{})
	stranger := f.Register(state.Registration{NodeKey: n.key, Machine: key.NewMachine().Public(), Hostinfo: &tailcfg.Hostinfo{}})
	if stranger.Refusal == "" {
		t.Error("a node key was accepted from another machine")
	}
	unknown := f.Register(state.Registration{NodeKey: key.NewNode().Public(), Machine: key.NewMachine().Public(), Hostinfo: &tailcfg.Hostinfo{}})
	if !unknown.NeedsLogin {
		t.Errorf("unknown node without a key: %+v", unknown)
	}
}

func TestKeyRotationKeepsTheDevice(t *testing.T) {
	f := newFixture(t, "100.100.0.0/16")
	machine := key.NewMachine().Public()
	k, err := f.CreateKey(state.KeySpec{Tags: []string{"tag:a"}, Reusable: true})
	if err != nil {
		t.Fatal(err)
	}
	reg := state.Registration{NodeKey: key.NewNode().Public(), Machine: machine, AuthKey: k.Secret, Hostinfo: &tailcfg.Hostinfo{Hostname: "n"}}
	f.Register(reg)
	f.Settle(reg.NodeKey, 1, nil)
	before := f.Devices()[0]
	reg.OldNodeKey, reg.NodeKey = reg.NodeKey, key.NewNode().Public()
	if v := f.Register(reg); !v.Rotated {
		t.Fatalf("verdict %+v, want rotated", v)
	}
	devices := f.Devices()
	if len(devices) != 1 || devices[0].ID != before.ID || devices[0].NodeKey != reg.NodeKey {
		t.Errorf("devices = %+v, want the one with its new key", devices)
	}
}

func TestEphemeral(t *testing.T) {
	f := newFixture(t, "100.100.0.0/16")
	n := f.join("n", state.KeySpec{Ephemeral: true}, tailcfg.Hostinfo{})
	f.join("stays", state.KeySpec{}, tailcfg.Hostinfo{}).hangUp()
	f.pass(time.Hour)
	n.hangUp()
	f.pass(59 * time.Second)
	if len(f.Devices()) != 2 {
		t.Error("removed too early")
	}
	f.pass(time.Second)
	if d := f.Devices(); len(d) != 1 || d[0].Hostname != "stays" {
		t.Errorf("devices = %+v", d)
	}
}

func TestSubnetRouteHasOnePrimaryRouter(t *testing.T) {
	f := newFixture(t, "100.100.0.0/16")
	hi := tailcfg.Hostinfo{RoutableIPs: []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16"), netip.MustParsePrefix("192.168.0.0/24")}}
	a, b := f.join("a", state.KeySpec{Tags: []string{"tag:a"}}, hi), f.join("b", state.KeySpec{Tags: []string{"tag:a"}}, hi)
	approved := []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16")}
	want := func(atA, atB []netip.Prefix) {
		t.Helper()
		v := f.View()
		equal := cmp.Comparer(func(x, y netip.Prefix) bool { return x == y })
		if diff := cmp.Diff(atA, v.Nodes[a.key].Routes, equal) + cmp.Diff(atB, v.Nodes[b.key].Routes, equal); diff != "" {
			t.Errorf("routes of a and b (-want +got):\n%s", diff)
		}
	}
	want(approved, nil)
	a.hangUp()
	want(nil, approved)
}

func TestAddresses(t *testing.T) {
	f := newFixture(t, "100.100.0.0/30")
	put := func(name string, addrs ...string) (string, error) {
		svc := state.Service{Name: tailcfg.ServiceName(name)}
		for _, a := range addrs {
			svc.Addrs = append(svc.Addrs, netip.MustParseAddr(a))
		}
		got, err := f.PutService(svc)
		if err != nil {
			return "", err
		}
		return fmt.Sprint(got.Addrs), nil
	}
	for i, name := range []string{"svc:a", "svc:b", "svc:c"} {
		want := fmt.Sprintf("[100.100.0.%d fd7a:115c:a1e0:5e7::%d]", i+1, i+1)
		if got, err := put(name); got != want || err != nil {
			t.Errorf("%s got %s, %v; want %s", name, got, err, want)
		}
	}
	_, err := put("svc:d")
	if refusal, ok := errors.AsType[*state.Error](err); !ok || refusal.Kind != state.Conflict || !strings.Contains(err.Error(), "no address is free") {
		t.Errorf("full prefix: %v", err)
	}
	if err := f.DeleteService("svc:b"); err != nil {
		t.Fatal(err)
	}
	if got, err := put("svc:d"); got != "[100.100.0.2 fd7a:115c:a1e0:5e7::2]" || err != nil {
		t.Errorf("freed address: %s, %v", got, err)
	}
	// The IPv4 address may be changed, and the IPv6 one left out.
	if got, err := put("svc:d", "100.101.0.9"); got != "[100.101.0.9 fd7a:115c:a1e0:5e7::2]" || err != nil {
		t.Errorf("changed address: %s, %v", got, err)
	}
}

func TestNamesAreUniqueLabels(t *testing.T) {
	f := newFixture(t, "100.100.0.0/16")
	long := strings.Repeat("x", 63)
	for _, name := range []string{"My_Host", "my-host", "", long, long} {
		f.join(name, state.KeySpec{}, tailcfg.Hostinfo{})
	}
	var got []string
	for _, d := range f.Devices() {
		got = append(got, d.Name)
	}
	want := []string{"my-host", "my-host-1", "node", long, long[:61] + "-1"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("names (-want +got):\n%s", diff)
	}
}
