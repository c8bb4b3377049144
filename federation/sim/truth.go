package sim

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/federation/coordinator"
	"github.com/tailgate-project/tailgate/federation/endpoints"
	"github.com/tailgate-project/tailgate/federation/failover"
	"github.com/tailgate-project/tailgate/federation/linkstate"
)

// published is told what a hub has published.
func (c *checker) published(h *hub, e coordinator.Effects) {
	for _, m := range c.w.members {
		for _, ch := range e.Views[m.Cluster] {
			if ch.Resource != nil && ch.Resource.EndpointSet != nil {
				c.failsOpen(h.name, *ch.Resource.EndpointSet)
			}
			if name, isSet := strings.CutPrefix(ch.Key, "endpoints/"); ch.Resource == nil && isSet {
				c.neverEmpty(h, m, name)
			}
		}
	}
}

// neverEmpty demands that a set is taken away only if no export of it has an address: see failsOpen.
func (c *checker) neverEmpty(h *hub, m *cluster, service string) {
	c.checked("failsOpen")
	id, err := federation.ParseServiceID(service)
	if err != nil {
		c.w.fail("failsOpen", "%s took a set away that has no service: %v", h.name, err)
		return
	}
	member, ok := h.co.Member(m.Cluster)
	if !ok || !member.Interest.Wants(id) || id.Kind != federation.KindService {
		return
	}
	for _, other := range c.w.members {
		k := federation.ExportKey{Cluster: other.Cluster, Service: id}
		_, exported := h.co.State().Export(k)
		if e, ok := h.co.Registry().Get(k); ok && exported && e.ReleasedAt.IsZero() && len(e.Addrs) > 0 {
			c.w.fail("failsOpen", "%s took the set of %s from %s, and %s has %v", h.name, id, m.Cluster, k, e.Addrs)
		}
	}
}

// viewsAreWhole demands that the views, edited step by step, say what a hub would say that published everything anew
// (design §4: work in proportion to the change must not lose any). Notices are of the moment and stand aside.
func (c *checker) viewsAreWhole(h *hub) {
	c.checked("viewsAreWhole")
	whole := h.co.Everything().Views
	for _, id := range h.co.Members() {
		fresh := linkstate.NewView()
		fresh.Edit(whole[id])
		want, got := lasting(fresh.Since(0).Upserts), lasting(h.view(id).Since(0).Upserts)
		if diff := different(want, got); diff != "" {
			c.w.fail("viewsAreWhole", "%s: the view of %s is not what it would be if it was made anew: %s", h.name, id, diff)
			return
		}
	}
}

// lasting leaves the notices out.
func lasting(rs []linkstate.Resource) []linkstate.Resource {
	return slices.DeleteFunc(slices.Clone(rs), func(r linkstate.Resource) bool { return r.Notice != nil })
}

// different says in what two lists of resources, sorted by key, differ; empty if they do not.
func different(want, got []linkstate.Resource) string {
	for i := range max(len(want), len(got)) {
		switch {
		case i >= len(got) || i < len(want) && want[i].Key() < got[i].Key():
			return want[i].Key() + " is missing"
		case i >= len(want) || want[i].Key() > got[i].Key():
			return got[i].Key() + " should not be there"
		case !want[i].Equal(got[i]):
			return fmt.Sprintf("%s is %s and should be %s", want[i].Key(), resource(got[i]), resource(want[i]))
		}
	}
	return ""
}

func resource(r linkstate.Resource) string {
	switch {
	case r.EndpointSet != nil:
		return describe(*r.EndpointSet)
	case r.VIP != nil:
		return fmt.Sprintf("%+v", *r.VIP)
	case r.Peer != nil:
		return fmt.Sprintf("%+v", *r.Peer)
	}
	return r.Key()
}

