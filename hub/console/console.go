// Package console answers operators: it joins what the hub's loop knows with what the adapters around it have heard, and
// gives the loop what operators want. It implements operator.API.
package console

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/tailgate-project/tailgate/api/operator"
	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/federation/coordinator"
	"github.com/tailgate-project/tailgate/federation/failover"
	"github.com/tailgate-project/tailgate/federation/ledger"
	"github.com/tailgate-project/tailgate/federation/vip"
	"github.com/tailgate-project/tailgate/hub"
)

var _ operator.API = (*Console)(nil)

// Hub is what the console asks and tells the loop.
type Hub interface {
	Epoch() uint64
	Look(ctx context.Context, look func(*coordinator.Coordinator)) error
	Stats(ctx context.Context) (hub.Stats, error)
	Operate(ctx context.Context, o failover.Operated) error
	Newest(c federation.ClusterID) (epoch, version uint64)
}

// Journal reads decisions.
type Journal interface {
	Journal(ctx context.Context, after uint64, limit int, service federation.ServiceID) ([]ledger.Record, error)
	Last(ctx context.Context) (uint64, error)
}

// Options are a console's parts. All are required.
type Options struct {
	Hub     Hub
	Journal Journal
	Now     func() time.Time
	// Version is the hub's.
	Version string
	// Invite readies the federation for a cluster whose id is valid.
	Invite func(ctx context.Context, cluster federation.ClusterID) (operator.Invitation, error)
	// Dismiss takes a cluster out of the federation, with its devices. It says what could be done, and whether there was a
	// MemberCluster.
	Dismiss func(ctx context.Context, cluster federation.ClusterID) (d operator.Departure, member bool, err error)
}

// Console is safe for concurrent use. Use [New].
type Console struct {
	Options
	pulse pulse

	mu      sync.Mutex
	members map[federation.ClusterID]*heard
	probes  map[pair]operator.Probe
	actors  map[federation.Target]string
}

// heard is what the adapters said of a member.
type heard struct {
	link, api operator.Signal
	applied   operator.Position
	versions  operator.Versions
}

type pair struct{ observer, target federation.ClusterID }

// New returns a console that has heard nothing yet.
func New(o Options) *Console {
	return &Console{
		Options: o, pulse: newPulse(), members: map[federation.ClusterID]*heard{}, probes: map[pair]operator.Probe{}, actors: map[federation.Target]string{},
	}
}

// Changed says that the loop has changed something.
func (c *Console) Changed() { c.pulse.beat() }

// note changes what was heard of a member, and says so to whoever waits if that made a difference.
func (c *Console) note(id federation.ClusterID, change func(*heard)) {
	c.mu.Lock()
	m := c.members[id]
	if m == nil {
		m = &heard{}
		c.members[id] = m
	}
	before := *m
	change(m)
	differs := *m != before
	c.mu.Unlock()
	if differs {
		c.pulse.beat()
	}
}

// LinkChanged says whether the link to a member is up.
func (c *Console) LinkChanged(id federation.ClusterID, up bool, reason string) {
	c.note(id, func(m *heard) { c.signal(&m.link, up, reason) })
}

// APIChanged says whether a member's API server answers.
func (c *Console) APIChanged(id federation.ClusterID, up bool, reason string) {
	c.note(id, func(m *heard) { c.signal(&m.api, up, reason) })
}

func (c *Console) signal(s *operator.Signal, up bool, reason string) {
	if s.Up != up || s.Since.IsZero() {
		s.Since = c.Now()
	}
	s.Up, s.Reason = up, reason
}

// Joined says which versions a member's spoke has told.
func (c *Console) Joined(id federation.ClusterID, v operator.Versions) {
	c.note(id, func(m *heard) { m.versions = v })
}

// Applied says which state of the hub a member has.
func (c *Console) Applied(id federation.ClusterID, epoch, version uint64) {
	c.note(id, func(m *heard) { m.applied = operator.Position{Epoch: epoch, Version: version} })
}

// Probed gives the result of a probe of a cluster's ingress.
func (c *Console) Probed(p operator.Probe) {
	c.mu.Lock()
	k := pair{p.Observer, p.Target}
	before, known := c.probes[k]
	c.probes[k] = p
	c.mu.Unlock()
	if !known || before.Reachable != p.Reachable || before.Error != p.Error {
		c.pulse.beat()
	}
}

