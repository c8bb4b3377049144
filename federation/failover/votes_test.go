package failover_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/federation/failover"
)

// TestQuorum has n observers, of which more and more fail: more than half of them bring the cluster down for all.
func TestQuorum(t *testing.T) {
	for n := 1; n <= 5; n++ {
		t.Run(fmt.Sprintf("of-%d", n), func(t *testing.T) {
			b := newBench(t)
			b.export(c2, 1)
			for i := range n {
				b.see(crowded(i), "c2", true)
			}
			for failing := 1; failing <= n; failing++ {
				b.see(crowded(failing-1), "c2", false)
				want, reason := federation.Healthy, failover.Serving
				if 2*failing > n {
					want, reason = federation.Unhealthy, failover.UnreachableByQuorum
				}
				b.wantVerdict(c2, "c9", want, reason)
				if want == federation.Healthy {
					b.wantVerdict(c2, crowded(failing-1), federation.Unhealthy, failover.UnreachableByObserver)
				}
			}
		})
	}
}

// TestQuorumCountsOnlyWhatIsFresh lets those who reach the cluster fall silent: those who fail it become the quorum.
func TestQuorumCountsOnlyWhatIsFresh(t *testing.T) {
	b := newBench(t)
	b.export(c2, 1)
	b.keep(2*time.Second, sees("c3", "c2", true), sees("c4", "c2", true), sees("c1", "c2", false))
	b.wantVerdict(c2, "c9", federation.Healthy, failover.Serving)
	b.keep(4*time.Second, sees("c1", "c2", false)) // the others' last word was at +1.5s
	b.wantVerdict(c2, "c9", federation.Healthy, failover.Serving)
	b.keep(4500*time.Millisecond, sees("c1", "c2", false))
	b.until(4500 * time.Millisecond)
	b.wantVerdict(c2, "c9", federation.Unhealthy, failover.UnreachableByQuorum)
	b.want(
		"+0s c2 for all: healthy Serving", "+0s c2 for c1: unhealthy UnreachableByObserver",
		"+4.5s c2 for all: unhealthy UnreachableByQuorum",
	)
}

// TestSelfDoubt is about an observer that fails most of the clusters that it probes: its vote evicts nobody, though it
// counts for itself.
func TestSelfDoubt(t *testing.T) {
	probe := func(b *bench, target federation.Target, reachable bool) {
		b.do(failover.Observed{Observer: "c1", Target: target, Reachable: reachable, At: b.now})
	}
	ingress := func(c federation.ClusterID) federation.Target { return federation.Target{Cluster: c} }
	tests := []struct {
		name string
		do   func(b *bench)
		want failover.Reason // for c9, which observes nothing
	}{
		{name: "fails-all-of-two", want: failover.Serving, do: func(b *bench) {
			probe(b, ingress("c3"), false)
			probe(b, ingress("c2"), false)
		}},
		{name: "fails-two-of-three", want: failover.Serving, do: func(b *bench) {
			probe(b, ingress("c4"), true)
			probe(b, ingress("c3"), false)
			probe(b, ingress("c2"), false)
		}},
		{name: "fails-one-of-two", want: failover.UnreachableByQuorum, do: func(b *bench) {
			probe(b, ingress("c3"), true)
			probe(b, ingress("c2"), false)
		}},
		{name: "has-nothing-to-compare-with", want: failover.UnreachableByQuorum, do: func(b *bench) { probe(b, ingress("c2"), false) }},
		{name: "has-only-vips-to-compare-with", want: failover.UnreachableByQuorum, do: func(b *bench) {
			probe(b, federation.Target(c3), true)
			probe(b, ingress("c2"), false)
		}},
		{name: "is-doubted-of-vips-too", want: failover.Serving, do: func(b *bench) {
			probe(b, ingress("c3"), false)
			probe(b, ingress("c4"), false)
			probe(b, federation.Target(c2), false)
		}},
		{name: "is-believed-of-vips-otherwise", want: failover.UnreachableByQuorum, do: func(b *bench) {
			probe(b, ingress("c3"), true)
			probe(b, ingress("c4"), false)
			probe(b, federation.Target(c2), false)
		}},
		{name: "ceases-to-doubt-itself-when-it-reaches-others", want: failover.UnreachableByQuorum, do: func(b *bench) {
			probe(b, ingress("c3"), false)
			probe(b, ingress("c2"), false)
			probe(b, ingress("c3"), true)
		}},
		{name: "ceases-to-doubt-itself-when-what-it-saw-is-old", want: failover.UnreachableByQuorum, do: func(b *bench) {
			probe(b, ingress("c3"), false)
			b.until(time.Second)
			probe(b, ingress("c2"), false)
			b.until(3 * time.Second)
		}},
		{name: "ceases-to-doubt-itself-when-the-others-are-gone", want: failover.UnreachableByQuorum, do: func(b *bench) {
			probe(b, ingress("c3"), false)
			probe(b, ingress("c2"), false)
			b.do(failover.ClusterGone{Cluster: "c3"})
		}},
		{name: "begins-to-doubt-itself-after-it-was-believed", want: failover.UnreachableByQuorum, do: func(b *bench) {
			probe(b, ingress("c2"), false)
			probe(b, ingress("c3"), false) // what is down does not come back before the failback delay
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := newBench(t)
			b.export(c2, 1)
			tt.do(b)
			h := federation.Unhealthy
			if tt.want == failover.Serving {
				h = federation.Healthy
			}
			b.wantVerdict(c2, "c9", h, tt.want)
			b.wantVerdict(c2, "c1", federation.Unhealthy, map[bool]failover.Reason{true: failover.UnreachableByObserver, false: tt.want}[tt.want == failover.Serving])
		})
	}
}

