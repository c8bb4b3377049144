package endpoints_test

import (
	"fmt"
	"math/big"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/federation/endpoints"
	"github.com/tailgate-project/tailgate/federation/policy"
)

// problem is a random call of Build.
type problem struct {
	consumer   endpoints.Consumer
	policy     policy.Policy
	candidates []endpoints.Candidate
}

func (p problem) build() federation.EndpointSet {
	return endpoints.Build(p.consumer, webapp, &p.policy, p.candidates)
}

func (p problem) String() string {
	out := fmt.Sprintf("%+v order %+v weights %+v min %d\n", p.consumer, p.policy.Order, p.policy.Weights, p.policy.MinHealthy)
	for _, c := range p.candidates {
		out += fmt.Sprintf("%s %+v %s share %d ready %d/%d cordoned %t pinned %t address %t\n", c.VIP.Owner.Cluster, c.Locality, c.Health,
			c.Share, c.Ready, c.Desired, c.Cordoned, c.Pinned, len(c.VIP.Addrs) > 0)
	}
	return out
}

// newProblem makes small numbers meet often: few regions, few clusters, and mostly such as are well.
func newProblem(g *rand.Rand) problem {
	regions, zones := []string{"", "eu", "us", "ap"}, []string{"", "a", "b"}
	p := problem{policy: policy.Default()}
	cluster := func(i int) federation.ClusterID { return federation.ClusterID(fmt.Sprintf("c%02d", i)) }
	locality := func() federation.Locality {
		return federation.Locality{Region: regions[g.IntN(len(regions))], Zone: zones[g.IntN(len(zones))]}
	}
	n := g.IntN(8)
	if g.IntN(10) == 0 {
		n = g.IntN(40)
	}
	p.consumer = endpoints.Consumer{Cluster: cluster(g.IntN(n + 1)), Locality: locality()}
	randomPlace := func() policy.Place {
		switch g.IntN(3) {
		case 0:
			return policy.Place{Cluster: cluster(g.IntN(n + 1))}
		case 1:
			return policy.Place{Region: regions[1+g.IntN(3)]}
		}
		return policy.Place{Region: regions[1+g.IntN(3)], Zone: zones[1+g.IntN(2)]}
	}
	for range g.IntN(4) * g.IntN(2) {
		p.policy.Order = append(p.policy.Order, randomPlace())
	}
	for range g.IntN(4) * g.IntN(2) {
		p.policy.Weights = append(p.policy.Weights, policy.Weight{Place: randomPlace(), Weight: []uint32{0, 1, 2, 7, 1000}[g.IntN(5)]})
	}
	p.policy.MinHealthy = []uint8{1, 30, 50, 100}[g.IntN(4)]
	for i := range n {
		p.candidates = append(p.candidates, newCandidate(g, cluster(i), locality()))
	}
	return p
}

func newCandidate(g *rand.Rand, cluster federation.ClusterID, at federation.Locality) endpoints.Candidate {
	rarely := func() bool { return g.IntN(6) == 0 }
	c := candidate(cluster, at.Region, at.Zone, h)
	if rarely() {
		c.Health = []federation.Health{d, u, u}[g.IntN(3)]
	}
	if rarely() {
		c.Share = uint8(g.IntN(101))
	}
	if rarely() {
		c.Ready = g.IntN(c.Desired + 1)
	}
	if c.Cordoned = rarely(); g.IntN(60) == 0 {
		c.Pinned = true
	}
	if rarely() {
		unaddressed(&c)
	}
	return c
}

// carriers are the endpoints that take load: those in the first priority of which anybody can be used.
func carriers(set federation.EndpointSet) []federation.Endpoint {
	best := federation.Unhealthy
	for _, e := range set.Endpoints {
		best = min(best, e.Health)
	}
	up := func(e federation.Endpoint) bool { return e.Health == best && best != u }
	var out []federation.Endpoint
	if i := slices.IndexFunc(set.Endpoints, up); i >= 0 {
		for _, e := range set.Endpoints {
			if e.Priority == set.Endpoints[i].Priority && up(e) {
				out = append(out, e)
			}
		}
	}
	return out
}

