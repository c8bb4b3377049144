package main

import (
	"errors"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tailgate-project/tailgate/hub/web"
)

// storePatience is how long the store may take for a batch before the hub says that it is not well.
const storePatience = 5 * time.Second

// readiness is what /readyz tells: why the hub does not serve its spokes, if it does not.
type readiness struct {
	now func() time.Time

	mu sync.Mutex
	// waits says what the start waits for, nil when it is over.
	waits error
	// gone is why the hub may not decide any more, for good.
	gone error
	// began is when the batch was given to the store that it works on, zero for none.
	began time.Time
}

var errStarting = errors.New("the hub has just started")

func newReadiness(now func() time.Time) *readiness { return &readiness{now: now, waits: errStarting} }

// wait says what the start waits for.
func (r *readiness) wait(format string, args ...any) { r.set(fmt.Errorf(format, args...)) }

// serving says that the start is over.
func (r *readiness) serving() { r.set(nil) }

func (r *readiness) set(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.waits = err
}

// lost says that another hub has taken over, or that the store is broken.
func (r *readiness) lost(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.gone == nil {
		r.gone = err
	}
}

// committing notes that the store works on a batch until the function that it returns is called. One batch is committed at
// a time.
func (r *readiness) committing(at time.Time) (done func(error)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.began = at
	return func(err error) {
		r.mu.Lock()
		r.began = time.Time{}
		r.mu.Unlock()
		if err != nil {
			r.lost(fmt.Errorf("the store did not take a batch, and the hub ends: %w", err))
		}
	}
}

// get returns why the hub does not serve, nil if it does.
func (r *readiness) get() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.gone != nil:
		return r.gone
	case r.waits != nil:
		return r.waits
	case !r.began.IsZero() && r.now().Sub(r.began) > storePatience:
		return fmt.Errorf("the store has not taken a batch for %s", r.now().Sub(r.began).Round(time.Second))
	}
	return nil
}

// front serves /healthz, /readyz and /metrics from the first moment on, and all else from when there is a hub.
type front struct {
	mux *http.ServeMux
	late
}

// late answers by a handler that comes later. Until then it says that the hub is not there yet.
type late struct{ handler atomic.Pointer[http.Handler] }

// serve has the handler answer from now on.
func (l *late) serve(h http.Handler) { l.handler.Store(&h) }

// ServeHTTP answers.
func (l *late) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if h := l.handler.Load(); h != nil {
		(*h).ServeHTTP(w, r)
		return
	}
	http.Error(w, "the hub is not there yet; /readyz says why", http.StatusServiceUnavailable)
}

func newFront(ready *readiness, m *web.Metrics, others ...prometheus.Gatherer) *front {
	f := &front{mux: http.NewServeMux()}
	f.mux.Handle("GET /metrics", m.Handler(others...))
	f.mux.Handle("GET /healthz", web.Health())
	f.mux.Handle("GET /readyz", web.Ready(ready.get))
	f.mux.Handle("/", &f.late)
	return f
}

// ServeHTTP answers.
func (f *front) ServeHTTP(w http.ResponseWriter, r *http.Request) { f.mux.ServeHTTP(w, r) }
