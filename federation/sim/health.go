package sim

import (
	"slices"
	"time"

	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/federation/coordinator"
	"github.com/tailgate-project/tailgate/federation/failover"
	"github.com/tailgate-project/tailgate/federation/policy"
)

// consumersLeaveTheDead demands that Envoy sends nothing any more to a cluster that its own has not reached for
// consumerBound, as long as the spoke lives: the spoke's own probes see to that without any hub (design §9: others stop
// using a dead cluster within 3 s; a cut pair fails over). Where no other endpoint is left, a dead one is degraded and
// never healthy.
func (c *checker) consumersLeaveTheDead(m *cluster) {
	s := m.spoke
	if !m.alive() || !s.up || s.busy > c.w.now-consumerBound || s.slow > 0 {
		return
	}
	c.checked("consumersLeaveTheDead")
	for _, id := range sortedServices(m.envoy) {
		for _, e := range m.envoy[id].Endpoints {
			if e.Cluster == m.Cluster || e.Health != federation.Healthy {
				continue
			}
			from, dead := c.unreachable[pathKey{m.name(), string(e.Cluster)}]
			if !dead {
				continue
			}
			from = max(from, s.startedAt, m.prober.since(federation.Target{Cluster: e.Cluster}))
			if c.w.now-from > consumerBound {
				c.w.fail("consumersLeaveTheDead", "%s still sends to %s for %s, which it has not reached for %v: %s",
					m.name(), e.Cluster, id, c.w.now-c.unreachable[pathKey{m.name(), string(e.Cluster)}], describe(m.envoy[id]))
			}
		}
	}
}

// deadAreDown demands that a hub calls the exports of a dead cluster down for everybody within hubBound: then both
// signals are lost, its link and its VIPs for all observers (design §4, the table). A hub that has just started or was
// stopped for a while first has to hear again.
func (c *checker) deadAreDown(h *hub) {
	if c.w.now-h.startedAt < 45*time.Second || c.w.now-h.busy < 2*hubBound || h.slow > 0 || c.w.second {
		return
	}
	c.checked("deadAreDown")
	for _, m := range c.w.members {
		if m.alive() || m.left > 0 || c.w.now-m.dead < hubBound+c.grace() {
			continue
		}
		for _, k := range h.co.State().Exports(m.Cluster) {
			if v, ok := h.co.Verdict(k, ""); ok && v.Health == federation.Healthy {
				c.w.fail("deadAreDown", "%s calls %s %s (%s), and %s has been dead for %v", h.name, k, v.Health, v.Reason, m.Cluster, c.w.now-m.dead)
			}
		}
	}
}

// unreadyIsDown demands that an export without a ready endpoint is down for everybody, at once and whatever anybody
// reaches (design §4, the table).
func (c *checker) unreadyIsDown(h *hub, e coordinator.Event) {
	x, ok := e.(coordinator.Failover)
	if !ok {
		return
	}
	changed, ok := x.Event.(failover.ExportChanged)
	if !ok || changed.Export.Ready > 0 {
		return
	}
	c.checked("unreadyIsDown")
	if v, known := h.co.Verdict(changed.Export.Key, ""); !known || v.Health == federation.Healthy {
		c.w.fail("unreadyIsDown", "%s has no ready endpoint, and %s calls it %s (%s)", changed.Export.Key, h.name, v.Health, v.Reason)
	}
}

// grace is how much longer than the default the policies let a lost link be borne.
func (c *checker) grace() time.Duration {
	return max(0, c.w.policies.Fallback.Grace-policy.Default().Grace)
}

// noSwitchStorms demands that a subject comes back at most once per hold time, by the policies that the operator set
// (design §4: hysteresis and a failback delay bound switches to one per hold time). An operator's own wish is no switch.
func (c *checker) noSwitchStorms(d failover.Decision) {
	k := cellKey{d.Subject, d.Consumer}
	if d.Inputs.New {
		delete(c.returned, k)
	}
	if d.From != federation.Unhealthy || d.To != federation.Healthy || d.Inputs.New || d.Inputs.Before.Reason == failover.Drained {
		return
	}
	c.checked("noSwitchStorms")
	last, before := c.returned[k]
	if hold := c.hold(d); before && d.At.Sub(last) < hold {
		c.w.fail("noSwitchStorms", "%s came back for %q %v after it had come back: the hold time is %v", d.Subject, d.Consumer, d.At.Sub(last), hold)
	}
	c.returned[k] = d.At
}

// hold is the shortest hold time that ever counted for a decision's subject.
func (c *checker) hold(d failover.Decision) time.Duration {
	hold := time.Hour
	for _, s := range c.policies {
		p := s.Fallback
		if d.Subject.Service != (federation.ServiceID{}) {
			labels := map[string]string(nil)
			if m := c.w.member(string(d.Subject.Cluster)); m.workloads[d.Subject.Service] != nil {
				labels = m.workloads[d.Subject.Service].export.Labels
			}
			p = *policy.NewSet(s.Fallback, s.Named).For(d.Subject.Service, labels, d.Consumer)
		}
		hold = min(hold, p.Hold)
	}
	return hold
}