// hubEnds is told that a hub ends. What it says is compared with what a hub would say that started now.
func (c *checker) hubEnds(h *hub, why string) {
	c.w.cov.count(TopicState, "hub stopped")
	if h.epoch != c.w.store.epoch || why == errDisk.Error() || h.busy > c.w.now {
		return
	}
	c.viewsAreWhole(h)
	c.restartChangesNothing(h)
}

// restartChangesNothing demands that a hub that starts from the store says to each member of each service what the one
// before said: the same endpoints, as healthy as they were (design §4, §9: hub restarts, no spoke changes anything). That a
// cluster is stale is heard anew; weights are compared where nothing ramps, since a ramp goes on with the time.
func (c *checker) restartChangesNothing(h *hub) {
	c.checked("restartChangesNothing")
	now := h.clock()
	if at, due := h.co.Deadline(); due && !at.After(now) {
		return // the hub has not yet done what is due; the one that starts does it first
	}
	next, err := coordinator.New(c.w.parts.config(c.w.scenario, h.epoch+1), c.w.parts.Load(c.w.store.load()), now)
	if err != nil {
		c.w.fail("restartChangesNothing", "a hub cannot start from the store: %v", err)
		return
	}
	for _, m := range c.w.members {
		for _, s := range c.w.scenario.Services {
			was, is := c.settled(h.co, m.Cluster, s.ID), c.settled(next, m.Cluster, s.ID)
			if !endpoints.Equal(was, is) {
				c.w.fail("restartChangesNothing", "%s was told %s, and after a restart is told %s", m.Cluster, describe(was), describe(is))
				return
			}
		}
	}
}

// settled returns a set without what a hub hears anew, and without weights where something ramps.
func (c *checker) settled(co *coordinator.Coordinator, consumer federation.ClusterID, id federation.ServiceID) federation.EndpointSet {
	set := co.Set(consumer, id)
	ramps := false
	for i := range set.Endpoints {
		e := &set.Endpoints[i]
		e.Stale = false
		if e.Reason == string(failover.ServingStale) {
			e.Reason = string(failover.Serving)
		}
		v, _ := co.Verdict(federation.ExportKey{Cluster: e.Cluster, Service: id}, consumer)
		ramps = ramps || v.Share > 0 && v.Share < 100
	}
	if ramps {
		for i := range set.Endpoints {
			set.Endpoints[i].Priority, set.Endpoints[i].Weight = 0, 0
		}
		slices.SortFunc(set.Endpoints, func(a, b federation.Endpoint) int { return compare(string(a.Cluster), string(b.Cluster)) })
	}
	return set
}

// restartIsUnnoticed demands that a hub that is restarted while nothing else happens changes nothing for any spoke
// (design §9).
func (c *checker) restartIsUnnoticed(s *spoke, before, after linkstate.State, changed []string) {
	if !c.quiet {
		return
	}
	c.checked("restartChangesNothing")
	key := changed[0]
	was, _ := before.Get(key)
	is, _ := after.Get(key)
	c.w.fail("restartChangesNothing", "after a restart of the hub, with nothing else happening, %s heard of %s: it was %s and is %s",
		s.name, key, resource(was), resource(is))
}

// setsAreKept demands that no spoke is told to forget the endpoint of an export that has been there all along, also not
// by a hub that lost its store (design §9: hub down, store lost; fail open, never an empty set). What has changed
// within the last minute may still be on its way; and a hub that rebuilds waits for a member that it cannot reach for
// rebuildFor only.
func (c *checker) setsAreKept(s *spoke, before, after linkstate.State, changed []string) {
	const settled = time.Minute
	lately := func(at time.Duration) bool { return at > 0 && c.w.now-at < settled }
	if s.c.left > 0 || lately(s.c.referred) || lately(s.c.joined) || after.Epoch() == c.incomplete {
		return
	}
	for _, key := range changed {
		was, had := before.Get(key)
		if !had || was.EndpointSet == nil || c.pinnedLately(was.EndpointSet.Service) || !s.c.Interest.Wants(was.EndpointSet.Service) {
			continue
		}
		c.checked("setsAreKept")
		is, _ := after.Get(key)
		for _, e := range was.EndpointSet.Endpoints {
			m := c.w.member(string(e.Cluster))
			x := m.workloads[was.EndpointSet.Service]
			if x.hidden > 0 || m.left > 0 || lately(x.changed) || lately(m.joined) || is.EndpointSet != nil && has(*is.EndpointSet, e.Cluster) {
				continue
			}
			c.w.fail("setsAreKept", "%s is told to forget the endpoint of %s for %s, which has been there all along", s.name, e.Cluster, was.EndpointSet.Service)
		}
	}
}

