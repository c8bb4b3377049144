// Package probe observes whether targets answer through the data path: it is the eyes of an observer.
//
// A probe is a TCP connect, and for a cluster's ingress hosts the one line with which they say whose they are. A target
// with a [Check] is asked in a protocol of its own whether it is well. Every target is probed at a fixed interval and a
// fixed phase of its own, so that the probes of many targets never fall on the same moment.
//
// Where there is no check, one failure proves nothing: it is confirmed at once by a second probe, and only then reported.
// What a check finds is always reported: so many results in a row make a verdict, and that is for others to judge.
package probe

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/tailgate-project/tailgate/federation"
)

const (
	// failing is how often a target that does not answer is probed, where its interval is longer: whoever comes back is not
	// kept waiting.
	failing = time.Second
	// refresh is the longest time between two reports of a target that is probed at least as often.
	refresh = time.Second
	// soon is when a target with a check is asked first, where its interval is longer: who has just been made is not left
	// unknown for minutes.
	soon = 2 * time.Second
)

// Target is what is probed.
type Target struct {
	ID string
	// Addrs are probed in parallel; any that answers makes the target reachable.
	Addrs []netip.AddrPort
	// Name and Port stand in place of Addrs; see [Remote].
	Name string
	Port uint16
	// Protocol is TCP where it is empty.
	Protocol federation.Protocol
	// Interval is the time between the beginnings of two probes.
	Interval time.Duration
	// Timeout is how long a whole probe may take, of all addresses together.
	Timeout time.Duration
	// IngressOf says that Addrs are probe ports of this cluster's ingress hosts. Empty: a connect is enough.
	IngressOf federation.ClusterID
	// Check says what must come back; it must be valid. With nil a connect is enough, and a failure is confirmed.
	Check *Check
}

func (t Target) equal(o Target) bool {
	return t.ID == o.ID && slices.Equal(t.Addrs, o.Addrs) && t.Name == o.Name && t.Port == o.Port && t.Protocol == o.Protocol &&
		t.Interval == o.Interval && t.Timeout == o.Timeout && t.IngressOf == o.IngressOf && t.Check.equal(o.Check)
}

// phase is how long after its start a target is first probed: within one interval, the same for the same id. Ids that
// differ in a digit only are spread as well as any, which weaker hashes do not do.
func (t Target) phase(interval time.Duration) time.Duration {
	h := sha256.Sum256([]byte(t.ID))
	return time.Duration(binary.BigEndian.Uint64(h[:]) % uint64(interval))
}

// remotes are where the probes go.
func (t Target) remotes() []Remote {
	protocol := cmp.Or(t.Protocol, federation.TCP)
	if t.Name != "" {
		return []Remote{{Name: t.Name, Addr: netip.AddrPortFrom(netip.Addr{}, t.Port), Protocol: protocol}}
	}
	out := make([]Remote, 0, len(t.Addrs))
	for _, addr := range t.Addrs {
		out = append(out, Remote{Addr: addr, Protocol: protocol})
	}
	return out
}

// Result is what is known of a target.
type Result struct {
	ID        string
	Reachable bool
	// RTT is the time that the quickest address took to answer as it should; 0 where none did, as one over UDP need not.
	RTT time.Duration
	// Reason is empty where the target is reachable.
	Reason Reason
	// At is when the probe ended.
	At time.Time
	// Row is how many probes in a row found the target as reachable as this one, itself among them, since it is what it is.
	Row int
}

// Options are what a [Prober] needs.
type Options struct {
	// Dial opens a connection through the tailnet.
	Dial func(ctx context.Context, r Remote) (net.Conn, error)
	// Report is told of every result of a check, and otherwise of every change of a target's reachability at once, and at
	// least once a second or, for targets with a longer interval, at every probe. It must not block.
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

// wanted returns the targets that were set last. The map must not be changed.
func (p *Prober) wanted() map[string]Target {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.targets
}

// Run probes until ctx ends, which is not an error.
func (p *Prober) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()

	s := schedule{opts: p.opts, watches: map[string]*watch{}, ended: make(chan ending)}
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-p.wake:
			s.set(p.wanted(), time.Now())
		case e := <-s.ended:
			s.end(e, time.Now())
		case <-timer.C:
		}
		s.start(ctx, &wg, time.Now())
		if next, ok := s.next(); ok {
			timer.Reset(time.Until(next))
		}
	}
}

// round is one probe of a target, and a second one if confirm says that a failure is to be confirmed.
func (o Options) round(ctx context.Context, t Target, confirm bool) Result {
	result := o.probe(ctx, t)
	if confirm && !result.Reachable {
		result = o.probe(ctx, t)
	}
	return result
}

// answer is what one address says.
type answer struct {
	rtt time.Duration
	err error
}

// probe tries all addresses at once and returns with the first that answers.
func (o Options) probe(ctx context.Context, t Target) Result {
	ctx, cancel := context.WithTimeout(ctx, t.Timeout)
	defer cancel()
	start := time.Now()
	remotes := t.remotes()
	answers := make(chan answer, len(remotes))
	ask := func(r Remote) {
		answered, err := o.ask(ctx, t, r)
		a := answer{err: err}
		if answered {
			a.rtt = time.Since(start)
		}
		answers <- a
	}
	if len(remotes) == 1 { // as with every check: no goroutine more
		ask(remotes[0])
	} else {
		for _, r := range remotes {
			go ask(r)
		}
	}
	reason := NoRoute
	for i := range remotes {
		a := <-answers
		if a.err == nil {
			return Result{ID: t.ID, Reachable: true, RTT: a.rtt, At: time.Now()}
		}
		if r := reasonOf(a.err); i == 0 || r.tellsMore(reason) {
			reason = r
		}
	}
	return Result{ID: t.ID, Reason: reason, At: time.Now()}
}

// ask returns nil if the remote is well. It has not answered where it only did not refuse.
func (o Options) ask(ctx context.Context, t Target, r Remote) (answered bool, err error) {
	conn, err := o.Dial(ctx, r)
	if err != nil {
		return false, err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	switch {
	case r.Protocol == federation.UDP:
		return silence(ctx, conn)
	case t.Check != nil:
		return true, t.Check.ask(ctx, conn, r)
	case t.IngressOf == "":
		return true, nil
	}
	if err := readGreeting(conn, t.IngressOf); err != nil {
		// The connection that was closed under the reader says only that; why is ctx's to say.
		if ctx.Err() != nil {
			return false, ctx.Err()
		}
		return false, err
	}
	return true, nil
}
