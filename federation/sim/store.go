package sim

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/federation/failover"
	"github.com/tailgate-project/tailgate/federation/ledger"
	"github.com/tailgate-project/tailgate/federation/policy"
	"github.com/tailgate-project/tailgate/federation/vip"
)

var (
	errFenced = errors.New("store was taken over by a newer epoch")
	errDisk   = errors.New("the disk failed")
	errForgot = fmt.Errorf("%w", errDisk) // after it kept the batch, which its hub cannot tell
)

// store keeps what the hubs commit, as the real stores do: a batch whole or not at all, and only under the newest
// epoch. It remembers what it ever held, so that nobody can hear of what it never did.
type store struct {
	w       *world
	epoch   uint64
	vips    map[string]vip.Entry // by service name
	exports map[federation.ExportKey]failover.Saved
	whole   map[federation.ClusterID]failover.SavedCluster
	members map[federation.ClusterID]ledger.Member
	named   map[string]policy.Policy
	journal []failover.Decision

	// failing and forgetting count the commits that will fail before, or after, they took effect.
	failing, forgetting int

	// everHeld are the VIPs with their addresses, everDown the cells that were down, everEpoch the epochs taken.
	everHeld  map[heldVIP]bool
	everDown  map[cellKey]bool
	everEpoch map[uint64]bool
}

// heldVIP is a VIP that was stored with an address.
type heldVIP struct {
	owner federation.ExportKey
	addr  netip.Addr
}

// cellKey names the state of a subject for a consumer.
type cellKey struct {
	subject  federation.Target
	consumer federation.ClusterID
}

func newStore(w *world) *store {
	s := &store{w: w, everHeld: map[heldVIP]bool{}, everDown: map[cellKey]bool{}, everEpoch: map[uint64]bool{}}
	s.wipe()
	return s
}

// wipe takes away all that is kept, as with a lost disk. What was ever held is the simulation's own memory and stays.
func (s *store) wipe() {
	s.epoch = 0
	s.vips = map[string]vip.Entry{}
	s.exports = map[federation.ExportKey]failover.Saved{}
	s.whole = map[federation.ClusterID]failover.SavedCluster{}
	s.members = map[federation.ClusterID]ledger.Member{}
	s.named = map[string]policy.Policy{}
	s.journal = nil
}

// open takes the next epoch: one more than the last, and at least the time in seconds.
func (s *store) open(now time.Time) uint64 {
	s.epoch = max(s.epoch+1, uint64(now.Unix()))
	s.everEpoch[s.epoch] = true
	return s.epoch
}

// load returns all that is kept, sorted.
func (s *store) load() ledger.State {
	var out ledger.State
	for _, name := range slices.Sorted(maps.Keys(s.vips)) {
		out.VIPs = append(out.VIPs, s.vips[name])
	}
	for _, k := range slices.SortedFunc(maps.Keys(s.exports), federation.ExportKey.Compare) {
		out.Exports = append(out.Exports, s.exports[k])
	}
	for _, id := range slices.Sorted(maps.Keys(s.whole)) {
		out.Clusters = append(out.Clusters, s.whole[id])
	}
	for _, id := range slices.Sorted(maps.Keys(s.members)) {
		out.Members = append(out.Members, s.members[id])
	}
	for _, name := range slices.Sorted(maps.Keys(s.named)) {
		out.Policies = append(out.Policies, s.named[name])
	}
	return out
}

// commit keeps a batch.
func (s *store) commit(epoch uint64, b ledger.Batch) error {
	switch {
	case epoch != s.epoch:
		s.w.cov.count(TopicRefused, "commit of a fenced hub")
		return fmt.Errorf("%w: ours is %d, the newest %d", errFenced, epoch, s.epoch)
	case s.failing > 0:
		s.failing--
		s.w.cov.count(TopicFault, "commit failed before it took effect")
		return errDisk
	}
	if !s.w.parts.StoreForgets(s.w.now) {
		s.keep(b)
	}
	if s.forgetting > 0 {
		s.forgetting--
		s.w.cov.count(TopicFault, "commit failed after it took effect")
		return errForgot
	}
	return nil
}

func (s *store) keep(b ledger.Batch) {
	for _, ch := range b.VIPs {
		if ch.Delete {
			delete(s.vips, ch.Entry.ServiceName)
			continue
		}
		s.vips[ch.Entry.ServiceName] = ch.Entry
		for _, a := range ch.Entry.Addrs {
			s.everHeld[heldVIP{ch.Entry.Owner, a}] = true
		}
	}
	put(s.exports, b.Exports)
	put(s.whole, b.Clusters)
	put(s.members, b.Members)
	put(s.named, b.Policies)
	for k, x := range b.Exports {
		if x != nil {
			s.remember(target(k), x.SavedSubject)
		}
	}
	for id, x := range b.Clusters {
		if x != nil {
			s.remember(federation.Target{Cluster: id}, x.SavedSubject)
		}
	}
	s.journal = append(s.journal, b.Journal...)
}

// remember notes the cells that are down.
func (s *store) remember(t federation.Target, sub failover.SavedSubject) {
	for _, c := range sub.Cells {
		if c.Down {
			s.everDown[cellKey{t, c.Consumer}] = true
		}
	}
}

// put changes a map by a batch, in which nil deletes.
func put[K comparable, V any](kept map[K]V, batch map[K]*V) {
	for k, v := range batch {
		if v == nil {
			delete(kept, k)
		} else {
			kept[k] = *v
		}
	}
}

// mode is what is kept of an operator's wish.
func (s *store) mode(t federation.Target) failover.Mode {
	if t.Service == (federation.ServiceID{}) {
		return s.whole[t.Cluster].Mode
	}
	return s.exports[federation.ExportKey(t)].Mode
}

// has reports whether a subject is kept.
func (s *store) has(t federation.Target) bool {
	if t.Service == (federation.ServiceID{}) {
		_, ok := s.whole[t.Cluster]
		return ok
	}
	_, ok := s.exports[federation.ExportKey(t)]
	return ok
}
