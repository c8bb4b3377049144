package failover_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/federation/failover"
	"github.com/tailgate-project/tailgate/federation/policy"
)

// waiting returns a bench whose clusters come back after ten seconds and whose webapp waits as long as told: for
// everybody, or for the consumers alone.
func waiting(t *testing.T, delay time.Duration, consumers ...federation.ClusterID) *bench {
	set := policy.NewSet(policy.Policy{MinHealthy: 50, Times: policy.Times{Grace: 5 * time.Second, FailbackDelay: 10 * time.Second}}, []policy.Policy{{
		Name: "patient", MinHealthy: 50, Select: policy.Selector{Names: []string{"webapp"}, Consumers: consumers},
		Times: policy.Times{Grace: 5 * time.Second, FailbackDelay: delay},
	}})
	b := &bench{T: t, state: failover.New(config, set), now: start}
	b.up("c2")
	b.export(c2, 1)
	return b
}

func TestAnExportWhosePolicyWaitsLonger(t *testing.T) {
	b := waiting(t, time.Minute)
	b.see("c1", "c2", false)
	b.until(time.Second)
	b.see("c1", "c2", true)
	b.until(10999 * time.Millisecond)
	b.wantVerdict(c2, "c9", federation.Unhealthy, failover.UnreachableByQuorum)
	b.until(11 * time.Second)
	b.wantVerdict(c2, "c9", federation.Unhealthy, failover.Recovering)
	b.until(time.Hour)
	b.want(
		"+0s c2 for all: healthy Serving", "+0s c2 for all: unhealthy UnreachableByQuorum", "+0s c2 for c1: unhealthy UnreachableByObserver",
		"+11s c2 for all: healthy Serving", "+11s c2 for c1: healthy Serving",
		"+11s c2 for all: unhealthy Recovering", "+11s c2 for c1: unhealthy Recovering",
		"+1m1s c2 for all: healthy Serving", "+1m1s c2 for c1: healthy Serving", // a minute after the cluster was good again
	)
}

func TestAConsumerWhosePolicyWaitsLonger(t *testing.T) {
	b := waiting(t, time.Minute, "c1")
	b.see("c3", "c2", true)
	b.see("c4", "c2", true)
	b.see("c1", "c2", false)
	b.until(time.Second)
	b.see("c1", "c2", true)
	b.until(11 * time.Second)
	b.wantVerdict(c2, "c1", federation.Unhealthy, failover.Recovering)
	b.wantVerdict(c2, "c3", federation.Healthy, failover.Serving)
	b.until(time.Hour)
	b.want(
		"+0s c2 for all: healthy Serving", "+0s c2 for c1: unhealthy UnreachableByObserver",
		"+11s c2 for c1: healthy Serving", "+11s c2 for c1: unhealthy Recovering", "+1m1s c2 for c1: healthy Serving",
	)
}

// TestTheWaitBeginsAnewWhenTheClusterBreaks has the cluster die again while its export waits: the delay of the export
// counts from when the cluster was last good.
func TestTheWaitBeginsAnewWhenTheClusterBreaks(t *testing.T) {
	b := waiting(t, time.Minute)
	b.see("c1", "c2", false)
	b.see("c1", "c2", true)
	b.until(20 * time.Second) // the cluster is back since +10s
	b.keep(30*time.Second, sees("c1", "c2", false))
	b.see("c1", "c2", true)
	b.until(89999 * time.Millisecond)
	b.wantVerdict(c2, "c9", federation.Unhealthy, failover.Recovering)
	b.until(90 * time.Second)
	b.wantVerdict(c2, "c9", federation.Healthy, failover.Serving)
}

// TestTheWaitOfAnInstantReturn has clusters come back at once, so that they are good again and back in one event.
func TestTheWaitOfAnInstantReturn(t *testing.T) {
	set := policy.NewSet(policy.Policy{MinHealthy: 50}, []policy.Policy{{
		Name: "patient", Select: policy.Selector{Names: []string{"webapp"}}, Times: policy.Times{FailbackDelay: time.Minute},
	}})
	b := &bench{T: t, state: failover.New(config, set), now: start}
	b.up("c2")
	b.export(c2, 1)
	b.see("c1", "c2", false)
	b.see("c1", "c2", true)
	b.wantVerdict(c2, "c9", federation.Unhealthy, failover.Recovering)
	b.until(time.Minute)
	b.wantVerdict(c2, "c9", federation.Healthy, failover.Serving)
}

