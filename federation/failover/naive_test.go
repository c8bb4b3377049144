package failover_test

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/federation/failover"
	"github.com/tailgate-project/tailgate/federation/policy"
)

// naive is failover without a thought of what it costs: it keeps all that it was ever told and, at every event, judges
// everything there is from the beginning. It has no sums, no timers and no notion of what an event affects.
type naive struct {
	policies *policy.Set
	// consumers are all that may ever ask, everybody first.
	consumers  []federation.ClusterID
	known      map[federation.ClusterID]bool
	links, api map[federation.ClusterID][]flip
	exports    map[federation.ExportKey]federation.Export
	// heard are the observations that counted when they came, the newest last; those that count no more may be left out.
	heard  []failover.Observed
	wishes map[federation.Target]wish
	cells  map[slot]failover.Cell
}

// flip is a signal that was there or lost from a moment on.
type flip struct {
	up bool
	at time.Time
}

// wish is what an operator wants, since when, and how long a drain takes.
type wish struct {
	mode failover.Mode
	at   time.Time
	ramp time.Duration
}

// slot is where a cell stands.
type slot struct {
	federation.Target
	consumer federation.ClusterID
}

const everybody federation.ClusterID = ""

func newNaive(p *policy.Set, clusters []federation.ClusterID) *naive {
	return &naive{
		policies: p, consumers: append([]federation.ClusterID{everybody}, clusters...),
		known: map[federation.ClusterID]bool{}, links: map[federation.ClusterID][]flip{}, api: map[federation.ClusterID][]flip{},
		exports: map[federation.ExportKey]federation.Export{}, wishes: map[federation.Target]wish{}, cells: map[slot]failover.Cell{},
	}
}

// step takes an event and returns the decisions that follow.
func (n *naive) step(e failover.Event, now time.Time) []failover.Decision {
	had := maps.Clone(n.exports)
	operated := n.take(e, now)
	was := maps.Clone(n.cells)
	var out []failover.Decision
	for _, t := range n.targets() {
		_, old := had[federation.ExportKey(t)]
		for _, consumer := range n.consumers {
			in := n.inputs(t, consumer, now)
			in.New = !isCluster(t) && !old && consumer == everybody
			in.Operated = operated[t] && consumer == everybody
			if d, ok := n.move(t, consumer, in, was, now); ok {
				out = append(out, d)
			}
		}
	}
	slices.SortStableFunc(out, func(a, b failover.Decision) int {
		return cmp.Or(a.Subject.Compare(b.Subject), cmp.Compare(a.Consumer, b.Consumer))
	})
	return out
}

// targets returns all there is to judge, clusters first.
func (n *naive) targets() []federation.Target {
	var out []federation.Target
	for c := range n.known {
		out = append(out, federation.Target{Cluster: c})
	}
	slices.SortFunc(out, federation.Target.Compare)
	return append(out, n.keys()...)
}

func (n *naive) keys() []federation.Target {
	var out []federation.Target
	for k := range n.exports {
		out = append(out, federation.Target(k))
	}
	slices.SortFunc(out, federation.Target.Compare)
	return out
}

func isCluster(t federation.Target) bool { return t.Service == federation.ServiceID{} }

// take writes down what an event says and returns whose operator was heard.
func (n *naive) take(e failover.Event, now time.Time) map[federation.Target]bool {
	switch e := e.(type) {
	case failover.ExportChanged:
		n.known[e.Export.Key.Cluster] = true
		n.exports[e.Export.Key] = e.Export
	case failover.ExportRemoved:
		if _, ok := n.exports[e.Key]; ok {
			delete(n.exports, e.Key)
			n.forget(func(t federation.Target, _ federation.ClusterID) bool { return t == federation.Target(e.Key) })
		}
	case failover.ClusterGone:
		delete(n.known, e.Cluster)
		delete(n.links, e.Cluster)
		delete(n.api, e.Cluster)
		maps.DeleteFunc(n.exports, func(k federation.ExportKey, _ federation.Export) bool { return k.Cluster == e.Cluster })
		n.forget(func(t federation.Target, who federation.ClusterID) bool {
			return t.Cluster == e.Cluster || who == e.Cluster
		})
	case failover.LinkChanged:
		n.known[e.Cluster] = true
		n.links[e.Cluster] = append(n.links[e.Cluster], flip{up: e.Up, at: now})
	case failover.APIChanged:
		n.known[e.Cluster] = true
		n.api[e.Cluster] = append(n.api[e.Cluster], flip{up: e.Up, at: now})
	case failover.Observed:
		n.hear(e, now)
	case failover.Operated:
		return n.operate(e, now)
	case failover.PoliciesChanged:
		n.policies = e.Policies
	}
	return nil
}

