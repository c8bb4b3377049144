package failover_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/federation/failover"
)

// same fails unless two states say the same now, and would do the same with the event and with a tick.
func same(t *testing.T, what string, a, b *failover.State, e failover.Event, now time.Time) {
	t.Helper()
	atA, okA := a.Deadline()
	atB, okB := b.Deadline()
	if okA != okB || !atA.Equal(atB) {
		t.Fatalf("+%v %s: due at %v %v and at %v %v", now.Sub(start), what, atA, okA, atB, okB)
	}
	if diff := cmp.Diff(verdicts(a), verdicts(b), cmp.AllowUnexported(slot{})); diff != "" {
		t.Fatalf("+%v %s: verdicts differ\n%s", now.Sub(start), what, diff)
	}
	for _, e := range []failover.Event{e, failover.Tick{}} {
		samePlan(t, what, a.Plan(e, now), b.Plan(e, now))
	}
}

func samePlan(t *testing.T, what string, planA, planB failover.Transition) {
	t.Helper()
	if diff := cmp.Diff(planA.Decisions, planB.Decisions); diff != "" {
		t.Fatalf("%s: decisions differ\n%s", what, diff)
	}
	if diff := cmp.Diff(planA.Touched, planB.Touched); diff != "" {
		t.Fatalf("%s: touched differ\n%s", what, diff)
	}
}

// run is a script on its way: the events of several states at the same times.
type run struct {
	script
	now time.Time
}

// next returns the next event; time passes before it, with no more ticks than the script says.
func (r *run) next() failover.Event {
	r.now = r.now.Add(time.Duration(r.pick(8)) * 200 * time.Millisecond)
	if e := r.event(r.now); e != nil {
		return e
	}
	return failover.Tick{}
}

