// Package storetest is what every store of the hub must do, as tests that each store's own tests run.
package storetest

import (
	"context"
	"errors"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/federation/failover"
	"github.com/tailgate-project/tailgate/federation/vip"
	"github.com/tailgate-project/tailgate/hub/store"
)

// Store is a store as the hub uses it.
type Store interface {
	Epoch() uint64
	Load(ctx context.Context) (store.State, error)
	Commit(ctx context.Context, b store.Batch) error
	Journal(ctx context.Context, after uint64, limit int, service federation.ServiceID) ([]store.Record, error)
	Close() error
}

var equal = cmp.Options{cmpopts.EquateComparable(netip.Addr{}), cmpopts.EquateEmpty()}

// Run tests the store that reopen opens, closing the one that it opened before.
func Run(t *testing.T, reopen func(t *testing.T) Store) {
	web, api := federation.Service("default", "web"), federation.Service("default", "api")
	key := federation.ExportKey{Cluster: "c1", Service: web}
	entry := vip.Entry{VIP: federation.VIP{Owner: key, Name: "local-p-web", ServiceName: "local-p-web-c1", Addrs: []netip.Addr{netip.MustParseAddr("100.100.0.1")}}}
	saved := failover.Saved{Export: federation.Export{Key: key, Ready: 2}}
	member := store.Member{Cluster: "c1", Interest: store.Interest{All: true}}
	decision := func(id federation.ServiceID) failover.Decision {
		return failover.Decision{
			At: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), Export: federation.ExportKey{Cluster: "c1", Service: id},
			From: federation.Healthy, To: federation.Unhealthy, Reason: failover.NoReadyEndpoints,
		}
	}
	full := store.Batch{
		VIPs:    []vip.Change{{Entry: entry}},
		Exports: map[federation.ExportKey]*failover.Saved{key: &saved},
		Members: map[federation.ClusterID]*store.Member{"c1": &member},
		Journal: []failover.Decision{decision(web), decision(api)},
	}

	t.Run("what-is-committed-is-loaded", func(t *testing.T) {
		s := reopen(t)
		commit(t, s, full)
		got, err := reopen(t).Load(t.Context())
		want := store.State{VIPs: []vip.Entry{entry}, Exports: []failover.Saved{saved}, Members: []store.Member{member}}
		if d := cmp.Diff(want, got, equal); err != nil || d != "" {
			t.Errorf("err %v, state (-want +got)\n%s", err, d)
		}
	})
	t.Run("what-is-deleted-is-gone", func(t *testing.T) {
		s := reopen(t)
		commit(t, s, full)
		commit(t, s, store.Batch{
			VIPs:    []vip.Change{{Entry: entry, Delete: true}},
			Exports: map[federation.ExportKey]*failover.Saved{key: nil},
			Members: map[federation.ClusterID]*store.Member{"c1": nil},
		})
		got, err := reopen(t).Load(t.Context())
		if d := cmp.Diff(store.State{}, got, equal); err != nil || d != "" {
			t.Errorf("err %v, state (-want +got)\n%s", err, d)
		}
	})
	t.Run("the-journal-counts-on-and-is-read-in-parts", func(t *testing.T) {
		s := reopen(t)
		before := journal(t, s, 0, 1000, federation.ServiceID{})
		commit(t, s, full)
		s = reopen(t)
		commit(t, s, full)
		all := journal(t, s, uint64(len(before)), 1000, federation.ServiceID{})
		if len(all) != 4 {
			t.Fatalf("%d new records, want 4", len(all))
		}
		for i, r := range all {
			if r.Seq != uint64(len(before)+i+1) {
				t.Errorf("record %d has the number %d", i, r.Seq)
			}
		}
		if got := journal(t, s, all[1].Seq, 1, federation.ServiceID{}); len(got) != 1 || got[0].Seq != all[2].Seq {
			t.Errorf("one record after %d: %+v", all[1].Seq, got)
		}
		for _, r := range journal(t, s, 0, 1000, api) {
			if r.Export.Service != api {
				t.Errorf("asked for %s, got %s", api, r.Export.Service)
			}
		}
		if d := cmp.Diff(decision(web), all[0].Decision, equal); d != "" {
			t.Errorf("decision (-want +got)\n%s", d)
		}
	})
	t.Run("each-open-has-a-greater-epoch", func(t *testing.T) {
		first := reopen(t).Epoch()
		if second := reopen(t).Epoch(); second <= first {
			t.Errorf("epoch %d after %d", second, first)
		}
	})
}

// Fenced tests that old can no longer commit once young, of the same store, was opened.
func Fenced(t *testing.T, old, young Store) {
	err := old.Commit(t.Context(), store.Batch{Journal: []failover.Decision{{Reason: failover.Serving}}})
	if !errors.Is(err, store.ErrFenced) {
		t.Errorf("the older epoch committed: %v", err)
	}
	commit(t, young, store.Batch{Journal: []failover.Decision{{Reason: failover.Serving}}})
}

func commit(t *testing.T, s Store, b store.Batch) {
	t.Helper()
	if err := s.Commit(t.Context(), b); err != nil {
		t.Fatal(err)
	}
}

func journal(t *testing.T, s Store, after uint64, limit int, id federation.ServiceID) []store.Record {
	t.Helper()
	got, err := s.Journal(t.Context(), after, limit, id)
	if err != nil {
		t.Fatal(err)
	}
	return got
}
