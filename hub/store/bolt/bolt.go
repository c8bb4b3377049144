// Package bolt keeps the hub's state in one bbolt file. It is the store of a hub that runs alone.
//
// The file has a bucket for each kind of object and one, meta, for the head: the epoch, and how many objects of each
// kind there are, with a sum over them. Before a file is believed it is looked through whole, its pages, its objects and
// that none of them is missing; so whatever a disk did to it, it is either refused, and not touched, or it is what was
// committed last. (A disk that confirms a commit and then forgets all of it, meta page included, cannot be told from one
// that was never asked.)
package bolt

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"sync"
	"time"

	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"github.com/tailgate-project/tailgate/hub/store"
)

// Options tune a store. The zero value is what a hub wants.
type Options struct {
	// LockTimeout is how long Open waits for another process to let go of the file, 1 s by default.
	LockTimeout time.Duration
	// JournalLimit is how many decisions are kept, 100,000 by default.
	JournalLimit uint64
	// JournalBytes is how much room they may take, 256 MiB by default.
	JournalBytes uint64
	// JournalAge is for how long they are kept, 90 days by default.
	JournalAge time.Duration
	// Now is the clock, time.Now by default.
	Now func() time.Time
	// NoSync leaves writing to the operating system: for tests that lose nothing but time by it.
	NoSync bool
}

func (o Options) withDefaults() Options {
	o.LockTimeout = cmp.Or(o.LockTimeout, time.Second)
	o.JournalLimit = cmp.Or(o.JournalLimit, 100_000)
	o.JournalBytes = cmp.Or(o.JournalBytes, 256<<20)
	o.JournalAge = cmp.Or(o.JournalAge, 90*24*time.Hour)
	if o.Now == nil {
		o.Now = time.Now
	}
	return o
}

// DB is an open store.
type DB struct {
	path  string
	opts  Options
	epoch uint64
	// turn is held by who compacts or backs up.
	turn chan struct{}

	// writing is held by who changes the store, or needs it to stand still.
	writing sync.Mutex
	// oldest is the journal's oldest record as far as it was looked at.
	oldest aged

	// mu guards what a compaction replaces. Its holder reads; who replaces it holds writing too, so that for a writer
	// that alone is enough.
	mu sync.RWMutex
	db *bbolt.DB
	// file is the file that db has open.
	file os.FileInfo
}

var _ store.Store = (*DB)(nil)

// Open opens the file, or makes a new one if there is none, and takes the next epoch: one more than the last, and at
// least the time in seconds, so that spokes believe a hub that has lost its store, whose epochs they have seen. A file
// of an older schema is brought to the present one. One that cannot be read is refused with [store.ErrCorrupt] and left
// as it is, one of a newer schema with [store.ErrSchema], one that another hub has open with [store.ErrInUse].
func Open(path string, o Options) (*DB, error) {
	o = o.withDefaults()
	if err := plausible(path); errors.Is(err, os.ErrNotExist) {
		err = create(path, func(tx *bbolt.Tx) error {
			_, err := layOut(tx, 0, 0)
			return err
		})
		if err != nil && !errors.Is(err, store.ErrExists) { // then somebody else was faster
			return nil, err
		}
	} else if err != nil {
		return nil, err
	}
	db, file, err := openFile(path, o)
	if err != nil {
		return nil, explain(path, err)
	}
	d := &DB{path: path, opts: o, db: db, file: file, turn: make(chan struct{}, 1)}
	if err := d.start(); err != nil {
		return nil, explain(path, errors.Join(err, db.Close()))
	}
	return d, nil
}

// start takes the next epoch, and brings the file to the present schema if need be.
func (d *DB) start() (err error) {
	defer recoverCorrupt(&err)
	return d.db.Update(func(tx *bbolt.Tx) error {
		h, err := migrated(tx)
		if err != nil {
			return err
		}
		h.epoch = max(h.epoch+1, uint64(max(0, d.opts.Now().Unix())))
		d.epoch = h.epoch
		return writeHead(tx, h)
	})
}

// Epoch returns the epoch that Open took. It is greater than any that was taken of this file before.
func (d *DB) Epoch() uint64 { return d.epoch }

// Close closes the file. It waits for those who read and write.
func (d *DB) Close() error { return d.db.Close() }

// moved fails if another file has taken the place of ours: another hub was started on it, and whatever we write is lost.
func (d *DB) moved() error {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.movedLocked()
}

