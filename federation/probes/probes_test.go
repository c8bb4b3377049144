package probes_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/federation/probes"
)

var (
	start  = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	target = federation.Target{Cluster: "c2"}
	other  = federation.Target{Cluster: "c2", Service: federation.Service("prod", "web")}
)

// at is a moment in milliseconds after the start.
func at(ms int) time.Time { return start.Add(time.Duration(ms) * time.Millisecond) }

func watching(intervals map[federation.Target]time.Duration) *probes.Observations {
	o := probes.New()
	o.Watch(intervals)
	return o
}

// step is a result of a prober at a moment, or without a prober the passing of time. After it the target is in the
// state that is wanted.
type step struct {
	ms          int
	prober      uint32
	reachable   bool
	changes     bool
	unreachable bool
}

const nobody = ^uint32(0)

func bad(ms int, prober uint32, changes bool) step { return step{ms, prober, false, changes, true} }

func good(ms int, prober uint32, changes, unreachable bool) step {
	return step{ms, prober, true, changes, unreachable}
}

func pass(ms int, changes, unreachable bool) step {
	return step{ms, nobody, false, changes, unreachable}
}

func TestUnreachable(t *testing.T) {
	for name, steps := range map[string][]step{
		"down-at-once":               {good(0, 0, false, false), bad(500, 0, true)},
		"down-before-any-answer":     {bad(0, 0, true), bad(500, 0, false)},
		"new-target-is-used-at-once": {bad(0, 0, true), bad(500, 0, false), good(1000, 0, true, false)},
		"up-after-three-seconds-without-a-break": {
			good(0, 0, false, false), bad(500, 0, true), good(1000, 0, false, true), good(2000, 0, false, true), pass(3999, false, true), pass(4000, true, false),
		},
		"up-with-a-result": {
			good(0, 0, false, false), bad(500, 0, true), good(1000, 0, false, true), good(4000, 0, true, false),
		},
		"a-break-begins-anew": {
			good(0, 0, false, false), bad(500, 0, true), good(1000, 0, false, true), bad(3000, 0, false), good(3500, 0, false, true),
			pass(4000, false, true), pass(6499, false, true), pass(6500, true, false),
		},
		"one-prober-reaches-it":         {bad(0, 0, true), good(100, 1, true, false), {500, 0, false, false, false}},
		"until-it-does-not-any-more":    {good(0, 1, false, false), {500, 0, false, false, false}, bad(600, 1, true)},
		"until-it-is-not-heard-of":      {good(0, 1, false, false), {3000, 0, false, false, false}, pass(3001, false, false), bad(3500, 0, true)},
		"stale-failures-are-forgotten":  {good(0, 0, false, false), bad(500, 0, true), pass(3500, false, true), pass(3501, true, false)},
		"the-newest-failure-counts":     {bad(0, 0, true), bad(900, 1, false), pass(3001, false, true), pass(3901, true, false)},
		"an-older-result-is-dropped":    {good(1000, 0, false, false), {900, 0, false, false, false}, bad(1001, 0, true)},
		"a-result-of-the-same-time":     {good(1000, 0, false, false), bad(1000, 0, true)},
		"reachable-never-becomes-worse": {good(0, 0, false, false), pass(3001, false, false), pass(100_000, false, false)},
	} {
		t.Run(name, func(t *testing.T) {
			o := watching(map[federation.Target]time.Duration{target: 500 * time.Millisecond})
			for i, s := range steps {
				var changes bool
				if s.prober == nobody {
					changes = cmp.Equal(o.Tick(at(s.ms)), []federation.Target{target})
				} else {
					changes = o.Record(target, s.prober, probes.Result{Reachable: s.reachable, At: at(s.ms)}, at(s.ms))
				}
				if changes != s.changes || o.Unreachable(target) != s.unreachable {
					t.Fatalf("step %d: changes %v, unreachable %v; want %v, %v", i+1, changes, o.Unreachable(target), s.changes, s.unreachable)
				}
			}
		})
	}
}

func TestOnlyWhatIsWatchedCounts(t *testing.T) {
	o := watching(map[federation.Target]time.Duration{target: time.Second})
	fail := probes.Result{At: at(0), Error: "timeout"}
	if o.Record(other, 0, fail, at(0)) || o.Unreachable(other) {
		t.Error("a target that is not watched became unreachable")
	}
	if _, ok := o.State(other, at(0)); ok {
		t.Error("a target that is not watched has a state")
	}
	if !o.Record(target, 0, fail, at(0)) {
		t.Error("a target that is watched did not become unreachable")
	}
	o.Watch(map[federation.Target]time.Duration{other: time.Second})
	if _, ok := o.Deadline(); ok || o.Unreachable(target) || len(o.Report(at(0))) > 0 {
		t.Error("a target that is watched no more still counts")
	}
	o.Watch(map[federation.Target]time.Duration{other: time.Second, target: time.Second})
	if o.Unreachable(target) {
		t.Error("a target that is watched again remembers what was")
	}
	if d := cmp.Diff([]federation.Target{target, other}, o.Targets()); d != "" {
		t.Errorf("targets (-want +got)\n%s", d)
	}
}

