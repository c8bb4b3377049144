package proxy

import (
	"context"
	"sync"
)

// tracker counts what is open, and lets a drain wait for its end. The zero value is ready.
type tracker struct {
	mu   sync.Mutex
	open int
	// done is closed when open falls to zero; nil while nobody waits.
	done chan struct{}
}

// begin counts one until the returned function is called.
func (t *tracker) begin() (end func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.open++
	return t.end
}

func (t *tracker) end() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.open--; t.open == 0 && t.done != nil {
		close(t.done)
		t.done = nil
	}
}

// busy reports whether anything is open.
func (t *tracker) busy() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.open > 0
}

// idle returns when nothing is open, or when ctx ends.
func (t *tracker) idle(ctx context.Context) {
	t.mu.Lock()
	if t.open == 0 {
		t.mu.Unlock()
		return
	}
	if t.done == nil {
		t.done = make(chan struct{})
	}
	done := t.done
	t.mu.Unlock()
	select {
	case <-done:
	case <-ctx.Done():
	}
}
