package failover_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/federation/failover"
	"github.com/tailgate-project/tailgate/federation/policy"
)

var (
	members  = []federation.ClusterID{"c1", "c2", "c3", "c4", "c5"}
	services = []federation.ServiceID{webapp, federation.Service("default", "api")}
	// policySets differ in everything that takes time; the first has a policy by label and one by consumer.
	policySets = []*policy.Set{
		policy.NewSet(
			policy.Policy{MinHealthy: 50, Times: policy.Times{Grace: 3 * time.Second, FailbackDelay: 2 * time.Second, Hold: 4 * time.Second}},
			[]policy.Policy{
				{
					Name: "slow", MinHealthy: 50, Select: policy.Selector{Labels: map[string]string{"speed": "slow"}},
					Times: policy.Times{Grace: 4 * time.Second, FailbackDelay: 5 * time.Second, Hold: 3 * time.Second, Ramp: 5 * time.Second},
				},
				{
					Name: "far", MinHealthy: 50, Select: policy.Selector{Consumers: []federation.ClusterID{"c1", "c4"}},
					Times: policy.Times{Grace: time.Second, FailbackDelay: 4 * time.Second, Hold: 6 * time.Second, Ramp: 3 * time.Second},
				},
			}),
		policy.NewSet(
			policy.Policy{MinHealthy: 50, Times: policy.Times{FailbackDelay: time.Second, Ramp: 7 * time.Second}},
			[]policy.Policy{{
				Name: "quick", Select: policy.Selector{Labels: map[string]string{"speed": "slow"}}, Times: policy.Times{Grace: 2 * time.Second},
			}}),
		policy.NewSet(
			policy.Policy{MinHealthy: 50, Times: policy.Times{Grace: 5 * time.Second, Hold: 8 * time.Second}},
			[]policy.Policy{{
				Name: "slow", Select: policy.Selector{Names: []string{"api"}}, Times: policy.Times{FailbackDelay: 6 * time.Second, Hold: time.Second},
			}}),
	}
)

// script turns bytes into choices, so that a fuzzer can change one and a shrunk finding stays what it was.
type script []byte

func (s *script) done() bool { return len(*s) == 0 }

func (s *script) pick(n int) int {
	if len(*s) == 0 {
		return 0
	}
	b := int((*s)[0])
	*s = (*s)[1:]
	return b % n
}

// written returns a script of random bytes.
func written(seed uint64, length int) []byte {
	rnd := rand.New(rand.NewPCG(seed, 7))
	out := make([]byte, length)
	for i := range out {
		out[i] = byte(rnd.Uint32())
	}
	return out
}

func (s *script) cluster() federation.ClusterID { return members[s.pick(len(members))] }

// owner is one of the three clusters that have exports.
func (s *script) key() federation.ExportKey {
	return federation.ExportKey{Cluster: members[1+s.pick(3)], Service: services[s.pick(len(services))]}
}

func (s *script) subject() federation.Target {
	if s.pick(2) == 0 {
		return federation.Target{Cluster: members[1+s.pick(3)]}
	}
	return federation.Target(s.key())
}

// event is the next event of the script, nil for a restart of the hub.
func (s *script) event(now time.Time) failover.Event {
	switch kind := s.pick(64); {
	case kind < 10:
		x := federation.Export{Key: s.key(), Ready: s.pick(3)}
		if s.pick(2) == 0 {
			x.Labels = map[string]string{"speed": "slow"}
		}
		return failover.ExportChanged{Export: x}
	case kind < 11:
		return failover.ExportRemoved{Key: s.key()}
	case kind < 12:
		return failover.ClusterGone{Cluster: s.cluster()}
	case kind < 13:
		return nil
	case kind < 15:
		return failover.PoliciesChanged{Policies: policySets[s.pick(len(policySets))]}
	case kind < 21:
		modes := []failover.Mode{failover.Normal, failover.Drain, failover.Cordon, failover.Pin}
		return failover.Operated{Subject: s.subject(), Mode: modes[s.pick(4)], Ramp: time.Duration(s.pick(4)-1) * 2 * time.Second}
	case kind < 26:
		return failover.LinkChanged{Cluster: s.cluster(), Up: s.pick(3) > 0}
	case kind < 30:
		return failover.APIChanged{Cluster: s.cluster(), Up: s.pick(3) > 0}
	}
	at := now.Add(-time.Duration(s.pick(16)-1) * 250 * time.Millisecond)
	return failover.Observed{Observer: s.cluster(), Target: s.subject(), Reachable: s.pick(4) > 0, At: at}
}

