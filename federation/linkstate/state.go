package linkstate

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/tailgate-project/tailgate/federation"
)

// The reasons for which [State.Apply] refuses an update as a whole. Each leaves the state as it was.
var (
	// ErrOldEpoch reports an update of a hub that has been replaced: another one leads under a newer epoch.
	ErrOldEpoch = errors.New("update of an older epoch")
	// ErrGap reports an update that does not follow on the state. The spoke needs a full one.
	ErrGap = errors.New("update does not follow on the state")
	// ErrKey reports resources that cannot be told apart: one is empty, or two have the same key.
	ErrKey = errors.New("resource is empty or there twice")
)

// State is what a spoke knows from its hub. The zero State knows nothing, and a full update brings it anywhere.
// A State is a value: Apply returns a new one and leaves the old one whole.
type State struct {
	epoch, version uint64
	resources      map[string]Resource
}

// Restore returns a state that was kept, for instance on disk. It fails with [ErrKey].
func Restore(epoch, version uint64, resources []Resource) (State, error) {
	s := State{epoch: epoch, version: version}
	var err error
	if s.resources, err = byKey(resources); err != nil {
		return State{}, fmt.Errorf("restore the state of the link: %w", err)
	}
	return s, nil
}

func byKey(resources []Resource) (map[string]Resource, error) {
	out := make(map[string]Resource, len(resources))
	for _, r := range resources {
		key := r.Key()
		if _, ok := out[key]; ok || key == "" {
			return nil, fmt.Errorf("%w: %q", ErrKey, key)
		}
		out[key] = r
	}
	return out, nil
}

// Epoch returns the epoch of the hub that the state comes from, 0 if there was none.
func (s State) Epoch() uint64 { return s.epoch }

// Version returns the state's version within its epoch, 0 if the state knows nothing.
func (s State) Version() uint64 { return s.version }

// Resources returns all resources, sorted by key.
func (s State) Resources() []Resource {
	out := make([]Resource, 0, len(s.resources))
	for _, key := range slices.Sorted(maps.Keys(s.resources)) {
		out = append(out, s.resources[key])
	}
	return out
}

// Get returns the resource with the key.
func (s State) Get(key string) (Resource, bool) {
	r, ok := s.resources[key]
	return r, ok
}

// Apply returns the state after the update, and the sorted keys of the resources that are new, changed or gone.
//
// A delta counts only within its epoch and without a gap: the first update of a newer epoch has to be full, and its base
// must not be newer than the state. A version that the state already has, or an older one, changes nothing (such a
// message is a heartbeat, or comes again).
func (s State) Apply(u Update) (State, []string, error) {
	switch {
	case u.Epoch < s.epoch:
		return s, nil, fmt.Errorf("%w: epoch %d, the state is of epoch %d", ErrOldEpoch, u.Epoch, s.epoch)
	case u.Full && u.Epoch == s.epoch && u.Version < s.version:
		return s, nil, nil
	case u.Full:
		return s.replace(u)
	case u.Epoch > s.epoch:
		return s, nil, fmt.Errorf("%w: a delta of epoch %d, the state is of epoch %d", ErrGap, u.Epoch, s.epoch)
	case u.Version <= s.version:
		return s, nil, nil
	case u.Base > s.version:
		return s, nil, fmt.Errorf("%w: a delta from version %d, the state is of version %d", ErrGap, u.Base, s.version)
	}
	next := State{epoch: u.Epoch, version: u.Version, resources: maps.Clone(s.resources)}
	if next.resources == nil {
		next.resources = map[string]Resource{}
	}
	for _, key := range u.Removed {
		delete(next.resources, key)
	}
	for _, r := range u.Upserts {
		next.resources[r.Key()] = r
	}
	return next, s.changed(next, touched(u)), nil
}

// replace makes the resources of a full update all there are.
func (s State) replace(u Update) (State, []string, error) {
	next := State{epoch: u.Epoch, version: u.Version}
	var err error
	if next.resources, err = byKey(u.Upserts); err != nil {
		return s, nil, fmt.Errorf("full update: %w", err)
	}
	keys := maps.Clone(s.resources)
	if keys == nil {
		keys = map[string]Resource{}
	}
	maps.Copy(keys, next.resources)
	return next, s.changed(next, slices.Sorted(maps.Keys(keys))), nil
}

// touched returns the keys that an update names, sorted and each once.
func touched(u Update) []string {
	keys := slices.Clone(u.Removed)
	for _, r := range u.Upserts {
		keys = append(keys, r.Key())
	}
	slices.Sort(keys)
	return slices.Compact(keys)
}

// changed returns those keys whose resource is not the same in the next state.
func (s State) changed(next State, keys []string) []string {
	var out []string
	for _, key := range keys {
		a, hadA := s.resources[key]
		b, hadB := next.resources[key]
		if hadA != hadB || (hadA && !a.Equal(b)) {
			out = append(out, key)
		}
	}
	return out
}

// Equal reports whether both resources say the same to a spoke.
func (r Resource) Equal(o Resource) bool {
	switch {
	case r.VIP != nil && o.VIP != nil:
		return equalVIP(*r.VIP, *o.VIP)
	case r.EndpointSet != nil && o.EndpointSet != nil:
		return r.EndpointSet.Consumer == o.EndpointSet.Consumer && r.EndpointSet.Service == o.EndpointSet.Service &&
			slices.EqualFunc(r.EndpointSet.Endpoints, o.EndpointSet.Endpoints, equalEndpoint)
	case r.Peer != nil && o.Peer != nil:
		return r.Peer.Cluster == o.Peer.Cluster && r.Peer.Locality == o.Peer.Locality && r.Peer.Consumer == o.Peer.Consumer && slices.Equal(r.Peer.Ingress, o.Peer.Ingress)
	case r.Notice != nil && o.Notice != nil:
		return *r.Notice == *o.Notice
	}
	return r.Key() == "" && o.Key() == ""
}

func equalVIP(a, b federation.VIP) bool {
	return a.Owner == b.Owner && a.Name == b.Name && a.ServiceName == b.ServiceName && a.Tailnet == b.Tailnet && a.TailnetRef == b.TailnetRef &&
		slices.Equal(a.Addrs, b.Addrs) && slices.Equal(a.Ports, b.Ports)
}

func equalEndpoint(a, b federation.Endpoint) bool {
	return a.Cluster == b.Cluster && a.Addr == b.Addr && slices.Equal(a.Ports, b.Ports) && a.Priority == b.Priority &&
		a.Weight == b.Weight && a.Health == b.Health && a.Reason == b.Reason && a.Stale == b.Stale && a.ClusterPinned == b.ClusterPinned && a.TailnetRef == b.TailnetRef
}