func FuzzBuild(f *testing.F) {
	for seed := range uint64(400) {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, seed uint64) {
		g := rand.New(rand.NewPCG(seed, 0))
		p := newProblem(g)
		set := p.build()
		for _, broken := range slices.Concat(
			wellFormed(p, set), sameInAnyOrder(g, p, set), twiceIsOnce(g, p, set), asTheModel(p, set), wellStaysFirst(p), lessReadyNeverGains(g, p, set),
			overlayKeeps(g, set),
		) {
			t.Errorf("%s\n%s%s", broken, p, lines(set))
		}
	})
}

// wellFormed: who has an address is there, once; priorities have no gaps; weights are at least 1; something is up; the
// input is not changed.
func wellFormed(p problem, set federation.EndpointSet) (broken []string) {
	pinned := slices.ContainsFunc(p.candidates, func(c endpoints.Candidate) bool { return c.Pinned && len(c.VIP.Addrs) > 0 })
	var want, got []federation.ClusterID
	for _, c := range p.candidates {
		if len(c.VIP.Addrs) > 0 && (c.Pinned || !pinned) {
			want = append(want, c.VIP.Owner.Cluster)
		}
	}
	for i, e := range set.Endpoints {
		got = append(got, e.Cluster)
		if i == 0 && e.Priority != 0 || i > 0 && e.Priority != set.Endpoints[i-1].Priority && e.Priority != set.Endpoints[i-1].Priority+1 {
			broken = append(broken, fmt.Sprintf("gap before %s", line(e)))
		}
		if i > 0 && e.Priority == set.Endpoints[i-1].Priority && e.Cluster <= set.Endpoints[i-1].Cluster {
			broken = append(broken, fmt.Sprintf("%s is not in its place", line(e)))
		}
		if e.Weight < 1 || e.Weight > endpoints.Whole {
			broken = append(broken, fmt.Sprintf("weight of %s", line(e)))
		}
	}
	slices.Sort(got)
	if d := cmp.Diff(want, got); d != "" {
		broken = append(broken, "the endpoints are other than the candidates "+d)
	}
	if len(set.Endpoints) > 0 && len(carriers(set)) == 0 {
		broken = append(broken, "nobody is up")
	}
	return broken
}

func sameInAnyOrder(g *rand.Rand, p problem, set federation.EndpointSet) []string {
	p.candidates = slices.Clone(p.candidates)
	g.Shuffle(len(p.candidates), func(i, j int) { p.candidates[i], p.candidates[j] = p.candidates[j], p.candidates[i] })
	if got := p.build(); !endpoints.Equal(set, got) {
		return []string{fmt.Sprintf("in another order it is %s", lines(got))}
	}
	return nil
}

func twiceIsOnce(g *rand.Rand, p problem, set federation.EndpointSet) []string {
	if len(p.candidates) == 0 {
		return nil
	}
	p.candidates = append(slices.Clone(p.candidates), p.candidates[g.IntN(len(p.candidates))])
	if got := p.build(); !endpoints.Equal(set, got) {
		return []string{fmt.Sprintf("with a candidate twice it is %s", lines(got))}
	}
	return nil
}

// asTheModel: loads are those of the model, to the rounding of weights, and sum to the whole.
func asTheModel(p problem, set federation.EndpointSet) (broken []string) {
	model, sum := modelLoads(p), 0
	for _, e := range carriers(set) {
		sum += int(e.Weight)
		if e.Reason == endpoints.ReasonAllDown { // nobody is given anything
			continue
		}
		load, ok := model[e.Cluster]
		if !ok {
			broken = append(broken, fmt.Sprintf("%s should carry nothing", line(e)))
			continue
		}
		// A ready fraction is exact to 1/10,000, a capacity to 1/1,000,000, a weight to 1.
		want, _ := load.Float64()
		if off := float64(e.Weight) - want*endpoints.Whole; off > 3 || off < -3 {
			broken = append(broken, fmt.Sprintf("%s should have %.1f", line(e), want*endpoints.Whole))
		}
		delete(model, e.Cluster)
	}
	if n := len(set.Endpoints); n > 0 && (sum < endpoints.Whole-n || sum > endpoints.Whole+n) {
		broken = append(broken, fmt.Sprintf("the load sums to %d", sum))
	}
	for c, load := range model {
		if load.Sign() > 0 {
			broken = append(broken, fmt.Sprintf("%s should carry %s", c, load.FloatString(6)))
		}
	}
	return broken
}

