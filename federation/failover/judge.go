package failover

import (
	"cmp"
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
			d.t.due[t] = d.expiry(t)
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
	_, m.operated = d.operated[t]
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
		in.ModeFor = d.now.Sub(sub.since)
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

// moveCells moves everybody's cell and those of the consumers that are, or were, worse off.
func (d *draft) moveCells(m *move) {
	stale := d.moveCell(m, everybody, m.in)
	m.next.stale = stale && whole(m.target)
	seen := d.sights(m.target)
	at := 0
	next := func(c federation.ClusterID, blind bool) {
		in := m.in
		in.Blind = blind
		if !whole(m.target) {
			p := d.policy(m.target, c)
			in.Times, in.Policy = p.Times, p.Name
		}
		d.moveCell(m, c, in)
	}
	// Both lists are sorted: cells that are not at rest, and observers that fail.
	for _, c := range m.old.cells {
		if c.consumer == everybody {
			continue
		}
		for ; at < len(seen) && seen[at].observer < c.consumer; at++ {
			if !seen[at].reachable {
				next(seen[at].observer, true)
			}
		}
		blind := at < len(seen) && seen[at].observer == c.consumer && !seen[at].reachable
		if at < len(seen) && seen[at].observer == c.consumer {
			at++
		}
		next(c.consumer, blind)
	}
	for ; at < len(seen); at++ {
		if !seen[at].reachable {
			next(seen[at].observer, true)
		}
	}
}

// moveCell moves one cell and notes what is different. It reports whether the rules call the subject stale.
func (d *draft) moveCell(m *move, consumer federation.ClusterID, in Inputs) (stale bool) {
	before := m.old.cell(consumer)
	in.Before = before.Cell
	in.New = m.isNew && consumer == everybody
	in.Operated = m.operated && consumer == everybody
	if since, waits := d.waits(m.target, consumer, before.Cell, in); waits {
		in.Waits, in.Before.GoodSince = true, since
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
		d.touch(m.target)
	}
	if after.Cell != before.Cell {
		d.t.saved[m.target] = struct{}{}
	}
	if before.Down && !after.Down {
		d.returned(m.target, consumer)
	}
	return out.stale
}

// waits reports whether an export that would serve has to wait on, since its cluster comes back in this very event and
// its policy waits longer than the cluster's does. It returns since when the cluster has been good.
func (d *draft) waits(t federation.Target, consumer federation.ClusterID, c Cell, in Inputs) (time.Time, bool) {
	if whole(t) || c.Down {
		return time.Time{}, false
	}
	was := d.State.factsOf(t.Cluster).subject.cell(consumer)
	is := d.factsOf(t.Cluster).subject.cell(consumer)
	if !was.Down || is.Down || was.Reason == Drained || was.GoodSince.IsZero() {
		return time.Time{}, false
	}
	return was.GoodSince, d.now.Before(was.GoodSince.Add(in.Times.FailbackDelay))
}

// returned notes that a cluster came back: exports whose policy waits longer are judged too.
func (d *draft) returned(t federation.Target, consumer federation.ClusterID) {
	cl := d.clusters[t.Cluster]
	if !whole(t) || cl == nil {
		return
	}
	for id := range cl.exports {
		at := federation.Target{Cluster: t.Cluster, Service: id}
		if d.times(at, consumer).FailbackDelay > d.times(t, everybody).FailbackDelay {
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
		d.touch(m.target)
	}
}

// keep puts the moved subject into the draft.
func (d *draft) keep(m *move) {
	slices.SortFunc(m.next.cells, func(a, b consumerCell) int { return cmp.Compare(a.consumer, b.consumer) })
	d.setSubject(m.target, &m.next)
	d.t.due[m.target] = m.due
}

func (d *draft) touch(t federation.Target) { d.t.Touched = append(d.t.Touched, t) }
