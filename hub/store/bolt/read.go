package bolt

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"

	"go.etcd.io/bbolt"

	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/federation/ledger"
	"github.com/tailgate-project/tailgate/hub/store"
	"github.com/tailgate-project/tailgate/hub/store/codec"
)

// patience is how many objects are read between two looks at the context.
const patience = 1024

// view runs a transaction that reads.
func (d *DB) view(ctx context.Context, read func(tx *bbolt.Tx) error) (err error) {
	if err := ctx.Err(); err != nil {
		return err
	}
	d.mu.RLock()
	defer d.mu.RUnlock()
	defer recoverCorrupt(&err)
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true)) // of a file that was cut under us
	return d.db.View(read)
}

// Load returns all that is stored.
func (d *DB) Load(ctx context.Context) (ledger.State, error) {
	var s ledger.State
	err := d.view(ctx, func(tx *bbolt.Tx) error {
		h, err := readHead(tx)
		if err != nil {
			return err
		}
		var objects []codec.Object
		for _, k := range codec.Kinds() {
			if k == codec.Journal {
				continue
			}
			before := len(objects)
			if objects, err = collect(ctx, tx, k, objects); err != nil {
				return err
			}
			if want, got := h.of(k).count, uint64(len(objects)-before); want != got {
				return fmt.Errorf("%w: of %d %s there are %d", store.ErrCorrupt, want, k, got)
			}
		}
		s, err = codec.State(objects)
		return err
	})
	if err != nil {
		return ledger.State{}, fmt.Errorf("load: %w", err)
	}
	return s, nil
}

// collect adds the objects of a kind, which are valid as long as the transaction.
func collect(ctx context.Context, tx *bbolt.Tx, k codec.Kind, into []codec.Object) ([]codec.Object, error) {
	err := each(ctx, tx, k, func(o codec.Object) error {
		into = append(into, o)
		return nil
	})
	return into, err
}

// each calls do with the objects of a kind, in the order of their keys.
func each(ctx context.Context, tx *bbolt.Tx, kind codec.Kind, do func(codec.Object) error) error {
	c, n := bucketOf(tx, kind).Cursor(), 0
	for k, v := c.First(); k != nil; k, v = c.Next() {
		if n++; n%patience == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		if err := do(codec.Object{Kind: kind, Key: k, Value: v}); err != nil {
			return err
		}
	}
	return nil
}

// Journal returns up to limit records after the sequence number, oldest first.
func (d *DB) Journal(ctx context.Context, after uint64, limit int, service federation.ServiceID) ([]ledger.Record, error) {
	var out []ledger.Record
	err := d.view(ctx, func(tx *bbolt.Tx) error {
		c, n := bucketOf(tx, codec.Journal).Cursor(), 0
		if after+1 == 0 {
			return nil // nothing comes after the last number there is
		}
		for k, v := c.Seek(codec.SequenceKey(after + 1)); k != nil && len(out) < limit; k, v = c.Next() {
			if n++; n%patience == 0 && ctx.Err() != nil {
				return ctx.Err()
			}
			r, err := codec.Record(codec.Object{Kind: codec.Journal, Key: k, Value: v})
			if err != nil {
				return err
			}
			if codec.About(r, service) {
				out = append(out, r)
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read the journal: %w", err)
	}
	return out, nil
}

// Last returns the number of the journal's newest record.
func (d *DB) Last(ctx context.Context) (last uint64, err error) {
	err = d.view(ctx, func(tx *bbolt.Tx) error {
		h, err := readHead(tx)
		last = h.last
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("read the journal's end: %w", err)
	}
	return last, nil
}

// Check reads every object and every page, and returns what is broken. Commits wait while it looks at the pages.
func (d *DB) Check(ctx context.Context) error {
	err := d.view(ctx, func(tx *bbolt.Tx) error {
		var errs []error
		for _, k := range codec.Kinds() {
			if err := each(ctx, tx, k, func(o codec.Object) error {
				if err := o.Check(); err != nil {
					errs = append(errs, err)
				}
				return nil
			}); err != nil {
				return err
			}
		}
		return errors.Join(errs...)
	})
	if err == nil {
		err = d.checkFile()
	}
	if err != nil {
		return fmt.Errorf("check %s: %w", d.path, err)
	}
	return nil
}
