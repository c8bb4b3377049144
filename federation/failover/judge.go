package failover

import (
	"slices"
	"time"

	"github.com/tailgate-project/tailgate/federation"
)

// judgeAll moves all affected subjects.
func (d *draft) judgeAll() {
	for _, t := range d.affectedSorted() {
		if whole(t) {
			d.judgeSubject(t, notAnExport)
		}
	}
	for _, t := range d.affectedSorted() { // anew: a cluster's return affects its exports
		if whole(t) {
			continue
		}
		if x := d.export(key(t)); x != nil {
			d.judgeSubject(t, x.spec.Ready)
		} else {
			d.wake(t, d.expiry(t))
		}
	}
}

// move is a subject on its way from one state to the next.
type move struct {
	target   federation.Target
	old      subject
	next     subject
	in       Inputs
	isNew    bool
	operated bool
	due      time.Time
}

// judgeSubject moves a subject in the light of what is known after the event.
func (d *draft) judgeSubject(t federation.Target, ready int) {
	m := &move{target: t, in: d.inputs(t, ready)}
	m.old = *d.drafted(t)
	m.next = subject{mode: m.old.mode, since: m.old.since, ramp: m.old.ramp}
	m.isNew = !whole(t) && d.State.export(key(t)) == nil
	m.operated = slices.Contains(d.operated, t)
	m.due = earlier(d.expiry(t), d.graceEnds(t))
	if whole(t) {
		d.reach(t.Cluster, m.in.Votes.Reach > 0)
	}
	d.moveCells(m)
	d.drain(m)
	d.keep(m)
}

// drafted returns the subject's state, with an operator's new wish but its cells as they were.
func (d *draft) drafted(t federation.Target) *subject {
	if whole(t) {
		return &d.factsOf(t.Cluster).subject
	}
	if x := d.export(key(t)); x != nil && x.subject != nil {
		return x.subject
	}
	return &atRest
}

// inputs collects what the rules need for a subject.
func (d *draft) inputs(t federation.Target, ready int) Inputs {
	f, sub := d.factsOf(t.Cluster), d.drafted(t)
	p := d.policy(t, everybody)
	in := Inputs{
		Ready: ready, LinkLost: f.link.lost(d.now), APILost: f.api.lost(d.now), Votes: d.votes(t),
		Mode: sub.mode, Ramp: sub.ramp, Times: p.Times, Policy: p.Name,
	}
	if !whole(t) {
		in.Reached = f.reached
	}
	if sub.mode != Normal {
		in.ModeFor = sub.modeFor(d.now)
	}
	return in
}

// graceEnds returns when a lost signal will have been lost for the grace time.
func (d *draft) graceEnds(t federation.Target) time.Time {
	f, grace := d.factsOf(t.Cluster), d.times(t, everybody).Grace
	var at time.Time
	for _, s := range []signal{f.link, f.api} {
		if ends := s.since.Add(grace); s.lost(d.now) >= 0 && d.now.Before(ends) {
			at = earlier(at, ends)
		}
	}
	return at
}

// moveCells moves everybody's cell and those of the consumers that are, were or may now be worse off.
func (d *draft) moveCells(m *move) {
	seen := d.sights(m.target)
	var few [8]federation.ClusterID // there are seldom more
	consumers := append(few[:0], everybody)
	for _, c := range m.old.cells {
		consumers = append(consumers, c.consumer)
	}
	for _, s := range seen {
		if !s.reachable {
			consumers = append(consumers, s.observer)
		}
	}
	if !whole(m.target) {
		consumers = append(consumers, d.back[m.target.Cluster]...)
	}
	slices.Sort(consumers)
	for _, c := range slices.Compact(consumers) {
		in := m.in
		if c != everybody {
			i, ok := findSight(seen, c)
			in.Blind = ok && !seen[i].reachable
			p := d.policy(m.target, c)
			in.Times, in.Policy = p.Times, p.Name
		}
		d.moveCell(m, c, in)
	}
}

