// Package sim runs a whole federation on one thread and in virtual time: hubs, spokes, the paths between them, the
// members' API servers, the tailnet's API and the store, all driven by one seeded queue of events. What decides is the
// product's own code; what carries, keeps and breaks things is simulated.
//
// A run takes a seed, which makes the federation, and a list of faults. The same two always give the same run. After
// each event the invariants are checked; a run that breaks one can be shrunk to the few faults that it takes.
package sim

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/tailgate-project/tailgate/federation"
)

// origin is the real time at which virtual time begins.
var origin = time.Date(2026, time.January, 1, 0, 0, 0, 0, time.UTC)

// Options say how to run.
type Options struct {
	// Trace keeps a readable trace.
	Trace bool
	// Panics lets a panic of the product through, so that its stack is seen. Otherwise it is a broken invariant.
	Panics bool
	// Parts replaces parts of the federation by broken ones. Nil keeps all as they are.
	Parts *Parts
}

// Result is how a run ended.
type Result struct {
	// Failure is nil if no invariant was broken.
	Failure *Failure
	// Hash is the same for equal runs.
	Hash uint64
	// Trace is empty unless it was asked for.
	Trace []string
	// Coverage counts what happened, Events how much, in Virtual time.
	Coverage Coverage
	Events   int
	Virtual  time.Duration
}

// Failure is a broken invariant.
type Failure struct {
	Invariant string
	At        time.Duration
	Message   string
}

// Error says which invariant was broken, when and how.
func (f *Failure) Error() string {
	return fmt.Sprintf("%s broken at %.3fs: %s", f.Invariant, f.At.Seconds(), f.Message)
}

// party is whoever can do something at a time of its own, with a clock of its own, and can end and start anew.
type party struct {
	name string
	up   bool
	// life counts the starts: what was meant for an earlier life is dropped.
	life int
	// skew is how far the clock is ahead, ahead how far it will be after the next start: within a life the time that has
	// passed is measured, whatever is done to the clock.
	skew, ahead time.Duration
	// busy is until when the party does nothing, slow how long it takes for each thing that it does.
	busy, slow time.Duration
}

// world is a federation with all that happens to it.
type world struct {
	queue
	*trace
	scenario Scenario
	parts    Parts
	cov      Coverage
	net      *network
	tailnet  *tailnet
	store    *store
	check    *checker
	hubs     []*hub
	lead     *hub // whom operators talk to
	second   bool // whether two hubs may be up
	members  []*cluster
	byName   map[string]*cluster
	policies PolicySet
	events   int
	failure  *Failure
	panics   bool
}

// Run plays the faults to the federation of the scenario.
func Run(s Scenario, faults []Fault, o Options) Result {
	w := newWorld(s, o)
	w.plan(faults)
	w.script()
	w.loop(s.End())
	return Result{
		Failure: w.failure, Hash: w.hash, Trace: w.lines, Coverage: w.cov, Events: w.events, Virtual: w.now,
	}
}

func newWorld(s Scenario, o Options) *world {
	w := &world{trace: newTrace(o.Trace), scenario: s, cov: Coverage{}, byName: map[string]*cluster{}, policies: s.Policies[0], panics: o.Panics}
	if o.Parts != nil {
		w.parts = *o.Parts
	}
	w.parts.complete()
	w.net = newNetwork(w, s.Seed)
	w.tailnet = newTailnet(w)
	w.store = newStore(w)
	w.check = newChecker(w)
	for i, name := range hubs {
		w.hubs = append(w.hubs, newHub(w, name, time.Duration(i)*700*time.Millisecond))
	}
	w.lead = w.hubs[0]
	for _, m := range s.Members {
		c := newCluster(w, m)
		w.members = append(w.members, c)
		w.byName[string(m.Cluster)] = c
	}
	return w
}

// The parts of a run after the storm.
const (
	// restartFor is how long the run goes on after the hub was restarted in the calm: longer than the grace in which a
	// hub that starts waits for links.
	restartFor = 36 * time.Second
	// rebuildTime is how long it goes on after the store was lost in the calm.
	rebuildTime = 50 * time.Second
)

// End is when a run of the scenario ends.
func (s Scenario) End() time.Duration {
	end := s.Storm + s.Calm + restartFor
	if s.LoseStore {
		end += rebuildTime
	}
	return end
}

// script puts into the queue what happens in each run, beside the faults.
func (w *world) script() {
	w.push(0, nil, func() {
		w.lead.start()
		for _, c := range w.members {
			c.powerOn()
		}
	})
	w.push(w.scenario.Storm, nil, func() {
		w.note("world", "calm")
		w.check.disturbed()
	})
	restart := w.scenario.Storm + w.scenario.Calm
	w.push(restart, nil, func() {
		w.check.converged("the faults had stopped")
		w.note("world", "restart", w.lead.name)
		w.check.quiet = true
		w.lead.crash("restarted in the calm")
		w.push(w.now+time.Second, nil, w.lead.start)
	})
	w.push(restart+restartFor, nil, func() {
		w.check.converged("the hub had been restarted")
		w.check.quiet = false
		if w.scenario.LoseStore {
			w.loseStore()
			w.push(w.now+5*time.Second, nil, w.lead.start)
		}
	})
	if w.scenario.LoseStore {
		w.push(w.scenario.End()-time.Millisecond, nil, func() { w.check.converged("the store had been lost") })
	}
}

