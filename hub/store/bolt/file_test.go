package bolt_test

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/federation/ledger"
	"github.com/tailgate-project/tailgate/hub/store"
	"github.com/tailgate-project/tailgate/hub/store/bolt"
	"github.com/tailgate-project/tailgate/hub/store/storetest"
)

// TestCommitsGoOnDuringABackup has a backup that nobody takes any further: commits do not wait for it and are no part of
// it.
func TestCommitsGoOnDuringABackup(t *testing.T) {
	g := &storetest.Generator{Rand: rand.New(rand.NewPCG(storetest.Seed(t), 0)), Services: 200}
	db := open(t, filepath.Join(t.TempDir(), "hub.db"), lasting)
	var m storetest.Model
	for range 20 {
		b := g.Batch(40)
		if err := db.Commit(t.Context(), b); err != nil {
			t.Fatal(err)
		}
		m.Commit(b)
	}
	r, w := io.Pipe()
	backup := make(chan error, 1)
	go func() { backup <- errors.Join(db.Backup(t.Context(), w), w.Close()) }()
	first := make([]byte, 1)
	if _, err := io.ReadFull(r, first); err != nil { // it has begun
		t.Fatal(err)
	}
	for range 50 {
		if err := db.Commit(t.Context(), g.Batch(40)); err != nil {
			t.Fatal(err)
		}
	}
	restored := filepath.Join(t.TempDir(), "restored.db")
	if err := bolt.Restore(restored, io.MultiReader(bytes.NewReader(first), r)); err != nil {
		t.Fatal(err)
	}
	if err := <-backup; err != nil {
		t.Fatal(err)
	}
	got, err := open(t, restored, lasting).Load(t.Context())
	if d := storetest.Diff(m.State(), got); err != nil || d != "" {
		t.Errorf("err %v, state (-want +got)\n%s", err, d)
	}
}

// TestTheFileIsGone: what is committed to a file without a name is lost, so nothing is.
func TestTheFileIsGone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "hub.db")
	db, err := bolt.Open(path, bolt.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	b := ledger.Batch{Members: map[federation.ClusterID]*ledger.Member{"c1": {Cluster: "c1"}}}
	for name, err := range map[string]error{
		"Commit": db.Commit(t.Context(), b), "Compact": db.Compact(t.Context()), "Superseded": db.Superseded(t.Context()), "Check": db.Check(t.Context()),
	} {
		if !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: %v, want os.ErrNotExist", name, err)
		}
	}
}

func TestACompactedFileIsSmallerAndLocked(t *testing.T) {
	path := filepath.Join(t.TempDir(), "hub.db")
	db := open(t, path, lasting)
	b := ledger.Batch{Members: map[federation.ClusterID]*ledger.Member{"big": {Cluster: "big"}}}
	for range 100_000 {
		b.Members["big"].Ingress = append(b.Members["big"].Ingress, ledger.Host{NodeID: "node", Addr: "100.64.0.1:80"})
	}
	for _, m := range []*ledger.Member{b.Members["big"], nil} {
		b.Members["big"] = m
		if err := db.Commit(t.Context(), b); err != nil {
			t.Fatal(err)
		}
	}
	before := size(t, path)
	if err := db.Compact(t.Context()); err != nil {
		t.Fatal(err)
	}
	if after := size(t, path); after >= before/2 {
		t.Errorf("%d bytes were compacted to %d", before, after)
	}
	if _, err := bolt.Open(path, bolt.Options{LockTimeout: 1}); !errors.Is(err, store.ErrInUse) {
		t.Errorf("another hub opens the new file: %v", err)
	}
	names, err := filepath.Glob(path + "*")
	if err != nil || len(names) != 1 {
		t.Errorf("left behind: %v, err %v", names, err)
	}
}

func size(t *testing.T, path string) int64 {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.Size()
}

func TestTheJournalIsBoundedByItsSize(t *testing.T) {
	g := &storetest.Generator{Rand: rand.New(rand.NewPCG(1, 0)), Full: true}
	opts := lasting
	opts.JournalBytes = 4000
	db := open(t, filepath.Join(t.TempDir(), "hub.db"), opts)
	for range 100 {
		if err := db.Commit(t.Context(), g.Batch(5)); err != nil {
			t.Fatal(err)
		}
	}
	got, err := db.Journal(t.Context(), 0, 1000, federation.ServiceID{})
	if err != nil || len(got) < 5 || len(got) > 40 {
		t.Errorf("err %v, %d records of some 200 bytes are kept in 4000", err, len(got))
	}
}

// TestNothingIsLeftOfWhatFails: neither a store nor a part of one.
func TestNothingIsLeftOfWhatFails(t *testing.T) {
	dir := t.TempDir()
	broken := errors.New("broken")
	for name, tc := range map[string]struct {
		err  error
		want error
		text string
	}{
		"restore-from-a-broken-stream": {bolt.Restore(filepath.Join(dir, "a.db"), iotest.ErrReader(broken)), broken, "read backup"},
		"restore-of-no-backup":         {bolt.Restore(filepath.Join(dir, "b.db"), strings.NewReader("hello, this is not a backup at all")), store.ErrCorrupt, "no backup of a Tailgate store"},
		"restore-over-a-directory":     {bolt.Restore(dir, strings.NewReader("")), store.ErrExists, "move it away first"},
		"open-a-directory":             {opening(dir), nil, "is a directory, name a file"},
		"open-in-no-directory":         {opening(filepath.Join(dir, "none", "hub.db")), os.ErrNotExist, "create"},
	} {
		t.Run(name, func(t *testing.T) {
			if tc.err == nil || tc.want != nil && !errors.Is(tc.err, tc.want) || !strings.Contains(tc.err.Error(), tc.text) {
				t.Errorf("%v, want %v, %q", tc.err, tc.want, tc.text)
			}
		})
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, err %v", left, err)
	}
}

func opening(path string) error {
	_, err := bolt.Open(path, bolt.Options{})
	return err
}
