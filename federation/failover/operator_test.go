package failover_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/federation/failover"
	"github.com/tailgate-project/tailgate/federation/policy"
)

var cluster2 = federation.Target{Cluster: "c2"}

func (b *bench) operate(t federation.Target, m failover.Mode, ramp time.Duration) {
	b.Helper()
	b.do(failover.Operated{Subject: t, Mode: m, Ramp: ramp})
}

// TestDrain is the last row of the table: the weight of a cluster, or of one export, ramps to zero, whatever the
// signals say; then it is drained, until the operator takes it back.
func TestDrain(t *testing.T) {
	for name, subject := range map[string]federation.Target{"cluster": cluster2, "export": federation.Target(c2)} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			b.up("c2")
			b.export(c2, 1)
			b.operate(subject, failover.Drain, 20*time.Second)
			b.wantVerdict(c2, "c9", federation.Healthy, failover.Draining)
			want := map[time.Duration]uint8{}
			for i := range 11 {
				want[time.Duration(2*i)*time.Second] = uint8(100 - 10*i)
			}
			if diff := cmp.Diff(want, b.shares(time.Hour)); diff != "" {
				t.Errorf("shares (-want +got)\n%s", diff)
			}
			b.wantVerdict(c2, "c9", federation.Unhealthy, failover.Drained)
			b.until(time.Hour)
			b.operate(subject, failover.Normal, 0)
			b.wantVerdict(c2, "c9", federation.Healthy, failover.Serving) // at once, with no failback delay
			b.want("+0s c2 for all: healthy Serving", "+0s c2 for all: healthy Draining", "+20s c2 for all: unhealthy Drained", "+1h0m0s c2 for all: healthy Serving")
		})
	}
}

func TestDrainsOfClusterAndExportMultiply(t *testing.T) {
	b := newBench(t)
	b.up("c2")
	b.export(c2, 1)
	b.operate(cluster2, failover.Drain, 10*time.Second)
	b.operate(federation.Target(c2), failover.Drain, 20*time.Second)
	b.until(5 * time.Second) // half, and two tenths less
	if v, _ := b.state.Verdict(c2, "c9"); v.Share != 40 {
		t.Errorf("share %d, want 40", v.Share)
	}
}

func TestADrainTakesThePolicysRampUnlessTold(t *testing.T) {
	b := newTimed(t, policy.Times{Ramp: 30 * time.Second})
	b.up("c2")
	b.export(c2, 1)
	b.operate(cluster2, failover.Drain, -1)
	b.operate(cluster2, failover.Drain, 0) // said again, it is not begun again
	b.until(time.Hour)
	b.want("+0s c2 for all: healthy Serving", "+0s c2 for all: healthy Draining", "+30s c2 for all: unhealthy Drained")
}

func TestADrainWithoutARampIsOneDecision(t *testing.T) {
	b := newBench(t)
	b.up("c2")
	b.export(c2, 1)
	b.operate(cluster2, failover.Drain, 0)
	b.want("+0s c2 for all: healthy Serving", "+0s c2 for all: unhealthy Drained")
	if v, _ := b.state.Verdict(c2, "c9"); v.Share != 0 {
		t.Errorf("share %d of what is drained", v.Share)
	}
}

func TestADrainTakenBackIsNotADeath(t *testing.T) {
	b := newBench(t)
	b.up("c2")
	b.export(c2, 1)
	b.operate(cluster2, failover.Drain, 10*time.Second)
	b.until(5 * time.Second)
	b.operate(cluster2, failover.Normal, 0)
	b.wantVerdict(c2, "c9", federation.Healthy, failover.Serving)
	if v, _ := b.state.Verdict(c2, "c9"); v.Share != 100 {
		t.Errorf("share %d after the drain was taken back", v.Share)
	}
	b.want("+0s c2 for all: healthy Serving", "+0s c2 for all: healthy Draining", "+5s c2 for all: healthy Released")
}

// TestUndrainOfTheDead does not make the dead serve: only what is down for the drain alone comes back with it.
func TestUndrainOfTheDead(t *testing.T) {
	b := newBench(t)
	b.up("c2")
	b.export(c2, 1)
	b.operate(federation.Target(c2), failover.Drain, 0)
	b.export(c2, 0)
	b.operate(federation.Target(c2), failover.Normal, 0)
	b.wantVerdict(c2, "c9", federation.Unhealthy, failover.NoReadyEndpoints)
	b.export(c2, 1)
	b.until(9999 * time.Millisecond)
	b.wantVerdict(c2, "c9", federation.Unhealthy, failover.NoReadyEndpoints)
	b.until(10 * time.Second)
	b.wantVerdict(c2, "c9", federation.Healthy, failover.Serving)
}

