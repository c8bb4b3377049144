package bolt_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/federation/failover"
	"github.com/tailgate-project/tailgate/hub/store"
	"github.com/tailgate-project/tailgate/hub/store/bolt"
	"github.com/tailgate-project/tailgate/hub/store/storetest"
)

func open(t *testing.T, path string, o bolt.Options) *bolt.DB {
	t.Helper()
	db, err := bolt.Open(path, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Check(); err != nil {
			t.Error(err)
		}
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return db
}

func TestConformance(t *testing.T) {
	path := filepath.Join(t.TempDir(), "hub.db")
	var last *bolt.DB
	storetest.Run(t, func(t *testing.T) storetest.Store {
		if last != nil {
			if err := last.Close(); err != nil {
				t.Fatal(err)
			}
		}
		db, err := bolt.Open(path, bolt.Options{NoSync: true})
		if err != nil {
			t.Fatal(err)
		}
		last = db
		return db
	})
	if err := last.Check(); err != nil {
		t.Error(err)
	}
	if err := last.Close(); err != nil {
		t.Error(err)
	}
}

func TestTheJournalIsBounded(t *testing.T) {
	db := open(t, filepath.Join(t.TempDir(), "hub.db"), bolt.Options{NoSync: true, JournalLimit: 5})
	for range 12 {
		if err := db.Commit(t.Context(), store.Batch{Journal: []failover.Decision{{Reason: failover.Serving}}}); err != nil {
			t.Fatal(err)
		}
	}
	got, err := db.Journal(t.Context(), 0, 100, federation.ServiceID{})
	if err != nil || len(got) != 5 || got[0].Seq != 8 || got[4].Seq != 12 {
		t.Errorf("err %v, %d records: %+v", err, len(got), got)
	}
}

func TestANewStoreHasAnEpochThatSpokesBelieve(t *testing.T) {
	clock := time.Unix(1_800_000_000, 0)
	old := open(t, filepath.Join(t.TempDir(), "hub.db"), bolt.Options{Now: func() time.Time { return clock }})
	clock = clock.Add(time.Minute)
	lost := open(t, filepath.Join(t.TempDir(), "hub.db"), bolt.Options{Now: func() time.Time { return clock }})
	if lost.Epoch() <= old.Epoch() {
		t.Errorf("the new store's epoch is %d, the lost one's was %d", lost.Epoch(), old.Epoch())
	}
}

func TestOneHubAtATime(t *testing.T) {
	path := filepath.Join(t.TempDir(), "hub.db")
	open(t, path, bolt.Options{})
	_, err := bolt.Open(path, bolt.Options{LockTimeout: time.Millisecond})
	if !errors.Is(err, store.ErrInUse) || !strings.Contains(err.Error(), "stop that one first") {
		t.Errorf("second open: %v", err)
	}
}

// TestUnreadableFilesAreRefusedAndKept damages a store in several ways: it must be refused with words that help, and
// not a byte of it may change.
func TestUnreadableFilesAreRefusedAndKept(t *testing.T) {
	whole := func(t *testing.T) []byte {
		path := filepath.Join(t.TempDir(), "whole.db")
		db, err := bolt.Open(path, bolt.Options{})
		if err != nil {
			t.Fatal(err)
		}
		for range 50 {
			if err := db.Commit(t.Context(), store.Batch{Journal: []failover.Decision{{Reason: failover.Serving}}}); err != nil {
				t.Fatal(err)
			}
		}
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	for name, damage := range map[string]func([]byte) []byte{
		"empty":     func([]byte) []byte { return nil },
		"text":      func([]byte) []byte { return []byte("this is no database\n") },
		"truncated": func(b []byte) []byte { return b[:len(b)/3] },
		"bad-metas": func(b []byte) []byte {
			return append(bytes.Repeat([]byte{0xff}, 2*os.Getpagesize()), b[2*os.Getpagesize():]...)
		},
		"zeroed-end": func(b []byte) []byte {
			return append(b[:2*os.Getpagesize():2*os.Getpagesize()], make([]byte, len(b)-2*os.Getpagesize())...)
		},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "hub.db")
			damaged := damage(whole(t))
			if err := os.WriteFile(path, damaged, 0o600); err != nil {
				t.Fatal(err)
			}
			db, err := bolt.Open(path, bolt.Options{})
			if err == nil {
				_ = db.Close()
			}
			if !errors.Is(err, store.ErrCorrupt) || !strings.Contains(err.Error(), "restore a backup") || !strings.Contains(err.Error(), path) {
				t.Errorf("Open: %v", err)
			}
			if after, err := os.ReadFile(path); err != nil || !bytes.Equal(after, damaged) {
				t.Errorf("the file was changed (%v)", err)
			}
		})
	}
}

func TestAnotherProgramsDatabaseIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "other.db")
	db, err := bbolt.Open(path, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Update(func(tx *bbolt.Tx) error {
		_, err := tx.CreateBucket([]byte("theirs"))
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := bolt.Open(path, bolt.Options{}); !errors.Is(err, store.ErrCorrupt) || !strings.Contains(err.Error(), "no Tailgate store") {
		t.Errorf("Open: %v", err)
	}
}

func TestANewerSchemaIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "hub.db")
	ours, err := bolt.Open(path, bolt.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := ours.Close(); err != nil {
		t.Fatal(err)
	}
	db, err := bbolt.Open(path, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Update(func(tx *bbolt.Tx) error {
		return tx.Bucket([]byte("meta")).Put([]byte("schema"), []byte{0, 0, 0, 0, 0, 0, 0, 9})
	}); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := bolt.Open(path, bolt.Options{}); !errors.Is(err, store.ErrSchema) {
		t.Errorf("Open: %v, want ErrSchema", err)
	}
}
