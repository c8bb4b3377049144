package vip_test

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go4.org/netipx"

	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/federation/vip"
)

func pool(t testing.TB, list string) *vip.Pool {
	t.Helper()
	p, err := vip.ParsePool(list)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestParsePool(t *testing.T) {
	for name, tc := range map[string]struct {
		list string
		size int
		want string // String
	}{
		"prefix":             {"100.100.0.0/24", 256, "100.100.0.0/24"},
		"one-address":        {"100.100.0.7", 1, "100.100.0.7"},
		"prefix-of-one":      {"100.100.0.7/32", 1, "100.100.0.7"},
		"range":              {"100.100.0.1-100.100.0.20", 20, "100.100.0.1-100.100.0.20"},
		"empty":              {" ", 0, "(empty range)"},
		"overlapping":        {"100.100.0.0/24, 100.100.0.128-100.100.1.10,100.100.0.5", 267, "100.100.0.0-100.100.1.10"},
		"adjacent":           {"100.100.1.0/24,100.100.0.0/24", 512, "100.100.0.0/23"},
		"families":           {"fd7a::/120,100.100.0.9", 257, "100.100.0.9,fd7a::/120"},
		"across-a-half":      {"fd7a::ffff:ffff:ffff:fffe-fd7a:0:0:1::1", 4, "fd7a::ffff:ffff:ffff:fffe-fd7a:0:0:1::1"},
		"all-of-the-cg-nat":  {"100.64.0.0/10", 1 << 22, "100.64.0.0/10"},
		"as-many-as-may-be":  {"10.0.0.0/8", vip.MaxPool, "10.0.0.0/8"},
		"ipv6-by-its-length": {"fd7a::/104", vip.MaxPool, "fd7a::/104"},
	} {
		t.Run(name, func(t *testing.T) {
			p := pool(t, tc.list)
			if p.Size() != tc.size || p.String() != tc.want {
				t.Errorf("%s of %d addresses, want %s of %d", p, p.Size(), tc.want, tc.size)
			}
		})
	}
}

func TestParsePoolRefuses(t *testing.T) {
	for name, tc := range map[string]struct{ list, says string }{
		"no-range":         {"vips", "want a prefix"},
		"empty-item":       {"100.100.0.0/24,", "want a prefix"},
		"host-bits":        {"100.100.0.7/24", "write 100.100.0.0/24, or 100.100.0.7"},
		"upside-down":      {"100.100.0.20-100.100.0.1", "want a prefix"},
		"two-families":     {"100.100.0.20-fd7a::1", "want a prefix"},
		"zone":             {"fd7a::1%eth0", "want a prefix"},
		"too-many":         {"10.0.0.0/8,100.100.0.1", "16777216 addresses"},
		"far-too-many":     {"fd7a::/64", "16777216 addresses"},
		"still-more":       {"fd7a::/32", "16777216 addresses"},
		"loopback":         {"127.0.0.1", "127.0.0.0/8"},
		"everything":       {"0.0.0.0/0", "0.0.0.0/8"},
		"multicast":        {"224.0.0.1-224.0.0.9", "224.0.0.0/3"},
		"link-local":       {"fe80::/64", "fe80::/10"},
		"ipv4-inside-ipv6": {"::ffff:100.100.0.1", "::ffff:0.0.0.0/96"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := vip.ParsePool(tc.list)
			wantError(t, tc.list, err, vip.ErrInvalidRange, tc.says)
		})
	}
	_, err := vip.NewPool(netipx.IPRange{})
	wantError(t, "the zero range", err, vip.ErrInvalidRange, "lower one first")
}

func TestPoolContains(t *testing.T) {
	p := pool(t, "100.100.0.1-100.100.0.2,100.100.0.9,fd7a::/127")
	var in []string
	for _, s := range []string{"100.100.0.0", "100.100.0.1", "100.100.0.2", "100.100.0.3", "100.100.0.9", "100.100.0.10", "fd79::", "fd7a::", "fd7a::1", "fd7a::2"} {
		if p.Contains(ip(s)) {
			in = append(in, s)
		}
	}
	if d := cmp.Diff([]string{"100.100.0.1", "100.100.0.2", "100.100.0.9", "fd7a::", "fd7a::1"}, in); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	if p.Contains(netip.Addr{}) {
		t.Error("it contains the address that is none")
	}
	var none *vip.Pool
	if none.Contains(ip("100.100.0.1")) || none.Size() != 0 || none.String() != "(empty range)" {
		t.Errorf("the nil pool is %s", none)
	}
}

