package bolt_test

import (
	"bytes"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/federation/failover"
	"github.com/tailgate-project/tailgate/federation/ledger"
	"github.com/tailgate-project/tailgate/federation/vip"
	"github.com/tailgate-project/tailgate/hub/store/bolt"
	"github.com/tailgate-project/tailgate/hub/store/codec"
)

// exported is the n-th of a thousand exports of each cluster.
func exported(n int) federation.Export {
	return federation.Export{
		Key: federation.ExportKey{
			Cluster: federation.ClusterID(fmt.Sprintf("cluster-%03d", n/1000)), Service: federation.Service(fmt.Sprintf("team-%02d", n%20), fmt.Sprintf("service-%04d", n%1000)),
		},
		Tailnet: "production", TailnetRef: "ts-production", Ready: 3, Desired: 3,
		Ports: []federation.Port{{Name: "http", Port: 8080, Protocol: federation.TCP}}, Labels: map[string]string{"app": fmt.Sprintf("service-%04d", n%1000)},
	}
}

// populated is a batch of the VIPs and the exports from first to before last.
func populated(first, last int) ledger.Batch {
	b := ledger.Batch{Exports: map[federation.ExportKey]*failover.Saved{}}
	for n := first; n < last; n++ {
		x := exported(n)
		name := fmt.Sprintf("local-production-service-%04d", n%1000)
		b.VIPs = append(b.VIPs, vip.Change{Entry: vip.Entry{VIP: federation.VIP{
			Owner: x.Key, Name: name, ServiceName: name + "-" + string(x.Key.Cluster), Tailnet: x.Tailnet, TailnetRef: x.TailnetRef, Ports: x.Ports,
			Addrs: []netip.Addr{netip.AddrFrom4([4]byte{100, 64 + byte(n>>16), byte(n >> 8), byte(n)}), netip.AddrFrom16([16]byte{0xfd, 0x7a, 13: byte(n >> 16), 14: byte(n >> 8), 15: byte(n)})},
		}, Epoch: 1_800_000_000}})
		b.Exports[x.Key] = &failover.Saved{Export: x}
	}
	return b
}

func fill(b *testing.B, db *bolt.DB, exports int) {
	b.Helper()
	for n := 0; n < exports; n += 10_000 {
		if err := db.Commit(b.Context(), populated(n, min(n+10_000, exports))); err != nil {
			b.Fatal(err)
		}
	}
}

// flaps is a batch of so many exports of 10,000 that go down, each with its decision.
func flaps(round, count int) ledger.Batch {
	at := time.Unix(1_800_000_000+int64(round), 0)
	b := ledger.Batch{Exports: map[federation.ExportKey]*failover.Saved{}}
	for i := range count {
		x := exported((round*count + i) * 7919 % 10_000)
		cell := failover.Cell{Down: true, Reason: failover.NoReadyEndpoints, Since: at}
		b.Exports[x.Key] = &failover.Saved{Export: x, SavedSubject: failover.SavedSubject{Cells: []failover.SavedCell{{Cell: cell}}}}
		b.Journal = append(b.Journal, failover.Decision{
			At: at, Subject: federation.Target{Cluster: x.Key.Cluster, Service: x.Key.Service}, To: federation.Unhealthy, Reason: failover.NoReadyEndpoints,
			Inputs: failover.Inputs{LinkLost: -1, APILost: -1, Votes: failover.Votes{Reach: 3}, Policy: "default"},
		})
	}
	return b
}

// BenchmarkCommit commits changes to a store, and in turn with that does the same to a database of bbolt with nothing
// around it: the same bytes to the same keys and buckets. Without sync, what is measured is not the disk.
func BenchmarkCommit(b *testing.B) {
	for _, sync := range []bool{true, false} {
		for _, count := range []int{1, 100} {
			name := fmt.Sprintf("%d-changes", count)
			if !sync {
				name += "-without-sync"
			}
			b.Run(name, func(b *testing.B) { benchmarkCommit(b, count, !sync) })
		}
	}
}

