package etcd_test

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/federation/ledger"
	"github.com/tailgate-project/tailgate/hub/store"
	"github.com/tailgate-project/tailgate/hub/store/etcd"
	"github.com/tailgate-project/tailgate/hub/store/storetest"
)

// patience is for how long a test waits for what must happen.
const patience = 2 * time.Minute

// standby is a hub that waits to lead.
type standby struct {
	leaders chan string
	opened  chan *etcd.DB
}

// stand opens a store that another hub leads, and returns once this one waits.
func stand(t *testing.T, o etcd.Options, name, leader string) standby {
	t.Helper()
	s := standby{leaders: make(chan string, 10), opened: make(chan *etcd.DB, 1)}
	o.Identity, o.Waiting = name, func(leader string) { s.leaders <- leader }
	go func() {
		db, err := etcd.Open(t.Context(), o)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		s.opened <- db
	}()
	s.hears(t, leader)
	return s
}

func (s standby) hears(t *testing.T, leader string) {
	t.Helper()
	select {
	case got := <-s.leaders:
		if got != leader {
			t.Fatalf("waits for %q, want %q", got, leader)
		}
	case <-s.opened:
		t.Fatalf("it leads beside %s", leader)
	case <-time.After(patience):
		t.Fatal("it does not say for whom it waits")
	}
}

// leads waits until it does.
func (s standby) leads(t *testing.T) *etcd.DB {
	t.Helper()
	select {
	case db := <-s.opened:
		if db == nil {
			t.FailNow()
		}
		t.Cleanup(func() { shut(t, db) })
		return db
	case <-time.After(patience):
		t.Fatal("it does not come to lead")
	}
	return nil
}

// superseded waits until the hub hears that another one leads.
func superseded(t *testing.T, db *etcd.DB) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := db.Superseded(ctx); !errors.Is(err, store.ErrFenced) {
		t.Errorf("Superseded: %v, want ErrFenced", err)
	}
}

func member(c federation.ClusterID) ledger.Batch {
	return ledger.Batch{Members: map[federation.ClusterID]*ledger.Member{c: {Cluster: c}}}
}

func commit(t *testing.T, db *etcd.DB, b ledger.Batch) {
	t.Helper()
	if err := db.Commit(t.Context(), b); err != nil {
		t.Fatal(err)
	}
}

