package vip_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/federation/vip"
)

// pools are the ranges that a game sets, with their addresses 100.100.0.n; the first is none.
var pools = []struct {
	list  string
	addrs []byte
}{
	{"", nil}, {" ", []byte{}}, {"100.100.0.3", []byte{3}},
	{"100.100.0.2-100.100.0.4,100.100.0.9", []byte{2, 3, 4, 9}}, {"100.100.0.0/28", []byte{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}},
}

// game plays one list of moves against the registry, the model and a registry that replays what was stored.
type game struct {
	*testing.T
	rnd      *rand.Rand
	now      time.Time
	registry *vip.Registry
	replay   *vip.Registry
	model    *model
	resting  map[netip.Addr]time.Time // until when nobody else may have an address
	had      map[string]vip.Entry
}

func (g *game) pick(n int) int { return g.rnd.IntN(n) }

// The names are such that two with and without the namespace are the same.
func (g *game) service() federation.ServiceID {
	return federation.Service([]string{"n", "m"}[g.pick(2)], []string{"a", "b", "n-a", "m-b"}[g.pick(4)])
}

func (g *game) export() federation.Export {
	x := export(federation.ClusterID(fmt.Sprintf("c%d", g.pick(3))), g.service(), uint16(80+g.pick(2)))
	x.Federated = true
	return x
}

func (g *game) addr() netip.Addr { return netip.AddrFrom4([4]byte{100, 100, 0, byte(g.pick(20))}) }

// same fails unless the registry says of a move what the model does.
func (g *game) same(move string, got, want error) {
	g.Helper()
	if !errors.Is(got, want) || (got == nil) != (want == nil) {
		g.Fatalf("%s: the registry says %v, the model %v", move, got, want)
	}
}

// move makes one move and returns what to apply.
func (g *game) move() (string, []vip.Change) {
	switch g.pick(9) {
	case 0, 1, 2:
		x := g.export()
		changes, err := g.registry.PlanClaim(x)
		g.same("claim", err, g.model.claim(x.Key, x.Ports))
		return "claim", changes
	case 3:
		return "claims of one batch", g.batch()
	case 4:
		service := ""
		if all := g.model.sorted(); len(all) > 0 {
			service = all[g.pick(len(all))].ServiceName
		}
		a := g.addr()
		changes, err := g.registry.PlanAssign(service, []netip.Addr{a})
		g.same("assign", err, g.model.assign(service, a))
		return "assign", changes
	case 5:
		x := g.export()
		v := federation.VIP{Owner: x.Key, Name: x.Key.Service.Name, ServiceName: []string{"old-", "local-production-"}[g.pick(2)] + x.Key.Service.Name + "-" + string(x.Key.Cluster),
			Tailnet: "production", Ports: x.Ports, Addrs: []netip.Addr{g.addr()}}
		changes, err := g.registry.PlanAdopt(v, g.now)
		g.same("adopt", err, g.model.adopt(v, g.now))
		return "adopt", changes
	case 6:
		k := g.export().Key
		if g.pick(4) == 0 {
			k.Cluster = ""
		}
		if g.pick(4) == 0 {
			g.model.dismiss(k, g.now)
			return "dismiss", g.registry.PlanDismiss(k, g.now)
		}
		g.model.release(k, g.now)
		return "release", g.registry.PlanRelease(k, g.now)
	case 7:
		g.now = g.now.Add(time.Duration(g.pick(60)) * time.Minute)
		g.model.expire(g.now)
		g.model.fill()
		changes := g.registry.PlanExpire(g.now)
		return "expire and fill", append(changes, g.registry.PlanFill(changes...)...)
	}
	return "set the pool", g.setPool()
}

// batch claims the VIPs of an export and of its federated service for one batch, and fills.
func (g *game) batch() []vip.Change {
	x := g.export()
	changes, err := g.registry.PlanClaim(x)
	g.same("claim", err, g.model.claim(x.Key, x.Ports))
	more, err := g.registry.PlanClaimFederated(x.Key.Service, []federation.Export{x}, changes...)
	g.same("claim federated", err, g.model.claim(federation.ExportKey{Service: x.Key.Service}, x.Ports))
	changes = append(changes, more...)
	g.model.fill()
	return append(changes, g.registry.PlanFill(changes...)...)
}

func (g *game) setPool() []vip.Change {
	set := pools[g.pick(len(pools))]
	g.model.pool = nil
	var p *vip.Pool
	if set.addrs != nil {
		p, g.model.pool = pool(g, set.list), []netip.Addr{}
		for _, n := range set.addrs {
			g.model.pool = append(g.model.pool, netip.AddrFrom4([4]byte{100, 100, 0, n}))
		}
	}
	g.registry.SetPool(p)
	g.replay.SetPool(p)
	return nil
}

// equal fails unless the entries are the same. What cmp takes to find that out is what most of a game would take.
func (g *game) equal(move string, want, got []vip.Entry) {
	g.Helper()
	if !slices.EqualFunc(want, got, func(a, b vip.Entry) bool {
		return a.Owner == b.Owner && a.Name == b.Name && a.ServiceName == b.ServiceName && a.Tailnet == b.Tailnet && a.TailnetRef == b.TailnetRef &&
			slices.Equal(a.Addrs, b.Addrs) && slices.Equal(a.Ports, b.Ports) && a.ReleasedAt.Equal(b.ReleasedAt) && a.Epoch == b.Epoch
	}) {
		g.Fatalf("after %s:\n%s", move, cmp.Diff(want, got, addrs, cmpopts.EquateEmpty()))
	}
}

