package state

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"tailscale.com/tailcfg"
	"tailscale.com/types/key"
)

// Registration is a node's wish to join, or to be recognised.
type Registration struct {
	NodeKey    key.NodePublic
	OldNodeKey key.NodePublic // zero unless the node rotates its key
	Machine    key.MachinePublic
	AuthKey    string // "" if the node brought none
	Ephemeral  bool   // asked for by the node; the key may ask for it as well
	Hostinfo   *tailcfg.Hostinfo
}

// Verdict answers a Registration. Without a Refusal and NeedsLogin the node is
// welcome.
type Verdict struct {
	Refusal    string // message for the node's user
	NeedsLogin bool   // the node is unknown and brought no key
	Rotated    bool   // the device behind OldNodeKey goes on with NodeKey
}

// Register decides on a registration. A node known by its node key and machine
// is welcome without a key: that is a restart with its state. A new node is
// recorded, and waits for [State.Settle] to be shown to anybody.
func (s *State) Register(r Registration) Verdict {
	s.mu.Lock()
	defer s.mu.Unlock()
	if d, ok := s.devices[r.NodeKey]; ok {
		if d.machine != r.Machine {
			return Verdict{Refusal: "node key belongs to another machine"}
		}
		return Verdict{}
	}
	if r.AuthKey == "" {
		return Verdict{NeedsLogin: true}
	}
	k, refusal := s.spendLocked(r.AuthKey)
	if refusal != "" {
		return Verdict{Refusal: refusal}
	}
	tags, refusal := s.grantTagsLocked(k, r.Hostinfo.RequestTags)
	if refusal != "" {
		return Verdict{Refusal: refusal}
	}
	d := &device{
		Device: Device{
			Created:    s.cfg.Now(),
			Authorized: true,
		},
		machine: r.Machine,
	}
	old, rotated := s.devices[r.OldNodeKey]
	rotated = rotated && old.machine == r.Machine
	if rotated {
		d = old
		delete(s.devices, r.OldNodeKey)
		d.disconnect()
	} else {
		s.deviceCount++
		d.ID = tailcfg.StableNodeID(fmt.Sprintf("n%06dCNTRL", s.deviceCount))
		d.offlineSince = s.cfg.Now()
		d.Hostname = r.Hostinfo.Hostname
		d.Name = s.freeNameLocked(r.Hostinfo.Hostname)
	}
	d.NodeKey = r.NodeKey
	d.Tags = tags
	d.Ephemeral = k.Ephemeral || r.Ephemeral
	d.setHostinfo(r.Hostinfo)
	s.devices[r.NodeKey] = d
	return Verdict{Rotated: rotated}
}

// grantTagsLocked returns the tags of a node that registers with k. A tagged
// key decides; with an untagged one (an administrator's own) the node may ask
// for any tag that exists.
func (s *State) grantTagsLocked(k *Key, requested []string) (tags []string, refusal string) {
	for _, tag := range requested {
		if len(k.Tags) > 0 && !slices.Contains(k.Tags, tag) || !s.policy.hasTag(tag) {
			return nil, fmt.Sprintf("requested tags [%s] are invalid or not permitted", tag)
		}
	}
	if len(k.Tags) > 0 {
		return k.Tags, ""
	}
	return normalTags(requested), ""
}

// Settle completes a registration with what the control server assigned.
func (s *State) Settle(nodeKey key.NodePublic, id tailcfg.NodeID, addrs []netip.Prefix) {
	s.mu.Lock()
	defer s.mu.Unlock()
	d, ok := s.devices[nodeKey]
	if !ok {
		return // removed meanwhile
	}
	d.settled = true
	d.LegacyID = id
	d.Addrs = d.Addrs[:0]
	for _, a := range addrs {
		d.Addrs = append(d.Addrs, a.Addr())
	}
	s.touchLocked()
}

// Logout is a node's goodbye: the device is removed. (Production keeps one that
// isn't ephemeral in its list, with an expired key.)
func (s *State) Logout(nodeKey key.NodePublic, machine key.MachinePublic) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if d, ok := s.devices[nodeKey]; ok && d.machine == machine {
		s.removeLocked(nodeKey)
	}
}

// Session is one map stream of a node, or the reason why it may have none.
type Session struct {
	Known   bool // false: no such device, or not on this machine
	Blocked bool // cut off by [State.SetOffline]
}

// Admit says whether the node may talk to the control server.
func (s *State) Admit(nodeKey key.NodePublic, machine key.MachinePublic) Session {
	s.mu.Lock()
	defer s.mu.Unlock()
	d, ok := s.devices[nodeKey]
	if !ok || d.machine != machine {
		return Session{}
	}
	return Session{Known: true, Blocked: d.blocked}
}

// Connect notes that a node opened a map stream, after [State.Admit]. stop is
// called, at most once and soon, when the stream has to end. The returned
// function must be called when it has ended; only the end of the newest stream
// takes the node offline.
func (s *State) Connect(nodeKey key.NodePublic, stop func()) (disconnected func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	d, ok := s.devices[nodeKey]
	if !ok || d.blocked {
		stop()
		return func() {}
	}
	d.disconnect()
	stream := &stream{stop: stop}
	d.stream = stream
	d.connected = true
	d.offlineSince = time.Time{}
	s.touchLocked()
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if d.stream != stream {
			return
		}
		d.stream = nil
		d.offlineSince = s.cfg.Now()
		s.touchLocked()
	}
}

// SetOffline cuts a device off from the control server, or lets it back. Its
// peers can still reach it until they are told otherwise.
func (s *State) SetOffline(id string, offline bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	d, err := s.deviceLocked(id)
	if err != nil {
		return err
	}
	d.blocked = offline
	if offline && d.online() {
		d.disconnect()
		d.offlineSince = s.cfg.Now()
		s.touchLocked()
	}
	return nil
}
