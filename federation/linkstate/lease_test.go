package linkstate_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tailgate-project/tailgate/federation/linkstate"
)

var start = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// at is a moment in seconds after the start.
func at(seconds float64) time.Time {
	return start.Add(time.Duration(seconds * float64(time.Second)))
}

func TestLease(t *testing.T) {
	type step struct {
		do   func(l *linkstate.Lease) bool
		want bool
		up   bool
	}
	open := func(seconds float64, generation uint64) func(l *linkstate.Lease) bool {
		return func(l *linkstate.Lease) bool {
			got, up := l.Open(at(seconds))
			if got != generation {
				t.Errorf("generation %d, want %d", got, generation)
			}
			return up
		}
	}
	heard := func(seconds float64, generation uint64) func(l *linkstate.Lease) bool {
		return func(l *linkstate.Lease) bool { return l.Heard(generation, at(seconds)) }
	}
	closed := func(seconds float64, generation uint64) func(l *linkstate.Lease) bool {
		return func(l *linkstate.Lease) bool { return l.Closed(generation, at(seconds)) }
	}
	tick := func(seconds float64) func(l *linkstate.Lease) bool {
		return func(l *linkstate.Lease) bool { return l.Tick(at(seconds)) }
	}
	for name, steps := range map[string][]step{
		"nobody-there-is-nobody-lost":      {{tick(0), false, false}, {tick(1000), false, false}},
		"comes-and-goes":                   {{open(0, 1), true, true}, {closed(1, 1), true, false}},
		"comes-back":                       {{open(0, 1), true, true}, {closed(1, 1), true, false}, {open(2, 2), true, true}},
		"lost-once-it-was-silent-for-long": {{open(0, 1), true, true}, {tick(2.999), false, true}, {tick(3), true, false}, {tick(4), false, false}},
		"heard-in-time":                    {{open(0, 1), true, true}, {heard(2, 1), true, true}, {tick(4), false, true}, {tick(5), true, false}},
		"lost-only-once":                   {{open(0, 1), true, true}, {tick(3), true, false}, {closed(3, 1), false, false}},
		"silent-for-too-long-is-over":      {{open(0, 1), true, true}, {tick(3), true, false}, {heard(4, 1), false, false}},
		"newer-stream-takes-over": {
			{open(0, 1), true, true}, {open(1, 2), false, true}, {heard(2, 1), false, true}, {closed(2, 1), false, true}, {closed(3, 2), true, false},
		},
		"old-stream-does-not-keep-it-up": {{open(0, 1), true, true}, {open(1, 2), false, true}, {heard(3, 1), false, true}, {tick(4), true, false}},
		"generation-that-never-was":      {{closed(0, 0), false, false}, {heard(0, 0), false, false}, {open(0, 1), true, true}, {closed(1, 2), false, true}},
	} {
		t.Run(name, func(t *testing.T) {
			l := linkstate.NewLease(time.Second)
			for i, s := range steps {
				if got := s.do(l); got != s.want || l.Up() != s.up {
					t.Fatalf("step %d: %v and up %v, want %v and %v", i+1, got, l.Up(), s.want, s.up)
				}
			}
		})
	}
}

// naiveLease knows of each stream when it was opened, heard and closed, and judges anew each time.
type naiveLease struct {
	streams []naiveStream
}

type naiveStream struct {
	heard time.Time
	over  bool
}

func (n *naiveLease) up() bool { return len(n.streams) > 0 && !n.streams[len(n.streams)-1].over }

func FuzzLease(f *testing.F) {
	f.Add([]byte{0, 1, 1, 3, 12, 3, 0, 2})
	f.Add([]byte{0, 0, 2, 13, 9, 30, 3, 17, 3})
	f.Add([]byte{0, 1, 29, 3, 5, 0, 30, 31, 3, 6, 2})
	f.Fuzz(func(t *testing.T, ops []byte) {
		l, n := linkstate.NewLease(time.Second), &naiveLease{}
		now := start
		for i, op := range ops {
			now = now.Add(time.Duration(op>>2) * 100 * time.Millisecond)
			was := n.up()
			// Mostly the newest stream, at times one before it.
			generation := uint64(max(len(n.streams)-int(op>>5)%3, 0))
			current := generation == uint64(len(n.streams)) && was
			var got, want bool
			switch op % 4 {
			case 0:
				var opened uint64
				opened, got = l.Open(now)
				n.streams = append(n.streams, naiveStream{heard: now})
				if opened != uint64(len(n.streams)) {
					t.Fatalf("op %d: generation %d of the %d. stream", i, opened, len(n.streams))
				}
				want = !was
			case 1:
				got, want = l.Heard(generation, now), current
				if current {
					n.streams[generation-1].heard = now
				}
			case 2:
				got, want = l.Closed(generation, now), current
				if generation > 0 {
					n.streams[generation-1].over = true
				}
			case 3:
				got = l.Tick(now)
				want = was && now.Sub(n.streams[len(n.streams)-1].heard) >= 3*time.Second
				if want {
					n.streams[len(n.streams)-1].over = true
				}
			}
			if got != want || l.Up() != n.up() {
				t.Fatalf("op %d (%d) at %v: %v and up %v, want %v and %v", i, op%4, now.Sub(start), got, l.Up(), want, n.up())
			}
			deadline, up := l.Deadline()
			if up != n.up() {
				t.Fatalf("op %d: a deadline %v of a member that is up %v", i, up, n.up())
			}
			if up && !deadline.Equal(n.streams[len(n.streams)-1].heard.Add(l.Patience())) {
				t.Fatalf("op %d: deadline %v", i, deadline.Sub(start))
			}
		}
	})
}

