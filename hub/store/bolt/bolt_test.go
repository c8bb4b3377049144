package bolt_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/federation/failover"
	"github.com/tailgate-project/tailgate/federation/ledger"
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
	t.Cleanup(func() { shut(t, db) })
	return db
}

// shut closes a store after a look at whether it is sound.
func shut(t *testing.T, db *bolt.DB) {
	t.Helper()
	if err := db.Check(context.WithoutCancel(t.Context())); err != nil {
		t.Error(err)
	}
	if err := db.Close(); err != nil {
		t.Error(err)
	}
}

func TestConformance(t *testing.T) {
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name+".db") }
	openNamed := func(t *testing.T, name string, c storetest.Config) store.Store {
		db, err := bolt.Open(path(name), bolt.Options{NoSync: true, JournalLimit: c.JournalLimit, JournalAge: c.JournalAge, Now: c.Now})
		if err != nil {
			t.Fatal(err)
		}
		return db
	}
	storetest.Run(t, storetest.Kind{
		Open: openNamed,
		Usurp: func(t *testing.T, name string) store.Store {
			copyFile(t, path(name), path(name)+".copy")
			if err := os.Rename(path(name)+".copy", path(name)); err != nil {
				t.Fatal(err)
			}
			return openNamed(t, name, storetest.Config{})
		},
		Restore: func(_ *testing.T, name string, r io.Reader) error { return bolt.Restore(path(name), r) },
	})
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	b, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(to, b, 0o600); err != nil {
		t.Fatal(err)
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
			if err := db.Commit(t.Context(), ledger.Batch{Journal: []failover.Decision{{Subject: federation.Target{Cluster: "c1"}, Reason: failover.Serving}}}); err != nil {
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
