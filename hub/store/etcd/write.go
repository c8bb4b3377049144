package etcd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/tailgate-project/tailgate/hub/store"
	"github.com/tailgate-project/tailgate/hub/store/codec"
)

const (
	// attempts is how often a request that stays without an answer is sent within the time that it has.
	attempts = 3
	// firstPause and maxPause are between requests that fail at once.
	firstPause = 20 * time.Millisecond
	maxPause   = 500 * time.Millisecond
)

// refusal is the error of a transaction whose guard did not hold. It has what was found instead.
type refusal struct {
	// head is nil if there is none.
	head []byte
	// seated is whether our leader key is there.
	seated bool
}

func (*refusal) Error() string { return "the store is not as this hub has left it" }

// guard proves that this hub leads and knows the head.
func (d *DB) guard() []clientv3.Cmp {
	known := clientv3.Compare(clientv3.Value(d.keys.head()), "=", string(d.raw))
	if d.raw == nil {
		known = clientv3.Compare(clientv3.CreateRevision(d.keys.head()), "=", 0)
	}
	return []clientv3.Cmp{clientv3.Compare(clientv3.CreateRevision(d.seat.key), "=", d.seat.created), known}
}

// identify asks for all that the guard is about.
func (d *DB) identify() []clientv3.Op {
	return []clientv3.Op{clientv3.OpGet(d.keys.head()), clientv3.OpGet(d.seat.key, clientv3.WithKeysOnly())}
}

// seen reads the answer to identify.
func (d *DB) seen(resp *clientv3.TxnResponse) *refusal {
	r := &refusal{}
	for _, kv := range resp.Responses[0].GetResponseRange().Kvs {
		r.head = kv.Value
	}
	for _, kv := range resp.Responses[1].GetResponseRange().Kvs {
		r.seated = kv.CreateRevision == d.seat.created
	}
	return r
}

// try sends a guarded transaction once.
func (d *DB) try(ctx context.Context, ops []clientv3.Op) error {
	resp, err := d.kv.Do(ctx, clientv3.OpTxn(d.guard(), ops, d.identify()))
	if err != nil {
		return err
	}
	if !resp.Txn().Succeeded {
		return d.seen(resp.Txn())
	}
	return nil
}

// write makes changes that can be made again, and leaves the head as it is. Several may run at once.
func (d *DB) write(ctx context.Context, ops ...clientv3.Op) error {
	return d.insist(ctx, d.bounded(func(ctx context.Context) error { return d.try(ctx, ops) }))
}

// step replaces the head and makes changes with it, exactly once. If it fails with anything but a refusal, they may
// still be made, unless another step is.
func (d *DB) step(ctx context.Context, next head, ops ...clientv3.Op) error {
	d.stamp++
	next.stamp = d.stamp
	raw := next.encode()
	ops = append(slices.Clip(ops), clientv3.OpPut(d.keys.head(), string(raw)))
	err := d.insist(ctx, d.bounded(func(ctx context.Context) error { return d.try(ctx, ops) }))
	r, refused := errors.AsType[*refusal](err)
	switch {
	case err == nil, refused && bytes.Equal(r.head, raw): // then a request whose answer was lost has made them
		d.set(next, raw)
		return nil
	case !refused:
		d.doubts = append(d.doubts, raw)
	}
	return err
}

func (d *DB) set(h head, raw []byte) { d.head, d.raw, d.doubts = h, raw, nil }

// owning runs what writes, and runs it again if it was refused for a change that we had given up.
func (d *DB) owning(do func() error) error {
	for {
		err := do()
		r, refused := errors.AsType[*refusal](err)
		if !refused {
			return err
		}
		if !slices.ContainsFunc(d.doubts, func(raw []byte) bool { return bytes.Equal(raw, r.head) }) || !r.seated {
			return d.disowned(r)
		}
		h, err := decodeHead(r.head)
		if err != nil {
			return err
		}
		d.set(h, r.head)
	}
}

// fenced fails if what was found says that the hub of an epoch no longer leads.
func (d *DB) fenced(r *refusal, epoch uint64) error {
	h, err := decodeHead(r.head)
	switch {
	case errors.Is(err, store.ErrSchema):
		return fmt.Errorf("%w: a newer version of Tailgate has it", store.ErrFenced)
	case err == nil && h.epoch > epoch:
		return fmt.Errorf("%w: ours is %d, the newest %d", store.ErrFenced, epoch, h.epoch)
	case !r.seated:
		return d.leaseGone()
	case err != nil || h.epoch < epoch:
		return fmt.Errorf("%w: its head is gone, or of another store", store.ErrFenced)
	}
	return nil
}

