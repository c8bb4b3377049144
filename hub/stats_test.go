package hub_test

import (
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/hub"
)

// TestStats counts while a VIP waits for its address, has it, and is released.
func TestStats(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, filepath.Join(t.TempDir(), "hub.db"), &tailnet{})
		r.members("c1", "c2")
		r.provider.failWith(errNoTailnet)
		want := func(when string, exports, tasks int, vips map[hub.VIPState]int) {
			t.Helper()
			s, err := r.Stats(t.Context())
			r.must(err)
			if s.Rebuilding {
				t.Errorf("%s: the hub rebuilds", when)
			}
			wanted := hub.Stats{Epoch: r.Epoch(), Exports: map[federation.ClusterID]int{"c1": exports, "c2": 0}, VIPs: vips, Tasks: tasks}
			if diff := cmp.Diff(wanted, s, equal); diff != "" {
				t.Errorf("%s (-want +got)\n%s", when, diff)
			}
		}
		pass(time.Second)
		want("at first", 0, 0, nil)
		r.export("c1", 2)
		pass(time.Second)
		want("while the tailnet refuses", 1, 1, map[hub.VIPState]int{hub.VIPPending: 1})
		r.provider.failWith(nil)
		pass(2 * time.Minute)
		want("when it does not", 1, 0, map[hub.VIPState]int{hub.VIPAssigned: 1})
		r.must(r.RemoveExport(t.Context(), federation.ExportKey{Cluster: "c1", Service: webapp}))
		pass(time.Second)
		want("when the export is gone", 0, 0, map[hub.VIPState]int{hub.VIPReleased: 1})
	})
}
