package tailnet

import (
	"context"
	"sync"

	tsapi "tailscale.com/client/tailscale/v2"
)

// listFrom is how many reads that wait make one list cheaper than a call for each.
const listFrom = 4

// reads answers what a Tailscale Service is like now. Reads that come while others are under way wait for them, and are
// then answered together: many by one list. So each answer is newer than its question.
type reads struct {
	client *tsapi.Client

	mu      sync.Mutex
	waiting []read
	running bool
}

// read is a question that waits.
type read struct {
	ctx    context.Context //nolint:containedctx // of the one who waits
	name   string
	answer chan<- readAnswer
}

type readAnswer struct {
	service *tsapi.VIPService
	err     error
}

// get returns the service with a name (svc:...), or [ErrNotFound].
func (r *reads) get(ctx context.Context, name string) (*tsapi.VIPService, error) {
	answer := make(chan readAnswer, 1)
	r.mu.Lock()
	r.waiting = append(r.waiting, read{ctx, name, answer})
	lead := !r.running
	r.running = true
	r.mu.Unlock()
	if lead {
		go r.run(context.WithoutCancel(ctx)) // the others' reads do not end with this one; each call has a timeout of its own
	}
	select {
	case a := <-answer:
		return a.service, a.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// run answers reads until none waits.
func (r *reads) run(ctx context.Context) {
	for {
		r.mu.Lock()
		batch := r.waiting
		r.waiting = nil
		r.running = len(batch) > 0
		r.mu.Unlock()
		if len(batch) == 0 {
			return
		}
		if len(batch) < listFrom {
			r.each(batch)
		} else {
			r.together(ctx, batch)
		}
	}
}

func (r *reads) each(batch []read) {
	var done sync.WaitGroup
	for _, q := range batch {
		done.Go(func() {
			s, err := r.client.VIPServices().Get(q.ctx, q.name)
			q.answer <- readAnswer{s, err}
		})
	}
	done.Wait()
}

func (r *reads) together(ctx context.Context, batch []read) {
	all, err := r.client.VIPServices().List(ctx)
	found := make(map[string]*tsapi.VIPService, len(all))
	for i := range all {
		found[all[i].Name] = &all[i]
	}
	for _, q := range batch {
		a := readAnswer{service: found[q.name], err: err}
		if err == nil && a.service == nil {
			a.err = &Error{Kind: ErrNotFound}
		}
		q.answer <- a
	}
}

// holds are the names that somebody reads to change.
type holds struct {
	mu   sync.Mutex
	held map[string]chan struct{} // closed when it is released
}

// hold lets one caller at a time have a name.
func (h *holds) hold(ctx context.Context, name string) (release func(), err error) {
	for {
		h.mu.Lock()
		before, held := h.held[name]
		if !held {
			if h.held == nil {
				h.held = map[string]chan struct{}{}
			}
			released := make(chan struct{})
			h.held[name] = released
			h.mu.Unlock()
			return func() {
				h.mu.Lock()
				defer h.mu.Unlock()
				delete(h.held, name)
				close(released)
			}, nil
		}
		h.mu.Unlock()
		select {
		case <-before:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}
