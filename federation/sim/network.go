package sim

import (
	"math/rand/v2"
	"time"
)

// network carries messages between parties. Each direction between two of them is a path of its own, so that a cut
// may be one-way. A path draws its luck from a source of its own: what happens on one does not depend on what is said
// on another, and a shrunk schedule stays close to the one that it came from.
type network struct {
	w     *world
	seed  uint64
	paths map[pathKey]*path
}

type pathKey struct{ from, to string }

// path is one direction between two parties.
type path struct {
	key    pathKey
	rng    *rand.Rand
	delay  time.Duration // of a message, at least
	cuts   int           // how many cuts there are now
	poor   int           // how many degradations there are now
	last   time.Duration // when the last datagram arrives
	misery misery
}

// misery is what a degraded path does to messages: chances are in percent.
type misery struct {
	loss, twice int
	late        time.Duration // more delay, at most
}

const (
	// retry is after how long a stream sends again what was lost, at first; streamLimit how long it goes on.
	retry       = 200 * time.Millisecond
	retryMax    = 2 * time.Second
	streamLimit = 15 * time.Second
)

func newNetwork(w *world, seed uint64) *network {
	return &network{w: w, seed: seed, paths: map[pathKey]*path{}}
}

func (n *network) path(from, to string) *path {
	k := pathKey{from, to}
	if p := n.paths[k]; p != nil {
		return p
	}
	t := newTrace(false)
	t.word(from)
	t.word(to)
	p := &path{key: k, rng: rand.New(rand.NewPCG(n.seed, t.hash))}
	p.delay = time.Millisecond + time.Duration(p.rng.Int64N(int64(30*time.Millisecond)))
	n.paths[k] = p
	return p
}

// luck says what becomes of a message that is sent now: whether it arrives, how often and when.
func (p *path) luck(c Coverage) (copies int, after time.Duration) {
	after = p.delay + time.Duration(p.rng.Int64N(int64(p.delay/4+1)))
	if p.cuts > 0 {
		c.count(TopicFault, "message into a cut")
		return 0, after
	}
	if p.poor == 0 {
		return 1, after
	}
	if p.misery.late > 0 {
		after += time.Duration(p.rng.Int64N(int64(p.misery.late)))
		c.count(TopicFault, "message delayed")
	}
	switch draw := p.rng.IntN(100); {
	case draw < p.misery.loss:
		c.count(TopicFault, "message lost")
		return 0, after
	case draw < p.misery.loss+p.misery.twice:
		c.count(TopicFault, "message duplicated")
		return 2, after
	}
	return 1, after
}

// datagram sends a message that may be lost, come twice or overtake another.
func (n *network) datagram(from, to string, receiver *party, deliver func()) {
	p := n.path(from, to)
	copies, after := p.luck(n.w.cov)
	for range copies {
		if n.w.now+after < p.last {
			n.w.cov.count(TopicFault, "message overtook another")
		}
		p.last = max(p.last, n.w.now+after)
		n.w.push(n.w.now+after, receiver, deliver)
		after += time.Duration(p.rng.Int64N(int64(50 * time.Millisecond))) // a copy comes a little later
	}
}

// stream is one direction of a connection: what is sent arrives in its order, as it does with TCP, or not at all. What
// is lost is sent again; after a while of that the stream is dead, and nobody is told.
type stream struct {
	w        *world
	from, to string
	receiver *party
	life     int // of the receiver: the stream ends with it
	// unsent waits behind a message that was lost and is sent again, since begun.
	unsent []func()
	begun  time.Duration
	last   time.Duration // when the last message arrives
	// ended says that its sender has: what is under way arrives. dead says that nothing does any more.
	ended, dead bool
}

func (n *network) stream(from, to string, receiver *party) *stream {
	return &stream{w: n.w, from: from, to: to, receiver: receiver, life: receiver.life}
}

// alive reports whether something that is sent may arrive.
func (s *stream) alive() bool { return !s.dead && !s.ended && s.receiver.life == s.life }

// send sends a message. A stream that is dead swallows it.
func (s *stream) send(deliver func()) {
	if !s.alive() {
		return
	}
	s.unsent = append(s.unsent, deliver)
	if len(s.unsent) == 1 {
		s.begun = s.w.now
		s.transmit(retry)
	}
}

// transmit sends what waits, up to the first message that is lost; that one is tried again after the pause.
func (s *stream) transmit(pause time.Duration) {
	p := s.w.net.path(s.from, s.to)
	for len(s.unsent) > 0 {
		copies, after := p.luck(s.w.cov)
		if copies == 0 {
			break
		}
		deliver := s.unsent[0]
		s.unsent = s.unsent[1:]
		s.begun = s.w.now
		s.last = max(s.last, s.w.now+after)
		s.w.push(s.last, s.receiver, func() {
			// A copy is what an application makes when it sends again on its own: the receiver has to bear it.
			for range copies {
				if !s.dead {
					deliver()
				}
			}
		})
	}
	switch {
	case len(s.unsent) == 0:
	case s.w.now-s.begun > streamLimit:
		s.kill()
		s.w.cov.count(TopicState, "stream died of retransmissions")
	default:
		s.w.push(s.w.now+pause, nil, func() {
			if s.alive() {
				s.transmit(min(2*pause, retryMax))
			}
		})
	}
}

// end is the end of the stream's sender.
func (s *stream) end() {
	s.ended = true
	s.unsent = nil
}

// kill ends the stream: what is under way is lost.
func (s *stream) kill() {
	s.dead = true
	s.unsent = nil
}