func (d *DB) movedLocked() error {
	now, err := os.Stat(d.path)
	if err != nil {
		return fmt.Errorf("the store's file is gone, this hub stops before it loses what it decides: %w", err)
	}
	if !os.SameFile(d.file, now) {
		return fmt.Errorf("%w: another file has taken the place of %s", store.ErrFenced, d.path)
	}
	return nil
}

// patrol is how often Superseded looks after the file.
const patrol = time.Second

// Superseded waits until another file has taken the place of this one, which means that another hub was started on it:
// as long as the file stays in its place, its lock keeps all other hubs out.
func (d *DB) Superseded(ctx context.Context) error {
	tick := time.NewTicker(patrol)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			if err := d.moved(); err != nil {
				return err
			}
		}
	}
}

// plausible refuses what bbolt would take for a new database, but is to us a lost one.
func plausible(path string) error {
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return fmt.Errorf("open store: %w", err)
	case info.IsDir():
		return fmt.Errorf("open store: %s is a directory, name a file", path)
	case info.Size() == 0:
		return explain(path, fmt.Errorf("%w: the file is empty", store.ErrCorrupt))
	}
	return nil
}

// mapped is how much of the file is mapped into memory from the beginning, which costs addresses only. bbolt waits for
// all readers before it maps more, and one of them may be a slow backup.
const mapped = 1 << 30

// growth is by how much the file grows when it is full.
const growth = 1 << 20

// openFile locks the file and has bbolt open it, but only once it was looked through: bbolt panics on some damaged
// pages, and believes others.
func openFile(path string, o Options) (db *bbolt.DB, info os.FileInfo, err error) {
	defer recoverCorrupt(&err)
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true)) // the file is mapped: what it lacks is a fault
	db, err = bbolt.Open(path, 0o600, &bbolt.Options{
		NoSync: o.NoSync, NoGrowSync: o.NoSync, FreelistType: bbolt.FreelistMapType, InitialMmapSize: mapped, Timeout: o.LockTimeout,
		OpenFile: func(name string, _ int, _ os.FileMode) (*os.File, error) {
			f, err := os.OpenFile(name, os.O_RDWR, 0)
			if err != nil {
				return nil, err
			}
			if info, err = trusted(f, o.LockTimeout); err != nil {
				return nil, errors.Join(err, f.Close())
			}
			return f, nil
		},
	})
	if err != nil {
		return nil, nil, err
	}
	db.AllocSize = growth
	return db, info, nil
}

// trusted locks the file and looks through it.
func trusted(f *os.File, wait time.Duration) (os.FileInfo, error) {
	if err := lock(f, wait); err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	// A file that was compacted or restored while we waited for its lock is no longer the one of this name.
	if now, err := os.Stat(f.Name()); err != nil || !os.SameFile(info, now) {
		return nil, errors.Join(errReplaced, err)
	}
	return info, verify(f, info.Size())
}

// verify looks through the whole file.
func verify(f *os.File, size int64) error {
	m, err := newImage(f, size)
	if err == nil {
		_, err = inspect(m)
	}
	if err != nil && !errors.Is(err, store.ErrSchema) {
		return fmt.Errorf("%w: %w", store.ErrCorrupt, err)
	}
	return err
}

var (
	// errLocked reports a file that another process has locked.
	errLocked = errors.New("the file is locked")
	// errReplaced reports a file that was replaced while it was opened.
	errReplaced = errors.New("the file was replaced meanwhile")
)

func recoverCorrupt(err *error) {
	if p := recover(); p != nil {
		*err = fmt.Errorf("%w: %v", store.ErrCorrupt, p)
	}
}

// explain says which file an error is of and what to do.
func explain(path string, err error) error {
	switch {
	case errors.Is(err, bolterrors.ErrTimeout), errors.Is(err, errLocked), errors.Is(err, errReplaced):
		return fmt.Errorf("open %s: %w: another hub has it open; stop that one first, two hubs need the etcd store", path, store.ErrInUse)
	case errors.Is(err, store.ErrSchema):
		return fmt.Errorf("open %s: %w", path, err)
	case errors.Is(err, bolterrors.ErrInvalid), errors.Is(err, bolterrors.ErrChecksum), errors.Is(err, bolterrors.ErrVersionMismatch):
		err = fmt.Errorf("%w: %w", store.ErrCorrupt, err)
		fallthrough
	case errors.Is(err, store.ErrCorrupt):
		return fmt.Errorf("open %s: %w: it was not changed; restore a backup in its place, or move it away to let the hub rebuild its registry from the members and the tailnet",
			path, err)
	}
	return fmt.Errorf("open %s: %w", path, err)
}
