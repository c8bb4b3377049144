package sim

import (
	"fmt"
	"time"
)

// Kind is a kind of fault.
type Kind string

// The kinds of faults. A and B of a [Fault] name parties, N is what the kind says.
const (
	// Cut lets no message pass between A and B; CutOneWay none from A to B.
	Cut       Kind = "cut"
	CutOneWay Kind = "cut-one-way"
	// Isolate cuts A off from everybody.
	Isolate Kind = "isolate"
	// Flap cuts and joins A and B again every N milliseconds.
	Flap Kind = "flap"
	// Degrade loses and doubles some of the messages between A and B; N is the percentage. Delay delays each by up to
	// N milliseconds, so that they overtake each other.
	Degrade Kind = "degrade"
	Delay   Kind = "delay"
	// PowerLoss stops all of a member, without a goodbye.
	PowerLoss Kind = "power-loss"
	// SpokeCrash ends the spoke A; Envoy and the proxies of its cluster go on.
	SpokeCrash Kind = "spoke-crash"
	// LinkReset ends the connection of A to its hub, so that it makes another.
	LinkReset Kind = "link-reset"
	// HubCrash ends the hub; StoreLost ends it and takes its store away, so that it comes back with an empty one.
	HubCrash  Kind = "hub-crash"
	StoreLost Kind = "store-lost"
	// Takeover starts a second hub under a newer epoch, while the first one believes to lead.
	Takeover Kind = "takeover"
	// Pause stops the party A for a while, as a host that is overloaded does. Slow makes it take N milliseconds for
	// each thing that it does.
	Pause Kind = "pause"
	Slow  Kind = "slow"
	// Skew moves the clock of A by N milliseconds for what starts meanwhile.
	Skew Kind = "skew"
	// APIDown stops the API server of A; WatchLost ends the hub's watch of it.
	APIDown   Kind = "api-down"
	WatchLost Kind = "watch-lost"
	// CommitFails fails a commit of the hub's store, CommitForgot fails one after it took effect.
	CommitFails  Kind = "commit-fails"
	CommitForgot Kind = "commit-forgot"
	// Throttle has the admin API answer 429, Broken 500; AnswerLost loses answers after they took effect.
	Throttle   Kind = "admin-429"
	Broken     Kind = "admin-5xx"
	AnswerLost Kind = "admin-answer-lost"
	// Ready sets how many of the pods of A's export of service B are ready, to N.
	Ready Kind = "ready"
	// Unexport takes A's export of service B away and, when it ends, gives it back.
	Unexport Kind = "unexport"
	// Federate changes whether A's export of service B asks for a federated VIP.
	Federate Kind = "federate"
	// Hosts gives A other ingress hosts. Refer changes what A refers to.
	Hosts Kind = "hosts"
	Refer Kind = "refer"
	// Leave takes A out of the federation and, when it ends, lets it in again.
	Leave Kind = "leave"
	// LeaveForGood does so for good: the tailnet forgets its devices, and it comes back, if at all, as one that is new.
	LeaveForGood Kind = "leave-for-good"
	// DrainIt, CordonIt, PinIt and Undo are what an operator says of A's export of service B, or of all of A.
	DrainIt  Kind = "drain"
	CordonIt Kind = "cordon"
	PinIt    Kind = "pin"
	Undo     Kind = "undo"
	// Policies makes the policies number N those that count.
	Policies Kind = "policies"
)

// Fault is something that happens to a federation at a time, and that may end after a while.
type Fault struct {
	At   time.Duration `json:"at"`
	For  time.Duration `json:"for,omitempty"`
	Kind Kind          `json:"kind"`
	A    string        `json:"a,omitempty"`
	B    string        `json:"b,omitempty"`
	N    int           `json:"n,omitempty"`
}

// String returns the fault as a line for a reader.
func (f Fault) String() string {
	s := fmt.Sprintf("%10.3fs %-18s %s %s", f.At.Seconds(), f.Kind, f.A, f.B)
	if f.N != 0 {
		s += fmt.Sprintf(" n=%d", f.N)
	}
	if f.For != 0 {
		s += fmt.Sprintf(" for %v", f.For.Round(time.Millisecond))
	}
	return s
}

// plan puts all faults into the queue.
func (w *world) plan(faults []Fault) {
	for _, f := range faults {
		w.push(f.At, nil, func() { w.strike(f) })
	}
}

// strike makes a fault happen, and puts its end into the queue.
func (w *world) strike(f Fault) {
	w.note("fault", string(f.Kind), f.A, f.B, fmt.Sprint(f.N), f.For.String())
	w.cov.count(TopicFault, string(f.Kind))
	heal := w.strikeNetwork(f)
	if heal == nil {
		heal = w.strikeParty(f)
	}
	if heal == nil {
		heal = w.strikeMember(f)
	}
	if heal == nil {
		w.operate(f)
		return
	}
	w.push(w.now+f.For, nil, func() {
		w.note("fault", "end of "+string(f.Kind), f.A, f.B)
		w.cov.count(TopicHealed, string(f.Kind))
		heal()
		w.check.disturbed()
	})
	w.check.disturbed()
}

