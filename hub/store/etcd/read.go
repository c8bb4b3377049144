package etcd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"strings"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sync/errgroup"

	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/federation/ledger"
	"github.com/tailgate-project/tailgate/hub/store"
	"github.com/tailgate-project/tailgate/hub/store/codec"
)

// snapshot is the store at one revision of etcd, at which no batch was half done.
type snapshot struct {
	db   *DB
	head head
	// revision is 0 for now, which only its writer can want.
	revision int64
}

// snapshot returns the store as it is. If a batch is being put where it belongs, that is waited for.
func (d *DB) snapshot(ctx context.Context) (snapshot, error) {
	for {
		resp, err := d.get(ctx, clientv3.OpGet(d.keys.head()))
		if err != nil {
			return snapshot{}, err
		}
		if len(resp.Kvs) == 0 {
			return snapshot{}, fmt.Errorf("%w: its head is gone: %s", store.ErrCorrupt, cure)
		}
		h, err := decodeHead(resp.Kvs[0].Value)
		if err != nil {
			return snapshot{}, err
		}
		if h.pending.parts == 0 {
			return snapshot{db: d, head: h, revision: resp.Header.Revision}, nil
		}
		if err := d.writing.take(ctx); err != nil {
			return snapshot{}, err
		}
		err = d.owning(func() error { return d.settle(ctx) })
		d.writing.give()
		if err != nil {
			return snapshot{}, err
		}
	}
}

// tidy returns the store as it is after the last commit and before the next, without the parts of any batch.
func (d *DB) tidy(ctx context.Context) (snapshot, error) {
	if err := d.writing.take(ctx); err != nil {
		return snapshot{}, err
	}
	defer d.writing.give()
	if err := d.owning(func() error { return d.settle(ctx) }); err != nil {
		return snapshot{}, err
	}
	return d.snapshot(ctx)
}

const (
	// firstPage is how many keys the first page of a range has, maxPage how many the others have at most.
	firstPage = 512
	maxPage   = 64 << 10
	// pageBytes is how long the pages become that follow, roughly.
	pageBytes = 8 << 20
)

// walk calls do with the keys and values of a range, in order, until it returns false. An empty end is that of the
// store.
func (s snapshot) walk(ctx context.Context, from, end string, do func(key string, value []byte) bool) error {
	for limit := int64(firstPage); ; {
		opts := []clientv3.OpOption{clientv3.WithRange(end), clientv3.WithLimit(limit), clientv3.WithRev(s.revision)}
		resp, err := s.db.get(ctx, clientv3.OpGet(from, opts...))
		if err != nil {
			return err
		}
		size := 1
		for _, kv := range resp.Kvs {
			if size += len(kv.Key) + len(kv.Value); !do(string(kv.Key), kv.Value) {
				return nil
			}
		}
		if !resp.More || len(resp.Kvs) == 0 {
			return nil
		}
		from = string(resp.Kvs[len(resp.Kvs)-1].Key) + "\x00"
		limit = min(maxPage, max(1, int64(len(resp.Kvs))*pageBytes/int64(size)))
	}
}

// each calls do with the objects of a kind, in order, until it returns false.
func (s snapshot) each(ctx context.Context, kind codec.Kind, do func(codec.Object) bool) error {
	dir := s.db.keys.kind(kind)
	return s.walk(ctx, dir, clientv3.GetPrefixRangeEnd(dir), func(key string, value []byte) bool {
		return do(codec.Object{Kind: kind, Key: []byte(key[len(dir):]), Value: value})
	})
}

// records calls do with the records of the journal from first to last, until it returns false.
func (s snapshot) records(ctx context.Context, first, last uint64, do func(ledger.Record) bool) error {
	if last < first {
		return nil
	}
	from, next := s.db.keys.object(codec.Journal, codec.SequenceKey(first)), first
	end := clientv3.GetPrefixRangeEnd(s.db.keys.object(codec.Journal, codec.SequenceKey(last)))
	dir, done := s.db.keys.kind(codec.Journal), false
	var broken error
	err := s.walk(ctx, from, end, func(key string, value []byte) bool {
		r, err := codec.Record(codec.Object{Kind: codec.Journal, Key: []byte(key[len(dir):]), Value: value})
		if err == nil && r.Seq != next {
			err = fmt.Errorf("%w: journal %d stands where %d should", store.ErrCorrupt, r.Seq, next)
		}
		if err != nil {
			broken = err
			return false
		}
		next++
		done = !do(r)
		return !done
	})
	switch {
	case err != nil || broken != nil:
		return errors.Join(err, broken)
	case !done && next <= last:
		return fmt.Errorf("%w: journal %d is missing", store.ErrCorrupt, next)
	}
	return nil
}

// readings is how often a reader begins again because etcd was compacted under it.
const readings = 3

// reading runs what reads pages of one revision.
func reading(do func() error) error {
	var err error
	for range readings {
		if err = do(); !errors.Is(err, rpctypes.ErrCompacted) {
			break
		}
	}
	return err
}

