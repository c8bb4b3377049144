// Package spoke is the spoke's loop: one goroutine that owns what a member cluster knows of itself and of the
// federation, and turns it into what the proxies, Envoy and the hub are told.
//
// In come the hub's decisions, the objects of the local cluster, the proxies' state and the results of their probes.
// Out go the proxies' configuration, the structure and the endpoints for the extension server, and reports to the
// hub. What the spoke's own probes find counts at once and without asking anybody. The adapters are in the packages
// beside this one; they tell the spoke through its methods and read what it publishes.
package spoke

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/federation/linkstate"
	"github.com/tailgate-project/tailgate/federation/probes"
)

// Extension takes what Envoy is to do. Its methods are called by the loop and must not wait for anybody.
type Extension interface {
	// SetStructure replaces what shapes routes and clusters.
	SetStructure(s Structure)
	// SetEndpoints replaces the endpoints of the assignments that it names; those with nil are taken away.
	SetEndpoints(changes map[Assignment][]Endpoint)
}

// Config is what a spoke needs. All fields are required but where said.
type Config struct {
	Cluster federation.ClusterID
	// StateDir is where the spoke keeps its last snapshot and the egress ports.
	StateDir string
	// EgressAddr is where Envoy reaches the egress proxy, EgressPorts the ports that may be given there.
	EgressAddr  netip.Addr
	EgressPorts PortRange
	// EgressPods says that the egress proxies are pods. Envoy then reaches them at the addresses of the endpoints of their
	// headless Services, and EgressAddr is what a replica listens at that does not know its own.
	EgressPods bool
	Extension  Extension
	// Hosts reports whether the tailnet routes any of the addresses to the node. It is asked while a proxy drains.
	// Without it a draining proxy ends by its own timeout.
	Hosts func(ctx context.Context, nodeID string, addrs []netip.Addr) (bool, error)
	Log   *slog.Logger
	// Now is the clock, time.Now by default.
	Now func() time.Time
}

func (c *Config) complete() error {
	switch {
	case c.StateDir == "":
		return errors.New("no state directory")
	case !c.EgressAddr.IsValid():
		return errors.New("no egress address")
	case c.Extension == nil:
		return errors.New("no extension")
	}
	if err := c.Cluster.Validate(); err != nil {
		return err
	}
	if err := c.EgressPorts.validate(); err != nil {
		return err
	}
	if c.Log == nil {
		c.Log = slog.Default()
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	return nil
}

// Spoke is the loop with its state.
type Spoke struct {
	cfg   Config
	inbox chan func(now time.Time)

	// Published: anybody may read them.
	ingress, egress *board[ProxyConfig]
	reports         *board[Report]
	changes         *board[uint64]
	kept            *board[linkstate.State]

	// The loop's own; nobody else touches them.
	link      linkstate.State
	linkInfo  LinkStatus
	local     local
	ports     portTable
	probes    *probes.Observations
	proxies   proxies
	backends  backends
	out       outputs
	policies  map[Name]*policy
	decisions ring[Decision]
	hooks     ring[HookCall]
	pushes    ring[Push]
	problems  map[string]string
	dirty     dirty
}

// New returns a spoke that knows what it knew when it ended: the last snapshot of the hub and the egress ports. A
// file that cannot be read is named in the status and does not keep the spoke from starting: both are caches.
func New(c Config) (*Spoke, error) {
	if err := c.complete(); err != nil {
		return nil, fmt.Errorf("spoke: %w", err)
	}
	s := &Spoke{
		cfg:      c,
		inbox:    make(chan func(time.Time)),
		ingress:  newBoard(ProxyConfig{Cluster: c.Cluster}),
		egress:   newBoard(ProxyConfig{Cluster: c.Cluster}),
		reports:  newBoard(Report{}),
		changes:  newBoard(uint64(0)),
		local:    newLocal(),
		probes:   probes.New(),
		proxies:  newProxies(),
		backends: newBackends(),
		out:      newOutputs(),
		policies: map[Name]*policy{},
		problems: map[string]string{},
	}
	s.load()
	s.kept = newBoard(s.link)
	s.linkInfo = LinkStatus{Since: c.Now(), Reason: ReasonStarting, Message: "the spoke has just started"}
	s.dirty.everything(s.link)
	s.settle(c.Now())
	return s, nil
}

// Run runs the loop until ctx ends.
func (s *Spoke) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return s.loop(ctx) })
	g.Go(func() error { return s.keep(ctx) })
	g.Go(func() error { return s.watchDrains(ctx) })
	return g.Wait()
}

func (s *Spoke) loop(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case event := <-s.inbox:
			event(s.cfg.Now())
		case <-timer.C:
		}
		now := s.cfg.Now()
		s.tick(now)
		s.settle(now)
		timer.Reset(s.untilDeadline(now))
	}
}

// tick does what time alone brings.
func (s *Spoke) tick(now time.Time) {
	if changed := s.probes.Tick(now); len(changed) > 0 {
		s.dirty.report = true
		s.reachabilityChanged(changed)
	}
	if gone := s.proxies.expire(now); len(gone) > 0 {
		s.forgetProbers(gone)
		s.dirty.report, s.dirty.ingress, s.dirty.status = true, true, true
	}
}

// untilDeadline returns how long until time alone changes something, a minute at most.
func (s *Spoke) untilDeadline(now time.Time) time.Duration {
	wait := time.Minute
	for _, deadline := range []func() (time.Time, bool){s.probes.Deadline, s.proxies.deadline} {
		if at, ok := deadline(); ok {
			wait = min(wait, at.Sub(now))
		}
	}
	return max(wait, time.Millisecond)
}

// do runs the event in the loop and returns when what follows from it has been published. It fails only when ctx
// ends.
func (s *Spoke) do(ctx context.Context, event func(now time.Time)) error {
	done := make(chan struct{})
	run := func(now time.Time) {
		defer close(done)
		event(now)
		s.settle(now)
	}
	select {
	case s.inbox <- run:
	case <-ctx.Done():
		return ctx.Err()
	}
	<-done
	return nil
}

// ask is do with an answer.
func ask[T any](ctx context.Context, s *Spoke, question func(now time.Time) T) (T, error) {
	var answer T
	err := s.do(ctx, func(now time.Time) { answer = question(now) })
	return answer, err
}
