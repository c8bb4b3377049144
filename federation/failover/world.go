package failover

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"github.com/tailgate-project/tailgate/federation"
)

// world is the state as it will be once the event's facts are recorded, without recording them.
type world struct {
	*State
	event Event
}

// inputs collects what the rules need for an export, and when time alone will change it (zero for never).
func (w world) inputs(k federation.ExportKey, ready int, now time.Time) (Inputs, time.Time) {
	m := w.member(k.Cluster, now)
	in := Inputs{Ready: ready, LinkLost: m.link.lost(now), APILost: m.api.lost(now)}
	var until time.Time
	for _, s := range []signal{m.link, m.api} {
		if g := s.since.Add(w.policy.Grace); s.lost(now) >= 0 && now.Before(g) {
			until = earlier(until, g)
		}
	}
	votes := map[federation.ClusterID]Vote{}
	for _, t := range []federation.Target{{Cluster: k.Cluster}, {Cluster: k.Cluster, Service: k.Service}} {
		for o, ob := range w.observations(t) {
			if o == k.Cluster || !w.fresh(t, ob, now) {
				continue
			}
			until = earlier(until, ob.at.Add(w.policy.fresh(t)))
			v := Vote{Observer: o, Reachable: ob.reachable, Age: now.Sub(ob.at), Doubtful: w.doubtful(o, now)}
			if was, ok := votes[o]; ok { // the cluster and the VIP: both must be reachable
				v.Reachable, v.Age = v.Reachable && was.Reachable, min(v.Age, was.Age)
			}
			votes[o] = v
		}
	}
	in.Votes = slices.SortedFunc(maps.Values(votes), func(a, b Vote) int { return cmp.Compare(a.Observer, b.Observer) })
	return in, until
}

func (w world) fresh(t federation.Target, o observation, now time.Time) bool {
	return now.Sub(o.at) < w.policy.fresh(t)
}

// member returns the cluster's signals after the event.
func (w world) member(c federation.ClusterID, now time.Time) member {
	m := w.members[c]
	switch e := w.event.(type) {
	case LinkChanged:
		if e.Cluster == c {
			m.link = m.link.next(e.Up, now)
		}
	case APIChanged:
		if e.Cluster == c {
			m.api = m.api.next(e.Up, now)
		}
	}
	return m
}

// observations yields who saw the target how, after the event.
func (w world) observations(t federation.Target) func(func(federation.ClusterID, observation) bool) {
	e, isNew := w.event.(Observed)
	isNew = isNew && e.Target == t && !e.At.Before(w.seen[t][e.Observer].at)
	return func(yield func(federation.ClusterID, observation) bool) {
		for o, ob := range w.seen[t] {
			if isNew && o == e.Observer {
				continue
			}
			if !yield(o, ob) {
				return
			}
		}
		if isNew {
			yield(e.Observer, observation{reachable: e.Reachable, at: e.At})
		}
	}
}

// doubtful reports whether an observer should doubt itself: it probes several clusters and fails most of them (after
// the awareness score of hashicorp/memberlist). An observer of one cluster has nothing to compare with.
func (w world) doubtful(o federation.ClusterID, now time.Time) bool {
	var bad, all int
	watched := maps.Clone(w.byWatcher[o])
	if e, ok := w.event.(Observed); ok && e.Observer == o && e.Target.Service == (federation.ServiceID{}) {
		if watched == nil {
			watched = map[federation.ClusterID]struct{}{}
		}
		watched[e.Target.Cluster] = struct{}{}
	}
	for c := range watched {
		t := federation.Target{Cluster: c}
		for who, ob := range w.observations(t) {
			if who != o || !w.fresh(t, ob, now) {
				continue
			}
			all++
			if !ob.reachable {
				bad++
			}
		}
	}
	return all > 1 && bad*2 > all
}

func earlier(a, b time.Time) time.Time {
	if a.IsZero() || b.Before(a) {
		return b
	}
	return a
}
