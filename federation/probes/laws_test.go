package probes_test

import (
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/federation/probes"
)

// naive keeps all that ever happened to one target, and works out from the beginning what follows.
type naive struct {
	fresh time.Duration
	// moments are when the target was looked at, each with the results that had come by then.
	moments []moment
	results []probed
}

type moment struct {
	at     time.Time
	known  int
	byTime bool // and not by a result
}

type probed struct {
	prober uint32
	probes.Result
}

// look notes that the target is looked at, by time or because of a result.
func (n *naive) look(now time.Time, byTime bool) {
	n.moments = append(n.moments, moment{now, len(n.results), byTime})
}

// record notes a result, unless the prober had a newer one.
func (n *naive) record(p probed) bool {
	for _, o := range n.results {
		if o.prober == p.prober && o.At.After(p.At) {
			return false
		}
	}
	n.results = append(n.results, p)
	return true
}

// answer is what the results say: the newest that reaches it, or the newest.
func (n *naive) answer(m moment) (best probes.Result, known bool) {
	newest := map[uint32]probes.Result{}
	for _, p := range n.results[:m.known] {
		newest[p.prober] = p.Result
	}
	var all []probes.Result
	for _, r := range newest {
		if m.at.Sub(r.At) <= n.fresh {
			all = append(all, r)
		}
	}
	if len(all) == 0 {
		return probes.Result{}, false
	}
	if good := slices.DeleteFunc(slices.Clone(all), func(r probes.Result) bool { return !r.Reachable }); len(good) > 0 {
		all = good
	}
	return slices.MaxFunc(all, func(a, b probes.Result) int { return a.At.Compare(b.At) }), true
}

// unreachable goes through all moments.
func (n *naive) unreachable() bool {
	down, proven := false, false
	var since time.Time // of the answers without a break
	for _, m := range n.moments {
		if m.byTime && !down {
			continue // it does not become worse by time
		}
		r, known := n.answer(m)
		switch {
		case !known:
			down, since = false, time.Time{}
		case !r.Reachable:
			down, since = true, time.Time{}
		default:
			if since.IsZero() {
				since = r.At
			}
			if !proven || !m.at.Before(since.Add(3*time.Second)) {
				down = false
			}
			proven = true
		}
	}
	return down
}

// FuzzObservations plays results that come late or twice, of three probers of two targets. One set of observations is
// looked at only at its deadlines, the other one at other times too; both have to say what the naive model says.
func FuzzObservations(f *testing.F) {
	f.Add([]byte{0x01, 0, 0x10, 5, 0x01, 9, 0x21, 30, 0xff, 100, 0x01, 3})
	f.Add([]byte{0x00, 1, 0x11, 10, 0x10, 200, 0x20, 200, 0x30, 60, 0x41, 7, 0x61, 99, 0x31, 80, 0xf0, 250, 0x11, 250})
	f.Add([]byte{0x80, 1, 0x91, 1, 0x05, 40, 0x01, 60, 0x04, 35, 0x14, 100, 0x24, 100, 0x34, 100, 0x44, 100})
	f.Fuzz(func(t *testing.T, ops []byte) {
		if len(ops) > 120 {
			return // the model takes the cube of it
		}
		intervals := map[federation.Target]time.Duration{target: time.Second, other: 2 * time.Second}
		eager, lazy := watching(intervals), watching(intervals)
		models := map[federation.Target]*naive{target: {fresh: 3 * time.Second}, other: {fresh: 6 * time.Second}}
		now := start
		for i := 0; i+1 < len(ops); i += 2 {
			next := now.Add(time.Duration(ops[i+1]) * 20 * time.Millisecond)
			tick(t, lazy, now, next, func(at time.Time) {
				lazy.Tick(at)
				checkEager(t, eager, models, at)
			})
			now = next
			checkEager(t, eager, models, now)

			k := []federation.Target{target, other}[ops[i]&1]
			p := probed{prober: uint32(ops[i]>>1) % 3, Result: probes.Result{Reachable: ops[i]&8 != 0, At: now.Add(-time.Duration(ops[i]>>4) * 100 * time.Millisecond)}}
			was := models[k].unreachable()
			if models[k].record(p) {
				models[k].look(now, false)
			}
			changes := models[k].unreachable() != was
			for name, o := range map[string]*probes.Observations{"eager": eager, "lazy": lazy} {
				if got := o.Record(k, p.prober, p.Result, now); got != changes {
					t.Fatalf("op %d: %s: the result changes the view: %v, want %v", i/2, name, got, changes)
				}
				for k, m := range models {
					if got, want := o.Unreachable(k), m.unreachable(); got != want {
						t.Fatalf("op %d: %s: %s unreachable %v, want %v", i/2, name, k, got, want)
					}
				}
			}
			if d := cmp.Diff(eager.Report(now), lazy.Report(now)); d != "" {
				t.Fatalf("op %d: looking changes what is reported\n%s", i/2, d)
			}
		}
	})
}

// tick calls what looks at the observations whenever these ask for it.
func tick(t *testing.T, o *probes.Observations, from, to time.Time, look func(at time.Time)) {
	t.Helper()
	for {
		at, ok := o.Deadline()
		if !ok || at.After(to) {
			return
		}
		if at.Before(from) {
			t.Fatalf("deadline %v, which is over at %v", at.Sub(start), from.Sub(start))
		}
		look(at)
		if again, ok := o.Deadline(); ok && !again.After(at) {
			t.Fatalf("deadline %v after looking at %v", again.Sub(start), at.Sub(start))
		}
		from = at
	}
}

// checkEager looks now, and checks what is said to have changed.
func checkEager(t *testing.T, o *probes.Observations, models map[federation.Target]*naive, now time.Time) {
	t.Helper()
	var want []federation.Target
	for _, k := range []federation.Target{target, other} {
		was := models[k].unreachable()
		models[k].look(now, true)
		if is := models[k].unreachable(); is != was {
			want = append(want, k)
		}
	}
	if d := cmp.Diff(want, o.Tick(now)); d != "" {
		t.Fatalf("changed at %v (-want +got)\n%s", now.Sub(start), d)
	}
}
