package endpoints_test

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/federation/endpoints"
)

var webapp = federation.Service("default", "webapp")

func candidate(cluster federation.ClusterID, region, zone string, h federation.Health) endpoints.Candidate {
	return endpoints.Candidate{
		VIP: federation.VIP{
			Owner: federation.ExportKey{Cluster: cluster, Service: webapp},
			Addrs: []netip.Addr{netip.MustParseAddr("100.100.0.1")},
			Ports: []federation.Port{{Port: 80, Protocol: federation.TCP}},
		},
		Locality: federation.Locality{Region: region, Zone: zone},
		Health:   h,
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

func TestBuildOrdersByDistance(t *testing.T) {
	unaddressed := candidate("new", "eu", "a", federation.Healthy)
	unaddressed.VIP.Addrs = nil
	all := []endpoints.Candidate{
		candidate("far2", "us", "a", federation.Healthy),
		candidate("region", "eu", "b", federation.Healthy),
		candidate("home", "eu", "a", federation.Healthy),
		candidate("far1", "", "", federation.Healthy),
		candidate("zone", "eu", "a", federation.Unhealthy),
		unaddressed,
	}
	want := []brief{
		{"home", 0, federation.Healthy}, {"zone", 1, federation.Unhealthy}, {"region", 2, federation.Healthy},
		{"far1", 3, federation.Healthy}, {"far2", 3, federation.Healthy},
	}
	for range 20 {
		rand.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
		got := endpoints.Build("home", federation.Locality{Region: "eu", Zone: "a"}, webapp, all)
		if d := cmp.Diff(want, briefs(got.Endpoints)); d != "" {
			t.Fatalf("(-want +got)\n%s", d)
		}
	}
}

func TestBuildWithUnknownLocalityTreatsOthersAlike(t *testing.T) {
	got := endpoints.Build("c1", federation.Locality{}, webapp, []endpoints.Candidate{
		candidate("c3", "", "", federation.Healthy), candidate("c2", "", "", federation.Healthy),
	})
	want := []brief{{"c2", 0, federation.Healthy}, {"c3", 0, federation.Healthy}}
	if d := cmp.Diff(want, briefs(got.Endpoints)); d != "" {
		t.Errorf("(-want +got)\n%s", d)
	}
}

func TestOverlay(t *testing.T) {
	set := func(c1, c2, c3 federation.Health) federation.EndpointSet {
		return federation.EndpointSet{Consumer: "c1", Service: webapp, Endpoints: []federation.Endpoint{
			{Cluster: "c1", Health: c1}, {Cluster: "c2", Priority: 1, Health: c2}, {Cluster: "c3", Priority: 2, Health: c3},
		}}
	}
	const h, d, u = federation.Healthy, federation.Degraded, federation.Unhealthy
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
