package hub

import (
	"cmp"
	"context"
	"maps"
	"reflect"
	"slices"
	"sync"

	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/federation/linkstate"
)

// View is what one member is told: its resources, each with the version that last changed it. It is immutable.
type View struct {
	version   uint64
	resources map[string]versioned
	removed   map[string]uint64
}

type versioned struct {
	linkstate.Resource
	version uint64
}

// edit returns the view with the changes in it, or the view itself when they change nothing. A nil resource removes.
func (v *View) edit(changes map[string]*linkstate.Resource) *View {
	next := &View{version: v.version + 1, resources: maps.Clone(v.resources), removed: maps.Clone(v.removed)}
	changed := false
	for key, r := range changes {
		old, had := v.resources[key]
		switch {
		case r == nil && had:
			delete(next.resources, key)
			next.removed[key] = next.version
			changed = true
		case r != nil && (!had || !reflect.DeepEqual(old.Resource, *r)):
			next.resources[key] = versioned{Resource: *r, version: next.version}
			delete(next.removed, key)
			changed = true
		}
	}
	if !changed {
		return v
	}
	return next
}

// since returns what changed after a version of the same epoch, or all there is for the version 0.
func (v *View) since(version uint64) linkstate.Update {
	u := linkstate.Update{Version: v.version, Full: version == 0 || version > v.version}
	for key := range v.resources {
		if r := v.resources[key]; u.Full || r.version > version {
			u.Upserts = append(u.Upserts, r.Resource)
		}
	}
	for key, at := range v.removed {
		if !u.Full && at > version {
			u.Removed = append(u.Removed, key)
		}
	}
	slices.SortFunc(u.Upserts, func(a, b linkstate.Resource) int { return cmp.Compare(a.Key(), b.Key()) })
	slices.Sort(u.Removed)
	return u
}

// board hands the members' views from the loop, which alone writes, to any number of readers.
type board struct {
	mu    sync.Mutex
	views map[federation.ClusterID]*View
	// changed is closed and replaced when the cluster's view is replaced.
	changed map[federation.ClusterID]chan struct{}
}

func newBoard() *board {
	return &board{views: map[federation.ClusterID]*View{}, changed: map[federation.ClusterID]chan struct{}{}}
}

// get returns a cluster's view, empty at first, and a channel that is closed when there is a newer one.
func (b *board) get(c federation.ClusterID) (*View, <-chan struct{}) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.views[c] == nil {
		b.views[c] = &View{version: 1, resources: map[string]versioned{}, removed: map[string]uint64{}}
		b.changed[c] = make(chan struct{})
	}
	return b.views[c], b.changed[c]
}

// edit changes a cluster's view and wakes its readers if that makes a difference.
func (b *board) edit(c federation.ClusterID, changes map[string]*linkstate.Resource) {
	old, _ := b.get(c)
	next := old.edit(changes)
	if next == old {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.views[c] = next
	close(b.changed[c])
	b.changed[c] = make(chan struct{})
}

// Next returns the update that brings the member from a version to the newest, as soon as there is one. The version
// counts only within the hub's own epoch; any other epoch means that the member needs everything.
func (h *Hub) Next(ctx context.Context, c federation.ClusterID, epoch, version uint64) (linkstate.Update, error) {
	if epoch != h.epoch {
		version = 0
	}
	for {
		v, changed := h.board.get(c)
		if v.version != version {
			u := v.since(version)
			u.Epoch = h.epoch
			return u, nil
		}
		select {
		case <-ctx.Done():
			return linkstate.Update{}, ctx.Err()
		case <-changed:
		}
	}
}
