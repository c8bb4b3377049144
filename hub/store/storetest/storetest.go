// Package storetest is what every store of the hub must do, as tests that each store's own tests run.
package storetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/netip"
	"os"
	"reflect"
	"strconv"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/federation/failover"
	"github.com/tailgate-project/tailgate/federation/ledger"
	"github.com/tailgate-project/tailgate/hub/store"
)

// Config is what a store is opened with. Zero fields stand for the store's own defaults.
type Config struct {
	// JournalLimit is how many decisions are kept, JournalAge for how long.
	JournalLimit uint64
	JournalAge   time.Duration
	Now          func() time.Time
}

// Kind is a kind of store.
type Kind struct {
	// Open opens the store with a name, which nobody has open. A name that was not opened or restored before is an
	// empty store.
	Open func(t *testing.T, name string, c Config) store.Store
	// Usurp opens the store with a name although another hub has it open, which must then believe that it was taken
	// over.
	Usurp func(t *testing.T, name string) store.Store
	// Restore makes the store with a name from a backup.
	Restore func(t *testing.T, name string, r io.Reader) error
}

// Equal compares what a store was given with what it gives back.
var Equal = cmp.Options{cmpopts.EquateComparable(netip.Addr{}), cmpopts.EquateEmpty()}

// Diff says how two values differ, as [cmp.Diff] does with [Equal]. It is quick where they do not.
func Diff(want, got any) string {
	if reflect.DeepEqual(want, got) {
		return ""
	}
	return cmp.Diff(want, got, Equal)
}

// Run tests a kind of store.
func Run(t *testing.T, k Kind) {
	for name, test := range map[string]func(*suite){
		"commit-and-load":              (*suite).commitAndLoad,
		"random-batches":               (*suite).randomBatches,
		"a-batch-is-whole-or-nothing":  (*suite).atomicBatches,
		"big-batches":                  (*suite).bigBatches,
		"epochs-rise":                  (*suite).epochsRise,
		"fencing":                      (*suite).fencing,
		"journal-in-parts":             (*suite).journalInParts,
		"journal-of-a-service":         (*suite).journalOfAService,
		"journal-is-bounded-by-number": (*suite).journalBoundedByNumber,
		"journal-is-bounded-by-age":    (*suite).journalBoundedByAge,
		"readers-beside-commits":       (*suite).readersBesideCommits,
		"backup-and-restore":           (*suite).backupAndRestore,
		"damaged-backups":              (*suite).damagedBackups,
		"compaction":                   (*suite).compaction,
		"cancellation":                 (*suite).cancellation,
	} {
		t.Run(name, func(t *testing.T) {
			// The times of generated decisions are any; what is about the journal's bounds sets its own.
			test(&suite{T: t, kind: k, name: name, conf: Config{JournalLimit: 1 << 32, JournalAge: 1 << 62}})
		})
	}
}

// Seed returns the seed of a random test: $STORE_SEED, or one of its own, which it logs.
func Seed(t *testing.T) uint64 {
	t.Helper()
	seed := rand.Uint64()
	if s := os.Getenv("STORE_SEED"); s != "" {
		n, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			t.Fatalf("STORE_SEED: %v", err)
		}
		seed = n
	}
	t.Logf("STORE_SEED=%d", seed)
	return seed
}

// suite is one test of a kind of store, on a store of its own.
type suite struct {
	*testing.T
	kind Kind
	name string
	conf Config
}

// generator returns one whose seed is logged.
func (s *suite) generator() *Generator {
	return &Generator{Rand: rand.New(rand.NewPCG(Seed(s.T), 0))}
}

// open opens the test's store. The test ends with a look at whether it is sound.
func (s *suite) open() *opened {
	s.Helper()
	return s.take(s.kind.Open(s.T, s.name, s.conf))
}

func (s *suite) take(st store.Store) *opened {
	o := &opened{Store: st, t: s.T}
	s.Cleanup(o.close)
	return o
}

// opened is a store whose errors end the test.
type opened struct {
	store.Store
	t      *testing.T
	closed bool
}

