package endpoints

import (
	"cmp"
	"math"
	"slices"

	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/federation/policy"
)

// maxWeight is the most that a policy may give and an export may ask for.
const maxWeight = 1000

// build is a set that is being made.
type build struct {
	consumer   Consumer
	policy     *policy.Policy
	candidates []Candidate
	// entries are in the order of the clusters' names and stay there; keys are sorted.
	entries []entry
	keys    []key
}

// entry is a candidate on its way into a set.
type entry struct {
	candidate int32 // its index
	// weight is the policy's or the export's, at least 1.
	weight uint32
	// up entries can be given load; carries is set for those that were.
	up, carries bool
	// offer is how much the entry asks for in relation to others of its rank.
	offer uint64
	// value is what becomes the endpoint's weight.
	value uint64
}

// key sorts the entries: it is the number of a group, which is first the rank and then, when the loads are known, the
// priority, and behind it the index of the entry. Groups may have gaps. Numbers are sorted much faster than entries are,
// and this is done for each consumer of a service in each event.
type key uint64

// indexBits are the bits of the index: enough for a million clusters.
const indexBits = 20

func newKey(group uint64, entry int) key { return key(group<<indexBits | uint64(entry)) }

func (k key) group() uint64 { return uint64(k >> indexBits) }
func (k key) index() int    { return int(k & (1<<indexBits - 1)) }

func (b *build) entry(k key) *entry            { return &b.entries[k.index()] }
func (b *build) candidate(e *entry) *Candidate { return &b.candidates[e.candidate] }

// admit appends entries for the candidates that have an address; if some of those are pinned, for these alone. They are
// sorted by name, and those that stand there twice count once.
func admit(entries []entry, candidates []Candidate) []entry {
	pinned, ordered, last := false, true, federation.ClusterID("")
	for i := range candidates {
		c := &candidates[i]
		if c.VIP == nil || len(c.VIP.Addrs) == 0 || (pinned && !c.Pinned) {
			continue
		}
		if c.Pinned && !pinned {
			pinned, ordered, entries = true, true, entries[:0]
		}
		ordered = ordered && (len(entries) == 0 || last < c.cluster())
		last = c.cluster()
		entries = append(entries, entry{candidate: int32(i)})
	}
	if ordered {
		return entries
	}
	cluster := func(e entry) federation.ClusterID { return candidates[e.candidate].cluster() }
	slices.SortFunc(entries, func(x, y entry) int { return cmp.Compare(cluster(x), cluster(y)) })
	return slices.CompactFunc(entries, func(x, y entry) bool { return cluster(x) == cluster(y) })
}

// The classes of ranks: they stand above what place and locality say.
const (
	standby  = 1 << 40 // weight 0
	cordoned = 1 << 41
)

// rank gives the entries their weights and sorts their keys by rank.
func (b *build) rank() {
	shared := slices.ContainsFunc(b.policy.Weights, func(w policy.Weight) bool { return w.Weight > 0 })
	first := uint64(math.MaxUint64)
	for i := range b.entries {
		e := &b.entries[i]
		c := b.candidate(e)
		group := position(b.consumer, c, b.policy, shared)
		if e.weight = weight(c, b.policy); e.weight == 0 {
			e.weight, group = 1, group|standby
		}
		first = min(first, group)
		b.keys[i] = newKey(group, i)
	}
	for i, k := range b.keys {
		if b.candidate(&b.entries[i]).Cordoned && k.group() != first {
			b.keys[i] = newKey(k.group()|cordoned, i)
		}
	}
	slices.Sort(b.keys)
}

// position is the place in the policy's order, then the distance. In a place whose clusters share by weight, all are
// equally far.
func position(to Consumer, c *Candidate, p *policy.Policy, shared bool) uint64 {
	for i := range p.Order {
		if !p.Order[i].Matches(c.cluster(), c.Locality) {
			continue
		}
		if shared {
			return uint64(i) * distances
		}
		return uint64(i)*distances + distance(to, c)
	}
	return uint64(len(p.Order))*distances + distance(to, c)
}

// distances is how many values [distance] has.
const distances = 4

func distance(to Consumer, c *Candidate) uint64 {
	home := to.Locality
	switch {
	case c.cluster() == to.Cluster:
		return 0
	case home.Region != "" && home.Zone != "" && home == c.Locality:
		return 1
	case home.Region != "" && home.Region == c.Locality.Region:
		return 2
	}
	return 3
}

// weight is that of the most specific place that names the cluster: the cluster, its zone, its region. Without any it is 1.
// A policy that gives no weights at all leaves them to the exports.
func weight(c *Candidate, p *policy.Policy) uint32 {
	if len(p.Weights) == 0 {
		return min(max(c.Weight, 1), maxWeight)
	}
	found, best := uint32(1), 0
	for i := range p.Weights {
		w := &p.Weights[i]
		if s := specificity(w.Place); s > best && w.Matches(c.cluster(), c.Locality) {
			found, best = w.Weight, s
		}
	}
	return min(found, maxWeight)
}

func specificity(p policy.Place) int {
	switch {
	case p.Cluster != "":
		return 3
	case p.Zone != "":
		return 2
	}
	return 1
}
