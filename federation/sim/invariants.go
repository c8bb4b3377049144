package sim

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/federation/coordinator"
	"github.com/tailgate-project/tailgate/federation/failover"
	"github.com/tailgate-project/tailgate/federation/linkstate"
	"github.com/tailgate-project/tailgate/federation/vip"
)

// The bounds of the invariants, in virtual time.
const (
	// consumerBound is how long a spoke may send to a cluster that it cannot reach (design §9: 3 s).
	consumerBound = 3 * time.Second
	// hubBound is how long a hub may take to call a cluster down for everybody that is dead. A quorum of observers takes
	// some 2 s, a lost link three heartbeats and the grace time of 5 s. The longest is a cluster that nobody probes any
	// more, as after a pin: the last probe that reached a VIP of it counts for 15 s (failover.Config.FreshVIP), and then
	// the lost link decides. No traffic goes there meanwhile, for who sends there probes it. Two seconds are for what is
	// under way.
	hubBound = 17 * time.Second
	// blurred is for how long after a path was bad its observer may say so: a probe, its confirmation, the report, and
	// the time for which an observation counts.
	blurred = 8 * time.Second
)

// checker knows what must always be true, and looks whether it is after each event. Its methods are told what
// happened; each of the invariants is a method of its own, named after what it demands.
type checker struct {
	w *world
	// given are the VIPs that exports have, as the store once held them with an address.
	given map[federation.ExportKey]vip.Entry
	// returned is when the state of a subject last came back, by the clock of the hub that decided it.
	returned map[cellKey]time.Time
	// policies are the sets of policies that an operator had count, ever.
	policies []PolicySet
	wishes   map[federation.Target]wish
	pins     map[federation.ServiceID]time.Duration // when a pin was last said or taken back
	// unreachable is since when a consumer cannot reach a cluster, bad when it was last hard to reach.
	unreachable map[pathKey]time.Duration
	bad         map[pathKey]time.Duration
	epochs      map[*spoke]uint64
	ended       map[*spoke][]linkstate.Resource
	// incomplete is the epoch of a hub that did not hear of all members in time while it rebuilt its store.
	incomplete uint64
	// quiet is set while nothing may change for any spoke.
	quiet  bool
	looked time.Duration
	whole  time.Duration
}

// wish is what an operator wants of a subject, since when by the hub's clock.
type wish struct {
	mode failover.Mode
	at   time.Time
	ramp time.Duration
}

func newChecker(w *world) *checker {
	return &checker{
		w: w, given: map[federation.ExportKey]vip.Entry{}, returned: map[cellKey]time.Time{}, wishes: map[federation.Target]wish{},
		pins:        map[federation.ServiceID]time.Duration{},
		unreachable: map[pathKey]time.Duration{}, bad: map[pathKey]time.Duration{},
		epochs: map[*spoke]uint64{}, ended: map[*spoke][]linkstate.Resource{}, policies: []PolicySet{w.scenario.Policies[0]},
	}
}

func (c *checker) checked(invariant string) { c.w.cov.count(TopicChecked, invariant) }

// disturbed is told that a fault began or ended.
func (c *checker) disturbed() { c.pathsChanged() }

// pathsChanged notes who can reach whom.
func (c *checker) pathsChanged() {
	for _, a := range c.w.members {
		for _, b := range c.w.members {
			if a == b {
				continue
			}
			k := pathKey{a.name(), b.name()}
			there, back := c.w.net.path(k.from, k.to), c.w.net.path(k.to, k.from)
			open := there.cuts+back.cuts == 0 && b.alive()
			if _, was := c.unreachable[k]; was == open {
				if open {
					delete(c.unreachable, k)
				} else {
					c.unreachable[k] = c.w.now
				}
				c.bad[k] = c.w.now
			}
			if !open || there.poor+back.poor > 0 {
				c.bad[k] = c.w.now
			}
		}
	}
}

// isBad reports whether a consumer may lately have found a cluster unreachable.
func (c *checker) isBad(from, to string) bool {
	k := pathKey{from, to}
	if _, now := c.unreachable[k]; now {
		return true
	}
	there, back := c.w.net.path(from, to), c.w.net.path(to, from)
	at, ever := c.bad[k]
	return there.poor+back.poor > 0 || ever && c.w.now-at < blurred
}

// step is told that an event is over. What hangs on time alone is looked at ten times a second.
func (c *checker) step() {
	if c.w.now-c.looked < 100*time.Millisecond {
		return
	}
	c.looked = c.w.now
	for _, m := range c.w.members {
		c.consumersLeaveTheDead(m)
	}
	if h := c.w.lead; h.up && h.busy <= c.w.now && c.w.now-c.whole >= 5*time.Second {
		c.whole = c.w.now
		c.deadAreDown(h)
		c.viewsAreWhole(h)
	}
}

