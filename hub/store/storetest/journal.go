package storetest

import (
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/federation/ledger"
)

// journalInParts: the numbers count from 1 without gaps, across reopenings, and any part can be read.
func (s *suite) journalInParts() {
	g := s.generator()
	var m Model
	for range 4 {
		st := s.open()
		for range 3 {
			b := ledger.Batch{}
			for range g.IntN(8) {
				b.Journal = append(b.Journal, g.Decision())
			}
			st.commit(b)
			m.Commit(b)
		}
		all := m.Records(0, federation.ServiceID{})
		if got := st.last(); got != uint64(len(all)) {
			s.Fatalf("the last of %d records is %d", len(all), got)
		}
		for range 10 {
			after, limit := g.IntN(len(all)+2), g.IntN(len(all)+2)
			want := all[min(after, len(all)):min(after+limit, len(all))]
			if d := Diff(want, st.journal(uint64(after), limit, federation.ServiceID{})); d != "" {
				s.Fatalf("%d records after %d (-want +got)\n%s", limit, after, d)
			}
		}
		st.close()
	}
}

// journalOfAService: it includes the decisions about whole clusters.
func (s *suite) journalOfAService() {
	g := s.generator()
	var m Model
	st := s.open()
	b := ledger.Batch{}
	for range 60 {
		b.Journal = append(b.Journal, g.Decision())
	}
	st.commit(b)
	m.Commit(b)
	for range 8 {
		id := g.Service()
		want := m.Records(0, id)
		if d := Diff(want, st.journal(0, 100, id)); d != "" {
			s.Fatalf("journal of %s (-want +got)\n%s", id, d)
		}
		var pages []ledger.Record
		for len(pages) < len(want) {
			var after uint64
			if n := len(pages); n > 0 {
				after = pages[n-1].Seq
			}
			page := st.journal(after, 3, id)
			if len(page) == 0 || len(page) > 3 {
				s.Fatalf("a page of %d records after %d of %d", len(page), len(pages), len(want))
			}
			pages = append(pages, page...)
		}
		if d := Diff(want, pages); d != "" {
			s.Fatalf("journal of %s in pages (-want +got)\n%s", id, d)
		}
	}
}

// journalBoundedByNumber: no more than the limit is kept, the newest of them, and the numbers go on.
func (s *suite) journalBoundedByNumber() {
	s.conf.JournalLimit = 5
	at := time.Unix(1_800_000_000, 0).UTC()
	s.conf.Now = func() time.Time { return at }
	st := s.open()
	for range 12 {
		st.commit(s.decisions(1, at))
	}
	s.kept(st, 8, 12)
	st.commit(s.decisions(20, at)) // more than is kept, in one batch
	st.compact()
	s.kept(st, 28, 32)
	st.close()
	s.conf.JournalLimit = 2
	st = s.open()
	st.compact()
	s.kept(st, 31, 32)
	st.commit(s.decisions(1, at))
	s.kept(st, 32, 33)
}

// journalBoundedByAge: what is too old goes, all of it too, and the numbers go on.
func (s *suite) journalBoundedByAge() {
	s.conf.JournalAge = time.Hour
	clock := time.Unix(1_800_000_000, 0).UTC()
	s.conf.Now = func() time.Time { return clock }
	st := s.open()
	st.commit(s.decisions(3, clock))
	clock = clock.Add(50 * time.Minute)
	st.commit(s.decisions(2, clock))
	s.kept(st, 1, 5)
	clock = clock.Add(20 * time.Minute)
	st.commit(s.decisions(1, clock))
	s.kept(st, 4, 6)
	clock = clock.Add(24 * time.Hour)
	st.compact()
	if got := st.journal(0, 10, federation.ServiceID{}); len(got) > 0 {
		s.Errorf("%d records are left after a day", len(got))
	}
	if got := st.last(); got != 6 {
		s.Errorf("the last record that there was is %d, want 6", got)
	}
	st.close()
	st = s.open()
	st.commit(s.decisions(2, clock))
	s.kept(st, 7, 8)
	clock = clock.Add(24 * time.Hour)
	st.compact()
	backup := st.backup()
	st.close()
	s.name += "-restored"
	s.restore(backup)
	st = s.open()
	st.commit(s.decisions(1, clock))
	s.kept(st, 9, 9)
}

// kept fails unless the journal holds exactly the records of the numbers.
func (s *suite) kept(st *opened, first, last uint64) {
	s.Helper()
	var want, got []uint64
	for seq := first; seq <= last; seq++ {
		want = append(want, seq)
	}
	for _, r := range st.journal(0, 1000, federation.ServiceID{}) {
		got = append(got, r.Seq)
	}
	if d := cmp.Diff(want, got); d != "" {
		s.Errorf("kept records (-want +got)\n%s", d)
	}
}
