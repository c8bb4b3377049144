// Package policy says how services fail over: in which order a consumer uses the clusters that serve one, how much of
// the traffic each takes, and how fast a decision follows on what is seen.
//
// One [Policy] counts for a service and a consumer, whole: policies are not merged. A [Set] says which, by the order of
// precedence that [NewSet] documents.
package policy

import (
	"time"

	"github.com/tailgate-project/tailgate/federation"
)

// Policy is how the services that it selects fail over.
type Policy struct {
	// Name is the name of the FailoverPolicy object, empty for the federation's default.
	Name   string
	Select Selector
	// Order ranks the clusters: the endpoints in the first place that names their cluster, region or zone come first,
	// those that no place names come last, by locality. Without an order, locality alone ranks: the consumer's own
	// cluster, its zone, its region, the rest.
	Order []Place
	// Weights are the clusters' shares where several stand in the same rank; a cluster that no weight names has 1.
	// Weight 0 takes a cluster out of the first rank: it serves when nobody else does.
	Weights []Weight
	// MinHealthy is the percentage of a rank's endpoints, 1 to 100, that must be ready for the rank to take all of the
	// traffic. Below it, the traffic that is missing spills over to the next rank, in proportion.
	MinHealthy uint8
	Times
}

// Times are how long failover waits.
//
// A cluster as a whole is judged by its link, its API server and the probes of its ingress, with the times of the
// federation's default policy ([Set.Fallback]), whatever the policies of its services say. One export is judged by its
// readiness and the probes of its VIP, with the times of the policy that [Set.For] gives for it. An export is as good as
// the worse of the two. So a policy's times can lengthen what the default's say, and never shorten it: a service can
// return later than its cluster does, but not earlier, and none is kept in use whose cluster is down.
type Times struct {
	// Grace is how long a lost control view is borne before it counts against a member. At least [MinGrace].
	Grace time.Duration
	// FailbackDelay is how long an export must have been good, without a break, before it serves again.
	FailbackDelay time.Duration
	// Hold is the least time between two returns of the same export: one that flaps stays out.
	Hold time.Duration
	// Ramp is how long the weight takes to rise after a return, and to fall in a drain. Zero is at once.
	Ramp time.Duration
}

// Bounds of what a policy may say; [Policy.Validate] holds it to them.
const (
	// MinGrace is the shortest grace time: a link that is opened anew at once was not lost.
	MinGrace = time.Second
	// MaxTime is the longest of all times.
	MaxTime = 24 * time.Hour
	// MaxWeight is the greatest weight.
	MaxWeight = 1000
	// MaxHealthy is the greatest MinHealthy, a percentage.
	MaxHealthy = 100
)

// Place names clusters: by their id, their region, or region and zone. Exactly Cluster or Region is set.
type Place struct {
	Cluster      federation.ClusterID
	Region, Zone string
}

// Weight is the share of the clusters in a place. Of several that name a cluster, the narrowest counts: the one that
// names its id, then its zone, then its region.
type Weight struct {
	Place
	Weight uint32 // 0 to MaxWeight
}

// Selector selects services, and consumers of them. Empty parts select all; what is set must all match. The order in
// which a part lists things means nothing.
type Selector struct {
	// Namespaces and Names are any of; a listener's name is gateway/listener.
	Namespaces, Names []string
	// Labels must all be there with the same value, on the export in question.
	Labels map[string]string
	// Consumers are the clusters from which the traffic comes.
	Consumers []federation.ClusterID
}

// Default is the policy of a federation that has none: three clusters in two regions, some 10 ms apart. Traffic stays
// in the cluster, then the zone, then the region; a rank that has lost more than half of its endpoints spills over.
func Default() Policy {
	return Policy{
		MinHealthy: 50,
		Times:      Times{Grace: 5 * time.Second, FailbackDelay: 10 * time.Second, Hold: 30 * time.Second, Ramp: 10 * time.Second},
	}
}

// Matches reports whether the place names the cluster at the locality.
func (p Place) Matches(c federation.ClusterID, l federation.Locality) bool {
	switch {
	case p.Cluster != "":
		return p.Cluster == c
	case p.Zone != "":
		return p.Region == l.Region && p.Zone == l.Zone
	}
	return p.Region != "" && p.Region == l.Region
}

// String names the place in words.
func (p Place) String() string {
	switch {
	case p.Cluster != "":
		return "cluster " + string(p.Cluster)
	case p.Zone != "":
		return "zone " + p.Zone + " of region " + p.Region
	}
	return "region " + p.Region
}

// takesIn reports whether the place names every cluster that the other one names, as far as that can be told without
// knowing where clusters stand.
func (p Place) takesIn(o Place) bool {
	return p == o || p.Cluster == "" && p.Zone == "" && o.Cluster == "" && p.Region == o.Region
}
