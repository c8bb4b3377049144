package failover_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/federation/failover"
	"github.com/tailgate-project/tailgate/federation/policy"
)

// newTimed returns a bench with one policy of the times.
func newTimed(t *testing.T, times policy.Times) *bench {
	return &bench{T: t, state: failover.New(config, policy.NewSet(policy.Policy{MinHealthy: 50, Times: times}, nil)), now: start}
}

// up says that link and API server of a cluster are there, so that it needs no observers to be good.
func (b *bench) up(c federation.ClusterID) {
	b.do(failover.LinkChanged{Cluster: c, Up: true})
	b.do(failover.APIChanged{Cluster: c, Up: true})
}

// shares lets time pass to the end and returns the share of c2 for c9 after each tick that changed it.
func (b *bench) shares(end time.Duration) map[time.Duration]uint8 {
	out := map[time.Duration]uint8{}
	last := uint8(255)
	look := func() {
		if v, _ := b.state.Verdict(c2, "c9"); v.Share != last {
			last, out[b.now.Sub(start)] = v.Share, v.Share
		}
	}
	look()
	for {
		at, ok := b.state.Deadline()
		if !ok || at.After(start.Add(end)) {
			return out
		}
		b.until(at.Sub(start))
		look()
	}
}

func TestGraceCountsFromTheLastLoss(t *testing.T) {
	b := newBench(t)
	b.up("c2")
	b.export(c2, 1)
	b.do(failover.LinkChanged{Cluster: "c2"})
	b.until(4 * time.Second)
	b.do(failover.LinkChanged{Cluster: "c2"}) // said again, it is not lost again
	b.do(failover.LinkChanged{Cluster: "c2", Up: true})
	b.do(failover.LinkChanged{Cluster: "c2"})
	b.until(8999 * time.Millisecond)
	b.wantVerdict(c2, "c9", federation.Healthy, failover.ServingStale)
	b.until(9 * time.Second)
	b.wantVerdict(c2, "c9", federation.Unhealthy, failover.ControlLostUnobserved)
}

func TestTheFirstReturnNeedsNoMoreThanTheFailbackDelay(t *testing.T) {
	b := newTimed(t, policy.Times{FailbackDelay: 10 * time.Second, Hold: time.Hour})
	b.up("c2")
	b.export(c2, 1)
	b.export(c2, 0)
	b.until(time.Second)
	b.export(c2, 1)
	b.until(time.Minute)
	b.want("+0s c2 for all: healthy Serving", "+0s c2 for all: unhealthy NoReadyEndpoints", "+11s c2 for all: healthy Serving")
}

func TestWhatFlapsComesBackOncePerHold(t *testing.T) {
	b := newTimed(t, policy.Times{FailbackDelay: time.Second, Hold: 30 * time.Second})
	b.up("c2")
	b.export(c2, 1)
	for b.now.Before(start.Add(100 * time.Second)) { // down for half a second in every three
		b.export(c2, 0)
		b.until(b.now.Sub(start) + 500*time.Millisecond)
		b.export(c2, 1)
		b.until(b.now.Sub(start) + 2500*time.Millisecond)
	}
	b.want(
		"+0s c2 for all: healthy Serving",
		"+0s c2 for all: unhealthy NoReadyEndpoints", "+1.5s c2 for all: healthy Serving",
		"+3s c2 for all: unhealthy NoReadyEndpoints", "+31.5s c2 for all: healthy Serving",
		"+33s c2 for all: unhealthy NoReadyEndpoints", "+1m1.5s c2 for all: healthy Serving",
		"+1m3s c2 for all: unhealthy NoReadyEndpoints", "+1m31.5s c2 for all: healthy Serving",
		"+1m33s c2 for all: unhealthy NoReadyEndpoints",
	)
}

func TestAfterTheHoldNothingIsRemembered(t *testing.T) {
	b := newTimed(t, policy.Times{FailbackDelay: time.Second, Hold: 10 * time.Second})
	b.up("c2")
	b.export(c2, 1)
	b.export(c2, 0)
	b.export(c2, 1)
	b.until(11 * time.Second)
	if v, _ := b.state.Verdict(c2, "c9"); !v.Since.IsZero() {
		t.Errorf("it came back at %v, and still knows", v.Since)
	}
	b.export(c2, 0)
	b.export(c2, 1)
	b.until(12 * time.Second)
	b.wantVerdict(c2, "c9", federation.Healthy, failover.Serving)
}

// TestSilenceBreaksTheFailbackDelay loses the last word of a cluster that was about to come back.
func TestSilenceBreaksTheFailbackDelay(t *testing.T) {
	b := newBench(t)
	b.export(c2, 1)
	b.see("c1", "c2", false)
	b.see("c1", "c2", true) // fresh until +3s
	b.until(time.Minute)
	b.wantVerdict(c2, "c9", federation.Unhealthy, failover.UnreachableByQuorum)
	b.up("c2")
	b.until(69999 * time.Millisecond)
	b.wantVerdict(c2, "c9", federation.Unhealthy, failover.UnreachableByQuorum)
	b.until(70 * time.Second)
	b.wantVerdict(c2, "c9", federation.Healthy, failover.Serving)
}

func TestTheReasonOfWhatIsDownFollows(t *testing.T) {
	b := newBench(t)
	b.up("c2")
	b.export(c2, 1)
	b.export(c2, 0)
	b.do(failover.Observed{Observer: "c1", Target: federation.Target(c2), At: b.now})
	b.export(c2, 1)
	b.wantVerdict(c2, "c9", federation.Unhealthy, failover.UnreachableByQuorum)
}

func TestTheWeightRampsAfterAReturn(t *testing.T) {
	b := newTimed(t, policy.Times{FailbackDelay: 5 * time.Second, Ramp: 10 * time.Second})
	b.up("c2")
	b.export(c2, 1)
	b.export(c2, 0)
	b.export(c2, 1)
	want := map[time.Duration]uint8{0: 100} // of its weight, of which a subject that is down takes nothing
	for i := range 10 {
		want[time.Duration(5+i)*time.Second] = uint8(10 + 10*i)
	}
	if diff := cmp.Diff(want, b.shares(time.Hour)); diff != "" {
		t.Errorf("shares (-want +got)\n%s", diff)
	}
	if at, ok := b.state.Deadline(); ok {
		t.Errorf("still due at +%v", at.Sub(start))
	}
}

// TestOddRampsEnd has steps that are no whole nanoseconds.
func TestOddRampsEnd(t *testing.T) {
	for _, ramp := range []time.Duration{1, 3, 9, 10, 11, 99, 1_000_000_007} {
		b := newTimed(t, policy.Times{Ramp: ramp})
		b.up("c2")
		b.export(c2, 1)
		b.export(c2, 0)
		b.export(c2, 1)
		b.do(failover.Operated{Subject: federation.Target{Cluster: "c2"}, Mode: failover.Drain, Ramp: ramp})
		b.until(2 * time.Second)
		v, _ := b.state.Verdict(c2, "c9")
		if v.Reason != failover.Drained || v.Share != 0 {
			t.Errorf("ramp of %d ns: %+v", ramp, v)
		}
		if at, ok := b.state.Deadline(); ok {
			t.Errorf("ramp of %d ns: still due at +%v", ramp, at.Sub(start))
		}
	}
}
