package vip_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
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
	start = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	addrs = cmpopts.EquateComparable(netip.Addr{})
)

func export(cluster federation.ClusterID, id federation.ServiceID, port uint16) federation.Export {
	return federation.Export{
		Key: federation.ExportKey{Cluster: cluster, Service: id}, Tailnet: "production",
		Ports: []federation.Port{{Port: port, Protocol: federation.TCP}}, Ready: 1,
	}
}

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

func check(t *testing.T, r *vip.Registry) {
	t.Helper()
	for _, err := range r.Check() {
		t.Error(err)
	}
}

func TestNames(t *testing.T) {
	for name, tc := range map[string]struct {
		export        federation.Export
		name, service string
	}{
		"service":  {export("cluster2", federation.Service("default", "webapp"), 80), "local-production-webapp", "local-production-webapp-cluster2"},
		"listener": {export("cluster2", federation.Listener("infra", "main-gateway", "http"), 80), "gateway-main-gateway-http-80", "gateway-main-gateway-http-80-cluster2"},
		"too-long": {export("c", federation.Service("default", strings.Repeat("a", 60)), 80), "local-production-aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa-eec2f2f0", "local-production-aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa-1bf7f1ef"},
		"dots":     {export("c", federation.Service("default", "web.v2"), 80), "local-production-web-v2-95dcd3d2", "local-production-web-v2-c-bbe2f4db"},
		"capitals": {export("c", federation.Service("default", "Web"), 80), "local-production-web-13da8c0c", "local-production-web-c-9941f29a"},
	} {
		t.Run(name, func(t *testing.T) {
			r := vip.New(quarantine)
			e := claim(t, r, tc.export)
			if e.Name != tc.name || e.ServiceName != tc.service {
				t.Errorf("names %q and %q, want %q and %q", e.Name, e.ServiceName, tc.name, tc.service)
			}
			check(t, r)
		})
	}
}

func TestClashAddsTheNamespace(t *testing.T) {
	r := vip.New(quarantine)
	first := claim(t, r, export("c1", federation.Service("default", "webapp"), 80))
	second := claim(t, r, export("c1", federation.Service("shop", "webapp"), 80))
	if first.ServiceName != "local-production-webapp-c1" || second.ServiceName != "local-production-shop-webapp-c1" {
		t.Errorf("names %q and %q", first.ServiceName, second.ServiceName)
	}
	check(t, r)
}

func TestAVIPOnceGivenIsKept(t *testing.T) {
	r := vip.New(quarantine)
	x := export("c1", federation.Service("default", "webapp"), 80)
	e := claim(t, r, x)
	ip := []netip.Addr{netip.MustParseAddr("100.100.0.1")}
	changes, err := r.PlanAssign(e.ServiceName, ip)
	if err != nil {
		t.Fatal(err)
	}
	r.Apply(changes)

	if _, err := r.PlanAssign(e.ServiceName, []netip.Addr{netip.MustParseAddr("100.100.0.9")}); !errors.Is(err, vip.ErrAddressChanged) {
		t.Errorf("another address: %v, want ErrAddressChanged", err)
	}
	other := claim(t, r, export("c2", federation.Service("default", "webapp"), 80))
	if _, err := r.PlanAssign(other.ServiceName, ip); !errors.Is(err, vip.ErrAddressTaken) {
		t.Errorf("the address of another VIP: %v, want ErrAddressTaken", err)
	}

	r.Apply(r.PlanRelease(x.Key, start))
	if _, err := r.PlanAssign(other.ServiceName, ip); !errors.Is(err, vip.ErrAddressTaken) {
		t.Errorf("an address in quarantine: %v, want ErrAddressTaken", err)
	}
	x.Ports[0].Port = 8080
	if got := claim(t, r, x); got.ServiceName != e.ServiceName || !cmp.Equal(got.Addrs, ip, addrs) || got.Ports[0].Port != 8080 || !got.ReleasedAt.IsZero() {
		t.Errorf("the export came back to %+v", got)
	}
	check(t, r)
}

