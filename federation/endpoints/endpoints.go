// Package endpoints makes endpoint sets: which VIPs one consumer cluster should use for one federated service, in
// which order, with which share of the traffic, and what it should think of each. It also knows who exports a service
// and who refers to it ([Table]), and what is different between two lots of sets ([Diff]).
//
// A set is made in two steps. Ranks say who comes first: see [Build]. Loads say how much of the traffic each rank takes:
// the first takes all as long as enough of it is ready, else what it lacks spills over to the next. Those that take a
// part of the traffic stand together in one priority, with weights that say how much, so that Envoy does what was
// decided here; whoever is to take over when they fail stands behind.
package endpoints

import (
	"cmp"
	"slices"

	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/federation/failover"
	"github.com/tailgate-project/tailgate/federation/policy"
)

// ReasonUnreachableHere is the reason of an endpoint that the consumer's own probes cannot reach.
const ReasonUnreachableHere = "UnreachableHere"

// ReasonAllDown is the reason of endpoints that stay published although all of the set are down (fail open).
const ReasonAllDown = "AllDown"

// Candidate is one export of a service, as one consumer should see it.
type Candidate struct {
	// VIP is shared and not changed. Without an address the candidate is left out: its VIP is not given yet.
	VIP      *federation.VIP
	Locality federation.Locality
	Health   federation.Health
	Reason   string
	Stale    bool
	// Share is the percentage of its weight that the export takes, 0 to 100: less than all while it ramps.
	Share uint8
	// Cordoned exports rank last where they are not the first choice; a pinned one is the only choice.
	Cordoned, Pinned bool
	// Ready and Desired count the export's endpoints. A Desired below Ready counts as Ready.
	Ready, Desired int
	// Weight is what the export asks for, 0 for what everybody has; it counts where the policy gives no weights.
	Weight uint32
	// ClusterPinned is that of the endpoint. It is not [Candidate.Pinned], which is an operator's.
	ClusterPinned bool
}

// cluster returns the cluster whose export it is.
func (c *Candidate) cluster() federation.ClusterID { return c.VIP.Owner.Cluster }

// Consumer is who will use a set.
type Consumer struct {
	Cluster  federation.ClusterID
	Locality federation.Locality
}

// Build returns the endpoint set of the service for a consumer.
//
// Candidates rank by the policy's order; those in the same place of it, and those in none, rank further by locality:
// the consumer's own export, its zone, its region, the rest. Where the policy gives weights above 0, the clusters of a
// place share its traffic by their weights instead, the consumer's own among them. Where the policy gives none, those of
// one rank share its traffic by what the exports ask for, which moves nobody to another rank. A cluster of weight 0 ranks behind
// all that have weight, a cordoned one behind all others unless it is of the consumer's first rank. If a candidate is
// pinned, the set has no other.
//
// A rank can take min(1, r/m) of the traffic: m is the policy's MinHealthy and r the part of the rank that is there,
// Σ weight·share·ready/desired over Σ weight, to which those that are down add nothing; and no more than the greatest
// share in it, so that a cluster that stands alone ramps evenly. What a rank cannot take flows to
// the next, and if all together cannot take the whole, each takes in proportion to what it can. Within a rank, the
// load goes by weight·share, less where fewer endpoints are ready than MinHealthy asks for.
//
// Those that take load share one priority. Their weights are parts of [Whole]: rounded down but at least 1, so that the
// sum is off by less than one for each. In front of them are only ranks of which nobody is up, and which Envoy therefore
// passes over: a rank that goes down and comes back renumbers nobody. Behind them are those that are up and take
// nothing, and the ranks that follow. Endpoints that are down keep the place of their rank. With everybody well, the
// priorities are the ranks, and the first takes all.
//
// If nobody is up, all stay in the order of their ranks, degraded (fail open). The set does not depend on the order of
// the candidates, and the same candidate twice counts once; a cluster has one. A set is empty only if no candidate has an
// address.
func Build(c Consumer, id federation.ServiceID, p *policy.Policy, candidates []Candidate) federation.EndpointSet {
	set := federation.EndpointSet{Consumer: c.Cluster, Service: id}
	b := build{consumer: c, policy: p, candidates: candidates}
	var few [16]entry // most services have few exporters: these stay on the stack
	var fewKeys [len(few)]key
	if len(candidates) <= len(few) {
		b.entries, b.keys = admit(few[:0], candidates), fewKeys[:]
	} else {
		b.entries, b.keys = admit(make([]entry, 0, len(candidates)), candidates), make([]key, len(candidates))
	}
	if len(b.entries) == 0 {
		return set
	}
	b.keys = b.keys[:len(b.entries)]
	b.rank()
	b.spread()
	set.Endpoints = make([]federation.Endpoint, len(b.keys))
	priority := uint32(0)
	for i, k := range b.keys {
		if i > 0 && k.group() != b.keys[i-1].group() {
			priority++
		}
		e := b.entry(k)
		x := &candidates[e.candidate]
		set.Endpoints[i] = federation.Endpoint{
			Cluster:  x.cluster(),
			Addr:     x.VIP.Addrs[0],
			Ports:    x.VIP.Ports,
			Priority: priority,
			Weight:   uint32(min(max(e.value, 1), Whole)),
			Health:   x.Health,
			Reason:   x.Reason,
			Stale:    x.Stale,

			ClusterPinned: x.ClusterPinned,
			TailnetRef:    x.VIP.TailnetRef,
		}
	}
	failOpen(set.Endpoints)
	return set
}

