package dashboard_test

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
	"github.com/tailgate-project/tailgate/federation/failover"
)

// hub is a federation that answers as a hub does. Its time stands still until it is moved.
type hub struct {
	mu       sync.Mutex
	now      time.Time
	change   uint64
	moved    chan struct{} // closed at the next change
	status   operator.Status
	vips     []operator.VIP
	services []operator.Service
	records  []operator.Record
	wishes   []operator.Operation
	orphans  []operator.ServiceID
	// failing is the error of everything that is asked, refusing that of wishes.
	failing, refusing error
	asked             map[string]int
	waiting           int
	journals          []operator.JournalQuery
	who               []string
}

var start = time.Date(2026, 11, 3, 14, 7, 30, 0, time.UTC)

// viewerKey is the key of a context's viewer.
type viewerKey struct{}

func (h *hub) enter(call string) (func(), error) {
	h.mu.Lock()
	if h.asked == nil {
		h.asked = map[string]int{}
	}
	h.asked[call]++
	return h.mu.Unlock, h.failing
}

// edit changes the federation and announces it.
func (h *hub) edit(f func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	f()
	h.announceLocked()
}

func (h *hub) announceLocked() {
	h.change++
	close(h.moved)
	h.moved = make(chan struct{})
}

func (h *hub) counted(call string) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.asked[call]
}

func (h *hub) Status(context.Context) (operator.Status, error) {
	leave, err := h.enter("Status")
	defer leave()
	s := h.status
	s.Now, s.Clusters, s.Probes, s.VIPs = h.now, slices.Clone(s.Clusters), slices.Clone(s.Probes), maps.Clone(s.VIPs)
	return s, err
}

func (h *hub) VIPs(context.Context) ([]operator.VIP, error) {
	leave, err := h.enter("VIPs")
	defer leave()
	return slices.Clone(h.vips), err
}

func (h *hub) Services(context.Context) ([]operator.Service, error) {
	leave, err := h.enter("Services")
	defer leave()
	return slices.Clone(h.services), err
}

func (h *hub) Service(_ context.Context, id federation.ServiceID) (operator.Service, error) {
	leave, err := h.enter("Service")
	defer leave()
	if err != nil {
		return operator.Service{}, err
	}
	for _, s := range h.services {
		if s.ID.ServiceID == id {
			s.Exports = slices.Clone(s.Exports)
			return s, nil
		}
	}
	return operator.Service{}, fmt.Errorf("%w: no service %s", operator.ErrNotFound, id)
}

// Endpoints ranks the exports by region, as the built-in policy does.
func (h *hub) Endpoints(ctx context.Context, id federation.ServiceID, consumer federation.ClusterID) (operator.EndpointSet, error) {
	svc, err := h.Service(ctx, id)
	if err != nil {
		return operator.EndpointSet{}, err
	}
	leave, err := h.enter("Endpoints")
	defer leave()
	return h.setLocked(svc, consumer, ""), err
}

// setLocked is what a consumer is told of a service if a cluster took no traffic.
func (h *hub) setLocked(svc operator.Service, consumer, without federation.ClusterID) operator.EndpointSet {
	set := operator.EndpointSet{Consumer: consumer, Service: svc.ID, Policy: svc.Policy[consumer]}
	if consumer == "ap-northeast-1" && svc.ID.Name == "cart" {
		set.Unreferenced = true
		return set
	}
	where := map[federation.ClusterID]string{}
	for _, c := range h.status.Clusters {
		where[c.ID] = c.Region
	}
	rank := func(x operator.Export) uint32 {
		switch {
		case x.Cluster == consumer:
			return 0
		case where[x.Cluster] == where[consumer]:
			return 1
		}
		return 2
	}
	exports := slices.Clone(svc.Exports)
	slices.SortStableFunc(exports, func(a, b operator.Export) int { return cmp.Compare(rank(a), rank(b)) })
	priority, last := uint32(0), uint32(0)
	for i, x := range exports {
		if i > 0 && rank(x) != last {
			priority++
		}
		last = rank(x)
		e := operator.Endpoint{Cluster: x.Cluster, Ports: x.Ports, Priority: priority, Weight: max(1, x.Weight) * uint32(max(1, x.Verdict.Share)),
			Health: x.Verdict.Health, Reason: string(x.Verdict.Reason), Stale: x.Verdict.Stale}
		if x.Cluster == without {
			e.Health, e.Reason = federation.Unhealthy, string(failover.Drained)
		}
		if len(x.Addresses) > 0 {
			e.Address = x.Addresses[0]
		}
		set.Endpoints = append(set.Endpoints, e)
	}
	return set
}

