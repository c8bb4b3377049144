// Package state is test equipment: what a Tailscale control plane knows about
// one tailnet (auth keys, devices, services, policy file), under one lock and
// without any network, so that the control server and the admin API beside it
// always tell the same story.
package state

import (
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"tailscale.com/tailcfg"
	"tailscale.com/types/key"
)

// joinGrace is how much longer an ephemeral device is kept that registered and
// didn't connect yet: a slow machine is not a gone one.
const joinGrace = time.Minute

// Config is what a tailnet starts with. All fields are required.
type Config struct {
	Domain         string        // MagicDNS suffix, without dots at either end
	Policy         string        // the policy file, HuJSON
	VIPPrefix      netip.Prefix  // IPv4 addresses of services come from here
	FailoverAfter  time.Duration // how long a service's primary host may be offline
	EphemeralAfter time.Duration // how long an ephemeral device may be offline
	Now            func() time.Time
}

// State is one tailnet. Its methods may be called concurrently.
type State struct {
	cfg     Config
	changed chan struct{}

	mu          sync.Mutex
	view        *View // nil after a change
	keys        map[string]*Key
	devices     map[key.NodePublic]*device
	deviceCount int // of all times: stable ids are never used again
	services    map[tailcfg.ServiceName]*service
	policy      policy
}

// New returns a tailnet without devices, or an error if the policy file or the
// VIP prefix is no good.
func New(cfg Config) (*State, error) {
	p, err := parsePolicy(cfg.Policy)
	if err != nil {
		return nil, err
	}
	if !cfg.VIPPrefix.IsValid() || !cfg.VIPPrefix.Addr().Is4() || cfg.VIPPrefix.Bits() > 30 {
		return nil, fmt.Errorf("VIP prefix %v: want an IPv4 prefix of /30 or wider", cfg.VIPPrefix)
	}
	return &State{
		cfg:      cfg,
		changed:  make(chan struct{}, 1),
		keys:     map[string]*Key{},
		devices:  map[key.NodePublic]*device{},
		services: map[tailcfg.ServiceName]*service{},
		policy:   p,
	}, nil
}

// Changed receives after something changed that nodes can see, or when the
// next deadline of [State.Tick] did. Several changes may give one value.
func (s *State) Changed() <-chan struct{} { return s.changed }

// Tick does what is due by now: it moves services away from hosts that were
// offline for too long, and removes ephemeral devices. It returns when to call
// it again; zero means after the next change.
func (s *State) Tick() (next time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.cfg.Now()
	earliest := func(t time.Time) {
		if next.IsZero() || t.Before(next) {
			next = t
		}
	}
	for nodeKey, d := range s.devices {
		if !d.Ephemeral || d.online() || d.offlineSince.IsZero() {
			continue
		}
		due := d.offlineSince.Add(s.cfg.EphemeralAfter)
		if !d.connected {
			due = due.Add(joinGrace)
		}
		if due.After(now) {
			earliest(due)
		} else {
			s.removeLocked(nodeKey)
		}
	}
	for _, svc := range s.services {
		due, waiting := s.failoverDueLocked(svc)
		switch {
		case !waiting:
		case due.After(now):
			earliest(due)
		default:
			s.touchLocked()
		}
	}
	return next
}

// touchLocked follows every change: it settles who serves what, drops the
// cached view, and wakes whoever pushes it.
func (s *State) touchLocked() {
	s.settleServicesLocked()
	s.view = nil
	select {
	case s.changed <- struct{}{}:
	default:
	}
}

// Kind says what is wrong with a request.
type Kind int

// Kinds of errors, after the HTTP statuses that the admin API answers.
const (
	Invalid  Kind = iota + 1 // 400
	NotFound                 // 404
	Conflict                 // 409
	Stale                    // 412: the precondition no longer holds
)

// Error is a refusal, with a message for the caller of the admin API.
type Error struct {
	Kind    Kind
	Message string
}

func (e *Error) Error() string { return e.Message }

func refuse(kind Kind, format string, args ...any) error {
	return &Error{Kind: kind, Message: fmt.Sprintf(format, args...)}
}

func (s *State) checkTagsLocked(tags []string) error {
	for _, tag := range tags {
		if err := tailcfg.CheckTag(tag); err != nil {
			return refuse(Invalid, "tag %q is invalid: %v", tag, err)
		}
		if !s.policy.hasTag(tag) {
			return refuse(Invalid, "tag %q does not exist: add it to tagOwners in the policy file", tag)
		}
	}
	return nil
}

// normalTags returns tags sorted and without repetition, never nil.
func normalTags(tags []string) []string {
	out := append([]string{}, tags...)
	slices.Sort(out)
	return slices.Compact(out)
}