// Own puts what a consumer knows of its own export over what the hub said of it: endpoints that are gone are gone at
// once, and those that are back need no hub either. A set without an export of the cluster stays as it is.
func Own(set federation.EndpointSet, cluster federation.ClusterID, ready bool) federation.EndpointSet {
	i := slices.IndexFunc(set.Endpoints, func(e federation.Endpoint) bool { return e.Cluster == cluster })
	if i < 0 {
		return set
	}
	set.Endpoints = slices.Clone(set.Endpoints)
	switch e := &set.Endpoints[i]; {
	case !ready:
		e.Health, e.Reason = federation.Unhealthy, string(failover.NoReadyEndpoints)
	case e.Reason == string(failover.NoReadyEndpoints):
		e.Health, e.Reason = federation.Healthy, string(failover.Serving)
	}
	return set
}

// Overlay returns the set with what the consumer sees itself on top: endpoints of other clusters that unreachable
// names are unhealthy, at once and without asking anybody. What the hub said stays where it is worse. Priorities and
// weights stay too: what is left of a priority shares its load, and if nothing is, the next one takes over. If nothing
// usable is left at all, all endpoints stay, degraded.
func Overlay(set federation.EndpointSet, unreachable func(federation.Target) bool) federation.EndpointSet {
	out := set
	out.Endpoints = slices.Clone(set.Endpoints)
	for i := range out.Endpoints {
		e := &out.Endpoints[i]
		if e.Cluster == set.Consumer || e.Health == federation.Unhealthy {
			continue
		}
		if unreachable(federation.Target{Cluster: e.Cluster}) || unreachable(federation.Target{Cluster: e.Cluster, Service: set.Service}) {
			e.Health, e.Reason = federation.Unhealthy, ReasonUnreachableHere
		}
	}
	failOpen(out.Endpoints)
	return out
}

// Prefer returns the set's endpoints with those of the cluster first and all others behind them in their order.
// A cluster without an endpoint in the set changes nothing. One that is pinned stands alone, however it is: then nobody
// takes over.
func Prefer(set federation.EndpointSet, cluster federation.ClusterID) []federation.Endpoint {
	for _, e := range set.Endpoints {
		if e.Cluster == cluster && e.ClusterPinned {
			e.Priority = 0
			return []federation.Endpoint{e}
		}
	}
	out := slices.Clone(set.Endpoints)
	for i := range out {
		if out[i].Cluster == cluster {
			out[i].Priority = 0
		} else {
			out[i].Priority++
		}
	}
	order(out)
	return out
}

// Equal reports whether two sets say the same.
func Equal(a, b federation.EndpointSet) bool {
	return a.Consumer == b.Consumer && a.Service == b.Service && slices.EqualFunc(a.Endpoints, b.Endpoints, equal)
}

func equal(a, b federation.Endpoint) bool {
	return a.Cluster == b.Cluster && a.Addr == b.Addr && a.Priority == b.Priority && a.Weight == b.Weight &&
		a.Health == b.Health && a.Reason == b.Reason && a.Stale == b.Stale && a.ClusterPinned == b.ClusterPinned && a.TailnetRef == b.TailnetRef &&
		slices.Equal(a.Ports, b.Ports)
}

// order sorts by priority, then cluster, and closes the gaps between priorities.
func order(es []federation.Endpoint) {
	slices.SortFunc(es, func(a, b federation.Endpoint) int {
		return cmp.Or(cmp.Compare(a.Priority, b.Priority), cmp.Compare(a.Cluster, b.Cluster))
	})
	next, last := uint32(0), uint32(0)
	for i := range es {
		if i > 0 && es[i].Priority != last {
			next++
		}
		last, es[i].Priority = es[i].Priority, next
	}
}

// failOpen keeps a set of which nothing serves: an empty answer would be certain failure, an old one may not be.
func failOpen(es []federation.Endpoint) {
	if slices.ContainsFunc(es, func(e federation.Endpoint) bool { return e.Health != federation.Unhealthy }) {
		return
	}
	for i := range es {
		es[i].Health, es[i].Reason = federation.Degraded, ReasonAllDown
	}
}
