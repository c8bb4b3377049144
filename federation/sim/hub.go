package sim

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/federation/coordinator"
	"github.com/tailgate-project/tailgate/federation/failover"
	"github.com/tailgate-project/tailgate/federation/linkstate"
	"github.com/tailgate-project/tailgate/federation/vip"
)

const (
	// apiProbe is how often a hub asks a member's API server for a sign of life, apiSilence after how long without one
	// it counts as lost.
	apiProbe   = time.Second
	apiSilence = 3 * time.Second
	// adoptAgain is the first pause before a hub lists the tailnet's VIPs again.
	adoptAgain = 500 * time.Millisecond
)

// hub is a hub: the product's coordinator, views, queue and leases, and around them the few lines of package hub that
// join these.
type hub struct {
	party
	w      *world
	epoch  uint64
	co     *coordinator.Coordinator
	views  map[federation.ClusterID]*linkstate.View
	queue  *coordinator.Queue
	server server
	apis   map[federation.ClusterID]*api
	// asking counts the tasks that are with the tailnet.
	asking int
	// tickAt is when the next tick is due, failures how often the store has ended the hub.
	tickAt   time.Duration
	failures int
	// startedAt is when the hub last started.
	startedAt time.Duration
}

// api is what a hub knows of a member's API server.
type api struct {
	watch *watch
	heard time.Duration
	told  bool // whether the coordinator was told
	up    bool
}

func newHub(w *world, name string, skew time.Duration) *hub {
	return &hub{party: party{name: name, ahead: skew}, w: w}
}

func (h *hub) note(what string, words ...string) { h.w.note(h.name, what, words...) }

func (h *hub) clock() time.Time { return h.w.clock(&h.party) }

// start starts the hub with what the store holds.
func (h *hub) start() {
	if h.up {
		return
	}
	h.begin()
	h.tickAt, h.asking, h.startedAt = 0, 0, h.w.now
	h.epoch = h.w.store.open(h.clock())
	h.note("start", fmt.Sprint("epoch ", h.epoch))
	co, err := coordinator.New(h.w.parts.config(h.w.scenario, h.epoch), h.w.parts.Load(h.w.store.load()), h.clock())
	if err != nil {
		h.w.fail("restartChangesNothing", "%s cannot start from its store: %v", h.name, err)
		return
	}
	h.co = co
	h.views = map[federation.ClusterID]*linkstate.View{}
	h.queue = coordinator.NewQueue()
	h.apis = map[federation.ClusterID]*api{}
	h.server = newServer(h)
	h.publish(co.Everything())
	h.w.check.hubStarted(h)
	for _, id := range h.co.Members() {
		if c := h.w.member(string(id)); c.left > 0 {
			h.expel(c)
		}
	}
	h.w.push(h.w.now+200*time.Millisecond, &h.party, func() {
		h.readMembers()
		h.readPolicies()
	})
	h.adopt(adoptAgain)
	h.w.push(h.w.now+apiProbe/2, &h.party, h.probeAPIs)
	h.setTimer()
}

// crash ends the hub without a goodbye.
func (h *hub) crash(why string) {
	if !h.up {
		return
	}
	h.note("stop", why)
	h.w.check.hubEnds(h, why)
	h.up = false
	h.life++
	h.server.abandon()
}

// handle takes an event the way that package hub does: plan, store, apply, publish.
func (h *hub) handle(e coordinator.Event) {
	if !h.up {
		return
	}
	silent := h.co.Rebuilding()
	step := h.co.Plan(h.w.parts.Event(e), h.clock())
	for _, p := range step.Problems {
		h.note("problem", p.Error())
		h.w.cov.count(TopicRefused, "hub: "+kindOf(p))
	}
	early := h.w.parts.PublishFirst && !step.Batch.Empty()
	if early {
		h.publish(h.co.Apply(step))
	}
	if !step.Batch.Empty() {
		if err := h.w.store.commit(h.epoch, h.w.parts.Batch(step.Batch)); err != nil {
			if errors.Is(err, errForgot) { // what it deleted is deleted
				h.w.check.vipsAreKept(h, step.Batch.VIPs)
			}
			h.stopFor(err)
			return
		}
	}
	if !early {
		h.publish(h.co.Apply(step))
	}
	if again := h.w.parts.ApplyAgain; again > 0 && len(step.Batch.VIPs) > 0 {
		h.w.push(h.w.now+again, &h.party, func() { h.publish(h.co.Apply(step)) })
	}
	h.w.check.applied(h, e, step)
	if silent && !h.co.Rebuilding() {
		h.w.check.rebuilt(h)
	}
	h.setTimer()
}

// kindOf names an error by the last of the sentinels that it wraps, for a count.
func kindOf(err error) string {
	for _, known := range []error{vip.ErrAddressTaken, vip.ErrAddressChanged, vip.ErrNameTaken, vip.ErrUnknown, vip.ErrNoPorts} {
		if errors.Is(err, known) {
			return known.Error()
		}
	}
	return "another problem"
}

// stopFor ends the hub, as it cannot store. It is started again unless another one leads.
func (h *hub) stopFor(err error) {
	why := "the disk failed"
	if errors.Is(err, errFenced) {
		why = "another hub leads"
	}
	h.w.cov.count(TopicState, "hub ended by its store: "+why)
	h.crash(err.Error())
	if h.w.lead == h {
		h.failures++
		h.w.push(h.w.now+min(time.Duration(h.failures)*time.Second, 5*time.Second), nil, func() {
			if h.w.lead == h {
				h.start()
			}
		})
	}
}

