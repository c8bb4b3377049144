package sim

import (
	"time"

	"github.com/tailgate-project/tailgate/federation/linkstate"
)

// receiver is a spoke's linkstate with the seam at which a test takes the fence down.
type receiver struct {
	s     *spoke
	known linkstate.State
}

func newReceiver(s *spoke, known linkstate.State) receiver { return receiver{s: s, known: known} }

// state is what the spoke knows.
func (r *receiver) state() linkstate.State { return r.known }

// position is where the spoke is: what it asks the hub to go on from.
func (r *receiver) position() (epoch, version uint64) { return r.known.Epoch(), r.known.Version() }

// silence is after how long without a word the hub counts as lost, and backoff how long a spoke then waits before it tries
// again: the numbers are those of package spoke/link, without the jitter.
func (r *receiver) silence() time.Duration { return 3 * heartbeat }

func (r *receiver) backoff(tries int) time.Duration {
	return min(100*time.Millisecond<<min(tries, 10), 5*time.Second)
}

// apply takes an update and returns the keys of what it changed. A refused one changes nothing.
func (r *receiver) apply(u linkstate.Update) ([]string, error) {
	known := r.known
	if r.s.w.parts.AnyEpoch && u.Epoch < known.Epoch() && u.Full {
		known = linkstate.State{}
	}
	next, changed, err := known.Apply(u)
	if err == nil {
		r.known = next
	}
	return changed, err
}