// FuzzPlanChangesNothing has one of two states plan events that never happen, at times that never come. Whatever
// happens then, both do the same. Here ticks are late, as in a hub that has much to do: still, whoever sees another
// verdict is told, and the journal decides again what it decided.
func FuzzPlanChangesNothing(f *testing.F) {
	for seed := range uint64(8) {
		f.Add(written(seed, 400), written(seed+100, 400))
	}
	f.Fuzz(func(t *testing.T, real, idle []byte) {
		r, w := run{script(real[:min(len(real), 1500)]), start}, script(idle)
		plain, busy := failover.New(config, policySets[0]), failover.New(config, policySets[0])
		for !r.done() {
			e := r.next()
			for range w.pick(4) {
				at := r.now.Add(time.Duration(w.pick(64)) * 200 * time.Millisecond)
				if never := w.event(at); never != nil {
					busy.Plan(never, at).Save()
				}
				busy.Plan(failover.Tick{}, at)
			}
			same(t, "after plans that came to nothing", plain, busy, e, r.now)
			before, tr := verdicts(plain), plain.Plan(e, r.now)
			plain.Apply(tr)
			busy.Apply(busy.Plan(e, r.now))
			told(t, before, verdicts(plain), tr.Touched)
			if err := failover.ReplayAll(failover.Table(), tr.Decisions); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// FuzzClone lets a clone live a life of its own. The original must do what a state does that was never cloned; and the
// clone what the original would have done.
func FuzzClone(f *testing.F) {
	for seed := range uint64(8) {
		f.Add(written(seed, 300), written(seed+100, 200))
	}
	f.Fuzz(func(t *testing.T, before, after []byte) {
		r := run{script(before[:min(len(before), 1500)]), start}
		plain, original := failover.New(config, policySets[0]), failover.New(config, policySets[0])
		for !r.done() {
			e := r.next()
			plain.Apply(plain.Plan(e, r.now))
			original.Apply(original.Plan(e, r.now))
		}
		clone, twin := original.Clone(), original.Clone()
		r.script = script(after[:min(len(after), 1500)])
		for !r.done() {
			e := r.next()
			same(t, "a clone and its twin", twin, clone, e, r.now)
			clone.Apply(clone.Plan(e, r.now))
			twin.Apply(twin.Plan(e, r.now))
			same(t, "what was cloned and what was not", plain, original, e, r.now)
		}
	})
}

// TestACloneHearsForItself repeats to a clone what the original was told once.
func TestACloneHearsForItself(t *testing.T) {
	b := newBench(t)
	b.export(c2, 1)
	b.do(failover.LinkChanged{Cluster: "c2"})
	b.see("c1", "c2", true)
	clone := b.state.Clone()
	again := sees("c1", "c2", true)
	again.At = start.Add(2900 * time.Millisecond)
	clone.Apply(clone.Plan(again, again.At))
	b.until(5 * time.Second)
	b.wantVerdict(c2, "c9", federation.Unhealthy, failover.ControlLostUnobserved)
	clone.Apply(clone.Plan(failover.Tick{}, b.now))
	if v, _ := clone.Verdict(c2, "c9"); v.Reason != failover.ServingStale {
		t.Errorf("the clone, which heard it again: %+v", v)
	}
}

// TestReplayFindsWhatWasTampered changes each part of a decision that a replay can know.
func TestReplayFindsWhatWasTampered(t *testing.T) {
	b := newBench(t)
	var journal []failover.Decision
	do := func(e failover.Event) {
		tr := b.state.Plan(e, b.now)
		b.state.Apply(tr)
		journal = append(journal, tr.Decisions...)
	}
	do(newC2)
	do(failover.Operated{Subject: cluster2, Mode: failover.Cordon})
	do(seen("c1", "c2", false))
	if err := failover.ReplayAll(failover.Table(), journal); err != nil || len(journal) != 4 {
		t.Fatalf("%d decisions, replayed: %v", len(journal), err)
	}
	for name, tamper := range map[string]func(d *failover.Decision){
		"from":    func(d *failover.Decision) { d.From = federation.Degraded },
		"to":      func(d *failover.Decision) { d.To = federation.Degraded },
		"reason":  func(d *failover.Decision) { d.Reason = failover.Recovering },
		"before":  func(d *failover.Decision) { d.Inputs.Before.Down, d.Inputs.Operated = true, false },
		"unready": func(d *failover.Decision) { d.Inputs.Ready, d.Inputs.Blind = 0, !d.Inputs.Blind; d.Inputs.New = false },
	} {
		t.Run(name, func(t *testing.T) {
			for i := range journal {
				tampered := append([]failover.Decision(nil), journal...)
				tamper(&tampered[i])
				err := failover.ReplayAll(failover.Table(), tampered)
				if err == nil {
					t.Errorf("decision %d: %+v was believed", i, tampered[i])
				} else if !strings.Contains(err.Error(), "on c2") {
					t.Errorf("the error names no subject: %v", err)
				}
			}
		})
	}
}

// TestOtherRules has a rule of its own; by the table, the decision would have been another.
func TestOtherRules(t *testing.T) {
	never := func(failover.Inputs) (failover.Opinion, bool) {
		return failover.Opinion{Reason: failover.Serving}, true
	}
	s := failover.New(failover.Config{Rules: []failover.Rule{never}}, only)
	tr := s.Plan(failover.ExportChanged{Export: federation.Export{Key: c2}}, start)
	s.Apply(tr)
	if v, _ := s.Verdict(c2, "c9"); v.Health != federation.Healthy {
		t.Errorf("verdict %+v, although no rule says so", v)
	}
	if failover.ReplayAll([]failover.Rule{never}, tr.Decisions) != nil || failover.ReplayAll(failover.Table(), tr.Decisions) == nil {
		t.Error("a replay does not go by the rules that it is given")
	}
}

// TestQuietEnds leaves the federation alone after random events: a tick at each deadline, and soon there is none. What
// is gone then leaves nothing behind.
func TestQuietEnds(t *testing.T) {
	for seed := range uint64(8) {
		d := newDuel(t)
		d.play(written(seed, 400))
		d.until(d.now.Add(time.Hour))
		if at, ok := d.state.Deadline(); ok {
			t.Errorf("seed %d: due at +%v, after an hour of silence", seed, at.Sub(start))
		}
	}
}

// TestGhosts has all members leave after random events: a state that knew them says and does what one says and does
// that never did.
func TestGhosts(t *testing.T) {
	for seed := range uint64(8) {
		d := newDuel(t)
		d.play(written(seed, 400))
		for _, c := range members {
			d.do(failover.ClusterGone{Cluster: c})
		}
		if at, ok := d.state.Deadline(); ok || !d.state.Empty() {
			t.Errorf("seed %d: with nobody there, due at +%v: %v; nothing left: %v", seed, at.Sub(start), ok, d.state.Empty())
		}
		if len(d.exports)+len(d.clusters) > 0 {
			t.Errorf("seed %d: still stored: %v %v", seed, d.exports, d.clusters)
		}
		r, fresh := run{script(written(seed+100, 300)), d.now}, failover.New(config, d.state.Policies())
		for !r.done() {
			e := r.next()
			same(t, "a state that forgot and a new one", fresh, d.state, e, r.now)
			fresh.Apply(fresh.Plan(e, r.now))
			d.state.Apply(d.state.Plan(e, r.now))
		}
	}
}

// TestAConsumerThatLeftLeavesNothing: its name, given anew, begins anew.
func TestAConsumerThatLeftLeavesNothing(t *testing.T) {
	b := newBench(t)
	b.export(c2, 1)
	for _, target := range []federation.Target{cluster2, federation.Target(c2)} {
		for _, o := range []federation.ClusterID{"c3", "c4"} {
			b.do(failover.Observed{Observer: o, Target: target, Reachable: true, At: b.now})
		}
		b.do(failover.Observed{Observer: "c1", Target: target, At: b.now})
	}
	b.wantVerdict(c2, "c1", federation.Unhealthy, failover.UnreachableByObserver)
	b.do(failover.ClusterGone{Cluster: "c1"})
	b.wantVerdict(c2, "c1", federation.Healthy, failover.Serving)
}

// TestWhatTheStateKnows asks for what there is.
func TestWhatTheStateKnows(t *testing.T) {
	b := newBench(t)
	api := federation.ExportKey{Cluster: "c2", Service: federation.Service("default", "api")}
	b.export(c2, 3)
	b.export(api, 1)
	if diff := cmp.Diff([]federation.ExportKey{api, c2}, b.state.Exports("c2")); diff != "" {
		t.Errorf("exports (-want +got)\n%s", diff)
	}
	if x, ok := b.state.Export(c2); !ok || x.Ready != 3 || b.state.CountExports("c2") != 2 {
		t.Errorf("export %+v %v, of %d", x, ok, b.state.CountExports("c2"))
	}
	if _, ok := b.state.Export(c3); ok || b.state.CountExports("c3") != 0 || b.state.Exports("c3") != nil {
		t.Error("it knows what nobody told it")
	}
	tr := b.state.Plan(newExport(c2, 3), b.now)
	if len(tr.Touched) > 0 {
		t.Errorf("an export that did not change touches %v", tr.Touched)
	}
	tr = b.state.Plan(failover.ExportRemoved{Key: c3}, b.now)
	if len(tr.Touched) > 0 {
		t.Errorf("an export that is not there touches %v", tr.Touched)
	}
}

func newExport(k federation.ExportKey, ready int) failover.ExportChanged {
	return failover.ExportChanged{Export: federation.Export{Key: k, Ready: ready}}
}