// TestLowestFreeFirst claims from pools with gaps as many VIPs as they have addresses, and one more.
func TestLowestFreeFirst(t *testing.T) {
	for name, tc := range map[string]struct {
		list string
		want []string
	}{
		"empty":         {"", nil},
		"one":           {"100.100.0.7", []string{"100.100.0.7"}},
		"gaps":          {"100.100.0.9,100.100.0.1-100.100.0.2,100.100.0.4", []string{"100.100.0.1", "100.100.0.2", "100.100.0.4", "100.100.0.9"}},
		"ipv4-first":    {"fd7a::/127,100.100.0.255-100.100.1.0", []string{"100.100.0.255", "100.100.1.0", "fd7a::", "fd7a::1"}},
		"across-a-half": {"fd7a::ffff:ffff:ffff:ffff-fd7a:0:0:1::", []string{"fd7a::ffff:ffff:ffff:ffff", "fd7a:0:0:1::"}},
	} {
		t.Run(name, func(t *testing.T) {
			r := vip.New(vip.Options{Pool: pool(t, tc.list)})
			var got []string
			for i := range tc.want {
				e := claim(t, r, export(federation.ClusterID(fmt.Sprintf("c%d", i)), webapp, 80))
				got = append(got, e.Addrs[0].String())
			}
			if d := cmp.Diff(tc.want, got); d != "" {
				t.Errorf("(-want +got):\n%s", d)
			}
			_, err := r.PlanClaim(export("more", webapp, 80))
			wantError(t, "one more", err, vip.ErrRangeFull, "more/Service/default/webapp", fmt.Sprintf("all %d of", len(tc.want)), "reserve a wider range", r.Pool().String())
			check(t, r)
		})
	}
}

func TestAFullRange(t *testing.T) {
	r := vip.New(vip.Options{Quarantine: quarantine, Pool: pool(t, "100.100.0.1"), Epoch: 9})
	x, y, z := export("c1", webapp, 80), export("c3", webapp, 80), export("c2", webapp, 80)
	claim(t, r, x)
	for _, waits := range []federation.Export{y, z} {
		changes, err := r.PlanClaim(waits)
		wantError(t, "a full range", err, vip.ErrRangeFull)
		if len(changes) != 1 || len(changes[0].Entry.Addrs) > 0 {
			t.Fatalf("plans %v, want the name", changes)
		}
		r.Apply(changes)
		changes, err = r.PlanClaim(waits)
		if wantError(t, "the same again", err, vip.ErrRangeFull); len(changes) > 0 {
			t.Errorf("plans %v again", changes)
		}
	}
	r.Apply(r.PlanRelease(x.Key, start))
	if got := r.PlanFill(); len(got) > 0 {
		t.Errorf("an address in quarantine was given: %v", got)
	}
	// The batch that deletes one VIP gives its address to the next, by name.
	batch := r.PlanExpire(start.Add(quarantine))
	batch = append(batch, r.PlanFill(batch...)...)
	r.Apply(batch)
	if e, _ := r.Get(z.Key); len(batch) != 2 || len(e.Addrs) != 1 || e.Addrs[0] != ip("100.100.0.1") || e.Epoch != 9 {
		t.Errorf("%v left %+v", batch, e)
	}
	check(t, r)
	// A waiting VIP that is released waits no longer, and is given an address when it comes back and there is one.
	r.Apply(r.PlanRelease(y.Key, start))
	r.SetPool(pool(t, "100.100.0.0/30"))
	if got := r.PlanFill(); len(got) > 0 {
		t.Errorf("a released VIP was filled: %v", got)
	}
	if e := claim(t, r, y); len(e.Addrs) != 1 || e.Addrs[0] != ip("100.100.0.0") {
		t.Errorf("came back to %v", e.Addrs)
	}
	check(t, r)
}

