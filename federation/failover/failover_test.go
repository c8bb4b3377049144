package failover_test

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/federation/failover"
	"github.com/tailgate-project/tailgate/federation/policy"
)

var (
	start  = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	config = failover.Config{Fresh: 3 * time.Second, FreshVIP: 15 * time.Second}
	times  = policy.Times{Grace: 5 * time.Second, FailbackDelay: 10 * time.Second, Hold: 10 * time.Second}
	only   = policy.NewSet(policy.Policy{MinHealthy: 50, Times: times}, nil)
	webapp = federation.Service("default", "webapp")
	c2     = federation.ExportKey{Cluster: "c2", Service: webapp}
	c3     = federation.ExportKey{Cluster: "c3", Service: webapp}
)

// bench drives a state through time, as the hub's loop does.
type bench struct {
	*testing.T
	state     *failover.State
	now       time.Time
	decisions []string
}

func newBench(t *testing.T) *bench {
	return &bench{T: t, state: failover.New(config, only), now: start}
}

func (b *bench) do(e failover.Event) {
	b.Helper()
	tr := b.state.Plan(e, b.now)
	b.state.Apply(tr)
	for _, d := range tr.Decisions {
		who := string(d.Consumer)
		if who == "" {
			who = "all"
		}
		b.decisions = append(b.decisions, fmt.Sprintf("+%v %s for %s: %v %s", d.At.Sub(start), d.Subject.Cluster, who, d.To, d.Reason))
	}
}

// until lets time pass, with a tick at each deadline.
func (b *bench) until(d time.Duration) {
	b.Helper()
	end := start.Add(d)
	for range 10_000 {
		at, ok := b.state.Deadline()
		if !ok || at.After(end) {
			b.now = end
			return
		}
		b.now = at
		b.do(failover.Tick{})
		if next, ok := b.state.Deadline(); ok && !next.After(at) {
			b.Fatalf("a tick at the deadline %v made no progress", at.Sub(start))
		}
	}
	b.Fatal("ticks without end")
}

func (b *bench) export(k federation.ExportKey, ready int) {
	b.do(failover.ExportChanged{Export: federation.Export{Key: k, Ready: ready}})
}

func (b *bench) see(observer, cluster federation.ClusterID, reachable bool) {
	b.do(failover.Observed{Observer: observer, Target: federation.Target{Cluster: cluster}, Reachable: reachable, At: b.now})
}

// keep lets observers repeat what they see, twice a second, until the time is reached.
func (b *bench) keep(d time.Duration, seen ...failover.Observed) {
	for b.now.Before(start.Add(d)) {
		for _, o := range seen {
			o.At = b.now
			b.do(o)
		}
		b.until(b.now.Sub(start) + 500*time.Millisecond)
	}
}

func sees(observer, cluster federation.ClusterID, reachable bool) failover.Observed {
	return failover.Observed{Observer: observer, Target: federation.Target{Cluster: cluster}, Reachable: reachable}
}

func (b *bench) want(decisions ...string) {
	b.Helper()
	if d := cmp.Diff(decisions, b.decisions); d != "" {
		b.Errorf("decisions (-want +got)\n%s", d)
	}
}

func (b *bench) wantVerdict(k federation.ExportKey, consumer federation.ClusterID, h federation.Health, r failover.Reason) {
	b.Helper()
	v, ok := b.state.Verdict(k, consumer)
	if !ok || v.Health != h || v.Reason != r {
		b.Errorf("verdict on %s for %s at +%v: %v %s (known: %v), want %v %s", k.Cluster, consumer, b.now.Sub(start), v.Health, v.Reason, ok, h, r)
	}
}

