package etcd

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"

	"github.com/tailgate-project/tailgate/hub/store"
)

// errLeaseLost reports that the lease ran out before this hub led.
var errLeaseLost = errors.New("the lease ran out")

// seat is this hub's place among those that lead or wait to.
type seat struct {
	// session keeps the lease alive, from a goroutine of the client's.
	session *concurrency.Session
	key     string
	// created is the revision at which the key was made: a key of the same name that was made later is not ours.
	created int64
}

// stand takes a lease and gets in line. A lease whose answer was lost runs out by itself, and standing twice is standing
// once.
func (d *DB) stand(ctx context.Context) error {
	var lease *clientv3.LeaseGrantResponse
	err := d.insist(ctx, d.bounded(func(ctx context.Context) (err error) {
		lease, err = d.client.Grant(ctx, int64((d.opts.LeaseTTL+time.Second-1)/time.Second))
		return err
	}))
	if err != nil {
		return fmt.Errorf("take a lease: %w", err)
	}
	session, err := concurrency.NewSession(d.client, concurrency.WithLease(lease.ID), concurrency.WithContext(d.client.Ctx()))
	if err != nil {
		return fmt.Errorf("keep the lease: %w", explain(d.opts, err))
	}
	d.seat = seat{session: session, key: d.keys.leader(lease.ID)}
	err = d.insist(ctx, d.bounded(func(ctx context.Context) error {
		_, err := d.client.Put(ctx, d.seat.key, d.opts.Identity, clientv3.WithLease(lease.ID))
		return err
	}))
	if err != nil {
		return errors.Join(fmt.Errorf("stand for leader: %w", err), d.resign())
	}
	return nil
}

// resign gives the lease back, and with it the lead. A lease that ran out is no error.
func (d *DB) resign() error {
	d.seat.session.Orphan()
	ctx, cancel := context.WithTimeout(d.client.Ctx(), d.opts.Timeout)
	defer cancel()
	if _, err := d.client.Revoke(ctx, d.seat.session.Lease()); err != nil && !errors.Is(err, rpctypes.ErrLeaseNotFound) {
		return fmt.Errorf("resign: %w; the next hub leads when the lease has run out, after %s", explain(d.opts, err), d.opts.LeaseTTL)
	}
	return nil
}

// wait returns when this hub is the first in line.
func (d *DB) wait(ctx context.Context) error {
	leader := ""
	for {
		first, revision, err := d.first(ctx)
		if err != nil {
			return err
		}
		if string(first.Key) == d.seat.key {
			d.seat.created = first.CreateRevision
			return nil
		}
		if name := string(first.Value); name != leader {
			leader = name
			d.opts.Waiting(leader)
		}
		if err := d.gone(ctx, string(first.Key), revision); err != nil {
			return err
		}
	}
}

// first returns who leads, and the revision at which that is so. It asks again for as long as the lease lasts.
func (d *DB) first(ctx context.Context) (*mvccpb.KeyValue, int64, error) {
	for {
		resp, err := d.get(ctx, clientv3.OpGet(d.keys.leaders(), clientv3.WithFirstCreate()...))
		switch {
		case err == nil && len(resp.Kvs) == 0:
			return nil, 0, errLeaseLost
		case err == nil:
			return resp.Kvs[0], resp.Header.Revision, nil
		case ctx.Err() != nil || hopeless(err):
			return nil, 0, fmt.Errorf("look who leads: %w", err)
		}
		select {
		case <-d.seat.session.Done():
			return nil, 0, errors.Join(errLeaseLost, err)
		default: // get was patient itself
		}
	}
}

// gone returns when a key was deleted after a revision, or may have been.
func (d *DB) gone(ctx context.Context, key string, revision int64) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	events := d.client.Watch(clientv3.WithRequireLeader(ctx), key, clientv3.WithRev(revision+1), clientv3.WithFilterPut())
	select {
	case <-events:
		return ctx.Err()
	case <-d.seat.session.Done():
		return errLeaseLost
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Superseded waits until another hub leads or may lead: a newer epoch was taken, or the lease has run out.
func (d *DB) Superseded(ctx context.Context) error {
	for {
		revision, err := d.stillLeads(ctx)
		if err == nil {
			err = d.seatGone(ctx, revision)
		}
		if errors.Is(err, store.ErrFenced) {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(firstPause): // etcd gave no answer, or something has changed: look again
		}
	}
}

// seatGone returns when something may have happened to the seat or the epoch after a revision.
func (d *DB) seatGone(ctx context.Context, revision int64) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	watched := clientv3.WithRequireLeader(ctx)
	seats := d.client.Watch(watched, d.seat.key, clientv3.WithRev(revision+1))
	heads := d.client.Watch(watched, d.keys.head(), clientv3.WithRev(revision+1))
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-d.seat.session.Done():
			return d.leaseGone()
		case <-seats:
			return nil
		case changed := <-heads:
			for _, e := range changed.Events {
				if h, err := decodeHead(e.Kv.Value); err != nil || h.epoch != d.epoch {
					return nil
				}
			}
			if len(changed.Events) == 0 { // the watch has ended
				return changed.Err()
			}
		}
	}
}

// stillLeads looks once whether this hub leads, and returns the revision at which it does.
func (d *DB) stillLeads(ctx context.Context) (int64, error) {
	select {
	case <-d.seat.session.Done():
		return 0, d.leaseGone()
	default:
	}
	seen := &refusal{}
	revision := int64(0)
	err := d.insist(ctx, func(ctx context.Context) error {
		resp, err := d.kv.Do(ctx, clientv3.OpTxn(nil, d.identify(), nil))
		if err == nil {
			seen, revision = d.seen(resp.Txn()), resp.Txn().Header.Revision
		}
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("look who leads: %w", err)
	}
	return revision, d.fenced(seen, d.epoch)
}

func (d *DB) leaseGone() error {
	return fmt.Errorf("%w: the lease of this hub has run out", store.ErrFenced)
}