func benchmarkCommit(b *testing.B, count int, noSync bool) {
	ours, plain := filepath.Join(b.TempDir(), "hub.db"), filepath.Join(b.TempDir(), "raw.db")
	db, err := bolt.Open(ours, bolt.Options{NoSync: noSync, JournalLimit: 1 << 32}) // the other one drops nothing either
	if err != nil {
		b.Fatal(err)
	}
	defer db.Close()
	fill(b, db, 10_000)
	base := bare(b, plain, noSync)
	defer base.Close()

	batches, objects := make([]ledger.Batch, 64), make([][]codec.Object, 64)
	for i := range batches {
		batches[i] = flaps(i, count)
		objects[i] = raw(b, batches[i])
	}
	var store, plainly []time.Duration
	seq, rounds := uint64(0), 0
	for b.Loop() {
		start := time.Now()
		if err := db.Commit(b.Context(), batches[rounds%len(batches)]); err != nil {
			b.Fatal(err)
		}
		middle := time.Now()
		if err := update(base, objects[rounds%len(batches)], &seq); err != nil {
			b.Fatal(err)
		}
		store, plainly = append(store, middle.Sub(start)), append(plainly, time.Since(middle))
		rounds++
	}
	b.ReportMetric(median(store), "store-ns/commit")
	b.ReportMetric(median(plainly), "bbolt-ns/commit")
	b.ReportMetric(median(plainly)/median(store), "of-bbolt's-throughput")
}

// median is in nanoseconds. What else the machine does at times does not move it.
func median(all []time.Duration) float64 {
	slices.Sort(all)
	return float64(all[len(all)/2].Nanoseconds())
}

// bare opens a database that has what the store has.
func bare(b *testing.B, path string, noSync bool) *bbolt.DB {
	b.Helper()
	ours, err := bolt.Open(path, bolt.Options{NoSync: true})
	if err != nil {
		b.Fatal(err)
	}
	fill(b, ours, 10_000)
	if err := ours.Close(); err != nil {
		b.Fatal(err)
	}
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{FreelistType: bbolt.FreelistMapType, NoSync: noSync, NoGrowSync: noSync})
	if err != nil {
		b.Fatal(err)
	}
	return db
}

// update writes what a commit writes: the objects, the records with the next numbers, and a head.
func update(db *bbolt.DB, objects []codec.Object, seq *uint64) error {
	return db.Update(func(tx *bbolt.Tx) error {
		for _, o := range objects {
			key := o.Key
			if o.Kind == codec.Journal {
				*seq++
				key = codec.SequenceKey(*seq)
			}
			if err := tx.Bucket([]byte(o.Kind.String())).Put(key, o.Value); err != nil {
				return err
			}
		}
		meta := tx.Bucket([]byte("meta"))
		return meta.Put([]byte("head"), bytes.Clone(meta.Get([]byte("head"))))
	})
}

// raw returns the keys and values that a store writes for a batch.
func raw(b *testing.B, batch ledger.Batch) []codec.Object {
	b.Helper()
	out, err := codec.Changes(batch)
	if err != nil {
		b.Fatal(err)
	}
	for _, d := range batch.Journal {
		o, err := codec.Decision(1, d)
		if err != nil {
			b.Fatal(err)
		}
		out = append(out, o)
	}
	return out
}

// BenchmarkLoad reads 250,000 exports with their VIPs, and opens such a file, which looks through all of it.
func BenchmarkLoad(b *testing.B) {
	const exports = 250_000
	path := filepath.Join(b.TempDir(), "hub.db")
	db, err := bolt.Open(path, bolt.Options{NoSync: true})
	if err != nil {
		b.Fatal(err)
	}
	fill(b, db, exports)
	b.Run("load", func(b *testing.B) {
		for b.Loop() {
			s, err := db.Load(b.Context())
			if err != nil || len(s.Exports) != exports || len(s.VIPs) != exports {
				b.Fatalf("%d exports, err %v", len(s.Exports), err)
			}
		}
	})
	b.Run("compact", func(b *testing.B) {
		for b.Loop() {
			if err := db.Compact(b.Context()); err != nil {
				b.Fatal(err)
			}
		}
	})
	if err := db.Close(); err != nil {
		b.Fatal(err)
	}
	b.Run("open", func(b *testing.B) {
		for b.Loop() {
			db, err := bolt.Open(path, bolt.Options{NoSync: true})
			if err != nil {
				b.Fatal(err)
			}
			if err := db.Close(); err != nil {
				b.Fatal(err)
			}
		}
	})
}
