package etcd_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/federation/failover"
	"github.com/tailgate-project/tailgate/federation/ledger"
	"github.com/tailgate-project/tailgate/hub/store/etcd"
	"github.com/tailgate-project/tailgate/hub/store/storetest"
)

// killer lets so many requests of a hub through, and then its process dies: nothing of it reaches etcd any more.
type killer struct {
	// last is the request at which it dies, the first is 0. With answered that one still reaches etcd.
	last     int
	answered bool
	die      context.CancelFunc

	mu   sync.Mutex
	sent int
}

func (k *killer) between(next etcd.Requests) etcd.Requests {
	return etcd.Do(func(ctx context.Context, op clientv3.Op) (clientv3.OpResponse, error) {
		k.mu.Lock()
		n, last, die := k.sent, k.last, k.die
		k.sent++
		k.mu.Unlock()
		if n < last {
			return next.Do(ctx, op)
		}
		if n == last && k.answered {
			if resp, err := next.Do(ctx, op); err != nil {
				return resp, err
			}
		}
		die()
		return clientv3.OpResponse{}, context.Canceled
	})
}

// arm begins to count anew.
func (k *killer) arm(last int, die context.CancelFunc) {
	k.mu.Lock()
	k.sent, k.last, k.die = 0, last, die
	k.mu.Unlock()
}

// died reports whether it did.
func (k *killer) died() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.sent > k.last
}

// history are batches that make every way through Commit: small ones, and one that is too big for a transaction by
// number and by size and drops most of the journal.
func history() []ledger.Batch {
	batch := func(objects, decisions int, zone string) ledger.Batch {
		b := ledger.Batch{Members: map[federation.ClusterID]*ledger.Member{}}
		for i := range objects {
			c := federation.ClusterID(fmt.Sprintf("c%d", i))
			b.Members[c] = &ledger.Member{Cluster: c, Locality: federation.Locality{Zone: zone}}
		}
		for range decisions {
			b.Journal = append(b.Journal, failover.Decision{At: time.Unix(1_800_000_000, 0).UTC(), Subject: federation.Target{Cluster: "c1"}, Reason: failover.Serving})
		}
		return b
	}
	big := batch(2*etcd.MaxBatch, 40, strings.Repeat("b", etcd.PartBytes/etcd.MaxBatch))
	big.Members["c0"] = nil
	return []ledger.Batch{batch(5, 60, "a"), batch(3, 1, "b"), big, batch(4, 2, "c")}
}

