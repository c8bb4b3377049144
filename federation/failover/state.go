package failover

import (
	"maps"
	"slices"
	"time"

	"github.com/tailgate-project/tailgate/federation"
)

// signal is a thing that is there or lost, and since when.
type signal struct {
	known, up bool
	since     time.Time
}

// lost returns for how long the signal has been lost, negative if it is not. A signal never heard of is not lost:
// a member that has not joined yet is judged by what else is known.
func (s signal) lost(now time.Time) time.Duration {
	if !s.known || s.up {
		return -1
	}
	return now.Sub(s.since)
}

type member struct{ link, api signal }

type observation struct {
	reachable bool
	at        time.Time
}

type export struct {
	spec  federation.Export
	stale bool
	cells map[federation.ClusterID]cell // everybody, and consumers that are worse off
	due   time.Time                     // when time alone may change it; zero for never
}

// State is all that failover knows. It is not safe for concurrent use; use [New].
type State struct {
	policy    Policy
	members   map[federation.ClusterID]member
	exports   map[federation.ExportKey]export
	byCluster map[federation.ClusterID]map[federation.ExportKey]struct{}
	seen      map[federation.Target]map[federation.ClusterID]observation
	byWatcher map[federation.ClusterID]map[federation.ClusterID]struct{} // observer → clusters whose ingress it probes
	timers    timers
}

// New returns a state that knows nothing yet.
func New(p Policy) *State {
	return &State{
		policy:    p,
		members:   map[federation.ClusterID]member{},
		exports:   map[federation.ExportKey]export{},
		byCluster: map[federation.ClusterID]map[federation.ExportKey]struct{}{},
		seen:      map[federation.Target]map[federation.ClusterID]observation{},
		byWatcher: map[federation.ClusterID]map[federation.ClusterID]struct{}{},
	}
}

// Transition is what an event changes. It is valid for the state that planned it, until the next Apply.
type Transition struct {
	// Decisions are the changes of health, sorted by export and consumer.
	Decisions []Decision
	// Touched are the exports whose verdicts changed in any way, sorted; those of Decisions are among them.
	Touched []federation.ExportKey

	facts   Event
	exports map[federation.ExportKey]*export // nil deletes
}

// Plan says what the event changes at the time now.
func (s *State) Plan(e Event, now time.Time) Transition {
	t := Transition{facts: e, exports: map[federation.ExportKey]*export{}}
	switch e := e.(type) {
	case ExportRemoved:
		t.remove(s, e.Key)
	case ClusterGone:
		for k := range s.byCluster[e.Cluster] {
			t.remove(s, k)
		}
	}
	w := world{State: s, event: e}
	for _, k := range s.affected(e, now) {
		t.judge(w, k, now)
	}
	slices.SortFunc(t.Touched, federation.ExportKey.Compare)
	slices.SortFunc(t.Decisions, compareDecisions)
	return t
}

// affected returns the exports that the event may change. An observation that only repeats the last one affects
// none: freshness is a matter of time, and the timers see to it.
func (s *State) affected(e Event, now time.Time) []federation.ExportKey {
	switch e := e.(type) {
	case ExportChanged:
		return []federation.ExportKey{e.Export.Key}
	case LinkChanged:
		if m := s.members[e.Cluster].link; m.known && m.up == e.Up {
			return nil
		}
		return slices.Collect(maps.Keys(s.byCluster[e.Cluster]))
	case APIChanged:
		if m := s.members[e.Cluster].api; m.known && m.up == e.Up {
			return nil
		}
		return slices.Collect(maps.Keys(s.byCluster[e.Cluster]))
	case Observed:
		return s.affectedByObservation(e, now)
	case Tick:
		return s.timers.due(now)
	}
	return nil
}

func (s *State) affectedByObservation(e Observed, now time.Time) []federation.ExportKey {
	old, ok := s.seen[e.Target][e.Observer]
	if ok && old.reachable == e.Reachable && now.Sub(old.at) < s.policy.fresh(e.Target) {
		return nil
	}
	if e.Target.Service != (federation.ServiceID{}) {
		k := federation.ExportKey{Cluster: e.Target.Cluster, Service: e.Target.Service}
		if _, ok := s.exports[k]; !ok {
			return nil
		}
		return []federation.ExportKey{k}
	}
	out := slices.Collect(maps.Keys(s.byCluster[e.Target.Cluster]))
	// The observer's other targets too: it may have begun, or ceased, to doubt itself.
	for c := range s.byWatcher[e.Observer] {
		if c != e.Target.Cluster {
			out = slices.AppendSeq(out, maps.Keys(s.byCluster[c]))
		}
	}
	return out
}

// remove plans the end of an export.
func (t *Transition) remove(s *State, k federation.ExportKey) {
	if _, ok := s.exports[k]; ok {
		t.exports[k] = nil
		t.Touched = append(t.Touched, k)
	}
}