func TestSettingTheRange(t *testing.T) {
	r := vip.New(vip.Options{Quarantine: quarantine})
	var names []string
	for i := range 4 {
		names = append(names, claim(t, r, export(federation.ClusterID(fmt.Sprintf("c%d", i)), webapp, 80)).ServiceName)
	}
	has := func() (out []string) {
		for _, name := range names {
			e, _ := r.Named(name)
			out = append(out, strings.Trim(fmt.Sprint(e.Addrs), "[]"))
		}
		return out
	}
	outside := func() (out []string) {
		for _, e := range r.Outside() {
			out = append(out, e.Addrs[0].String())
		}
		return out
	}
	if got := r.PlanFill(); len(got) > 0 || len(r.Outside()) > 0 {
		t.Errorf("without a pool: %v", got)
	}
	r.SetPool(pool(t, "100.100.0.1-100.100.0.3"))
	r.Apply(r.PlanFill())
	if d := cmp.Diff([]string{"100.100.0.1", "100.100.0.2", "100.100.0.3", ""}, has()); d != "" {
		t.Errorf("three for four (-want +got):\n%s", d)
	}
	check(t, r)

	r.SetPool(pool(t, "100.100.0.2,100.100.0.9"))
	r.Apply(r.PlanFill())
	if d := cmp.Diff([]string{"100.100.0.1", "100.100.0.2", "100.100.0.3", "100.100.0.9"}, has()); d != "" {
		t.Errorf("after it shrank (-want +got):\n%s", d)
	}
	if d := cmp.Diff([]string{"100.100.0.1", "100.100.0.3"}, outside()); d != "" {
		t.Errorf("outside (-want +got):\n%s", d)
	}
	check(t, r)

	r.Apply(r.PlanRelease(export("c0", webapp, 80).Key, start))
	r.Apply(r.PlanRelease(export("c1", webapp, 80).Key, start))
	if d := cmp.Diff([]string{"100.100.0.1", "100.100.0.3"}, outside()); d != "" {
		t.Errorf("outside in quarantine (-want +got):\n%s", d)
	}
	r.Apply(r.PlanExpire(start.Add(quarantine)))
	if e := claim(t, r, export("new", webapp, 80)); e.Addrs[0] != ip("100.100.0.2") {
		t.Errorf("given %v, want the freed one inside", e.Addrs)
	}
	if _, err := r.PlanClaim(export("newer", webapp, 80)); !errors.Is(err, vip.ErrRangeFull) {
		t.Errorf("%v, want ErrRangeFull: what was freed outside is never given again", err)
	}
	r.SetPool(nil)
	if got := r.Outside(); len(got) > 0 {
		t.Errorf("outside of no pool: %v", got)
	}
	check(t, r)
}

// TestOneBatch plans several changes for one batch: none knows the registry after the others, but what is pending.
func TestOneBatch(t *testing.T) {
	r := vip.New(vip.Options{Quarantine: quarantine, Pool: pool(t, "100.100.0.1-100.100.0.4")})
	gone := export("gone", webapp, 80)
	claim(t, r, gone)
	r.Apply(r.PlanRelease(gone.Key, start))
	claim(t, r, export("stays", webapp, 80))

	batch := r.PlanExpire(start.Add(quarantine))
	add := func(changes []vip.Change, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		batch = append(batch, changes...)
	}
	share := sharing("c1", webapp, "production", port("", 80, federation.TCP))
	add(r.PlanClaim(export("c1", another, 80), batch...))
	add(r.PlanClaim(export("c1", federation.Service("shop", "another"), 80), batch...))
	add(r.PlanClaimFederated(webapp, []federation.Export{share}, batch...))
	add(r.PlanClaim(export("c1", another, 80), batch...)) // nothing new
	share.Ports[0].Port = 81
	add(r.PlanClaimFederated(webapp, []federation.Export{share}, batch...))
	if _, err := r.PlanClaim(gone, batch...); !errors.Is(err, vip.ErrRangeFull) {
		t.Errorf("%v, want ErrRangeFull", err)
	}
	if got := r.PlanFill(batch...); len(got) > 0 {
		t.Errorf("fills %v", got)
	}
	r.Apply(batch)
	got := map[string]string{}
	for e := range r.All() {
		got[e.ServiceName] = fmt.Sprint(e.Addrs, e.Ports[0].Port)
	}
	want := map[string]string{
		"local-production-another-c1": "[100.100.0.1] 80", "local-production-webapp-stays": "[100.100.0.2] 80",
		"local-production-shop-another-c1": "[100.100.0.3] 80", "federated-production-webapp": "[100.100.0.4] 81",
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	check(t, r)
}

func TestFillOfOneBatch(t *testing.T) {
	r := vip.New(vip.Options{Quarantine: quarantine})
	var keys []federation.ExportKey
	for i := range 4 {
		keys = append(keys, claim(t, r, export(federation.ClusterID(fmt.Sprintf("c%d", i)), webapp, 80)).Owner)
	}
	r.SetPool(pool(t, "100.100.0.1-100.100.0.3"))
	batch := r.PlanRelease(keys[0], start) // waits no longer
	changed := export("c1", webapp, 81)    // has its address by the claim
	changes, err := r.PlanClaim(changed, batch...)
	if err != nil {
		t.Fatal(err)
	}
	batch = append(batch, changes...)
	batch = append(batch, r.PlanFill(batch...)...)
	r.Apply(batch)
	var got []string
	for _, k := range keys {
		e, _ := r.Get(k)
		got = append(got, fmt.Sprint(e.Addrs, e.Ports[0].Port))
	}
	if d := cmp.Diff([]string{"[] 80", "[100.100.0.1] 81", "[100.100.0.2] 80", "[100.100.0.3] 80"}, got); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	check(t, r)
}

func TestAdoptedAddressesOfTheRangeAreNotGiven(t *testing.T) {
	r := vip.New(vip.Options{Quarantine: quarantine, Pool: pool(t, "100.100.0.1-100.100.0.3")})
	changes, err := r.PlanAdopt(found("c9", "old", "100.100.0.2"), start)
	if err != nil {
		t.Fatal(err)
	}
	r.Apply(changes)
	var got []netip.Addr
	for _, id := range []federation.ClusterID{"c9", "c1", "c2"} {
		got = append(got, claim(t, r, export(id, webapp, 80)).Addrs...)
	}
	if !slices.Equal(got, []netip.Addr{ip("100.100.0.2"), ip("100.100.0.1"), ip("100.100.0.3")}) {
		t.Errorf("given %v", got)
	}
	check(t, r)
}

// FuzzPool reads any text: what is no range is refused as such, what is one says itself in a way that reads the same,
// and its addresses are those that it contains, in order.
func FuzzPool(f *testing.F) {
	for _, s := range []string{"", "100.100.0.0/24", "100.100.0.1-100.100.0.9,100.100.0.4", "fd7a::/120, 10.0.0.1", "0.0.0.0/0", "fd7a::ffff:ffff:ffff:fff0-fd7a:0:0:1::f", "x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, list string) {
		p, err := vip.ParsePool(list)
		if err != nil {
			if !errors.Is(err, vip.ErrInvalidRange) {
				t.Fatal(err)
			}
			return
		}
		if p.Size() > 1<<12 {
			t.Skip("too many to claim")
		}
		if p.Size() > 0 {
			if again := pool(t, p.String()); again.String() != p.String() || again.Size() != p.Size() {
				t.Errorf("%s of %d is read as %s of %d", p, p.Size(), again, again.Size())
			}
		}
		r := vip.New(vip.Options{Pool: p})
		var last netip.Addr
		for i := range p.Size() {
			e := claim(t, r, export(federation.ClusterID(fmt.Sprintf("c%d", i)), webapp, 80))
			if a := e.Addrs[0]; !p.Contains(a) || !last.Less(a) {
				t.Fatalf("%s after %s of %s", a, last, p)
			}
			last = e.Addrs[0]
		}
		if _, err := r.PlanClaim(export("more", webapp, 80)); !errors.Is(err, vip.ErrRangeFull) {
			t.Errorf("%v, want ErrRangeFull", err)
		}
		check(t, r)
	})
}

