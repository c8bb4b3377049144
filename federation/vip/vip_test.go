package vip_test

import (
	"encoding/json"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/federation/vip"
)

const quarantine = time.Hour

var (
	start   = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	addrs   = cmpopts.EquateComparable(netip.Addr{})
	webapp  = federation.Service("default", "webapp")
	another = federation.Service("default", "another")
)

func export(cluster federation.ClusterID, id federation.ServiceID, port uint16) federation.Export {
	return federation.Export{
		Key: federation.ExportKey{Cluster: cluster, Service: id}, Tailnet: "production",
		Ports: []federation.Port{{Port: port, Protocol: federation.TCP}}, Ready: 1,
	}
}

func ip(s string) netip.Addr { return netip.MustParseAddr(s) }

func claim(t *testing.T, r *vip.Registry, x federation.Export) vip.Entry {
	t.Helper()
	changes, err := r.PlanClaim(x)
	if err != nil {
		t.Fatal(err)
	}
	r.Apply(changes)
	e, ok := r.Get(x.Key)
	if !ok {
		t.Fatalf("no VIP for %s", x.Key)
	}
	return e
}

func assign(t *testing.T, r *vip.Registry, service string, given ...string) {
	t.Helper()
	var as []netip.Addr
	for _, s := range given {
		as = append(as, ip(s))
	}
	changes, err := r.PlanAssign(service, as)
	if err != nil {
		t.Fatal(err)
	}
	r.Apply(changes)
}

func check(t *testing.T, r *vip.Registry) {
	t.Helper()
	for _, err := range r.Check() {
		t.Error(err)
	}
}

// stored returns the changes as a store gives them back.
func stored(t *testing.T, changes []vip.Change) []vip.Change {
	t.Helper()
	text, err := json.Marshal(changes)
	if err != nil {
		t.Fatal(err)
	}
	var out []vip.Change
	if err := json.Unmarshal(text, &out); err != nil {
		t.Fatal(err)
	}
	return out
}

// wantError fails unless err wraps want and says all of the words.
func wantError(t *testing.T, what string, err, want error, words ...string) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s: %v, want %v", what, err, want)
		return
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("%s: %q does not say %q", what, err, w)
		}
	}
}

func TestClaimingTwiceIsClaimingOnce(t *testing.T) {
	r := vip.New(vip.Options{Epoch: 1})
	x := export("c1", webapp, 80)
	claim(t, r, x)
	if changes, err := r.PlanClaim(x); err != nil || len(changes) > 0 {
		t.Errorf("the second claim plans %v, %v", changes, err)
	}
	if r.Len() != 1 {
		t.Errorf("%d entries", r.Len())
	}
}

func TestAClaimBearsItsEpoch(t *testing.T) {
	x := export("c1", webapp, 80)
	old := vip.New(vip.Options{Quarantine: quarantine, Epoch: 3})
	if e := claim(t, old, x); e.Epoch != 3 {
		t.Errorf("epoch %d, want 3", e.Epoch)
	}
	r := vip.New(vip.Options{Quarantine: quarantine, Epoch: 7})
	for e := range old.All() {
		r.Apply([]vip.Change{{Entry: *e}})
	}
	if e := claim(t, r, x); e.Epoch != 3 {
		t.Errorf("a claim that changes nothing was made anew in epoch %d", e.Epoch)
	}
	assign(t, r, "local-production-webapp-c1", "100.100.0.1")
	r.Apply(r.PlanRelease(x.Key, start))
	if e, _ := r.Get(x.Key); e.Epoch != 3 {
		t.Errorf("epoch %d after the release, want that of the claim, 3", e.Epoch)
	}
	if e := claim(t, r, x); e.Epoch != 7 {
		t.Errorf("epoch %d after another claim, want 7", e.Epoch)
	}
	check(t, r)
}