// TestTable walks the table of signals, a case a row.
func TestTable(t *testing.T) {
	const healthy, unhealthy = federation.Healthy, federation.Unhealthy
	t.Run("ready-and-reachable-serves", func(t *testing.T) {
		b := newBench(t)
		b.export(c2, 1)
		b.keep(20*time.Second, sees("c1", "c2", true), sees("c3", "c2", true))
		b.wantVerdict(c2, "c1", healthy, failover.Serving)
		b.want("+0s c2 for all: healthy Serving")
	})
	t.Run("unreachable-for-a-quorum-is-down", func(t *testing.T) {
		b := newBench(t)
		b.export(c2, 1)
		b.see("c1", "c2", true)
		b.see("c3", "c2", true)
		b.until(time.Second)
		b.see("c1", "c2", false)
		b.wantVerdict(c2, "c1", unhealthy, failover.UnreachableByObserver)
		b.wantVerdict(c2, "c3", healthy, failover.Serving)
		b.see("c3", "c2", false)
		b.wantVerdict(c2, "c4", unhealthy, failover.UnreachableByQuorum)
	})
	t.Run("the-only-fresh-observer-is-a-quorum", func(t *testing.T) {
		b := newBench(t)
		b.export(c2, 1)
		b.see("c1", "c2", false)
		b.wantVerdict(c2, "c9", unhealthy, failover.UnreachableByQuorum)
	})
	t.Run("unreachable-for-some-is-down-for-those", func(t *testing.T) {
		b := newBench(t)
		b.export(c2, 1)
		b.keep(20*time.Second, sees("c3", "c2", true), sees("c4", "c2", true), sees("c1", "c2", false))
		b.wantVerdict(c2, "c1", unhealthy, failover.UnreachableByObserver)
		b.wantVerdict(c2, "c3", healthy, failover.Serving)
		b.wantVerdict(c2, "c9", healthy, failover.Serving)
	})
	t.Run("none-ready-is-down-at-once", func(t *testing.T) {
		b := newBench(t)
		b.export(c2, 1)
		b.see("c1", "c2", true)
		b.export(c2, 0)
		b.wantVerdict(c2, "c1", unhealthy, failover.NoReadyEndpoints)
	})
	t.Run("control-lost-but-reachable-serves-stale", func(t *testing.T) {
		b := newBench(t)
		b.export(c2, 1)
		b.do(failover.APIChanged{Cluster: "c2"})
		b.do(failover.LinkChanged{Cluster: "c2"})
		b.keep(time.Minute, sees("c1", "c2", true))
		b.wantVerdict(c2, "c1", healthy, failover.ServingStale)
		if v, _ := b.state.Verdict(c2, "c1"); !v.Stale {
			t.Error("not marked stale")
		}
	})
	t.Run("control-lost-and-one-observer-fails-is-down-after-the-grace-time", func(t *testing.T) {
		b := newBench(t)
		b.export(c2, 1)
		b.do(failover.APIChanged{Cluster: "c2"})
		b.keep(4500*time.Millisecond, sees("c3", "c2", true), sees("c4", "c2", true), sees("c1", "c2", false))
		b.wantVerdict(c2, "c3", healthy, failover.ServingStale)
		b.keep(6*time.Second, sees("c3", "c2", true), sees("c4", "c2", true), sees("c1", "c2", false))
		b.wantVerdict(c2, "c3", unhealthy, failover.ControlLostUnreachable)
	})
	t.Run("nobody-observes-and-the-link-is-lost-for-the-grace-time", func(t *testing.T) {
		b := newBench(t)
		b.export(c2, 1)
		b.do(failover.LinkChanged{Cluster: "c2"})
		b.until(4999 * time.Millisecond)
		b.wantVerdict(c2, "c1", healthy, failover.ServingStale)
		b.until(5 * time.Second)
		b.wantVerdict(c2, "c1", unhealthy, failover.ControlLostUnobserved)
		b.want("+0s c2 for all: healthy Serving", "+5s c2 for all: unhealthy ControlLostUnobserved")
	})
	t.Run("nobody-observes-and-only-the-api-is-lost", func(t *testing.T) {
		b := newBench(t)
		b.export(c2, 1)
		b.do(failover.APIChanged{Cluster: "c2"})
		b.until(time.Hour)
		b.wantVerdict(c2, "c1", healthy, failover.ServingStale)
	})
}