// TestFillOfAWideRange fills a range of many machine words, with and without holes.
func TestFillOfAWideRange(t *testing.T) {
	const size, claims, apart = 1 << 13, 1<<13 + 500, 100
	r := vip.New(vip.Options{Quarantine: quarantine})
	for i := range claims {
		claim(t, r, export(federation.ClusterID(fmt.Sprintf("c%05d", i)), webapp, 80))
	}
	r.SetPool(pool(t, "100.64.0.0/19"))
	filled := r.PlanFill()
	if len(filled) != size {
		t.Fatalf("filled %d, want %d", len(filled), size)
	}
	r.Apply(filled)
	want := ip("100.64.0.0")
	for _, c := range filled {
		if c.Entry.Addrs[0] != want {
			t.Fatalf("%s was given %v, want %s", c.Entry.ServiceName, c.Entry.Addrs, want)
		}
		want = want.Next()
	}
	check(t, r)

	var freed []netip.Addr
	for i := 0; i < size; i += apart {
		r.Apply(r.PlanRelease(filled[i].Entry.Owner, start))
		freed = append(freed, filled[i].Entry.Addrs...)
	}
	// The same whether the batch frees the addresses itself or one before it did.
	deleted := r.PlanExpire(start.Add(quarantine))
	together := r.PlanFill(deleted...)
	r.Apply(deleted)
	check(t, r)
	filled = r.PlanFill()
	if d := cmp.Diff(filled, together, addrs); d != "" {
		t.Errorf("in one batch and in two (-two +one):\n%s", d)
	}
	r.Apply(filled)
	for i, c := range filled {
		if c.Entry.Addrs[0] != freed[i] {
			t.Fatalf("%s was given %v, want %s", c.Entry.ServiceName, c.Entry.Addrs, freed[i])
		}
	}
	if len(filled) != len(freed) {
		t.Errorf("filled %d, want %d", len(filled), len(freed))
	}
	check(t, r)
}
