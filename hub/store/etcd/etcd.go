// Package etcd keeps the hub's state in an etcd cluster. It is the store of several hubs: one leads, the others stand by
// and take over when its lease runs out.
//
// Under the prefix of a store there are:
//
//	head            schema, epoch, the journal's numbers and the batch that is being applied, if any
//	leader/<lease>  the hubs, each under a lease; who came first leads
//	<kind>/<key>    the objects
//	wal/<batch>/<n> the parts of a batch that is too big for one transaction
//
// Only the hub that leads writes, and only in transactions which prove that it still does: they compare the head with
// what this hub left there, and look for its leader key. The head differs after every change of it, so a request that is
// sent again because its answer was lost changes nothing twice, and one that arrives late, after a newer one or another
// hub's, changes nothing at all.
//
// etcd bounds the operations and the bytes of a transaction (128 and 1.5 MiB by default). A batch beyond that is first
// written in parts, which mean nothing until the head names them: with that it is stored, whatever happens next. Then its
// objects are put where they belong, as often as it takes, and the head lets go of the parts. Nobody reads in between:
// readers look at the revision of a head that names no parts. A hub that takes over first finishes what the last one
// left, or drops parts that no head names.
//
// Compact gives old revisions up, which is done to the whole etcd cluster: others who use the same one must bear that as
// they bear its automatic compaction. A cluster of the hubs' own is simplest. Its quota (2 GiB by default) should be at
// least four times what a backup takes.
package etcd

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/tailgate-project/tailgate/hub/store"
)

// Options say where the store is. Endpoints and Prefix are required.
type Options struct {
	// Endpoints are the URLs of the etcd cluster's members, all https or all http.
	Endpoints []string
	// Prefix is what the names of all keys begin with. Each federation has its own.
	Prefix string
	// TLS is how the endpoints are spoken to, see [LoadTLS]. By default the system's authorities are trusted.
	TLS *tls.Config
	// Username and PasswordFile are set where etcd asks for a password. The file's last line break does not count.
	Username, PasswordFile string
	// Identity is how this hub is called in logs and to those that wait, the host's name by default.
	Identity string
	// LeaseTTL is how long a hub that died is still taken for the leader, 15 s by default, 2 s at least. It is also how
	// long etcd may be away without the leader having to step back.
	LeaseTTL time.Duration
	// Timeout bounds a commit, and each step of one that takes several, 5 s by default.
	Timeout time.Duration
	// JournalLimit is how many decisions are kept, 100,000 by default.
	JournalLimit uint64
	// JournalAge is for how long they are kept, 90 days by default.
	JournalAge time.Duration
	// Waiting is called from Open with the identity of the hub that leads, whenever that is another one than before.
	Waiting func(leader string)
	// Now is the clock, time.Now by default.
	Now func() time.Time
	// Log is told what no caller is, nothing by default.
	Log *slog.Logger

	// wrap stands between the store and etcd in tests.
	wrap func(requests) requests
}

