package failover

import (
	"cmp"
	"slices"
	"time"

	"github.com/tailgate-project/tailgate/federation"
)

// sight is a fresh observation. One that is no longer fresh is dropped.
type sight struct {
	observer  federation.ClusterID
	reachable bool
	at        time.Time
}

// watcher sums up the fresh observations that an observer has of clusters' ingress.
type watcher struct{ all, failing int }

// doubtful reports whether the observer should doubt itself: it probes several clusters and fails most of them (after
// the awareness score of hashicorp/memberlist). An observer of one cluster has nothing to compare with.
func (w watcher) doubtful() bool { return w.all > 1 && 2*w.failing > w.all }

func findSight(seen []sight, o federation.ClusterID) (int, bool) {
	return slices.BinarySearchFunc(seen, o, func(s sight, o federation.ClusterID) int { return cmp.Compare(s.observer, o) })
}

// repeats reports whether an observation says what is known, or is late: then it changes nothing but its time.
func (s *State) repeats(e Observed, now time.Time) bool {
	if now.Sub(e.At) >= s.config.fresh(e.Target) || e.Observer == e.Target.Cluster {
		return true
	}
	seen := s.seen[e.Target]
	i, ok := findSight(seen, e.Observer)
	if !ok {
		return false
	}
	expired := now.Sub(seen[i].at) >= s.config.fresh(e.Target)
	return e.At.Before(seen[i].at) || (seen[i].reachable == e.Reachable && !expired)
}

// touch makes a repeated observation count from its own time.
func (s *State) touch(e Observed) {
	if i, ok := findSight(s.seen[e.Target], e.Observer); ok && s.seen[e.Target][i].reachable == e.Reachable {
		s.seen[e.Target][i].at = later(s.seen[e.Target][i].at, e.At)
	}
}

// see puts an observation in place of the observer's last one.
func (d *draft) see(e Observed) {
	seen := d.sights(e.Target)
	i, ok := findSight(seen, e.Observer)
	seen = slices.Clone(seen)
	if ok {
		d.count(e.Target, seen[i], -1)
		seen[i] = sight{observer: e.Observer, reachable: e.Reachable, at: e.At}
	} else {
		seen = slices.Insert(seen, i, sight{observer: e.Observer, reachable: e.Reachable, at: e.At})
	}
	d.count(e.Target, seen[i], 1)
	d.setSights(e.Target, seen)
	d.affect(e.Target)
}

// drop forgets the observations of a target that do not count any more, by keep.
func (d *draft) drop(t federation.Target, keep func(sight) bool) {
	old := d.sights(t)
	if !slices.ContainsFunc(old, func(s sight) bool { return !keep(s) }) {
		return
	}
	next := make([]sight, 0, len(old))
	for _, s := range old {
		if keep(s) {
			next = append(next, s)
		} else {
			d.count(t, s, -1)
		}
	}
	d.setSights(t, next)
	d.affect(t)
}

// count adds an observation to the sums, or takes it away.
func (d *draft) count(t federation.Target, s sight, n int) {
	if !whole(t) {
		if s.reachable {
			d.facts(t.Cluster).vips += n
			d.affect(federation.Target{Cluster: t.Cluster})
		}
		return
	}
	w, ok := d.t.watchers[s.observer]
	if !ok {
		w = d.watchers[s.observer]
	}
	before := w.doubtful()
	w.all += n
	if !s.reachable {
		w.failing += n
	}
	put(&d.t.watchers, s.observer, w)
	if w.doubtful() == before {
		return
	}
	// It begins or ceases to doubt itself: its votes on others count differently now. That is rare.
	for other, seen := range d.seen {
		if i, ok := findSight(seen, s.observer); ok && !seen[i].reachable {
			d.affect(other)
		}
	}
}

func (d *draft) doubtful(o federation.ClusterID) bool {
	if w, ok := d.t.watchers[o]; ok {
		return w.doubtful()
	}
	return d.watchers[o].doubtful()
}

// votes sums up the observations of a target.
func (d *draft) votes(t federation.Target) Votes {
	var v Votes
	for _, s := range d.sights(t) {
		switch {
		case s.reachable:
			v.Reach++
			continue
		case d.doubtful(s.observer):
			v.Doubted++
		default:
			v.Fail++
		}
		if len(v.Failing) < maxNamed {
			v.Failing = append(v.Failing, s.observer)
		}
	}
	if whole(t) && v.Reach+v.Fail == 0 { // who reaches a VIP there reaches the cluster
		v.Reach = d.factsOf(t.Cluster).vips
	}
	return v
}

// expiry returns when the first of the observations of a target will cease to count.
func (d *draft) expiry(t federation.Target) time.Time {
	var at time.Time
	for _, s := range d.sights(t) {
		at = earlier(at, s.at.Add(d.config.fresh(t)))
	}
	return at
}