// wellStaysFirst: with everybody well, priorities are ranks and the first takes all.
func wellStaysFirst(p problem) (broken []string) {
	p.candidates = slices.Clone(p.candidates)
	for i := range p.candidates {
		c := &p.candidates[i]
		c.Health, c.Share, c.Ready = h, 100, c.Desired
	}
	set := p.build()
	for i, tier := range modelRanks(p) {
		for _, c := range tier {
			if !slices.ContainsFunc(set.Endpoints, func(e federation.Endpoint) bool { return e.Cluster == c.VIP.Owner.Cluster && int(e.Priority) == i }) {
				broken = append(broken, fmt.Sprintf("all well: %s should have priority %d in %s", c.VIP.Owner.Cluster, i, lines(set)))
			}
		}
	}
	return broken
}

// lessReadyNeverGains: who loses readiness or share takes no more than before.
func lessReadyNeverGains(g *rand.Rand, p problem, set federation.EndpointSet) []string {
	if len(p.candidates) == 0 {
		return nil
	}
	p.candidates = slices.Clone(p.candidates)
	c := &p.candidates[g.IntN(len(p.candidates))]
	if g.IntN(2) == 0 {
		c.Ready = g.IntN(c.Ready + 1)
	} else {
		c.Share = uint8(g.IntN(int(c.Share) + 1))
	}
	of := func(set federation.EndpointSet) (weight uint32) {
		for _, e := range carriers(set) {
			if e.Cluster == c.VIP.Owner.Cluster {
				weight = e.Weight
			}
		}
		return weight
	}
	after := p.build()
	if of(after) > max(of(set), 1) {
		return []string{fmt.Sprintf("with less, %s takes more: %d/%d, share %d: %s", c.VIP.Owner.Cluster, c.Ready, c.Desired, c.Share, lines(after))}
	}
	return nil
}

// overlayKeeps: an own view changes health alone, and who is unreachable is used only if nobody else is there.
func overlayKeeps(g *rand.Rand, set federation.EndpointSet) (broken []string) {
	cut := map[federation.ClusterID]bool{}
	for _, e := range set.Endpoints {
		cut[e.Cluster] = g.IntN(3) == 0 && e.Cluster != set.Consumer
	}
	got := endpoints.Overlay(set, func(t federation.Target) bool { return cut[t.Cluster] })
	for i, e := range got.Endpoints {
		if was := set.Endpoints[i]; e.Cluster != was.Cluster || e.Priority != was.Priority || e.Weight != was.Weight {
			broken = append(broken, fmt.Sprintf("an own view moved %s", line(e)))
		}
		if cut[e.Cluster] && e.Health != u && e.Reason != endpoints.ReasonAllDown {
			broken = append(broken, fmt.Sprintf("%s is cut off", line(e)))
		}
	}
	if len(got.Endpoints) > 0 && len(carriers(got)) == 0 {
		broken = append(broken, "an own view left nobody")
	}
	return broken
}

// modelRanks says who ranks where, the first rank first, in so many words.
func modelRanks(p problem) [][]endpoints.Candidate {
	type key struct{ cordoned, standby, place, distance int }
	pinned := slices.ContainsFunc(p.candidates, func(c endpoints.Candidate) bool { return c.Pinned && len(c.VIP.Addrs) > 0 })
	shares := slices.ContainsFunc(p.policy.Weights, func(w policy.Weight) bool { return w.Weight > 0 })
	less := func(a, b key) int {
		return slices.Compare([]int{a.cordoned, a.standby, a.place, a.distance}, []int{b.cordoned, b.standby, b.place, b.distance})
	}
	ranks := map[key][]endpoints.Candidate{}
	for _, c := range p.candidates {
		if len(c.VIP.Addrs) == 0 || pinned && !c.Pinned {
			continue
		}
		at, home, cluster := c.Locality, p.consumer.Locality, c.VIP.Owner.Cluster
		k := key{distance: 3}
		if at.Region != "" && at.Region == home.Region {
			k.distance = 2
		}
		if k.distance == 2 && at.Zone != "" && at.Zone == home.Zone {
			k.distance = 1
		}
		if cluster == p.consumer.Cluster {
			k.distance = 0
		}
		for _, o := range p.policy.Order {
			if o.Matches(cluster, at) {
				break
			}
			k.place++
		}
		if k.place < len(p.policy.Order) && shares {
			k.distance = 0
		}
		if modelWeight(p, c) == 0 {
			k.standby = 1
		}
		ranks[k] = append(ranks[k], c)
	}
	var keys []key
	for k := range ranks {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, less)
	last := map[key][]endpoints.Candidate{}
	for i, k := range keys {
		for _, c := range ranks[k] {
			if c.Cordoned && i > 0 {
				k.cordoned = 1
			} else {
				k.cordoned = 0
			}
			last[k] = append(last[k], c)
		}
	}
	keys = nil
	for k := range last {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, less)
	var out [][]endpoints.Candidate
	for _, k := range keys {
		out = append(out, last[k])
	}
	return out
}