// forget drops the observations, wishes and cells of which the function says so; it is given observer or consumer.
func (n *naive) forget(of func(t federation.Target, who federation.ClusterID) bool) {
	n.heard = slices.DeleteFunc(n.heard, func(o failover.Observed) bool { return of(o.Target, o.Observer) })
	maps.DeleteFunc(n.wishes, func(t federation.Target, _ wish) bool { return of(t, everybody) })
	maps.DeleteFunc(n.cells, func(s slot, _ failover.Cell) bool { return of(s.Target, s.consumer) })
}

func fresh(t federation.Target) time.Duration {
	if isCluster(t) {
		return config.Fresh
	}
	return config.FreshVIP
}

func (n *naive) hear(o failover.Observed, now time.Time) {
	last, ok := n.sights(o.Target, now)[o.Observer]
	if o.Observer == o.Target.Cluster || now.Sub(o.At) >= fresh(o.Target) || (ok && o.At.Before(last.At)) {
		return
	}
	n.heard = slices.DeleteFunc(n.heard, func(o failover.Observed) bool { return now.Sub(o.At) >= fresh(o.Target) })
	n.heard = append(n.heard, o)
	if isCluster(o.Target) || o.Reachable {
		n.known[o.Target.Cluster] = true
	}
}

func (n *naive) operate(e failover.Operated, now time.Time) map[federation.Target]bool {
	_, exported := n.exports[federation.ExportKey(e.Subject)]
	if (isCluster(e.Subject) && (!n.known[e.Subject.Cluster] || e.Mode == failover.Pin)) || (!isCluster(e.Subject) && !exported) {
		return nil
	}
	heard := map[federation.Target]bool{}
	wants := func(t federation.Target, w wish) {
		if n.wishes[t].mode != w.mode {
			n.wishes[t], heard[t] = w, true
		}
	}
	if e.Mode == failover.Pin {
		for t, w := range n.wishes {
			if t.Service == e.Subject.Service && t != e.Subject && w.mode == failover.Pin {
				wants(t, wish{})
			}
		}
	}
	w := wish{mode: e.Mode}
	if e.Mode != failover.Normal {
		w.at = now
	}
	if e.Mode == failover.Drain {
		w.ramp = e.Ramp
		if e.Ramp < 0 {
			w.ramp = n.policy(e.Subject, everybody).Ramp
		}
	}
	wants(e.Subject, w)
	return heard
}

func (n *naive) policy(t federation.Target, consumer federation.ClusterID) *policy.Policy {
	if isCluster(t) {
		return n.policies.Fallback()
	}
	return n.policies.For(t.Service, n.exports[federation.ExportKey(t)].Labels, consumer)
}

// sights returns the last observation of each observer of the target that is fresh.
func (n *naive) sights(t federation.Target, now time.Time) map[federation.ClusterID]failover.Observed {
	out := map[federation.ClusterID]failover.Observed{}
	for _, o := range n.heard {
		if o.Target == t {
			out[o.Observer] = o
		}
	}
	maps.DeleteFunc(out, func(_ federation.ClusterID, o failover.Observed) bool { return now.Sub(o.At) >= fresh(t) })
	return out
}

// doubtful says whether an observer fails most of several clusters.
func (n *naive) doubtful(observer federation.ClusterID, now time.Time) bool {
	all, failing := 0, 0
	for _, c := range n.consumers {
		if o, ok := n.sights(federation.Target{Cluster: c}, now)[observer]; ok {
			all++
			if !o.Reachable {
				failing++
			}
		}
	}
	return all >= 2 && failing*2 > all
}

func (n *naive) votes(t federation.Target, now time.Time) failover.Votes {
	var v failover.Votes
	seen := n.sights(t, now)
	for _, observer := range slices.Sorted(maps.Keys(seen)) {
		if seen[observer].Reachable {
			v.Reach++
			continue
		}
		if len(v.Failing) < 8 {
			v.Failing = append(v.Failing, observer)
		}
		if n.doubtful(observer, now) {
			v.Doubted++
		} else {
			v.Fail++
		}
	}
	if isCluster(t) && v.Reach+v.Fail == 0 {
		vips := map[federation.Target]bool{}
		for _, o := range n.heard {
			if o.Target.Cluster == t.Cluster && !isCluster(o.Target) {
				vips[o.Target] = true
			}
		}
		for vip := range vips {
			for _, o := range n.sights(vip, now) {
				if o.Reachable {
					v.Reach++
				}
			}
		}
	}
	return v
}

