// Package store says how a hub keeps its state and which errors that can have. The stores are its subdirectories bolt
// and etcd; codec is what both of them keep of each object, archive what a backup of either consists of, and storetest
// what both must do.
package store

import (
	"context"
	"errors"
	"io"

	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/federation/ledger"
)

var (
	// ErrCorrupt reports a store or a backup that cannot be read. It is left as it was found.
	ErrCorrupt = errors.New("store is unreadable")
	// ErrSchema reports a store or a backup that a newer version of Tailgate has written.
	ErrSchema = errors.New("store has an unknown schema version")
	// ErrInUse reports a store that another process has open.
	ErrInUse = errors.New("store is in use")
	// ErrFenced reports a commit of an epoch that is no longer the newest: another hub has taken over.
	ErrFenced = errors.New("store was taken over by a newer epoch")
	// ErrExists reports a restore over a store that is there already. It is left as it was found.
	ErrExists = errors.New("store exists already")
)

// Store keeps a hub's state. It is safe for concurrent use.
//
// The laws, which package storetest tests:
//   - Load returns what the commits have left, in the order of the keys, whatever happened in between to the process
//     that committed: all of a batch or nothing, and all of it once Commit has returned nil.
//   - The journal's numbers count from 1 without gaps, also when the oldest records are no longer kept, and across
//     a reopening, a compaction and a restore.
//   - Each opening takes a greater epoch than any before it. After that no older one commits.
type Store interface {
	// Epoch is the fencing epoch under which this hub commits.
	Epoch() uint64
	// Load returns all that is kept but the journal. It fails with [ErrCorrupt] if an object cannot be read, and names it.
	Load(ctx context.Context) (ledger.State, error)
	// Commit stores all of the batch or nothing. It fails with [ErrFenced] once a newer epoch was taken. A batch with
	// an object that could not be read back is refused.
	Commit(ctx context.Context, b ledger.Batch) error
	// Journal returns up to limit records after a number, oldest first. The decisions about a service are those about
	// its exports, and those about whole clusters; a zero service asks for all.
	Journal(ctx context.Context, after uint64, limit int, service federation.ServiceID) ([]ledger.Record, error)
	// Last returns the number of the journal's newest record, whether or not it is still kept; 0 if there never was one.
	Last(ctx context.Context) (uint64, error)
	// Superseded waits until a newer epoch was taken, and fails with [ErrFenced] then; it returns nil when ctx ends.
	Superseded(ctx context.Context) error
	// Check reads everything, and returns what is broken.
	Check(ctx context.Context) error
	// Compact drops what the journal keeps beyond its bounds and gives unused space back. The store stays usable.
	Compact(ctx context.Context) error
	// Backup writes a consistent copy of everything, the journal included, in the form of package archive. Commits go
	// on meanwhile and are not part of it.
	Backup(ctx context.Context, w io.Writer) error
	// Close gives the store back. Nothing may be called after it.
	Close() error
}