// applied is told that a hub has handled an event.
func (c *checker) applied(h *hub, e coordinator.Event, s coordinator.Step) {
	c.count(e, s)
	c.forget(e)
	c.unreadyIsDown(h, e)
	for _, d := range s.Batch.Journal {
		c.noSwitchStorms(d)
		c.isolatedEvictsNobody(d)
		c.cordonedStayOut(d)
	}
	if len(s.Batch.Journal) > 0 {
		c.journalReplays(len(s.Batch.Journal))
	}
	if len(s.Batch.VIPs) > 0 {
		c.vipsAreDistinct(h)
		c.vipsAreKept(h, s.Batch.VIPs)
	}
	if s.Batch.Empty() {
		return
	}
	c.coreIsSound(h)
	if h == c.w.lead {
		c.drainedAndPinnedHold(h)
	}
}

// count notes what was reached.
func (c *checker) count(e coordinator.Event, s coordinator.Step) {
	c.w.cov.count(TopicEvent, eventName(e))
	for _, d := range s.Batch.Journal {
		who, to := "everybody", "up"
		if d.Consumer != "" {
			who = "one consumer"
		}
		if d.To == federation.Unhealthy {
			to = "down"
		}
		what := "export"
		if d.Subject.Service == (federation.ServiceID{}) {
			what = "cluster"
		}
		c.w.cov.count(TopicDecision, strings.Join([]string{string(d.Reason), what, to, "for", who}, " "))
		c.w.note("hub", "decision", d.Subject.String(), string(d.Consumer), d.From.String(), d.To.String(), string(d.Reason))
	}
}

// forget drops what the checker remembers of what is gone, or is wanted no longer.
func (c *checker) forget(e coordinator.Event) {
	switch e := e.(type) {
	case coordinator.MemberGone:
		c.drop(func(t federation.Target) bool { return t.Cluster == e.Cluster })
		for k := range c.returned {
			if k.consumer == e.Cluster {
				delete(c.returned, k)
			}
		}
	case coordinator.Failover:
		if x, ok := e.Event.(failover.ExportRemoved); ok {
			c.drop(func(t federation.Target) bool { return t == target(x.Key) })
		}
	}
}

func (c *checker) drop(gone func(federation.Target) bool) {
	for t := range c.wishes {
		if gone(t) {
			delete(c.wishes, t)
		}
	}
	for k := range c.returned {
		if gone(k.subject) {
			delete(c.returned, k)
		}
	}
}

func target(k federation.ExportKey) federation.Target { return federation.Target(k) }

// storeLost is told that the store is about to be lost. Operators' wishes go with it; VIPs do not, as far as the tailnet
// has them.
func (c *checker) storeLost() {
	clear(c.wishes)
	clear(c.returned)
	for k, e := range c.given {
		is, ok := c.w.tailnet.services[e.ServiceName]
		over := !e.ReleasedAt.IsZero() && c.w.lead.clock().Sub(e.ReleasedAt) >= c.w.scenario.Quarantine // its deletion may be under way
		if !ok || is.Owner != e.Owner || over {
			delete(c.given, k)
		}
	}
}

// vipsAreDistinct demands that no name and no address is held by two exports, in the registry (design §4: two clusters
// can never merge by accident).
func (c *checker) vipsAreDistinct(h *hub) {
	c.checked("vipsAreDistinct")
	names, addrs, owners := map[string]bool{}, map[netip.Addr]federation.ExportKey{}, map[federation.ExportKey]bool{}
	for _, e := range h.co.Registry().Entries() {
		if names[e.ServiceName] || owners[e.Owner] {
			c.w.fail("vipsAreDistinct", "%s: %s of %s is there twice", h.name, e.ServiceName, e.Owner)
		}
		names[e.ServiceName], owners[e.Owner] = true, true
		for _, a := range e.Addrs {
			if other, taken := addrs[a]; taken {
				c.w.fail("vipsAreDistinct", "%s: %s is held by %s and %s", h.name, a, other, e.Owner)
			}
			addrs[a] = e.Owner
		}
	}
}

// tailnetChanged demands of the tailnet what vipsAreDistinct demands of the registry.
func (c *checker) tailnetChanged() {
	c.checked("vipsAreDistinct")
	addrs := map[netip.Addr]string{}
	for _, name := range c.w.tailnet.names() {
		for _, a := range c.w.tailnet.services[name].Addrs {
			if other, taken := addrs[a]; taken {
				c.w.fail("vipsAreDistinct", "in the tailnet, %s is held by %s and %s", a, other, name)
			}
			addrs[a] = name
		}
	}
}

// hosting demands of what the clusters host what vipsAreDistinct demands of the registry.
func (c *checker) hosting(m *cluster) {
	c.checked("vipsAreDistinct")
	for _, other := range c.w.members {
		for a, owner := range m.hosted {
			if is, ok := other.hosted[a]; ok && is != owner {
				c.w.fail("vipsAreDistinct", "%s hosts %s for %s, and %s for %s", m.name(), a, owner, other.name(), is)
			}
		}
	}
}

