package console

import (
	"context"
	"sync"
)

// pulse counts changes and wakes who waits for the next.
type pulse struct {
	mu    sync.Mutex
	count uint64
	next  chan struct{} // closed and replaced with each beat
}

func newPulse() pulse { return pulse{count: 1, next: make(chan struct{})} }

func (p *pulse) beat() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.count++
	close(p.next)
	p.next = make(chan struct{})
}

// wait returns the number of beats once it is not after. A number of another hub, which counted further, is not waited for.
func (p *pulse) wait(ctx context.Context, after uint64) (uint64, error) {
	p.mu.Lock()
	count, next := p.count, p.next
	p.mu.Unlock()
	if count != after {
		return count, nil
	}
	select {
	case <-next:
		return count + 1, nil
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}
