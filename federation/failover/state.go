package failover

import (
	"cmp"
	"iter"
	"maps"
	"slices"
	"time"

	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/federation/index"
	"github.com/tailgate-project/tailgate/federation/policy"
)

// State is all that failover knows. It is not safe for concurrent use; use [New].
type State struct {
	config   Config
	policies *policy.Set
	clusters map[federation.ClusterID]*cluster
	// seen are the fresh observations of each target, sorted by observer, and watchers their sums per observer.
	seen     map[federation.Target][]sight
	watchers map[federation.ClusterID]watcher
	timers   timers
}

// cluster is a member with its exports. What is behind the pointers is replaced and never changed, so that a clone of
// the state may share it.
type cluster struct {
	facts   *facts
	exports index.Index[*export, federation.ServiceID]
	// restless are the exports that are not at rest: few, as a rule.
	restless map[federation.ServiceID]struct{}
}

func newCluster(f *facts) *cluster {
	return &cluster{facts: f, exports: index.New((*export).id, hashService), restless: map[federation.ServiceID]struct{}{}}
}

func (c *cluster) put(id federation.ServiceID, x *export) {
	c.exports.Put(x)
	if x.subject != nil {
		c.restless[id] = struct{}{}
	} else {
		delete(c.restless, id)
	}
}

func (c *cluster) drop(id federation.ServiceID) {
	if x, ok := c.exports.Get(id); ok {
		c.exports.Remove(x)
	}
	delete(c.restless, id)
}

// facts are what is known of a cluster as a whole.
type facts struct {
	link, api signal
	subject   subject
	// vips counts the fresh observations that reach one of its VIPs.
	vips int
	// reached says that some fresh observation reaches the cluster.
	reached bool
}

type export struct {
	spec federation.Export
	// subject is nil while it is at rest, as it mostly is.
	subject *subject
}

func (x *export) id() federation.ServiceID { return x.spec.Key.Service }

func hashService(id federation.ServiceID) uint32 {
	return index.Hash(string(id.Kind), id.Namespace, id.Name)
}

// at rest, a subject serves everybody, in full, and nobody wants anything else of it.
var atRest subject

// subject is the state of a cluster or an export.
type subject struct {
	// cells are sorted by consumer; those at rest are left out.
	cells []consumerCell
	mode  Mode
	// since is when the operator said so, ramp how long he lets a drain take.
	since time.Time
	ramp  time.Duration
	// share is what is left of the weight in a drain.
	share uint8
	// stale is set on a cluster whose control view is lost while it serves.
	stale bool
}

type consumerCell struct {
	consumer federation.ClusterID
	Cell
	share uint8
}

func (s *subject) cell(c federation.ClusterID) consumerCell {
	if i, ok := s.find(c); ok {
		return s.cells[i]
	}
	return consumerCell{consumer: c, share: 100}
}

func (s *subject) find(c federation.ClusterID) (int, bool) {
	return slices.BinarySearchFunc(s.cells, c, func(x consumerCell, c federation.ClusterID) int { return cmp.Compare(x.consumer, c) })
}

// resting reports whether there is nothing to remember of the subject.
func (s *subject) resting() bool { return len(s.cells) == 0 && s.mode == Normal && !s.stale }

// modeFor returns for how long an operator has wanted what he wants; a hub whose clock is behind may have taken over.
func (s *subject) modeFor(now time.Time) time.Duration { return max(0, now.Sub(s.since)) }

// signal is a thing that is there or lost, and since when.
type signal struct {
	known, up bool
	since     time.Time
}

// lost returns for how long the signal has been lost. A signal never heard of is not lost: a member that has not
// joined yet is judged by what else is known.
func (s signal) lost(now time.Time) time.Duration {
	switch {
	case !s.known:
		return neverHeard
	case s.up:
		return notLost
	}
	return max(0, now.Sub(s.since))
}

func (s signal) next(up bool, now time.Time) signal {
	if s.known && s.up == up {
		return s
	}
	return signal{known: true, up: up, since: now}
}

// New returns a state that knows nothing yet. Zero parts of the configuration are those of [DefaultConfig].
func New(c Config, p *policy.Set) *State {
	d := DefaultConfig()
	c.Fresh, c.FreshVIP = cmp.Or(c.Fresh, d.Fresh), cmp.Or(c.FreshVIP, d.FreshVIP)
	if c.Rules == nil {
		c.Rules = d.Rules
	}
	return &State{
		config:   c,
		policies: p,
		clusters: map[federation.ClusterID]*cluster{},
		seen:     map[federation.Target][]sight{},
		watchers: map[federation.ClusterID]watcher{},
	}
}

// Clone returns a copy that changes on its own: what an operator would see if he did what he asks about.
func (s *State) Clone() *State {
	c := &State{
		config: s.config, policies: s.policies, timers: s.timers.clone(),
		clusters: make(map[federation.ClusterID]*cluster, len(s.clusters)),
		seen:     make(map[federation.Target][]sight, len(s.seen)), watchers: maps.Clone(s.watchers),
	}
	for id, cl := range s.clusters {
		c.clusters[id] = &cluster{facts: cl.facts, exports: cl.exports.Clone(), restless: maps.Clone(cl.restless)}
	}
	for t, seen := range s.seen {
		c.seen[t] = slices.Clone(seen)
	}
	return c
}

