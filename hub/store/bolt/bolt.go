// Package bolt keeps the hub's state in one bbolt file. It is the store of a hub that runs alone.
package bolt

import (
	"cmp"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"time"

	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/federation/failover"
	"github.com/tailgate-project/tailgate/hub/store"
)

// schema is the version of the layout below.
const schema = 1

var (
	metaBucket    = []byte("meta")    // schema, epoch: 8 bytes, big endian
	vipBucket     = []byte("vips")    // service name → vip.Entry
	exportBucket  = []byte("exports") // export key → failover.Saved
	memberBucket  = []byte("members") // cluster id → store.Member
	journalBucket = []byte("journal") // sequence, 8 bytes big endian → failover.Decision

	schemaKey = []byte("schema")
	epochKey  = []byte("epoch")
)

// Options tune a store. The zero value is what a hub wants.
type Options struct {
	// LockTimeout is how long Open waits for another process to let go of the file, 1 s by default.
	LockTimeout time.Duration
	// JournalLimit is how many decisions are kept, 100,000 by default.
	JournalLimit uint64
	// Now is the clock, time.Now by default.
	Now func() time.Time
	// NoSync leaves writing to the operating system: for tests that lose nothing but time by it.
	NoSync bool
}

// DB is an open store.
type DB struct {
	db    *bbolt.DB
	limit uint64
	epoch uint64
}

// Open opens the file, or makes a new one if there is none, and takes the next epoch: one more than the last, and at
// least the time in seconds, so that spokes believe a hub that has lost its store, whose epochs they have seen. A file that cannot be read is
// refused with [store.ErrCorrupt] and left as it is; one that another hub has open, with [store.ErrInUse].
func Open(path string, o Options) (*DB, error) {
	if err := plausible(path); err != nil {
		return nil, err
	}
	db, err := open(path, o)
	if err != nil {
		return nil, explain(path, err)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	d := &DB{db: db, limit: cmp.Or(o.JournalLimit, 100_000)}
	if err := d.start(o.Now()); err != nil {
		return nil, explain(path, errors.Join(err, db.Close()))
	}
	return d, nil
}

// plausible refuses what bbolt would take for a new database, but is to us a lost one.
func plausible(path string) error {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("open store: %w", err)
	case info.IsDir():
		return fmt.Errorf("open store: %s is a directory, name a file", path)
	case info.Size() == 0:
		return explain(path, fmt.Errorf("%w: the file is empty", store.ErrCorrupt))
	}
	return nil
}

// open calls bbolt, which panics on some damaged pages.
func open(path string, o Options) (db *bbolt.DB, err error) {
	defer recoverCorrupt(&err)
	return bbolt.Open(path, 0o600, &bbolt.Options{
		Timeout: cmp.Or(o.LockTimeout, time.Second), NoSync: o.NoSync, FreelistType: bbolt.FreelistMapType,
	})
}

func recoverCorrupt(err *error) {
	if p := recover(); p != nil {
		*err = fmt.Errorf("%w: %v", store.ErrCorrupt, p)
	}
}

// explain turns bbolt's errors into the store's and says what to do.
func explain(path string, err error) error {
	switch {
	case errors.Is(err, bolterrors.ErrTimeout):
		return fmt.Errorf("open %s: %w: another hub has it open; stop that one first, two hubs need the etcd store", path, store.ErrInUse)
	case errors.Is(err, bolterrors.ErrInvalid), errors.Is(err, bolterrors.ErrChecksum), errors.Is(err, bolterrors.ErrVersionMismatch), errors.Is(err, store.ErrCorrupt):
		return fmt.Errorf("open %s: %w (%w): it was not changed; restore a backup in its place, or move it away to let the hub rebuild its registry from the members and the tailnet",
			path, store.ErrCorrupt, err)
	}
	return fmt.Errorf("open %s: %w", path, err)
}

// start lays a new store out, or checks the one that is there, and takes the next epoch.
func (d *DB) start(now time.Time) (err error) {
	defer recoverCorrupt(&err)
	empty, err := d.empty()
	if err == nil && empty {
		err = d.db.Update(layOut)
	}
	if err == nil { // nothing was written to a file that this refuses
		err = d.Check()
	}
	if err != nil {
		return err
	}
	return d.db.Update(func(tx *bbolt.Tx) error {
		meta := tx.Bucket(metaBucket)
		if v := number(meta.Get(schemaKey)); v != schema {
			return fmt.Errorf("%w %d, this version of Tailgate knows %d: use the version that wrote it", store.ErrSchema, v, schema)
		}
		d.epoch = max(number(meta.Get(epochKey))+1, uint64(max(0, now.Unix())))
		return meta.Put(epochKey, bytes(d.epoch))
	})
}

// empty reports whether the database has no buckets: it is new, or its first process died before it laid it out.
func (d *DB) empty() (empty bool, err error) {
	defer recoverCorrupt(&err)
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	err = d.db.View(func(tx *bbolt.Tx) error {
		k, _ := tx.Cursor().First()
		empty = k == nil
		return nil
	})
	return empty, err
}

// layOut makes the buckets.
func layOut(tx *bbolt.Tx) error {
	for _, b := range [][]byte{metaBucket, vipBucket, exportBucket, memberBucket, journalBucket} {
		if _, err := tx.CreateBucket(b); err != nil {
			return fmt.Errorf("create bucket %s: %w", b, err)
		}
	}
	return tx.Bucket(metaBucket).Put(schemaKey, bytes(schema))
}

// Epoch returns the epoch that Open took. It is greater than any that was taken of this file before.
func (d *DB) Epoch() uint64 { return d.epoch }

