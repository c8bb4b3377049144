package bolt

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"path/filepath"

	"go.etcd.io/bbolt"

	"github.com/tailgate-project/tailgate/hub/store"
	"github.com/tailgate-project/tailgate/hub/store/archive"
	"github.com/tailgate-project/tailgate/hub/store/codec"
)

// checkFile looks through the file as it is on disk.
func (d *DB) checkFile() (err error) {
	d.writing.Lock()
	defer d.writing.Unlock()
	f, err := os.Open(d.path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	return verify(f, info.Size())
}

// create makes a new store of what fill puts into it. Whatever goes wrong, also the end of this process, there is either
// the whole store under the name or nothing; if there is one already, it fails with [store.ErrExists].
func create(path string, fill func(tx *bbolt.Tx) error) (err error) {
	next, err := vacant(path)
	if err != nil {
		return fmt.Errorf("create %s: %w", path, err)
	}
	defer func() { err = errors.Join(err, drop(next)) }()
	db, err := bbolt.Open(next, 0o600, &bbolt.Options{NoSync: true, NoGrowSync: true})
	if err == nil {
		err = errors.Join(db.Update(fill), db.Sync(), db.Close())
	}
	if err == nil {
		err = settle(next, path)
	}
	if err != nil {
		return fmt.Errorf("create %s: %w", path, err)
	}
	return nil
}

// vacant makes an empty file beside another one. It has no lock yet, and bbolt takes it for a new database.
func vacant(path string) (string, error) {
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".new-*")
	if err != nil {
		return "", err
	}
	return f.Name(), f.Close()
}

// drop removes a file that may be gone.
func drop(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// settle gives a file its name, which must be free.
func settle(from, to string) error {
	err := os.Link(from, to)
	if errors.Is(err, os.ErrExist) {
		return store.ErrExists
	}
	if err != nil { // a file system without links
		if _, err := os.Stat(to); !errors.Is(err, os.ErrNotExist) {
			return errors.Join(store.ErrExists, err)
		}
		if err := os.Rename(from, to); err != nil {
			return err
		}
	}
	return syncDir(to)
}

// syncDir makes names last that were given in the file's directory.
func syncDir(path string) error {
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// Restore makes a store of a backup, of this kind of store or another. The whole backup is read before there is a file:
// one that is damaged leaves nothing behind. A file that is there already is not touched, with [store.ErrExists].
func Restore(path string, r io.Reader) error {
	if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
		return errors.Join(fmt.Errorf("restore %s: %w: move it away first", path, store.ErrExists), err)
	}
	whole, err := archive.Read(r)
	if err != nil {
		return fmt.Errorf("restore %s: %w", path, err)
	}
	return create(path, func(tx *bbolt.Tx) error {
		h, err := layOut(tx, whole.Epoch, whole.Journal)
		if err != nil {
			return err
		}
		if n := len(whole.Objects); n > 0 && whole.Objects[n-1].Kind == codec.Journal {
			records := uint64(0)
			for i := n - 1; i >= 0 && whole.Objects[i].Kind == codec.Journal; i-- {
				records++
			}
			h.first = whole.Journal + 1 - records
		}
		if err := h.putAll(tx, whole.Objects); err != nil {
			return err
		}
		return writeHead(tx, h)
	})
}

// take waits for the turn to compact or back up.
func (d *DB) take(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	select {
	case d.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Backup writes a consistent copy of everything.
func (d *DB) Backup(ctx context.Context, w io.Writer) error {
	err := d.take(ctx)
	if err == nil {
		defer func() { <-d.turn }()
		err = d.view(ctx, func(tx *bbolt.Tx) error {
			h, err := readHead(tx)
			if err != nil {
				return err
			}
			about := archive.Header{Epoch: h.epoch, Taken: d.opts.Now(), Journal: h.last}
			return archive.Write(w, about, objects(ctx, tx))
		})
	}
	if err != nil {
		return fmt.Errorf("back up: %w", err)
	}
	return nil
}

// objects are all that the transaction sees, in the order of an archive.
func objects(ctx context.Context, tx *bbolt.Tx) iter.Seq2[codec.Object, error] {
	return func(yield func(codec.Object, error) bool) {
		errStop := errors.New("enough")
		for _, k := range codec.Kinds() {
			err := each(ctx, tx, k, func(o codec.Object) error {
				if !yield(o, nil) {
					return errStop
				}
				return nil
			})
			if errors.Is(err, errStop) || err != nil && !yield(codec.Object{}, err) {
				return
			}
		}
	}
}

// Compact drops what the journal keeps beyond its bounds, and writes the store into a new file that takes the place of
// the old one. Commits wait meanwhile: about a second for 100 MB.
func (d *DB) Compact(ctx context.Context) error {
	err := d.take(ctx)
	if err == nil {
		defer func() { <-d.turn }()
		if err = d.trimAll(ctx); err == nil {
			err = d.rewrite()
		}
	}
	if err != nil {
		return fmt.Errorf("compact: %w", err)
	}
	return nil
}

// trimStep is how many records one transaction of a compaction drops.
const trimStep = 1000

// trimAll drops what is beyond the journal's bounds, in steps between which others may commit.
func (d *DB) trimAll(ctx context.Context) error {
	for more := true; more; {
		if err := ctx.Err(); err != nil {
			return err
		}
		d.writing.Lock()
		err := d.update(func(tx *bbolt.Tx, h *head) (err error) {
			more, err = d.trim(tx, h, trimStep)
			return err
		})
		d.writing.Unlock()
		if err != nil {
			return err
		}
	}
	return nil
}

// rewrite copies everything to a new file and puts that in the place of the old one. The new file is locked before it
// gets its name, and the old one's lock is given back after that, so that there is no moment for another hub to step in.
func (d *DB) rewrite() error {
	d.writing.Lock()
	defer d.writing.Unlock()
	if err := d.movedLocked(); err != nil {
		return err
	}
	next, err := vacant(d.path)
	if err != nil {
		return err
	}
	db, file, err := d.copyTo(next)
	if err == nil {
		err = os.Rename(next, d.path)
	}
	if err != nil {
		if db != nil {
			err = errors.Join(err, db.Close())
		}
		return errors.Join(err, drop(next))
	}
	d.mu.Lock()
	old := d.db
	d.db, d.file = db, file
	d.mu.Unlock()
	return errors.Join(old.Close(), syncDir(d.path))
}

// copyTo copies everything to an empty file and returns it open, as it is for commits.
func (d *DB) copyTo(path string) (db *bbolt.DB, info os.FileInfo, err error) {
	db, err = bbolt.Open(path, 0o600, &bbolt.Options{
		NoSync: true, NoGrowSync: true, FreelistType: bbolt.FreelistMapType, InitialMmapSize: mapped, Timeout: d.opts.LockTimeout,
	})
	if err != nil {
		return nil, nil, err
	}
	db.AllocSize = growth
	if err := errors.Join(bbolt.Compact(db, d.db, 1<<20), db.Sync()); err != nil {
		return db, nil, err
	}
	db.NoSync, db.NoGrowSync = d.opts.NoSync, d.opts.NoSync
	info, err = os.Stat(path)
	return db, info, err
}