func (h *hub) Journal(_ context.Context, q operator.JournalQuery) ([]operator.Record, error) {
	leave, err := h.enter("Journal")
	defer leave()
	h.journals = append(h.journals, q)
	var out []operator.Record
	for _, r := range h.records {
		if r.Seq <= q.After || q.Before != 0 && r.Seq >= q.Before || q.Cluster != "" && r.Cluster != q.Cluster {
			continue
		}
		if (q.Service != federation.ServiceID{}) && r.Service.ServiceID != q.Service && !r.Service.IsZero() {
			continue
		}
		out = append(out, r)
	}
	limit := cmp.Or(q.Limit, operator.MaxRecords)
	switch {
	case len(out) <= limit:
	case q.Newest:
		out = out[len(out)-limit:]
	default:
		out = out[:limit]
	}
	return out, err
}

func (h *hub) Operations(context.Context) ([]operator.Operation, error) {
	leave, err := h.enter("Operations")
	defer leave()
	return slices.Clone(h.wishes), err
}

func (h *hub) Forecast(_ context.Context, w operator.Wish, horizon time.Duration) (operator.Forecast, error) {
	leave, err := h.enter("Forecast")
	defer leave()
	if horizon <= 0 || horizon > 24*time.Hour {
		return operator.Forecast{}, fmt.Errorf("%w: horizon %s: want more than 0 and at most 24h", operator.ErrInvalid, horizon)
	}
	f := operator.Forecast{Orphans: h.orphans}
	reason, to := failover.Drained, federation.Unhealthy
	if w.Mode == failover.Normal {
		reason, to = failover.Released, federation.Healthy
	}
	f.Decisions = []operator.Record{{At: h.now, Cluster: w.Cluster, Service: w.Service, From: federation.Healthy, To: to, Reason: reason,
		Because: "an operator wants it", Inputs: failover.Inputs{Ready: -1, LinkLost: -1, APILost: -1, Mode: w.Mode, Ramp: w.Ramp}}}
	for _, svc := range h.services {
		if !w.Service.IsZero() && svc.ID != w.Service || !slices.ContainsFunc(svc.Exports, func(x operator.Export) bool { return x.Cluster == w.Cluster }) {
			continue
		}
		for _, c := range h.status.Clusters[:3] {
			f.Before = append(f.Before, h.setLocked(svc, c.ID, ""))
			f.After = append(f.After, h.setLocked(svc, c.ID, w.Cluster))
		}
	}
	return f, err
}

func (h *hub) Operate(ctx context.Context, w operator.Wish) (operator.Operation, error) {
	leave, err := h.enter("Operate")
	defer leave()
	if err := cmp.Or(err, h.refusing); err != nil {
		return operator.Operation{}, err
	}
	by, _ := ctx.Value(viewerKey{}).(string)
	h.who = append(h.who, by)
	h.wishes = slices.DeleteFunc(h.wishes, func(o operator.Operation) bool { return o.Cluster == w.Cluster && o.Service == w.Service })
	o := operator.Operation{Wish: w, Since: h.now, Share: 100, Done: w.Mode != failover.Drain, By: by}
	if w.Mode != failover.Normal {
		h.wishes = append(h.wishes, o)
	}
	h.announceLocked()
	return o, nil
}

// progress lets a drain of a cluster go on.
func (h *hub) progress(c federation.ClusterID, share uint8) {
	h.edit(func() {
		for i := range h.wishes {
			if h.wishes[i].Cluster == c && h.wishes[i].Service.IsZero() {
				h.wishes[i].Share, h.wishes[i].Done = share, share == 0
			}
		}
	})
}

func (h *hub) Invite(context.Context, federation.ClusterID) (operator.Invitation, error) {
	leave, err := h.enter("Invite")
	defer leave()
	return operator.Invitation{}, err
}

func (h *hub) Leave(context.Context, federation.ClusterID) (operator.Departure, error) {
	leave, err := h.enter("Leave")
	defer leave()
	return operator.Departure{}, err
}

func (h *hub) Wait(ctx context.Context, after uint64) (uint64, error) {
	leave, err := h.enter("Wait")
	if err != nil {
		leave()
		return 0, err
	}
	h.waiting++
	for h.change <= after {
		moved := h.moved
		h.mu.Unlock()
		select {
		case <-ctx.Done():
			err = ctx.Err()
		case <-moved:
		}
		h.mu.Lock()
		if err == nil {
			err = h.failing
		}
		if err != nil {
			break
		}
	}
	h.waiting--
	n := h.change
	h.mu.Unlock()
	return n, err
}

var _ operator.API = (*hub)(nil)

func serviceID(id federation.ServiceID) operator.ServiceID { return operator.ServiceID{ServiceID: id} }

func address(n int) netip.Addr {
	return netip.AddrFrom4([4]byte{100, 64 + byte(n>>16), byte(n >> 8), byte(n)})
}
