package etcd_test

import (
	"context"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/federation/ledger"
	"github.com/tailgate-project/tailgate/hub/store"
	"github.com/tailgate-project/tailgate/hub/store/etcd"
	"github.com/tailgate-project/tailgate/hub/store/storetest"
)

func TestConformance(t *testing.T) {
	raw := shared.client(t)
	named := func(t *testing.T, name string, c storetest.Config) etcd.Options {
		o := shared.options(t)
		o.Prefix, o.JournalLimit, o.JournalAge, o.Now = "/conformance/"+name, c.JournalLimit, c.JournalAge, c.Now
		return o
	}
	openNamed := func(t *testing.T, name string, c storetest.Config) store.Store {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
		defer cancel()
		db, err := etcd.Open(ctx, named(t, name, c))
		if err != nil {
			t.Fatal(err)
		}
		return db
	}
	storetest.Run(t, storetest.Kind{
		Open: openNamed,
		Usurp: func(t *testing.T, name string) store.Store {
			depose(t, raw, named(t, name, storetest.Config{}))
			return openNamed(t, name, storetest.Config{})
		},
		Restore: func(t *testing.T, name string, r io.Reader) error {
			return etcd.Restore(t.Context(), named(t, name, storetest.Config{}), r)
		},
	})
}

// depose takes the lease of the hub that leads, as if it had run out.
func depose(t testing.TB, raw *clientv3.Client, o etcd.Options) {
	t.Helper()
	resp, err := raw.Get(t.Context(), o.Prefix+"/leader/", clientv3.WithFirstCreate()...)
	if err != nil {
		t.Fatal(err)
	}
	for _, kv := range resp.Kvs {
		if _, err := raw.Revoke(t.Context(), clientv3.LeaseID(kv.Lease)); err != nil {
			t.Fatal(err)
		}
	}
}

// TestReadersSeeNoBigBatchByHalf reads while big batches are put where they belong.
func TestReadersSeeNoBigBatchByHalf(t *testing.T) {
	db := open(t, shared.options(t))
	whole := func(zone string) ledger.Batch {
		b := ledger.Batch{Members: map[federation.ClusterID]*ledger.Member{}}
		for i := range 4 * etcd.MaxBatch {
			c := federation.ClusterID(fmt.Sprintf("c%d", i))
			b.Members[c] = &ledger.Member{Cluster: c, Locality: federation.Locality{Zone: zone}}
		}
		return b
	}
	commit(t, db, whole("a"))
	done := make(chan struct{})
	var readers sync.WaitGroup
	var seen [2]map[string]int
	for i := range seen {
		seen[i] = map[string]int{}
		readers.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				s, err := db.Load(t.Context())
				if err != nil {
					t.Error(err)
					return
				}
				for _, m := range s.Members {
					if m.Locality != s.Members[0].Locality {
						t.Errorf("zones %q and %q in one state", m.Locality.Zone, s.Members[0].Locality.Zone)
						return
					}
				}
				seen[i][s.Members[0].Locality.Zone]++
			}
		})
	}
	for i := range 30 {
		commit(t, db, whole(string(rune('a'+i%2))))
	}
	close(done)
	readers.Wait()
	if len(seen[0]) < 2 && len(seen[1]) < 2 {
		t.Errorf("no reader met a writer: %v", seen)
	}
}

// TestTheCompactedFileIsSmaller fills an etcd with history and has it given back.
func TestTheCompactedFileIsSmaller(t *testing.T) {
	s := own(t)
	db := open(t, s.options(t))
	for range 30 {
		for _, b := range history() {
			commit(t, db, b)
		}
	}
	size := func() int64 {
		status, err := s.client(t).Status(t.Context(), s.url)
		if err != nil {
			t.Fatal(err)
		}
		return status.DbSize
	}
	before := size()
	want, err := db.Load(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Compact(t.Context()); err != nil {
		t.Fatal(err)
	}
	if after := size(); after > before/2 {
		t.Errorf("etcd's file had %d bytes and has %d", before, after)
	}
	got, err := db.Load(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if d := storetest.Diff(want, got); d != "" {
		t.Errorf("state (-want +got)\n%s", d)
	}
	commit(t, db, member("c1"))
}

// TestReadersOutliveACompaction has somebody else compact etcd while a state of many pages is read.
func TestReadersOutliveACompaction(t *testing.T) {
	raw := shared.client(t)
	o := shared.options(t)
	pages := 0
	db := open(t, o.Through(func(next etcd.Requests) etcd.Requests {
		return etcd.Do(func(ctx context.Context, op clientv3.Op) (clientv3.OpResponse, error) {
			if op.IsGet() && op.Rev() > 0 {
				if pages++; pages == 2 {
					put, err := raw.Put(ctx, "/elsewhere", "x")
					if err != nil {
						return clientv3.OpResponse{}, err
					}
					if _, err := raw.Compact(ctx, put.Header.Revision); err != nil {
						return clientv3.OpResponse{}, err
					}
				}
			}
			return next.Do(ctx, op)
		})
	}))
	var m storetest.Model
	for _, b := range history() {
		commit(t, db, b)
		m.Commit(b)
	}
	pages = 0
	records, err := db.Journal(t.Context(), 0, 1000, federation.Service("shop", "web"))
	if err != nil || len(records) != len(m.Journal) {
		t.Errorf("%d records, err %v", len(records), err)
	}
	pages = 1
	if _, err := db.Journal(t.Context(), 0, 1000, federation.ServiceID{}); err != nil {
		t.Error(err)
	}
	if pages < 3 {
		t.Errorf("%d pages were read: none was read again", pages)
	}
}

func TestTooBigAnObjectIsRefused(t *testing.T) {
	db := open(t, shared.options(t))
	b := member("c1")
	b.Members["c1"].Locality.Zone = strings.Repeat("z", 3*etcd.PartBytes)
	if err := db.Commit(t.Context(), b); err == nil || !strings.Contains(err.Error(), `members "c1" has`) {
		t.Errorf("Commit: %v", err)
	}
	b.Members["c1"].Locality.Zone = strings.Repeat("z", 3*etcd.PartBytes/2) // alone in its transaction
	b.Members["c2"] = &ledger.Member{Cluster: "c2"}
	commit(t, db, b)
	if n := members(t, db); n != 2 {
		t.Errorf("%d members, want 2", n)
	}
}