// look fails unless the registry is as the model is, sound, and as one that replays it; and unless each VIP kept what it
// had, and each address its quarantine.
func (g *game) look(move string) {
	g.Helper()
	got := g.registry.Entries()
	g.equal(move+" (-model +registry)", g.model.sorted(), got)
	g.equal(move+" (-registry +replay)", got, g.replay.Entries())
	g.equal("outside after "+move+" (-model +registry)", g.model.outside(), g.registry.Outside())
	at, ok := g.registry.Deadline()
	if want, has := g.model.deadline(); ok != has || !at.Equal(want) {
		g.Fatalf("after %s the deadline is %v, %v, want %v, %v", move, at, ok, want, has)
	}
	for _, err := range append(g.registry.Check(), g.replay.Check()...) {
		g.Fatalf("after %s: %v", move, err)
	}
	has := map[string]vip.Entry{}
	for _, e := range got {
		has[e.ServiceName] = e
		if want := !e.ReleasedAt.IsZero() && g.now.Before(e.ReleasedAt.Add(quarantine)); g.registry.Rests(e, g.now) != want {
			g.Fatalf("after %s %+v rests: %v, want %v", move, e, !want, want)
		}
		if was, ok := g.had[e.ServiceName]; ok && len(was.Addrs) > 0 && (was.Owner != e.Owner || was.Name != e.Name || !slices.Equal(was.Addrs, e.Addrs)) {
			g.Fatalf("after %s %+v became %+v", move, was, e)
		}
		for _, a := range e.Addrs {
			if until, ok := g.resting[a]; ok && g.now.Before(until) && g.had[e.ServiceName].Addrs == nil {
				g.Fatalf("after %s %s was given again before %v", move, a, until)
			}
			if delete(g.resting, a); !e.ReleasedAt.IsZero() {
				g.resting[a] = e.ReleasedAt.Add(quarantine)
			}
		}
	}
	g.had = has
}

// FuzzRegistry plays random moves against the registry and a naive model: they always say the same and hold the same. After
// each move the registry is sound, equal to one that was told the stored changes alone, and has kept the laws that are
// said in the package's comment.
func FuzzRegistry(f *testing.F) {
	for seed := range uint64(32) {
		f.Add(seed, uint8(100))
	}
	f.Fuzz(func(t *testing.T, seed uint64, moves uint8) { // a list of moves would be minimized for longer than it is played
		o := vip.Options{Quarantine: quarantine, Epoch: 7}
		g := &game{T: t, rnd: rand.New(rand.NewPCG(seed, 0)), now: start, registry: vip.New(o), replay: vip.New(o), model: &model{epoch: 7}, resting: map[netip.Addr]time.Time{}}
		for range moves {
			move, changes := g.move()
			g.registry.Apply(changes)
			g.replay.Apply(stored(t, changes))
			g.look(move)
		}
		// A hub that starts has the entries and nothing else.
		restarted := vip.New(vip.Options{Quarantine: quarantine, Epoch: 8, Pool: g.registry.Pool()})
		for _, e := range g.registry.Entries() {
			restarted.Apply(stored(t, []vip.Change{{Entry: e}}))
		}
		g.replay = restarted
		g.look("a restart")
	})
}

// FuzzApply gives the registry anything that a store could hold, broken or not: it takes it, and when all of it is deleted
// again, nothing is left behind.
func FuzzApply(f *testing.F) {
	f.Add([]byte(`[{"Entry":{"ServiceName":"a","Addrs":["100.100.0.1","100.100.0.1"]}},{"Entry":{"ServiceName":"b","Addrs":["100.100.0.1"]}}]`))
	f.Add([]byte(`[{"Entry":{"ServiceName":"a","ReleasedAt":"2026-01-01T00:00:00Z","Ports":[{"Name":"http"}]}},{"Entry":{"ServiceName":"a"},"Delete":true}]`))
	f.Add([]byte(`[{"Entry":{"ServiceName":"","Name":"x"}},{"Entry":{"ServiceName":"c","Addrs":["::ffff:100.100.0.1","fe80::1%x",""]}}]`))
	f.Fuzz(func(t *testing.T, text []byte) {
		var changes []vip.Change
		if json.Unmarshal(text, &changes) != nil {
			t.Skip("no changes")
		}
		r := vip.New(vip.Options{Pool: pool(t, "100.100.0.0/30")})
		r.Apply(changes)
		r.Check() // must not fail itself
		for _, e := range r.Entries() {
			r.Apply([]vip.Change{{Entry: e, Delete: true}})
		}
		if r.Len() > 0 {
			t.Errorf("%d entries are left", r.Len())
		}
		check(t, r)
		for range r.Pool().Size() {
			x := export(federation.ClusterID(fmt.Sprintf("c%d", r.Len())), webapp, 80)
			if claim(t, r, x); t.Failed() {
				return
			}
		}
	})
}
