package coordinator_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/federation/coordinator"
	"github.com/tailgate-project/tailgate/federation/failover"
	"github.com/tailgate-project/tailgate/federation/linkstate"
	"github.com/tailgate-project/tailgate/federation/policy"
)

// conflict returns the notice by which a member is told that other clusters have other ports.
func (h *hub) conflict(c federation.ClusterID, id federation.ServiceID) (federation.Notice, bool) {
	n := h.views[c][linkstate.Resource{Notice: &federation.Notice{Subject: "conflict/" + id.String()}}.Key()].Notice
	if n == nil {
		return federation.Notice{}, false
	}
	return *n, true
}

func (h *hub) wantConflicts(when string, want ...federation.ClusterID) {
	h.Helper()
	var got []federation.ClusterID
	for _, c := range h.Members() {
		if _, ok := h.conflict(c, webapp); ok {
			got = append(got, c)
		}
	}
	if fmt.Sprint(want) != fmt.Sprint(got) {
		h.Errorf("%s: a conflict is told to %v, want %v", when, got, want)
	}
}

// TestConflictsAreToldToAllThatHaveThem lets exports of a service differ, agree again, and go.
func TestConflictsAreToldToAllThatHaveThem(t *testing.T) {
	h := newHub(t)
	h.join("c1", "c2", "c3")
	offer := func(c federation.ClusterID, ports ...federation.Port) {
		x := export(c, webapp, 2)
		x.Ports = append(x.Ports, ports...)
		h.decide(failover.ExportChanged{Export: x})
	}
	grpc := federation.Port{Name: "grpc", Port: 9090, Protocol: federation.TCP, App: federation.AppH2C}
	offer("c1")
	offer("c2")
	h.wantConflicts("two that agree")
	offer("c3", grpc)
	h.wantConflicts("a third that differs", "c1", "c2", "c3")
	n, _ := h.conflict("c1", webapp)
	if n.Reason != coordinator.ReasonPortConflict || !strings.Contains(n.Message, "c3 (80/TCP, 9090/TCP h2c)") || strings.Contains(n.Message, "c2") {
		t.Errorf("c1 is told %+v, want it to name c3 with its ports, and c3 alone", n)
	}
	before := h.views["c1"]
	h.restart()
	h.views = map[federation.ClusterID]map[string]linkstate.Resource{}
	edit(h.views, h.Everything())
	h.wantConflicts("after a restart of the hub", "c1", "c2", "c3")
	if after, _ := h.conflict("c1", webapp); after != n {
		t.Errorf("c1 is told %+v after a restart, was %+v in %v", after, n, before)
	}
	renamed := federation.Port{Name: "other", Port: 9090, Protocol: federation.TCP, App: federation.AppH2C}
	offer("c1", renamed)
	offer("c2", renamed)
	h.wantConflicts("all have the port, under two names")
	offer("c2")
	h.wantConflicts("one has lost it", "c1", "c2", "c3")
	h.decide(failover.ExportRemoved{Key: export("c2", webapp, 0).Key})
	h.wantConflicts("the one that differs is gone")
	offer("c2")
	h.do(coordinator.MemberGone{Cluster: "c2"})
	h.wantConflicts("its cluster is gone")
	listener := federation.Listener("infra", "main", "http")
	for _, c := range []federation.ClusterID{"c1", "c3"} {
		x := export(c, listener, 1)
		if c == "c3" {
			x.Ports = append(x.Ports, grpc)
		}
		h.decide(failover.ExportChanged{Export: x})
	}
	if n, told := h.conflict("c1", listener); told {
		t.Errorf("two clusters have Gateways of one name, which concerns nobody: %+v", n)
	}
}

// TestManyRivalsAreCounted bounds the message.
func TestManyRivalsAreCounted(t *testing.T) {
	h := newHub(t)
	h.join("c0")
	h.decide(failover.ExportChanged{Export: export("c0", webapp, 1)})
	for i := range 12 {
		c := federation.ClusterID(fmt.Sprintf("d%02d", i))
		h.join(c)
		x := export(c, webapp, 1)
		x.Ports[0].Port = 8080
		h.decide(failover.ExportChanged{Export: x})
	}
	n, _ := h.conflict("c0", webapp)
	if !strings.Contains(n.Message, "d07 (8080/TCP) and 4 more") || strings.Contains(n.Message, "d08") {
		t.Errorf("c0 is told %q, want the first eight and how many more", n.Message)
	}
}

// TestWeightsOfExportsReachTheSets has two clusters of one rank ask for shares, keep them over a restart, and a policy
// overrule them.
func TestWeightsOfExportsReachTheSets(t *testing.T) {
	h := newHub(t)
	h.join("c1", "c2", "c3")
	offer := func(c federation.ClusterID, weight uint32, pinned bool) {
		x := export(c, webapp, 2)
		x.Weight, x.ClusterPinned = weight, pinned
		h.decide(failover.ExportChanged{Export: x})
	}
	offer("c2", 3, false)
	offer("c3", 0, true)
	h.tailnet()
	wantWeights := func(when string, c2, c3 uint32) {
		t.Helper()
		set := h.Set("c1", webapp)
		if len(set.Endpoints) != 2 || set.Endpoints[0].Weight != c2 || set.Endpoints[1].Weight != c3 {
			t.Errorf("%s: %+v, want weights %d and %d", when, set.Endpoints, c2, c3)
			return
		}
		if set.Endpoints[0].ClusterPinned || !set.Endpoints[1].ClusterPinned {
			t.Errorf("%s: %+v, want c3 pinned", when, set.Endpoints)
		}
	}
	wantWeights("three to one", 75000, 25000)
	h.restart()
	wantWeights("after a restart", 75000, 25000)
	offer("c3", 3, true)
	wantWeights("both ask for the same", 50000, 50000)
	weighed := policy.Default()
	weighed.Weights = []policy.Weight{{Place: policy.Place{Cluster: "c3"}, Weight: 3}}
	h.do(coordinator.PoliciesSet{Fallback: weighed})
	wantWeights("a policy weighs", 25000, 75000)
}