func has(set federation.EndpointSet, cluster federation.ClusterID) bool {
	return slices.ContainsFunc(set.Endpoints, func(e federation.Endpoint) bool { return e.Cluster == cluster })
}

// pinnedLately reports whether a service is, or was lately, pinned to one export.
func (c *checker) pinnedLately(id federation.ServiceID) bool {
	at, ever := c.pins[id]
	return ever && c.w.now-at < time.Minute || c.pinned(id) != ""
}

// rebuilt is told that a hub that found its store empty begins to speak.
func (c *checker) rebuilt(h *hub) {
	c.w.cov.count(TopicState, "store rebuilt")
	if c.w.now-h.startedAt < rebuildFor { // it knows all, or should
		return
	}
	for _, m := range c.w.members {
		if a := h.apis[m.Cluster]; m.left == 0 && (a == nil || !a.up) {
			c.w.cov.count(TopicState, "store rebuilt without some member")
			c.incomplete = h.epoch
		}
	}
}

// hubStarted is told that a hub has started.
func (c *checker) hubStarted(h *hub) {
	c.w.cov.count(TopicState, "hub started")
	c.drop(func(t federation.Target) bool { return !c.w.store.has(t) }) // it went with the last thing that the last hub stored
	for _, m := range c.w.members {
		for _, k := range h.co.State().Exports(m.Cluster) {
			e, ok := h.co.Registry().Get(k)
			if was, had := c.given[k]; ok && had && len(e.Addrs) > 0 && (was.ServiceName != e.ServiceName || !slices.Equal(was.Addrs, e.Addrs)) {
				c.w.fail("vipsAreKept", "%s had %s %v, and a hub started with %s %v", k, was.ServiceName, was.Addrs, e.ServiceName, e.Addrs)
			}
		}
	}
	if len(h.co.Members()) == 0 && c.w.now > settle {
		c.w.cov.count(TopicState, "hub started with an empty store")
	}
}

// spokeEnds is told that a spoke ends. It remembers what is on the disk if that is all that the spoke knew.
func (c *checker) spokeEnds(s *spoke) {
	c.w.cov.count(TopicState, "spoke stopped")
	delete(c.ended, s)
	delete(c.epochs, s)
	state := s.receiver.state()
	if s.disk.version == state.Version() && s.disk.epoch == state.Epoch() {
		c.ended[s] = state.Resources()
	}
}

// spokeStarted demands that a spoke that starts, with or without a hub, uses what it used when it ended: all of the sets
// with all of their endpoints, healthy ones included (design §6, §9: a spoke starts from its last snapshot).
func (c *checker) spokeStarted(s *spoke) {
	kept, ok := c.ended[s]
	if !ok {
		return
	}
	c.checked("egressFromDisk")
	if !c.w.lead.up {
		c.w.cov.count(TopicState, "spoke started without a hub")
	}
	if diff := different(kept, s.receiver.state().Resources()); diff != "" {
		c.w.fail("egressFromDisk", "%s started with another state than it ended with: %s", s.name, diff)
	}
	for _, r := range kept {
		if r.EndpointSet == nil {
			continue
		}
		got := s.c.envoy[r.EndpointSet.Service]
		if !endpoints.Equal(got, *r.EndpointSet) {
			c.w.fail("egressFromDisk", "%s started with %s, and the hub's last word was %s", s.name, describe(got), describe(*r.EndpointSet))
		}
	}
}

