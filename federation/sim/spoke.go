package sim

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/federation/endpoints"
	"github.com/tailgate-project/tailgate/federation/linkstate"
	"github.com/tailgate-project/tailgate/federation/probes"
)

// keepEvery is the shortest time between two writings of a spoke's snapshot, keepTakes how long one takes.
const (
	keepEvery = 250 * time.Millisecond
	keepTakes = 5 * time.Millisecond
)

// disk is what outlives a spoke.
type disk struct {
	epoch, version uint64
	resources      []linkstate.Resource
}

// spoke is the spoke of a cluster: the link's state, what its own probes say, and what follows for Envoy and the
// proxies. It mirrors the few lines of package spoke that join these; what they join is the product's.
type spoke struct {
	party
	c        *cluster
	w        *world
	receiver receiver
	seen     *probes.Observations
	sets     map[federation.ServiceID]federation.EndpointSet
	// local says which services of the cluster have ready endpoints, once the API server was read.
	local     map[federation.ServiceID]bool
	disk      disk
	written   time.Duration
	keeping   bool
	client    client
	tickAt    time.Duration
	startedAt time.Duration
}

func newSpoke(c *cluster) *spoke {
	return &spoke{party: party{name: c.name(), ahead: c.Skew}, c: c, w: c.w}
}

// later has something done by the spoke, unless it ends before.
func (s *spoke) later(after time.Duration, do func()) {
	if s.up {
		s.w.push(s.w.now+after, &s.party, do)
	}
}

// forget takes away what the spoke keeps.
func (s *spoke) forget() {
	s.disk = disk{}
	delete(s.w.check.ended, s)
}

// start starts the spoke with what its disk holds.
func (s *spoke) start() {
	if s.up || s.c.crashed > 0 || !s.c.alive() {
		return
	}
	s.begin()
	s.startedAt = s.w.now
	s.note("start", fmt.Sprint("epoch ", s.disk.epoch), fmt.Sprint("version ", s.disk.version))
	kept := s.disk
	if s.w.parts.ForgetDisk {
		kept = disk{}
	}
	state, err := linkstate.Restore(kept.epoch, kept.version, kept.resources)
	if err != nil {
		s.w.fail("egressFromDisk", "%s cannot start from its disk: %v", s.name, err)
		return
	}
	s.receiver = newReceiver(s, state)
	s.seen = probes.New()
	s.sets = map[federation.ServiceID]federation.EndpointSet{}
	s.local, s.keeping, s.tickAt = nil, false, 0
	s.client = client{s: s}
	for _, r := range state.Resources() {
		if r.EndpointSet != nil {
			s.settle(r.EndpointSet.Service)
		}
	}
	s.settleProxies()
	s.w.check.spokeStarted(s)
	s.readLocal()
	s.client.connect()
}

// crash ends the spoke without a goodbye.
func (s *spoke) crash(why string) {
	if !s.up {
		return
	}
	s.note("stop", why)
	s.w.check.spokeEnds(s)
	s.up = false
	s.life++
	s.client.abandon()
	for _, wt := range s.c.watches {
		wt.stream.kill()
	}
	s.c.watches = nil
}

func (s *spoke) note(what string, words ...string) { s.w.note(s.name, what, words...) }

// clock is the spoke's time.
func (s *spoke) clock() time.Time { return s.w.clock(&s.party) }

// readLocal reads the cluster's own API server, and tries again until it can.
func (s *spoke) readLocal() {
	if s.c.apiDown > 0 {
		if s.local == nil {
			s.later(500*time.Millisecond, s.readLocal)
		}
		return
	}
	if s.local == nil {
		s.local = map[federation.ServiceID]bool{}
	}
	for _, id := range s.c.services {
		x, ok := s.c.exported(id)
		s.local[id] = ok && x.Ready > 0
		s.settle(id)
	}
}

// apply takes an update of the hub. A refused one changes nothing.
func (s *spoke) apply(u linkstate.Update) error {
	before := s.receiver.state()
	changed, err := s.receiver.apply(u)
	if err != nil {
		return err
	}
	after := s.receiver.state()
	s.w.check.heard(s, u, before, after, changed)
	if after.Epoch() == before.Epoch() && after.Version() == before.Version() {
		return nil
	}
	s.note("apply", fmt.Sprint("epoch ", after.Epoch()), fmt.Sprint("version ", after.Version()), fmt.Sprint(changed))
	for _, key := range changed {
		r, ok := after.Get(key)
		if !ok {
			r, _ = before.Get(key)
		}
		if r.EndpointSet != nil {
			s.settle(r.EndpointSet.Service)
		}
	}
	if len(changed) > 0 {
		s.settleProxies()
	}
	s.keep()
	return nil
}

// keep writes the state to the disk, soon.
func (s *spoke) keep() {
	if s.keeping {
		return
	}
	s.keeping = true
	s.later(max(0, s.written+keepEvery-s.w.now), func() {
		state := s.receiver.state()
		s.keeping = false
		s.later(keepTakes, func() {
			s.disk = disk{epoch: state.Epoch(), version: state.Version(), resources: state.Resources()}
			s.written = s.w.now
			if now := s.receiver.state(); now.Version() != state.Version() || now.Epoch() != state.Epoch() {
				s.keep()
			}
		})
	})
}

