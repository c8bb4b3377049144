package coordinator

import (
	"net/netip"
	"slices"

	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/federation/endpoints"
	"github.com/tailgate-project/tailgate/federation/failover"
	"github.com/tailgate-project/tailgate/federation/ledger"
	"github.com/tailgate-project/tailgate/federation/linkstate"
	"github.com/tailgate-project/tailgate/federation/vip"
)

// Effects are what follows from a step.
type Effects struct {
	// Views are the edits of the members' views.
	Views map[federation.ClusterID][]linkstate.Change
	// Speak are the members to whom the hub speaks from now on: their views say what they have, be it nothing.
	Speak []federation.ClusterID
	// Gone are the members that nobody serves any more: there is nothing left for them.
	Gone []federation.ClusterID
	// Ensure are the VIPs that the tailnet should have, Delete those that it should no longer have.
	Ensure, Delete []vip.Entry
}

// pair is a set: a service for a consumer.
type pair struct {
	consumer federation.ClusterID
	service  federation.ServiceID
}

// publication collects what has to be said anew, each thing once.
type publication struct {
	*Coordinator
	out      Effects
	services map[federation.ServiceID]struct{} // for all that refer to them
	sets     map[pair]struct{}
	vips     map[federation.ExportKey]struct{}
	offers   map[federation.ExportKey]struct{} // that may differ from others of their service, or no longer do
}

func (c *Coordinator) publication() *publication {
	return &publication{
		Coordinator: c, out: Effects{Views: map[federation.ClusterID][]linkstate.Change{}},
		services: map[federation.ServiceID]struct{}{}, sets: map[pair]struct{}{}, vips: map[federation.ExportKey]struct{}{},
		offers: map[federation.ExportKey]struct{}{},
	}
}

// Apply makes the step, which has been stored, and returns what follows.
func (c *Coordinator) Apply(s Step) Effects {
	delete(c.unlinked, s.linked)
	if s.expired {
		c.expireAt = s.now.Add(expireAgain)
	}
	if s.learned != nil {
		c.rebuild.note(s.learned)
	}
	if s.quiet() { // most are: an observer repeats what it sees
		c.state.Apply(s.transition)
		return Effects{Delete: s.forget}
	}
	p := c.publication()
	if s.rebuilt {
		c.rebuild = nil
	}
	p.touched(s.transition.Touched) // a member that goes takes its exports along: look at them first
	p.offered(s.Batch.Exports)
	c.state.Apply(s.transition)
	c.registry.Apply(s.vips)
	for k, saved := range s.Batch.Exports {
		if saved == nil {
			c.table.Remove(k)
		} else {
			c.table.Add(k)
		}
	}
	for name, kept := range s.Batch.Policies {
		if delete(c.policies, name); kept != nil {
			c.policies[name] = *kept
		}
	}
	for id, m := range s.Batch.Members {
		p.member(id, m)
	}
	for _, ch := range s.vips {
		p.changed(ch)
	}
	for _, n := range s.notices {
		p.notice(n)
	}
	p.out.Delete = s.forget
	if s.rebuilt {
		for _, id := range c.Members() {
			p.everything(id)
		}
	}
	return p.finish()
}

// Everything is what a hub that starts has to say: all of it to all members. While it rebuilds that is nothing.
func (c *Coordinator) Everything() Effects {
	p := c.publication()
	for _, id := range c.Members() {
		p.everything(id)
	}
	for e := range c.registry.All() {
		if e.ReleasedAt.IsZero() {
			p.out.Ensure = append(p.out.Ensure, *e)
		}
	}
	return p.finish()
}

// everything notes all that a member is to know, if the hub speaks to it.
func (p *publication) everything(id federation.ClusterID) {
	if !p.speaksTo(id) {
		return
	}
	p.out.Speak = append(p.out.Speak, id)
	for other := range p.members {
		if other != id {
			p.peer(id, other)
		}
	}
	for k := range p.state.EachExport(id) {
		p.vips[k], p.offers[k] = struct{}{}, struct{}{}
		if shared := (federation.ExportKey{Service: k.Service}); p.isVIP(shared) {
			p.vips[shared] = struct{}{}
		}
	}
	p.wanted(id)
	for key, r := range p.held[id] {
		p.change(id, key, r)
	}
	delete(p.held, id)
}

func (p *publication) isVIP(k federation.ExportKey) bool {
	_, ok := p.registry.Lookup(k)
	return ok
}

