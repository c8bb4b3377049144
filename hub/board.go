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

// getLocked returns a cluster's view, which says nothing at first.
func (b *board) getLocked(c federation.ClusterID) *posted {
	if b.views[c] == nil {
		b.views[c] = &posted{View: linkstate.NewView(), changed: make(chan struct{})}
	}
	return b.views[c]
}

// change edits a cluster's view, and wakes its readers if that makes a difference.
func (b *board) change(c federation.ClusterID, edit func(*linkstate.View) bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if v := b.getLocked(c); edit(v.View) {
		close(v.changed)
		v.changed = make(chan struct{})
	}
}

// since returns what changed after a version, and a channel that is closed when there is more. Nothing has changed if
// the version is the newest, or if the view says nothing yet.
func (b *board) since(c federation.ClusterID, version uint64) (u linkstate.Update, isNew bool, changed <-chan struct{}) {
	b.mu.Lock()
	defer b.mu.Unlock()
	v := b.getLocked(c)
	if v.Version() == version || v.Version() == 0 {
		return linkstate.Update{}, false, v.changed
	}
	return v.Since(version), true, v.changed
}

// Newest returns the version of what the hub has for a member; 0 if it says nothing yet.
func (h *Hub) Newest(c federation.ClusterID) (epoch, version uint64) {
	h.board.mu.Lock()
	defer h.board.mu.Unlock()
	if v := h.board.views[c]; v != nil {
		version = v.Version()
	}
	return h.epoch, version
}

// Next returns the update that brings the member from a version to the newest, as soon as there is one. The version
// counts only within the hub's own epoch; any other epoch means that the member needs everything. As long as the hub
// does not know what there is to say, it says nothing.
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