// nothing is the end of a fault that leaves nothing to heal.
func nothing() {}

// strikeNetwork makes a fault of paths happen and returns its end, nil if it is of another kind.
func (w *world) strikeNetwork(f Fault) func() {
	switch f.Kind {
	case Cut:
		return w.cut(pathKey{f.A, f.B}, pathKey{f.B, f.A})
	case CutOneWay:
		return w.cut(pathKey{f.A, f.B})
	case Isolate:
		var keys []pathKey
		for _, other := range w.names() {
			if other != f.A {
				keys = append(keys, pathKey{f.A, other}, pathKey{other, f.A})
			}
		}
		return w.cut(keys...)
	case Flap:
		return w.flap(f)
	case Degrade, Delay:
		m := misery{late: time.Duration(f.N) * time.Millisecond}
		if f.Kind == Degrade {
			m = misery{loss: f.N, twice: f.N / 2}
		}
		for _, k := range []pathKey{{f.A, f.B}, {f.B, f.A}} {
			p := w.net.path(k.from, k.to)
			p.poor, p.misery = p.poor+1, m
		}
		return func() {
			for _, k := range []pathKey{{f.A, f.B}, {f.B, f.A}} {
				w.net.path(k.from, k.to).poor--
			}
		}
	}
	return nil
}

// cut cuts paths and returns what joins them again.
func (w *world) cut(keys ...pathKey) func() {
	for _, k := range keys {
		w.net.path(k.from, k.to).cuts++
	}
	w.check.pathsChanged()
	return func() {
		for _, k := range keys {
			w.net.path(k.from, k.to).cuts--
		}
		w.check.pathsChanged()
	}
}

// flap cuts two parties and joins them again, until it ends.
func (w *world) flap(f Fault) func() {
	period, ended := time.Duration(max(f.N, 50))*time.Millisecond, false
	var join func()
	var toggle func()
	toggle = func() {
		if ended {
			return
		}
		if join == nil {
			w.cov.count(TopicFault, "flap: a cut")
			join = w.cut(pathKey{f.A, f.B}, pathKey{f.B, f.A})
		} else {
			join()
			join = nil
		}
		w.push(w.now+period, nil, toggle)
	}
	toggle()
	return func() {
		ended = true
		if join != nil {
			join()
		}
	}
}

// strikeParty makes a fault of a single party or of the tailnet's API happen and returns its end, nil if it is of
// another kind.
func (w *world) strikeParty(f Fault) func() {
	switch f.Kind {
	case Pause:
		if p := w.party(f.A); p != nil {
			p.busy = max(p.busy, w.now+f.For)
		}
		return nothing
	case Slow:
		p := w.party(f.A)
		if p == nil {
			return nothing
		}
		p.slow += time.Duration(f.N) * time.Millisecond
		return func() { p.slow -= time.Duration(f.N) * time.Millisecond }
	case Skew:
		p := w.party(f.A)
		if p == nil {
			return nothing
		}
		p.ahead += time.Duration(f.N) * time.Millisecond
		return func() { p.ahead -= time.Duration(f.N) * time.Millisecond }
	case HubCrash:
		w.lead.crash("crashed")
		return func() { w.lead.start() }
	case StoreLost:
		w.loseStore()
		return func() { w.lead.start() }
	case Takeover:
		return w.takeover()
	case CommitFails:
		w.store.failing += max(1, f.N)
		return func() { w.store.failing = 0 }
	case CommitForgot:
		w.store.forgetting += max(1, f.N)
		return func() { w.store.forgetting = 0 }
	case Throttle, Broken, AnswerLost:
		return w.tailnet.strike(f.Kind)
	}
	return nil
}

// strikeMember makes a fault of a member happen and returns its end, nil if it is of another kind.
func (w *world) strikeMember(f Fault) func() {
	c := w.member(f.A)
	if c == nil {
		return nil
	}
	switch f.Kind {
	case PowerLoss:
		c.powerOff()
		return c.powerOn
	case SpokeCrash:
		c.crashed++
		c.spoke.crash("crashed")
		return func() {
			c.crashed--
			c.spoke.start()
		}
	case LinkReset:
		if c.spoke.up && c.spoke.client.conn != nil {
			c.spoke.client.close("reset")
		}
		return nothing
	case APIDown:
		c.apiDown++
		c.dropWatches()
		return func() { c.apiDown-- }
	case WatchLost:
		c.dropWatches()
		return nothing
	case Unexport:
		c.hide(f.B, 1)
		return func() { c.hide(f.B, -1) }
	case Ready:
		c.setReady(f.B, f.N)
		return nothing
	case Federate:
		c.federate(f.B)
		return nothing
	case Hosts:
		c.changeHosts()
		return nothing
	case Refer:
		c.refer(f.N)
		return nothing
	case Leave:
		w.leave(c)
		return func() { w.join(c) }
	case LeaveForGood:
		w.leaveForGood(c)
		return func() {
			w.join(c)
			if !w.parts.KeepDevices {
				c.powerOn()
			}
		}
	}
	return nil
}
