// Package hub is the hub's loop: one goroutine that owns the registry of VIPs and the failover decisions.
//
// The loop takes an event, plans what it changes, commits that to the store in one transaction, applies it, and
// publishes what each member should now know. Nobody hears of what is not stored. Reading the members' clusters,
// the links to the spokes and the Tailscale API are adapters in the packages beside this one; they tell the hub
// through its methods and read its views.
package hub

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/federation/failover"
	"github.com/tailgate-project/tailgate/federation/vip"
	"github.com/tailgate-project/tailgate/hub/store"
)

// Store keeps the hub's state. Its errors are those of package store.
type Store interface {
	// Epoch is the fencing epoch under which this hub commits.
	Epoch() uint64
	Load(ctx context.Context) (store.State, error)
	// Commit stores all of the batch or nothing.
	Commit(ctx context.Context, b store.Batch) error
	// Journal returns up to limit records after a sequence number, oldest first, of one service or, if it is
	// zero, of all.
	Journal(ctx context.Context, after uint64, limit int, service federation.ServiceID) ([]store.Record, error)
}

// Provider makes VIPs real in a tailnet. The loop never waits for it.
type Provider interface {
	// EnsureVIP makes the VIP and returns its addresses. Called again, it changes ports where they differ.
	EnsureVIP(ctx context.Context, v federation.VIP) ([]netip.Addr, error)
	// DeleteVIP deletes the VIP; one that is gone is no error.
	DeleteVIP(ctx context.Context, v federation.VIP) error
	// ListVIPs returns the VIPs of this federation that the tailnets have; with an error, those that are known.
	ListVIPs(ctx context.Context) ([]federation.VIP, error)
	// Refusal says what a member is told of an error of EnsureVIP, if it is one that its operator can cure.
	Refusal(v federation.VIP, err error) (federation.Notice, bool)
}

// Config is what a hub needs. All fields but the times are required.
type Config struct {
	Store    Store
	Provider Provider
	Log      *slog.Logger
	// Now is the clock, time.Now by default.
	Now func() time.Time
	// Policy is failover's, [failover.DefaultPolicy] by default.
	Policy failover.Policy
	// Quarantine is how long the VIP of an export that went away is kept for it, 1 h by default.
	Quarantine time.Duration
	// StartupGrace is how long after its start the hub waits for the links of members that it knows, 30 s by
	// default. Without it a hub that restarts would take everybody for lost.
	StartupGrace time.Duration
}

// Hub is the loop with its state.
type Hub struct {
	Config
	epoch uint64
	inbox chan event
	board *board
	prov  *provisioner
	// stored are the members that the store knew.
	stored []federation.ClusterID

	// The loop's own; nobody else touches them.
	registry *vip.Registry
	state    *failover.State
	members  map[federation.ClusterID]store.Member
	linked   map[federation.ClusterID]bool
}

// New returns a hub with the state that its store holds.
func New(ctx context.Context, c Config) (*Hub, error) {
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Policy == (failover.Policy{}) {
		c.Policy = failover.DefaultPolicy()
	}
	if c.Quarantine == 0 {
		c.Quarantine = time.Hour
	}
	if c.StartupGrace == 0 {
		c.StartupGrace = 30 * time.Second
	}
	h := &Hub{
		Config:   c,
		epoch:    c.Store.Epoch(),
		inbox:    make(chan event),
		board:    newBoard(),
		registry: vip.New(c.Quarantine),
		state:    failover.New(c.Policy),
		members:  map[federation.ClusterID]store.Member{},
		linked:   map[federation.ClusterID]bool{},
	}
	h.prov = newProvisioner(c.Provider, c.Log, h.send)
	return h, h.load(ctx)
}

// load takes over what the store holds, and publishes it: a member that comes back hears what it heard before.
func (h *Hub) load(ctx context.Context) error {
	s, err := h.Store.Load(ctx)
	if err != nil {
		return fmt.Errorf("load the store: %w", err)
	}
	for _, e := range s.VIPs {
		h.registry.Apply([]vip.Change{{Entry: e}})
	}
	if errs := h.registry.Check(); len(errs) > 0 {
		return fmt.Errorf("the stored registry of VIPs is broken, restore a backup: %w", errors.Join(errs...))
	}
	now := h.Now()
	for _, x := range s.Exports {
		h.state.Restore(x, now)
	}
	for _, m := range s.Members {
		h.members[m.Cluster] = m
		h.stored = append(h.stored, m.Cluster)
	}
	for _, e := range h.registry.Entries() {
		h.prov.want(e)
	}
	h.publishAll()
	return nil
}

// Epoch returns the fencing epoch of this hub.
func (h *Hub) Epoch() uint64 { return h.epoch }

// Run runs the loop and the provisioning of VIPs until ctx ends or the store fails.
func (h *Hub) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return h.prov.adopt(ctx) })
	g.Go(func() error { return h.prov.run(ctx) })
	g.Go(func() error { return h.loop(ctx) })
	return g.Wait()
}

func (h *Hub) loop(ctx context.Context) error {
	grace := time.NewTimer(h.StartupGrace)
	defer grace.Stop()
	tick := time.NewTimer(0)
	defer tick.Stop()
	for {
		var err error
		select {
		case <-ctx.Done():
			return nil
		case e := <-h.inbox:
			err = h.handle(ctx, e)
		case <-tick.C:
			err = h.tick(ctx)
		case <-grace.C:
			err = h.missing(ctx)
		}
		if err != nil {
			return err
		}
		tick.Reset(h.untilDeadline())
	}
}

// untilDeadline returns how long until time alone changes something, an hour at most.
func (h *Hub) untilDeadline() time.Duration {
	now, wait := h.Now(), time.Hour
	if at, ok := h.state.Deadline(); ok {
		wait = min(wait, at.Sub(now))
	}
	if at, ok := h.registry.Deadline(); ok {
		wait = min(wait, at.Sub(now))
	}
	return max(wait, time.Millisecond)
}

func (h *Hub) tick(ctx context.Context) error {
	now := h.Now()
	for _, c := range h.registry.PlanExpire(now) {
		h.prov.release(c.Entry)
	}
	return h.handle(ctx, decided{failover.Tick{}})
}

// missing counts the links that did not come back after a start as lost.
func (h *Hub) missing(ctx context.Context) error {
	for id := range h.members {
		if !h.linked[id] {
			if err := h.handle(ctx, decided{failover.LinkChanged{Cluster: id}}); err != nil {
				return err
			}
		}
	}
	return nil
}

// send gives an event to the loop.
func (h *Hub) send(ctx context.Context, e event) error {
	select {
	case h.inbox <- e:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
