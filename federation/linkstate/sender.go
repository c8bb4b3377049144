package linkstate

import "time"

// Sender is the hub's end of one watch: it knows where the member is, and when something is due. Use [NewSender].
//
// The law: a member that is told what Next returns, in that order, is at the sender's position and has what the view
// had there.
type Sender struct {
	// epoch is the hub's own. hasEpoch and hasVersion are where the member is.
	epoch, hasEpoch, hasVersion uint64
	heartbeat                   time.Duration
	sent                        time.Time
}

// NewSender returns the sender of a hub for a member that says where it is. A version counts only within the hub's own
// epoch; any other epoch means that the member needs everything.
func NewSender(epoch uint64, heartbeat time.Duration, hasEpoch, hasVersion uint64, now time.Time) *Sender {
	return &Sender{epoch: epoch, heartbeat: heartbeat, sent: now, hasEpoch: hasEpoch, hasVersion: hasVersion}
}

// Position returns where the member is.
func (s *Sender) Position() (epoch, version uint64) { return s.hasEpoch, s.hasVersion }

// Next returns what to send now: what the view has that the member has not, or a heartbeat if nothing was sent for one;
// or nothing.
func (s *Sender) Next(v *View, now time.Time) (Update, bool) {
	version := s.hasVersion
	if s.hasEpoch != s.epoch {
		version = 0
	}
	switch {
	case v.Version() > 0 && v.Version() != version:
		u := v.Since(version)
		u.Epoch = s.epoch
		s.Sent(u, now)
		return u, true
	case now.Before(s.Deadline()):
		return Update{}, false
	}
	return s.Beat(now), true
}

// Sent notes an update as sent. It is for who does not have the view at hand; Next does it by itself.
func (s *Sender) Sent(u Update, now time.Time) {
	s.hasEpoch, s.hasVersion, s.sent = u.Epoch, u.Version, now
}

// Beat returns a heartbeat to send now. It names the position where the member is, and so leaves it there: also one
// that comes from another epoch, while the view says nothing yet.
func (s *Sender) Beat(now time.Time) Update {
	s.sent = now
	return Update{Epoch: s.hasEpoch, Version: s.hasVersion, Base: s.hasVersion}
}

// Deadline returns when a heartbeat is due.
func (s *Sender) Deadline() time.Time { return s.sent.Add(s.heartbeat) }