// isolatedEvictsNobody demands that one observer alone evicts no cluster for everybody while another one reaches it
// (design §9: an observer is cut off, its votes do not evict anybody).
func (c *checker) isolatedEvictsNobody(d failover.Decision) {
	if d.Consumer != "" || d.Subject.Service != (federation.ServiceID{}) || d.To != federation.Unhealthy || d.Reason != failover.UnreachableByQuorum {
		return
	}
	c.checked("isolatedEvictsNobody")
	subject := c.w.member(string(d.Subject.Cluster))
	blind := 0
	for _, m := range c.w.members {
		if m != subject && (c.isBad(m.name(), subject.name()) || !m.prober.aimsWell(subject)) {
			blind++
		}
	}
	if blind <= 1 && d.Inputs.Votes.Reach > 0 {
		c.w.fail("isolatedEvictsNobody", "%s was evicted by %v, and %d others reach it", d.Subject, d.Inputs.Votes.Failing, d.Inputs.Votes.Reach)
	}
}

// journalReplays demands that the decisions that the store holds, taken again on the inputs that they carry, come out
// the same (design §4, Journal).
func (c *checker) journalReplays(n int) {
	c.checked("journalReplays")
	journal := c.w.store.journal
	for _, d := range journal[max(0, len(journal)-n):] {
		if err := failover.ReplayAll(c.w.parts.Rules, []failover.Decision{d}); err != nil {
			c.w.fail("journalReplays", "%v", err)
		}
	}
}

// coreIsSound demands that the coordinator and its registry find nothing wrong with themselves. While a hub rebuilds its
// store, exports and the VIPs of the tailnet come in any order and are not joined yet.
func (c *checker) coreIsSound(h *hub) {
	if h.co.Rebuilding() {
		return
	}
	c.checked("coreIsSound")
	if errs := h.co.Check(); len(errs) > 0 {
		c.w.fail("coreIsSound", "%s: %v", h.name, errs[0])
	}
}

// cordonedStayOut demands that what an operator cordoned does not come back once it is down (design §4: drain and cordon
// of a cluster or a service).
func (c *checker) cordonedStayOut(d failover.Decision) {
	if c.wishes[d.Subject].mode != failover.Cordon || d.Consumer != "" {
		return
	}
	c.checked("operatorsHold")
	if d.From == federation.Unhealthy && d.To == federation.Healthy && !d.Inputs.New {
		c.w.fail("operatorsHold", "%s is cordoned and came back (%s)", d.Subject, d.Reason)
	}
}

// drainedAndPinnedHold demands that what an operator drained takes no traffic once the ramp is over, and that a service
// that he pinned has one endpoint only, whatever else happens, and over a restart of the hub (design §4, Policy). A hub
// that was held up has a moment to come to what is overdue.
func (c *checker) drainedAndPinnedHold(h *hub) {
	for t, x := range c.wishes {
		switch {
		case x.mode == failover.Drain && h.clock().Sub(x.at) > x.ramp+time.Second && c.w.now-h.busy > time.Second:
			c.checked("operatorsHold")
			for _, k := range h.co.State().Exports(t.Cluster) {
				if t.Service != (federation.ServiceID{}) && t.Service != k.Service {
					continue
				}
				if v, _ := h.co.Verdict(k, ""); v.Health != federation.Unhealthy && v.Share > 0 {
					c.w.fail("operatorsHold", "%s was drained at %s and is %s (%s), share %d", k, x.at, v.Health, v.Reason, v.Share)
				}
			}
		case x.mode == failover.Pin:
			c.checked("operatorsHold")
			c.pinHolds(h, t)
		}
	}
}

func (c *checker) pinHolds(h *hub, t federation.Target) {
	for _, m := range c.w.members {
		set := h.co.Set(m.Cluster, t.Service)
		pinned := slices.ContainsFunc(set.Endpoints, func(e federation.Endpoint) bool { return e.Cluster == t.Cluster })
		if pinned && len(set.Endpoints) > 1 {
			c.w.fail("operatorsHold", "%s is pinned and %s is told %s", t, m.Cluster, describe(set))
		}
	}
}

// failsOpen demands that a set is never empty, nor all unhealthy, while an export of it has an address (design §4: fail
// open, never an empty set).
func (c *checker) failsOpen(where string, set federation.EndpointSet) {
	c.checked("failsOpen")
	if !slices.ContainsFunc(set.Endpoints, func(e federation.Endpoint) bool { return e.Health != federation.Unhealthy }) {
		c.w.fail("failsOpen", "%s has nothing to send to: %s", where, describe(set))
	}
	if slices.ContainsFunc(set.Endpoints, func(e federation.Endpoint) bool { return e.Health == federation.Degraded }) {
		c.w.cov.count(TopicState, "set failed open")
	}
	for _, e := range set.Endpoints {
		if e.Priority == 0 && len(set.Endpoints) > 1 && e.Weight != set.Endpoints[0].Weight {
			c.w.cov.count(TopicState, "set with shares")
			break
		}
	}
}

// envoyChanged is told that Envoy got another set, or none.
func (c *checker) envoyChanged(m *cluster, id federation.ServiceID) {
	if set, ok := m.envoy[id]; ok {
		c.failsOpen("the Envoy of "+m.name(), set)
	}
}
