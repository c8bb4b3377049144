package failover

import (
	"cmp"
	"slices"
	"time"

	"github.com/tailgate-project/tailgate/federation"
)

// Saved is the part of an export's state that outlives the hub: with it, a hub that restarts says what it said
// before. Links and observations are not part of it; they are heard anew.
type Saved struct {
	Export federation.Export
	Down   []SavedDown // sorted by consumer
}

// SavedDown is one consumer for whom, or with an empty id all for whom, the export is down.
type SavedDown struct {
	Consumer  federation.ClusterID
	Reason    Reason
	Since     time.Time
	GoodSince time.Time
}

// Save returns the states of the exports that the transition changes, nil for those that it removes.
func (t Transition) Save() map[federation.ExportKey]*Saved {
	out := make(map[federation.ExportKey]*Saved, len(t.Touched))
	for _, k := range t.Touched {
		x := t.exports[k]
		if x == nil {
			out[k] = nil
			continue
		}
		s := Saved{Export: x.spec}
		for c, cl := range x.cells {
			if cl.down {
				s.Down = append(s.Down, SavedDown{Consumer: c, Reason: cl.reason, Since: cl.since, GoodSince: cl.goodSince})
			}
		}
		slices.SortFunc(s.Down, func(a, b SavedDown) int { return cmp.Compare(a.Consumer, b.Consumer) })
		out[k] = &s
	}
	return out
}

// Restore puts a saved export back, as it was.
func (s *State) Restore(saved Saved, now time.Time) {
	x := export{spec: saved.Export, cells: map[federation.ClusterID]cell{everybody: {}}, due: now}
	for _, d := range saved.Down {
		x.cells[d.Consumer] = cell{down: true, reason: d.Reason, since: d.Since, goodSince: d.GoodSince}
	}
	s.keep(saved.Export.Key, x)
}

// Export returns an export as its member last offered it.
func (s *State) Export(k federation.ExportKey) (federation.Export, bool) {
	x, ok := s.exports[k]
	return x.spec, ok
}

// Exports returns the keys of a cluster's exports, sorted.
func (s *State) Exports(c federation.ClusterID) []federation.ExportKey {
	out := make([]federation.ExportKey, 0, len(s.byCluster[c]))
	for k := range s.byCluster[c] {
		out = append(out, k)
	}
	slices.SortFunc(out, federation.ExportKey.Compare)
	return out
}

// CountExports returns how many exports a cluster has.
func (s *State) CountExports(c federation.ClusterID) int { return len(s.byCluster[c]) }
