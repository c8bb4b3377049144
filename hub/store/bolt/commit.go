package bolt

import (
	"context"
	"fmt"
	"time"

	"go.etcd.io/bbolt"

	"github.com/tailgate-project/tailgate/federation/failover"
	"github.com/tailgate-project/tailgate/federation/ledger"
	"github.com/tailgate-project/tailgate/hub/store"
	"github.com/tailgate-project/tailgate/hub/store/codec"
)

// Commit stores the batch, whole or not at all. It fails with [store.ErrFenced] once another hub has taken the file's
// place with its own.
func (d *DB) Commit(ctx context.Context, b ledger.Batch) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("commit: %w", err)
	}
	objects, err := codec.Changes(b)
	if err != nil {
		return fmt.Errorf("commit: %w", err)
	}
	d.writing.Lock()
	defer d.writing.Unlock()
	if err := d.commit(objects, b.Journal); err != nil {
		return fmt.Errorf("commit: %w", err)
	}
	return nil
}

func (d *DB) commit(objects []codec.Object, decisions []failover.Decision) error {
	if err := d.movedLocked(); err != nil {
		return err
	}
	return d.update(func(tx *bbolt.Tx, h *head) error {
		if err := h.putAll(tx, objects); err != nil {
			return err
		}
		if err := h.append(tx, decisions); err != nil {
			return err
		}
		// Twice as many may go as came: so the journal shrinks where its bounds do, and no commit waits for long.
		_, err := d.trim(tx, h, 2*len(decisions)+minTrim)
		return err
	})
}

// update runs one transaction of our own epoch, and writes the head that it leaves.
func (d *DB) update(change func(tx *bbolt.Tx, h *head) error) error {
	oldest := d.oldest
	err := d.db.Update(func(tx *bbolt.Tx) error {
		h, err := readHead(tx)
		if err != nil {
			return err
		}
		if h.epoch != d.epoch {
			return fmt.Errorf("%w: ours is %d, the newest %d", store.ErrFenced, d.epoch, h.epoch)
		}
		if err := change(tx, &h); err != nil {
			return err
		}
		return writeHead(tx, h)
	})
	if err != nil {
		d.oldest = oldest
	}
	return err
}

// putAll stores objects that are sorted by kind.
func (h *head) putAll(tx *bbolt.Tx, objects []codec.Object) error {
	var b *bbolt.Bucket
	for i, o := range objects {
		if i == 0 || o.Kind != objects[i-1].Kind {
			b = bucketOf(tx, o.Kind)
		}
		if err := h.put(b, o); err != nil {
			return fmt.Errorf("store %s: %w", o, err)
		}
	}
	return nil
}

// append adds decisions to the journal.
func (h *head) append(tx *bbolt.Tx, decisions []failover.Decision) error {
	if len(decisions) == 0 {
		return nil
	}
	b := bucketOf(tx, codec.Journal)
	b.FillPercent = 0.9 // it grows at its end only
	for _, dec := range decisions {
		o, err := codec.Decision(h.last+1, dec)
		if err != nil {
			return err
		}
		if err := b.Put(o.Key, o.Value); err != nil {
			return fmt.Errorf("store %s: %w", o, err)
		}
		h.of(codec.Journal).add(o.Key, o.Value)
		h.last++
	}
	return nil
}

// minTrim is how many records may be dropped by a commit that adds none.
const minTrim = 16

// aged is the time of a record of the journal.
type aged struct {
	seq uint64
	at  time.Time
}

// trim drops up to limit of the oldest records that are beyond the journal's bounds, and reports whether more are.
func (d *DB) trim(tx *bbolt.Tx, h *head, limit int) (more bool, err error) {
	b, now := bucketOf(tx, codec.Journal), d.opts.Now()
	for range limit {
		old, err := d.overdue(b, h, now)
		if err != nil || !old {
			return false, err
		}
		if err := h.put(b, codec.Object{Kind: codec.Journal, Key: codec.SequenceKey(h.first)}); err != nil {
			return false, fmt.Errorf("drop record %d: %w", h.first, err)
		}
		h.first++
	}
	return d.overdue(b, h, now)
}

// overdue reports whether the oldest record is beyond the bounds.
func (d *DB) overdue(b *bbolt.Bucket, h *head, now time.Time) (bool, error) {
	t := h.of(codec.Journal)
	if t.count == 0 || t.count > d.opts.JournalLimit || t.bytes > d.opts.JournalBytes {
		return t.count > 0, nil
	}
	if d.oldest.seq != h.first {
		key := codec.SequenceKey(h.first)
		r, err := codec.Record(codec.Object{Kind: codec.Journal, Key: key, Value: b.Get(key)})
		if err != nil {
			return false, err
		}
		d.oldest = aged{seq: r.Seq, at: r.At}
	}
	return now.Sub(d.oldest.at) > d.opts.JournalAge, nil
}