// touched notes whose sets a transition changes, and whose VIPs.
func (p *publication) touched(touches []failover.Touch) {
	for _, t := range touches {
		if t.Subject.Service != (federation.ServiceID{}) {
			p.touch(t.Subject.Service, t.Consumer)
			continue
		}
		for k := range p.state.EachExport(t.Subject.Cluster) {
			p.touch(k.Service, t.Consumer)
		}
	}
}

func (p *publication) touch(id federation.ServiceID, consumer federation.ClusterID) {
	if consumer == "" {
		p.services[id] = struct{}{}
	} else {
		p.sets[pair{consumer, id}] = struct{}{}
	}
}

// notice says a notice to its member, or keeps it until the hub speaks to it.
func (p *publication) notice(n notice) {
	if p.speaksTo(n.cluster) {
		p.change(n.cluster, n.key, n.Resource)
		return
	}
	held := p.held[n.cluster]
	if held == nil {
		held = map[string]*linkstate.Resource{}
		p.held[n.cluster] = held
	}
	if delete(held, n.key); n.Resource != nil {
		held[n.key] = n.Resource
	}
}

// changed notes what a change of the registry is about, and asks the tailnet for it.
func (p *publication) changed(ch vip.Change) {
	k := ch.Entry.Owner
	p.vips[k] = struct{}{}
	p.services[k.Service] = struct{}{}
	if !ch.Delete && ch.Entry.ReleasedAt.IsZero() {
		p.out.Ensure = append(p.out.Ensure, ch.Entry)
	}
}

// member notes a member that is new, has changed or is gone.
func (p *publication) member(id federation.ClusterID, m *ledger.Member) {
	if m == nil {
		delete(p.members, id)
		delete(p.unlinked, id)
		delete(p.held, id)
		p.table.Forget(id)
		p.out.Gone = append(p.out.Gone, id)
		for other := range p.members {
			p.peer(other, id)
		}
		return
	}
	old, known := p.members[id], p.isMember(id)
	if !known {
		old = &ledger.Member{}
	}
	p.members[id] = m
	if m.Heard && !old.Heard {
		defer p.everything(id)
	}
	if !known || !old.Interest.Equal(m.Interest) {
		for service := range p.table.Wanted(id) { // some of them perhaps no longer
			p.sets[pair{id, service}] = struct{}{}
		}
		p.table.SetInterest(id, m.Interest)
		p.wanted(id)
	}
	if !known || old.Locality != m.Locality {
		p.wanted(id)
		for _, k := range p.state.Exports(id) { // others may rank it elsewhere
			p.services[k.Service] = struct{}{}
			p.vips[k] = struct{}{}
		}
	}
	if !known || old.Locality != m.Locality || !slices.Equal(old.Ingress, m.Ingress) || old.Interest.All != m.Interest.All {
		p.peers(id)
	}
}

// wanted notes all sets of a member.
func (p *publication) wanted(id federation.ClusterID) {
	for service := range p.table.Wanted(id) {
		p.sets[pair{id, service}] = struct{}{}
	}
}

// peers tells all others about a member, and the member about all others.
func (p *publication) peers(id federation.ClusterID) {
	for other := range p.members {
		if other != id {
			p.peer(other, id)
			p.peer(id, other)
		}
	}
}

func (p *publication) peer(to, about federation.ClusterID) {
	r := linkstate.Resource{Peer: &federation.Peer{Cluster: about, Locality: p.locality(about)}}
	m := p.members[about]
	if m == nil {
		p.change(to, r.Key(), nil)
		return
	}
	for _, host := range m.Ingress {
		if ap, err := netip.ParseAddrPort(host.Addr); err == nil { // the link refuses others
			r.Peer.Ingress = append(r.Peer.Ingress, ap)
		}
	}
	slices.SortFunc(r.Peer.Ingress, netip.AddrPort.Compare)
	r.Peer.Consumer = m.Interest.All
	p.change(to, r.Key(), &r)
}

func (p *publication) change(to federation.ClusterID, key string, r *linkstate.Resource) {
	if !p.speaksTo(to) {
		return
	}
	p.out.Views[to] = append(p.out.Views[to], linkstate.Change{Key: key, Resource: r})
}

