// Package probes is what a cluster knows of the others by probing them itself. What it finds counts at once and without
// asking anybody: down is quick, up is slow.
package probes

import (
	"maps"
	"slices"
	"time"

	"github.com/tailgate-project/tailgate/federation"
)

const (
	// freshIntervals is for how many probe intervals a result counts, freshAtLeast for how long at least.
	freshIntervals = 3
	freshAtLeast   = 3 * time.Second
	// recoverAfter is how long a target must answer without a break before it is used again: down is quick, up is
	// slow.
	recoverAfter = 3 * time.Second
)

// Result is what a prober found.
type Result struct {
	Reachable bool
	At        time.Time
	RTT       time.Duration
	// Error says what went wrong; empty if it is reachable.
	Error string
}

// Observations are the results of a cluster's own probes, of all its probers together. A target is unreachable if some
// prober finds so and none reaches it. Use [New].
//
// The laws: a target becomes unreachable with a result and never by time; it becomes reachable by time alone, unless it
// had never answered before; results that are stale or of what is not watched count for nothing; and who calls Tick at
// each Deadline, and at no other time, misses nothing.
type Observations struct {
	targets map[federation.Target]*target
}

// target is what is known of one.
type target struct {
	fresh   time.Duration
	results map[uint32]Result // by prober
	// unreachable is the view that counts. It becomes true with the result, and false recoverAfter after goodSince.
	unreachable bool
	goodSince   time.Time
	// proven is set once the target has answered. One that never has is only just there: it is used with its first answer.
	proven bool
	// firstFailure is the result that began the present or the last time of being unreachable, changed the last change.
	firstFailure, changed time.Time
	// judged is when the results were last looked at.
	judged time.Time
}

// New returns observations of nothing.
func New() *Observations { return &Observations{targets: map[federation.Target]*target{}} }

// Watch makes the targets, each with the interval of its probes, all there are.
func (o *Observations) Watch(intervals map[federation.Target]time.Duration) {
	for k, interval := range intervals {
		t := o.targets[k]
		if t == nil {
			t = &target{results: map[uint32]Result{}}
			o.targets[k] = t
		}
		if fresh := max(freshIntervals*interval, freshAtLeast); fresh != t.fresh {
			t.fresh, t.judged = fresh, time.Time{} // a result may be stale by it already
		}
	}
	maps.DeleteFunc(o.targets, func(k federation.Target, _ *target) bool { _, wanted := intervals[k]; return !wanted })
}

// Record takes a result of a prober; one of a target that is not watched, or an older one, is dropped. It reports
// whether the view that counts changed.
func (o *Observations) Record(k federation.Target, prober uint32, r Result, now time.Time) bool {
	t := o.targets[k]
	if t == nil || r.At.Before(t.results[prober].At) {
		return false
	}
	t.results[prober] = r
	return t.judge(now)
}

// judge brings the view in line with the results.
func (t *target) judge(now time.Time) (changed bool) {
	was := t.unreachable
	t.judged = now
	r, known := t.merged(now)
	switch {
	case !known:
		t.unreachable, t.goodSince = false, time.Time{}
	case !r.Reachable:
		if !t.unreachable {
			t.firstFailure = r.At
		}
		t.unreachable, t.goodSince = true, time.Time{}
	default:
		if t.goodSince.IsZero() {
			t.goodSince = r.At
		}
		t.unreachable = t.unreachable && t.proven && now.Sub(t.goodSince) < recoverAfter
		t.proven = true
	}
	if was != t.unreachable {
		t.changed = now
	}
	return was != t.unreachable
}

// merged returns the fresh result that counts: a reachable one before an unreachable one, then the newest.
func (t *target) merged(now time.Time) (Result, bool) {
	var best Result
	known := false
	for _, r := range t.results {
		if now.Sub(r.At) > t.fresh {
			continue
		}
		if !known || (r.Reachable && !best.Reachable) || (r.Reachable == best.Reachable && r.At.After(best.At)) {
			best, known = r, true
		}
	}
	return best, known
}

// Tick judges again what time may have changed, and returns the targets whose view changed, sorted.
func (o *Observations) Tick(now time.Time) []federation.Target {
	var out []federation.Target
	for k, t := range o.targets {
		if t.unreachable && t.judge(now) {
			out = append(out, k)
		}
	}
	slices.SortFunc(out, federation.Target.Compare)
	return out
}

// Deadline returns when Tick may next change something.
func (o *Observations) Deadline() (time.Time, bool) {
	var first time.Time
	for _, t := range o.targets {
		if at := t.deadline(); t.unreachable && (first.IsZero() || at.Before(first)) {
			first = at
		}
	}
	return first, !first.IsZero()
}

// deadline returns when an unreachable target has to be judged again: when it has answered for long enough, or when a
// result goes stale, whichever comes first.
func (t *target) deadline() time.Time {
	var first time.Time
	consider := func(at time.Time) {
		if at.After(t.judged) && (first.IsZero() || at.Before(first)) {
			first = at
		}
	}
	if !t.goodSince.IsZero() {
		consider(t.goodSince.Add(recoverAfter))
	}
	for _, r := range t.results {
		consider(r.At.Add(t.fresh + time.Millisecond))
	}
	return first
}

// Unreachable reports whether the own probes say so.
func (o *Observations) Unreachable(k federation.Target) bool {
	t := o.targets[k]
	return t != nil && t.unreachable
}

// Report returns the fresh results for the hub, which judges for itself.
func (o *Observations) Report(now time.Time) map[federation.Target]Result {
	out := map[federation.Target]Result{}
	for k, t := range o.targets {
		if r, ok := t.merged(now); ok {
			out[k] = r
		}
	}
	return out
}

// State is what is known of one target, for people.
type State struct {
	Result
	Unreachable bool
	// FirstFailure is the result that began the present or the last time of being unreachable, Changed the last change.
	FirstFailure, Changed time.Time
}

// State returns what is known of a target, and whether anything fresh is.
func (o *Observations) State(k federation.Target, now time.Time) (State, bool) {
	t := o.targets[k]
	if t == nil {
		return State{}, false
	}
	r, known := t.merged(now)
	return State{Result: r, Unreachable: t.unreachable, FirstFailure: t.firstFailure, Changed: t.changed}, known
}

// Targets returns the targets that are watched, sorted.
func (o *Observations) Targets() []federation.Target {
	return slices.SortedFunc(maps.Keys(o.targets), federation.Target.Compare)
}
