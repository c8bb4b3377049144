package hub

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/federation/failover"
	"github.com/tailgate-project/tailgate/federation/linkstate"
	"github.com/tailgate-project/tailgate/federation/vip"
	"github.com/tailgate-project/tailgate/hub/store"
)

// step is what one event changes: the batch to store, and how to make it so afterwards.
type step struct {
	batch store.Batch
	apply []func()
	// services and members whose sets, and members whose peers, have to be published anew.
	services map[federation.ServiceID]struct{}
	members  map[federation.ClusterID]struct{}
	notices  map[federation.ClusterID]map[string]*linkstate.Resource
}

func newStep() *step {
	return &step{
		batch:    store.Batch{Exports: map[federation.ExportKey]*failover.Saved{}, Members: map[federation.ClusterID]*store.Member{}},
		services: map[federation.ServiceID]struct{}{},
		members:  map[federation.ClusterID]struct{}{},
		notices:  map[federation.ClusterID]map[string]*linkstate.Resource{},
	}
}

// handle plans, commits, applies and publishes one event. Its error is the store's: the hub cannot go on.
func (h *Hub) handle(ctx context.Context, e event) error {
	s, now := newStep(), h.Now()
	switch e := e.(type) {
	case decided:
		h.planDecided(s, e.Event, now)
	case memberSeen:
		m, known := h.members[e.cluster]
		if known && m.Locality == e.locality {
			return nil
		}
		m.Cluster, m.Locality = e.cluster, e.locality
		h.planMember(s, m)
	case memberHosts:
		m := h.members[e.cluster]
		if slices.Equal(m.Ingress, e.hosts) {
			return nil
		}
		m.Cluster, m.Ingress = e.cluster, e.hosts
		h.planMember(s, m)
	case memberInterest:
		m := h.members[e.cluster]
		if m.Interest.All == e.interest.All && slices.Equal(m.Interest.Services, e.interest.Services) {
			return nil
		}
		m.Cluster, m.Interest = e.cluster, e.interest
		h.planMember(s, m)
	case memberGone:
		h.planMemberGone(s, e.cluster, now)
	case vipAssigned:
		h.planAssigned(s, e)
	case vipRefused:
		h.planRefused(s, e)
	case asked:
		e.ask(h)
		return nil
	case vipDeleted:
		h.planDeleted(s, e, now)
	case vipFound:
		changes, err := h.registry.PlanAdopt(e.vip, now)
		if err != nil {
			h.Log.Warn("a VIP of the tailnet contradicts the registry and is left alone", "vip", e.vip.ServiceName, "err", err)
			return nil
		}
		h.planVIPs(s, changes)
	}
	return h.finish(ctx, s)
}

// finish commits the step's batch, applies it and publishes.
func (h *Hub) finish(ctx context.Context, s *step) error {
	if !s.batch.Empty() {
		if err := h.Store.Commit(ctx, s.batch); err != nil {
			return fmt.Errorf("store decisions: %w", err)
		}
	}
	for _, f := range s.apply {
		f()
	}
	for _, d := range s.batch.Journal {
		h.Log.Info("decision", "export", d.Export.String(), "consumer", string(d.Consumer), "from", d.From.String(), "to", d.To.String(), "reason", string(d.Reason))
	}
	h.publish(s)
	return nil
}

// planDecided plans an event of failover, and the VIP of an export that came or went.
func (h *Hub) planDecided(s *step, e failover.Event, now time.Time) {
	t := h.state.Plan(e, now)
	s.batch.Journal = t.Decisions
	s.batch.Exports = t.Save()
	s.apply = append(s.apply, func() { h.state.Apply(t, now) })
	for _, k := range t.Touched {
		s.services[k.Service] = struct{}{}
	}
	switch e := e.(type) {
	case failover.ExportChanged:
		h.planClaim(s, e.Export)
	case failover.ExportRemoved:
		h.planVIPs(s, h.registry.PlanRelease(e.Key, now))
	case failover.LinkChanged:
		s.apply = append(s.apply, func() { h.linked[e.Cluster] = true })
	}
}

func (h *Hub) planClaim(s *step, x federation.Export) {
	changes, err := h.registry.PlanClaim(x)
	if err != nil {
		s.notice(x.Key.Cluster, federation.Notice{
			Subject: "export/" + x.Key.Service.String(), Reason: "VIPRefused", Message: err.Error() + ": rename one of the two Services",
		})
		return
	}
	h.planVIPs(s, changes)
}

// planVIPs plans changes of the registry; the provider is asked once they are stored.
func (h *Hub) planVIPs(s *step, changes []vip.Change) {
	s.batch.VIPs = append(s.batch.VIPs, changes...)
	s.apply = append(s.apply, func() {
		h.registry.Apply(changes)
		for _, c := range changes {
			if !c.Delete {
				h.prov.want(c.Entry)
			}
		}
	})
	for _, c := range changes {
		s.services[c.Entry.Owner.Service] = struct{}{}
	}
}

func (h *Hub) planMember(s *step, m store.Member) {
	s.batch.Members[m.Cluster] = &m
	s.apply = append(s.apply, func() { h.members[m.Cluster] = m })
	s.members[m.Cluster] = struct{}{}
}

// planMemberGone forgets a member that left: its exports, and with them their VIPs.
func (h *Hub) planMemberGone(s *step, c federation.ClusterID, now time.Time) {
	for _, k := range h.state.Exports(c) {
		h.planVIPs(s, h.registry.PlanRelease(k, now))
	}
	h.planDecided(s, failover.ClusterGone{Cluster: c}, now)
	s.batch.Members[c] = nil
	s.apply = append(s.apply, func() { delete(h.members, c); delete(h.linked, c) })
	s.members[c] = struct{}{}
}

func (h *Hub) planAssigned(s *step, e vipAssigned) {
	changes, err := h.registry.PlanAssign(e.service, e.addrs)
	if err != nil {
		h.Log.Error("the tailnet's answer for a VIP is refused", "vip", e.service, "err", err)
		return
	}
	h.planVIPs(s, changes)
	if x, ok := h.registry.Named(e.service); ok {
		s.withdraw(x.Owner.Cluster, "export/"+x.Owner.Service.String())
		s.withdraw(x.Owner.Cluster, "tailnet/"+x.Tailnet)
	}
}

func (h *Hub) planRefused(s *step, e vipRefused) {
	if x, ok := h.registry.Named(e.service); ok {
		s.notice(x.Owner.Cluster, e.notice)
	}
}

func (h *Hub) planDeleted(s *step, e vipDeleted, now time.Time) {
	for _, c := range h.registry.PlanExpire(now) {
		if c.Entry.ServiceName == e.service {
			h.planVIPs(s, []vip.Change{c})
		}
	}
}

func (s *step) notice(c federation.ClusterID, n federation.Notice) {
	r := linkstate.Resource{Notice: &n}
	s.editNotice(c, r.Key(), &r)
}

func (s *step) withdraw(c federation.ClusterID, subject string) {
	s.editNotice(c, linkstate.Resource{Notice: &federation.Notice{Subject: subject}}.Key(), nil)
}

func (s *step) editNotice(c federation.ClusterID, key string, r *linkstate.Resource) {
	if s.notices[c] == nil {
		s.notices[c] = map[string]*linkstate.Resource{}
	}
	s.notices[c][key] = r
}
