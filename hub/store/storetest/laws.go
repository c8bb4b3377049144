package storetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/federation/failover"
	"github.com/tailgate-project/tailgate/federation/ledger"
	"github.com/tailgate-project/tailgate/federation/vip"
	"github.com/tailgate-project/tailgate/hub/store"
)

// commitAndLoad: what is committed is loaded, also after a reopening; what is deleted is gone.
func (s *suite) commitAndLoad() {
	g := s.generator()
	g.Full = true
	var m Model
	st := s.open()
	st.same(&m)
	b := g.Batch(20)
	commit := func(b ledger.Batch) {
		s.Helper()
		st.commit(b)
		m.Commit(b)
		st.same(&m)
		st.close()
		st = s.open()
		st.same(&m)
	}
	commit(b)
	commit(ledger.Batch{}) // an empty one is no error
	wipe := m.wipe()
	commit(wipe)
	if d := Diff(ledger.State{}, st.load()); d != "" {
		s.Errorf("everything was deleted; left (-want +got)\n%s", d)
	}
	commit(wipe) // what is not there can be deleted
	commit(b)
}

// wipe is a batch that deletes everything that was ever there but the journal.
func (m *Model) wipe() ledger.Batch {
	b := ledger.Batch{}
	for _, e := range m.vips {
		b.VIPs = append(b.VIPs, vip.Change{Entry: e, Delete: true})
	}
	b.Exports, b.Clusters, b.Members, b.Policies = none(m.exports), none(m.clusters), none(m.members), none(m.policies)
	return b
}

func none[K comparable, V any](m map[K]V) map[K]*V {
	out := map[K]*V{}
	for k := range m {
		out[k] = nil
	}
	return out
}

// randomBatches plays random batches against the model, with reopenings, compactions and restores between them.
func (s *suite) randomBatches() {
	g := s.generator()
	var m Model
	st, epoch := s.open(), uint64(0)
	for i := range 60 {
		b := g.Batch(1 + g.IntN(12))
		st.commit(b)
		m.Commit(b)
		switch g.IntN(8) {
		case 0:
			st.close()
			st = s.open()
		case 1:
			st.compact()
		case 2:
			backup := st.backup()
			st.close()
			s.name = fmt.Sprintf("random-batches-%d", i)
			s.restore(backup)
			st = s.open()
		default:
			continue
		}
		if i > 0 && st.Epoch() < epoch {
			s.Fatalf("step %d: epoch %d after %d", i, st.Epoch(), epoch)
		}
		epoch = st.Epoch()
		st.same(&m)
	}
	st.same(&m)
}

// atomicBatches: a batch of which one object cannot be stored changes nothing.
func (s *suite) atomicBatches() {
	g := s.generator()
	var m Model
	st := s.open()
	good := g.Batch(10)
	st.commit(good)
	m.Commit(good)
	for name, spoil := range map[string]func(*ledger.Batch){
		"journal":         func(b *ledger.Batch) { b.Journal = append(b.Journal, failover.Decision{}) },
		"name of a VIP":   func(b *ledger.Batch) { b.VIPs = append(b.VIPs, vip.Change{Entry: vip.Entry{}}) },
		"another key":     func(b *ledger.Batch) { b.Members["c1"] = &ledger.Member{Cluster: "c2"} },
		"id of a cluster": func(b *ledger.Batch) { b.Clusters["C 1"] = &failover.SavedCluster{Cluster: "C 1"} },
	} {
		b := g.Batch(10)
		spoil(&b)
		if err := st.Commit(s.Context(), b); err == nil {
			s.Errorf("a batch with a wrong %s was stored", name)
		}
		st.same(&m)
	}
	st.close()
	s.open().same(&m)
}

// bigBatches: thousands of changes are one batch too.
func (s *suite) bigBatches() {
	var m Model
	st := s.open()
	for _, zone := range []string{"a", "b"} {
		b := sized(5000, zone)
		b.Journal = s.decisions(100, time.Unix(1_800_000_000, 0)).Journal
		st.commit(b)
		m.Commit(b)
		st.same(&m)
	}
	st.commit(m.wipe())
	m.Commit(m.wipe())
	st.close()
	s.open().same(&m)
}

// epochsRise: each opening has a greater epoch, and none is below the clock in seconds.
func (s *suite) epochsRise() {
	clock := time.Unix(1_900_000_000, 0)
	s.conf.Now = func() time.Time { return clock }
	var last uint64
	for range 3 {
		st := s.open()
		if st.Epoch() <= last || st.Epoch() < uint64(clock.Unix()) {
			s.Errorf("epoch %d after %d, at %d", st.Epoch(), last, clock.Unix())
		}
		last = st.Epoch()
		st.close()
	}
	clock = clock.Add(time.Hour)
	if got := s.open().Epoch(); got != uint64(clock.Unix()) {
		s.Errorf("epoch %d at %d", got, clock.Unix())
	}
}

// fencing: who was taken over hears of it and commits no more.
func (s *suite) fencing() {
	old := s.kind.Open(s.T, s.name, s.conf)
	defer func() {
		if err := old.Close(); err != nil {
			s.Errorf("close the one that was taken over: %v", err)
		}
	}()
	b := sized(3, "a")
	if err := old.Commit(s.Context(), b); err != nil {
		s.Fatal(err)
	}
	cancelled, cancel := context.WithCancel(s.Context())
	cancel()
	if err := old.Superseded(cancelled); err != nil {
		s.Errorf("nobody took over, the context ended: %v", err)
	}
	heard := make(chan error, 1)
	go func() { heard <- old.Superseded(s.Context()) }()
	young := s.take(s.kind.Usurp(s.T, s.name))
	select {
	case err := <-heard:
		if !errors.Is(err, store.ErrFenced) {
			s.Errorf("Superseded: %v, want ErrFenced", err)
		}
	case <-time.After(20 * time.Second):
		s.Error("who was taken over did not hear of it")
	}
	if d := cmp.Diff(3, len(young.load().Members)); d != "" {
		s.Errorf("members after the take-over (-want +got)\n%s", d)
	}
	Fenced(s.T, old, young)
}

