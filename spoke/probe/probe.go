// Package probe observes whether targets answer through the data path: it is the eyes of an observer.
//
// A probe is a TCP connect, and for a cluster's ingress hosts the one line with which they say whose they are. Every
// target is probed at a fixed interval and a fixed phase of its own, so that the probes of many targets never fall on
// the same moment. One failure proves nothing: it is confirmed at once by a second probe, and only then reported.
package probe

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/tailgate-project/tailgate/federation"
)

// failing is how often a target that does not answer is probed, where its interval is longer: whoever comes back is not
// kept waiting.
const failing = time.Second

// refresh is the longest time between two reports of a target that is probed at least as often.
const refresh = time.Second

// Target is what is probed.
type Target struct {
	ID string
	// Addrs are probed in parallel; any that answers makes the target reachable.
	Addrs []netip.AddrPort
	// Interval is the time between the beginnings of two probes.
	Interval time.Duration
	// Timeout is how long the addresses have to answer, all of them together.
	Timeout time.Duration
	// IngressOf says that Addrs are probe ports of this cluster's ingress hosts. Empty: a connect is enough.
	IngressOf federation.ClusterID
}

func (t Target) equal(o Target) bool {
	return t.ID == o.ID && slices.Equal(t.Addrs, o.Addrs) && t.Interval == o.Interval && t.Timeout == o.Timeout &&
		t.IngressOf == o.IngressOf
}

// phase is how long after its start a target is first probed: within one interval, the same for the same id. Ids that
// differ in a digit only are spread as well as any, which weaker hashes do not do.
func (t Target) phase() time.Duration {
	h := sha256.Sum256([]byte(t.ID))
	return time.Duration(binary.BigEndian.Uint64(h[:]) % uint64(t.Interval))
}

// Result is what is known of a target.
type Result struct {
	ID        string
	Reachable bool
	// RTT is the time that the quickest address took to answer; 0 where none did.
	RTT time.Duration
	// Reason is empty where the target is reachable.
	Reason Reason
	// At is when the probe ended.
	At time.Time
}

// Options are what a [Prober] needs.
type Options struct {
	// Dial opens a TCP connection through the tailnet.
	Dial func(ctx context.Context, addr netip.AddrPort) (net.Conn, error)
	// Report is told of every change of a target's reachability at once, and otherwise at least once a second or, for
	// targets with a longer interval, at every probe. It is called from many goroutines and must not block.
	Report func(Result)
}

// Prober probes the targets that it was last given. Use [New].
type Prober struct {
	opts Options
	wake chan struct{}

	mu      sync.Mutex
	targets map[string]Target
}

// New returns a prober without targets. It does nothing until [Prober.Run].
func New(opts Options) *Prober {
	return &Prober{opts: opts, wake: make(chan struct{}, 1)}
}

// Set replaces the targets. A target that stays keeps what is known of it; one that changed is probed anew at once.
// Intervals and timeouts must be positive and ids unique.
func (p *Prober) Set(targets []Target) {
	byID := make(map[string]Target, len(targets))
	for _, t := range targets {
		byID[t.ID] = t
	}
	p.mu.Lock()
	p.targets = byID
	p.mu.Unlock()
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// Run probes until ctx ends, which is not an error.
func (p *Prober) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()

	watchers := map[string]*watcher{}
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-p.wake:
		}
		p.mu.Lock()
		targets := maps.Clone(p.targets)
		p.mu.Unlock()
		for id, w := range watchers {
			if _, ok := targets[id]; !ok {
				w.stop()
				delete(watchers, id)
			}
		}
		for id, t := range targets {
			if w, ok := watchers[id]; ok {
				w.retarget(t)
				continue
			}
			watching, stop := context.WithCancel(ctx)
			w := &watcher{opts: p.opts, target: t, changed: make(chan Target, 1), stop: stop}
			watchers[id] = w
			wg.Go(func() { w.run(watching) })
		}
	}
}

// watcher probes one target. Its goroutine alone reads what is known of it.
type watcher struct {
	opts    Options
	changed chan Target
	stop    context.CancelFunc
	// target is, once run has started, what run was last told.
	target Target

	known    bool
	last     Result
	reported time.Time
}

// retarget tells run of a new target. Only Prober.Run calls it, so the newest is never lost.
func (w *watcher) retarget(t Target) {
	select {
	case <-w.changed:
	default:
	}
	w.changed <- t
}

func (w *watcher) run(ctx context.Context) {
	next := time.Now().Add(w.target.phase())
	timer := time.NewTimer(time.Until(next))
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case t := <-w.changed:
			if t.equal(w.target) {
				continue
			}
			w.target, next = t, time.Now()
		case <-timer.C:
		}
		if !w.round(ctx) {
			return
		}
		// A round that took longer than the interval skips beats, so that the target keeps its phase.
		for now := time.Now(); !next.After(now); {
			next = next.Add(w.target.Interval)
		}
		wait := time.Until(next)
		if !w.last.Reachable {
			wait = min(wait, failing)
		}
		timer.Reset(wait)
	}
}

// round probes, confirms a first failure, and reports what has to be. It returns false if ctx ended meanwhile.
func (w *watcher) round(ctx context.Context) bool {
	result := w.probe(ctx)
	if !result.Reachable && (!w.known || w.last.Reachable) {
		result = w.probe(ctx)
	}
	if ctx.Err() != nil {
		return false
	}
	changed := !w.known || w.last.Reachable != result.Reachable
	// Reported now where waiting for the next probe would let the last report grow older than refresh.
	due := result.At.Add(w.target.Interval).Sub(w.reported) > refresh
	w.known, w.last = true, result
	if changed || due {
		w.reported = result.At
		w.opts.Report(result)
	}
	return true
}

// probe tries all addresses at once and returns with the first that answers.
func (w *watcher) probe(ctx context.Context) Result {
	ctx, cancel := context.WithTimeout(ctx, w.target.Timeout)
	defer cancel()
	start := time.Now()
	answers := make(chan error, len(w.target.Addrs))
	for _, addr := range w.target.Addrs {
		go func() { answers <- w.ask(ctx, addr) }()
	}
	reason := NoRoute
	for i := range w.target.Addrs {
		err := <-answers
		if err == nil {
			now := time.Now()
			return Result{ID: w.target.ID, Reachable: true, RTT: now.Sub(start), At: now}
		}
		if r := reasonOf(err); i == 0 || r.tellsMore(reason) {
			reason = r
		}
	}
	return Result{ID: w.target.ID, Reason: reason, At: time.Now()}
}

// ask returns nil if addr answers as it should.
func (w *watcher) ask(ctx context.Context, addr netip.AddrPort) error {
	conn, err := w.opts.Dial(ctx, addr)
	if err != nil {
		return err
	}
	defer conn.Close()
	if w.target.IngressOf == "" {
		return nil
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	if err := readGreeting(conn, w.target.IngressOf); err != nil {
		// The connection that was closed under the reader says only that; why is ctx's to say.
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return err
	}
	return nil
}