// duel drives a state and its naive model through the same events.
type duel struct {
	*testing.T
	state    *failover.State
	model    *naive
	now      time.Time
	exports  map[federation.ExportKey]failover.Saved
	clusters map[federation.ClusterID]failover.SavedCluster
	journal  []failover.Decision
}

func newDuel(t *testing.T) *duel {
	return &duel{
		T: t, state: failover.New(config, policySets[0]), model: newNaive(policySets[0], members), now: start,
		exports: map[federation.ExportKey]failover.Saved{}, clusters: map[federation.ClusterID]failover.SavedCluster{},
	}
}

// play plays the script to its end.
func (d *duel) play(s script) {
	d.Helper()
	for !s.done() {
		d.until(d.now.Add(time.Duration(s.pick(8)) * 200 * time.Millisecond))
		if e := s.event(d.now); e != nil {
			d.do(e)
		} else {
			d.restart()
		}
	}
}

// until lets time pass with a tick at each deadline, and looks in on the way: between deadlines, nothing is due.
func (d *duel) until(end time.Time) {
	d.Helper()
	for range 1000 {
		at, ok := d.state.Deadline()
		if !ok || at.After(end) {
			d.rest(end)
			return
		}
		if at.After(d.now) {
			d.rest(d.now.Add(at.Sub(d.now) / 2))
			d.rest(at.Add(-1))
			d.now = at
		}
		d.do(failover.Tick{})
		if next, ok := d.state.Deadline(); ok && !next.After(d.now) {
			d.Fatalf("+%v: a tick at the deadline made no progress", d.now.Sub(start))
		}
	}
	d.Fatal("ticks without end")
}

// rest lets time pass to a moment at which nothing may happen.
func (d *duel) rest(at time.Time) {
	d.Helper()
	d.now = at
	if missed := d.model.step(failover.Tick{}, at); len(missed) > 0 {
		d.Fatalf("+%v: no timer for %+v", at.Sub(start), missed)
	}
	d.compare("waiting")
}

// do makes an event happen to both.
func (d *duel) do(e failover.Event) {
	d.Helper()
	before := d.verdicts()
	tr := d.state.Plan(e, d.now)
	want := d.model.step(e, d.now)
	if diff := cmp.Diff(want, tr.Decisions); diff != "" {
		d.Fatalf("+%v %T%+v: decisions (-model +state)\n%s", d.now.Sub(start), e, e, diff)
	}
	if err := failover.ReplayAll(failover.Table(), tr.Decisions); err != nil {
		d.Fatal(err)
	}
	d.same("planning changed verdicts", before, d.verdicts())
	d.state.Apply(tr)
	d.save(tr)
	d.journal = append(d.journal, tr.Decisions...)
	d.compare(fmt.Sprintf("%T%+v", e, e))
	told(d.T, before, d.verdicts(), tr.Touched)
}

// told checks that whoever sees another verdict was named; Since is no part of the promise.
func told(t *testing.T, before, after map[slot]failover.Verdict, touched []failover.Touch) {
	t.Helper()
	for s := range union(before, after) {
		b, was := before[s]
		a, is := after[s]
		b.Since, a.Since = time.Time{}, time.Time{}
		named := slices.ContainsFunc(touched, func(t failover.Touch) bool {
			return (t.Subject == s.Target || t.Subject == federation.Target{Cluster: s.Cluster}) && (t.Consumer == everybody || t.Consumer == s.consumer)
		})
		if (a != b || was != is) && !named {
			t.Fatalf("%s for %s went from %+v to %+v in silence", s.Target, s.consumer, b, a)
		}
	}
}

func union[K comparable, V any](a, b map[K]V) map[K]V {
	out := maps.Clone(a)
	maps.Copy(out, b)
	return out
}

// same fails unless both verdicts are the same.
func (d *duel) same(what string, want, got map[slot]failover.Verdict) {
	d.Helper()
	if maps.Equal(want, got) { // cmp is slow
		return
	}
	d.Fatalf("+%v %s: verdicts (-want +got)\n%s", d.now.Sub(start), what, cmp.Diff(want, got, cmp.AllowUnexported(slot{})))
}