// Load returns all that is stored. It reads page by page, all of them of one revision.
func (d *DB) Load(ctx context.Context) (ledger.State, error) {
	var state ledger.State
	err := reading(func() (err error) {
		state, err = d.load(ctx)
		return err
	})
	if err != nil {
		return ledger.State{}, fmt.Errorf("load the store %s: %w", d.keys, err)
	}
	return state, nil
}

func (d *DB) load(ctx context.Context) (ledger.State, error) {
	s, err := d.snapshot(ctx)
	if err != nil {
		return ledger.State{}, err
	}
	kinds := make([][]codec.Object, codec.Policy)
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(abreast)
	for i := range kinds {
		g.Go(func() error {
			return s.each(ctx, codec.Kind(i+1), func(o codec.Object) bool {
				kinds[i] = append(kinds[i], o)
				return true
			})
		})
	}
	if err := g.Wait(); err != nil {
		return ledger.State{}, err
	}
	var all []codec.Object
	for _, objects := range kinds {
		all = append(all, objects...)
	}
	return codec.State(all)
}

// Journal returns up to limit records after the sequence number, oldest first.
func (d *DB) Journal(ctx context.Context, after uint64, limit int, service federation.ServiceID) ([]ledger.Record, error) {
	var out []ledger.Record
	err := reading(func() (err error) {
		out, err = d.journal(ctx, after, limit, service)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read the journal: %w", err)
	}
	return out, nil
}

func (d *DB) journal(ctx context.Context, after uint64, limit int, service federation.ServiceID) ([]ledger.Record, error) {
	s, err := d.snapshot(ctx)
	if err != nil || limit <= 0 || after == math.MaxUint64 {
		return nil, err
	}
	first, last := max(after+1, s.head.first), s.head.last
	if service == (federation.ServiceID{}) && last >= first {
		last = first + min(uint64(limit)-1, last-first)
	}
	var out []ledger.Record
	err = s.records(ctx, first, last, func(r ledger.Record) bool {
		if codec.About(r, service) {
			out = append(out, r)
		}
		return len(out) < limit
	})
	return out, err
}

// Last returns the number of the journal's newest record.
func (d *DB) Last(ctx context.Context) (last uint64, err error) {
	err = reading(func() error {
		s, err := d.snapshot(ctx)
		if err == nil {
			last = s.head.last
		}
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("read the journal's end: %w", err)
	}
	return last, nil
}

// Check reads every key of the store and returns what is broken: objects that cannot be decoded, gaps in the journal,
// parts of batches that nobody wants, and keys that are not the store's.
func (d *DB) Check(ctx context.Context) error {
	if err := reading(func() error { return d.check(ctx) }); err != nil {
		return fmt.Errorf("check the store %s: %w", d.keys, err)
	}
	return nil
}

func (d *DB) check(ctx context.Context) error {
	s, err := d.tidy(ctx)
	if err != nil {
		return err
	}
	c := check{keys: d.keys, head: s.head, next: s.head.first}
	err = s.walk(ctx, string(d.keys), clientv3.GetPrefixRangeEnd(string(d.keys)), func(key string, value []byte) bool {
		c.look(key, value)
		return true
	})
	return errors.Join(err, c.result(err == nil))
}

// check collects what is broken.
type check struct {
	keys keys
	head head
	// next is the number that the journal's next record must have.
	next uint64
	errs []error
}

func (c *check) fail(format string, args ...any) {
	c.errs = append(c.errs, fmt.Errorf("%w: "+format, append([]any{store.ErrCorrupt}, args...)...))
}

// look looks at a key. Journal records come in the order of their numbers.
func (c *check) look(key string, value []byte) {
	dir, rest, _ := strings.Cut(strings.TrimPrefix(key, string(c.keys)), "/")
	for _, k := range codec.Kinds() {
		if dir != k.String() {
			continue
		}
		o := codec.Object{Kind: k, Key: []byte(rest), Value: value}
		if err := o.Check(); err != nil {
			c.errs = append(c.errs, err)
		}
		if k == codec.Journal {
			if seq := codec.Sequence(o.Key); seq != c.next {
				c.fail("journal %d stands where %d should", seq, c.next)
			}
			c.next = codec.Sequence(o.Key) + 1
		}
		return
	}
	switch {
	case key == c.keys.head():
		if !bytes.Equal(value, c.head.encode()) {
			c.fail("its head has changed")
		}
	case strings.HasPrefix(key, c.keys.leaders()):
	case strings.HasPrefix(key, c.keys.parts()):
		c.fail("%q is part of a batch that nobody wants", key)
	default:
		c.fail("%q is no key of a store", key)
	}
}

// result is what is broken, after all keys were seen or not.
func (c *check) result(all bool) error {
	if all && c.next != c.head.last+1 {
		c.fail("the journal ends at %d and not at %d", c.next-1, c.head.last)
	}
	return errors.Join(c.errs...)
}