// judge plans the export's next state in the world after the event.
func (t *Transition) judge(w world, k federation.ExportKey, now time.Time) {
	old, existed := w.exports[k]
	next := export{spec: old.spec}
	if c, ok := w.event.(ExportChanged); ok {
		next.spec = c.Export
	}
	in, until := w.inputs(k, next.spec.Ready, now)
	o := decide(in, w.policy)
	next.stale = o.stale
	next.cells = map[federation.ClusterID]cell{everybody: old.cells[everybody].next(o.down, o.reason, now, w.policy)}
	unseen := blind(in.Votes)
	for _, c := range unseen {
		next.cells[c] = old.cells[c].next(true, UnreachableByObserver, now, w.policy)
	}
	for c, was := range old.cells {
		if c == everybody || slices.Contains(unseen, c) {
			continue
		}
		if recovering := was.next(false, UnreachableByObserver, now, w.policy); recovering.down {
			next.cells[c] = recovering
		}
	}
	for _, c := range next.cells {
		if at, ok := c.deadline(w.policy); ok {
			until = earlier(until, at)
		}
	}
	next.due = until
	t.exports[k] = &next
	t.compare(k, change{old: old, next: next, isNew: !existed, inputs: in, reason: o.reason}, now)
}

// change is an export before and after an event.
type change struct {
	old, next export
	isNew     bool
	inputs    Inputs
	reason    Reason
}

// compare records what is different for whom.
func (t *Transition) compare(k federation.ExportKey, ch change, now time.Time) {
	touched := ch.isNew || ch.old.stale != ch.next.stale || !sameExport(ch.old.spec, ch.next.spec)
	consumers := maps.Clone(ch.next.cells)
	maps.Copy(consumers, ch.old.cells)
	for c := range consumers {
		before, after := ch.old.cells[c], ch.next.cells[c]
		touched = touched || before.down != after.down || before.reason != after.reason
		if before.down == after.down && !ch.isNew {
			continue
		}
		d := Decision{At: now, Export: k, Consumer: c, From: health(before.down || ch.isNew), To: health(after.down), Reason: after.reason, Inputs: ch.inputs}
		if !after.down {
			d.Reason = ch.reason
		}
		t.Decisions = append(t.Decisions, d)
	}
	if touched {
		t.Touched = append(t.Touched, k)
	}
}

func sameExport(a, b federation.Export) bool {
	return a.Key == b.Key && a.Tailnet == b.Tailnet && a.TailnetRef == b.TailnetRef && a.Ready == b.Ready && slices.Equal(a.Ports, b.Ports)
}

func health(down bool) federation.Health {
	if down {
		return federation.Unhealthy
	}
	return federation.Healthy
}

// Apply makes the transition.
func (s *State) Apply(t Transition, now time.Time) {
	s.record(t.facts, now)
	for k, x := range t.exports {
		if x == nil {
			delete(s.exports, k)
			delete(s.byCluster[k.Cluster], k)
			s.timers.set(k, time.Time{})
			continue
		}
		s.keep(k, *x)
	}
}

func (s *State) keep(k federation.ExportKey, x export) {
	s.exports[k] = x
	if s.byCluster[k.Cluster] == nil {
		s.byCluster[k.Cluster] = map[federation.ExportKey]struct{}{}
	}
	s.byCluster[k.Cluster][k] = struct{}{}
	s.timers.set(k, x.due)
}

// record keeps the facts that the event brought.
func (s *State) record(e Event, now time.Time) {
	switch e := e.(type) {
	case LinkChanged:
		m := s.members[e.Cluster]
		m.link = m.link.next(e.Up, now)
		s.members[e.Cluster] = m
	case APIChanged:
		m := s.members[e.Cluster]
		m.api = m.api.next(e.Up, now)
		s.members[e.Cluster] = m
	case Observed:
		s.observe(e)
	case ClusterGone:
		s.forget(e.Cluster)
	}
}

func (s signal) next(up bool, now time.Time) signal {
	if s.known && s.up == up {
		return s
	}
	return signal{known: true, up: up, since: now}
}

func (s *State) observe(e Observed) {
	if old, ok := s.seen[e.Target][e.Observer]; ok && e.At.Before(old.at) {
		return // late: something newer is known
	}
	if s.seen[e.Target] == nil {
		s.seen[e.Target] = map[federation.ClusterID]observation{}
	}
	s.seen[e.Target][e.Observer] = observation{reachable: e.Reachable, at: e.At}
	if e.Target.Service == (federation.ServiceID{}) {
		if s.byWatcher[e.Observer] == nil {
			s.byWatcher[e.Observer] = map[federation.ClusterID]struct{}{}
		}
		s.byWatcher[e.Observer][e.Target.Cluster] = struct{}{}
	}
}

// forget drops what a cluster was, saw and was seen as.
func (s *State) forget(c federation.ClusterID) {
	delete(s.members, c)
	delete(s.byCluster, c)
	delete(s.byWatcher, c)
	for t, by := range s.seen {
		delete(by, c)
		if t.Cluster == c || len(by) == 0 {
			delete(s.seen, t)
		}
	}
	for _, watched := range s.byWatcher {
		delete(watched, c)
	}
}

// Deadline returns when a [Tick] is due, if ever.
func (s *State) Deadline() (time.Time, bool) { return s.timers.next() }

// Verdict returns the state of an export as the consumer should see it.
func (s *State) Verdict(k federation.ExportKey, consumer federation.ClusterID) (Verdict, bool) {
	x, ok := s.exports[k]
	if !ok {
		return Verdict{}, false
	}
	all, own := x.cells[everybody], x.cells[consumer]
	v := Verdict{Health: federation.Healthy, Reason: Serving, Stale: x.stale, Since: all.since}
	switch {
	case all.down:
		v.Health, v.Reason = federation.Unhealthy, all.reason
	case own.down:
		v.Health, v.Reason, v.Since = federation.Unhealthy, own.reason, own.since
	case x.stale:
		v.Reason = ServingStale
	}
	return v, true
}