func (d *duel) verdicts() map[slot]failover.Verdict { return verdicts(d.state) }

// verdicts returns all that a state says to anybody.
func verdicts(s *failover.State) map[slot]failover.Verdict {
	out := map[slot]failover.Verdict{}
	for _, c := range members {
		for _, k := range s.Exports(c) {
			for _, consumer := range append([]federation.ClusterID{everybody}, members...) {
				out[slot{federation.Target(k), consumer}], _ = s.Verdict(k, consumer)
			}
		}
	}
	return out
}

// compare compares what both say to everybody.
func (d *duel) compare(when string) {
	d.Helper()
	want := map[slot]failover.Verdict{}
	for k := range d.model.exports {
		for _, consumer := range d.model.consumers {
			want[slot{federation.Target(k), consumer}], _ = d.model.verdict(k, consumer, d.now)
		}
	}
	d.same(when, want, d.verdicts())
	if err := d.state.Check(); err != nil {
		d.Fatalf("+%v %s: %v", d.now.Sub(start), when, err)
	}
	for _, t := range d.model.targets() {
		mode, since := d.state.Mode(t)
		if w := d.model.wishes[t]; mode != w.mode || !since.Equal(w.at) {
			d.Fatalf("+%v %s: %s is in mode %q since %v, want %q since %v", d.now.Sub(start), when, t, mode, since, w.mode, w.at)
		}
	}
}

// save keeps what a hub would store.
func (d *duel) save(tr failover.Transition) {
	exports, clusters := tr.Save()
	keep(d.exports, exports)
	keep(d.clusters, clusters)
}

func keep[K comparable, V any](kept map[K]V, changes map[K]*V) {
	for k, v := range changes {
		if v == nil {
			delete(kept, k)
		} else {
			kept[k] = *v
		}
	}
}

// restored returns the state of a hub that starts on what was stored.
func (d *duel) restored() *failover.State {
	s := failover.New(config, d.state.Policies())
	for _, x := range d.exports {
		s.Restore(x, d.now)
	}
	for _, c := range d.clusters {
		s.RestoreCluster(c, d.now)
	}
	return s
}

// restart checks that a restarted hub says what was said before, but for staleness, and goes on with it.
func (d *duel) restart() {
	d.Helper()
	before := d.verdicts()
	d.state = d.restored()
	for s, v := range before {
		v.Stale = false
		if v.Reason == failover.ServingStale {
			v.Reason = failover.Serving
		}
		before[s] = v
	}
	d.same("a restart changed verdicts", before, d.verdicts())
	d.model.restart()
	for c := range d.model.known {
		_, saved := d.clusters[c]
		d.model.known[c] = saved || d.state.CountExports(c) > 0
	}
	maps.DeleteFunc(d.model.known, func(_ federation.ClusterID, known bool) bool { return !known })
	d.do(failover.Tick{})
}

// FuzzModel plays random events and compares the state with the naive model: the same decisions, on the same inputs,
// and the same verdicts for everybody at every moment; nothing is due between deadlines, whoever sees another verdict
// is told, planning changes nothing, a restart neither, and the journal decides again what it decided.
func FuzzModel(f *testing.F) {
	for seed := range uint64(24) {
		f.Add(written(seed, 600))
	}
	f.Fuzz(func(t *testing.T, s []byte) {
		newDuel(t).play(s[:min(len(s), 4000)])
	})
}

// TestScriptsReachEveryReason keeps the fuzz target from proving nothing: its seeds come by all there is to decide.
func TestScriptsReachEveryReason(t *testing.T) {
	got := map[failover.Reason]bool{}
	for seed := range uint64(6) {
		d := newDuel(t)
		d.play(written(seed, 1500))
		for _, x := range d.journal {
			got[x.Reason] = true
		}
	}
	want := []failover.Reason{
		failover.ControlLostUnobserved, failover.ControlLostUnreachable, failover.Cordoned, failover.Drained, failover.Draining,
		failover.NoReadyEndpoints, failover.Pinned, failover.Recovering, failover.Released, failover.Serving, failover.ServingStale,
		failover.UnreachableByObserver, failover.UnreachableByQuorum,
	}
	if diff := cmp.Diff(want, slices.Sorted(maps.Keys(got))); diff != "" {
		t.Errorf("reasons (-want +got)\n%s", diff)
	}
}