// converged demands that all agree with each other and with the truth, for nothing has happened for long enough: the
// spokes know what the hub says, the hub says what is so, and the tailnet has what the registry has.
func (c *checker) converged(after string) {
	c.checked("converges")
	h := c.w.lead
	if !h.up {
		c.w.fail("converges", "%s, and %s is not up", after, h.name)
		return
	}
	c.coreIsSound(h)
	c.viewsAreWhole(h)
	for _, m := range c.w.members {
		c.memberAgrees(h, m, after)
		c.exportsAreTrue(h, m, after)
		c.setsAreTrue(h, m, after)
	}
	for _, s := range c.w.scenario.Services {
		c.federatedIsHosted(h, s.ID, after)
	}
	c.tailnetAgrees(h, after)
}

// federatedIsHosted demands that the VIP of a federated service is hosted by those clusters that share it and serve, by
// all that share it if none serves, and by nobody else (design §1, federated VIP). Without a VIP nobody shares it.
func (c *checker) federatedIsHosted(h *hub, id federation.ServiceID, after string) {
	e, ok := h.co.Registry().Get(federation.ExportKey{Service: id})
	var share, serve []federation.ClusterID
	for _, m := range c.w.members {
		x, there := m.exported(id)
		if !there || m.left > 0 || !x.Federated {
			continue
		}
		share = append(share, m.Cluster)
		if v, _ := h.co.Verdict(x.Key, ""); v.Health == federation.Healthy {
			serve = append(serve, m.Cluster)
		}
	}
	if pinned := c.pinned(id); slices.Contains(share, pinned) {
		serve = []federation.ClusterID{pinned}
	}
	if len(serve) == 0 {
		serve = share
	}
	if given := ok && e.ReleasedAt.IsZero() && len(e.Addrs) > 0; given != (len(share) > 0) {
		c.w.fail("converges", "%s, and %v share the VIP of %s, which is %+v", after, share, id, e)
		return
	}
	var hosts []federation.ClusterID
	for _, m := range c.w.members {
		if len(share) > 0 && m.hosted[e.Addrs[0]] == e.Owner {
			hosts = append(hosts, m.Cluster)
		}
	}
	if len(share) > 0 {
		c.w.cov.count(TopicState, "federated VIP hosted in the calm")
	}
	if !slices.Equal(hosts, serve) {
		c.w.fail("converges", "%s, and the VIP of %s is hosted by %v where %v should", after, id, hosts, serve)
	}
}

// memberAgrees demands that a spoke knows what the hub has for it, and that Envoy has it too.
func (c *checker) memberAgrees(h *hub, m *cluster, after string) {
	if m.left > 0 {
		return
	}
	view, state := h.view(m.Cluster), m.spoke.receiver.state()
	if diff := different(view.Since(0).Upserts, state.Resources()); diff != "" {
		c.w.fail("converges", "%s, and %s does not know what the hub has for it: %s", after, m.name(), diff)
		return
	}
	if state.Epoch() != h.epoch || state.Version() != view.Version() {
		c.w.fail("converges", "%s, and %s is at %d/%d while the hub is at %d/%d", after, m.name(), state.Epoch(), state.Version(), h.epoch, view.Version())
	}
	for _, r := range state.Resources() {
		if r.EndpointSet == nil {
			continue
		}
		want := endpoints.Overlay(m.spoke.ownView(*r.EndpointSet), func(federation.Target) bool { return false })
		if got := m.envoy[r.EndpointSet.Service]; !endpoints.Equal(got, want) {
			c.w.fail("converges", "%s, and the Envoy of %s has %s where it should have %s", after, m.name(), describe(got), describe(want))
		}
	}
	for _, other := range c.w.members {
		r, ok := state.Get(linkstate.Resource{Peer: &federation.Peer{Cluster: other.Cluster}}.Key())
		if other == m || other.left > 0 {
			continue
		}
		if !ok || len(r.Peer.Ingress) != len(other.hosts) || r.Peer.Locality != other.Locality {
			c.w.fail("converges", "%s, and %s does not know its peer %s", after, m.name(), other.name())
		}
	}
}

