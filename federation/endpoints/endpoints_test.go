package endpoints_test

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/federation/endpoints"
	"github.com/tailgate-project/tailgate/federation/failover"
)

const h, d, u = federation.Healthy, federation.Degraded, federation.Unhealthy

var webapp = federation.Service("default", "webapp")

// candidate is one that is well, but for its health.
func candidate(cluster federation.ClusterID, region, zone string, health federation.Health) endpoints.Candidate {
	return endpoints.Candidate{
		VIP: &federation.VIP{
			Owner: federation.ExportKey{Cluster: cluster, Service: webapp},
			Addrs: []netip.Addr{netip.MustParseAddr("100.100.0.1")},
			Ports: []federation.Port{{Port: 80, Protocol: federation.TCP}},
		},
		Locality: federation.Locality{Region: region, Zone: zone},
		Health:   health,
		Share:    100,
		Ready:    10, Desired: 10,
	}
}

// brief is what these tests look at of an endpoint.
type brief struct {
	Cluster  federation.ClusterID
	Priority uint32
	Health   federation.Health
}

func briefs(es []federation.Endpoint) []brief {
	var out []brief
	for _, e := range es {
		out = append(out, brief{e.Cluster, e.Priority, e.Health})
	}
	return out
}

func TestOverlay(t *testing.T) {
	set := func(c1, c2, c3 federation.Health) federation.EndpointSet {
		return federation.EndpointSet{Consumer: "c1", Service: webapp, Endpoints: []federation.Endpoint{
			{Cluster: "c1", Health: c1}, {Cluster: "c2", Priority: 1, Health: c2}, {Cluster: "c3", Priority: 2, Health: c3},
		}}
	}
	for name, tc := range map[string]struct {
		in          federation.EndpointSet
		unreachable []federation.Target
		want        []federation.Health
	}{
		"nothing-unreachable":             {set(h, h, u), nil, []federation.Health{h, h, u}},
		"a-cluster":                       {set(h, h, h), []federation.Target{{Cluster: "c2"}}, []federation.Health{h, u, h}},
		"one-service-of-a-cluster":        {set(h, h, h), []federation.Target{{Cluster: "c3", Service: webapp}}, []federation.Health{h, h, u}},
		"another-service-does-not-matter": {set(h, h, h), []federation.Target{{Cluster: "c3", Service: federation.Service("x", "y")}}, []federation.Health{h, h, h}},
		"own-cluster-is-not-probed":       {set(h, h, h), []federation.Target{{Cluster: "c1"}}, []federation.Health{h, h, h}},
		"fail-open":                       {set(u, h, h), []federation.Target{{Cluster: "c2"}, {Cluster: "c3"}}, []federation.Health{d, d, d}},
	} {
		t.Run(name, func(t *testing.T) {
			before := slices.Clone(tc.in.Endpoints)
			got := endpoints.Overlay(tc.in, func(t federation.Target) bool { return slices.Contains(tc.unreachable, t) })
			var hs []federation.Health
			for _, e := range got.Endpoints {
				hs = append(hs, e.Health)
			}
			if d := cmp.Diff(tc.want, hs); d != "" {
				t.Errorf("(-want +got)\n%s", d)
			}
			if d := cmp.Diff(before, tc.in.Endpoints, cmpopts.EquateComparable(netip.Addr{})); d != "" {
				t.Errorf("the argument was changed:\n%s", d)
			}
		})
	}
}

func TestOwn(t *testing.T) {
	gone, serving := string(failover.NoReadyEndpoints), string(failover.Serving)
	for name, tc := range map[string]struct {
		cluster federation.ClusterID
		ready   bool
		in      federation.Endpoint // that of c1
		want    federation.Endpoint
	}{
		"gone":                         {"c1", false, federation.Endpoint{Cluster: "c1", Health: h, Reason: serving}, federation.Endpoint{Cluster: "c1", Health: u, Reason: gone}},
		"back":                         {"c1", true, federation.Endpoint{Cluster: "c1", Health: u, Reason: gone}, federation.Endpoint{Cluster: "c1", Health: h, Reason: serving}},
		"there-and-drained-stays-that": {"c1", true, federation.Endpoint{Cluster: "c1", Health: u, Reason: "Drained"}, federation.Endpoint{Cluster: "c1", Health: u, Reason: "Drained"}},
		"of-another-cluster":           {"c9", false, federation.Endpoint{Cluster: "c1", Health: h}, federation.Endpoint{Cluster: "c1", Health: h}},
	} {
		t.Run(name, func(t *testing.T) {
			set := federation.EndpointSet{Consumer: tc.cluster, Service: webapp, Endpoints: []federation.Endpoint{tc.in, {Cluster: "c2", Health: h}}}
			before := slices.Clone(set.Endpoints)
			got := endpoints.Own(set, tc.cluster, tc.ready)
			equate := cmpopts.EquateComparable(netip.Addr{})
			if d := cmp.Diff([]federation.Endpoint{tc.want, {Cluster: "c2", Health: h}}, got.Endpoints, equate); d != "" {
				t.Errorf("(-want +got)\n%s", d)
			}
			if d := cmp.Diff(before, set.Endpoints, equate); d != "" {
				t.Errorf("the argument was changed:\n%s", d)
			}
		})
	}
}