func modelWeight(p problem, c endpoints.Candidate) int64 {
	at := func(want func(policy.Place) bool) (int64, bool) {
		for _, w := range p.policy.Weights {
			if want(w.Place) && w.Matches(c.VIP.Owner.Cluster, c.Locality) {
				return int64(w.Weight), true
			}
		}
		return 0, false
	}
	for _, want := range []func(policy.Place) bool{
		func(p policy.Place) bool { return p.Cluster != "" },
		func(p policy.Place) bool { return p.Zone != "" },
		func(p policy.Place) bool { return p.Region != "" },
	} {
		if w, ok := at(want); ok {
			return w
		}
	}
	return 1
}

// modelLoads is the load of each candidate, exactly, by the words of Build's documentation.
func modelLoads(p problem) map[federation.ClusterID]*big.Rat {
	loads := map[federation.ClusterID]*big.Rat{}
	ranks := modelRanks(p)
	best := federation.Unhealthy
	for _, c := range slices.Concat(ranks...) {
		best = min(best, c.Health)
	}
	if best == u {
		return loads
	}
	rat := big.NewRat
	times := func(rs ...*big.Rat) *big.Rat {
		out := rat(1, 1)
		for _, r := range rs {
			out.Mul(out, r)
		}
		return out
	}
	most := func(r *big.Rat) *big.Rat {
		if r.Cmp(rat(1, 1)) > 0 {
			return rat(1, 1)
		}
		return r
	}
	enough := rat(100, int64(p.policy.MinHealthy))
	rest, total := rat(1, 1), rat(0, 1)
	for _, tier := range ranks {
		weights, able, offers, top := rat(0, 1), rat(0, 1), rat(0, 1), rat(0, 1)
		offer := map[federation.ClusterID]*big.Rat{}
		for _, c := range tier {
			w := rat(max(modelWeight(p, c), 1), 1)
			weights.Add(weights, w)
			if c.Health != best {
				continue
			}
			share, part := rat(int64(c.Share), 100), rat(int64(c.Ready), int64(c.Desired))
			if share.Cmp(top) > 0 {
				top = share
			}
			able.Add(able, times(w, share, part))
			offer[c.VIP.Owner.Cluster] = times(w, share, most(times(part, enough)))
			offers.Add(offers, offer[c.VIP.Owner.Cluster])
		}
		load := times(able, enough, new(big.Rat).Inv(weights))
		if load.Cmp(top) > 0 {
			load = top
		}
		if load.Cmp(rest) > 0 {
			load = rest
		}
		rest, total = new(big.Rat).Sub(rest, load), new(big.Rat).Add(total, load)
		for c, o := range offer {
			if load.Sign() > 0 {
				loads[c] = times(load, o, new(big.Rat).Inv(offers))
			}
		}
	}
	if total.Sign() == 0 {
		for _, tier := range ranks {
			up := slices.DeleteFunc(slices.Clone(tier), func(c endpoints.Candidate) bool { return c.Health != best })
			weights := rat(0, 1)
			for _, c := range up {
				weights.Add(weights, rat(max(modelWeight(p, c), 1), 1))
			}
			for _, c := range up {
				loads[c.VIP.Owner.Cluster] = times(rat(max(modelWeight(p, c), 1), 1), new(big.Rat).Inv(weights))
			}
			if len(up) > 0 {
				return loads
			}
		}
	}
	for _, l := range loads {
		l.Quo(l, total)
	}
	return loads
}
