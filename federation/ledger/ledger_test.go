package ledger_test

import (
	"testing"

	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/federation/failover"
	"github.com/tailgate-project/tailgate/federation/ledger"
	"github.com/tailgate-project/tailgate/federation/policy"
	"github.com/tailgate-project/tailgate/federation/vip"
)

// TestEmpty: a batch with anything in it has to be stored, also where that is a deletion only.
func TestEmpty(t *testing.T) {
	for name, tc := range map[string]struct {
		batch ledger.Batch
		empty bool
	}{
		"nothing":            {ledger.Batch{}, true},
		"empty-maps":         {ledger.Batch{Exports: map[federation.ExportKey]*failover.Saved{}, Members: map[federation.ClusterID]*ledger.Member{}}, true},
		"a-vip":              {ledger.Batch{VIPs: []vip.Change{{}}}, false},
		"an-export-deleted":  {ledger.Batch{Exports: map[federation.ExportKey]*failover.Saved{{Cluster: "c1"}: nil}}, false},
		"a-cluster-deleted":  {ledger.Batch{Clusters: map[federation.ClusterID]*failover.SavedCluster{"c1": nil}}, false},
		"a-member-deleted":   {ledger.Batch{Members: map[federation.ClusterID]*ledger.Member{"c1": nil}}, false},
		"a-policy-deleted":   {ledger.Batch{Policies: map[string]*policy.Policy{"p": nil}}, false},
		"a-journal-decision": {ledger.Batch{Journal: []failover.Decision{{}}}, false},
	} {
		if got := tc.batch.Empty(); got != tc.empty {
			t.Errorf("%s: empty %v, want %v", name, got, tc.empty)
		}
	}
}