// vipsAreKept demands that a name and an address, once given to an export, stay with it, over a restart, another hub and
// a lost store too, until its quarantine is over (design §4, §5, §9).
func (c *checker) vipsAreKept(h *hub, changes []vip.Change) {
	c.checked("vipsAreKept")
	for _, ch := range changes {
		was, had := c.given[ch.Entry.Owner]
		switch {
		case ch.Delete && had && len(ch.Entry.Addrs) > 0: // a claim without an address may give way to what the tailnet has
			rested := h.clock().Sub(ch.Entry.ReleasedAt)
			if ch.Entry.ReleasedAt.IsZero() || rested < c.w.scenario.Quarantine {
				c.w.fail("vipsAreKept", "%s forgets %s of %s, released at %s, before its quarantine is over", h.name, ch.Entry.ServiceName, ch.Entry.Owner, ch.Entry.ReleasedAt)
			}
			delete(c.given, ch.Entry.Owner)
		case ch.Delete || len(ch.Entry.Addrs) == 0:
		case had && (was.ServiceName != ch.Entry.ServiceName || was.Name != ch.Entry.Name || !slices.Equal(was.Addrs, ch.Entry.Addrs)):
			c.w.fail("vipsAreKept", "%s had %s %v and now has %s %v", was.Owner, was.ServiceName, was.Addrs, ch.Entry.ServiceName, ch.Entry.Addrs)
		default:
			c.given[ch.Entry.Owner] = ch.Entry
		}
	}
}

// announcedIsStored demands that whatever a spoke hears was stored before: the addresses, that an endpoint is down, and
// the epoch (design §4: nothing is announced before it is stored).
func (c *checker) announcedIsStored(s *spoke, u linkstate.Update) {
	c.checked("announcedIsStored")
	if u.Epoch > 0 && !c.w.store.everEpoch[u.Epoch] {
		c.w.fail("announcedIsStored", "%s heard of epoch %d, which nobody took", s.name, u.Epoch)
	}
	for _, r := range u.Upserts {
		switch {
		case r.VIP != nil:
			for _, a := range r.VIP.Addrs {
				if !c.w.store.everHeld[heldVIP{r.VIP.Owner, a}] {
					c.w.fail("announcedIsStored", "%s heard that %s has %s, which was never stored", s.name, r.VIP.Owner, a)
				}
			}
		case r.EndpointSet != nil:
			for _, e := range r.EndpointSet.Endpoints {
				c.endpointIsStored(s, r.EndpointSet.Service, e)
			}
		}
	}
}

func (c *checker) endpointIsStored(s *spoke, id federation.ServiceID, e federation.Endpoint) {
	c.w.cov.count(TopicVerdict, e.Health.String()+" "+e.Reason)
	k := federation.ExportKey{Cluster: e.Cluster, Service: id}
	if !c.w.store.everHeld[heldVIP{k, e.Addr}] {
		c.w.fail("announcedIsStored", "%s heard that %s has %s, which was never stored", s.name, k, e.Addr)
	}
	if e.Health != federation.Unhealthy {
		return
	}
	for _, t := range []federation.Target{{Cluster: e.Cluster}, target(k)} {
		for _, consumer := range []federation.ClusterID{"", s.c.Cluster} {
			if c.w.store.everDown[cellKey{t, consumer}] {
				return
			}
		}
	}
	c.w.fail("announcedIsStored", "%s heard that %s is down (%s), which was never stored", s.name, k, e.Reason)
}

// epochsGoForward demands that a spoke never applies an update of an older epoch than it knows (design §5: a hub with an
// older epoch is not believed).
func (c *checker) epochsGoForward(s *spoke, after linkstate.State) {
	c.checked("epochsGoForward")
	if was := c.epochs[s]; after.Epoch() < was {
		c.w.fail("epochsGoForward", "%s was at epoch %d and applied epoch %d", s.name, was, after.Epoch())
	}
	c.epochs[s] = after.Epoch()
}

// heard is told that a spoke has applied an update.
func (c *checker) heard(s *spoke, u linkstate.Update, before, after linkstate.State, changed []string) {
	c.announcedIsStored(s, u)
	c.epochsGoForward(s, after)
	if after.Epoch() > before.Epoch() && before.Epoch() > 0 {
		c.w.cov.count(TopicState, "spoke went over to a newer epoch")
	}
	if len(changed) > 0 {
		c.restartIsUnnoticed(s, before, after, changed)
		c.setsAreKept(s, before, after, changed)
	}
}

// eventName names an event of the coordinator for a count.
func eventName(e coordinator.Event) string {
	if x, ok := e.(coordinator.Failover); ok {
		return fmt.Sprintf("%T", x.Event)
	}
	return fmt.Sprintf("%T", e)
}
