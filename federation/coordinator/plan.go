package coordinator

import (
	"fmt"
	"slices"
	"time"

	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/federation/failover"
	"github.com/tailgate-project/tailgate/federation/ledger"
	"github.com/tailgate-project/tailgate/federation/linkstate"
	"github.com/tailgate-project/tailgate/federation/policy"
	"github.com/tailgate-project/tailgate/federation/vip"
)

// Step is what an event changes. It is valid for the coordinator that planned it, until the next Apply.
type Step struct {
	// Batch is to be stored before the step is applied, unless it is empty.
	Batch ledger.Batch
	// Problems are what was refused, for the log.
	Problems []error

	now        time.Time
	transition failover.Transition
	vips       []vip.Change
	notices    []notice
	// forget are VIPs that the tailnet is to forget; the registry does when it has. With forGood, those that are released are
	// among them.
	forget  []vip.Entry
	forGood bool
	linked  federation.ClusterID // was heard of
	expired bool                 // VIPs whose quarantine is over were asked about
	learned Event                // a part of a rebuilding ended
	rebuilt bool                 // and with it all of it
}

// quiet reports whether nobody is to be told anything.
func (s Step) quiet() bool {
	return s.Batch.Empty() && len(s.transition.Touched) == 0 && len(s.vips) == 0 && len(s.notices) == 0 && !s.rebuilt
}

// notice is a notice to a member; without a resource it is withdrawn.
type notice struct {
	cluster federation.ClusterID
	key     string
	*linkstate.Resource
}

// Plan says what the event changes at the time now. It changes nothing itself.
func (c *Coordinator) Plan(e Event, now time.Time) Step {
	s := Step{now: now}
	switch e := e.(type) {
	case Failover:
		c.planFailover(&s, e.Event)
	case MemberSeen:
		m, _ := c.Member(e.Cluster)
		m.Cluster, m.Locality = e.Cluster, e.Locality
		c.planMember(&s, m)
	case MemberHosts:
		m, _ := c.Member(e.Cluster)
		m.Cluster, m.Ingress = e.Cluster, e.Hosts
		c.planMember(&s, m)
	case MemberInterest:
		m, _ := c.Member(e.Cluster)
		m.Cluster, m.Interest, m.Heard = e.Cluster, e.Interest, true
		c.planMember(&s, m)
	case MemberGone:
		c.planMemberGone(&s, e)
	case VIPAssigned:
		c.planAssigned(&s, e)
	case VIPRefused:
		if x, ok := c.registry.Named(e.Service); ok {
			c.tell(&s, x.Owner, e.Notice)
		}
	case VIPDeleted:
		s.planVIPs(c.registry.PlanForget(e.Service, now))
		s.planVIPs(c.registry.PlanFill(s.vips...))
	case VIPFound:
		changes, err := c.registry.PlanAdopt(e.VIP, now)
		if err != nil {
			s.Problems = append(s.Problems, fmt.Errorf("a VIP of the tailnet contradicts the registry and is left alone: %w", err))
		}
		s.planVIPs(changes)
		for _, ch := range changes {
			if ch.Delete { // a claim without an address that gives way to it
				s.forget = append(s.forget, ch.Entry)
			}
		}
	case PoliciesSet:
		c.planPolicies(&s, e)
	case VIPsListed, MembersExpected, ExportsListed:
		c.planRebuild(&s, e)
	case Tick:
		c.planTick(&s)
		c.planRebuild(&s, e)
	}
	return s
}

