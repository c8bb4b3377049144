package failover

import (
	"cmp"
	"slices"
	"time"

	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/federation/policy"
)

// Transition is what an event changes. It is valid for the state that planned it, until the next Apply.
type Transition struct {
	// Decisions are the changes of health and of operators' wishes, sorted by subject and consumer.
	Decisions []Decision
	// Touched says whose verdicts on what changed in any way but Since, sorted; what Decisions are about is among it.
	Touched []Touch

	repeat   *Observed
	policies *policy.Set
	facts    map[federation.ClusterID]*facts  // nil deletes the cluster
	exports  map[federation.ExportKey]*export // nil deletes
	seen     map[federation.Target][]sight    // nil deletes
	watchers map[federation.ClusterID]watcher // the zero watcher deletes
	due      []timer                          // zero for never; the last of a target counts
	saved    []federation.Target              // whose kept state changed
}

// Touch is a subject whose verdict changed for one consumer, or for all if that is empty. A whole cluster stands for all
// of its exports.
type Touch struct {
	Subject  federation.Target
	Consumer federation.ClusterID
}

// Compare orders touches by subject, then consumer.
func (t Touch) Compare(o Touch) int {
	return cmp.Or(t.Subject.Compare(o.Subject), cmp.Compare(t.Consumer, o.Consumer))
}

// draft is a transition in the making: the state as it will be, over the one that is.
type draft struct {
	*State
	t        *Transition
	now      time.Time
	affected []federation.Target
	operated []federation.Target
	// back says for whom which cluster comes back in this event.
	back map[federation.ClusterID][]federation.ClusterID
}

// Plan says what the event changes at the time now. It changes nothing itself.
func (s *State) Plan(e Event, now time.Time) Transition {
	if o, ok := e.(Observed); ok && s.repeats(o, now) {
		return Transition{repeat: new(o)} // by far the most frequent event
	}
	d := s.draft(now)
	d.take(e)
	d.judgeAll()
	return d.finish()
}

func (s *State) draft(now time.Time) *draft { return &draft{State: s, now: now, t: &Transition{}} }

// put writes to a map that is made when it is first needed: an event needs few of them.
func put[K comparable, V any](m *map[K]V, k K, v V) {
	if *m == nil {
		*m = map[K]V{}
	}
	(*m)[k] = v
}

func (d *draft) finish() Transition {
	slices.SortFunc(d.t.Touched, Touch.Compare)
	d.t.Touched = slices.Compact(d.t.Touched)
	slices.SortFunc(d.t.Decisions, func(a, b Decision) int {
		return cmp.Or(a.Subject.Compare(b.Subject), cmp.Compare(a.Consumer, b.Consumer))
	})
	return *d.t
}

func (d *draft) affect(t federation.Target) { d.affected = append(d.affected, t) }

// facts returns the cluster's facts to be changed; a cluster not heard of before begins to exist.
func (d *draft) facts(c federation.ClusterID) *facts {
	f := d.t.facts[c]
	if f == nil {
		copied := *d.State.factsOf(c)
		f = &copied
		put(&d.t.facts, c, f)
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

// save notes that what is kept of a subject changes, wake when it is due, zero for never.
func (d *draft) save(t federation.Target) { d.t.saved = append(d.t.saved, t) }

func (d *draft) wake(t federation.Target, at time.Time) {
	d.t.due = append(d.t.due, timer{at: at, key: t})
}

func (d *draft) setSights(t federation.Target, seen []sight) { put(&d.t.seen, t, seen) }

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
	put(&d.t.exports, x.Key, next)
	if d.clusters[x.Key.Cluster] == nil {
		d.facts(x.Key.Cluster)
	}
	t := target(x.Key)
	d.affect(t)
	d.touch(t, everybody)
	d.save(t)
}

func (d *draft) removeExport(k federation.ExportKey) {
	if d.export(k) == nil {
		return
	}
	t := target(k)
	d.drop(t, func(sight) bool { return false })
	put(&d.t.exports, k, nil)
	d.setSights(t, nil)
	d.wake(t, time.Time{})
	d.touch(t, everybody)
	d.save(t)
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
	put(&d.t.facts, c, nil)
	d.wake(whole, time.Time{})
	d.save(whole)
	d.affected = slices.DeleteFunc(d.affected, func(t federation.Target) bool {
		if t.Cluster == c {
			d.wake(t, time.Time{})
		}
		return t.Cluster == c
	})
	for id, cl := range d.clusters {
		if id == c {
			continue
		}
		d.forgetConsumer(federation.Target{Cluster: id}, c)
		for svc := range cl.restless {
			d.forgetConsumer(federation.Target{Cluster: id, Service: svc}, c)
		}
	}
}

// forgetConsumer drops the cell that a subject has for a consumer that left: the next of that name begins anew.
func (d *draft) forgetConsumer(t federation.Target, c federation.ClusterID) {
	sub := *d.drafted(t)
	i, ok := sub.find(c)
	if !ok {
		return
	}
	sub.cells = slices.Delete(slices.Clone(sub.cells), i, i+1)
	d.setSubject(t, &sub)
	d.affect(t)
	d.touch(t, c)
	d.save(t)
}

// signal records that a signal came or went. What failing observations of VIPs do then depends on it, and for how long:
// their exports are not at rest, since each is down for its observer at least.
func (d *draft) signal(c federation.ClusterID, up bool, which func(*facts) *signal) {
	now := *which(d.factsOf(c))
	next := now.next(up, d.now)
	if next == now {
		return
	}
	*which(d.facts(c)) = next
	d.affect(federation.Target{Cluster: c})
	d.affectRestless(c)
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
		d.touch(whole, everybody)
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
	old := d.subject(e.Subject)
	if old.mode == e.Mode {
		return
	}
	next := *old
	next.mode, next.since, next.ramp = e.Mode, d.now, 0
	switch {
	case e.Mode == Normal:
		next.since = time.Time{}
	case e.Mode == Drain && e.Ramp < 0:
		next.ramp = d.times(e.Subject, everybody).Ramp
	case e.Mode == Drain:
		next.ramp = e.Ramp
	}
	d.setSubject(e.Subject, &next)
	d.operated = append(d.operated, e.Subject)
	d.affect(e.Subject)
	d.save(e.Subject)
}

func (d *draft) setSubject(t federation.Target, sub *subject) {
	if whole(t) {
		d.facts(t.Cluster).subject = *sub
		return
	}
	x := d.t.exports[key(t)]
	if x == nil {
		x = &export{spec: d.State.export(key(t)).spec}
		put(&d.t.exports, key(t), x)
	}
	x.subject = nil
	if !sub.resting() {
		x.subject = new(*sub)
	}
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
	for _, due := range t.due {
		s.timers.set(due.key, due.at)
	}
}

// affectedSorted returns the affected subjects, each once: clusters before exports, since an export may have to wait for
// its cluster's return.
func (d *draft) affectedSorted() []federation.Target {
	slices.SortFunc(d.affected, func(a, b federation.Target) int {
		return cmp.Or(first(whole(a), whole(b)), a.Compare(b))
	})
	d.affected = slices.Compact(d.affected)
	return d.affected
}

// first orders what is true before what is not.
func first(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return -1
	}
	return 1
}
