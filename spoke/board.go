package spoke

import "sync"

// board hands the newest value from the loop, which alone writes, to any number of readers.
type board[T any] struct {
	mu    sync.Mutex
	value T
	// changed is closed and replaced when the value is replaced.
	changed chan struct{}
}

func newBoard[T any](value T) *board[T] {
	return &board[T]{value: value, changed: make(chan struct{})}
}

// get returns the value and a channel that is closed when there is a newer one.
func (b *board[T]) get() (T, <-chan struct{}) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.value, b.changed
}

func (b *board[T]) set(value T) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.value = value
	close(b.changed)
	b.changed = make(chan struct{})
}

// ringSize is how many of the latest events of each kind the status tells.
const ringSize = 256

// ring keeps the latest events.
type ring[T any] struct {
	events []T
	next   int
}

func (r *ring[T]) add(event T) {
	if len(r.events) < ringSize {
		r.events = append(r.events, event)
		return
	}
	r.events[r.next] = event
	r.next = (r.next + 1) % ringSize
}

// list returns the events, oldest first.
func (r *ring[T]) list() []T {
	out := make([]T, 0, len(r.events))
	out = append(out, r.events[r.next:]...)
	return append(out, r.events[:r.next]...)
}
