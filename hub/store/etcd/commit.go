package etcd

import (
	"context"
	"fmt"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/tailgate-project/tailgate/federation/failover"
	"github.com/tailgate-project/tailgate/federation/ledger"
	"github.com/tailgate-project/tailgate/hub/store/codec"
)

const (
	// maxOps is how many operations a transaction has at most: somewhat below what etcd takes by default.
	maxOps = 120
	// maxBytes is how many bytes of keys and values a transaction has at most but for a single object, which may have
	// twice as many. That is below the 1.5 MiB that etcd takes by default.
	maxBytes = 512 << 10
	// overhead is how many bytes an operation has besides its key and value, roughly.
	overhead = 32
)

// Commit stores the batch, whole or not at all, and fails with [store.ErrFenced] once this hub no longer leads. After
// another error it is not known whether the batch is stored; Load tells.
func (d *DB) Commit(ctx context.Context, b ledger.Batch) error {
	objects, err := codec.Changes(b)
	if err != nil {
		return fmt.Errorf("commit: %w", err)
	}
	for _, o := range objects {
		if n := d.weight(o); n > 2*maxBytes {
			return fmt.Errorf("commit: %s has %d bytes, etcd is given %d at most", o, n, 2*maxBytes)
		}
	}
	if err := d.writing.take(ctx); err != nil {
		return fmt.Errorf("commit: %w", err)
	}
	defer d.writing.give()
	err = d.owning(func() error {
		if err := d.settle(ctx); err != nil {
			return err
		}
		return d.commit(ctx, objects, b.Journal)
	})
	if err != nil {
		return fmt.Errorf("commit: %w", err)
	}
	return nil
}

// settle finishes what an earlier commit has left to do.
func (d *DB) settle(ctx context.Context) error {
	left, err := d.readParts(ctx)
	if err != nil {
		return err
	}
	if err := d.finish(ctx, left); err != nil {
		return err
	}
	if !d.litter {
		return nil
	}
	// With a new head, so that a request that would still name those parts, or write more of them, comes too late.
	if err := d.step(ctx, d.head, clientv3.OpDelete(d.keys.parts(), clientv3.WithPrefix())); err != nil {
		return fmt.Errorf("drop the parts of a batch that was given up: %w", err)
	}
	d.litter = false
	return nil
}

// commit stores objects and decisions, in one transaction if they fit.
func (d *DB) commit(ctx context.Context, objects []codec.Object, decisions []failover.Decision) error {
	next := d.head
	if err := d.trim(ctx, &next, len(decisions), 2*len(decisions)+minTrim); err != nil {
		return err
	}
	all := append(make([]codec.Object, 0, len(objects)+len(decisions)), objects...)
	for _, dec := range decisions {
		next.last++
		o, err := codec.Decision(next.last, dec)
		if err != nil {
			return err
		}
		all = append(all, o)
	}
	for chunk := range d.chunks(all) {
		if len(chunk) < len(all) {
			return d.commitParts(ctx, next, all)
		}
	}
	return d.step(ctx, next, append(d.ops(all), d.trimmed(d.head, next)...)...)
}

// weight is how many bytes the object has in a transaction.
func (d *DB) weight(o codec.Object) int {
	return len(d.keys.kind(o.Kind)) + len(o.Key) + len(o.Value) + overhead
}

// chunks cuts objects into those that fit into one transaction together, with the head and what is trimmed.
func (d *DB) chunks(objects []codec.Object) func(yield func([]codec.Object) bool) {
	return func(yield func([]codec.Object) bool) {
		for start := 0; start < len(objects); {
			end, bytes := start+1, d.weight(objects[start])
			for end < len(objects) && end-start < maxOps-2 && bytes+d.weight(objects[end]) <= maxBytes {
				bytes += d.weight(objects[end])
				end++
			}
			if !yield(objects[start:end]) {
				return
			}
			start = end
		}
	}
}

// ops are the operations that put the objects, or delete those that have no value.
func (d *DB) ops(objects []codec.Object) []clientv3.Op {
	out := make([]clientv3.Op, 0, len(objects)+2)
	for _, o := range objects {
		key := d.keys.object(o.Kind, o.Key)
		if o.Value == nil {
			out = append(out, clientv3.OpDelete(key))
		} else {
			out = append(out, clientv3.OpPut(key, string(o.Value)))
		}
	}
	return out
}

// trimmed is the operation that drops the records which the journal no longer keeps, if any.
func (d *DB) trimmed(old, next head) []clientv3.Op {
	if next.first == old.first {
		return nil
	}
	end := d.keys.object(codec.Journal, codec.SequenceKey(next.first))
	return []clientv3.Op{clientv3.OpDelete(d.keys.kind(codec.Journal), clientv3.WithRange(end))}
}

const (
	// minTrim is how many records may be dropped by a commit that adds none. One that adds some may drop twice as many
	// more: so the journal shrinks where its bounds do, and no commit waits for long.
	minTrim = 16
	// agesPage is how many records are looked at to learn when they were written.
	agesPage = 256
)

// ages are the times of records of the journal that follow each other.
type ages struct {
	first uint64
	at    []time.Time
}

// trim moves the beginning of the journal past up to limit records that are beyond its bounds, or will be once so many
// are added. Records that are not stored yet stay.
func (d *DB) trim(ctx context.Context, next *head, added, limit int) error {
	now := d.opts.Now()
	for range limit {
		if next.first > next.last {
			return nil
		}
		if next.last+uint64(added)-next.first >= d.opts.JournalLimit {
			next.first++
			continue
		}
		at, err := d.written(ctx, next.first, next.last)
		if err != nil {
			return fmt.Errorf("look for old decisions: %w", err)
		}
		if now.Sub(at) <= d.opts.JournalAge {
			return nil
		}
		next.first++
	}
	return nil
}

// written returns when a record was written.
func (d *DB) written(ctx context.Context, seq, last uint64) (time.Time, error) {
	if i := seq - d.ages.first; seq >= d.ages.first && i < uint64(len(d.ages.at)) {
		return d.ages.at[i], nil
	}
	d.ages = ages{first: seq}
	s := snapshot{db: d, head: d.head}
	err := s.records(ctx, seq, min(last, seq+agesPage-1), func(r ledger.Record) bool {
		d.ages.at = append(d.ages.at, r.At)
		return true
	})
	if err != nil {
		d.ages = ages{}
		return time.Time{}, err
	}
	return d.ages.at[0], nil
}
