package probe_test

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tailgate-project/tailgate/spoke/probe"
)

// checked is a target whose results count in a row.
func checked(id string, interval time.Duration, addr netip.AddrPort) probe.Target {
	return probe.Target{ID: id, Addrs: []netip.AddrPort{addr}, Interval: interval, Timeout: time.Second, Check: &probe.Check{}}
}

func TestChecksKeepToTheirInterval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, _ := start(t, map[netip.AddrPort]behaviour{hostA: fails(syscall.ECONNREFUSED)}, checked("target", 10*time.Second, hostA))
		wait(2 * time.Second)
		dials, results := n.take()
		if len(dials) != 1 || len(results) != 1 || results[0].Reason != probe.Refused {
			t.Fatalf("dialled at %v, reported %v; want one check within 2s that is not confirmed by another", dials, results)
		}
		wait(60 * time.Second)
		dials, results = n.take()
		if len(dials) != 6 || len(results) != 6 {
			t.Errorf("%d checks and %d reports in a minute, want 6 of both: one failure is not followed by more", len(dials), len(results))
		}
		for i := 1; i < len(dials); i++ {
			if gap := dials[i].Sub(dials[i-1]); gap != 10*time.Second {
				t.Errorf("checks %v apart, want 10s", gap)
			}
		}
		n.set(hostA, accepts(0, ""))
		wait(60 * time.Second)
		if _, results := n.take(); len(results) != 6 || !results[5].Reachable {
			t.Errorf("reported %v, want 6 good results in a minute", results)
		}
	})
}

func TestEachResultOfACheckIsReported(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, _ := start(t, map[netip.AddrPort]behaviour{hostA: accepts(0, "")}, checked("target", 100*time.Millisecond, hostA))
		wait(10 * time.Second)
		if _, results := n.take(); len(results) != 100 {
			t.Errorf("%d reports, want one for each of 100 checks", len(results))
		}
	})
}

func TestOneThatHangsHoldsUpNobody(t *testing.T) {
	const count = 500
	synctest.Test(t, func(t *testing.T) {
		var targets []probe.Target
		for i := range count {
			targets = append(targets, checked(fmt.Sprintf("hangs-%d", i), time.Second, hostA))
		}
		targets = append(targets, checked("answers", time.Second, hostB))
		n, _ := start(t, map[netip.AddrPort]behaviour{hostA: hangs, hostB: accepts(0, "")}, targets...)
		wait(10 * time.Second)
		good, bad := 0, 0
		_, results := n.take()
		for _, r := range results {
			if r.Reachable {
				good++
			} else if r.Reason == probe.Timeout {
				bad++
			}
		}
		// One that takes as long as its interval misses the beat at which it ends.
		if good != 10 || bad < count*4 {
			t.Errorf("%d good results and %d timeouts in 10s, want 10 and at least %d", good, bad, count*4)
		}
	})
}

func TestTargetsThatWaitCostNoGoroutine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		before := runtime.NumGoroutine()
		var targets []probe.Target
		for i := range 5000 {
			targets = append(targets, checked(fmt.Sprintf("target-%d", i), time.Minute, hostA))
		}
		n, _ := start(t, map[netip.AddrPort]behaviour{hostA: accepts(0, "")}, targets...)
		wait(10 * time.Second)
		if dials, _ := n.take(); len(dials) < 5000 {
			t.Errorf("%d checks, want all targets checked once within 10s", len(dials))
		}
		if more := runtime.NumGoroutine() - before; more > 20 {
			t.Errorf("%d goroutines for 5000 targets that wait", more)
		}
	})
}

func TestAChangeEndsWhatIsUnderWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var ended atomic.Int64
		slow := func(ctx context.Context) (net.Conn, error) {
			<-ctx.Done()
			ended.Add(1)
			return nil, ctx.Err()
		}
		changes, goes := checked("changes", time.Second, hostA), checked("goes", time.Second, hostA)
		changes.Timeout, goes.Timeout = time.Hour, time.Hour
		n, p := start(t, map[netip.AddrPort]behaviour{hostA: slow, hostB: accepts(0, "")}, changes, goes)
		wait(2 * time.Second)
		if dials, results := n.take(); len(dials) != 2 || len(results) != 0 {
			t.Fatalf("%d checks under way with results %v, want two without", len(dials), results)
		}
		p.Set([]probe.Target{checked("changes", time.Second, hostB)})
		synctest.Wait()
		_, results := n.take()
		if diff := cmp.Diff([]probe.Result{{ID: "changes", Reachable: true}}, results, withoutTime); diff != "" || ended.Load() != 2 {
			t.Errorf("%d checks ended; results at once (-want +got):\n%s", ended.Load(), diff)
		}
		wait(10 * time.Second)
		if _, results := n.take(); len(results) != 10 {
			t.Errorf("%d results in 10s, want 10 of the target that stays", len(results))
		}
	})
}

func TestAShorterIntervalCountsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, p := start(t, map[netip.AddrPort]behaviour{hostA: accepts(0, "")}, checked("target", time.Hour, hostA))
		wait(3 * time.Second)
		n.take()
		p.Set([]probe.Target{checked("target", time.Second, hostA)})
		wait(10 * time.Second)
		if _, results := n.take(); len(results) < 10 {
			t.Errorf("%d results in 10s, want those of the new interval", len(results))
		}
	})
}

func TestRows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		target := checked("target", time.Second, hostA)
		n, p := start(t, map[netip.AddrPort]behaviour{hostA: accepts(0, "")}, target)
		rows := func() (rows []int) {
			_, results := n.take()
			for _, r := range results {
				rows = append(rows, r.Row)
			}
			return rows
		}
		want := func(when string, want ...int) {
			t.Helper()
			if diff := cmp.Diff(want, rows()); diff != "" {
				t.Errorf("%s (-want +got)\n%s", when, diff)
			}
		}
		wait(3 * time.Second)
		want("good ones", 1, 2, 3)
		n.set(hostA, fails(syscall.ECONNREFUSED))
		wait(2 * time.Second)
		want("bad ones", 1, 2)
		target.Check = &probe.Check{Kind: probe.HTTP}
		p.Set([]probe.Target{target})
		synctest.Wait()
		want("of another check", 1)
	})
}