// lost says for how long a signal has been lost: -1 if it is there, -2 if nobody ever spoke of it.
func lost(flips []flip, now time.Time) time.Duration {
	if len(flips) == 0 {
		return -2
	}
	i := len(flips) - 1
	if flips[i].up {
		return -1
	}
	for i > 0 && !flips[i-1].up {
		i--
	}
	return now.Sub(flips[i].at)
}

func (n *naive) inputs(t federation.Target, consumer federation.ClusterID, now time.Time) failover.Inputs {
	p, w := n.policy(t, consumer), n.wishes[t]
	in := failover.Inputs{
		Ready: -1, LinkLost: lost(n.links[t.Cluster], now), APILost: lost(n.api[t.Cluster], now), Votes: n.votes(t, now),
		Mode: w.mode, Ramp: w.ramp, Times: p.Times, Policy: p.Name, Before: n.cells[slot{t, consumer}],
	}
	if !isCluster(t) {
		in.Ready = n.exports[federation.ExportKey(t)].Ready
		in.Reached = n.votes(federation.Target{Cluster: t.Cluster}, now).Reach > 0
	}
	if w.mode != failover.Normal {
		in.ModeFor = now.Sub(w.at)
	}
	if o, ok := n.sights(t, now)[consumer]; ok && consumer != everybody {
		in.Blind = !o.Reachable
	}
	return in
}

// opinion is the table of signals.
func opinion(in failover.Inputs) (down bool, reason failover.Reason) {
	lost := max(in.LinkLost, in.APILost)
	switch v := in.Votes; {
	case in.Mode == failover.Drain && in.ModeFor >= in.Ramp:
		return true, failover.Drained
	case in.Ready == 0:
		return true, failover.NoReadyEndpoints
	case 2*v.Fail > v.Reach+v.Fail:
		return true, failover.UnreachableByQuorum
	case v.Fail > 0 && lost >= in.Times.Grace:
		return true, failover.ControlLostUnreachable
	case in.Ready < 0 && v.Fail+v.Reach == 0 && in.LinkLost >= in.Times.Grace:
		return true, failover.ControlLostUnobserved
	case lost >= 0:
		return false, failover.ServingStale
	}
	return false, failover.Serving
}

// move moves a cell, and says what is to be told of it. The cells of before the event are in was.
func (n *naive) move(t federation.Target, consumer federation.ClusterID, in failover.Inputs, was map[slot]failover.Cell, now time.Time) (failover.Decision, bool) {
	down, reason := opinion(in)
	if consumer != everybody {
		down, reason = in.Blind, failover.Serving
		if down {
			reason = failover.UnreachableByObserver
		}
	}
	at := slot{t, consumer}
	before := n.cells[at]
	if !isCluster(t) {
		n.wait(t, consumer, &in, was, now)
	}
	after := moved(in, down, reason, now)
	if in.Waits && !down {
		after, reason = in.Before, failover.Recovering
		after.Down, after.Since, after.Reason = true, now, failover.Recovering
	}
	delete(n.cells, at)
	if after != (failover.Cell{}) {
		n.cells[at] = after
	}
	d := failover.Decision{At: now, Subject: t, Consumer: consumer, Inputs: in, Reason: reason}
	if before.Down || in.New {
		d.From = federation.Unhealthy
	}
	if after.Down {
		d.To, d.Reason = federation.Unhealthy, after.Reason
	}
	if in.Operated && d.From == d.To {
		d.Reason = map[failover.Mode]failover.Reason{
			failover.Drain: failover.Draining, failover.Cordon: failover.Cordoned, failover.Pin: failover.Pinned, failover.Normal: failover.Released,
		}[in.Mode]
	}
	return d, before.Down != after.Down || in.New || in.Operated
}