// Forget drops a member that left.
func (c *Console) Forget(id federation.ClusterID) {
	c.mu.Lock()
	delete(c.members, id)
	maps.DeleteFunc(c.probes, func(k pair, _ operator.Probe) bool { return k.observer == id || k.target == id })
	maps.DeleteFunc(c.actors, func(t federation.Target, _ string) bool { return t.Cluster == id })
	c.mu.Unlock()
	c.pulse.beat()
}

// Wait returns the number of the newest change once it is more than after.
func (c *Console) Wait(ctx context.Context, after uint64) (uint64, error) {
	return c.pulse.wait(ctx, after)
}

// Status is the hub and its members.
func (c *Console) Status(ctx context.Context) (operator.Status, error) {
	stats, err := c.Hub.Stats(ctx)
	if err != nil {
		return operator.Status{}, fmt.Errorf("ask the hub's loop: %w", err)
	}
	s := operator.Status{
		Now: c.Now(), Version: c.Version, Epoch: stats.Epoch, Rebuilding: stats.Rebuilding, Tasks: stats.Tasks, VIPs: map[string]int{},
		Clusters: []operator.Cluster{}, Probes: []operator.Probe{},
	}
	for _, state := range hub.VIPStates {
		s.VIPs[string(state)] = stats.VIPs[state]
	}
	err = c.Hub.Look(ctx, func(co *coordinator.Coordinator) {
		for _, id := range co.Members() {
			s.Clusters = append(s.Clusters, cluster(co, id))
		}
	})
	if err != nil {
		return operator.Status{}, fmt.Errorf("ask the hub's loop: %w", err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := range s.Clusters {
		cl := &s.Clusters[i]
		cl.Newest.Epoch, cl.Newest.Version = c.Hub.Newest(cl.ID)
		if m := c.members[cl.ID]; m != nil {
			cl.Link, cl.API, cl.Applied, cl.Versions = m.link, m.api, m.applied, m.versions
		}
	}
	s.Probes = slices.AppendSeq(s.Probes, maps.Values(c.probes))
	slices.SortFunc(s.Probes, func(a, b operator.Probe) int {
		return cmp.Or(cmp.Compare(a.Observer, b.Observer), cmp.Compare(a.Target, b.Target))
	})
	return s, nil
}

// cluster is what the loop knows of a member.
func cluster(co *coordinator.Coordinator, id federation.ClusterID) operator.Cluster {
	m, _ := co.Member(id)
	out := operator.Cluster{ID: id, Region: m.Locality.Region, Zone: m.Locality.Zone, Exports: co.State().CountExports(id)}
	for _, h := range m.Ingress {
		out.Ingress = append(out.Ingress, h.Addr)
	}
	v, ok := co.State().ClusterVerdict(id, "")
	if !ok { // nothing was said of it yet
		v = failover.Verdict{Reason: failover.Serving, Share: 100}
	}
	out.Verdict = verdict(v)
	out.Mode, out.ModeSince = co.State().Mode(federation.Target{Cluster: id})
	return out
}

func verdict(v failover.Verdict) operator.Verdict {
	return operator.Verdict{Health: v.Health, Reason: v.Reason, Stale: v.Stale, Share: v.Share, Since: v.Since}
}

// VIPs are those of the registry.
func (c *Console) VIPs(ctx context.Context) ([]operator.VIP, error) {
	out := []operator.VIP{}
	err := c.Hub.Look(ctx, func(co *coordinator.Coordinator) {
		for e := range co.Registry().All() {
			out = append(out, entry(co, e))
		}
	})
	if err != nil {
		return nil, fmt.Errorf("ask the hub's loop: %w", err)
	}
	return out, nil
}

func entry(co *coordinator.Coordinator, e *vip.Entry) operator.VIP {
	v := operator.VIP{
		ServiceName: e.ServiceName, Name: e.Name, Service: operator.ServiceID{ServiceID: e.Owner.Service}, Cluster: e.Owner.Cluster,
		Federated: e.Federated(), Tailnet: e.Tailnet, TailnetRef: e.TailnetRef, Addresses: slices.Clone(e.Addrs), Ports: operator.Ports(e.Ports),
		State: string(hub.StateOf(e)), ReleasedAt: e.ReleasedAt,
	}
	if v.Addresses == nil {
		v.Addresses = []netip.Addr{}
	}
	if v.Federated {
		v.Advertisers = co.Advertisers(e.Owner.Service)
	}
	return v
}
