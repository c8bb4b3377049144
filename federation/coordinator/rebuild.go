package coordinator

import (
	"slices"

	"time"

	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/federation/ledger"
)

// rebuild is what a hub that has lost its store, or has just begun, waits for. Until then it would say that there is
// nothing, for nothing is what it knows, and every Envoy of the federation would believe it. So it keeps silent, and
// the members go by what they know. It gives no VIP before the tailnets have named those that there are: whose name
// another one took meanwhile could not have its own back.
type rebuild struct {
	// adopted is set once the tailnets have named their VIPs.
	adopted bool
	// expected are the accepted members, which the hub is told once it can read them; listed are those that have named
	// their exports.
	known    bool
	expected []federation.ClusterID
	listed   map[federation.ClusterID]bool
	// until is when the hub speaks in any case.
	until time.Time
}

// done reports whether all is known after the event.
func (r rebuild) done(e Event, now time.Time) bool {
	switch e := e.(type) {
	case VIPsListed:
		r.adopted = true
	case MembersExpected:
		r.known, r.expected = true, e.Clusters
	}
	ended, _ := e.(ExportsListed)
	all := !slices.ContainsFunc(r.expected, func(c federation.ClusterID) bool { return !r.listed[c] && c != ended.Cluster })
	return r.adopted && r.known && all || !now.Before(r.until)
}

// note records the event.
func (r *rebuild) note(e Event) {
	switch e := e.(type) {
	case VIPsListed:
		r.adopted = true
	case MembersExpected:
		r.known, r.expected = true, e.Clusters
	case ExportsListed:
		r.listed[e.Cluster] = true
	}
}

// Rebuilding reports whether the hub keeps silent since it does not know yet what there is.
func (c *Coordinator) Rebuilding() bool { return c.rebuild != nil }

// claims reports whether exports are given VIPs now.
func (c *Coordinator) claims() bool { return c.rebuild == nil || c.rebuild.adopted }

// planRebuild plans what the end of a part of the rebuilding brings: the VIPs of the exports that waited for it, and in
// the end that the hub speaks.
func (c *Coordinator) planRebuild(s *Step, e Event) {
	if c.rebuild == nil {
		return
	}
	s.learned = e
	s.rebuilt = c.rebuild.done(e, s.now)
	if _, listed := e.(VIPsListed); !c.rebuild.adopted && (listed || s.rebuilt) {
		for _, id := range c.state.Clusters() {
			for _, k := range c.state.Exports(id) {
				x, _ := c.state.Export(k)
				c.planClaim(s, x)
			}
		}
	}
	if !s.rebuilt {
		return
	}
	if s.Batch.Members == nil {
		s.Batch.Members = map[federation.ClusterID]*ledger.Member{}
	}
	for id, m := range c.members {
		complete := *m
		complete.Complete = true
		s.Batch.Members[id] = &complete
	}
}

// speaksTo reports whether the hub tells a member anything: it knows what there is, and what the member refers to.
func (c *Coordinator) speaksTo(id federation.ClusterID) bool {
	m := c.members[id]
	return c.rebuild == nil && m != nil && m.Heard
}