// disowned says why a change was refused that was not overtaken by one of our own.
func (d *DB) disowned(r *refusal) error {
	if err := d.fenced(r, d.head.epoch); err != nil {
		return err
	}
	return fmt.Errorf("%w: something else than this hub has changed its head", store.ErrCorrupt)
}

// insist sends a request until it is answered, or its time is over.
func (d *DB) insist(ctx context.Context, do func(ctx context.Context) error) error {
	bounded, cancel := context.WithTimeout(ctx, d.opts.Timeout)
	defer cancel()
	for pause := firstPause; ; pause = min(2*pause, maxPause) {
		err := do(bounded)
		if err == nil {
			return nil
		}
		if hopeless(err) {
			return explain(d.opts, err)
		}
		select {
		case <-time.After(pause):
			continue
		case <-bounded.Done():
		}
		if ctx.Err() != nil {
			return fmt.Errorf("%w: %w", ctx.Err(), err)
		}
		return explain(d.opts, err)
	}
}

// bounded gives each attempt of a request its part of the time.
func (d *DB) bounded(do func(ctx context.Context) error) func(ctx context.Context) error {
	return func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, d.opts.Timeout/attempts)
		defer cancel()
		return do(ctx)
	}
}

// get reads.
func (d *DB) get(ctx context.Context, op clientv3.Op) (*clientv3.GetResponse, error) {
	var got *clientv3.GetResponse
	err := d.insist(ctx, d.bounded(func(ctx context.Context) error {
		resp, err := d.kv.Do(ctx, op)
		got = resp.Get()
		return err
	}))
	return got, err
}

// readHead learns the head as it is in etcd.
func (d *DB) readHead(ctx context.Context) error {
	resp, err := d.get(ctx, clientv3.OpGet(d.keys.head()))
	if err != nil {
		return fmt.Errorf("read the head: %w", err)
	}
	d.set(head{}, nil)
	for _, kv := range resp.Kvs {
		h, err := decodeHead(kv.Value)
		if err != nil {
			return err
		}
		d.set(h, kv.Value)
	}
	return nil
}

// vacant fails if there are objects although there is no head.
func (d *DB) vacant(ctx context.Context) error {
	for _, k := range codec.Kinds() {
		resp, err := d.get(ctx, clientv3.OpGet(d.keys.kind(k), clientv3.WithPrefix(), clientv3.WithCountOnly()))
		if err != nil {
			return fmt.Errorf("look for %s: %w", k, err)
		}
		if resp.Count > 0 {
			return fmt.Errorf("%w: it has %d %s and no head: %s", store.ErrCorrupt, resp.Count, k, cure)
		}
	}
	return nil
}

// definite are the errors of requests that were not carried out and will not be if they are sent again.
var definite = []error{
	rpctypes.ErrEmptyKey, rpctypes.ErrTooManyOps, rpctypes.ErrDuplicateKey, rpctypes.ErrRequestTooLarge, rpctypes.ErrNoSpace,
	rpctypes.ErrCompacted, rpctypes.ErrLeaseNotFound, rpctypes.ErrPermissionDenied, rpctypes.ErrAuthFailed, rpctypes.ErrUserEmpty,
}

// hopeless reports whether it is no use to ask again, because there was an answer.
func hopeless(err error) bool {
	_, refused := errors.AsType[*refusal](err)
	return refused || slices.ContainsFunc(definite, func(d error) bool { return errors.Is(err, d) })
}

// explain says what to do about an error of etcd.
func explain(o Options, err error) error {
	switch {
	case errors.Is(err, rpctypes.ErrNoSpace):
		return fmt.Errorf("%w: etcd is full: raise its quota or compact and defragment it, then disarm its alarm", err)
	case errors.Is(err, rpctypes.ErrPermissionDenied):
		return fmt.Errorf("%w: grant the user of this hub read and write of the prefix %s", err, o.Prefix)
	case errors.Is(err, rpctypes.ErrAuthFailed), errors.Is(err, rpctypes.ErrUserEmpty):
		return fmt.Errorf("%w: check the user and the password of this hub, or its certificate", err)
	case errors.Is(err, rpctypes.ErrRequestTooLarge), errors.Is(err, rpctypes.ErrTooManyOps):
		return fmt.Errorf("%w: let etcd take at least %d operations and %d bytes in a request", err, maxOps, 2*maxBytes)
	case errors.Is(err, rpctypes.ErrCompacted):
		return fmt.Errorf("%w: etcd was compacted meanwhile: try again, or keep more of its history", err)
	case hopeless(err), errors.Is(err, context.Canceled):
		return err
	}
	return fmt.Errorf("%w: etcd at %s gives no answer: see whether it runs, has a quorum, and can be reached from here", err, strings.Join(o.Endpoints, ", "))
}
