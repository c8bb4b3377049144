package main

import (
	"testing"

	"github.com/tailgate-project/tailgate/federation/failover"
	"github.com/tailgate-project/tailgate/federation/ledger"
	"github.com/tailgate-project/tailgate/hub/store/bolt"
)

// makeStore makes a hub's file with one decision in its journal.
func makeStore(t *testing.T, path string) {
	t.Helper()
	db, err := bolt.Open(path, bolt.Options{})
	if err != nil {
		t.Fatal(err)
	}
	d := failover.Decision{At: noon, Reason: failover.Serving, Inputs: inputs}
	d.Subject.Cluster = "cluster1"
	if err := db.Commit(t.Context(), ledger.Batch{Journal: []failover.Decision{d}}); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
}