// loop lets happen what is in the queue, until the end or a failure.
func (w *world) loop(end time.Duration) {
	for w.failure == nil {
		it, ok := w.pop()
		if !ok || it.at > end {
			return
		}
		if p := it.party; p != nil {
			switch {
			case p.life != it.life || !p.up:
				continue
			case p.busy > w.now:
				w.push(p.busy, p, it.do)
				continue
			}
			if p.slow > 0 {
				p.busy = w.now + p.slow
			}
		}
		w.events++
		w.happen(it)
	}
}

// happen lets one thing happen and looks at what it left. The product may panic nowhere.
func (w *world) happen(it item) {
	if !w.panics {
		defer func() {
			if r := recover(); r != nil {
				w.fail("nothingPanics", "%v", r)
			}
		}()
	}
	it.do()
	w.check.step()
}

// note traces something.
func (w *world) note(party, what string, words ...string) { w.add(w.now, party, what, words...) }

// fail ends the run, for an invariant is broken. The first one counts.
func (w *world) fail(invariant, format string, args ...any) {
	if w.failure != nil {
		return
	}
	w.failure = &Failure{Invariant: invariant, At: w.now, Message: fmt.Sprintf(format, args...)}
	w.note("check", "FAILED", invariant, w.failure.Message)
}

// begin begins a life of the party.
func (p *party) begin() {
	p.life++
	p.up, p.busy, p.skew = true, 0, p.ahead
}

// clock is the time as a party knows it.
func (w *world) clock(p *party) time.Time { return origin.Add(w.now + p.skew) }

// wake returns when a party's clock will show the time.
func (w *world) wake(p *party, at time.Time) time.Duration { return at.Sub(origin) - p.skew }

// names are those of all parties that can be cut off.
func (w *world) names() []string {
	names := []string{hubs[0], hubs[1], adminAPI}
	for _, c := range w.members {
		names = append(names, c.name())
	}
	return names
}

// member returns the cluster of a name, nil if there is none.
func (w *world) member(name string) *cluster { return w.byName[name] }

// party returns the hub that leads, or the spoke of a member.
func (w *world) party(name string) *party {
	if name == hubs[0] || name == hubs[1] {
		return &w.lead.party
	}
	if c := w.member(name); c != nil {
		return &c.spoke.party
	}
	return nil
}

// takeover starts the other hub. The first one goes on as long as the store lets it, and ends with the fault.
func (w *world) takeover() func() {
	if w.second || !w.lead.up {
		return nothing
	}
	old := w.lead
	w.lead, w.second = w.hubs[0], true
	if old == w.lead {
		w.lead = w.hubs[1]
	}
	w.cov.count(TopicState, "two hubs at once")
	w.lead.start()
	return func() {
		old.crash("stopped, as another one leads")
		w.second = false
	}
}

// loseStore ends the hubs and takes away what they kept.
func (w *world) loseStore() {
	w.note("world", "store lost")
	for _, h := range w.hubs {
		h.crash("lost its store")
	}
	w.check.storeLost()
	w.store.wipe()
}

// leave takes a member out of the federation, as its operator says in the hub's cluster.
func (w *world) leave(c *cluster) {
	c.joined = w.now
	defer w.accepted()
	if c.left++; c.left == 1 {
		for _, h := range w.hubs {
			h.expel(c)
		}
	}
}

// leaveForGood takes a member out of the federation for good. Its devices are deleted first, so that nobody reaches its proxies
// when its VIPs go; a hub that is not there to do so takes it, when it starts, for one that may come back. One that
// only believes to lead does so, too.
func (w *world) leaveForGood(c *cluster) {
	if !w.parts.KeepDevices {
		c.powerOff()
		c.spoke.forget()
	}
	c.joined = w.now
	defer w.accepted()
	c.left++
	for _, h := range w.hubs {
		if h == w.lead {
			h.dismiss(c)
		} else {
			h.expel(c)
		}
	}
}

// join lets a member in again.
func (w *world) join(c *cluster) {
	c.left--
	c.joined = w.now
	w.accepted()
}

// accepted tells the hubs which members are accepted now.
func (w *world) accepted() {
	for _, h := range w.hubs {
		h.readMembers()
	}
}

func sortServices(ids []federation.ServiceID) { slices.SortFunc(ids, federation.ServiceID.Compare) }

// sortedServices returns the keys of a map in their order.
func sortedServices[V any](m map[federation.ServiceID]V) []federation.ServiceID {
	return slices.SortedFunc(maps.Keys(m), federation.ServiceID.Compare)
}
