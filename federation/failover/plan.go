package failover

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/federation/policy"
)

// Transition is what an event changes. It is valid for the state that planned it, until the next Apply.
type Transition struct {
	// Decisions are the changes of health and of operators' wishes, sorted by subject and consumer.
	Decisions []Decision
	// Touched are the subjects whose verdicts changed in any way, sorted; those of Decisions are among them. A whole
	// cluster stands for all of its exports.
	Touched []federation.Target

	repeat   *Observed
	policies *policy.Set
	facts    map[federation.ClusterID]*facts  // nil deletes the cluster
	exports  map[federation.ExportKey]*export // nil deletes
	seen     map[federation.Target][]sight    // nil deletes
	watchers map[federation.ClusterID]watcher // the zero watcher deletes
	due      map[federation.Target]time.Time  // zero for never
	saved    map[federation.Target]struct{}   // whose kept state changed
}

// draft is a transition in the making: the state as it will be, over the one that is.
type draft struct {
	*State
	t        *Transition
	now      time.Time
	affected map[federation.Target]struct{}
	operated map[federation.Target]struct{}
}

// Plan says what the event changes at the time now. It changes nothing itself.
func (s *State) Plan(e Event, now time.Time) Transition {
	if o, ok := e.(Observed); ok && s.repeats(o, now) {
		return Transition{repeat: &o} // by far the most frequent event
	}
	d := s.draft(now)
	d.take(e)
	d.judgeAll()
	return d.finish()
}

func (s *State) draft(now time.Time) *draft {
	return &draft{
		State: s, now: now, affected: map[federation.Target]struct{}{}, operated: map[federation.Target]struct{}{},
		t: &Transition{
			facts: map[federation.ClusterID]*facts{}, exports: map[federation.ExportKey]*export{}, seen: map[federation.Target][]sight{},
			watchers: map[federation.ClusterID]watcher{}, due: map[federation.Target]time.Time{}, saved: map[federation.Target]struct{}{},
		},
	}
}

func (d *draft) finish() Transition {
	slices.SortFunc(d.t.Touched, federation.Target.Compare)
	d.t.Touched = slices.Compact(d.t.Touched)
	slices.SortFunc(d.t.Decisions, func(a, b Decision) int {
		return cmp.Or(a.Subject.Compare(b.Subject), cmp.Compare(a.Consumer, b.Consumer))
	})
	return *d.t
}

func (d *draft) affect(t federation.Target) { d.affected[t] = struct{}{} }

// facts returns the cluster's facts to be changed; a cluster not heard of before begins to exist.
func (d *draft) facts(c federation.ClusterID) *facts {
	f := d.t.facts[c]
	if f == nil {
		copied := *d.State.factsOf(c)
		f = &copied
		d.t.facts[c] = f
	}
	return f
}

// factsOf returns the cluster's facts to be read.
func (d *draft) factsOf(c federation.ClusterID) *facts {
	if f := d.t.facts[c]; f != nil {
		return f
	}
	return d.State.factsOf(c)
}

func (d *draft) export(k federation.ExportKey) *export {
	if x, ok := d.t.exports[k]; ok {
		return x
	}
	return d.State.export(k)
}

func (d *draft) sights(t federation.Target) []sight {
	if seen, ok := d.t.seen[t]; ok {
		return seen
	}
	return d.seen[t]
}

func (d *draft) setSights(t federation.Target, seen []sight) { d.t.seen[t] = seen }

// take records what the event says, and whom it affects.
func (d *draft) take(e Event) {
	switch e := e.(type) {
	case ExportChanged:
		d.changeExport(e.Export)
	case ExportRemoved:
		d.removeExport(e.Key)
	case ClusterGone:
		d.forget(e.Cluster)
	case LinkChanged:
		d.signal(e.Cluster, e.Up, func(f *facts) *signal { return &f.link })
	case APIChanged:
		d.signal(e.Cluster, e.Up, func(f *facts) *signal { return &f.api })
	case Observed:
		d.see(e)
	case Operated:
		d.operate(e)
	case PoliciesChanged:
		d.changePolicies(e.Policies)
	case Tick:
		for _, t := range d.timers.due(d.now) {
			d.affect(t)
			d.drop(t, func(s sight) bool { return d.now.Sub(s.at) < d.config.fresh(t) })
		}
	}
}

func (d *draft) changeExport(x federation.Export) {
	old := d.export(x.Key)
	if old != nil && old.spec.Equal(x) {
		return
	}
	next := &export{spec: x}
	if old != nil {
		next.subject = old.subject
	}
	d.facts(x.Key.Cluster)
	d.t.exports[x.Key] = next
	t := target(x.Key)
	d.affect(t)
	d.t.Touched = append(d.t.Touched, t)
	d.t.saved[t] = struct{}{}
}

func (d *draft) removeExport(k federation.ExportKey) {
	if d.export(k) == nil {
		return
	}
	t := target(k)
	d.drop(t, func(sight) bool { return false })
	d.t.exports[k] = nil
	d.t.seen[t] = nil
	d.t.due[t] = time.Time{}
	d.t.Touched = append(d.t.Touched, t)
	d.t.saved[t] = struct{}{}
}