// Policies returns the policies that count.
func (s *State) Policies() *policy.Set { return s.policies }

// Export returns an export as its member last offered it. Its slices and maps are shared and must not be changed.
func (s *State) Export(k federation.ExportKey) (federation.Export, bool) {
	if x := s.export(k); x != nil {
		return x.spec, true
	}
	return federation.Export{}, false
}

func (s *State) export(k federation.ExportKey) *export {
	if c := s.clusters[k.Cluster]; c != nil {
		x, _ := c.exports.Get(k.Service)
		return x
	}
	return nil
}

func (s *State) factsOf(c federation.ClusterID) *facts {
	if cl := s.clusters[c]; cl != nil {
		return cl.facts
	}
	return &facts{}
}

// Clusters returns the clusters of which anything is known, sorted.
func (s *State) Clusters() []federation.ClusterID { return slices.Sorted(maps.Keys(s.clusters)) }

// Exports returns the keys of a cluster's exports, sorted.
func (s *State) Exports(c federation.ClusterID) []federation.ExportKey {
	return slices.SortedFunc(s.EachExport(c), federation.ExportKey.Compare)
}

// EachExport returns the keys of a cluster's exports in no order.
func (s *State) EachExport(c federation.ClusterID) iter.Seq[federation.ExportKey] {
	return func(yield func(federation.ExportKey) bool) {
		if cl := s.clusters[c]; cl != nil {
			for x := range cl.exports.All() {
				if !yield(x.spec.Key) {
					return
				}
			}
		}
	}
}

// CountExports returns how many exports a cluster has.
func (s *State) CountExports(c federation.ClusterID) int {
	if cl := s.clusters[c]; cl != nil {
		return cl.exports.Len()
	}
	return 0
}

// Mode returns what an operator wants of a subject, and since when; the time is zero if he wants nothing.
func (s *State) Mode(t federation.Target) (Mode, time.Time) {
	sub := s.subject(t)
	return sub.mode, sub.since
}

// subject returns the state of a cluster or an export; what is not there is at rest.
func (s *State) subject(t federation.Target) *subject {
	if whole(t) {
		return &s.factsOf(t.Cluster).subject
	}
	if x := s.export(key(t)); x != nil && x.subject != nil {
		return x.subject
	}
	return &atRest
}

// whole reports whether the target is a cluster and not one of its exports.
func whole(t federation.Target) bool { return t.Service == federation.ServiceID{} }

func key(t federation.Target) federation.ExportKey {
	return federation.ExportKey(t)
}

func target(k federation.ExportKey) federation.Target {
	return federation.Target(k)
}

// Deadline returns when a [Tick] is due, if ever.
func (s *State) Deadline() (time.Time, bool) { return s.timers.next() }

// Verdict returns the state of an export as the consumer should see it: the worse of its own and its cluster's, for
// everybody and for this consumer.
func (s *State) Verdict(k federation.ExportKey, consumer federation.ClusterID) (Verdict, bool) {
	_, v, ok := s.Look(k, consumer)
	return v, ok
}

// Look is Export and Verdict in one. The export is shared and must not be changed.
func (s *State) Look(k federation.ExportKey, consumer federation.ClusterID) (*federation.Export, Verdict, bool) {
	c := s.clusters[k.Cluster]
	if c == nil {
		return nil, Verdict{}, false
	}
	x, ok := c.exports.Get(k.Service)
	if !ok {
		return nil, Verdict{}, false
	}
	return &x.spec, verdict(&c.facts.subject, x.subject, consumer), true
}

// ClusterVerdict returns the state of a cluster as a whole as the consumer should see it.
func (s *State) ClusterVerdict(c, consumer federation.ClusterID) (Verdict, bool) {
	cl := s.clusters[c]
	if cl == nil {
		return Verdict{}, false
	}
	return verdict(&cl.facts.subject, nil, consumer), true
}

// verdict is the worse of a cluster's state and that of an export of it, which is nil at rest.
func verdict(cl, own *subject, consumer federation.ClusterID) Verdict {
	if own == nil {
		own = &atRest
	}
	v := Verdict{Reason: Serving, Stale: cl.stale, Share: 100, Pinned: own.mode == Pin}
	v.Cordoned = cl.mode == Cordon || own.mode == Cordon
	switch {
	case v.Pinned:
		v.Reason = Pinned
	case cl.mode == Drain || own.mode == Drain:
		v.Reason = Draining
	case v.Cordoned:
		v.Reason = Cordoned
	case v.Stale:
		v.Reason = ServingStale
	}
	for _, sub := range []*subject{cl, own} {
		if sub.mode == Drain {
			v.take(sub.share)
		}
		if len(sub.cells) == 0 {
			continue
		}
		for _, c := range []federation.ClusterID{everybody, consumer} {
			v.see(sub.cell(c))
			if consumer == everybody {
				break
			}
		}
	}
	return v
}

// see makes the verdict as bad as the cell.
func (v *Verdict) see(c consumerCell) {
	v.take(c.share)
	switch {
	case c.Down && v.Health != federation.Unhealthy:
		v.Health, v.Reason, v.Since = federation.Unhealthy, c.Reason, c.Since
	case !c.Down && v.Health != federation.Unhealthy:
		v.Since = later(v.Since, c.Since)
	}
}

func (v *Verdict) take(share uint8) { v.Share = uint8(int(v.Share) * int(share) / 100) }
