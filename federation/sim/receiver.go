package sim

import (
	"github.com/tailgate-project/tailgate/federation/linkstate"
)

// receiver is a spoke's end of the link as the product has it, with the seam at which a test takes the fence down.
type receiver struct {
	linkstate.Receiver
	s     *spoke
	known linkstate.State
}

func newReceiver(s *spoke, known linkstate.State) receiver { return receiver{s: s, known: known} }

// state is what the spoke knows.
func (r *receiver) state() linkstate.State { return r.known }

// position is what the spoke asks the hub to go on from.
func (r *receiver) position() (epoch, version uint64) {
	return r.Position(r.known.Epoch(), r.known.Version())
}

// apply takes an update and returns the keys of what it changed. A refused one changes nothing.
func (r *receiver) apply(u linkstate.Update) ([]string, error) {
	known := r.known
	if r.s.w.parts.AnyEpoch && u.Epoch < known.Epoch() && u.Full {
		known = linkstate.State{}
	}
	next, changed, err := known.Apply(u)
	r.Took(u, err)
	if err == nil {
		r.known = next
	}
	return changed, err
}
