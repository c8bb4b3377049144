package bolt_test

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/federation/ledger"
	"github.com/tailgate-project/tailgate/hub/store"
	"github.com/tailgate-project/tailgate/hub/store/bolt"
	"github.com/tailgate-project/tailgate/hub/store/storetest"
)

// lasting keeps the whole journal, whatever the times in it.
var lasting = bolt.Options{NoSync: true, JournalLimit: 1 << 32, JournalAge: 1 << 62}

// kept is what a store holds.
type kept struct {
	state   ledger.State
	records []ledger.Record
}

// used returns a store's file, with free pages, overflowing ones and branches, and what is in it.
func used(t *testing.T, g *storetest.Generator) ([]byte, *kept) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "used.db")
	db, err := bolt.Open(path, lasting)
	if err != nil {
		t.Fatal(err)
	}
	g.Clusters, g.Services = 12, 40
	var m storetest.Model
	commit := func(b ledger.Batch) {
		if err := db.Commit(t.Context(), b); err != nil {
			t.Fatal(err)
		}
		m.Commit(b)
	}
	for range 12 {
		commit(g.Batch(25))
	}
	big := ledger.Member{Cluster: "big"}
	for range 1000 {
		big.Ingress = append(big.Ingress, ledger.Host{NodeID: "n", Addr: "100.64.0.1:80"})
	}
	commit(ledger.Batch{Members: map[federation.ClusterID]*ledger.Member{"big": &big}})
	commit(g.Batch(25))
	shut(t, db)
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	k := &kept{m.State(), m.Records(0, federation.ServiceID{})}
	page := os.Getpagesize() // without the room to grow at its end
	b = b[:(len(bytes.TrimRight(b, "\x00"))+page-1)/page*page]
	if refusedOrWhole(t, path, b, k) || t.Failed() {
		t.Fatal("the store is refused as it is")
	}
	return b, k
}

// refusedOrWhole opens a damaged file: it must be refused with words that help and not a byte of it changed, or nothing
// that counts was hit, and it holds what it held. It reports which.
func refusedOrWhole(t *testing.T, path string, damaged []byte, m *kept) (refused bool) {
	t.Helper()
	if err := os.WriteFile(path, damaged, 0o600); err != nil {
		t.Fatal(err)
	}
	db, err := bolt.Open(path, lasting)
	if err != nil {
		if !errors.Is(err, store.ErrCorrupt) || !strings.Contains(err.Error(), "restore a backup") || !strings.Contains(err.Error(), path) {
			t.Errorf("Open: %v", err)
		}
		if after, err := os.ReadFile(path); err != nil || !bytes.Equal(after, damaged) {
			t.Errorf("the file was changed (%v)", err)
		}
		return true
	}
	defer shut(t, db)
	state, err := db.Load(t.Context())
	if err != nil || storetest.Diff(m.state, state) != "" {
		t.Errorf("it holds another state, err %v", err)
	}
	records, err := db.Journal(t.Context(), 0, len(m.records)+1, federation.ServiceID{})
	if err != nil || storetest.Diff(m.records, records) != "" {
		t.Errorf("it holds another journal, err %v", err)
	}
	return false
}

// TestAFlippedBitIsFoundOrDoesNotCount flips bits anywhere, and more of them where the structure of the file is: in the
// first pages and at the beginning of each.
func TestAFlippedBitIsFoundOrDoesNotCount(t *testing.T) {
	g := &storetest.Generator{Rand: rand.New(rand.NewPCG(storetest.Seed(t), 0))}
	whole, m := used(t, g)
	path, page := filepath.Join(t.TempDir(), "hub.db"), os.Getpagesize()
	refusals := 0
	const flips = 1500
	for i := range flips {
		at := g.IntN(len(whole))
		switch i % 4 {
		case 0:
			at = g.IntN(2 * page)
			if i%8 == 0 {
				at = at/page*page + g.IntN(80) // what a meta page says
			}
		case 1:
			at = at/page*page + g.IntN(64)
		}
		bit := byte(1) << g.IntN(8)
		damaged := bytes.Clone(whole)
		damaged[at] ^= bit
		if refusedOrWhole(t, path, damaged, m) {
			refusals++
		}
		if t.Failed() {
			t.Fatalf("bit %#02x of byte %d (page %d, %d)", bit, at, at/page, at%page)
		}
	}
	t.Logf("%d bytes, %d flips, %d refusals", len(whole), flips, refusals)
	if refusals < flips/4 {
		t.Errorf("only %d of %d flips were found: most of the file is in use", refusals, flips)
	}
}

func TestACutFileIsRefused(t *testing.T) {
	g := &storetest.Generator{Rand: rand.New(rand.NewPCG(storetest.Seed(t), 0))}
	whole, m := used(t, g)
	path, page := filepath.Join(t.TempDir(), "hub.db"), os.Getpagesize()
	for i := range 200 {
		at := g.IntN(len(whole))
		if i%2 == 0 {
			at = at / page * page
		}
		if !refusedOrWhole(t, path, whole[:at], m) && at < len(whole)/2 {
			t.Errorf("half of it is missing and it was opened")
		}
		if t.Failed() {
			t.Fatalf("cut at %d of %d", at, len(whole))
		}
	}
}

// TestAnExchangedPageIsRefused puts a page in the place of another, as a disk does that writes to the wrong place, or
// not at all.
func TestAnExchangedPageIsRefused(t *testing.T) {
	g := &storetest.Generator{Rand: rand.New(rand.NewPCG(storetest.Seed(t), 0))}
	whole, m := used(t, g)
	path, page := filepath.Join(t.TempDir(), "hub.db"), os.Getpagesize()
	for i := range 300 {
		from, to := g.IntN(len(whole)/page), g.IntN(len(whole)/page)
		if i < 2 {
			from, to = i, 1-i // the one that says where everything is, and the one before it
		}
		damaged := bytes.Clone(whole)
		copy(damaged[to*page:(to+1)*page], whole[from*page:])
		if g.IntN(4) == 0 {
			clear(damaged[to*page : (to+1)*page])
		}
		refusedOrWhole(t, path, damaged, m)
		if t.Failed() {
			t.Fatalf("page %d in the place of %d", from, to)
		}
	}
}