// TestWhoReachesAVIPReachesItsCluster is the cluster that nobody probes as such.
func TestWhoReachesAVIPReachesItsCluster(t *testing.T) {
	b := newBench(t)
	b.export(c2, 1)
	b.do(failover.LinkChanged{Cluster: "c2"})
	vip := failover.Observed{Observer: "c1", Target: federation.Target(c2), Reachable: true}
	b.keep(20*time.Second, vip)
	b.wantVerdict(c2, "c9", federation.Healthy, failover.ServingStale)
	b.until(34499 * time.Millisecond) // it is fresh for 15 s after +19.5s
	b.wantVerdict(c2, "c9", federation.Healthy, failover.ServingStale)
	b.until(34500 * time.Millisecond)
	b.wantVerdict(c2, "c9", federation.Unhealthy, failover.ControlLostUnobserved)
}

// TestDecisionsNameTheVotes looks at what the journal tells of the observers.
func TestDecisionsNameTheVotes(t *testing.T) {
	state := failover.New(config, only)
	do := func(e failover.Event) []failover.Decision {
		tr := state.Plan(e, start)
		state.Apply(tr)
		return tr.Decisions
	}
	look := func(observer, cluster federation.ClusterID, reachable bool) []failover.Decision {
		return do(failover.Observed{Observer: observer, Target: federation.Target{Cluster: cluster}, Reachable: reachable, At: start})
	}
	do(failover.ExportChanged{Export: federation.Export{Key: c2, Ready: 1}})
	for i := range 19 {
		look(crowded(i), "c2", true)
	}
	look("doubtful", "c3", false)
	look("doubtful", "c2", false)
	for i := range 10 {
		decisions := look(crowded(i), "c2", false)
		if i < 9 {
			continue
		}
		want := failover.Votes{Reach: 9, Fail: 10, Doubted: 1, Failing: []federation.ClusterID{"c000", "c001", "c002", "c003", "c004", "c005", "c006", "c007"}}
		if diff := cmp.Diff(want, decisions[0].Inputs.Votes); diff != "" {
			t.Errorf("votes (-want +got)\n%s", diff)
		}
	}
}

// TestObservationsThatDoNotCount are of the cluster by itself, too old, or late.
func TestObservationsThatDoNotCount(t *testing.T) {
	b := newBench(t)
	b.export(c2, 1)
	b.until(10 * time.Second)
	b.see("c2", "c2", false)
	b.do(failover.Observed{Observer: "c1", Target: federation.Target{Cluster: "c2"}, At: b.now.Add(-config.Fresh)})
	b.do(failover.Observed{Observer: "c1", Target: federation.Target(c2), At: b.now.Add(-config.FreshVIP)})
	b.wantVerdict(c2, "c9", federation.Healthy, failover.Serving)
	// Said again, it counts from its own time; said late, it takes nothing back.
	b.see("c1", "c2", true)
	b.until(12 * time.Second)
	b.see("c1", "c2", true)
	b.do(failover.Observed{Observer: "c1", Target: federation.Target{Cluster: "c2"}, Reachable: true, At: start.Add(11 * time.Second)})
	b.do(failover.LinkChanged{Cluster: "c2"})
	b.until(16 * time.Second)
	b.wantVerdict(c2, "c9", federation.Healthy, failover.ServingStale)
	b.until(17 * time.Second) // the grace time is over and the observation, of +12s, too
	b.wantVerdict(c2, "c9", federation.Unhealthy, failover.ControlLostUnobserved)
}