// settle puts the cluster's own view on top of the hub's set of a service, and gives it to Envoy.
func (s *spoke) settle(id federation.ServiceID) {
	r, ok := s.receiver.state().Get(linkstate.Resource{EndpointSet: &federation.EndpointSet{Service: id}}.Key())
	if !ok {
		if _, had := s.sets[id]; had {
			delete(s.sets, id)
			delete(s.c.envoy, id)
			s.w.check.envoyChanged(s.c, id)
		}
		return
	}
	before, had := s.sets[id]
	set := s.ownView(*r.EndpointSet)
	if !s.w.parts.NoOverlay {
		set = endpoints.Overlay(set, s.seen.Unreachable)
	}
	set = s.w.parts.Envoy(set)
	if had && endpoints.Equal(before, set) {
		return
	}
	s.sets[id] = set
	s.c.envoy[id] = set
	s.note("envoy", describe(set))
	s.w.check.envoyChanged(s.c, id)
}

// ownView puts what the cluster knows of its own export over what the hub says of it.
func (s *spoke) ownView(set federation.EndpointSet) federation.EndpointSet {
	if s.local == nil {
		return set
	}
	return endpoints.Own(set, s.c.Cluster, s.local[set.Service])
}

// settleProxies tells the proxies which VIPs to host and what to probe.
func (s *spoke) settleProxies() {
	s.c.hosted = map[netip.Addr]federation.ExportKey{}
	peers := map[federation.ClusterID][]netip.AddrPort{}
	for _, r := range s.receiver.state().Resources() {
		switch {
		case r.VIP != nil:
			for _, a := range r.VIP.Addrs {
				s.c.hosted[a] = r.VIP.Owner
			}
		case r.Peer != nil:
			peers[r.Peer.Cluster] = r.Peer.Ingress
		}
	}
	var aims []aim
	for _, m := range s.w.members {
		if len(peers[m.Cluster]) > 0 && s.uses(m.Cluster) {
			aims = append(aims, aim{federation.Target{Cluster: m.Cluster}, peers[m.Cluster]})
		}
	}
	for _, id := range sortedServices(s.sets) {
		for _, e := range s.sets[id].Endpoints {
			if e.Cluster != s.c.Cluster && len(e.Ports) > 0 {
				aims = append(aims, aim{federation.Target{Cluster: e.Cluster, Service: id}, []netip.AddrPort{netip.AddrPortFrom(e.Addr, e.Ports[0].Port)}})
			}
		}
	}
	s.w.check.hosting(s.c)
	s.c.prober.aimAt(aims)
	s.watchProbes(aims)
}

func (s *spoke) watchProbes(aims []aim) {
	intervals := make(map[federation.Target]time.Duration, len(aims))
	for _, a := range aims {
		intervals[a.target] = clusterInterval
		if a.target.Service != (federation.ServiceID{}) {
			intervals[a.target] = vipInterval
		}
	}
	s.seen.Watch(intervals)
}

// uses reports whether some set leads to the cluster.
func (s *spoke) uses(c federation.ClusterID) bool {
	if c == s.c.Cluster {
		return false
	}
	for _, set := range s.sets {
		if slices.ContainsFunc(set.Endpoints, func(e federation.Endpoint) bool { return e.Cluster == c }) {
			return true
		}
	}
	return false
}

// probed takes a result of the cluster's prober. While the spoke is down nobody takes it.
func (s *spoke) probed(t federation.Target, reachable bool) {
	s.later(0, func() {
		now := s.clock()
		if s.seen.Record(t, 0, probes.Result{Reachable: reachable, At: now}, now) {
			s.reachabilityChanged(t)
		}
		s.report()
		s.setTimer()
	})
}

func (s *spoke) reachabilityChanged(t federation.Target) {
	s.note("probe", t.String(), fmt.Sprint("unreachable ", s.seen.Unreachable(t)))
	for _, id := range sortedServices(s.sets) {
		if t.Service == (federation.ServiceID{}) || t.Service == id {
			s.settle(id)
		}
	}
}

// report tells the hub what is new.
func (s *spoke) report() { s.client.report() }

// setTimer has the spoke look again when time alone changes what its probes say.
func (s *spoke) setTimer() {
	deadline, ok := s.seen.Deadline()
	if !ok {
		return
	}
	at := max(s.w.wake(&s.party, deadline), s.w.now+time.Millisecond)
	if s.tickAt > s.w.now && s.tickAt <= at {
		return
	}
	s.tickAt = at
	s.w.push(at, &s.party, func() {
		s.tickAt = 0
		for _, t := range s.seen.Tick(s.clock()) {
			s.reachabilityChanged(t)
		}
		s.setTimer()
	})
}

// describe writes a set for a trace.
func describe(set federation.EndpointSet) string {
	out := []string{set.Service.String() + ":"}
	for _, e := range set.Endpoints {
		out = append(out, fmt.Sprintf("%s/p%d/w%d/%s(%s)", e.Cluster, e.Priority, e.Weight, e.Health, e.Reason))
	}
	return strings.Join(out, " ")
}
