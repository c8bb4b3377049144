package linkstate

import "time"

// Sender is the hub's end of one watch: it knows what was sent, and when something is due. Use [NewSender].
type Sender struct {
	epoch, version uint64
	// hasEpoch and hasVersion are where the member is.
	hasEpoch, hasVersion uint64
	heartbeat            time.Duration
	sent                 time.Time
}

// NewSender returns the sender of a hub for a member that says where it is. A version counts only within the hub's own
// epoch; any other epoch means that the member needs everything.
func NewSender(epoch uint64, heartbeat time.Duration, hasEpoch, hasVersion uint64, now time.Time) *Sender {
	s := &Sender{epoch: epoch, heartbeat: heartbeat, sent: now, hasEpoch: hasEpoch, hasVersion: hasVersion}
	if hasEpoch == epoch {
		s.version = hasVersion
	}
	return s
}

// Next returns what to send now: what the view has that the member has not, or a heartbeat if nothing was sent for one;
// or nothing. A heartbeat names the position where the member is, and so leaves it there: also one that comes from
// another epoch, while the view says nothing yet.
func (s *Sender) Next(v *View, now time.Time) (Update, bool) {
	switch {
	case v.Version() != s.version && v.Version() > 0:
		u := v.Since(s.version)
		u.Epoch = s.epoch
		s.version, s.hasEpoch, s.hasVersion = u.Version, s.epoch, u.Version
		s.sent = now
		return u, true
	case now.Before(s.sent.Add(s.heartbeat)):
		return Update{}, false
	}
	s.sent = now
	return Update{Epoch: s.hasEpoch, Version: s.hasVersion}, true
}

// Deadline returns when a heartbeat is due.
func (s *Sender) Deadline() time.Time { return s.sent.Add(s.heartbeat) }
