package etcd_test

import (
	"bytes"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/federation/failover"
	"github.com/tailgate-project/tailgate/federation/ledger"
	"github.com/tailgate-project/tailgate/federation/vip"
	"github.com/tailgate-project/tailgate/hub/store/codec"
	"github.com/tailgate-project/tailgate/hub/store/etcd"
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
			Addrs: []netip.Addr{netip.AddrFrom4([4]byte{100, 64 + byte(n>>16), byte(n >> 8), byte(n)})},
		}, Epoch: 1_800_000_000}})
		b.Exports[x.Key] = &failover.Saved{Export: x}
	}
	return b
}

// BenchmarkCommit commits changes to a store, and in turn with that has etcd put the same bytes under the same keys in
// one transaction, with nothing around it. etcd does not sync its disk.
func BenchmarkCommit(b *testing.B) {
	for _, count := range []int{1, 50} {
		b.Run(fmt.Sprintf("%d-changes", count), func(b *testing.B) {
			db, raw := open(b, shared.options(b)), shared.client(b)
			commitAll(b, db, 2000)
			var store, plainly []time.Duration
			for n := 0; b.Loop(); n++ {
				batch := changes(n, count)
				start := time.Now()
				if err := db.Commit(b.Context(), batch); err != nil {
					b.Fatal(err)
				}
				middle := time.Now()
				if _, err := raw.Txn(b.Context()).Then(puts(b, batch, n)...).Commit(); err != nil {
					b.Fatal(err)
				}
				store, plainly = append(store, middle.Sub(start)), append(plainly, time.Since(middle))
			}
			b.ReportMetric(median(store), "store-ns/commit")
			b.ReportMetric(median(plainly), "etcd-ns/txn")
			b.ReportMetric(median(plainly)/median(store), "of-etcd's-throughput")
		})
	}
}

// changes is a batch of so many exports that go down, each with its decision.
func changes(round, count int) ledger.Batch {
	at := time.Unix(1_800_000_000+int64(round), 0).UTC()
	b := ledger.Batch{Exports: map[federation.ExportKey]*failover.Saved{}}
	for i := range count {
		x := exported((round*count + i) * 7919 % 2000)
		cell := failover.Cell{Down: true, Reason: failover.NoReadyEndpoints, Since: at}
		b.Exports[x.Key] = &failover.Saved{Export: x, SavedSubject: failover.SavedSubject{Cells: []failover.SavedCell{{Cell: cell}}}}
		b.Journal = append(b.Journal, failover.Decision{
			At: at, Subject: federation.Target{Cluster: x.Key.Cluster, Service: x.Key.Service}, To: federation.Unhealthy, Reason: failover.NoReadyEndpoints,
		})
	}
	return b
}

// puts are the operations that put the same bytes.
func puts(b *testing.B, batch ledger.Batch, round int) []clientv3.Op {
	b.Helper()
	objects, err := codec.Changes(batch)
	if err != nil {
		b.Fatal(err)
	}
	for i, d := range batch.Journal {
		o, err := codec.Decision(uint64(round*len(batch.Journal)+i+1), d)
		if err != nil {
			b.Fatal(err)
		}
		objects = append(objects, o)
	}
	var ops []clientv3.Op
	for _, o := range objects {
		ops = append(ops, clientv3.OpPut("/raw/"+o.Kind.String()+"/"+string(o.Key), string(o.Value)))
	}
	return ops
}

// median is in nanoseconds. What else the machine does at times does not move it.
func median(all []time.Duration) float64 {
	slices.Sort(all)
	return float64(all[len(all)/2].Nanoseconds())
}

func commitAll(b *testing.B, db *etcd.DB, exports int) {
	b.Helper()
	for n := 0; n < exports; n += 10_000 {
		if err := db.Commit(b.Context(), populated(n, min(n+10_000, exports))); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkLoad reads 250,000 exports with their VIPs, backs them up and restores them.
func BenchmarkLoad(b *testing.B) {
	const exports = 250_000
	o := shared.options(b)
	db := open(b, o)
	commitAll(b, db, exports)
	b.Run("load", func(b *testing.B) {
		for b.Loop() {
			s, err := db.Load(b.Context())
			if err != nil || len(s.Exports) != exports || len(s.VIPs) != exports {
				b.Fatalf("%d exports, err %v", len(s.Exports), err)
			}
		}
	})
	var backup bytes.Buffer
	b.Run("backup", func(b *testing.B) {
		for b.Loop() {
			if err := db.Backup(b.Context(), io.Discard); err != nil {
				b.Fatal(err)
			}
		}
	})
	if err := db.Backup(b.Context(), &backup); err != nil {
		b.Fatal(err)
	}
	b.Run("restore", func(b *testing.B) {
		for n := 0; b.Loop(); n++ {
			o := o
			o.Prefix = fmt.Sprintf("%s-restored-%d", o.Prefix, n)
			if err := etcd.Restore(b.Context(), o, bytes.NewReader(backup.Bytes())); err != nil {
				b.Fatal(err)
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
}
