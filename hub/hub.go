// Package hub is the hub's loop: one goroutine that owns the coordinator, the pure part that decides.
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
	"github.com/tailgate-project/tailgate/federation/coordinator"
	"github.com/tailgate-project/tailgate/federation/ledger"
	"github.com/tailgate-project/tailgate/federation/linkstate"
)

// Store keeps the hub's state. Its errors are those of package store.
type Store interface {
	// Epoch is the fencing epoch under which this hub commits.
	Epoch() uint64
	Load(ctx context.Context) (ledger.State, error)
	// Commit stores all of the batch or nothing.
	Commit(ctx context.Context, b ledger.Batch) error
	// Superseded waits until a newer epoch was taken, and fails then; it returns nil when ctx ends.
	Superseded(ctx context.Context) error
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

// Config is what a hub needs. Store, Provider and Log are required.
type Config struct {
	Store    Store
	Provider Provider
	Log      *slog.Logger
	// Now is the clock, time.Now by default.
	Now func() time.Time
	// Changed is called by the loop after each step that changed something of what is stored or told, if it is not nil. It
	// must not wait.
	Changed func()
	// Decisions is what the coordinator goes by; its epoch is the store's. The quarantine is 1 h by default.
	Decisions coordinator.Config
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

	// The loop's own; nobody else touches it.
	core *coordinator.Coordinator
}

// event is what the loop takes in: an event of the coordinator, or a question about it.
type event struct {
	coordinator.Event
	ask func(*coordinator.Coordinator)
}

// New returns a hub with the state that its store holds. A member that comes back hears what it heard before.
func New(ctx context.Context, c Config) (*Hub, error) {
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Decisions.VIPs.Quarantine == 0 {
		c.Decisions.VIPs.Quarantine = time.Hour
	}
	h := &Hub{Config: c, epoch: c.Store.Epoch(), inbox: make(chan event), board: newBoard()}
	h.prov = newProvisioner(h)
	kept, err := c.Store.Load(ctx)
	if err != nil {
		return nil, fmt.Errorf("load the store: %w", err)
	}
	c.Decisions.VIPs.Epoch = h.epoch
	if h.core, err = coordinator.New(c.Decisions, kept, c.Now()); err != nil {
		return nil, err
	}
	h.stored = h.core.Members()
	h.publish(h.core.Everything())
	return h, nil
}

// Epoch returns the fencing epoch of this hub.
func (h *Hub) Epoch() uint64 { return h.epoch }

// Members returns the members that the store knew when the hub started, sorted.
func (h *Hub) Members() []federation.ClusterID { return h.stored }

// Run runs the loop and the provisioning of VIPs until ctx ends, the store fails or another hub takes over.
func (h *Hub) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return h.prov.adopt(ctx) })
	g.Go(func() error { return h.prov.run(ctx) })
	g.Go(func() error { return h.loop(ctx) })
	g.Go(func() error { return h.Store.Superseded(ctx) })
	return g.Wait()
}

func (h *Hub) loop(ctx context.Context) error {
	tick := time.NewTimer(0)
	defer tick.Stop()
	for {
		e := event{Event: coordinator.Tick{}}
		select {
		case <-ctx.Done():
			return nil
		case e = <-h.inbox:
		case <-tick.C:
		}
		if err := h.handle(ctx, e); err != nil {
			return err
		}
		tick.Reset(h.untilDeadline())
	}
}

// untilDeadline returns how long until time alone changes something, an hour at most.
func (h *Hub) untilDeadline() time.Duration {
	wait := time.Hour
	if at, ok := h.core.Deadline(); ok {
		wait = min(wait, at.Sub(h.Now()))
	}
	return max(wait, time.Millisecond)
}

// handle plans, commits, applies and publishes one event. Its error is the store's: the hub cannot go on.
func (h *Hub) handle(ctx context.Context, e event) error {
	if e.ask != nil {
		e.ask(h.core)
		return nil
	}
	s := h.core.Plan(e.Event, h.Now())
	if !s.Batch.Empty() {
		if err := h.Store.Commit(ctx, s.Batch); err != nil {
			if errors.Is(err, context.Canceled) && ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("store decisions: %w", err)
		}
	}
	h.log(s)
	effects := h.core.Apply(s)
	h.publish(effects)
	if h.Changed != nil && (!s.Batch.Empty() || len(effects.Views) > 0) {
		h.Changed()
	}
	return nil
}

func (h *Hub) log(s coordinator.Step) {
	for _, err := range s.Problems {
		h.Log.Warn("refused", "err", err)
	}
	for _, d := range s.Batch.Journal {
		h.Log.Info("decision", "subject", d.Subject.String(), "consumer", string(d.Consumer), "from", d.From.String(), "to", d.To.String(), "reason", string(d.Reason))
	}
}

// publish tells the members and the tailnet what follows from a step.
func (h *Hub) publish(e coordinator.Effects) {
	for c, changes := range e.Views {
		h.board.change(c, func(v *linkstate.View) bool { return v.Edit(changes) })
	}
	for _, c := range e.Speak {
		h.board.change(c, (*linkstate.View).Open)
	}
	for _, c := range e.Gone {
		h.board.change(c, (*linkstate.View).Clear)
	}
	h.prov.add(e)
}

// send gives an event to the loop.
func (h *Hub) send(ctx context.Context, e coordinator.Event) error {
	return h.put(ctx, event{Event: e})
}

func (h *Hub) put(ctx context.Context, e event) error {
	select {
	case h.inbox <- e:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