func members(t *testing.T, db *etcd.DB) int {
	t.Helper()
	s, err := db.Load(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return len(s.Members)
}

func TestTheNextInLineLeadsWhenTheLeaderCloses(t *testing.T) {
	o := shared.options(t)
	first, err := etcd.Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	commit(t, first, member("c1"))
	second := stand(t, o, "hub-b", "hub-a")
	third := stand(t, o, "hub-c", "hub-a")
	shut(t, first)
	b := second.leads(t)
	third.hears(t, "hub-b")
	if b.Epoch() <= first.Epoch() || members(t, b) != 1 {
		t.Errorf("epoch %d after %d, %d members", b.Epoch(), first.Epoch(), members(t, b))
	}
	commit(t, b, member("c2"))
	depose(t, shared.client(t), o)
	c := third.leads(t)
	superseded(t, b)
	storetest.Fenced(t, b, c)
}

func TestADeadLeadersLeaseRunsOut(t *testing.T) {
	o := shared.options(t)
	o.LeaseTTL = 2 * time.Second
	first, err := etcd.Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	commit(t, first, member("c1"))
	second := stand(t, o, "hub-b", "hub-a")
	start := time.Now()
	if err := first.Die(); err != nil {
		t.Fatal(err)
	}
	db := second.leads(t)
	if db.Epoch() <= first.Epoch() || members(t, db) != 1 {
		t.Errorf("epoch %d after %d, %d members", db.Epoch(), first.Epoch(), members(t, db))
	}
	t.Logf("leads after %s", time.Since(start).Round(10*time.Millisecond))
}

func TestWhoLosesTheLeaseStopsBeforeAnybodyElseLeads(t *testing.T) {
	o := shared.options(t)
	db, err := etcd.Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	commit(t, db, member("c1"))
	heard := make(chan error, 1)
	go func() { heard <- db.Superseded(t.Context()) }()
	depose(t, shared.client(t), o)
	select {
	case err := <-heard:
		if !errors.Is(err, store.ErrFenced) || !strings.Contains(err.Error(), "lease") {
			t.Errorf("Superseded: %v", err)
		}
	case <-time.After(patience):
		t.Error("it did not hear of it")
	}
	if err := db.Commit(t.Context(), member("c2")); !errors.Is(err, store.ErrFenced) {
		t.Errorf("Commit: %v, want ErrFenced", err)
	}
	if err := db.Close(); err != nil {
		t.Error(err)
	}
}

func TestWhoGivesUpWaitingLeavesTheLine(t *testing.T) {
	o := shared.options(t)
	open(t, o)
	ctx, cancel := context.WithCancel(t.Context())
	o.Waiting = func(string) { cancel() }
	if _, err := etcd.Open(ctx, o); !errors.Is(err, context.Canceled) {
		t.Errorf("Open: %v, want context.Canceled", err)
	}
	resp, err := shared.client(t).Get(t.Context(), o.Prefix+"/leader/", clientv3.WithPrefix())
	if err != nil || len(resp.Kvs) != 1 {
		t.Errorf("%d hubs are in the line, err %v", len(resp.Kvs), err)
	}
}

func TestTheLeaderOutlivesARestartOfEtcd(t *testing.T) {
	s := own(t)
	o := s.options(t)
	db, err := etcd.Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	commit(t, db, member("c1"))
	waiting := stand(t, o, "hub-b", "hub-a")
	if err := s.kill(); err != nil {
		t.Fatal(err)
	}
	during := make(chan error, 1)
	go func() { during <- db.Commit(t.Context(), member("c2")) }()
	if err := s.start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-during; err != nil {
		t.Errorf("the commit during the restart: %v", err)
	}
	commit(t, db, member("c3"))
	if n := members(t, db); n != 3 {
		t.Errorf("%d members, want 3", n)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := db.Superseded(ctx); err != nil {
		t.Errorf("Superseded: %v", err)
	}
	shut(t, db)
	waiting.leads(t)
}

func TestWithoutEtcdEverythingEndsInTime(t *testing.T) {
	s := own(t)
	o := s.options(t)
	o.Timeout = 300 * time.Millisecond
	o.LeaseTTL = 2 * time.Second
	db, err := etcd.Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	commit(t, db, member("c1"))
	heard := make(chan error, 1)
	go func() { heard <- db.Superseded(t.Context()) }()
	if err := s.kill(); err != nil {
		t.Fatal(err)
	}
	for name, call := range map[string]func() error{
		"Commit":  func() error { return db.Commit(t.Context(), member("c2")) },
		"Big":     func() error { return db.Commit(t.Context(), history()[2]) },
		"Load":    func() error { _, err := db.Load(t.Context()); return err },
		"Journal": func() error { _, err := db.Journal(t.Context(), 0, 10, federation.ServiceID{}); return err },
		"Check":   func() error { return db.Check(t.Context()) },
		"Compact": func() error { return db.Compact(t.Context()) },
		"Backup":  func() error { return db.Backup(t.Context(), io.Discard) },
		"Open": func() error {
			_, err := etcd.Open(t.Context(), o)
			return err
		},
	} {
		start := time.Now()
		err := call()
		if err == nil || !strings.Contains(err.Error(), s.url) || !strings.Contains(err.Error(), "see whether it runs") {
			t.Errorf("%s: %v", name, err)
		}
		if took := time.Since(start); took > 5*time.Second {
			t.Errorf("%s took %s", name, took)
		}
	}
	select { // when its lease must have run out, even if it cannot see that
	case err := <-heard:
		if !errors.Is(err, store.ErrFenced) {
			t.Errorf("Superseded: %v, want ErrFenced", err)
		}
	case <-time.After(patience):
		t.Error("it goes on without a lease")
	}
	superseded(t, db)
	if err := db.Close(); err == nil || !strings.Contains(err.Error(), "resign") {
		t.Errorf("Close: %v", err)
	}
	if err := s.start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := members(t, open(t, o)); n != 1 {
		t.Errorf("%d members, want 1", n)
	}
}