// TestCordon does not come back while it is cordoned, and at once after it, if it was good for long enough.
func TestCordon(t *testing.T) {
	for name, subject := range map[string]federation.Target{"cluster": cluster2, "export": federation.Target(c2)} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			b.up("c2")
			b.export(c2, 1)
			b.operate(subject, failover.Cordon, 0)
			b.wantVerdict(c2, "c9", federation.Healthy, failover.Cordoned)
			fail := failover.Observed{Observer: "c1", Target: subject, At: b.now}
			b.do(fail)
			b.wantVerdict(c2, "c9", federation.Unhealthy, failover.UnreachableByQuorum)
			b.until(time.Hour)
			b.wantVerdict(c2, "c9", federation.Unhealthy, failover.UnreachableByQuorum)
			if v, _ := b.state.Verdict(c2, "c9"); !v.Cordoned {
				t.Error("not said to be cordoned")
			}
			if at, ok := b.state.Deadline(); ok {
				t.Errorf("due at +%v, though nothing may change", at.Sub(start))
			}
			b.operate(subject, failover.Normal, 0)
			b.wantVerdict(c2, "c9", federation.Healthy, failover.Serving)
		})
	}
}

func TestADrainedOneThatIsCordonedStaysOut(t *testing.T) {
	b := newBench(t)
	b.up("c2")
	b.export(c2, 1)
	b.operate(cluster2, failover.Drain, 0)
	b.operate(cluster2, failover.Cordon, 0)
	b.until(time.Hour)
	b.wantVerdict(c2, "c9", federation.Unhealthy, failover.Drained)
	b.operate(cluster2, failover.Normal, 0)
	b.wantVerdict(c2, "c9", federation.Healthy, failover.Serving)
}

// TestPin moves from one export of a service to another, leaves other services alone, and is kept through failures.
func TestPin(t *testing.T) {
	b := newBench(t)
	api := federation.ExportKey{Cluster: "c2", Service: federation.Service("default", "api")}
	for _, k := range []federation.ExportKey{c2, c3, api} {
		b.export(k, 1)
	}
	b.operate(federation.Target(api), failover.Pin, 0)
	b.operate(federation.Target(c2), failover.Pin, 0)
	b.operate(federation.Target(c3), failover.Pin, 0)
	b.wantVerdict(c2, "c9", federation.Healthy, failover.Serving)
	b.wantVerdict(c3, "c9", federation.Healthy, failover.Pinned)
	b.wantVerdict(api, "c9", federation.Healthy, failover.Pinned)
	b.export(c3, 0)
	b.wantVerdict(c3, "c9", federation.Unhealthy, failover.NoReadyEndpoints)
	if v, _ := b.state.Verdict(c3, "c9"); !v.Pinned {
		t.Error("not pinned any more")
	}
	b.want(
		"+0s c2 for all: healthy Serving", "+0s c3 for all: healthy Serving", "+0s c2 for all: healthy Serving",
		"+0s c2 for all: healthy Pinned",
		"+0s c2 for all: healthy Pinned",
		"+0s c2 for all: healthy Released", "+0s c3 for all: healthy Pinned",
		"+0s c3 for all: unhealthy NoReadyEndpoints",
	)
}

// TestWhatCannotBeOperated is a subject that is not there, a cluster to be pinned, and a wish that is there already.
func TestWhatCannotBeOperated(t *testing.T) {
	b := newBench(t)
	b.export(c2, 1)
	b.operate(federation.Target(c2), failover.Cordon, 0)
	for name, e := range map[string]failover.Operated{
		"unknown-cluster":             {Subject: federation.Target{Cluster: "c7"}, Mode: failover.Drain},
		"export-of-unknown-cluster":   {Subject: federation.Target{Cluster: "c7", Service: webapp}, Mode: failover.Pin},
		"unknown-export":              {Subject: federation.Target{Cluster: "c2", Service: federation.Service("a", "b")}, Mode: failover.Drain},
		"pin-of-a-cluster":            {Subject: cluster2, Mode: failover.Pin},
		"release-of-what-is-released": {Subject: cluster2},
		"said-again":                  {Subject: federation.Target(c2), Mode: failover.Cordon, Ramp: time.Hour},
	} {
		t.Run(name, func(t *testing.T) {
			tr := b.state.Plan(e, b.now)
			exports, clusters := tr.Save()
			if len(tr.Decisions)+len(tr.Touched)+len(exports)+len(clusters) > 0 {
				t.Errorf("it changed something: %+v", tr)
			}
		})
	}
	b.state.Apply(b.state.Plan(failover.Operated{Subject: federation.Target{Cluster: "c7"}, Mode: failover.Drain}, b.now))
	b.export(federation.ExportKey{Cluster: "c7", Service: webapp}, 1)
	b.wantVerdict(federation.ExportKey{Cluster: "c7", Service: webapp}, "c9", federation.Healthy, failover.Serving)
}

func TestModeSaysSinceWhen(t *testing.T) {
	b := newBench(t)
	b.export(c2, 1)
	b.until(time.Second)
	for _, subject := range []federation.Target{cluster2, federation.Target(c2)} {
		b.operate(subject, failover.Cordon, 0)
		if m, since := b.state.Mode(subject); m != failover.Cordon || !since.Equal(b.now) {
			t.Errorf("%s: %q since %v", subject, m, since)
		}
		b.operate(subject, failover.Normal, 0)
		if m, since := b.state.Mode(subject); m != failover.Normal || !since.IsZero() {
			t.Errorf("%s: %q since %v after the release", subject, m, since)
		}
	}
	if m, _ := b.state.Mode(federation.Target{Cluster: "c7"}); m != failover.Normal {
		t.Errorf("somebody wants %q of a cluster that is not there", m)
	}
}
