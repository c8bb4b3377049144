package etcd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/tailgate-project/tailgate/hub/store"
	"github.com/tailgate-project/tailgate/hub/store/archive"
	"github.com/tailgate-project/tailgate/hub/store/codec"
)

// Backup writes a consistent copy of everything: the store at one revision. If etcd's automatic compaction overtakes it,
// it fails and can be tried again.
func (d *DB) Backup(ctx context.Context, w io.Writer) error {
	err := d.turn.take(ctx)
	if err == nil {
		defer d.turn.give()
		err = d.backup(ctx, w)
	}
	if err != nil {
		return fmt.Errorf("back up the store %s: %w", d.keys, err)
	}
	return nil
}

func (d *DB) backup(ctx context.Context, w io.Writer) error {
	taken := d.opts.Now()
	s, err := d.snapshot(ctx)
	if err != nil {
		return err
	}
	return archive.Write(w, archive.Header{Epoch: s.head.epoch, Taken: taken, Journal: s.head.last}, s.objects(ctx))
}

// objects are all objects, in the order of an archive.
func (s snapshot) objects(ctx context.Context) iter.Seq2[codec.Object, error] {
	return func(yield func(codec.Object, error) bool) {
		for _, k := range codec.Kinds() {
			enough := false
			err := s.each(ctx, k, func(o codec.Object) bool {
				enough = !yield(o, nil)
				return !enough
			})
			if enough || err != nil && !yield(codec.Object{}, err) {
				return
			}
		}
	}
}

// Restore makes a store of a backup, of this kind of store or another. The whole backup is read before anything is
// written: one that is damaged leaves nothing behind. It is written in parts and takes effect as one batch, so a restore
// that does not come to its end leaves nothing that a hub would take for a store. A prefix that has a store already is
// not touched, with [store.ErrExists], nor one on which hubs wait, with [store.ErrInUse].
func Restore(ctx context.Context, o Options, r io.Reader) error {
	d, err := connect(o)
	if err != nil {
		return fmt.Errorf("restore: %w", err)
	}
	if err := errors.Join(d.restore(ctx, r), d.client.Close()); err != nil {
		return fmt.Errorf("restore the store %s: %w", d.keys, err)
	}
	return nil
}

func (d *DB) restore(ctx context.Context, r io.Reader) error {
	if err := d.absent(ctx); err != nil {
		return err
	}
	whole, err := archive.Read(r)
	if err != nil {
		return err
	}
	if err := d.stand(ctx); err != nil {
		return err
	}
	return errors.Join(d.refill(ctx, whole), d.resign())
}

// absent fails if there is a store, or something that may be one.
func (d *DB) absent(ctx context.Context) error {
	err := d.readHead(ctx)
	unreadable := errors.Is(err, store.ErrCorrupt) || errors.Is(err, store.ErrSchema)
	switch {
	case err != nil && !unreadable:
		return err
	case err == nil && d.raw == nil:
		return d.vacant(ctx)
	}
	return fmt.Errorf("%w: restore under another prefix, or delete its keys first", store.ErrExists)
}

// refill writes what an archive holds, once this hub leads.
func (d *DB) refill(ctx context.Context, whole archive.Whole) error {
	first, _, err := d.first(ctx)
	if err != nil {
		return err
	}
	if string(first.Key) != d.seat.key {
		return fmt.Errorf("%w by %q: stop all hubs first", store.ErrInUse, first.Value)
	}
	d.seat.created = first.CreateRevision
	if err := d.absent(ctx); err != nil {
		return err
	}
	next := newHead()
	next.epoch, next.first, next.last = whole.Epoch, whole.Journal+1, whole.Journal
	for i := len(whole.Objects) - 1; i >= 0 && whole.Objects[i].Kind == codec.Journal; i-- {
		next.first--
	}
	return d.owning(func() error {
		if d.raw != nil { // a request that was given up has named the parts after all
			return d.settle(ctx)
		}
		if err := d.write(ctx, clientv3.OpDelete(d.keys.parts(), clientv3.WithPrefix())); err != nil {
			return fmt.Errorf("drop the parts of another restore: %w", err)
		}
		if len(whole.Objects) == 0 {
			return d.step(ctx, next)
		}
		return d.commitParts(ctx, next, whole.Objects)
	})
}

