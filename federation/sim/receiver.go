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

func (r *receiver) state() linkstate.State { return r.known }

func (r *receiver) position() (epoch, version uint64) { return r.known.Epoch(), r.known.Version() }

func (r *receiver) silence() time.Duration { return 3 * heartbeat }

func (r *receiver) backoff(tries int) time.Duration {
	return min(100*time.Millisecond<<min(tries, 10), 5*time.Second)
}

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