// moveCell moves one cell and notes what is different.
func (d *draft) moveCell(m *move, consumer federation.ClusterID, in Inputs) {
	before := m.old.cell(consumer)
	in.Before = before.Cell
	in.New = m.isNew && consumer == everybody
	in.Operated = m.operated && consumer == everybody
	if since, waits := d.waits(m.target, consumer, in); waits && (!before.Down || !before.GoodSince.IsZero()) {
		in.Waits, in.Before.GoodSince = !before.Down, later(before.GoodSince, since)
	}
	dec := Decision{At: d.now, Subject: m.target, Consumer: consumer, Inputs: in}
	out := decide(d.config.Rules, dec)
	after := consumerCell{consumer: consumer, Cell: out.cell, share: out.cell.share(in, d.now)}
	m.due = earlier(m.due, out.cell.deadline(in, d.now))
	if after.Cell != (Cell{}) {
		m.next.cells = append(m.next.cells, after)
	}
	if after.Down != before.Down || in.New || in.Operated {
		d.t.Decisions = append(d.t.Decisions, Replay(d.config.Rules, dec))
	}
	if after.Down != before.Down || after.Reason != before.Reason || after.share != before.share || in.New || in.Operated {
		d.touch(m.target, consumer)
	}
	if after.Cell != before.Cell {
		d.save(m.target)
	}
	if whole(m.target) && before.Down && !after.Down {
		d.returned(m.target, consumer)
	}
	if whole(m.target) && consumer == everybody {
		m.next.stale = out.stale
	}
}

// waits reports whether an export has to wait on, since its cluster comes back in this very event and its policy waits
// longer than the cluster's does. It returns since when the cluster has been good: an export is as good as the worse of
// the two, so that one that is down on its own account counts its delay from then at the earliest.
func (d *draft) waits(t federation.Target, consumer federation.ClusterID, in Inputs) (time.Time, bool) {
	if whole(t) {
		return time.Time{}, false
	}
	if _, back := slices.BinarySearch(d.back[t.Cluster], consumer); !back { // cells move in the order of consumers
		return time.Time{}, false
	}
	was := d.State.factsOf(t.Cluster).subject.cell(consumer)
	if was.Reason == Drained {
		return time.Time{}, false
	}
	since := was.GoodSince
	if since.IsZero() {
		since = d.now
	}
	return since, d.now.Before(since.Add(in.Times.FailbackDelay))
}

// returned notes that a cluster came back for a consumer: exports whose policy waits longer are judged too.
func (d *draft) returned(t federation.Target, consumer federation.ClusterID) {
	put(&d.back, t.Cluster, append(d.back[t.Cluster], consumer))
	waited := d.times(t, everybody).FailbackDelay
	for x := range d.clusters[t.Cluster].exports.All() {
		id := x.id()
		at := federation.Target{Cluster: t.Cluster, Service: id}
		if d.export(key(at)) != nil && d.times(at, consumer).FailbackDelay > waited { // it may go in this very event
			d.affect(at)
		}
	}
}

// reach notes whether somebody reaches the cluster: it is what its exports wait for to recover.
func (d *draft) reach(c federation.ClusterID, reached bool) {
	if d.factsOf(c).reached != reached {
		d.facts(c).reached = reached
		d.affectRestless(c)
	}
}

// drain notes what is left of the subject's weight, and when that changes.
func (d *draft) drain(m *move) {
	m.next.share = drainShare(m.in)
	if m.next.mode == Drain {
		m.due = earlier(m.due, nextStep(m.next.since, m.next.ramp, d.now))
	}
	if m.next.mode == Drain && m.next.share != m.old.share || m.next.stale != m.old.stale {
		d.touch(m.target, everybody)
	}
}

// keep puts the moved subject into the draft.
func (d *draft) keep(m *move) {
	d.setSubject(m.target, &m.next)
	d.wake(m.target, m.due)
}

func (d *draft) touch(t federation.Target, consumer federation.ClusterID) {
	d.t.Touched = append(d.t.Touched, Touch{Subject: t, Consumer: consumer})
}