// Close closes the file.
func (d *DB) Close() error { return d.db.Close() }

// Check reads every object and every page, and returns what is broken.
func (d *DB) Check() (err error) {
	defer recoverCorrupt(&err)
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true)) // the file is mapped: what it lacks is a fault
	info, err := os.Stat(d.db.Path())
	if err != nil {
		return err
	}
	return d.db.View(func(tx *bbolt.Tx) error {
		if tx.Size() > info.Size() {
			return fmt.Errorf("%w: %d bytes of %d are missing", store.ErrCorrupt, tx.Size()-info.Size(), tx.Size())
		}
		// Objects first: bbolt's own check runs in a goroutine of its own, where a panic cannot be caught.
		if err := walk(tx); err != nil {
			return err
		}
		var errs []error
		for e := range tx.Check() {
			errs = append(errs, fmt.Errorf("%w: %w", store.ErrCorrupt, e))
		}
		return errors.Join(errs...)
	})
}

// walk decodes every object.
func walk(tx *bbolt.Tx) error {
	if tx.Bucket(metaBucket) == nil {
		return fmt.Errorf("%w: it is no Tailgate store", store.ErrCorrupt)
	}
	_, err := load(tx)
	return errors.Join(err, each(tx, journalBucket, new([]failover.Decision)))
}

// Load returns all that is stored.
func (d *DB) Load(context.Context) (store.State, error) {
	var s store.State
	err := d.db.View(func(tx *bbolt.Tx) (err error) {
		s, err = load(tx)
		return err
	})
	return s, err
}

func load(tx *bbolt.Tx) (store.State, error) {
	var s store.State
	err := errors.Join(
		each(tx, vipBucket, &s.VIPs),
		each(tx, exportBucket, &s.Exports),
		each(tx, memberBucket, &s.Members),
	)
	return s, err
}

// each reads all objects of a bucket, in the order of their keys.
func each[T any](tx *bbolt.Tx, bucket []byte, into *[]T) error {
	b := tx.Bucket(bucket)
	if b == nil {
		return fmt.Errorf("%w: bucket %s is missing", store.ErrCorrupt, bucket)
	}
	return b.ForEach(func(k, v []byte) error {
		var t T
		if err := json.Unmarshal(v, &t); err != nil {
			return fmt.Errorf("%w: %s %q: %w", store.ErrCorrupt, bucket, k, err)
		}
		*into = append(*into, t)
		return nil
	})
}

// Commit stores the batch, whole or not at all. It fails with [store.ErrFenced] once another Open has taken a newer
// epoch.
func (d *DB) Commit(_ context.Context, b store.Batch) error {
	err := d.db.Update(func(tx *bbolt.Tx) error {
		if at := number(tx.Bucket(metaBucket).Get(epochKey)); at != d.epoch {
			return fmt.Errorf("%w: ours is %d, the newest %d", store.ErrFenced, d.epoch, at)
		}
		for _, c := range b.VIPs {
			if err := put(tx, vipBucket, c.Entry.ServiceName, c.Entry, c.Delete); err != nil {
				return err
			}
		}
		for k, x := range b.Exports {
			if err := put(tx, exportBucket, k.String(), x, x == nil); err != nil {
				return err
			}
		}
		for id, m := range b.Members {
			if err := put(tx, memberBucket, string(id), m, m == nil); err != nil {
				return err
			}
		}
		return d.append(tx.Bucket(journalBucket), b.Journal)
	})
	if err != nil {
		return fmt.Errorf("commit: %w", err)
	}
	return nil
}

func put(tx *bbolt.Tx, bucket []byte, key string, value any, remove bool) error {
	if remove {
		return tx.Bucket(bucket).Delete([]byte(key))
	}
	v, err := json.Marshal(value)
	if err != nil {
		return fmt.Errorf("encode %s %q: %w", bucket, key, err)
	}
	return tx.Bucket(bucket).Put([]byte(key), v)
}

// append adds the decisions and drops as many of the oldest as are over the limit.
func (d *DB) append(b *bbolt.Bucket, decisions []failover.Decision) error {
	for _, dec := range decisions {
		seq, err := b.NextSequence()
		if err != nil {
			return err
		}
		v, err := json.Marshal(dec)
		if err != nil {
			return fmt.Errorf("encode decision: %w", err)
		}
		if err := b.Put(bytes(seq), v); err != nil {
			return err
		}
		if seq > d.limit {
			if err := b.Delete(bytes(seq - d.limit)); err != nil {
				return err
			}
		}
	}
	return nil
}

// Journal returns up to limit records after the sequence number, oldest first. An empty service means all.
func (d *DB) Journal(_ context.Context, after uint64, limit int, service federation.ServiceID) ([]store.Record, error) {
	var out []store.Record
	err := d.db.View(func(tx *bbolt.Tx) error {
		c := tx.Bucket(journalBucket).Cursor()
		for k, v := c.Seek(bytes(after + 1)); k != nil && len(out) < limit; k, v = c.Next() {
			r := store.Record{Seq: number(k)}
			if err := json.Unmarshal(v, &r.Decision); err != nil {
				return fmt.Errorf("%w: journal %d: %w", store.ErrCorrupt, r.Seq, err)
			}
			if service == (federation.ServiceID{}) || r.Export.Service == service {
				out = append(out, r)
			}
		}
		return nil
	})
	return out, err
}

func bytes(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }

func number(b []byte) uint64 {
	if len(b) != 8 {
		return 0
	}
	return binary.BigEndian.Uint64(b)
}