func TestQuarantineEnds(t *testing.T) {
	r := vip.New(quarantine)
	x := export("c1", federation.Service("default", "webapp"), 80)
	claim(t, r, x)
	r.Apply(r.PlanRelease(x.Key, start))
	at, ok := r.Deadline()
	if !ok || !at.Equal(start.Add(quarantine)) {
		t.Errorf("Deadline() = %v, %v", at, ok)
	}
	if got := r.PlanExpire(at.Add(-time.Nanosecond)); len(got) > 0 {
		t.Errorf("expired early: %v", got)
	}
	r.Apply(r.PlanExpire(at))
	if _, ok := r.Get(x.Key); ok {
		t.Error("still there after its quarantine")
	}
	check(t, r)
}

func TestAdoptKeepsWhatTheTailnetHas(t *testing.T) {
	x := export("c1", federation.Service("default", "webapp"), 80)
	found := federation.VIP{Owner: x.Key, Name: "old", ServiceName: "old-c1", Tailnet: "production", Ports: x.Ports, Addrs: []netip.Addr{netip.MustParseAddr("100.100.0.7")}}
	r := vip.New(quarantine)
	changes, err := r.PlanAdopt(found, start)
	if err != nil {
		t.Fatal(err)
	}
	r.Apply(changes)
	if got := claim(t, r, x); cmp.Diff(found, got.VIP, addrs) != "" {
		t.Errorf("the export has %+v, want the one that was found", got.VIP)
	}
	found.ServiceName, found.Owner.Cluster = "other-c2", "c2"
	if _, err := r.PlanAdopt(found, start); !errors.Is(err, vip.ErrAddressTaken) {
		t.Errorf("adopt a second holder of an address: %v, want ErrAddressTaken", err)
	}
}

func TestClaimRefusesAnExportWithoutPorts(t *testing.T) {
	if _, err := vip.New(quarantine).PlanClaim(federation.Export{}); !errors.Is(err, vip.ErrNoPorts) {
		t.Errorf("got %v, want ErrNoPorts", err)
	}
}

// FuzzRegistry plays random claims, answers, releases and time against the registry, and checks after each that it is
// sound, that no export changes its name or address, and that replaying the changes gives the same registry.
func FuzzRegistry(f *testing.F) {
	for seed := range uint64(8) {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, seed uint64) {
		rnd := rand.New(rand.NewPCG(seed, 0))
		r, replay := vip.New(quarantine), vip.New(quarantine)
		given := map[string][]netip.Addr{}
		now := start
		for i := range 200 {
			x := export(federation.ClusterID(fmt.Sprintf("c%d", rnd.IntN(3))), federation.Service(fmt.Sprintf("n%d", rnd.IntN(3)), fmt.Sprintf("s%d", rnd.IntN(4))), 80)
			var changes []vip.Change
			switch rnd.IntN(4) {
			case 0:
				changes, _ = r.PlanClaim(x)
			case 1:
				if e, ok := r.Get(x.Key); ok {
					changes, _ = r.PlanAssign(e.ServiceName, []netip.Addr{netip.AddrFrom4([4]byte{100, 100, 0, byte(rnd.IntN(40))})})
				}
			case 2:
				changes = r.PlanRelease(x.Key, now)
			case 3:
				now = now.Add(time.Duration(rnd.IntN(40)) * time.Minute)
				changes = r.PlanExpire(now)
			}
			r.Apply(changes)
			replay.Apply(changes)
			for _, c := range changes {
				if c.Delete {
					delete(given, c.Entry.ServiceName)
				}
			}
			for _, e := range r.Entries() {
				if had, ok := given[e.ServiceName]; ok && !cmp.Equal(had, e.Addrs, addrs) {
					t.Fatalf("step %d: %s had %v and has %v", i, e.ServiceName, had, e.Addrs)
				}
				if len(e.Addrs) > 0 {
					given[e.ServiceName] = e.Addrs
				}
			}
			for _, err := range r.Check() {
				t.Fatalf("step %d: %v", i, err)
			}
		}
		if d := cmp.Diff(r.Entries(), replay.Entries(), addrs); d != "" {
			t.Errorf("replay differs:\n%s", d)
		}
	})
}