func TestAVIPOnceGivenIsKept(t *testing.T) {
	r := vip.New(vip.Options{Quarantine: quarantine})
	x := export("c1", webapp, 80)
	e := claim(t, r, x)
	given := []netip.Addr{ip("100.100.0.1"), ip("fd7a::1")}
	assign(t, r, e.ServiceName, "fd7a::1", "100.100.0.1", "::ffff:100.100.0.1")
	if changes, err := r.PlanAssign(e.ServiceName, given); err != nil || len(changes) > 0 {
		t.Errorf("the same addresses in another order plan %v, %v", changes, err)
	}
	_, err := r.PlanAssign(e.ServiceName, []netip.Addr{ip("100.100.0.9")})
	wantError(t, "another address", err, vip.ErrAddressChanged, "100.100.0.1", "100.100.0.9", "delete svc:"+e.ServiceName)
	other := claim(t, r, export("c2", webapp, 80))
	_, err = r.PlanAssign(other.ServiceName, given[1:])
	wantError(t, "the address of another VIP", err, vip.ErrAddressTaken, "fd7a::1", e.ServiceName, x.Key.String(), "delete svc:"+other.ServiceName)

	r.Apply(r.PlanRelease(x.Key, start))
	_, err = r.PlanAssign(other.ServiceName, given)
	wantError(t, "an address in quarantine", err, vip.ErrAddressTaken)
	if kept, ok := r.Lookup(x.Key); !ok || !kept.ReleasedAt.Equal(start) {
		t.Errorf("Lookup() = %v, %v", kept, ok)
	}
	if kept, ok := r.Lookup(export("c9", webapp, 80).Key); ok {
		t.Errorf("Lookup() of nobody = %v", kept)
	}
	if holder, ok := r.Holder(given[1]); !ok || holder.ServiceName != e.ServiceName {
		t.Errorf("Holder() = %v, %v", holder, ok)
	}
	x.Ports[0].Port = 8080
	if got := claim(t, r, x); got.ServiceName != e.ServiceName || !cmp.Equal(got.Addrs, given, addrs) || got.Ports[0].Port != 8080 || !got.ReleasedAt.IsZero() {
		t.Errorf("the export came back to %+v", got)
	}
	check(t, r)
}

func TestAssignRefuses(t *testing.T) {
	r := vip.New(vip.Options{})
	e := claim(t, r, export("c1", webapp, 80))
	_, err := r.PlanAssign("nobody", []netip.Addr{ip("100.100.0.1")})
	wantError(t, "a name that nobody has", err, vip.ErrUnknown, "nobody")
	for what, a := range map[string]netip.Addr{"no address": {}, "a zone": ip("fe80::1%eth0")} {
		_, err := r.PlanAssign(e.ServiceName, []netip.Addr{a})
		wantError(t, what, err, vip.ErrInvalid, e.ServiceName)
	}
	if changes, err := r.PlanAssign(e.ServiceName, nil); err != nil || len(changes) > 0 {
		t.Errorf("no addresses plan %v, %v", changes, err)
	}
}

