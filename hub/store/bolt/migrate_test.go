package bolt_test

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/federation/failover"
	"github.com/tailgate-project/tailgate/federation/ledger"
	"github.com/tailgate-project/tailgate/federation/vip"
	"github.com/tailgate-project/tailgate/hub/store"
	"github.com/tailgate-project/tailgate/hub/store/bolt"
	"github.com/tailgate-project/tailgate/hub/store/storetest"
)

// unpacked writes a fixture to a file of its own.
func unpacked(t *testing.T, fixture string) string {
	t.Helper()
	packed, err := os.Open(filepath.Join("testdata", fixture))
	if err != nil {
		t.Fatal(err)
	}
	defer packed.Close()
	r, err := gzip.NewReader(packed)
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "hub.db")
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestSchema1IsMigrated opens a file that the first schema's hub wrote. It had taken five decisions and kept three.
func TestSchema1IsMigrated(t *testing.T) {
	at := time.Date(2026, 3, 1, 12, 0, 0, 123456789, time.UTC)
	web, http := federation.Service("shop", "web"), federation.Listener("infra", "main", "http")
	a, b := federation.ExportKey{Cluster: "c1", Service: web}, federation.ExportKey{Cluster: "c2", Service: http}
	ports := []federation.Port{{Name: "http", Port: 8080, Protocol: federation.TCP}, {Port: 53, Protocol: federation.UDP}}
	want := ledger.State{
		VIPs: []vip.Entry{
			{VIP: federation.VIP{Owner: b, Name: "gateway-main-http-80", ServiceName: "gateway-main-http-80-c2", Tailnet: "production", TailnetRef: "ts-prod", Ports: ports[:1]}, ReleasedAt: at.Add(time.Hour)},
			{VIP: federation.VIP{
				Owner: a, Name: "local-production-web", ServiceName: "local-production-web-c1", Tailnet: "production", TailnetRef: "ts-prod", Ports: ports,
				Addrs: []netip.Addr{netip.MustParseAddr("100.100.0.1"), netip.MustParseAddr("fd7a:115c::1")},
			}},
		},
		Exports: []failover.Saved{
			{
				Export: federation.Export{Key: a, Tailnet: "production", TailnetRef: "ts-prod", Ports: ports, Ready: 2},
				SavedSubject: failover.SavedSubject{Cells: []failover.SavedCell{
					{Cell: failover.Cell{Down: true, Reason: failover.UnreachableByQuorum, Since: at}},
					{Consumer: "c3", Cell: failover.Cell{Down: true, Reason: failover.UnreachableByObserver, Since: at, GoodSince: at.Add(time.Second)}},
				}},
			},
			{Export: federation.Export{Key: b, Tailnet: "production", TailnetRef: "ts-prod", Ports: ports[:1]}},
		},
		Members: []ledger.Member{
			{
				Cluster: "c1", Locality: federation.Locality{Region: "eu", Zone: "eu-1"},
				Ingress: []ledger.Host{{NodeID: "n1", Addr: "100.64.0.1:9000"}}, Interest: federation.Interest{All: true},
				Heard: true, Complete: true,
			},
			{Cluster: "c2", Interest: federation.Interest{Services: []federation.ServiceID{http, web}}, Heard: true, Complete: true},
		},
	}
	decision := failover.Decision{
		Subject: federation.Target{Cluster: "c1", Service: web}, From: federation.Healthy, To: federation.Unhealthy, Reason: failover.UnreachableByQuorum,
		Inputs: failover.Inputs{
			Ready: 2, LinkLost: 3 * time.Second, APILost: -1,
			Votes: failover.Votes{Reach: 1, Fail: 2, Doubted: 1, Failing: []federation.ClusterID{"c2", "c3", "c4"}},
		},
	}
	var records []ledger.Record
	for seq := uint64(3); seq <= 5; seq++ {
		d := decision
		d.At = at.Add(time.Duration(seq-1) * time.Minute)
		if seq == 5 {
			d.Consumer, d.Inputs = "c3", failover.Inputs{Ready: 2, LinkLost: -1, APILost: -1}
		}
		records = append(records, ledger.Record{Seq: seq, Decision: d})
	}

	path := unpacked(t, "v1.db.gz")
	opts := bolt.Options{Now: func() time.Time { return at }}
	for round := range 2 { // as it was migrated, and as it is opened again
		db, err := bolt.Open(path, opts)
		if err != nil {
			t.Fatal(err)
		}
		got, err := db.Load(t.Context())
		if d := storetest.Diff(want, got); err != nil || d != "" {
			t.Errorf("err %v, state (-want +got)\n%s", err, d)
		}
		journal, err := db.Journal(t.Context(), 0, 10, federation.ServiceID{})
		if d := storetest.Diff(records, journal); err != nil || d != "" {
			t.Errorf("err %v, journal (-want +got)\n%s", err, d)
		}
		if want := uint64(at.Unix() + 1 + int64(round)); db.Epoch() != want {
			t.Errorf("epoch %d, want %d: one more than it had", db.Epoch(), want)
		}
		shut(t, db)
	}
	db := open(t, path, opts)
	if err := db.Commit(t.Context(), ledger.Batch{Journal: []failover.Decision{records[0].Decision}}); err != nil {
		t.Fatal(err)
	}
	if next, err := db.Journal(t.Context(), 5, 10, federation.ServiceID{}); err != nil || len(next) != 1 || next[0].Seq != 6 {
		t.Errorf("err %v, the next decision is %+v, want number 6", err, next)
	}
}

// TestAMigrationThatFailsChangesNothing has an object in the old file that cannot be read.
func TestAMigrationThatFailsChangesNothing(t *testing.T) {
	for bucket, value := range map[string]string{
		"vips": `{"Owner":{"Cluster":"C 1"}}`, "exports": `{`, "members": `{"Cluster":7}`, "journal": `{"To":"melted"}`,
	} {
		t.Run(bucket, func(t *testing.T) {
			path := unpacked(t, "v1.db.gz")
			edit(t, path, func(tx *bbolt.Tx) error { return tx.Bucket([]byte(bucket)).Put([]byte("zzzzzzzz"), []byte(value)) })
			refusedUnchanged(t, path, store.ErrCorrupt)
		})
	}
}

func TestANewerSchemaIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "hub.db")
	db, err := bolt.Open(path, bolt.Options{})
	if err != nil {
		t.Fatal(err)
	}
	shut(t, db)
	edit(t, path, func(tx *bbolt.Tx) error {
		head := binary.BigEndian.AppendUint64(nil, 9)
		head = append(head, "whatever schema 9 may have"...)
		head = binary.BigEndian.AppendUint32(head, crc32.Checksum(head, crc32.MakeTable(crc32.Castagnoli)))
		return tx.Bucket([]byte("meta")).Put([]byte("head"), head)
	})
	refusedUnchanged(t, path, store.ErrSchema)
}

// edit changes a file as only another program would.
func edit(t *testing.T, path string, change func(tx *bbolt.Tx) error) {
	t.Helper()
	db, err := bbolt.Open(path, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Update(change); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
}

// refusedUnchanged fails unless Open refuses the file and leaves every byte of it.
func refusedUnchanged(t *testing.T, path string, want error) {
	t.Helper()
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := bolt.Open(path, bolt.Options{}); !errors.Is(err, want) {
		t.Errorf("Open: %v, want %v", err, want)
	}
	if after, err := os.ReadFile(path); err != nil || !bytes.Equal(before, after) {
		t.Errorf("the file was changed (%v)", err)
	}
}