func (o *opened) close() {
	o.t.Helper()
	if o.closed {
		return
	}
	o.closed = true
	if err := o.Check(context.WithoutCancel(o.t.Context())); err != nil {
		o.t.Errorf("the store is not sound: %v", err)
	}
	if err := o.Close(); err != nil {
		o.t.Errorf("close: %v", err)
	}
}

func (o *opened) commit(b ledger.Batch) {
	o.t.Helper()
	if err := o.Commit(o.t.Context(), b); err != nil {
		o.t.Fatalf("commit: %v", err)
	}
}

func (o *opened) load() ledger.State {
	o.t.Helper()
	s, err := o.Load(o.t.Context())
	if err != nil {
		o.t.Fatalf("load: %v", err)
	}
	return s
}

func (o *opened) journal(after uint64, limit int, id federation.ServiceID) []ledger.Record {
	o.t.Helper()
	got, err := o.Journal(o.t.Context(), after, limit, id)
	if err != nil {
		o.t.Fatalf("journal: %v", err)
	}
	return got
}

func (o *opened) last() uint64 {
	o.t.Helper()
	got, err := o.Last(o.t.Context())
	if err != nil {
		o.t.Fatalf("last: %v", err)
	}
	return got
}

func (o *opened) backup() []byte {
	o.t.Helper()
	var b bytes.Buffer
	if err := o.Backup(o.t.Context(), &b); err != nil {
		o.t.Fatalf("backup: %v", err)
	}
	return b.Bytes()
}

func (o *opened) compact() {
	o.t.Helper()
	if err := o.Compact(o.t.Context()); err != nil {
		o.t.Fatalf("compact: %v", err)
	}
}

func (s *suite) restore(backup []byte) {
	s.Helper()
	if err := s.kind.Restore(s.T, s.name, bytes.NewReader(backup)); err != nil {
		s.Fatalf("restore: %v", err)
	}
}

// same fails unless the store holds what the model holds, the whole journal included.
func (o *opened) same(m *Model) {
	o.t.Helper()
	if d := Diff(m.State(), o.load()); d != "" {
		o.t.Fatalf("state (-want +got)\n%s", d)
	}
	all := federation.ServiceID{}
	if d := Diff(m.Records(0, all), o.journal(0, len(m.Journal)+1, all)); d != "" {
		o.t.Fatalf("journal (-want +got)\n%s", d)
	}
}

// decisions are so many, taken at the time.
func (s *suite) decisions(n int, at time.Time) ledger.Batch {
	b := ledger.Batch{}
	for range n {
		b.Journal = append(b.Journal, failover.Decision{
			At: at, Subject: federation.Target{Cluster: "c1", Service: federation.Service("default", "web")}, To: federation.Unhealthy, Reason: failover.NoReadyEndpoints,
		})
	}
	return b
}

// Fenced tests that old can no longer commit once young, of the same store, was opened.
func Fenced(t *testing.T, old, young store.Store) {
	t.Helper()
	if young.Epoch() <= old.Epoch() {
		t.Errorf("epoch %d after %d", young.Epoch(), old.Epoch())
	}
	b := ledger.Batch{Members: map[federation.ClusterID]*ledger.Member{"fenced": {Cluster: "fenced"}}}
	if err := old.Commit(t.Context(), b); !errors.Is(err, store.ErrFenced) {
		t.Errorf("the older epoch committed: %v", err)
	}
	s, err := young.Load(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range s.Members {
		if m.Cluster == "fenced" {
			t.Error("what the older epoch committed is there")
		}
	}
	b = ledger.Batch{Members: map[federation.ClusterID]*ledger.Member{"young": {Cluster: "young"}}}
	if err := young.Commit(t.Context(), b); err != nil {
		t.Errorf("the newer epoch cannot commit: %v", err)
	}
}

// sized is a batch of so many objects.
func sized(n int, zone string) ledger.Batch {
	b := ledger.Batch{Members: map[federation.ClusterID]*ledger.Member{}}
	for i := range n {
		c := federation.ClusterID(fmt.Sprintf("c%06d", i))
		b.Members[c] = &ledger.Member{Cluster: c, Locality: federation.Locality{Zone: zone}}
	}
	return b
}
