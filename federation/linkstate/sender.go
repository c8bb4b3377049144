package linkstate

import "time"

// Sender is the hub's end of one watch: it knows what was sent, and when something is due. Use [NewSender].
type Sender struct {
	epoch, version uint64
	heartbeat      time.Duration
	sent           time.Time
}

// NewSender returns the sender of a hub for a member that says where it is. A version counts only within the hub's own
// epoch; any other epoch means that the member needs everything.
func NewSender(epoch uint64, heartbeat time.Duration, hasEpoch, hasVersion uint64, now time.Time) *Sender {
	s := &Sender{epoch: epoch, heartbeat: heartbeat, sent: now}
	if hasEpoch == epoch {
		s.version = hasVersion
	}
	return s
}

// Next returns what to send now: what the view has that the member has not, or a heartbeat if nothing was sent for one;
// or nothing.
func (s *Sender) Next(v *View, now time.Time) (Update, bool) {
	u := Update{Version: s.version}
	if v.Version() != s.version {
		u = v.Since(s.version)
	} else if now.Before(s.sent.Add(s.heartbeat)) {
		return Update{}, false
	}
	u.Epoch = s.epoch
	s.version, s.sent = u.Version, now
	return u, true
}

// Deadline returns when a heartbeat is due.
func (s *Sender) Deadline() time.Time { return s.sent.Add(s.heartbeat) }