func TestAnIsolatedObserverEvictsNobody(t *testing.T) {
	b := newBench(t)
	b.export(c2, 1)
	b.export(c3, 1)
	b.see("c1", "c2", true)
	b.see("c1", "c3", true)
	b.see("c4", "c2", true)
	b.see("c4", "c3", true)
	b.keep(10*time.Second, sees("c1", "c2", false), sees("c1", "c3", false), sees("c4", "c2", true), sees("c4", "c3", true))
	b.wantVerdict(c2, "c4", federation.Healthy, failover.Serving)
	b.wantVerdict(c3, "c4", federation.Healthy, failover.Serving)
	b.wantVerdict(c2, "c1", federation.Unhealthy, failover.UnreachableByObserver)
}

func TestFailbackWaitsForTheDelayWithoutABreak(t *testing.T) {
	b := newBench(t)
	b.export(c2, 1)
	b.keep(time.Second, sees("c1", "c2", false))
	b.keep(8*time.Second, sees("c1", "c2", true)) // good from +1s
	b.keep(9*time.Second, sees("c1", "c2", false))
	b.keep(18*time.Second, sees("c1", "c2", true)) // good from +9s
	b.wantVerdict(c2, "c4", federation.Unhealthy, failover.UnreachableByQuorum)
	b.keep(20*time.Second, sees("c1", "c2", true))
	b.wantVerdict(c2, "c1", federation.Healthy, failover.Serving)
	b.want(
		"+0s c2 for all: healthy Serving",
		"+0s c2 for all: unhealthy UnreachableByQuorum", "+0s c2 for c1: unhealthy UnreachableByObserver",
		"+19s c2 for all: healthy Serving", "+19s c2 for c1: healthy Serving",
	)
}

func TestAVIPOfACluster(t *testing.T) {
	b := newBench(t)
	b.export(c2, 1)
	b.see("c1", "c2", true)
	b.do(failover.Observed{Observer: "c1", Target: federation.Target{Cluster: "c2", Service: webapp}, Reachable: false, At: b.now})
	b.wantVerdict(c2, "c9", federation.Unhealthy, failover.UnreachableByQuorum)
	// A VIP is probed every five seconds: between two probes, the last one counts.
	b.keep(14*time.Second, sees("c1", "c2", true))
	b.wantVerdict(c2, "c9", federation.Unhealthy, failover.UnreachableByQuorum)
	b.keep(30*time.Second, sees("c1", "c2", true))
	b.wantVerdict(c2, "c9", federation.Healthy, failover.Serving)
}

func TestALateObservationIsIgnored(t *testing.T) {
	b := newBench(t)
	b.export(c2, 1)
	b.until(time.Second)
	b.see("c1", "c2", true)
	b.do(failover.Observed{Observer: "c1", Target: federation.Target{Cluster: "c2"}, Reachable: false, At: start})
	b.wantVerdict(c2, "c1", federation.Healthy, failover.Serving)
}

func TestClusterGoneForgetsIt(t *testing.T) {
	b := newBench(t)
	b.export(c2, 1)
	b.see("c1", "c2", false)
	b.do(failover.ClusterGone{Cluster: "c2"})
	if v, ok := b.state.Verdict(c2, "c1"); ok {
		t.Errorf("still known: %+v", v)
	}
	b.export(c2, 1)
	b.wantVerdict(c2, "c1", federation.Healthy, failover.Serving)
}

func TestRestoreSaysWhatWasSaid(t *testing.T) {
	b := newBench(t)
	b.export(c2, 1)
	b.see("c3", "c2", true)
	b.see("c4", "c2", true)
	tr := b.state.Plan(failover.Observed{Observer: "c1", Target: federation.Target{Cluster: "c2"}, At: b.now}, b.now)
	_, clusters := tr.Save()
	if clusters["c2"] == nil {
		t.Fatal("nothing to save")
	}
	r := newBench(t)
	r.state.Restore(failover.Saved{Export: federation.Export{Key: c2, Ready: 1}}, r.now)
	r.state.RestoreCluster(*clusters["c2"], r.now)
	r.wantVerdict(c2, "c1", federation.Unhealthy, failover.UnreachableByObserver)
	r.wantVerdict(c2, "c3", federation.Healthy, failover.Serving)
	r.until(time.Minute)
	r.wantVerdict(c2, "c1", federation.Unhealthy, failover.UnreachableByObserver) // silence is no evidence
	r.do(failover.LinkChanged{Cluster: "c2", Up: true})
	r.until(69 * time.Second)
	r.wantVerdict(c2, "c1", federation.Unhealthy, failover.UnreachableByObserver)
	r.until(70 * time.Second)
	r.wantVerdict(c2, "c1", federation.Healthy, failover.Serving)
}