// TestFreshness holds what a result counts for: three intervals, and three seconds at least.
func TestFreshness(t *testing.T) {
	for name, tc := range map[string]struct {
		interval time.Duration
		lasts    int // milliseconds
	}{
		"fast": {500 * time.Millisecond, 3000},
		"even": {time.Second, 3000},
		"slow": {5 * time.Second, 15_000},
	} {
		t.Run(name, func(t *testing.T) {
			o := watching(map[federation.Target]time.Duration{target: tc.interval})
			o.Record(target, 0, probes.Result{At: at(0)}, at(0))
			if n := len(o.Report(at(tc.lasts))); n != 1 {
				t.Errorf("%d results after %d ms, want 1", n, tc.lasts)
			}
			if n := len(o.Report(at(tc.lasts + 1))); n != 0 {
				t.Errorf("%d results after %d ms, want 0", n, tc.lasts+1)
			}
			if d, ok := o.Deadline(); !ok || !d.Equal(at(tc.lasts+1)) {
				t.Errorf("deadline %v", d.Sub(start))
			}
		})
	}
}

func TestDeadline(t *testing.T) {
	o := watching(map[federation.Target]time.Duration{target: 5 * time.Second})
	record := func(ms int, prober uint32, reachable bool) {
		o.Record(target, prober, probes.Result{Reachable: reachable, At: at(ms)}, at(ms))
	}
	none := -1
	want := func(ms int) {
		t.Helper()
		if d, ok := o.Deadline(); ok != (ms != none) || ok && !d.Equal(at(ms)) {
			t.Errorf("deadline %v after the start, there %v; want %d ms", d.Sub(start), ok, ms)
		}
	}
	want(none)
	record(0, 0, true)
	want(none) // what is reachable does not become worse by time
	record(500, 0, false)
	want(15_501) // when the failure is stale
	record(1000, 1, false)
	want(15_501)
	record(2000, 0, true)
	want(5000) // when it has answered for long enough
	record(2500, 0, true)
	want(5000)
	o.Tick(at(5000))
	want(none)
}

// TestShorterIntervalMakesStale: what was fresh by a slow probe's measure is looked at again by a fast one's.
func TestShorterIntervalMakesStale(t *testing.T) {
	o := watching(map[federation.Target]time.Duration{target: 5 * time.Second})
	o.Record(target, 0, probes.Result{At: at(0)}, at(0))
	o.Tick(at(10_000))
	o.Watch(map[federation.Target]time.Duration{target: time.Second})
	d, ok := o.Deadline()
	if !ok || d.After(at(10_000)) {
		t.Fatalf("deadline %v, %v: want one that is over", d.Sub(start), ok)
	}
	if changed := o.Tick(at(10_000)); len(changed) != 1 || o.Unreachable(target) {
		t.Errorf("changed %v, unreachable %v", changed, o.Unreachable(target))
	}
}

func TestReport(t *testing.T) {
	o := watching(map[federation.Target]time.Duration{target: time.Second, other: time.Second})
	record := func(to federation.Target, prober uint32, r probes.Result) { o.Record(to, prober, r, r.At) }
	slow := probes.Result{Reachable: true, At: at(100), RTT: 9 * time.Millisecond}
	record(target, 0, probes.Result{At: at(50), Error: "refused"})
	record(target, 1, slow)
	record(target, 2, probes.Result{At: at(200), Error: "timeout"})
	last := probes.Result{At: at(90), Error: "timeout"}
	record(other, 1, last)
	record(other, 0, probes.Result{At: at(80), Error: "refused"})
	want := map[federation.Target]probes.Result{target: slow, other: last}
	if d := cmp.Diff(want, o.Report(at(300))); d != "" {
		t.Errorf("the best result, then the newest (-want +got)\n%s", d)
	}
}

func TestState(t *testing.T) {
	o := watching(map[federation.Target]time.Duration{target: time.Second})
	if s, ok := o.State(target, at(0)); ok {
		t.Errorf("nothing is known, and is %+v", s)
	}
	o.Record(target, 0, probes.Result{At: at(0), Reachable: true, RTT: time.Millisecond}, at(10))
	o.Record(target, 0, probes.Result{At: at(1000), Error: "timeout"}, at(1010))
	again := probes.Result{At: at(1500), Error: "refused"}
	o.Record(target, 0, again, at(1510))
	want := probes.State{Result: again, Unreachable: true, FirstFailure: at(1000), Changed: at(1010)}
	if s, ok := o.State(target, at(1600)); !ok || s != want {
		t.Errorf("fresh %v, %+v; want %+v", ok, s, want)
	}
	o.Tick(at(4501))
	want = probes.State{FirstFailure: at(1000), Changed: at(4501)}
	if s, ok := o.State(target, at(4501)); ok || s != want {
		t.Errorf("fresh %v, %+v; want %+v", ok, s, want)
	}
}

// TestTickTellsInOrder has many targets recover at once.
func TestTickTellsInOrder(t *testing.T) {
	intervals := map[federation.Target]time.Duration{}
	for _, c := range []federation.ClusterID{"c4", "c2", "c9", "c1"} {
		intervals[federation.Target{Cluster: c}] = time.Second
	}
	o := watching(intervals)
	for k := range intervals {
		o.Record(k, 0, probes.Result{At: at(0)}, at(0))
	}
	var got []string
	for _, k := range o.Tick(at(3001)) {
		got = append(got, k.String())
	}
	if d := cmp.Diff([]string{"c1", "c2", "c4", "c9"}, got); d != "" {
		t.Errorf("(-want +got)\n%s", d)
	}
}