// forget drops what a cluster was, saw and was seen as.
func (d *draft) forget(c federation.ClusterID) {
	for _, k := range d.Exports(c) {
		d.removeExport(k)
	}
	for t := range d.seen {
		d.drop(t, func(s sight) bool { return t.Cluster != c && s.observer != c })
	}
	whole := federation.Target{Cluster: c}
	d.t.facts[c], d.t.due[whole] = nil, time.Time{}
	d.t.saved[whole] = struct{}{}
	for t := range d.affected {
		if t.Cluster == c {
			delete(d.affected, t)
		}
	}
}

// signal records that a signal came or went. Exports are affected where observations of their VIPs wait for it.
func (d *draft) signal(c federation.ClusterID, up bool, which func(*facts) *signal) {
	now := *which(d.factsOf(c))
	next := now.next(up, d.now)
	if next == now {
		return
	}
	*which(d.facts(c)) = next
	d.affect(federation.Target{Cluster: c})
	d.affectRestless(c)
	for t := range d.seen { // a failing observation waits for the grace time
		if t.Cluster == c && !whole(t) {
			d.affect(t)
		}
	}
}

// affectRestless affects the exports of a cluster that are not at rest: what is known of the cluster is part of their
// inputs.
func (d *draft) affectRestless(c federation.ClusterID) {
	if cl := d.clusters[c]; cl != nil {
		for id := range cl.restless {
			d.affect(federation.Target{Cluster: c, Service: id})
		}
	}
}

// changePolicies judges anew what is not at rest: policies say how long things take.
func (d *draft) changePolicies(p *policy.Set) {
	if d.policies.Equal(p) {
		return
	}
	d.t.policies = p
	for id, cl := range d.clusters {
		whole := federation.Target{Cluster: id}
		d.affect(whole)
		d.t.Touched = append(d.t.Touched, whole)
		for svc := range cl.restless {
			d.affect(federation.Target{Cluster: id, Service: svc})
		}
	}
}

// operate records what an operator wants. What is not there cannot be operated.
func (d *draft) operate(e Operated) {
	if d.clusters[e.Subject.Cluster] == nil || (!whole(e.Subject) && d.export(key(e.Subject)) == nil) || (whole(e.Subject) && e.Mode == Pin) {
		return
	}
	if e.Mode == Pin { // one at a time
		for c := range d.clusters {
			other := federation.Target{Cluster: c, Service: e.Subject.Service}
			if m, _ := d.Mode(other); c != e.Subject.Cluster && m == Pin {
				d.wish(Operated{Subject: other, Mode: Normal})
			}
		}
	}
	d.wish(e)
}

func (d *draft) wish(e Operated) {
	old := d.State.subject(e.Subject)
	if old.mode == e.Mode {
		return
	}
	next := *old
	next.mode, next.since, next.ramp = e.Mode, d.now, e.Ramp
	if next.ramp < 0 {
		next.ramp = d.times(e.Subject, everybody).Ramp
	}
	d.setSubject(e.Subject, &next)
	d.operated[e.Subject] = struct{}{}
	d.affect(e.Subject)
	d.t.saved[e.Subject] = struct{}{}
}

func (d *draft) setSubject(t federation.Target, sub *subject) {
	if whole(t) {
		d.facts(t.Cluster).subject = *sub
		return
	}
	next := &export{spec: d.export(key(t)).spec}
	if !sub.resting() {
		next.subject = sub
	}
	d.t.exports[key(t)] = next
}

// policy returns the policy that counts after the event.
func (d *draft) policy(t federation.Target, consumer federation.ClusterID) *policy.Policy {
	set := d.policies
	if d.t.policies != nil {
		set = d.t.policies
	}
	if whole(t) {
		return set.Fallback()
	}
	return set.For(t.Service, d.export(key(t)).spec.Labels, consumer)
}

func (d *draft) times(t federation.Target, consumer federation.ClusterID) policy.Times {
	return d.policy(t, consumer).Times
}

// Apply makes the transition.
func (s *State) Apply(t Transition) {
	if t.repeat != nil {
		s.touch(*t.repeat)
		return
	}
	if t.policies != nil {
		s.policies = t.policies
	}
	for c, f := range t.facts {
		switch {
		case f == nil:
			delete(s.clusters, c)
		case s.clusters[c] == nil:
			s.clusters[c] = newCluster(f)
		default:
			s.clusters[c].facts = f
		}
	}
	for k, x := range t.exports {
		switch cl := s.clusters[k.Cluster]; {
		case cl == nil: // gone with all its exports
		case x == nil:
			cl.drop(k.Service)
		default:
			cl.put(k.Service, x)
		}
	}
	for target, seen := range t.seen {
		if len(seen) == 0 {
			delete(s.seen, target)
		} else {
			s.seen[target] = seen
		}
	}
	for o, w := range t.watchers {
		if w == (watcher{}) {
			delete(s.watchers, o)
		} else {
			s.watchers[o] = w
		}
	}
	for target, at := range t.due {
		s.timers.set(target, at)
	}
}

// affectedSorted returns the affected subjects: clusters before exports, since an export may have to wait for its
// cluster's return.
func (d *draft) affectedSorted() []federation.Target {
	return slices.SortedFunc(maps.Keys(d.affected), func(a, b federation.Target) int {
		if whole(a) != whole(b) {
			if whole(a) {
				return -1
			}
			return 1
		}
		return a.Compare(b)
	})
}
