package hub

import (
	"context"
	"sync"

	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/federation/linkstate"
)

// board hands the members' views from the loop, which alone edits them, to any number of readers.
type board struct {
	mu    sync.Mutex
	views map[federation.ClusterID]*posted
}

// posted is a view, and a channel that is closed and replaced when it changes.
type posted struct {
	*linkstate.View
	changed chan struct{}
}

func newBoard() *board { return &board{views: map[federation.ClusterID]*posted{}} }

// get returns a cluster's view, empty at first. The lock must be held.
func (b *board) getLocked(c federation.ClusterID) *posted {
	if b.views[c] == nil {
		b.views[c] = &posted{View: linkstate.NewView(), changed: make(chan struct{})}
	}
	return b.views[c]
}

// edit changes a cluster's view and wakes its readers if that makes a difference.
func (b *board) edit(c federation.ClusterID, changes []linkstate.Change) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if v := b.getLocked(c); v.Edit(changes) {
		close(v.changed)
		v.changed = make(chan struct{})
	}
}

// forget drops a cluster's view. Its readers are woken to an empty one.
func (b *board) forget(c federation.ClusterID) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if v := b.views[c]; v != nil {
		close(v.changed)
		delete(b.views, c)
	}
}

// since returns what changed after a version, and a channel that is closed when there is more. Nothing has changed if
// the version is the newest.
func (b *board) since(c federation.ClusterID, version uint64) (u linkstate.Update, isNew bool, changed <-chan struct{}) {
	b.mu.Lock()
	defer b.mu.Unlock()
	v := b.getLocked(c)
	if v.Version() == version {
		return linkstate.Update{}, false, v.changed
	}
	return v.Since(version), true, v.changed
}

// Next returns the update that brings the member from a version to the newest, as soon as there is one. The version
// counts only within the hub's own epoch; any other epoch means that the member needs everything.
func (h *Hub) Next(ctx context.Context, c federation.ClusterID, epoch, version uint64) (linkstate.Update, error) {
	if epoch != h.epoch {
		version = 0
	}
	for {
		u, isNew, changed := h.board.since(c, version)
		if isNew {
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
