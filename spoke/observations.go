package spoke

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

// observations are the results of the own probes, of all egress proxies together. A target is unreachable if some
// proxy finds so and no proxy reaches it.
type observations struct {
	targets map[federation.Target]*target
}

// target is what is known of one.
type target struct {
	fresh   time.Duration
	results map[uint32]ProbeResult // by the replica of the proxy
	// unreachable is the view that counts. It becomes true with the result, and false recoverAfter after goodSince.
	unreachable bool
	goodSince   time.Time
	// proven is set once the target has answered. One that never has is only just there: it is used with its first answer.
	proven bool
	// firstFailure is the result that began the present or the last time of being unreachable, changed the last change.
	firstFailure, changed time.Time
}

func newObservations() observations { return observations{targets: map[federation.Target]*target{}} }

// watch makes the probes' targets all there are.
func (o *observations) watch(probes []Probe) {
	wanted := map[federation.Target]bool{}
	for _, p := range probes {
		wanted[p.Target] = true
		t := o.targets[p.Target]
		if t == nil {
			t = &target{results: map[uint32]ProbeResult{}}
			o.targets[p.Target] = t
		}
		t.fresh = max(freshIntervals*p.Interval, freshAtLeast)
	}
	maps.DeleteFunc(o.targets, func(k federation.Target, _ *target) bool { return !wanted[k] })
}

// record takes a result of a replica; one of a target that is not watched, or an older one, is dropped. It reports
// whether the view that counts changed.
func (o *observations) record(k federation.Target, replica uint32, r ProbeResult, now time.Time) bool {
	t := o.targets[k]
	if t == nil || r.At.Before(t.results[replica].At) {
		return false
	}
	t.results[replica] = r
	return t.judge(now)
}

// judge brings the view in line with the results.
func (t *target) judge(now time.Time) (changed bool) {
	was := t.unreachable
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
func (t *target) merged(now time.Time) (ProbeResult, bool) {
	var best ProbeResult
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

// tick judges again what time may have changed, and returns the targets whose view changed.
func (o *observations) tick(now time.Time) []federation.Target {
	var out []federation.Target
	for k, t := range o.targets {
		if t.unreachable && t.judge(now) {
			out = append(out, k)
		}
	}
	slices.SortFunc(out, federation.Target.Compare)
	return out
}

// deadline returns when tick may next change something.
func (o *observations) deadline() (time.Time, bool) {
	var first time.Time
	for _, t := range o.targets {
		if !t.unreachable {
			continue
		}
		at := t.changed
		for _, r := range t.results {
			at = later(at, r.At.Add(t.fresh+time.Millisecond))
		}
		if !t.goodSince.IsZero() {
			at = t.goodSince.Add(recoverAfter)
		}
		if first.IsZero() || at.Before(first) {
			first = at
		}
	}
	return first, !first.IsZero()
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// unreachable reports whether the own probes say so.
func (o *observations) unreachable(k federation.Target) bool {
	t := o.targets[k]
	return t != nil && t.unreachable
}

// report returns the fresh results for the hub, which judges for itself.
func (o *observations) report(now time.Time) map[federation.Target]Observation {
	out := map[federation.Target]Observation{}
	for k, t := range o.targets {
		if r, ok := t.merged(now); ok {
			out[k] = Observation{Reachable: r.Reachable, At: r.At, RTT: r.RTT, Error: r.Error}
		}
	}
	return out
}