// TestTheWaitOfWhatIsGoodLater has a VIP that fails until the very moment in which its cluster is back.
func TestTheWaitOfWhatIsGoodLater(t *testing.T) {
	b := waiting(t, time.Minute)
	b.see("c1", "c2", false)
	b.do(failover.Observed{Observer: "c1", Target: federation.Target(c2), At: b.now}) // fresh until +15s
	b.keep(5*time.Second, sees("c1", "c2", false))
	b.see("c1", "c2", true)
	b.until(14 * time.Second)
	b.wantVerdict(c2, "c9", federation.Unhealthy, failover.UnreachableByQuorum)
	b.until(74999 * time.Millisecond)
	b.wantVerdict(c2, "c9", federation.Unhealthy, failover.UnreachableByQuorum)
	b.until(75 * time.Second)
	b.wantVerdict(c2, "c9", federation.Healthy, failover.Serving)
}

// TestADrainThatEndsAsTheClusterComesBack is drained, and does not wait for anything.
func TestADrainThatEndsAsTheClusterComesBack(t *testing.T) {
	b := waiting(t, time.Minute)
	b.see("c1", "c2", false)
	b.see("c1", "c2", true)
	b.operate(federation.Target(c2), failover.Drain, 10*time.Second)
	b.until(10 * time.Second)
	b.wantVerdict(c2, "c9", federation.Unhealthy, failover.Drained)
}

// TestAnExportThatGoesAsItsClusterComesBack is an event that is taken before the tick that is due at the same moment.
func TestAnExportThatGoesAsItsClusterComesBack(t *testing.T) {
	b := waiting(t, time.Minute)
	b.see("c1", "c2", false)
	b.see("c1", "c2", true)
	b.do(failover.Observed{Observer: "c1", Target: federation.Target(c2), Reachable: true, At: b.now})
	b.until(9999 * time.Millisecond)
	b.now = start.Add(10 * time.Second)
	b.do(failover.ExportRemoved{Key: c2})
	b.want(
		"+0s c2 for all: healthy Serving", "+0s c2 for all: unhealthy UnreachableByQuorum", "+0s c2 for c1: unhealthy UnreachableByObserver",
		"+10s c2 for all: healthy Serving", "+10s c2 for c1: healthy Serving",
	)
}

// TestAPolicyThatWaitsLess hurries its exports only, never the cluster.
func TestAPolicyThatWaitsLess(t *testing.T) {
	b := waiting(t, time.Second)
	b.see("c1", "c2", false)
	b.see("c1", "c2", true)
	b.until(9999 * time.Millisecond)
	b.wantVerdict(c2, "c9", federation.Unhealthy, failover.UnreachableByQuorum)
	b.until(10 * time.Second)
	b.wantVerdict(c2, "c9", federation.Healthy, failover.Serving)
	b.export(c2, 0)
	b.export(c2, 1)
	b.until(11 * time.Second)
	b.wantVerdict(c2, "c9", federation.Healthy, failover.Serving)
}

func TestADrainedClusterIsNotWaitedFor(t *testing.T) {
	b := waiting(t, time.Hour)
	b.operate(cluster2, failover.Drain, 0)
	b.until(time.Second)
	b.operate(cluster2, failover.Normal, 0)
	b.wantVerdict(c2, "c9", federation.Healthy, failover.Serving)
}

// TestConsumersTimes has c1's cell follow c1's policy: the VIP fails for c1 and c3 alike, and comes back for each when
// its own policy says.
func TestConsumersTimes(t *testing.T) {
	b := waiting(t, time.Minute, "c1")
	for _, o := range []federation.ClusterID{"c4", "c5", "c6"} {
		b.do(failover.Observed{Observer: o, Target: federation.Target(c2), Reachable: true, At: b.now})
	}
	for _, reachable := range []bool{false, true} {
		for _, o := range []federation.ClusterID{"c1", "c3"} {
			b.do(failover.Observed{Observer: o, Target: federation.Target(c2), Reachable: reachable, At: b.now})
		}
	}
	b.until(time.Hour)
	b.want(
		"+0s c2 for all: healthy Serving", "+0s c2 for c1: unhealthy UnreachableByObserver", "+0s c2 for c3: unhealthy UnreachableByObserver",
		"+10s c2 for c3: healthy Serving", "+1m0s c2 for c1: healthy Serving",
	)
}