// publish edits the views, wakes the streams and feeds the queue.
func (h *hub) publish(e coordinator.Effects) {
	for _, m := range h.w.members {
		changes, ok := e.Views[m.Cluster]
		if !ok {
			continue
		}
		if h.view(m.Cluster).Edit(h.w.parts.Edit(h.w.now, changes)) {
			h.server.wake(m.Cluster)
		}
	}
	for _, id := range e.Speak {
		if h.view(id).Open() {
			h.server.wake(id)
		}
	}
	for _, id := range e.Gone {
		h.view(id).Clear()
		h.w.push(h.w.now, &h.party, func() { h.server.expel(id) })
	}
	slices.SortStableFunc(e.Ensure, func(a, b vip.Entry) int { return compare(a.ServiceName, b.ServiceName) })
	h.queue.Add(e)
	h.w.check.published(h, e)
	h.provision()
}

func compare(a, b string) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

func (h *hub) view(id federation.ClusterID) *linkstate.View {
	if h.views[id] == nil {
		h.views[id] = linkstate.NewView()
	}
	return h.views[id]
}

// setTimer has the hub tick when the coordinator has something to do.
func (h *hub) setTimer() {
	at, ok := h.co.Deadline()
	if !ok || !h.up {
		return
	}
	due := max(h.w.wake(&h.party, at), h.w.now+time.Millisecond)
	if h.tickAt > h.w.now && h.tickAt <= due {
		return
	}
	h.tickAt = due
	h.w.push(due, &h.party, func() {
		h.tickAt = 0
		if at, ok := h.co.Deadline(); ok && !at.After(h.clock()) {
			h.handle(coordinator.Tick{})
		}
		if h.up {
			h.setTimer()
		}
	})
}

// adopt tells the coordinator which VIPs the tailnet has, and asks until the tailnet has said.
func (h *hub) adopt(pause time.Duration) {
	h.w.tailnet.ask(h, h.w.tailnet.list, func(a answer) {
		if a.err != nil {
			h.note("adopt", a.err.Error())
			h.w.push(h.w.now+pause, &h.party, func() { h.adopt(min(2*pause, 10*time.Second)) })
			return
		}
		for _, v := range a.vips {
			h.handle(coordinator.VIPFound{VIP: v})
		}
		h.handle(coordinator.VIPsListed{})
	})
}

// provisioners is how many things the tailnet is asked for at a time.
const provisioners = 4

// provision has the tailnet do what the queue holds.
func (h *hub) provision() {
	for h.up && h.asking < provisioners {
		if !h.provisionNext() {
			return
		}
	}
}

// provisionNext has the tailnet do one thing, if one is due.
func (h *hub) provisionNext() bool {
	t, ok := h.queue.Next(h.clock())
	if !ok {
		if at, waits := h.queue.Deadline(); waits {
			h.w.push(max(h.w.wake(&h.party, at), h.w.now+time.Millisecond), &h.party, h.provision)
		}
		return false
	}
	h.asking++
	do := func() answer { return h.w.tailnet.ensure(t.VIP) }
	if t.Remove {
		do = func() answer { return h.w.tailnet.remove(t.VIP) }
	}
	h.w.tailnet.ask(h, do, func(a answer) { h.provisioned(t, a) })
	return true
}

func (h *hub) provisioned(t coordinator.Task, a answer) {
	h.asking--
	h.queue.Done(t, a.err, h.clock())
	switch {
	case errors.Is(a.err, errForeign):
		h.handle(coordinator.VIPRefused{Service: t.VIP.ServiceName, Notice: federation.Notice{
			Subject: "export/" + t.VIP.Owner.Service.String(), Reason: "ForeignVIP", Message: a.err.Error(),
		}})
	case a.err != nil:
		h.w.cov.count(TopicRefused, "tailnet: "+a.err.Error())
	case t.Remove:
		h.w.cov.count(TopicState, "VIP deleted after its quarantine")
		h.handle(coordinator.VIPDeleted{Service: t.VIP.ServiceName})
	default:
		h.handle(coordinator.VIPAssigned{Service: t.VIP.ServiceName, Addrs: a.addrs})
	}
	h.provision()
}

// readPolicies tells the coordinator which policies the hub's cluster has.
func (h *hub) readPolicies() {
	p := h.w.parts.Policies(h.w.policies)
	h.handle(coordinator.PoliciesSet{Fallback: p.Fallback, Policies: p.Named})
}

// readMembers tells the coordinator which members the hub's cluster accepts.
func (h *hub) readMembers() {
	var accepted []federation.ClusterID
	for _, c := range h.w.members {
		if c.left == 0 {
			accepted = append(accepted, c.Cluster)
		}
	}
	h.handle(coordinator.MembersExpected{Clusters: accepted})
}

// dismiss tells the coordinator that a member left for good.
func (h *hub) dismiss(c *cluster) {
	if h.up {
		delete(h.apis, c.Cluster)
		h.handle(coordinator.MemberGone{Cluster: c.Cluster, ForGood: true})
	}
}

// expel tells the coordinator that a member left.
func (h *hub) expel(c *cluster) {
	if h.up {
		delete(h.apis, c.Cluster)
		h.handle(coordinator.MemberGone{Cluster: c.Cluster})
	}
}

// tell tells the coordinator something that is for failover.
func (h *hub) tell(e failover.Event) { h.handle(coordinator.Failover{Event: e}) }
