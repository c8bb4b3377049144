package probe_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/spoke/probe"
)

// behaviour is what an address does when it is dialled.
type behaviour func(ctx context.Context) (net.Conn, error)

// accepts takes the connection after a while and says something.
func accepts(after time.Duration, greeting string) behaviour {
	return func(ctx context.Context) (net.Conn, error) {
		select {
		case <-time.After(after):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		ours, theirs := net.Pipe()
		go func() {
			defer theirs.Close()
			// The prober may be gone before it has read everything.
			_, _ = io.WriteString(theirs, greeting)
		}()
		return ours, nil
	}
}

// mute takes the connection and never says a word.
func mute(context.Context) (net.Conn, error) {
	ours, _ := net.Pipe()
	return ours, nil
}

func fails(err error) behaviour {
	return func(context.Context) (net.Conn, error) { return nil, err }
}

// hangs never answers.
func hangs(ctx context.Context) (net.Conn, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

// network is a fake tailnet, and a record of what happened there.
type network struct {
	mu      sync.Mutex
	hosts   map[netip.AddrPort]behaviour
	dials   []time.Time
	results []probe.Result
}

var (
	hostA = netip.MustParseAddrPort("100.64.0.1:9440")
	hostB = netip.MustParseAddrPort("100.64.0.2:9440")
)

func (n *network) dial(ctx context.Context, r probe.Remote) (net.Conn, error) {
	addr := r.Addr
	n.mu.Lock()
	n.dials = append(n.dials, time.Now())
	host, ok := n.hosts[addr]
	n.mu.Unlock()
	if !ok {
		return nil, fmt.Errorf("dial %v: %w", addr, probe.ErrNoRoute)
	}
	return host(ctx)
}

func (n *network) set(addr netip.AddrPort, b behaviour) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.hosts[addr] = b
}

func (n *network) report(r probe.Result) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.results = append(n.results, r)
}

// take returns what happened since it was called last.
func (n *network) take() (dials []time.Time, results []probe.Result) {
	n.mu.Lock()
	defer n.mu.Unlock()
	dials, results = n.dials, n.results
	n.dials, n.results = nil, nil
	return dials, results
}

// start runs a prober inside a bubble until the test ends.
func start(t *testing.T, hosts map[netip.AddrPort]behaviour, targets ...probe.Target) (*network, *probe.Prober) {
	t.Helper()
	n := &network{hosts: hosts}
	p := probe.New(probe.Options{Dial: n.dial, Report: n.report})
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := p.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() { cancel(); wg.Wait() })
	p.Set(targets)
	return n, p
}