// TestPoliciesThatChange count at once for what is under way.
func TestPoliciesThatChange(t *testing.T) {
	change := func(b *bench, times policy.Times) *policy.Set {
		set := policy.NewSet(policy.Policy{MinHealthy: 50, Times: times}, nil)
		b.do(failover.PoliciesChanged{Policies: set})
		return set
	}
	t.Run("shorter-failback", func(t *testing.T) {
		b := newTimed(t, policy.Times{FailbackDelay: time.Hour})
		b.up("c2")
		b.export(c2, 1)
		b.export(c2, 0)
		b.export(c2, 1)
		b.until(time.Minute)
		b.wantVerdict(c2, "c9", federation.Unhealthy, failover.NoReadyEndpoints)
		if set := change(b, policy.Times{FailbackDelay: time.Minute}); b.state.Policies() != set {
			t.Error("other policies count")
		}
		b.wantVerdict(c2, "c9", federation.Healthy, failover.Serving)
	})
	t.Run("longer-failback", func(t *testing.T) {
		b := newTimed(t, policy.Times{FailbackDelay: time.Minute})
		b.up("c2")
		b.export(c2, 1)
		b.export(c2, 0)
		b.export(c2, 1)
		change(b, policy.Times{FailbackDelay: time.Hour})
		b.until(59 * time.Minute)
		b.wantVerdict(c2, "c9", federation.Unhealthy, failover.NoReadyEndpoints)
		b.until(time.Hour)
		b.wantVerdict(c2, "c9", federation.Healthy, failover.Serving)
	})
	t.Run("shorter-grace", func(t *testing.T) {
		b := newTimed(t, policy.Times{Grace: time.Hour})
		b.export(c2, 1)
		b.do(failover.LinkChanged{Cluster: "c2"})
		b.until(time.Minute)
		change(b, policy.Times{Grace: 2 * time.Minute})
		b.until(2*time.Minute - 1)
		b.wantVerdict(c2, "c9", federation.Healthy, failover.ServingStale)
		b.until(2 * time.Minute)
		b.wantVerdict(c2, "c9", federation.Unhealthy, failover.ControlLostUnobserved)
	})
	t.Run("everybody-is-told", func(t *testing.T) { // since policies rank and weigh too
		b := newTimed(t, times)
		b.up("c2")
		b.up("c3")
		tr := b.state.Plan(failover.PoliciesChanged{Policies: policySets[1]}, b.now)
		want := []failover.Touch{{Subject: cluster2}, {Subject: federation.Target{Cluster: "c3"}}}
		if diff := cmp.Diff(want, tr.Touched); diff != "" {
			t.Errorf("touched (-want +got)\n%s", diff)
		}
	})
	t.Run("the-same", func(t *testing.T) {
		b := newTimed(t, times)
		b.up("c2")
		tr := b.state.Plan(failover.PoliciesChanged{Policies: policy.NewSet(policy.Policy{MinHealthy: 50, Times: times}, nil)}, b.now)
		if len(tr.Touched) > 0 {
			t.Errorf("policies that say the same touched %v", tr.Touched)
		}
	})
	t.Run("a-label", func(t *testing.T) {
		b := &bench{T: t, state: failover.New(config, policySets[0]), now: start}
		b.up("c2")
		slow := federation.Export{Key: c2, Ready: 1, Labels: map[string]string{"speed": "slow"}}
		b.export(c2, 0)
		b.do(failover.ExportChanged{Export: slow})
		b.until(2 * time.Second)
		b.wantVerdict(c2, "c9", federation.Unhealthy, failover.NoReadyEndpoints)
		slow.Labels = nil // the default's two seconds are over
		b.do(failover.ExportChanged{Export: slow})
		b.wantVerdict(c2, "c9", federation.Healthy, failover.Serving)
	})
}
