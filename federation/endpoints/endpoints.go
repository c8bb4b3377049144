// Package endpoints makes endpoint sets: which VIPs one consumer cluster should use for one federated service, in
// which order, and what it should think of each.
package endpoints

import (
	"cmp"
	"slices"

	"github.com/tailgate-project/tailgate/federation"
)

// ReasonUnreachableHere is the reason of an endpoint that the consumer's own probes cannot reach.
const ReasonUnreachableHere = "UnreachableHere"

// ReasonAllDown is the reason of endpoints that stay published although all of the set are down (fail open).
const ReasonAllDown = "AllDown"

// Candidate is one export of a service, seen by one consumer.
type Candidate struct {
	VIP      federation.VIP
	Locality federation.Locality
	Health   federation.Health
	Reason   string
	Stale    bool
}

// Build returns the endpoint set of the service for a consumer at the locality home. The order is: the consumer's
// own export, the same zone, the same region, the rest; equal ones share a priority. A candidate without an address
// is left out: its VIP is not given yet. The result does not depend on the candidates' order.
func Build(consumer federation.ClusterID, home federation.Locality, service federation.ServiceID, candidates []Candidate) federation.EndpointSet {
	set := federation.EndpointSet{Consumer: consumer, Service: service}
	for _, c := range candidates {
		if len(c.VIP.Addrs) == 0 {
			continue
		}
		set.Endpoints = append(set.Endpoints, federation.Endpoint{
			Cluster:  c.VIP.Owner.Cluster,
			Addr:     c.VIP.Addrs[0],
			Ports:    c.VIP.Ports,
			Priority: distance(consumer, home, c),
			Weight:   1,
			Health:   c.Health,
			Reason:   c.Reason,
			Stale:    c.Stale,
		})
	}
	order(set.Endpoints)
	failOpen(set.Endpoints)
	return set
}

// distance ranks a candidate for a consumer; [order] turns ranks into priorities without gaps.
func distance(consumer federation.ClusterID, home federation.Locality, c Candidate) uint32 {
	switch {
	case c.VIP.Owner.Cluster == consumer:
		return 0
	case home.Region != "" && home.Zone != "" && home == c.Locality:
		return 1
	case home.Region != "" && home.Region == c.Locality.Region:
		return 2
	}
	return 3
}

// Overlay returns the set with what the consumer sees itself on top: endpoints of other clusters that unreachable
// names are unhealthy, at once and without asking anybody. What the hub said stays where it is worse. If nothing
// usable is left, all endpoints stay, degraded.
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
// A cluster without an endpoint in the set changes nothing.
func Prefer(set federation.EndpointSet, cluster federation.ClusterID) []federation.Endpoint {
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
		a.Health == b.Health && a.Reason == b.Reason && a.Stale == b.Stale && slices.Equal(a.Ports, b.Ports)
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