// wait lets fake time pass.
func wait(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

func fast(id string, addrs ...netip.AddrPort) probe.Target {
	return probe.Target{ID: id, Addrs: addrs, Interval: 500 * time.Millisecond, Timeout: 400 * time.Millisecond}
}

var withoutTime = cmpopts.IgnoreFields(probe.Result{}, "At", "Row")

func TestReachability(t *testing.T) {
	tests := []struct {
		name      string
		hosts     map[netip.AddrPort]behaviour
		ingressOf federation.ClusterID
		want      probe.Result
	}{
		{
			name:  "connect-is-enough",
			hosts: map[netip.AddrPort]behaviour{hostA: accepts(20*time.Millisecond, "")},
			want:  probe.Result{Reachable: true, RTT: 20 * time.Millisecond},
		},
		{
			name:  "quickest-of-two",
			hosts: map[netip.AddrPort]behaviour{hostA: accepts(80*time.Millisecond, ""), hostB: accepts(30*time.Millisecond, "")},
			want:  probe.Result{Reachable: true, RTT: 30 * time.Millisecond},
		},
		{
			name:  "one-of-two-is-enough",
			hosts: map[netip.AddrPort]behaviour{hostA: hangs, hostB: accepts(30*time.Millisecond, "")},
			want:  probe.Result{Reachable: true, RTT: 30 * time.Millisecond},
		},
		{
			name:      "greeting-of-the-cluster",
			hosts:     map[netip.AddrPort]behaviour{hostA: accepts(0, probe.Greeting("c2", "v1.2.3"))},
			ingressOf: "c2",
			want:      probe.Result{Reachable: true},
		},
		{
			name:      "greeting-of-another-cluster",
			hosts:     map[netip.AddrPort]behaviour{hostA: accepts(0, probe.Greeting("c3", "v1.2.3"))},
			ingressOf: "c2",
			want:      probe.Result{Reason: probe.WrongHost},
		},
		{
			name:      "something-else-answers",
			hosts:     map[netip.AddrPort]behaviour{hostA: accepts(0, "SSH-2.0-OpenSSH\r\n")},
			ingressOf: "c2",
			want:      probe.Result{Reason: probe.WrongHost},
		},
		{
			name:      "closed-before-a-word",
			hosts:     map[netip.AddrPort]behaviour{hostA: accepts(0, "")},
			ingressOf: "c2",
			want:      probe.Result{Reason: probe.WrongHost},
		},
		{
			name:      "greeting-without-end",
			hosts:     map[netip.AddrPort]behaviour{hostA: accepts(0, string(make([]byte, 1000)))},
			ingressOf: "c2",
			want:      probe.Result{Reason: probe.WrongHost},
		},
		{
			name:      "connects-and-is-silent",
			hosts:     map[netip.AddrPort]behaviour{hostA: mute},
			ingressOf: "c2",
			want:      probe.Result{Reason: probe.Timeout},
		},
		{
			name:  "timeout",
			hosts: map[netip.AddrPort]behaviour{hostA: hangs, hostB: hangs},
			want:  probe.Result{Reason: probe.Timeout},
		},
		{
			name:  "refusal-tells-more-than-silence",
			hosts: map[netip.AddrPort]behaviour{hostA: hangs, hostB: fails(fmt.Errorf("dial: %w", syscall.ECONNREFUSED))},
			want:  probe.Result{Reason: probe.Refused},
		},
		{
			name:  "reset",
			hosts: map[netip.AddrPort]behaviour{hostA: fails(syscall.ECONNRESET)},
			want:  probe.Result{Reason: probe.Reset},
		},
		{name: "no-route", want: probe.Result{Reason: probe.NoRoute}},
		{
			name:  "any-other-error",
			hosts: map[netip.AddrPort]behaviour{hostA: fails(errors.New("out of luck")), hostB: fails(errors.New("out of luck"))},
			want:  probe.Result{Reason: probe.Failed},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				addrs := []netip.AddrPort{hostA}
				if _, two := tt.hosts[hostB]; two {
					addrs = append(addrs, hostB)
				}
				target := fast("target", addrs...)
				target.IngressOf = tt.ingressOf
				n, _ := start(t, tt.hosts, target)
				// An interval until the first probe at most, and two timeouts.
				wait(1300 * time.Millisecond)
				_, results := n.take()
				tt.want.ID = "target"
				if len(results) == 0 {
					t.Fatal("nothing was reported")
				}
				if diff := cmp.Diff(tt.want, results[0], withoutTime); diff != "" {
					t.Errorf("result (-want +got):\n%s", diff)
				}
			})
		})
	}
}

func TestTargetWithoutAddress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, _ := start(t, nil, fast("target"))
		wait(time.Second)
		_, results := n.take()
		if len(results) == 0 || results[0].Reason != probe.NoRoute {
			t.Errorf("got %v, want no-route", results)
		}
	})
}

func TestFirstFailureIsConfirmedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, _ := start(t, map[netip.AddrPort]behaviour{hostA: accepts(0, "")}, fast("target", hostA))
		wait(2 * time.Second)
		n.take()

		n.set(hostA, fails(syscall.ECONNREFUSED))
		wait(500 * time.Millisecond)
		dials, results := n.take()
		if len(dials) != 2 || !dials[0].Equal(dials[1]) {
			t.Errorf("dialled at %v, want twice at the same moment", dials)
		}
		if len(results) != 1 || results[0].Reachable || !results[0].At.Equal(dials[1]) {
			t.Errorf("reported %v, want one failure at once", results)
		}
		wait(500 * time.Millisecond)
		if dials, _ := n.take(); len(dials) != 1 {
			t.Errorf("dialled %d times where the failure was known, want once", len(dials))
		}
	})
}

func TestUnconfirmedFailureIsNotReported(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, _ := start(t, map[netip.AddrPort]behaviour{hostA: accepts(0, "")}, fast("target", hostA))
		wait(2 * time.Second)
		n.take()
		var once sync.Once
		n.set(hostA, func(ctx context.Context) (net.Conn, error) {
			err := error(nil)
			once.Do(func() { err = syscall.ECONNRESET })
			if err != nil {
				return nil, err
			}
			return accepts(0, "")(ctx)
		})
		wait(2 * time.Second)
		_, results := n.take()
		for _, r := range results {
			if !r.Reachable {
				t.Errorf("reported %v", r)
			}
		}
	})
}