// FuzzLaws plays random events and checks the laws: planning changes nothing and says the same twice; no verdict
// changes without being told; a subject comes back at most once per hold time; the journal, replayed, decides the same.
func FuzzLaws(f *testing.F) {
	for seed := range uint64(16) {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, seed uint64) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		b := newBench(t)
		clusters := []federation.ClusterID{"c1", "c2", "c3", "c4"}
		keys := []federation.ExportKey{c2, c3}
		type subject struct {
			federation.Target
			consumer federation.ClusterID
		}
		back := map[subject]time.Time{}
		pick := func() federation.ClusterID { return clusters[rnd.IntN(len(clusters))] }
		for range 300 {
			var e failover.Event
			switch rnd.IntN(10) {
			case 0:
				e = failover.ExportChanged{Export: federation.Export{Key: keys[rnd.IntN(2)], Ready: rnd.IntN(3)}}
			case 1:
				e = failover.LinkChanged{Cluster: pick(), Up: rnd.IntN(2) == 0}
			case 2:
				e = failover.APIChanged{Cluster: pick(), Up: rnd.IntN(2) == 0}
			case 3:
				b.until(b.now.Sub(start) + time.Duration(rnd.IntN(4000))*time.Millisecond)
				e = failover.Tick{}
			case 4:
				at := b.now.Add(-time.Duration(rnd.IntN(1000)) * time.Millisecond)
				e = failover.Observed{Observer: pick(), Target: federation.Target{Cluster: pick(), Service: webapp}, Reachable: rnd.IntN(3) > 0, At: at}
			default:
				at := b.now.Add(-time.Duration(rnd.IntN(1000)) * time.Millisecond)
				e = failover.Observed{Observer: pick(), Target: federation.Target{Cluster: pick()}, Reachable: rnd.IntN(3) > 0, At: at}
			}
			first, again := b.state.Plan(e, b.now), b.state.Plan(e, b.now)
			if d := cmp.Diff(first.Decisions, again.Decisions); d != "" {
				t.Fatalf("planning twice differs:\n%s", d)
			}
			if err := failover.ReplayAll(failover.Table(), first.Decisions); err != nil {
				t.Fatal(err)
			}
			before := map[federation.ExportKey]failover.Verdict{}
			for _, k := range keys {
				before[k], _ = b.state.Verdict(k, "c1")
			}
			b.state.Apply(first)
			touched := map[federation.ExportKey]bool{}
			for _, touch := range first.Touched {
				s := touch.Subject
				for _, k := range keys {
					if s.Cluster == k.Cluster && (s.Service == k.Service || s.Service == federation.ServiceID{}) {
						touched[k] = true
					}
				}
			}
			for _, d := range first.Decisions {
				s := subject{d.Subject, d.Consumer}
				if last, ok := back[s]; ok && d.To == federation.Healthy && b.now.Sub(last) < times.Hold {
					t.Fatalf("%v came back twice within %v", s, b.now.Sub(last))
				}
				if d.To == federation.Healthy && !d.Inputs.New {
					back[s] = b.now
				}
			}
			for _, k := range keys {
				after, _ := b.state.Verdict(k, "c1")
				if (after.Health != before[k].Health || after.Share != before[k].Share || after.Stale != before[k].Stale) && !touched[k] {
					t.Fatalf("%s went from %+v to %+v in silence", k, before[k], after)
				}
			}
		}
	})
}