func TestQuarantine(t *testing.T) {
	r := vip.New(vip.Options{Quarantine: quarantine})
	if _, ok := r.Deadline(); ok || len(r.PlanExpire(start)) > 0 {
		t.Error("an empty registry has a deadline")
	}
	// Released in the order c, a, b; each a minute after the other.
	for i, cluster := range []federation.ClusterID{"c", "a", "b"} {
		x := export(cluster, webapp, 80)
		claim(t, r, x)
		r.Apply(r.PlanRelease(x.Key, start.Add(time.Duration(i)*time.Minute)))
		if again := r.PlanRelease(x.Key, start.Add(time.Hour)); len(again) > 0 {
			t.Errorf("released twice: %v", again)
		}
	}
	if again := r.PlanRelease(export("d", webapp, 80).Key, start); len(again) > 0 {
		t.Errorf("released what is not there: %v", again)
	}
	claim(t, r, export("stays", webapp, 80))
	expired := func(at time.Time) (names []string) {
		for _, c := range r.PlanExpire(at) {
			if names = append(names, c.Entry.ServiceName); !c.Delete {
				t.Errorf("%s is not deleted", c.Entry.ServiceName)
			}
		}
		return names
	}
	at, ok := r.Deadline()
	if !ok || !at.Equal(start.Add(quarantine)) {
		t.Errorf("Deadline() = %v, %v", at, ok)
	}
	if got := expired(at.Add(-time.Nanosecond)); len(got) > 0 {
		t.Errorf("expired early: %v", got)
	}
	if d := cmp.Diff([]string{"local-production-webapp-c"}, expired(at)); d != "" {
		t.Errorf("at the deadline (-want +got):\n%s", d)
	}
	if d := cmp.Diff([]string{"local-production-webapp-a", "local-production-webapp-b", "local-production-webapp-c"}, expired(at.Add(time.Hour))); d != "" {
		t.Errorf("when all are over (-want +got):\n%s", d)
	}
	forget := r.PlanForget("local-production-webapp-b", at.Add(time.Hour))
	if d := cmp.Diff(r.PlanExpire(at.Add(time.Hour))[1:2], forget, addrs); d != "" {
		t.Errorf("PlanForget (-want +got):\n%s", d)
	}
	for what, got := range map[string][]vip.Change{
		"early": r.PlanForget("local-production-webapp-b", at), "claimed": r.PlanForget("local-production-webapp-stays", at), "unknown": r.PlanForget("x", at),
	} {
		if len(got) > 0 {
			t.Errorf("%s: forgot %v", what, got)
		}
	}
	r.Apply(r.PlanExpire(at.Add(time.Hour)))
	if _, ok := r.Deadline(); ok || r.Len() != 1 {
		t.Errorf("%d entries are left, with a deadline: %v", r.Len(), ok)
	}
	check(t, r)
}

func TestClaimRefuses(t *testing.T) {
	r := vip.New(vip.Options{})
	_, err := r.PlanClaim(federation.Export{})
	wantError(t, "no port", err, vip.ErrNoPorts)
	for _, id := range []federation.ClusterID{"", "C1", "c_1"} {
		_, err = r.PlanClaim(export(id, webapp, 80))
		wantError(t, "cluster id", err, federation.ErrInvalidClusterID)
	}
}

func TestWhatIsHandedOutStaysAsItWas(t *testing.T) {
	r := vip.New(vip.Options{Quarantine: quarantine})
	x := export("c1", webapp, 80)
	changes, err := r.PlanClaim(x)
	if err != nil {
		t.Fatal(err)
	}
	r.Apply(changes)
	x.Ports[0].Port, changes[0].Entry.Ports[0].Port = 1, 2 // theirs, not the registry's
	e, _ := r.Named("local-production-webapp-c1")
	if e.Ports[0].Port != 80 {
		t.Errorf("port %d, want 80", e.Ports[0].Port)
	}
	for held := range r.All() {
		assign(t, r, held.ServiceName, "100.100.0.1")
		r.Apply(r.PlanRelease(held.Owner, start))
		if len(held.Addrs) > 0 || !held.ReleasedAt.IsZero() {
			t.Errorf("an entry changed in the hand: %+v", held)
		}
	}
	e, _ = r.Get(x.Key)
	_ = append(e.Addrs, ip("100.100.0.2"))
	_ = append(e.Ports, federation.Port{Port: 1})
	check(t, r)
}

func TestAllStopsWhenAsked(t *testing.T) {
	r := vip.New(vip.Options{})
	for _, id := range []federation.ClusterID{"b", "a", "c"} {
		claim(t, r, export(id, webapp, 80))
	}
	for e := range r.All() {
		if e.Owner.Cluster != "a" {
			t.Errorf("first is %s, want that of a", e.Owner)
		}
		break
	}
}
