package sim

import (
	"hash/fnv"
	"net/netip"
	"slices"
	"time"

	"github.com/tailgate-project/tailgate/federation"
)

// The probes are those of the spoke: a fast one for each remote cluster in use, a slow one for each VIP in use.
const (
	clusterInterval = 500 * time.Millisecond
	clusterTimeout  = 500 * time.Millisecond
	vipInterval     = 5 * time.Second
	vipTimeout      = 2 * time.Second
	// failingInterval is how often a target that does not answer is probed at least.
	failingInterval = time.Second
	// refresh is the longest time between two reports of a target that is probed at least as often.
	refresh = time.Second
)

// prober is the egress proxy's eyes: it belongs to the data plane and goes on when the spoke is down. A failure is
// confirmed by a second probe before it is reported.
type prober struct {
	c       *cluster
	on      bool
	targets map[federation.Target]*probing
	order   []federation.Target
}

// aim is a target and where to find it.
type aim struct {
	target federation.Target
	addrs  []netip.AddrPort
}

type probing struct {
	aim
	stopped                 bool
	interval, timeout       time.Duration
	known, reachable, again bool
	reported, next          time.Duration
	aimed                   time.Duration // since when
}

func (p *prober) start() { p.on = true }

func (p *prober) stop() {
	p.on = false
	p.aimAt(nil)
}

// aimAt makes the aims all there are. A target that stays keeps its beat.
func (p *prober) aimAt(aims []aim) {
	next := make(map[federation.Target]*probing, len(aims))
	for _, a := range aims {
		if old := p.targets[a.target]; old != nil && slices.Equal(old.addrs, a.addrs) {
			next[a.target] = old
			continue
		}
		x := &probing{aim: a, aimed: p.c.w.now, interval: clusterInterval, timeout: clusterTimeout}
		if a.target.Service != (federation.ServiceID{}) {
			x.interval, x.timeout = vipInterval, vipTimeout
		}
		next[a.target] = x
		x.next = p.c.w.now + phase(a.target, x.interval)
		p.beat(x, x.next)
	}
	for _, t := range p.order {
		if old := p.targets[t]; old != next[t] {
			old.stopped = true
		}
	}
	p.targets = next
	p.order = p.order[:0]
	for _, a := range aims {
		p.order = append(p.order, a.target)
	}
}

// phase spreads the probes over their interval.
func phase(t federation.Target, interval time.Duration) time.Duration {
	h := fnv.New64a()
	h.Write([]byte(t.String())) // a hash takes all
	return time.Duration(h.Sum64() % uint64(interval))
}

func (p *prober) beat(x *probing, at time.Duration) {
	p.c.w.push(at, nil, func() {
		if !x.stopped && p.on {
			p.probe(x)
		}
	})
}

// probe connects and notes the outcome when it is there.
func (p *prober) probe(x *probing) {
	w := p.c.w
	there, back := w.net.path(p.c.name(), string(x.target.Cluster)), w.net.path(string(x.target.Cluster), p.c.name())
	sent, after := there.luck(w.cov)
	answered, later := back.luck(w.cov)
	target := w.member(string(x.target.Cluster))
	rtt := after + later
	if ok := sent > 0 && answered > 0 && rtt < x.timeout && target != nil && target.answers(x.target, x.addrs); !ok {
		w.push(w.now+x.timeout, nil, func() { p.outcome(x, false) })
		return
	}
	w.push(w.now+rtt, nil, func() { p.outcome(x, true) })
}

// outcome confirms a first failure, and tells the spoke what it should know.
func (p *prober) outcome(x *probing, reachable bool) {
	w := p.c.w
	if x.stopped || !p.on {
		return
	}
	if !reachable && !x.again && (!x.known || x.reachable) {
		x.again = true
		p.probe(x)
		return
	}
	x.again = false
	changed := !x.known || x.reachable != reachable
	if changed && x.known {
		w.cov.count(TopicState, "probe target changed")
	}
	x.known, x.reachable = true, reachable
	for x.next <= w.now {
		x.next += x.interval
	}
	if !reachable {
		x.next = min(x.next, w.now+failingInterval)
	}
	p.beat(x, x.next)
	if changed || w.now+x.interval-x.reported > refresh {
		x.reported = w.now
		p.c.spoke.probed(x.target, reachable)
	}
}

// since is since when the prober probes a target, now if it does not.
func (p *prober) since(t federation.Target) time.Duration {
	if x := p.targets[t]; x != nil {
		return x.aimed
	}
	return p.c.w.now
}

// aimsWell reports whether the prober has for a while known where a cluster's ingress hosts are.
func (p *prober) aimsWell(c *cluster) bool {
	x := p.targets[federation.Target{Cluster: c.Cluster}]
	return x != nil && p.c.w.now-x.aimed > blurred && c.answers(x.target, x.addrs)
}