// cancellation: a call whose context has ended does nothing.
func (s *suite) cancellation() {
	st := s.open()
	b := s.decisions(2, time.Unix(1_800_000_000, 0))
	st.commit(b)
	ctx, cancel := context.WithCancel(s.Context())
	cancel()
	for name, err := range map[string]error{
		"Commit":  st.Commit(ctx, sized(1, "a")),
		"Load":    second(st.Load(ctx)),
		"Journal": second(st.Journal(ctx, 0, 10, federation.ServiceID{})),
		"Backup":  st.Backup(ctx, io.Discard),
		"Compact": st.Compact(ctx),
		"Check":   st.Check(ctx),
	} {
		if !errors.Is(err, context.Canceled) {
			s.Errorf("%s: %v, want context.Canceled", name, err)
		}
	}
	var m Model
	m.Commit(b)
	st.same(&m)
}

func second[T any](_ T, err error) error { return err }

// readersBesideCommits: who reads the journal while it grows sees every record once, in order.
func (s *suite) readersBesideCommits() {
	const total = 200
	st := s.open()
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			var seen uint64
			for seen < total && !s.Failed() {
				page, err := st.Journal(s.Context(), seen, 7, federation.ServiceID{})
				if err != nil {
					s.Errorf("journal: %v", err)
				}
				for _, r := range page {
					if r.Seq != seen+1 {
						s.Errorf("record %d after %d", r.Seq, seen)
						return
					}
					seen = r.Seq
				}
			}
		})
	}
	wg.Go(func() {
		for !s.Failed() {
			state, err := st.Load(s.Context())
			if n := len(state.Members); err != nil || n%5 != 0 {
				s.Errorf("err %v; %d members: half a batch", err, n)
				return
			}
			if last, err := st.Journal(s.Context(), total-1, 1, federation.ServiceID{}); err != nil || len(last) > 0 {
				if err != nil {
					s.Errorf("journal: %v", err)
				}
				return
			}
		}
	})
	for i := range total {
		b := s.decisions(1, time.Unix(1_800_000_000+int64(i), 0))
		b.Members = sized(5*(i%7), "a").Members
		if err := st.Commit(s.Context(), b); err != nil {
			s.Errorf("commit: %v", err)
			break
		}
	}
	wg.Wait()
}

// compaction keeps everything within the bounds.
func (s *suite) compaction() {
	g := s.generator()
	var m Model
	st := s.open()
	for range 30 {
		b := g.Batch(15)
		st.commit(b)
		m.Commit(b)
	}
	for range 2 {
		st.compact()
		st.same(&m)
		b := g.Batch(15)
		st.commit(b)
		m.Commit(b)
		st.same(&m)
	}
	st.close()
	s.open().same(&m)
}

// backupAndRestore: a restored store holds the same, counts on, and is believed.
func (s *suite) backupAndRestore() {
	g := s.generator()
	var m Model
	st := s.open()
	for range 10 {
		b := g.Batch(20)
		st.commit(b)
		m.Commit(b)
	}
	last := s.decisions(3, time.Unix(1_800_000_000, 0))
	st.commit(last)
	m.Commit(last)
	backup := st.backup()
	later := g.Batch(20)
	st.commit(later) // is not part of the backup
	name := s.name
	s.name += "-restored"
	s.restore(backup)
	restored := s.open()
	restored.same(&m)
	if restored.Epoch() <= st.Epoch() {
		s.Errorf("the restored store's epoch is %d, that of the backup %d", restored.Epoch(), st.Epoch())
	}
	restored.commit(later)
	m.Commit(later)
	restored.same(&m)
	st.close()
	if err := s.kind.Restore(s.T, name, bytes.NewReader(backup)); !errors.Is(err, store.ErrExists) {
		s.Errorf("restore over a store: %v, want ErrExists", err)
	}
	s.name = name
	s.open().same(&m)
}

// damagedBackups: nothing is restored of a backup that is not whole.
func (s *suite) damagedBackups() {
	g := s.generator()
	st := s.open()
	for range 3 {
		st.commit(g.Batch(10))
	}
	backup := st.backup()
	flipped := func(at int) []byte {
		b := bytes.Clone(backup)
		b[at] ^= 1 << g.IntN(8)
		return b
	}
	for name, b := range map[string][]byte{
		"empty": nil, "text": []byte("this is no backup\n"),
		"half": backup[:len(backup)/2], "but-one-byte": backup[:len(backup)-1], "longer": append(bytes.Clone(backup), 0),
		"flipped-first": flipped(0), "flipped-middle": flipped(len(backup) / 2), "flipped-last": flipped(len(backup) - 1),
	} {
		err := s.kind.Restore(s.T, s.name+"-"+name, bytes.NewReader(b))
		if !errors.Is(err, store.ErrCorrupt) {
			s.Errorf("%s: %v, want ErrCorrupt", name, err)
		}
		left := s.take(s.kind.Open(s.T, s.name+"-"+name, s.conf))
		if d := Diff(ledger.State{}, left.load()); d != "" {
			s.Errorf("%s: left in the store (-want +got)\n%s", name, d)
		}
		left.close()
	}
}
