package hub

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tailgate-project/tailgate/federation/coordinator"
)

// provisioners is how many VIPs are worked on at a time. The admin API's answers take their time, and what it is asked in a
// second is bounded elsewhere.
const provisioners = 16

// provisioner makes the registry's VIPs real, some at a time, without the loop ever waiting for the tailnet.
type provisioner struct {
	provider Provider
	log      *slog.Logger
	now      func() time.Time
	tell     func(context.Context, coordinator.Event) error
	wake     chan struct{}

	mu    sync.Mutex
	queue *coordinator.Queue
}

func newProvisioner(h *Hub) *provisioner {
	return &provisioner{provider: h.Provider, log: h.Log, now: h.Now, tell: h.send, wake: make(chan struct{}, 1), queue: coordinator.NewQueue()}
}

// add takes in what follows from a step.
func (p *provisioner) add(e coordinator.Effects) {
	if len(e.Ensure)+len(e.Delete) == 0 {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.queue.Add(e)
	p.poke()
}

// poke has run look at the queue.
func (p *provisioner) poke() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// The delays between two lists of a tailnet that cannot be listed.
const (
	firstList = 500 * time.Millisecond
	lastList  = time.Minute
)

// adopt tells the loop which VIPs the tailnets have already. It asks until all of them have said.
func (p *provisioner) adopt(ctx context.Context) error {
	for wait := firstList; ; wait = min(2*wait, lastList) {
		found, err := p.provider.ListVIPs(ctx)
		for _, v := range found {
			if err := p.tell(ctx, coordinator.VIPFound{VIP: v}); err != nil {
				return nil // ctx ended
			}
		}
		if err == nil {
			_ = p.tell(ctx, coordinator.VIPsListed{}) // fails only when ctx ends
			return nil
		}
		p.log.Warn("not all of the tailnets' VIPs can be listed, will retry", "err", err)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
	}
}

// run works on the tasks until ctx ends.
func (p *provisioner) run(ctx context.Context) error {
	var working errgroup.Group
	working.SetLimit(provisioners)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return working.Wait()
		case <-p.wake:
		case <-timer.C:
		}
		for t, ok := p.next(); ok && ctx.Err() == nil; t, ok = p.next() {
			working.Go(func() error {
				p.do(ctx, t)
				p.poke() // what failed, or was replaced, has a time of its own
				return nil
			})
		}
		timer.Reset(p.wait())
	}
}

func (p *provisioner) next() (coordinator.Task, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.queue.Next(p.now())
}

// wait returns how long until a task is due, an hour at most.
func (p *provisioner) wait() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	wait := time.Hour
	if at, ok := p.queue.Deadline(); ok {
		wait = min(wait, at.Sub(p.now()))
	}
	return max(wait, time.Millisecond)
}

// do tries one task. What it failed at is tried again later, unless something newer is wanted by then.
func (p *provisioner) do(ctx context.Context, t coordinator.Task) {
	answer, err := p.ask(ctx, t)
	p.mu.Lock()
	p.queue.Done(t, err, p.now())
	p.mu.Unlock()
	if err != nil {
		p.log.Warn("VIP not provisioned, will retry", "vip", t.VIP.ServiceName, "tries", t.Tries+1, "err", err)
		n, final := p.provider.Refusal(t.VIP, err)
		if !final {
			return
		}
		answer = coordinator.VIPRefused{Service: t.VIP.ServiceName, Notice: n}
	}
	if err := p.tell(ctx, answer); err != nil {
		p.log.Debug("the hub ended before a VIP's answer was taken", "vip", t.VIP.ServiceName)
	}
}

func (p *provisioner) ask(ctx context.Context, t coordinator.Task) (coordinator.Event, error) {
	if t.Remove {
		return coordinator.VIPDeleted{Service: t.VIP.ServiceName}, p.provider.DeleteVIP(ctx, t.VIP)
	}
	addrs, err := p.provider.EnsureVIP(ctx, t.VIP)
	return coordinator.VIPAssigned{Service: t.VIP.ServiceName, Addrs: addrs}, err
}