// trimStep is how many records one transaction of a compaction drops.
const trimStep = 1000

// Compact drops what the journal keeps beyond its bounds, and lets etcd forget all older revisions. A member of etcd
// whose file is more than half empty after that is defragmented, one after another; it answers nobody meanwhile, for
// about a second per 100 MB. Commits go on at the other members, and wait if there is none. Defragmenting needs the
// rights of etcd's user root, where etcd has users.
func (d *DB) Compact(ctx context.Context) error {
	err := d.turn.take(ctx)
	if err == nil {
		defer d.turn.give()
		err = d.compact(ctx)
	}
	if err != nil {
		return fmt.Errorf("compact the store %s: %w", d.keys, err)
	}
	return nil
}

func (d *DB) compact(ctx context.Context) error {
	for more := true; more; {
		var err error
		if more, err = d.trimSome(ctx); err != nil {
			return err
		}
	}
	s, err := d.snapshot(ctx)
	if err != nil {
		return err
	}
	bounded, cancel := context.WithTimeout(ctx, compactTimeout)
	defer cancel()
	_, err = d.client.Compact(bounded, s.revision, clientv3.WithCompactPhysical())
	if err != nil && !errors.Is(err, rpctypes.ErrCompacted) { // else somebody was faster
		return fmt.Errorf("forget old revisions: %w", explain(d.opts, err))
	}
	return d.defragment(ctx)
}

// trimSome drops some records that are beyond the journal's bounds, and reports whether there may be more.
func (d *DB) trimSome(ctx context.Context) (more bool, err error) {
	if err := d.writing.take(ctx); err != nil {
		return false, err
	}
	defer d.writing.give()
	err = d.owning(func() error {
		if err := d.settle(ctx); err != nil {
			return err
		}
		next := d.head
		if err := d.trim(ctx, &next, 0, trimStep); err != nil {
			return err
		}
		if more = next.first != d.head.first; !more {
			return nil
		}
		return d.step(ctx, next, d.trimmed(d.head, next)...)
	})
	return more, err
}

const (
	// worthwhile is how much of a member's file must be empty for it to be defragmented.
	worthwhile = 16 << 20
	// compactTimeout bounds the compaction, and then the defragmentation of each member.
	compactTimeout = 5 * time.Minute
)

// defragment makes the files of those members smaller that have much to gain.
func (d *DB) defragment(ctx context.Context) error {
	for _, e := range d.opts.Endpoints {
		var size, used int64
		err := d.insist(ctx, func(ctx context.Context) error {
			status, err := d.client.Status(ctx, e)
			if err == nil {
				size, used = status.DbSize, status.DbSizeInUse
			}
			return err
		})
		if err != nil {
			return fmt.Errorf("look at %s: %w", e, err)
		}
		if size-used < max(worthwhile, size/2) {
			continue
		}
		if err := d.defragmentOne(ctx, e); err != nil {
			return fmt.Errorf("defragment %s: %w", e, err)
		}
		d.opts.Log.Info("etcd defragmented", "endpoint", e, "bytes", size, "used", used)
	}
	return nil
}

func (d *DB) defragmentOne(ctx context.Context, endpoint string) error {
	if len(d.opts.Endpoints) == 1 { // then a commit would be in vain, and must not fail for it
		if err := d.writing.take(ctx); err != nil {
			return err
		}
		defer d.writing.give()
	}
	ctx, cancel := context.WithTimeout(ctx, compactTimeout)
	defer cancel()
	if _, err := d.client.Defragment(ctx, endpoint); err != nil {
		return explain(d.opts, err)
	}
	return nil
}