// planFailover plans an event of failover, and the VIP of an export that came or went. What is said of a cluster that is no
// member, or no longer, is of no use to anybody, and neither is what it observes.
func (c *Coordinator) planFailover(s *Step, event failover.Event) {
	switch e := event.(type) {
	case failover.Observed:
		if !c.isMember(e.Observer) || !c.isMember(e.Target.Cluster) {
			return
		}
	case failover.APIChanged:
		if !c.isMember(e.Cluster) {
			return
		}
	case failover.ExportChanged:
		e.Export = c.shared(e.Export)
		event = e
		if c.claims() {
			c.planClaim(s, e.Export)
		}
	case failover.ExportRemoved:
		s.planVIPs(c.registry.PlanRelease(e.Key, s.now))
		c.planFederated(s, e.Key, nil)
	case failover.LinkChanged:
		if !c.isMember(e.Cluster) { // the end of the link of one that left
			return
		}
		s.linked = e.Cluster
	}
	s.transition = c.state.Plan(event, s.now)
	s.Batch.Exports, s.Batch.Clusters = s.transition.Save()
	s.Batch.Journal = s.transition.Decisions
}

// shared returns the export with the strings and ports that others have too: each was read from an object of its own.
func (c *Coordinator) shared(x federation.Export) federation.Export {
	x.Key.Service = c.table.Known(x.Key.Service)
	if m := c.members[x.Key.Cluster]; m != nil {
		x.Key.Cluster = m.Cluster
	}
	if e, ok := c.registry.Lookup(x.Key); ok && slices.Equal(e.Ports, x.Ports) {
		x.Ports = e.Ports
	}
	return x
}

// planClaim plans the VIP of an export. A claim that is refused is told to the member, one that is not takes that back.
func (c *Coordinator) planClaim(s *Step, x federation.Export) {
	changes, err := c.registry.PlanClaim(x, s.vips...)
	if err != nil { // there may be changes all the same: a name that waits for an address
		s.Problems = append(s.Problems, err)
		s.notice(x.Key.Cluster, federation.Notice{Subject: subject(x.Key), Reason: "VIPRefused", Message: err.Error()})
	} else if _, had := c.registry.Get(x.Key); !had {
		s.withdraw(x.Key.Cluster, subject(x.Key))
	}
	s.planVIPs(changes)
	c.planFederated(s, x.Key, &x)
}

func subject(k federation.ExportKey) string { return "export/" + k.Service.String() }

// planFederated plans the VIP of the whole federated service, after an export of it has changed to x or, if that is
// nil, gone.
func (c *Coordinator) planFederated(s *Step, k federation.ExportKey, x *federation.Export) {
	owner := federation.ExportKey{Service: k.Service}
	_, has := c.registry.Get(owner)
	asks := x != nil && x.Federated
	if !has && !asks {
		return
	}
	var exports []federation.Export
	for _, cluster := range c.table.Exporters(k.Service) {
		if other, ok := c.state.Export(federation.ExportKey{Cluster: cluster, Service: k.Service}); ok && cluster != k.Cluster && other.Federated {
			exports = append(exports, other)
		}
	}
	if asks {
		exports = append(exports, *x)
	}
	if len(exports) == 0 {
		c.planRelease(s, owner)
		return
	}
	changes, err := c.registry.PlanClaimFederated(k.Service, exports, s.vips...)
	if err != nil {
		s.Problems = append(s.Problems, err)
	}
	s.planVIPs(changes)
}

func (s *Step) planVIPs(changes []vip.Change) {
	s.vips = append(s.vips, changes...)
	s.Batch.VIPs = s.vips
}

func (c *Coordinator) planMember(s *Step, m ledger.Member) {
	old := c.members[m.Cluster]
	if old != nil && old.Locality == m.Locality && slices.Equal(old.Ingress, m.Ingress) && old.Interest.Equal(m.Interest) && old.Heard == m.Heard {
		return
	}
	m.Complete = c.rebuild == nil
	s.Batch.Members = map[federation.ClusterID]*ledger.Member{m.Cluster: &m}
}

// planMemberGone forgets a member that left: its exports, and with them their VIPs.
func (c *Coordinator) planMemberGone(s *Step, e MemberGone) {
	s.forGood = e.ForGood
	if e.ForGood { // also those of exports that went before
		for v := range c.registry.All() {
			if v.Owner.Cluster == e.Cluster {
				c.planRelease(s, v.Owner)
			}
		}
	}
	if !c.isMember(e.Cluster) {
		return
	}
	for _, k := range c.state.Exports(e.Cluster) {
		if !e.ForGood {
			c.planRelease(s, k)
		}
		c.planFederated(s, k, nil)
	}
	c.planFailover(s, failover.ClusterGone{Cluster: e.Cluster})
	s.Batch.Members = map[federation.ClusterID]*ledger.Member{e.Cluster: nil}
}