// finish says what was noted.
func (p *publication) finish() Effects {
	for id := range p.services {
		for _, consumer := range p.table.Consumers(id) {
			p.sets[pair{consumer, id}] = struct{}{}
		}
		if p.isVIP(federation.ExportKey{Service: id}) {
			p.vips[federation.ExportKey{Service: id}] = struct{}{}
		}
	}
	for s := range p.sets {
		p.set(s)
	}
	for k := range p.offers {
		p.conflict(k)
	}
	for k := range p.vips {
		if k.Cluster == "" {
			p.federated(k)
		} else {
			p.vip(k.Cluster, k, true)
		}
	}
	return p.out
}

// set says the set to its consumer, or that there is none.
func (p *publication) set(s pair) {
	if !p.isMember(s.consumer) {
		return
	}
	set := p.Set(s.consumer, s.service)
	r := &linkstate.Resource{EndpointSet: &set}
	key := r.Key()
	if len(set.Endpoints) == 0 {
		r = nil
	}
	p.change(s.consumer, key, r)
}

// vip says a VIP to a cluster that is to host it, or that it is not.
func (p *publication) vip(to federation.ClusterID, k federation.ExportKey, hosts bool) {
	if !p.isMember(to) {
		return
	}
	e, ok := p.registry.Lookup(k)
	if !hosts || !ok || !e.ReleasedAt.IsZero() || len(e.Addrs) == 0 {
		r := linkstate.Resource{VIP: &federation.VIP{Owner: k}}
		p.change(to, r.Key(), nil)
		return
	}
	r := linkstate.Resource{VIP: &e.VIP}
	p.change(to, r.Key(), &r)
}

// federated has the clusters that serve the service host its federated VIP: those that are well for everybody, and if
// none is, all that share it.
func (p *publication) federated(k federation.ExportKey) {
	hosts := p.Advertisers(k.Service)
	for id := range p.members {
		p.vip(id, k, slices.Contains(hosts, id))
	}
}

// Advertisers returns the clusters that should advertise the federated VIP of a service, sorted: its exporters that
// share the VIP and serve everybody; if none does, all that share it (fail open). A cluster is drained by
// withdrawing.
func (c *Coordinator) Advertisers(id federation.ServiceID) []federation.ClusterID {
	var share, serve []federation.ClusterID
	for _, cluster := range c.table.Exporters(id) {
		k := federation.ExportKey{Cluster: cluster, Service: id}
		if x, ok := c.state.Export(k); !ok || !x.Federated {
			continue
		}
		share = append(share, cluster)
		if v, _ := c.state.Verdict(k, ""); v.Pinned {
			return []federation.ClusterID{cluster}
		} else if v.Health == federation.Healthy {
			serve = append(serve, cluster)
		}
	}
	if len(serve) == 0 {
		return share
	}
	return serve
}

// Set returns the endpoint set of a service for a consumer, empty if the consumer does not refer to it.
func (c *Coordinator) Set(consumer federation.ClusterID, id federation.ServiceID) federation.EndpointSet {
	return c.set(c.state, consumer, id)
}

// set is Set by the decisions of a state, which may be that of a dry run.
func (c *Coordinator) set(state *failover.State, consumer federation.ClusterID, id federation.ServiceID) federation.EndpointSet {
	m := c.members[consumer]
	if m == nil || id.Kind != federation.KindService || !m.Interest.Wants(id) {
		return federation.EndpointSet{Consumer: consumer, Service: id}
	}
	exporters := c.table.Exporters(id)
	candidates := make([]endpoints.Candidate, 0, len(exporters))
	var labels map[string]string
	for _, cluster := range exporters {
		k := federation.ExportKey{Cluster: cluster, Service: id}
		x, v, exported := state.Look(k, consumer)
		e, ok := c.registry.Lookup(k)
		if !ok || !exported || !e.ReleasedAt.IsZero() {
			continue
		}
		if labels == nil || cluster == consumer {
			labels = x.Labels
		}
		candidates = append(candidates, endpoints.Candidate{
			VIP: &e.VIP, Locality: c.locality(cluster), Health: v.Health, Reason: string(v.Reason), Stale: v.Stale,
			Share: v.Share, Cordoned: v.Cordoned, Pinned: v.Pinned, Ready: x.Ready, Desired: x.Desired,
			Weight: x.Weight, ClusterPinned: x.ClusterPinned,
		})
	}
	p := state.Policies().For(id, labels, consumer)
	return endpoints.Build(endpoints.Consumer{Cluster: consumer, Locality: m.Locality}, id, p, candidates)
}
