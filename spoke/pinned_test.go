package spoke_test

import (
	"testing"

	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/spoke"
)

// TestPinnedClusterHasNoStandIn pins a service to the remote cluster that exports it, and to the own one: where routes name
// that cluster, no other endpoint is behind them, also when it is down; where they name none, all are.
func TestPinnedClusterHasNoStandIn(t *testing.T) {
	b, _ := start(t, t.TempDir())
	ctx := t.Context()
	b.must(b.SetService(ctx, pods("10.1.0.1:8080")))
	resource := set("cluster1", "cluster2", "cluster3")
	es := resource.EndpointSet.Endpoints
	es[0].ClusterPinned, es[1].ClusterPinned, es[1].Health = true, true, federation.Unhealthy
	b.must(b.Apply(ctx, full(1, resource)))
	want := func(when string, c federation.ClusterID, want string) {
		t.Helper()
		if got := b.envoy.brief(spoke.Assignment{Service: webapp, Cluster: c}); got != want {
			t.Errorf("%s, behind %q stand %q, want %q", when, c, got, want)
		}
	}
	want("pinned", "cluster1", "cluster1:healthy")
	want("pinned", "cluster2", "cluster2:unhealthy")
	want("pinned", "cluster3", "cluster3:healthy cluster1:healthy cluster2:unhealthy")
	want("pinned", "", "cluster1:healthy cluster2:unhealthy cluster3:healthy")
	b.must(b.SetService(ctx, pods()))
	want("without pods", "cluster1", "")
	want("without pods", "", "cluster2:unhealthy cluster3:healthy")
}
