package sim

import (
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/federation/coordinator"
	"github.com/tailgate-project/tailgate/federation/failover"
	"github.com/tailgate-project/tailgate/federation/ledger"
	"github.com/tailgate-project/tailgate/federation/linkstate"
)

const (
	// heartbeat is the interval of heartbeats both ways.
	heartbeat = time.Second
	// joinTimeout is how long a spoke waits for the answer to its wish to join.
	joinTimeout = 3 * time.Second
)

// conn is a connection of a spoke to a hub, with a stream each way. Either end may think that it is over before the
// other one does.
type conn struct {
	h          *hub
	s          *spoke
	hubLife    int
	down, up   *stream
	sender     *linkstate.Sender
	watching   bool
	generation uint64
}

// server is the hub's end of all links.
type server struct {
	h      *hub
	leases map[federation.ClusterID]*linkstate.Lease
	conns  map[federation.ClusterID][]*conn
}

func newServer(h *hub) server {
	return server{h: h, leases: map[federation.ClusterID]*linkstate.Lease{}, conns: map[federation.ClusterID][]*conn{}}
}

// abandon ends all connections, as they end with the hub.
func (v *server) abandon() {
	for _, conns := range v.conns {
		for _, c := range conns {
			c.down.end()
		}
	}
	v.conns = nil
}

// joins answers a spoke's wish to join.
func (v *server) joins(s *spoke, yes, no func()) {
	h, c := v.h, s.c
	if c.left > 0 {
		h.w.cov.count(TopicRefused, "hub: join of a member that left")
		h.w.net.datagram(h.name, s.name, &s.party, no)
		return
	}
	h.handle(coordinator.MemberSeen{Cluster: c.Cluster, Locality: c.Locality})
	if h.up {
		h.w.net.datagram(h.name, s.name, &s.party, yes)
	}
}

// open begins a spoke's watch at the position that it has.
func (v *server) open(c *conn, epoch, version uint64) {
	id := c.s.c.Cluster
	if c.watching || c.s.c.left > 0 {
		return
	}
	if v.leases[id] == nil {
		v.leases[id] = linkstate.NewLease(heartbeat)
	}
	v.conns[id] = append(v.conns[id], c)
	c.watching = true
	c.sender = linkstate.NewSender(v.h.epoch, heartbeat, epoch, version, v.h.clock())
	if epoch == v.h.epoch && version > 0 {
		v.h.w.cov.count(TopicState, "watch resumed")
	}
	generation, up := v.leases[id].Open(v.h.clock())
	c.generation = generation
	if up {
		v.h.tell(failover.LinkChanged{Cluster: id, Up: true})
	}
	v.setTimer(id)
	v.send(c)
	v.beat(c)
}

// wake sends to a member what its view has become.
func (v *server) wake(id federation.ClusterID) {
	for _, c := range v.conns[id] {
		v.send(c)
	}
}

// send sends what is new, or due. While the stream is stuck it waits: what comes meanwhile goes in one.
func (v *server) send(c *conn) {
	if c.down.dead || len(c.down.unsent) > 0 {
		return
	}
	u, ok := c.sender.Next(v.h.view(c.s.c.Cluster), v.h.clock())
	if !ok {
		return
	}
	switch {
	case len(u.Upserts)+len(u.Removed) == 0:
	case u.Full:
		v.h.w.cov.count(TopicState, "update sent: full")
	default:
		v.h.w.cov.count(TopicState, "update sent: delta")
	}
	c.down.send(func() { c.s.client.update(c, u) })
}

// beat has the sender looked after once a heartbeat.
func (v *server) beat(c *conn) {
	v.h.w.push(v.h.w.now+heartbeat, &v.h.party, func() {
		if c.down.dead || !slices.Contains(v.conns[c.s.c.Cluster], c) {
			v.drop(c)
			return
		}
		v.send(c)
		v.beat(c)
	})
}