// planRelease plans the end of an owner's VIP, after its quarantine or, for good, now.
func (c *Coordinator) planRelease(s *Step, owner federation.ExportKey) {
	if !s.forGood {
		s.planVIPs(c.registry.PlanRelease(owner, s.now))
		return
	}
	changes := c.registry.PlanDismiss(owner, s.now)
	s.planVIPs(changes)
	for _, ch := range changes {
		s.forget = append(s.forget, ch.Entry)
	}
}

func (c *Coordinator) planAssigned(s *Step, e VIPAssigned) {
	changes, err := c.registry.PlanAssign(e.Service, e.Addrs)
	if err != nil {
		s.Problems = append(s.Problems, fmt.Errorf("the tailnet's answer for a VIP is refused: %w", err))
		return
	}
	s.planVIPs(changes)
	if x, ok := c.registry.Named(e.Service); ok {
		for _, id := range c.owners(x.Owner) {
			s.withdraw(id, subject(x.Owner))
			s.withdraw(id, "tailnet/"+x.Tailnet)
		}
	}
}

// tell gives a notice to the member that owns a VIP, or to all that share a federated one.
func (c *Coordinator) tell(s *Step, owner federation.ExportKey, n federation.Notice) {
	for _, id := range c.owners(owner) {
		s.notice(id, n)
	}
}

func (c *Coordinator) owners(k federation.ExportKey) []federation.ClusterID {
	if k.Cluster != "" {
		return []federation.ClusterID{k.Cluster}
	}
	return c.table.Exporters(k.Service)
}

func (s *Step) notice(id federation.ClusterID, n federation.Notice) {
	r := &linkstate.Resource{Notice: &n}
	s.notices = append(s.notices, notice{cluster: id, key: r.Key(), Resource: r})
}

func (s *Step) withdraw(id federation.ClusterID, subject string) {
	r := linkstate.Resource{Notice: &federation.Notice{Subject: subject}}
	s.notices = append(s.notices, notice{cluster: id, key: r.Key()})
}

// planPolicies keeps the policies that are new or changed, and forgets those that are gone.
func (c *Coordinator) planPolicies(s *Step, e PoliciesSet) {
	next := map[string]policy.Policy{"": e.Fallback}
	for _, p := range e.Policies {
		if p.Name != "" {
			next[p.Name] = p
		}
	}
	s.Batch.Policies = map[string]*policy.Policy{}
	for name, p := range next {
		if old, ok := c.policies[name]; !ok || !old.Equal(p) {
			s.Batch.Policies[name] = &p
		}
	}
	for name := range c.policies {
		if _, ok := next[name]; !ok {
			s.Batch.Policies[name] = nil
		}
	}
	c.planFailover(s, failover.PoliciesChanged{Policies: policySet(e.Fallback, next)})
}

// planTick does what time brings: one of the members that did not come back after the start, or else what failover is
// due to decide; and VIPs whose quarantine is over.
func (c *Coordinator) planTick(s *Step) {
	event := failover.Event(failover.Tick{})
	if !s.now.Before(c.graceEnds) {
		for _, id := range c.Members() {
			if _, missing := c.unlinked[id]; missing {
				event = failover.LinkChanged{Cluster: id}
				break
			}
		}
	}
	c.planFailover(s, event)
	s.planVIPs(c.registry.PlanFill(s.vips...)) // the range may be another one since the last start
	if s.now.Before(c.expireAt) {
		return
	}
	for _, ch := range c.registry.PlanExpire(s.now) {
		s.forget = append(s.forget, ch.Entry)
	}
	s.expired = len(s.forget) > 0
}