// matches reports whether the store holds what the batches leave, and of their journal the end.
func matches(t *testing.T, db *etcd.DB, batches []ledger.Batch) bool {
	t.Helper()
	var m storetest.Model
	for _, b := range batches {
		m.Commit(b)
	}
	state, err := db.Load(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	records, err := db.Journal(t.Context(), 0, 1<<20, federation.ServiceID{})
	if err != nil {
		t.Fatal(err)
	}
	want := m.Records(0, federation.ServiceID{})
	if len(records) == 0 || len(records) > len(want) {
		return len(want) == 0 && storetest.Diff(m.State(), state) == ""
	}
	return storetest.Diff(m.State(), state) == "" && storetest.Diff(want[len(want)-len(records):], records) == ""
}

// live opens a store through a killer and commits the history from a batch on. It returns how many batches were
// acknowledged, -1 if it was not even opened.
func live(t *testing.T, o etcd.Options, k *killer, from int) int {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	k.die = cancel
	db, err := etcd.Open(ctx, o.Through(k.between))
	if err != nil {
		if !k.died() {
			t.Fatal(err)
		}
		return -1
	}
	defer func() {
		if err := db.Die(); err != nil {
			t.Error(err)
		}
	}()
	done := 0
	for _, b := range history()[from:] {
		if err := db.Commit(ctx, b); err != nil {
			if !k.died() {
				t.Fatal(err)
			}
			break
		}
		done++
	}
	return done
}

// TestNothingIsLostAndNothingHalfDoneWhenTheHubDies kills a hub at each of its requests, before and after etcd got it.
// The next one must find all that was acknowledged and nothing by half.
func TestNothingIsLostAndNothingHalfDoneWhenTheHubDies(t *testing.T) {
	raw := shared.client(t)
	for _, answered := range []bool{false, true} {
		for last := 0; ; last++ {
			o := shared.options(t)
			o.Prefix = fmt.Sprintf("%s/%v-%d", o.Prefix, answered, last)
			o.JournalLimit = 50
			k := &killer{last: last, answered: answered}
			done := live(t, o, k, 0)
			depose(t, raw, o)
			db, err := etcd.Open(t.Context(), o)
			if err != nil {
				t.Fatal(err)
			}
			found := false
			for n := max(0, done); n <= min(max(0, done)+1, len(history())); n++ {
				found = found || matches(t, db, history()[:n])
			}
			if !found {
				t.Fatalf("killed at request %d (answered: %v): the store has neither the %d batches that were acknowledged nor one more", last, answered, done)
			}
			shut(t, db)
			if !k.died() {
				if done != len(history()) {
					t.Fatalf("%d batches were committed", done)
				}
				break
			}
			if last > 200 {
				t.Fatal("it does not come to an end")
			}
		}
	}
}

// TestACommitThatIsGivenUpIsStoredOrNot ends a commit's context at each of its requests, before and after etcd got it.
// The same hub goes on: with the batch, if it was acknowledged, and with all of it or nothing of it, if it was not.
func TestACommitThatIsGivenUpIsStoredOrNot(t *testing.T) {
	acknowledged, unsure := 0, 0
	for _, answered := range []bool{false, true} {
		for last := 0; ; last++ {
			o := shared.options(t)
			o.Prefix = fmt.Sprintf("%s/%v-%d", o.Prefix, answered, last)
			k := &killer{last: math.MaxInt, answered: answered}
			db := open(t, o.Through(k.between))
			all := history()
			commit(t, db, all[0])
			commit(t, db, all[1])
			ctx, cancel := context.WithCancel(t.Context())
			k.arm(last, cancel)
			err := db.Commit(ctx, all[2])
			cancel()
			died := k.died()
			k.arm(math.MaxInt, nil)
			if last%2 == 0 { // a reader comes first, or else the next commit
				if err := db.Check(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			commit(t, db, all[3])
			switch with := matches(t, db, all); {
			case err == nil && with:
				acknowledged++
			case err != nil && (with || matches(t, db, []ledger.Batch{all[0], all[1], all[3]})):
				unsure++
			default:
				t.Fatalf("given up at request %d (answered: %v), err %v: the store has neither all of the batch nor nothing", last, answered, err)
			}
			if err := db.Check(t.Context()); err != nil {
				t.Fatal(err)
			}
			if !died {
				break
			}
		}
	}
	if acknowledged < 4 || unsure < 4 {
		t.Errorf("%d commits were acknowledged, %d not", acknowledged, unsure)
	}
}

// TestWhoTakesOverMayDieToo kills the hub that finishes another one's big batch, at each of its requests.
func TestWhoTakesOverMayDieToo(t *testing.T) {
	raw := shared.client(t)
	marked := markedAt(t)
	for _, answered := range []bool{false, true} {
		for last := 0; ; last++ {
			o := shared.options(t)
			o.Prefix = fmt.Sprintf("%s/%v-%d", o.Prefix, answered, last)
			live(t, o, &killer{last: marked, answered: true}, 0)
			depose(t, raw, o)
			k := &killer{last: last, answered: answered}
			live(t, o, k, len(history()))
			depose(t, raw, o)
			db, err := etcd.Open(t.Context(), o)
			if err != nil {
				t.Fatal(err)
			}
			if !matches(t, db, history()[:3]) {
				t.Fatalf("killed at request %d (answered: %v): the big batch is not there as a whole", last, answered)
			}
			shut(t, db)
			if !k.died() {
				break
			}
		}
	}
}

// markedAt returns the request of a hub's life with which the big batch is stored: the last one that leaves parts.
func markedAt(t *testing.T) int {
	raw := shared.client(t)
	for last := 0; ; last++ {
		o := shared.options(t)
		o.Prefix = fmt.Sprintf("%s/marked-%d", o.Prefix, last)
		live(t, o, &killer{last: last, answered: true}, 0)
		depose(t, raw, o)
		resp, err := raw.Get(t.Context(), o.Prefix+"/wal/", clientv3.WithPrefix(), clientv3.WithCountOnly())
		if err != nil {
			t.Fatal(err)
		}
		db, err := etcd.Open(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		stored := matches(t, db, history()[:3])
		shut(t, db)
		if stored {
			if resp.Count < 2 {
				t.Fatalf("the big batch has %d parts", resp.Count)
			}
			return last
		}
	}
}

// weather loses requests on their way to etcd, and answers on their way back, and delivers some requests late.
type weather struct {
	*rand.Rand

	mu   sync.Mutex
	late []func()
	// storm is set when nothing is answered any more.
	storm bool
}

func (w *weather) between(next etcd.Requests) etcd.Requests {
	return etcd.Do(func(ctx context.Context, op clientv3.Op) (clientv3.OpResponse, error) {
		w.mu.Lock()
		luck := w.IntN(10)
		if w.storm {
			luck = w.IntN(3)
		}
		if luck == 0 {
			w.late = append(w.late, func() { _, _ = next.Do(context.WithoutCancel(ctx), op) }) // nobody waits for the answer
		}
		w.mu.Unlock()
		switch luck {
		case 0, 1: // it is late, or lost
			return clientv3.OpResponse{}, context.DeadlineExceeded
		case 2: // its answer is lost
			if resp, err := next.Do(ctx, op); err != nil {
				return resp, err
			}
			return clientv3.OpResponse{}, context.DeadlineExceeded
		}
		return next.Do(ctx, op)
	})
}

// arrive delivers what is late.
func (w *weather) arrive() {
	w.mu.Lock()
	late := w.late
	w.late = nil
	w.mu.Unlock()
	for _, deliver := range late {
		deliver()
	}
}

func (w *weather) set(storm bool) {
	w.mu.Lock()
	w.storm = storm
	w.mu.Unlock()
}

// TestEveryBatchIsStoredOnceInBadWeather: lost requests and answers are made up for, late requests change nothing that
// came after them, and a commit that was given up is stored as a whole or not at all.
func TestEveryBatchIsStoredOnceInBadWeather(t *testing.T) {
	seed := storetest.Seed(t)
	w := &weather{Rand: rand.New(rand.NewPCG(seed, 1))}
	g := &storetest.Generator{Rand: rand.New(rand.NewPCG(seed, 2))}
	o := shared.options(t).Through(w.between)
	o.JournalAge, o.JournalLimit = 1<<62, 1<<32
	db := open(t, o)
	var all []ledger.Batch
	commit := func(b ledger.Batch) {
		t.Helper()
		if err := db.Commit(t.Context(), b); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 40 {
		b := g.Batch(4)
		if g.IntN(5) == 0 {
			b = g.Batch(3 * etcd.MaxBatch)
		}
		b.Journal = append(b.Journal, g.Decision()) // so that no two batches leave the same
		if g.IntN(3) > 0 {
			commit(b)
			all = append(all, b)
		} else {
			w.set(true)
			ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
			err := db.Commit(ctx, b)
			cancel()
			w.set(false)
			if g.IntN(2) == 0 {
				w.arrive()
			}
			after := g.Batch(4)
			commit(after)
			with := append(append([]ledger.Batch(nil), all...), b, after)
			all = append(all, after)
			if stored := matches(t, db, with); stored {
				all = with
			} else if err == nil {
				t.Fatalf("step %d: an acknowledged batch is not there", i)
			}
		}
		w.arrive()
		if !matches(t, db, all) {
			t.Fatalf("step %d: the store is not what was committed", i)
		}
	}
}

// TestALateHeadNamesNoDroppedParts gives a big batch up when all of its parts are written and the head that names them is
// still on its way. It arrives as soon as the next commit has changed anything.
func TestALateHeadNamesNoDroppedParts(t *testing.T) {
	var late []func()
	given, cancel := context.WithCancel(t.Context())
	defer cancel()
	waiting := false
	o := shared.options(t).Through(func(next etcd.Requests) etcd.Requests {
		return etcd.Do(func(ctx context.Context, op clientv3.Op) (clientv3.OpResponse, error) {
			_, changes, _ := op.Txn()
			switch {
			case len(changes) == 0 || strings.Contains(string(changes[0].KeyBytes()), "/wal/") && !changes[0].IsDelete():
				return next.Do(ctx, op)
			case waiting: // it puts the head
				late = append(late, func() { _, _ = next.Do(context.WithoutCancel(ctx), op) }) // nobody waits for the answer
				cancel()
				return clientv3.OpResponse{}, context.DeadlineExceeded
			}
			resp, err := next.Do(ctx, op)
			for _, deliver := range late {
				deliver()
			}
			late = nil
			return resp, err
		})
	})
	batches := history()
	db := open(t, o)
	if err := db.Commit(t.Context(), batches[0]); err != nil {
		t.Fatal(err)
	}
	waiting = true
	if err := db.Commit(given, batches[2]); !errors.Is(err, context.Canceled) {
		t.Fatalf("a commit without an answer: %v", err)
	}
	waiting = false
	if err := db.Commit(t.Context(), batches[3]); err != nil {
		t.Fatal(err)
	}
	if err := db.Check(t.Context()); err != nil {
		t.Error(err)
	}
	if !matches(t, db, []ledger.Batch{batches[0], batches[3]}) {
		t.Error("the store is not what was committed")
	}
}
