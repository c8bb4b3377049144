package failover

import (
	"time"

	"github.com/tailgate-project/tailgate/federation"
)

// Saved is the part of an export's state that outlives the hub: with it, a hub that restarts says what it said
// before. Links and observations are not part of it; they are heard anew.
type Saved struct {
	Export federation.Export
	SavedSubject
}

// SavedCluster is the part of a cluster's state that outlives the hub.
type SavedCluster struct {
	Cluster federation.ClusterID
	SavedSubject
}

// SavedSubject is what both have: the cells that are not at rest, and what an operator wants.
type SavedSubject struct {
	// Cells are sorted by consumer; the one of an empty consumer is everybody's.
	Cells []SavedCell `json:",omitempty"`
	// Mode, ModeSince and ModeRamp are what an operator wants, since when, and over how long it drains.
	Mode      Mode          `json:",omitempty"`
	ModeSince time.Time     `json:",omitzero"`
	ModeRamp  time.Duration `json:",omitempty"`
}

// SavedCell is a cell that is down, or that was not long ago.
type SavedCell struct {
	Consumer federation.ClusterID `json:",omitempty"`
	Cell
}

// Save returns the states to keep of what the transition changes, nil for what it removes.
func (t Transition) Save() (map[federation.ExportKey]*Saved, map[federation.ClusterID]*SavedCluster) {
	exports, clusters := map[federation.ExportKey]*Saved{}, map[federation.ClusterID]*SavedCluster{}
	for _, subject := range t.saved {
		k := key(subject)
		switch {
		case whole(subject) && t.facts[subject.Cluster] == nil:
			clusters[subject.Cluster] = nil
		case whole(subject):
			clusters[subject.Cluster] = &SavedCluster{Cluster: subject.Cluster, SavedSubject: t.facts[subject.Cluster].subject.save()}
		case t.exports[k] == nil:
			exports[k] = nil
		default:
			saved := &Saved{Export: t.exports[k].spec}
			if sub := t.exports[k].subject; sub != nil {
				saved.SavedSubject = sub.save()
			}
			exports[k] = saved
		}
	}
	return exports, clusters
}

func (s *subject) save() SavedSubject {
	out := SavedSubject{Mode: s.mode, ModeSince: s.since, ModeRamp: s.ramp}
	for _, c := range s.cells {
		out.Cells = append(out.Cells, SavedCell{Consumer: c.consumer, Cell: c.Cell})
	}
	return out
}

// Restore puts a saved export back, as it was.
func (s *State) Restore(saved Saved, now time.Time) {
	k := saved.Export.Key
	x := &export{spec: saved.Export}
	cl := s.member(k.Cluster)
	cl.put(k.Service, x)
	if sub := s.restored(target(k), saved.SavedSubject, now); !sub.resting() {
		x.subject = sub
		cl.put(k.Service, x)
		s.timers.set(target(k), now)
	}
}

// RestoreCluster puts a saved cluster back, as it was.
func (s *State) RestoreCluster(saved SavedCluster, now time.Time) {
	t := federation.Target{Cluster: saved.Cluster}
	s.member(saved.Cluster).facts = &facts{subject: *s.restored(t, saved.SavedSubject, now)}
	s.timers.set(t, now)
}

func (s *State) member(c federation.ClusterID) *cluster {
	if s.clusters[c] == nil {
		s.clusters[c] = newCluster(&facts{})
	}
	return s.clusters[c]
}

// restored returns the subject with the shares that it has now, as if the hub had never been away. What was about to come
// back has to be good for the whole delay again: nobody knows whether it was while the hub was away.
func (s *State) restored(t federation.Target, saved SavedSubject, now time.Time) *subject {
	d := s.draft(now)
	sub := &subject{mode: saved.Mode, since: saved.ModeSince, ramp: saved.ModeRamp, share: 100}
	in := Inputs{Mode: sub.mode, Ramp: sub.ramp, ModeFor: sub.modeFor(now)}
	sub.share = drainShare(in)
	for _, c := range saved.Cells {
		in.Times = d.times(t, c.Consumer)
		c.GoodSince = time.Time{}
		sub.cells = append(sub.cells, consumerCell{consumer: c.Consumer, Cell: c.Cell, share: c.share(in, now)})
	}
	return sub
}
