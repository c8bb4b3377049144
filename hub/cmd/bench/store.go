package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"go.etcd.io/bbolt"

	"github.com/tailgate-project/tailgate/federation/coordinator"
	"github.com/tailgate-project/tailgate/federation/failover"
	"github.com/tailgate-project/tailgate/federation/ledger"
	"github.com/tailgate-project/tailgate/hub/store/bolt"
	"github.com/tailgate-project/tailgate/hub/store/codec"
)

// commits is how many batches are committed for a measurement.
const commits = 300

// commit measures commits of one change and of a hundred. The baseline is bbolt itself, writing the same bytes under the
// same keys. Both are done in turn, so that a disk that is slow for a while is slow for both.
func commit(ctx context.Context, print func(line)) (err error) {
	for _, changes := range []int{1, 100} {
		batches, err := batchesOf(changes)
		if err != nil {
			return err
		}
		ours, raw, err := commitBoth(ctx, batches)
		if err != nil {
			return err
		}
		ratio := float64(raw) / float64(ours)
		print(line{
			Name: fmt.Sprintf("commits of %d changes", changes), Unit: "per second", Value: 1 / ours.Seconds(), Baseline: 1 / raw.Seconds(),
			Of: "bbolt Update writing the same bytes", Target: "ratio at least 0.8", Met: ratio >= 0.8, Where: fmt.Sprintf("P50 of %d, synced to disk", commits),
		})
	}
	return nil
}

// batchesOf returns batches of a size, as a federation makes them: exports whose readiness changes, with their decisions.
func batchesOf(changes int) ([]ledger.Batch, error) {
	l := newLive(spread(small, each))
	l.fill()
	var out []ledger.Batch
	for n := range commits {
		b := ledger.Batch{Exports: map[key]*failover.Saved{}}
		l.stored = func(one ledger.Batch) {
			maps.Copy(b.Exports, one.Exports)
			b.Journal = append(b.Journal, one.Journal...)
		}
		for i := range changes {
			l.decide(failover.ExportChanged{Export: l.export((n*changes+i)%l.services(), 0, n*changes/l.services()%2*2)})
		}
		if len(b.Exports) != changes {
			return nil, fmt.Errorf("a batch has %d changes and not %d", len(b.Exports), changes)
		}
		out = append(out, b)
	}
	return out, nil
}

func commitBoth(ctx context.Context, batches []ledger.Batch) (ours, raw time.Duration, err error) {
	dir, err := os.MkdirTemp("", "tailgate-bench-")
	if err != nil {
		return 0, 0, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	db, err := bolt.Open(filepath.Join(dir, "store.db"), bolt.Options{})
	if err != nil {
		return 0, 0, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	plain, err := bbolt.Open(filepath.Join(dir, "raw.db"), 0o600, &bbolt.Options{FreelistType: bbolt.FreelistMapType})
	if err != nil {
		return 0, 0, err
	}
	defer func() { err = errors.Join(err, plain.Close()) }()
	var all [2][]time.Duration
	seq := uint64(0)
	for _, b := range batches {
		objects, err := codec.Changes(b)
		if err != nil {
			return 0, 0, err
		}
		for _, d := range b.Journal {
			seq++
			o, err := codec.Decision(seq, d)
			if err != nil {
				return 0, 0, err
			}
			objects = append(objects, o)
		}
		start := time.Now()
		if err := db.Commit(ctx, b); err != nil {
			return 0, 0, err
		}
		middle := time.Now()
		if err := plain.Update(func(tx *bbolt.Tx) error { return write(tx, objects) }); err != nil {
			return 0, 0, err
		}
		all[0], all[1] = append(all[0], middle.Sub(start)), append(all[1], time.Since(middle))
	}
	return p50(all[0]), p50(all[1]), nil
}

func write(tx *bbolt.Tx, objects []codec.Object) error {
	for _, o := range objects {
		b, err := tx.CreateBucketIfNotExists([]byte(o.Kind.String()))
		if err != nil {
			return err
		}
		if err := b.Put(o.Key, o.Value); err != nil {
			return err
		}
	}
	return nil
}

func p50(took []time.Duration) time.Duration {
	slices.Sort(took)
	return took[len(took)/2]
}

// load measures a hub's start: the load of all exports with their VIPs from a store. The baseline is to read the file.
func load(ctx context.Context, print func(line)) (err error) {
	dir, err := os.MkdirTemp("", "tailgate-bench-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	path := filepath.Join(dir, "store.db")
	if err := fillStore(ctx, path); err != nil {
		return err
	}
	start := time.Now()
	file, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	base := time.Since(start)
	db, err := bolt.Open(path, bolt.Options{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	start = time.Now()
	state, err := db.Load(ctx)
	if err != nil {
		return err
	}
	took := time.Since(start)
	if _, err := coordinator.New(coordinator.Config{}, state, time.Now()); err != nil {
		return err
	}
	whole := time.Since(start)
	print(line{
		Name: "load of the store", Unit: "ms", Value: micros(took) / 1000, Baseline: micros(base) / 1000, Of: "reading the file",
		Target: "under 2000 ms", Met: took < 2*time.Second,
		Where: fmt.Sprintf("%d exports and VIPs, %d MB; with the indexes of the core %d ms", len(state.Exports), len(file)>>20, whole.Milliseconds()),
	})
	return nil
}

// fillStore keeps a large federation.
func fillStore(ctx context.Context, path string) (err error) {
	db, err := bolt.Open(path, bolt.Options{NoSync: true})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	l := newLive(spread(large, each))
	l.fill()
	b := ledger.Batch{Exports: map[key]*failover.Saved{}, Members: map[clusterID]*ledger.Member{}}
	flush := func() {
		if err == nil {
			err = db.Commit(ctx, b)
		}
		b = ledger.Batch{Exports: map[key]*failover.Saved{}, Members: map[clusterID]*ledger.Member{}}
	}
	for e := range l.core.Registry().All() {
		x, _ := l.core.State().Export(e.Owner)
		b.VIPs = append(b.VIPs, change(*e))
		b.Exports[e.Owner] = &failover.Saved{Export: x}
		if len(b.VIPs) == each {
			flush()
		}
	}
	for _, id := range l.core.Members() {
		m, _ := l.core.Member(id)
		b.Members[id] = &m
	}
	flush()
	return err
}
