package sim

import (
	"maps"
	"slices"
	"time"

	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/federation/coordinator"
	"github.com/tailgate-project/tailgate/federation/failover"
)

// operate does what an operator says. He hears whether it was done; while no hub is up he says nothing.
func (w *world) operate(f Fault) {
	if f.Kind == Policies {
		w.policies = w.scenario.Policies[f.N%len(w.scenario.Policies)]
		w.check.policies = append(w.check.policies, w.policies)
		for _, h := range w.hubs {
			if h.up {
				h.readPolicies()
			}
		}
		return
	}
	h := w.lead
	mode, known := map[Kind]failover.Mode{DrainIt: failover.Drain, CordonIt: failover.Cordon, PinIt: failover.Pin, Undo: failover.Normal}[f.Kind]
	if !known {
		w.fail("schedule", "there is no fault %q of %q: check the names in the schedule", f.Kind, f.A)
		return
	}
	t := federation.Target{Cluster: federation.ClusterID(f.A)}
	if f.B != "" {
		id, err := federation.ParseServiceID(f.B)
		if err != nil {
			w.fail("schedule", "%v", err)
			return
		}
		t.Service = id
	}
	if !h.up || h.busy > w.now || !h.knows(t) {
		return
	}
	ramp := time.Duration(f.N) * time.Second
	before := maps.Clone(w.check.wishes)
	w.check.operated(t, wish{mode: mode, at: h.clock(), ramp: ramp})
	h.handle(coordinator.Failover{Event: failover.Operated{Subject: t, Mode: mode, Ramp: ramp}})
	if !h.up && w.store.mode(t) != mode {
		w.check.wishes = before // it was not stored, and the operator was told so
	}
}

// knows reports whether the hub knows a subject, so that an operator can find it.
func (h *hub) knows(t federation.Target) bool {
	if _, ok := h.co.Member(t.Cluster); !ok {
		return false
	}
	if t.Service == (federation.ServiceID{}) {
		return len(h.co.State().Exports(t.Cluster)) > 0
	}
	return slices.Contains(h.co.State().Exports(t.Cluster), federation.ExportKey(t))
}

// operated remembers what an operator wants and was granted.
func (c *checker) operated(t federation.Target, x wish) {
	old := c.wishes[t]
	if old.mode == failover.Pin || x.mode == failover.Pin {
		c.pins[t.Service] = c.w.now
	}
	switch x.mode {
	case old.mode:
		return // said again: the first word counts
	case failover.Normal:
		delete(c.wishes, t)
		return
	case failover.Pin:
		for other, o := range c.wishes {
			if o.mode == failover.Pin && other.Service == t.Service {
				delete(c.wishes, other) // one at a time
			}
		}
	}
	c.wishes[t] = x
}