func TestReports(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow := probe.Target{ID: "slow", Addrs: []netip.AddrPort{hostB}, Interval: 5 * time.Second, Timeout: time.Second}
		up := accepts(0, "")
		n, _ := start(t, map[netip.AddrPort]behaviour{hostA: up, hostB: up}, fast("fast", hostA), slow)
		wait(20 * time.Second)
		_, results := n.take()
		times := map[string][]time.Time{}
		for _, r := range results {
			times[r.ID] = append(times[r.ID], r.At)
		}
		if got := len(times["slow"]); got != 4 {
			t.Errorf("slow target reported %d times in 20s, want at each of its 4 probes", got)
		}
		if got := len(times["fast"]); got < 19 || got > 21 {
			t.Errorf("fast target reported %d times in 20s, want once a second", got)
		}
		for i := 1; i < len(times["fast"]); i++ {
			if gap := times["fast"][i].Sub(times["fast"][i-1]); gap > time.Second {
				t.Errorf("fast target unreported for %v", gap)
			}
		}
		n.set(hostA, fails(syscall.ECONNREFUSED))
		wait(500 * time.Millisecond)
		n.set(hostA, up)
		wait(500 * time.Millisecond)
		_, results = n.take()
		results = slices.DeleteFunc(results, func(r probe.Result) bool { return r.ID != "fast" })
		want := []probe.Result{{ID: "fast", Reason: probe.Refused}, {ID: "fast", Reachable: true}}
		if diff := cmp.Diff(want, results, withoutTime); diff != "" {
			t.Errorf("changes must be reported at once (-want +got):\n%s", diff)
		}
	})
}

func TestPhases(t *testing.T) {
	const count = 100
	phases := func(t *testing.T) (all []time.Duration) {
		synctest.Test(t, func(t *testing.T) {
			var targets []probe.Target
			for i := range count {
				targets = append(targets, fast(fmt.Sprintf("target-%d", i), hostA))
			}
			began := time.Now()
			n, _ := start(t, map[netip.AddrPort]behaviour{hostA: accepts(0, "")}, targets...)
			wait(499*time.Millisecond + 999*time.Microsecond)
			dials, _ := n.take()
			for _, at := range dials {
				all = append(all, at.Sub(began))
			}
		})
		slices.Sort(all)
		return all
	}
	first, second := phases(t), phases(t)
	if diff := cmp.Diff(first, second); diff != "" {
		t.Errorf("phases are not the same each time:\n%s", diff)
	}
	if len(first) != count {
		t.Fatalf("%d probes in the first interval, want %d", len(first), count)
	}
	// With 10 parts of the interval, none is left out and none has a third of all.
	parts := make([]int, 10)
	for _, at := range first {
		parts[at/(50*time.Millisecond)]++
	}
	if slices.Min(parts) == 0 || slices.Max(parts) > count/3 {
		t.Errorf("probes by tenth of the interval: %v", parts)
	}
}

func TestBeatIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		target := fast("target", hostA)
		target.Timeout = 1200 * time.Millisecond
		n, _ := start(t, map[netip.AddrPort]behaviour{hostA: hangs}, target)
		wait(10 * time.Second)
		dials, _ := n.take()
		for _, at := range dials[2:] {
			if off := at.Sub(dials[0]) % target.Interval; off != 0 {
				t.Errorf("a probe began %v off the beat", off)
			}
		}
		if len(dials) < 6 {
			t.Errorf("%d probes in 10s", len(dials))
		}
	})
}

func TestSet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		up := accepts(0, "")
		n, p := start(t, map[netip.AddrPort]behaviour{hostA: up}, fast("stays", hostA), fast("goes", hostA))
		wait(2 * time.Second)
		n.take()

		// The same again changes nothing: what is known stays known.
		p.Set([]probe.Target{fast("stays", hostA)})
		wait(900 * time.Millisecond)
		dials, results := n.take()
		if len(dials) > 2 {
			t.Errorf("%d probes after a removal, want those of one target", len(dials))
		}
		for _, r := range results {
			if r.ID == "goes" {
				t.Errorf("reported %v after its removal", r)
			}
		}
		// Another address is probed at once.
		p.Set([]probe.Target{fast("stays", hostB)})
		synctest.Wait()
		want := []probe.Result{{ID: "stays", Reason: probe.NoRoute}}
		if _, results := n.take(); !cmp.Equal(want, results, withoutTime) {
			t.Errorf("got %v, want %v at once", results, want)
		}
	})
}

func TestAFailingTargetIsProbedOften(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow := probe.Target{ID: "slow", Addrs: []netip.AddrPort{hostA}, Interval: 30 * time.Second, Timeout: time.Second}
		n, _ := start(t, map[netip.AddrPort]behaviour{hostA: fails(syscall.ECONNREFUSED)}, slow)
		wait(time.Minute) // the first probe has failed by now, whatever its phase
		n.take()
		wait(10 * time.Second)
		if dials, _ := n.take(); len(dials) < 9 || len(dials) > 12 {
			t.Errorf("%d probes of a failing target in 10s, want one a second", len(dials))
		}
		n.set(hostA, accepts(0, ""))
		wait(time.Second)
		if _, results := n.take(); len(results) == 0 || !results[len(results)-1].Reachable {
			t.Errorf("a second after it was back: %+v", results)
		}
		wait(time.Minute)
		if dials, _ := n.take(); len(dials) > 3 {
			t.Errorf("%d probes in a minute of a target that answers again, want its interval of 30s", len(dials))
		}
	})
}
