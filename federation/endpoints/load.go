package endpoints

import (
	"math/bits"
	"slices"

	"github.com/tailgate-project/tailgate/federation"
)

// Whole is the sum of the weights of those that take load: a weight is a thousandth of a percent of the traffic. It
// leaves room, in the 32 bits that Envoy has for a sum, for tens of thousands of pods behind an endpoint.
const Whole = 100_000

// All is integer arithmetic: the same decision gives the same weights on every machine.
const (
	percent = 100
	// allReady is the precision of the part of an export's endpoints that is ready, allTraffic that of a rank's part of
	// the traffic. With 1000 for the weight and 100 for the share, products of an entry stay below 2^31.
	allReady   = 10_000
	allTraffic = 1_000_000
)

// tier is a rank: the keys from, up to but without to, and sums over these.
type tier struct {
	from, to int
	// weight sums the weights of all, able weight·share·ready of those that are up, and offer what these ask for.
	weight, able, offer uint64
	// share is the greatest of those that are up, in percent: a rank takes no more than the least ramped of them may.
	share uint64
	// load is the tier's part of the traffic.
	load uint64
}

// spread gives the entries, whose keys are sorted by rank, their weights, and sorts the keys by priority.
func (b *build) spread() {
	m := uint64(min(max(b.policy.MinHealthy, 1), percent))
	b.raise()
	var few [8]tier
	tiers := b.tiers(few[:0], m)
	b.place(tiers, b.flow(tiers, m))
	slices.Sort(b.keys)
	for from := 0; from < len(b.keys); {
		to := from + 1
		for to < len(b.keys) && b.keys[to].group() == b.keys[from].group() {
			to++
		}
		b.balance(b.keys[from:to])
		from = to
	}
}

// raise marks who is up: the healthy ones, or if there are none, the degraded ones.
func (b *build) raise() {
	best := federation.Unhealthy
	for i := range b.entries {
		best = min(best, b.candidate(&b.entries[i]).Health)
	}
	for i := range b.entries {
		e := &b.entries[i]
		e.up = best < federation.Unhealthy && b.candidate(e).Health == best
	}
}

// nominal is what an entry would ask for if it were well.
func (e *entry) nominal() uint64 { return uint64(e.weight) * percent * allReady }

// tiers sums up the ranks, and has those that are up ask for load.
func (b *build) tiers(tiers []tier, minHealthy uint64) []tier {
	for i, k := range b.keys {
		if i == 0 || k.group() != b.keys[i-1].group() {
			tiers = append(tiers, tier{from: i})
		}
		e, t := b.entry(k), &tiers[len(tiers)-1]
		t.to = i + 1
		t.weight += uint64(e.weight)
		if !e.up {
			continue
		}
		c := b.candidate(e)
		t.share = max(t.share, uint64(min(c.Share, percent)))
		share, ready := uint64(e.weight)*uint64(min(c.Share, percent)), readiness(c)
		e.offer = share * min(allReady, ready*percent/minHealthy)
		t.able += share * ready
		t.offer += e.offer
	}
	return tiers
}

// readiness is the part of the endpoints that is ready, of allReady.
func readiness(c *Candidate) uint64 {
	switch {
	case c.Desired <= c.Ready:
		return allReady
	case c.Ready <= 0:
		return 0
	}
	return max(1, scale(uint64(c.Ready), allReady, uint64(c.Desired)))
}

// flow gives the tiers their load and returns its sum; less than all traffic if all together cannot take that. If nobody
// who is up can take any, the first tier that has somebody takes all of it. The sum is 0 only if nobody is up.
func (b *build) flow(tiers []tier, minHealthy uint64) (sum uint64) {
	for i := range tiers {
		t := &tiers[i]
		if t.able == 0 {
			continue
		}
		capacity := min(scale(t.able, percent, t.weight*minHealthy), t.share*(allTraffic/percent))
		t.load = min(max(1, capacity), allTraffic-sum)
		sum += t.load
	}
	if sum > 0 {
		return sum
	}
	for i := range tiers {
		t := &tiers[i]
		for _, k := range b.keys[t.from:t.to] {
			if e := b.entry(k); e.up {
				e.offer = e.nominal()
				t.offer += e.offer
			}
		}
		if t.offer > 0 {
			t.load = allTraffic
			return allTraffic
		}
	}
	return 0
}

// place puts the priorities into the keys, and gives those in the priority that takes the load their weights. Of those
// that are down, that is what they would have beside the others.
func (b *build) place(tiers []tier, sum uint64) {
	first := slices.IndexFunc(tiers, func(t tier) bool { return t.load > 0 })
	for r := range tiers {
		t := &tiers[r]
		for i, k := range b.keys[t.from:t.to] {
			e, group := b.entry(k), tierGroup(r)
			switch {
			case e.up && t.load > 0 && e.offer > 0:
				e.carries, group = true, tierGroup(first)
				e.value = scale(Whole*t.load, e.offer, sum*t.offer)
			case e.up && r <= first:
				group = tierGroup(first) + 1 + uint64(r)
			case !e.up && r == first:
				e.value = scale(Whole*t.load, e.nominal(), sum*t.offer)
			}
			b.keys[t.from+i] = newKey(group, k.index())
		}
	}
}

// tierGroup leaves room behind each tier, for those that are up in it, or before it, and take no load.
func tierGroup(tier int) uint64 { return uint64(tier) << (indexBits + 1) }

// balance weighs the entries of a priority that takes no load by what they would ask for if it did.
func (b *build) balance(keys []key) {
	sum := uint64(0)
	for _, k := range keys {
		e := b.entry(k)
		if e.carries {
			return
		}
		if !e.up {
			e.offer = e.nominal()
		}
		sum += e.offer
	}
	for _, k := range keys {
		if e := b.entry(k); sum > 0 {
			e.value = scale(Whole, e.offer, sum)
		}
	}
}

// scale returns a·b/c, which must have room in 64 bits where a·b has not, rounded down.
func scale(a, b, c uint64) uint64 {
	hi, lo := bits.Mul64(a, b)
	q, _ := bits.Div64(hi, lo, c)
	return q
}
