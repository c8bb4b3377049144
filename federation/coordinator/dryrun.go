package coordinator

import (
	"maps"
	"slices"
	"time"

	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/federation/endpoints"
	"github.com/tailgate-project/tailgate/federation/failover"
)

// Forecast is what events would do.
type Forecast struct {
	Decisions []failover.Decision
	// Changed are the sets that would be other than they are, as they would be; sorted by consumer and service.
	Changed []federation.EndpointSet
}

// DryRun says what the events would do from now to the horizon, on the state as it is stored. It changes nothing.
func (c *Coordinator) DryRun(events []failover.Event, now time.Time, horizon time.Duration) Forecast {
	out := c.state.DryRun(events, now, horizon)
	p := c.publication()
	p.touched(out.Touched)
	for id := range p.services {
		for _, consumer := range c.table.Consumers(id) {
			p.sets[pair{consumer, id}] = struct{}{}
		}
	}
	var before, after []federation.EndpointSet
	for s := range p.sets {
		before = append(before, c.set(c.state, s.consumer, s.service))
		after = append(after, c.set(out.State, s.consumer, s.service))
	}
	changed, _ := endpoints.Diff(before, after)
	return Forecast{Decisions: out.Decisions, Changed: changed}
}

// Loss returns the events of a cluster that dies without a word: its signals are lost, and all others that are heard of
// fail to reach it.
func (c *Coordinator) Loss(dead federation.ClusterID, now time.Time) []failover.Event {
	events := []failover.Event{failover.LinkChanged{Cluster: dead}, failover.APIChanged{Cluster: dead}}
	for _, id := range slices.Sorted(maps.Keys(c.members)) {
		if id != dead {
			events = append(events, failover.Observed{Observer: id, Target: federation.Target{Cluster: dead}, At: now})
		}
	}
	return events
}
