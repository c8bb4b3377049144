package vip_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/federation/vip"
)

// TestCheckFindsWhatAStoreCanHold applies entries that contradict one another.
func TestCheckFindsWhatAStoreCanHold(t *testing.T) {
	entry := func(service, cluster, addr string) vip.Entry {
		e := vip.Entry{VIP: federation.VIP{Owner: export(federation.ClusterID(cluster), webapp, 80).Key, Name: service, ServiceName: service}}
		if addr != "" {
			e.Addrs = []netip.Addr{ip(addr)}
		}
		return e
	}
	for name, tc := range map[string]struct {
		entries []vip.Entry
		want    string
	}{
		"two-owners":       {[]vip.Entry{entry("a", "c1", ""), entry("b", "c1", "")}, "has two VIPs, a and b"},
		"two-addresses":    {[]vip.Entry{entry("a", "c1", "100.100.0.1"), entry("b", "c2", "100.100.0.1")}, "100.100.0.1 is held by a and b"},
		"no-label":         {[]vip.Entry{entry("a.b", "c1", "")}, `"a.b" ("a.b") is not an RFC 1123 label`},
		"no-name":          {[]vip.Entry{{VIP: federation.VIP{ServiceName: "a"}}}, `"a" ("") is not an RFC 1123 label`},
		"ipv4-inside-ipv6": {[]vip.Entry{entry("a", "c1", "::ffff:100.100.0.1")}, "no address of a VIP"},
	} {
		t.Run(name, func(t *testing.T) {
			r := vip.New(vip.Options{})
			for _, e := range tc.entries {
				r.Apply([]vip.Change{{Entry: e}})
			}
			wantFinding(t, r, tc.want)
		})
	}
}

// TestCheckFindsWhatACallerBroke changes entries in the registry's back, which nobody should.
func TestCheckFindsWhatACallerBroke(t *testing.T) {
	for name, tc := range map[string]struct {
		damage func(e *vip.Entry)
		want   string
	}{
		"name":          {func(e *vip.Entry) { e.ServiceName = "z" }, "the indexes disagree"},
		"owner":         {func(e *vip.Entry) { e.Owner.Cluster = "z" }, "the indexes disagree"},
		"address":       {func(e *vip.Entry) { e.Addrs[0] = ip("100.100.0.9") }, "the free addresses of 100.100.0.0/24 disagree"},
		"address-found": {func(e *vip.Entry) { e.Addrs[0] = ip("fd7a::1") }, "the indexes disagree"},
		"address-lost":  {func(e *vip.Entry) { e.Addrs = nil }, "is not in its queue"},
		"word":          {func(e *vip.Entry) { e.Tailnet = "z" }, "the shared strings disagree"},
		"release":       {func(e *vip.Entry) { e.ReleasedAt = start }, "rest or wait"},
		"claim":         {func(e *vip.Entry) { e.ReleasedAt = time.Time{} }, "rest or wait"},
		"time":          {func(e *vip.Entry) { e.ReleasedAt = e.ReleasedAt.Add(time.Hour) }, "a queue is out of order"},
	} {
		t.Run(name, func(t *testing.T) {
			r := vip.New(vip.Options{Pool: pool(t, "100.100.0.0/24")})
			for i := range 3 {
				claim(t, r, export(federation.ClusterID(fmt.Sprintf("a%d", i)), webapp, 80))
				x := export(federation.ClusterID(fmt.Sprintf("b%d", i)), webapp, 80)
				claim(t, r, x)
				r.Apply(r.PlanRelease(x.Key, start.Add(time.Duration(i)*time.Minute)))
			}
			check(t, r)
			which := federation.ClusterID("a0")
			if name == "claim" || name == "time" {
				which = "b0"
			}
			for e := range r.All() {
				if e.Owner.Cluster == which {
					tc.damage(e)
				}
			}
			wantFinding(t, r, tc.want)
		})
	}
}

func wantFinding(t *testing.T, r *vip.Registry, want string) {
	t.Helper()
	errs := r.Check()
	for _, err := range errs {
		if strings.Contains(err.Error(), want) {
			return
		}
	}
	t.Errorf("Check found %v, want %q", errs, want)
}

// TestDeletingOneOfTwo deletes what was overwritten: what the other holds stays held.
func TestDeletingOneOfTwo(t *testing.T) {
	r := vip.New(vip.Options{Pool: pool(t, "100.100.0.1-100.100.0.2")})
	x := export("c1", webapp, 80)
	both := []vip.Change{
		{Entry: vip.Entry{VIP: federation.VIP{Owner: x.Key, Name: "a", ServiceName: "a", Addrs: []netip.Addr{ip("100.100.0.1")}}}},
		{Entry: vip.Entry{VIP: federation.VIP{Owner: x.Key, Name: "b", ServiceName: "b", Addrs: []netip.Addr{ip("100.100.0.1")}}}},
	}
	r.Apply(both)
	wantFinding(t, r, "two VIPs")
	both[0].Delete = true
	r.Apply(both[:1])
	if e, ok := r.Get(x.Key); !ok || e.ServiceName != "b" {
		t.Errorf("left is %+v, %v", e, ok)
	}
	if e := claim(t, r, export("c2", webapp, 80)); e.Addrs[0] != ip("100.100.0.2") {
		t.Errorf("given %v", e.Addrs)
	}
	check(t, r)
}
