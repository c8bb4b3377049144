// Package policy says how services fail over: in which order a consumer uses the clusters that serve one, how much of
// the traffic each takes, and how fast a decision follows on what is seen.
package policy

import (
	"time"

	"github.com/tailgate-project/tailgate/federation"
)

// Policy is how the services that it selects fail over. One policy counts for a service and a consumer, whole: policies
// are not merged. [Set] says which.
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
type Times struct {
	// Grace is how long a lost control view is borne before it counts against a member.
	Grace time.Duration
	// FailbackDelay is how long an export must have been good, without a break, before it serves again.
	FailbackDelay time.Duration
	// Hold is the least time between two returns of the same export: one that flaps stays out.
	Hold time.Duration
	// Ramp is how long the weight takes to rise after a return, and to fall in a drain. Zero is at once.
	Ramp time.Duration
}

// Place names clusters: by their id, their region, or region and zone. Exactly Cluster or Region is set.
type Place struct {
	Cluster      federation.ClusterID
	Region, Zone string
}

// Weight is the share of the clusters in a place.
type Weight struct {
	Place
	Weight uint32 // 0 to 1000
}

// Selector selects services, and consumers of them. Empty parts select all; what is set must all match.
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