// drop ends a connection at the hub's end.
func (v *server) drop(c *conn) {
	id := c.s.c.Cluster
	if !slices.Contains(v.conns[id], c) {
		return
	}
	v.conns[id] = slices.DeleteFunc(v.conns[id], func(o *conn) bool { return o == c })
	c.down.kill()
	v.h.w.net.datagram(v.h.name, c.s.name, &c.s.party, func() { c.s.client.ended(c, "closed by the hub") })
	if v.leases[id].Closed(c.generation, v.h.clock()) {
		v.lost(id, "closed")
	}
}

func (v *server) lost(id federation.ClusterID, why string) {
	v.h.note("link lost", string(id), why)
	v.h.w.cov.count(TopicState, "link lost: "+why)
	v.h.tell(failover.LinkChanged{Cluster: id})
}

// setTimer has the lease looked at when it may end.
func (v *server) setTimer(id federation.ClusterID) {
	at, ok := v.leases[id].Deadline()
	if !ok {
		return
	}
	v.h.w.push(max(v.h.w.wake(&v.h.party, at), v.h.w.now+time.Millisecond), &v.h.party, func() {
		lease := v.leases[id]
		if now, ok := lease.Deadline(); !ok || !now.Equal(at) {
			return
		}
		if lease.Tick(v.h.clock()) {
			v.silent(id)
			return
		}
		v.setTimer(id)
	})
}

// silent ends the connections of a member that was not heard of for too long.
func (v *server) silent(id federation.ClusterID) {
	for _, c := range slices.Clone(v.conns[id]) {
		c.down.kill()
		v.drop(c)
	}
	v.lost(id, "silent")
}

// expel ends the connections of a member that left.
func (v *server) expel(id federation.ClusterID) {
	for _, c := range slices.Clone(v.conns[id]) {
		v.drop(c)
	}
}

// reported takes a report of a spoke.
func (v *server) reported(c *conn, r report) {
	id := c.s.c.Cluster
	if !c.watching || !slices.Contains(v.conns[id], c) {
		return
	}
	v.leases[id].Heard(c.generation, v.h.clock())
	v.setTimer(id)
	if r.hosts != nil {
		v.h.handle(coordinator.MemberHosts{Cluster: id, Hosts: r.hosts})
	}
	if r.interest != nil {
		v.h.handle(coordinator.MemberInterest{Cluster: id, Interest: *r.interest})
	}
	for _, o := range r.seen {
		v.h.tell(failover.Observed{Observer: id, Target: o.target, Reachable: o.reachable, At: v.h.clock().Add(-o.age)})
	}
}

// report is what a spoke tells the hub.
type report struct {
	hosts    []ledger.Host // nil if it is as before
	interest *federation.Interest
	seen     []observed
}

type observed struct {
	target    federation.Target
	reachable bool
	age       time.Duration
}

// client is the spoke's end of the link.
type client struct {
	s       *spoke
	conn    *conn
	attempt int
	// What has been reported on this connection.
	interest *federation.Interest
	hosts    []ledger.Host
	seen     map[federation.Target]time.Time
}

// abandon ends the connection as it ends with the spoke.
func (l *client) abandon() {
	if l.conn != nil {
		l.conn.up.end()
		l.conn = nil
	}
}

// connect asks a hub to let the spoke in. Where two answer to the hub's name, it is either.
func (l *client) connect() {
	s := l.s
	h := s.w.lead
	if p := s.w.net.path(s.name, adminAPI); s.w.second && p.rng.IntN(2) == 0 {
		h = s.w.hubs[p.rng.IntN(2)]
	}
	l.attempt++
	attempt := l.attempt
	s.receiver.Begin(s.clock())
	answered := func(then func()) func() {
		return func() {
			if l.attempt == attempt && l.conn == nil {
				then()
			}
		}
	}
	life := h.life
	s.w.net.datagram(s.name, h.name, &h.party, func() {
		if h.up {
			h.server.joins(s, answered(func() { l.joined(h, life) }), answered(l.again))
		}
	})
	s.w.push(s.w.now+joinTimeout, &s.party, answered(l.again))
}