// exportsAreTrue demands that the hub knows the exports of a member as they are, each with a VIP.
func (c *checker) exportsAreTrue(h *hub, m *cluster, after string) {
	for _, id := range m.services {
		k := federation.ExportKey{Cluster: m.Cluster, Service: id}
		x, there := m.exported(id)
		known, ok := h.co.State().Export(k)
		if want := there && m.left == 0; ok != want || want && !known.Equal(x) {
			c.w.fail("converges", "%s, and the hub has %s as %+v (there: %v) where it is %+v (there: %v)", after, k, known, ok, x, want)
		}
		e, has := h.co.Registry().Get(k)
		if ok && (!has || !e.ReleasedAt.IsZero() || len(e.Addrs) == 0) {
			c.w.fail("converges", "%s, and %s has no VIP: %+v", after, k, e)
		}
	}
}

// setsAreTrue demands that a consumer's sets hold all exports that there are, each as healthy as its pods.
func (c *checker) setsAreTrue(h *hub, consumer *cluster, after string) {
	if consumer.left > 0 {
		return
	}
	for _, s := range c.w.scenario.Services {
		if s.ID.Kind != federation.KindService || !consumer.Interest.Wants(s.ID) {
			continue
		}
		set := h.co.Set(consumer.Cluster, s.ID)
		pinned := c.pinned(s.ID)
		for _, m := range c.w.members {
			x, there := m.exported(s.ID)
			there = there && m.left == 0 && (pinned == "" || pinned == m.Cluster)
			i := slices.IndexFunc(set.Endpoints, func(e federation.Endpoint) bool { return e.Cluster == m.Cluster })
			switch {
			case there != (i >= 0):
				c.w.fail("converges", "%s, and %s is told %s, although %s exports it: %v", after, consumer.name(), describe(set), m.name(), there)
			case there && !c.healthIsTrue(set.Endpoints[i], x):
				c.w.fail("converges", "%s, and %s is told %s, although %s has %d ready pods", after, consumer.name(), describe(set), m.name(), x.Ready)
			}
		}
	}
}

func (c *checker) pinned(id federation.ServiceID) federation.ClusterID {
	for t, x := range c.wishes {
		if x.mode == failover.Pin && t.Service == id {
			return t.Cluster
		}
	}
	return ""
}

// healthIsTrue reports whether an endpoint is as healthy as it should be. What an operator drained is down; what he
// cordoned may be either.
func (c *checker) healthIsTrue(e federation.Endpoint, x federation.Export) bool {
	whole, own := c.wishes[federation.Target{Cluster: e.Cluster}].mode, c.wishes[target(x.Key)].mode
	if x.Ready > 0 && (whole == failover.Cordon || own == failover.Cordon) {
		return true
	}
	well := x.Ready > 0 && whole != failover.Drain && own != failover.Drain
	return well == (e.Health == federation.Healthy)
}

// tailnetAgrees demands that the tailnet has each VIP of the registry, and none that the registry does not know.
func (c *checker) tailnetAgrees(h *hub, after string) {
	t := c.w.tailnet
	for _, e := range h.co.Registry().Entries() {
		is, ok := t.services[e.ServiceName]
		if e.ReleasedAt.IsZero() && (!ok || is.Owner != e.Owner || !slices.Equal(is.Addrs, e.Addrs)) {
			c.w.fail("converges", "%s, and the tailnet has %+v for %s of %s, which has %v", after, is, e.ServiceName, e.Owner, e.Addrs)
		}
	}
	for _, name := range t.names() {
		if _, ok := h.co.Registry().Named(name); !ok {
			c.w.fail("converges", "%s, and the tailnet has %s of %s, which no registry knows", after, name, t.services[name].Owner)
		}
	}
}
