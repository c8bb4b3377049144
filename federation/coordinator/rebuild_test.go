package coordinator_test

import (
	"net/netip"
	"testing"
	"time"

	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/federation/coordinator"
	"github.com/tailgate-project/tailgate/federation/failover"
	"github.com/tailgate-project/tailgate/federation/linkstate"
)

// lost is a hub that lost its store and has just started with an empty one.
func lost(t *testing.T) *hub {
	t.Helper()
	h := newHub(t)
	h.kept, h.views = newKept(), map[federation.ClusterID]map[string]linkstate.Resource{}
	h.restart()
	return h
}

func TestAHubThatLostItsStoreIsSilentUntilItKnows(t *testing.T) {
	h := lost(t)
	h.do(coordinator.MembersExpected{Clusters: []federation.ClusterID{"c1", "c2"}})
	h.join("c1", "c2")
	shop := federation.Service("shop", "webapp")
	h.decide(failover.ExportChanged{Export: export("c2", shop, 2)})
	if len(h.views) > 0 || len(h.Registry().Entries()) > 0 {
		t.Errorf("before the tailnet was listed: told %v, gave %v", h.views, h.Registry().Entries())
	}

	old := export("c2", webapp, 2)
	h.do(coordinator.VIPFound{VIP: federation.VIP{
		Owner: old.Key, Name: "local-production-webapp", ServiceName: "local-production-webapp-c2", Tailnet: "production",
		Ports: old.Ports, Addrs: []netip.Addr{netip.MustParseAddr("100.100.0.77")},
	}})
	h.do(coordinator.VIPsListed{})
	if e, ok := h.Registry().Get(export("c2", shop, 0).Key); !ok || e.ServiceName != "local-production-shop-webapp-c2" {
		t.Errorf("the export that came first has %+v: it may not take the name that the other one had", e)
	}
	h.decide(failover.ExportChanged{Export: old})
	h.tailnet()
	h.do(coordinator.ExportsListed{Cluster: "c2"})
	if len(h.views) > 0 {
		t.Errorf("told before c1 was listed: %v", h.views)
	}
	h.do(coordinator.ExportsListed{Cluster: "c1"})
	h.wantTold("c1", "c2/0/healthy/Serving")
	if got := h.Set("c1", webapp).Endpoints[0].Addr.String(); got != "100.100.0.77" {
		t.Errorf("the VIP has the address %s now", got)
	}
	h.wantHosts("c2", "local-production-shop-webapp-c2", "local-production-webapp-c2")

	h.restart()
	if h.Rebuilding() {
		t.Error("it rebuilds again after a restart, though it knew everything")
	}
}

func TestAHubThatDiesWhileItRebuildsRebuildsOn(t *testing.T) {
	h := lost(t)
	h.do(coordinator.MembersExpected{Clusters: []federation.ClusterID{"c1"}})
	h.join("c1")
	h.do(coordinator.VIPsListed{})
	h.restart()
	if !h.Rebuilding() {
		t.Error("half a store passed for a whole one")
	}
}

func TestARebuildingEnds(t *testing.T) {
	h := lost(t)
	h.join("c1", "c2")
	h.decide(failover.ExportChanged{Export: export("c2", webapp, 2)})
	h.until(2*time.Minute - time.Millisecond)
	if !h.Rebuilding() {
		t.Error("it speaks though the tailnet has not said anything")
	}
	h.until(2 * time.Minute)
	h.tailnet()
	h.wantTold("c1", "c2/0/healthy/Serving")
}

func TestAMemberIsToldNothingBeforeItsInterestIsKnown(t *testing.T) {
	h := newHub(t)
	h.join("c2")
	h.decide(failover.ExportChanged{Export: export("c2", webapp, 2)})
	h.tailnet()
	h.do(coordinator.MemberSeen{Cluster: "c1"})
	h.decide(failover.LinkChanged{Cluster: "c1", Up: true})
	x := export("c1", federation.Service("default", "api"), 1)
	x.Ports = nil
	h.decide(failover.ExportChanged{Export: x})
	if view, ok := h.views["c1"]; ok {
		t.Errorf("c1 is told %v", view)
	}
	h.do(coordinator.MemberInterest{Cluster: "c1", Interest: federation.Interest{Services: []federation.ServiceID{webapp}}})
	h.wantTold("c1", "c2/0/healthy/Serving")
	if _, ok := h.views["c1"]["peer/c2"]; !ok {
		t.Error("c1 is not told of c2")
	}
	if _, ok := h.views["c1"]["notice/export/Service/default/api"]; !ok {
		t.Error("what was refused meanwhile is not told to c1")
	}
}