func (o Options) withDefaults() (Options, error) {
	o.LeaseTTL = cmp.Or(o.LeaseTTL, 15*time.Second)
	o.Timeout = cmp.Or(o.Timeout, 5*time.Second)
	o.JournalLimit = cmp.Or(o.JournalLimit, 100_000)
	o.JournalAge = cmp.Or(o.JournalAge, 90*24*time.Hour)
	if o.LeaseTTL < 2*time.Second || o.Timeout < 0 || o.JournalAge < 0 {
		return o, fmt.Errorf("lease of %s, timeout of %s, journal of %s: a lease has 2s at least, nothing is negative", o.LeaseTTL, o.Timeout, o.JournalAge)
	}
	if o.Identity == "" {
		host, err := os.Hostname()
		if err != nil {
			return o, fmt.Errorf("name this hub: %w; set an identity", err)
		}
		o.Identity = host
	}
	if o.Waiting == nil {
		o.Waiting = func(string) {}
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return o, nil
}

// requests is what the store asks of etcd, but for leases and watches.
type requests interface {
	Do(ctx context.Context, op clientv3.Op) (clientv3.OpResponse, error)
}

// DB is a store whose hub leads, or has led.
type DB struct {
	opts   Options
	client *clientv3.Client
	kv     requests
	keys   keys
	seat   seat
	epoch  uint64
	// turn is held by who compacts or backs up.
	turn lock
	// writing is held by who changes the store. It guards all that follows.
	writing lock
	// head is what we left in etcd, raw its bytes, nil before there is one.
	head head
	raw  []byte
	// doubts are heads that we may have left since: those of requests that were given up without an answer.
	doubts [][]byte
	// stamp is the last number that made a head unlike all others of this epoch.
	stamp uint64
	// litter is set when there may be parts that no head will ever name.
	litter bool
	// ages are the times of the journal's oldest records, as far as they were looked at.
	ages ages
}

var _ store.Store = (*DB)(nil)

// Open waits until this hub leads, and takes the next epoch: one more than the last, and at least the time in seconds, so
// that spokes believe a hub that has lost its store, whose epochs they have seen. Then it finishes what the last hub left
// half done. An empty prefix becomes a new store. A store of a newer schema is refused with [store.ErrSchema], one that
// cannot be read with [store.ErrCorrupt], both unchanged. ctx bounds the wait.
func Open(ctx context.Context, o Options) (*DB, error) {
	d, err := connect(o)
	if err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	for {
		err = d.lead(ctx)
		if err == nil {
			return d, nil
		}
		if !errors.Is(err, errLeaseLost) && !errors.Is(err, store.ErrFenced) {
			return nil, fmt.Errorf("open the store %s: %w", d.keys, errors.Join(err, d.client.Close()))
		}
		// The lease ran out before the store was ours: etcd was away for as long, or another hub is quicker.
		d.opts.Log.Warn("standing for leader again", "store", string(d.keys), "err", err)
	}
}

// connect makes a store that does not lead yet.
func connect(o Options) (*DB, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	prefix, err := toKeys(o.Prefix)
	if err != nil {
		return nil, err
	}
	client, err := dial(o)
	if err != nil {
		return nil, err
	}
	d := &DB{opts: o, client: client, kv: client, keys: prefix, turn: newLock(), writing: newLock()}
	if o.wrap != nil {
		d.kv = o.wrap(client)
	}
	return d, nil
}

// lead waits for the lead and takes the store over. It leaves no lease behind where it fails.
func (d *DB) lead(ctx context.Context) error {
	if err := d.stand(ctx); err != nil {
		return err
	}
	if err := d.wait(ctx); err != nil {
		return errors.Join(err, d.resign())
	}
	if err := d.takeOver(ctx); err != nil {
		return errors.Join(err, d.resign())
	}
	return nil
}

// takeOver takes the next epoch and finishes a batch that another hub has stored, or drops what it has not.
func (d *DB) takeOver(ctx context.Context) error {
	if err := d.readHead(ctx); err != nil {
		return err
	}
	next := d.head
	if d.raw == nil {
		if err := d.vacant(ctx); err != nil {
			return err
		}
		next = newHead()
	}
	next.epoch = max(next.epoch+1, uint64(max(0, d.opts.Now().Unix())))
	left, err := d.readParts(ctx)
	if err != nil {
		return err
	}
	var drop []clientv3.Op
	if next.pending.parts == 0 {
		drop = append(drop, clientv3.OpDelete(d.keys.parts(), clientv3.WithPrefix()))
	}
	err = d.owning(func() error {
		if d.head.epoch < next.epoch {
			if err := d.step(ctx, next, drop...); err != nil {
				return fmt.Errorf("take epoch %d: %w", next.epoch, err)
			}
		}
		return d.finish(ctx, left)
	})
	d.epoch = d.head.epoch
	return err
}

// Epoch returns the epoch that Open took.
func (d *DB) Epoch() uint64 { return d.epoch }

// Close steps back, so that another hub leads at once. If etcd cannot be told, it waits for the lease to run out.
func (d *DB) Close() error {
	err := d.resign()
	if err != nil {
		err = fmt.Errorf("close the store %s: %w", d.keys, err)
	}
	return errors.Join(err, d.client.Close())
}

// lock is a mutex that can be waited for as long as a context lasts.
type lock chan struct{}

func newLock() lock { return make(lock, 1) }

// take fails without the lock if ctx ends first, or has ended.
func (l lock) take(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	select {
	case l <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (l lock) give() { <-l }
