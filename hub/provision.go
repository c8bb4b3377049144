package hub

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/tailgate-project/tailgate/federation/vip"
)

// The delays between tries of one VIP; the provider's own rate limit stands below them.
const (
	firstRetry = 500 * time.Millisecond
	lastRetry  = time.Minute
)

// provisioner makes the registry's VIPs real, one after the other, without the loop ever waiting for the tailnet.
type provisioner struct {
	provider Provider
	log      *slog.Logger
	tell     func(context.Context, event) error
	wake     chan struct{}

	mu    sync.Mutex
	tasks map[string]*task // by service name
}

// task is a VIP that is not yet as it should be.
type task struct {
	entry  vip.Entry
	remove bool
	tries  int
	due    time.Time
}

func newProvisioner(p Provider, log *slog.Logger, tell func(context.Context, event) error) *provisioner {
	return &provisioner{provider: p, log: log, tell: tell, wake: make(chan struct{}, 1), tasks: map[string]*task{}}
}

// want asks for a VIP as the registry has it. An entry that is released needs nothing until its quarantine ends.
func (p *provisioner) want(e vip.Entry) {
	if e.ReleasedAt.IsZero() {
		p.put(&task{entry: e})
	}
}

// release asks for a VIP's end.
func (p *provisioner) release(e vip.Entry) { p.put(&task{entry: e, remove: true}) }

func (p *provisioner) put(t *task) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if old, ok := p.tasks[t.entry.ServiceName]; ok && old.remove && t.remove {
		return
	}
	p.tasks[t.entry.ServiceName] = t
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// adopt tells the loop which VIPs the tailnets have already. It asks until all of them have said.
func (p *provisioner) adopt(ctx context.Context) error {
	for tries := 0; ; tries++ {
		found, err := p.provider.ListVIPs(ctx)
		for _, v := range found {
			if err := p.tell(ctx, vipFound{v}); err != nil {
				return nil // ctx ended
			}
		}
		if err == nil {
			return nil
		}
		p.log.Warn("not all of the tailnets' VIPs can be listed, will retry", "err", err)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(backoff(tries)):
		}
	}
}

// run works on the tasks until ctx ends.
func (p *provisioner) run(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-p.wake:
		case <-timer.C:
		}
		for t := p.next(); t != nil && ctx.Err() == nil; t = p.next() {
			p.do(ctx, t)
		}
		timer.Reset(p.wait())
	}
}

// next returns a task that is due, nil if none is.
func (p *provisioner) next() *task {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	for _, t := range p.tasks {
		if !t.due.After(now) {
			return t
		}
	}
	return nil
}

func (p *provisioner) wait() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	wait := time.Hour
	for _, t := range p.tasks {
		wait = min(wait, time.Until(t.due))
	}
	return max(wait, time.Millisecond)
}

// do tries one task. What it failed at is tried again later, unless something newer is wanted by then.
func (p *provisioner) do(ctx context.Context, t *task) {
	answer, err := p.ask(ctx, t)
	p.mu.Lock()
	switch {
	case p.tasks[t.entry.ServiceName] != t: // replaced meanwhile
	case err == nil:
		delete(p.tasks, t.entry.ServiceName)
	default:
		t.due = time.Now().Add(backoff(t.tries))
		t.tries++
	}
	p.mu.Unlock()
	if err != nil {
		p.log.Warn("VIP not provisioned, will retry", "vip", t.entry.ServiceName, "tries", t.tries, "err", err)
		n, final := p.provider.Refusal(t.entry.VIP, err)
		if !final {
			return
		}
		answer = vipRefused{service: t.entry.ServiceName, notice: n}
	}
	if err := p.tell(ctx, answer); err != nil {
		p.log.Debug("the hub ended before a VIP's answer was taken", "vip", t.entry.ServiceName)
	}
}

func (p *provisioner) ask(ctx context.Context, t *task) (event, error) {
	if t.remove {
		return vipDeleted{t.entry.ServiceName}, p.provider.DeleteVIP(ctx, t.entry.VIP)
	}
	addrs, err := p.provider.EnsureVIP(ctx, t.entry.VIP)
	return vipAssigned{service: t.entry.ServiceName, addrs: addrs}, err
}

// backoff doubles from firstRetry to lastRetry, with jitter so that many VIPs do not come back at once.
func backoff(tries int) time.Duration {
	d := min(firstRetry<<min(tries, 10), lastRetry)
	return d/2 + rand.N(d/2+1)
}