func TestReceiver(t *testing.T) {
	var r linkstate.Receiver
	if _, ok := r.Deadline(); ok {
		t.Error("a hub that was never reached has a deadline")
	}
	r.Begin(at(0))
	r.Joined(time.Second, at(1))
	if d, ok := r.Deadline(); !ok || !d.Equal(at(4)) {
		t.Errorf("deadline %v, want 3 heartbeats after the hub let the spoke in", d)
	}
	r.Heard(at(2))
	if d, _ := r.Deadline(); !d.Equal(at(5)) {
		t.Errorf("deadline %v, want 3 heartbeats after the hub was heard", d)
	}
	r.Ended(at(2), 0)
	if _, ok := r.Deadline(); ok {
		t.Error("a connection that ended has a deadline")
	}
}

func TestPauses(t *testing.T) {
	type try struct {
		lasts, jitter float64
	}
	for name, tc := range map[string]struct {
		tries []try
		want  []time.Duration // in milliseconds
	}{
		"double-up-to-the-longest": {
			[]try{{0, 0}, {0, 0}, {0, 0}, {0, 0}, {0, 0}, {0, 0}, {0, 0}, {0, 0}}, []time.Duration{50, 100, 200, 400, 800, 1600, 2500, 2500},
		},
		"are-scattered":                  {[]try{{0, 0.5}, {0, 0.25}, {0, 0}}, []time.Duration{75, 125, 200}},
		"grow-over-tries-that-are-short": {[]try{{5, 0}, {5, 0}}, []time.Duration{50, 100}},
		"start-over-after-a-long-try":    {[]try{{0, 0}, {0, 0}, {5.001, 0}, {0, 0}}, []time.Duration{50, 100, 50, 100}},
	} {
		t.Run(name, func(t *testing.T) {
			var r linkstate.Receiver
			var got []time.Duration
			now := start
			for _, try := range tc.tries {
				r.Begin(now)
				now = now.Add(time.Duration(try.lasts * float64(time.Second)))
				pause := r.Ended(now, try.jitter)
				got = append(got, pause/time.Millisecond)
				now = now.Add(pause)
			}
			if d := cmp.Diff(tc.want, got); d != "" {
				t.Errorf("(-want +got)\n%s", d)
			}
		})
	}
}

// TestPausesStayBounded asks for more tries than any shift or product could count.
func TestPausesStayBounded(t *testing.T) {
	var r linkstate.Receiver
	for i := range 200 {
		r.Begin(start)
		if pause := r.Ended(start, 0.999); pause < linkstate.PauseMin/2 || pause >= linkstate.PauseMax {
			t.Fatalf("pause %v after %d tries", pause, i+1)
		}
	}
}

func TestWhatDoesNotFollowIsAskedForAnew(t *testing.T) {
	var r linkstate.Receiver
	state := restored(t, 7, 4, notice("a", "1"))
	ask := func(epoch, version uint64) {
		t.Helper()
		if e, v := r.Position(state.Epoch(), state.Version()); e != epoch || v != version {
			t.Errorf("asks to go on from %d/%d, want %d/%d", e, v, epoch, version)
		}
	}
	take := func(u linkstate.Update) {
		next, _, err := state.Apply(u)
		r.Took(u, err)
		state = next
	}
	ask(7, 4)
	take(linkstate.Update{Epoch: 7, Version: 9, Base: 8, Upserts: []linkstate.Resource{notice("b", "1")}})
	ask(7, 0) // of its own epoch: a hub that says nothing yet names this position in its heartbeats
	take(linkstate.Update{Epoch: 7, Version: 0})
	ask(7, 0)
	take(linkstate.Update{Epoch: 6, Version: 50, Full: true}) // a hub that was replaced answers
	ask(7, 0)
	take(linkstate.Update{Epoch: 7, Version: 9, Full: true, Upserts: []linkstate.Resource{notice("b", "1")}})
	ask(7, 9)
	take(linkstate.Update{Epoch: 8, Version: 2, Base: 1})
	ask(7, 0)
}