// wait has an export count its failback delay from when its cluster, which is just back, began to be good again.
func (n *naive) wait(t federation.Target, consumer federation.ClusterID, in *failover.Inputs, was map[slot]failover.Cell, now time.Time) {
	cluster := slot{federation.Target{Cluster: t.Cluster}, consumer}
	old := was[cluster]
	if !old.Down || n.cells[cluster].Down || old.Reason == failover.Drained {
		return
	}
	good := old.GoodSince
	if good.IsZero() {
		good = now
	}
	if !now.Before(good.Add(in.Times.FailbackDelay)) || (in.Before.Down && in.Before.GoodSince.IsZero()) {
		return
	}
	in.Waits = !in.Before.Down
	if good.After(in.Before.GoodSince) {
		in.Before.GoodSince = good
	}
}

// moved is what a cell becomes: down at once; up when it was good for the failback delay, and the hold time is over.
func moved(in failover.Inputs, down bool, reason failover.Reason, now time.Time) failover.Cell {
	c := in.Before
	if down {
		if !c.Down {
			c.Down, c.Since = true, now
		}
		c.Reason, c.GoodSince = reason, time.Time{}
		return c
	}
	if !c.Down {
		if now.Sub(c.Returned) >= max(in.Times.Hold, in.Times.Ramp) {
			return failover.Cell{}
		}
		return c
	}
	returned := failover.Cell{Since: now, Returned: now}
	if in.Times.Hold == 0 && in.Times.Ramp == 0 {
		returned = failover.Cell{}
	}
	if c.Reason == failover.Drained && (in.Mode == failover.Normal || in.Mode == failover.Pin) {
		return returned
	}
	if somebodySays := in.LinkLost == -1 || in.Votes.Reach > 0 || in.Reached; !somebodySays {
		c.GoodSince = time.Time{}
		return c
	}
	if c.GoodSince.IsZero() {
		c.GoodSince = now
	}
	held := !c.Returned.IsZero() && now.Sub(c.Returned) < in.Times.Hold
	if now.Sub(c.GoodSince) < in.Times.FailbackDelay || held || in.Mode == failover.Cordon {
		return c
	}
	return returned
}

// verdict is what a consumer should think of an export.
func (n *naive) verdict(k federation.ExportKey, consumer federation.ClusterID, now time.Time) (failover.Verdict, bool) {
	own, cluster := federation.Target(k), federation.Target{Cluster: k.Cluster}
	if _, ok := n.exports[k]; !ok {
		return failover.Verdict{}, false
	}
	_, why := opinion(n.inputs(cluster, everybody, now))
	v := failover.Verdict{Reason: failover.Serving, Share: 100, Stale: why == failover.ServingStale, Pinned: n.wishes[own].mode == failover.Pin}
	v.Cordoned = n.wishes[own].mode == failover.Cordon || n.wishes[cluster].mode == failover.Cordon
	switch {
	case v.Pinned:
		v.Reason = failover.Pinned
	case n.wishes[own].mode == failover.Drain || n.wishes[cluster].mode == failover.Drain:
		v.Reason = failover.Draining
	case v.Cordoned:
		v.Reason = failover.Cordoned
	case v.Stale:
		v.Reason = failover.ServingStale
	}
	share := 100
	for _, t := range []federation.Target{cluster, own} {
		if w := n.wishes[t]; w.mode == failover.Drain {
			share = share * (100 - 10*tenths(now.Sub(w.at), w.ramp)) / 100
		}
		for _, who := range slices.Compact([]federation.ClusterID{everybody, consumer}) {
			c := n.cells[slot{t, who}]
			if !c.Down && !c.Returned.IsZero() {
				share = share * min(100, 10+10*tenths(now.Sub(c.Returned), n.policy(t, who).Ramp)) / 100
			}
			switch {
			case v.Health == federation.Unhealthy:
			case c.Down:
				v.Health, v.Reason, v.Since = federation.Unhealthy, c.Reason, c.Since
			case c.Since.After(v.Since):
				v.Since = c.Since
			}
		}
	}
	v.Share = uint8(share)
	return v, true
}

// tenths is how many tenths of a ramp are over; of none, all are.
func tenths(elapsed, ramp time.Duration) int {
	for i := 10; i > 0; i-- {
		if 10*elapsed >= time.Duration(i)*ramp {
			return i
		}
	}
	return 0
}

// restart forgets what a hub that restarts forgets: signals, observations, and since when something was good again.
func (n *naive) restart() {
	clear(n.links)
	clear(n.api)
	n.heard = nil
	for s, c := range n.cells {
		c.GoodSince = time.Time{}
		n.cells[s] = c
	}
}