// joined opens the streams.
func (l *client) joined(h *hub, life int) {
	s := l.s
	l.attempt++ // the timeout of this one is over
	c := &conn{h: h, s: s, hubLife: life, down: s.w.net.stream(h.name, s.name, &s.party), up: s.w.net.stream(s.name, h.name, &h.party)}
	if h.life != life {
		c.up.kill() // what it sends arrives nowhere
	}
	l.conn, l.interest, l.hosts, l.seen = c, nil, nil, map[federation.Target]time.Time{}
	s.note("link", "joined", h.name)
	s.receiver.Joined(heartbeat, s.clock())
	epoch, version := s.receiver.position()
	c.up.send(func() { h.server.open(c, epoch, version) })
	l.watchSilence()
	l.report()
	l.beat(c)
}

// beat reports once a heartbeat.
func (l *client) beat(c *conn) {
	l.s.later(heartbeat, func() {
		if l.conn == c {
			l.report()
			l.beat(c)
		}
	})
}

// watchSilence closes the connection when the hub counts as silent, unless it is heard of before.
func (l *client) watchSilence() {
	c, s := l.conn, l.s
	at, ok := s.receiver.Deadline()
	if !ok {
		return
	}
	s.w.push(max(s.w.wake(&s.party, at), s.w.now+time.Millisecond), &s.party, func() {
		if now, ok := s.receiver.Deadline(); l.conn == c && ok && now.Equal(at) {
			l.close("the hub was silent")
		}
	})
}

// update takes an update of the hub.
func (l *client) update(c *conn, u linkstate.Update) {
	if l.conn != c {
		return
	}
	l.s.receiver.Heard(l.s.clock())
	l.watchSilence()
	err := l.s.apply(u)
	switch {
	case errors.Is(err, linkstate.ErrOldEpoch):
		l.s.w.cov.count(TopicRefused, "spoke: update of an older epoch")
	case errors.Is(err, linkstate.ErrGap):
		l.s.w.cov.count(TopicRefused, "spoke: update does not follow")
	}
	if err != nil {
		l.close(err.Error())
	}
}

// ended is told that the hub closed a connection.
func (l *client) ended(c *conn, why string) {
	if l.conn == c {
		l.close(why)
	}
}

// close ends the connection; the hub is told if it can be reached.
func (l *client) close(why string) {
	c := l.conn
	l.conn = nil
	c.up.kill()
	c.down.kill()
	l.s.note("link", "closed", why)
	l.s.w.net.datagram(l.s.name, c.h.name, &c.h.party, func() {
		if c.hubLife == c.h.life {
			c.h.server.drop(c)
		}
	})
	l.again()
}

// again connects once more, after a pause that grows.
func (l *client) again() {
	l.attempt++
	jitter := l.s.w.net.path(l.s.name, adminAPI).rng.Float64()
	pause := l.s.receiver.Ended(l.s.clock(), jitter)
	attempt := l.attempt
	l.s.later(pause, func() {
		if l.attempt == attempt && l.conn == nil {
			l.connect()
		}
	})
}

// report sends what the hub does not know yet; it is a sign of life if that is nothing.
func (l *client) report() {
	if l.conn == nil {
		return
	}
	var r report
	c := l.s.c
	if l.interest == nil || !l.interest.Equal(c.Interest) {
		i := c.Interest
		l.interest, r.interest = &i, &i
	}
	if !slices.Equal(l.hosts, c.hosts) {
		l.hosts, r.hosts = c.hosts, c.hosts
	}
	now := l.s.clock()
	seen := l.s.seen.Report(now)
	for _, t := range slices.SortedFunc(maps.Keys(seen), federation.Target.Compare) {
		if o := seen[t]; o.At.After(l.seen[t]) {
			l.seen[t] = o.At
			r.seen = append(r.seen, observed{t, o.Reachable, max(0, now.Sub(o.At))})
		}
	}
	conn := l.conn
	conn.up.send(func() { conn.h.server.reported(conn, r) })
}