func TestPrefer(t *testing.T) {
	set := federation.EndpointSet{Endpoints: []federation.Endpoint{
		{Cluster: "c1"}, {Cluster: "c2", Priority: 1}, {Cluster: "c3", Priority: 1}, {Cluster: "c4", Priority: 2},
	}}
	for cluster, want := range map[federation.ClusterID][]brief{
		"c1": {{"c1", 0, 0}, {"c2", 1, 0}, {"c3", 1, 0}, {"c4", 2, 0}},
		"c3": {{"c3", 0, 0}, {"c1", 1, 0}, {"c2", 2, 0}, {"c4", 3, 0}},
		"c4": {{"c4", 0, 0}, {"c1", 1, 0}, {"c2", 2, 0}, {"c3", 2, 0}},
		"c9": {{"c1", 0, 0}, {"c2", 1, 0}, {"c3", 1, 0}, {"c4", 2, 0}},
	} {
		if d := cmp.Diff(want, briefs(endpoints.Prefer(set, cluster))); d != "" {
			t.Errorf("prefer %s (-want +got)\n%s", cluster, d)
		}
	}
}

// TestPreferThePinned names a cluster whose endpoint has no stand-in: it stands alone, also when it is down and where the
// others would come first. To whom names another cluster, or none, it is one of many.
func TestPreferThePinned(t *testing.T) {
	set := federation.EndpointSet{Endpoints: []federation.Endpoint{
		{Cluster: "c1"}, {Cluster: "c2", Priority: 1, Health: federation.Unhealthy, ClusterPinned: true}, {Cluster: "c3", Priority: 2},
	}}
	for cluster, want := range map[federation.ClusterID][]brief{
		"c2": {{"c2", 0, federation.Unhealthy}},
		"c3": {{"c3", 0, 0}, {"c1", 1, 0}, {"c2", 2, federation.Unhealthy}},
	} {
		if d := cmp.Diff(want, briefs(endpoints.Prefer(set, cluster))); d != "" {
			t.Errorf("prefer %s (-want +got)\n%s", cluster, d)
		}
	}
	if e := set.Endpoints[1]; e.Priority != 1 {
		t.Errorf("the argument was changed: %+v", e)
	}
}

func TestEqualSeesEveryField(t *testing.T) {
	set := func(change func(*federation.EndpointSet, *federation.Endpoint)) federation.EndpointSet {
		s := federation.EndpointSet{Consumer: "c1", Service: webapp, Endpoints: []federation.Endpoint{{
			Cluster: "c1", Addr: netip.MustParseAddr("100.100.0.1"), Ports: []federation.Port{{Port: 80, Protocol: federation.TCP}}, Weight: 1,
		}}}
		change(&s, &s.Endpoints[0])
		return s
	}
	same := set(func(*federation.EndpointSet, *federation.Endpoint) {})
	if !endpoints.Equal(same, set(func(*federation.EndpointSet, *federation.Endpoint) {})) {
		t.Error("two sets that say the same are not equal")
	}
	for name, change := range map[string]func(*federation.EndpointSet, *federation.Endpoint){
		"consumer": func(s *federation.EndpointSet, _ *federation.Endpoint) { s.Consumer = "c2" },
		"service":  func(s *federation.EndpointSet, _ *federation.Endpoint) { s.Service.Name = "other" },
		"length":   func(s *federation.EndpointSet, e *federation.Endpoint) { s.Endpoints = append(s.Endpoints, *e) },
		"cluster":  func(_ *federation.EndpointSet, e *federation.Endpoint) { e.Cluster = "c2" },
		"addr":     func(_ *federation.EndpointSet, e *federation.Endpoint) { e.Addr = e.Addr.Next() },
		"ports":    func(_ *federation.EndpointSet, e *federation.Endpoint) { e.Ports = nil },
		"priority": func(_ *federation.EndpointSet, e *federation.Endpoint) { e.Priority = 1 },
		"weight":   func(_ *federation.EndpointSet, e *federation.Endpoint) { e.Weight = 2 },
		"health":   func(_ *federation.EndpointSet, e *federation.Endpoint) { e.Health = d },
		"reason":   func(_ *federation.EndpointSet, e *federation.Endpoint) { e.Reason = "Drained" },
		"stale":    func(_ *federation.EndpointSet, e *federation.Endpoint) { e.Stale = true },
		"tailnet":  func(_ *federation.EndpointSet, e *federation.Endpoint) { e.TailnetRef = "other" },
		"pinned":   func(_ *federation.EndpointSet, e *federation.Endpoint) { e.ClusterPinned = true },
	} {
		if endpoints.Equal(same, set(change)) {
			t.Errorf("%s does not count", name)
		}
	}
}
