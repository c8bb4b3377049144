package endpoints_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/federation/endpoints"
	"github.com/tailgate-project/tailgate/federation/policy"
)

// line is an endpoint as the tables below write it: "cluster priority weight health".
func line(e federation.Endpoint) string {
	return fmt.Sprintf("%s %d %d %s", e.Cluster, e.Priority, e.Weight, e.Health)
}

func lines(set federation.EndpointSet) []string {
	var out []string
	for _, e := range set.Endpoints {
		out = append(out, line(e))
	}
	return out
}

// with changes a candidate.
func with(c endpoints.Candidate, changes ...func(*endpoints.Candidate)) endpoints.Candidate {
	for _, change := range changes {
		change(&c)
	}
	return c
}

func share(percent uint8) func(*endpoints.Candidate) {
	return func(c *endpoints.Candidate) { c.Share = percent }
}

func ready(ready, desired int) func(*endpoints.Candidate) {
	return func(c *endpoints.Candidate) { c.Ready, c.Desired = ready, desired }
}

func asks(weight uint32) func(*endpoints.Candidate) {
	return func(c *endpoints.Candidate) { c.Weight = weight }
}

func health(health federation.Health) func(*endpoints.Candidate) {
	return func(c *endpoints.Candidate) { c.Health = health }
}

func cordon(c *endpoints.Candidate) { c.Cordoned = true }

func pin(c *endpoints.Candidate) { c.Pinned = true }

func unaddressed(c *endpoints.Candidate) {
	vip := *c.VIP
	vip.Addrs = nil
	c.VIP = &vip
}

// Three clusters in two regions: one and two are near each other.
var (
	one   = candidate("one", "eu", "a", h)
	two   = candidate("two", "eu", "b", h)
	three = candidate("three", "us", "a", h)
)

// at is the consumer in a cluster of these.
func at(c endpoints.Candidate) endpoints.Consumer {
	return endpoints.Consumer{Cluster: c.VIP.Owner.Cluster, Locality: c.Locality}
}

func ordered(places ...policy.Place) func(*policy.Policy) {
	return func(p *policy.Policy) { p.Order = places }
}

func weigh(place policy.Place, weight uint32) func(*policy.Policy) {
	return func(p *policy.Policy) { p.Weights = append(p.Weights, policy.Weight{Place: place, Weight: weight}) }
}

func minHealthy(percent uint8) func(*policy.Policy) {
	return func(p *policy.Policy) { p.MinHealthy = percent }
}

func region(r string) policy.Place                              { return policy.Place{Region: r} }
func zone(r, z string) policy.Place                             { return policy.Place{Region: r, Zone: z} }
func place(c federation.ClusterID) policy.Place                 { return policy.Place{Cluster: c} }
func policies(p ...func(*policy.Policy)) []func(*policy.Policy) { return p }

// outside refers to the service and does not export it; nobody is nearer to it than another.
var outside = endpoints.Consumer{Cluster: "outside"}

func TestBuild(t *testing.T) {
	none := policies()
	for _, tc := range []struct {
		name       string
		consumer   endpoints.Consumer
		policy     []func(*policy.Policy)
		candidates []endpoints.Candidate
		want       []string
	}{
		// Three clusters in two regions.
		{"all-well-seen-from-one", at(one), none, []endpoints.Candidate{three, two, one},
			[]string{"one 0 100000 healthy", "two 1 100000 healthy", "three 2 100000 healthy"}},
		{"all-well-seen-from-two", at(two), none, []endpoints.Candidate{one, two, three},
			[]string{"two 0 100000 healthy", "one 1 100000 healthy", "three 2 100000 healthy"}},
		{"all-well-seen-from-three", at(three), none, []endpoints.Candidate{one, two, three},
			[]string{"three 0 100000 healthy", "one 1 50000 healthy", "two 1 50000 healthy"}},
		{"all-well-seen-from-outside", outside, none, []endpoints.Candidate{two, three, one},
			[]string{"one 0 33333 healthy", "three 0 33333 healthy", "two 0 33333 healthy"}},
		{"exports-weigh-within-a-rank", outside, none, []endpoints.Candidate{with(one, asks(3)), two, with(three, asks(1))},
			[]string{"one 0 60000 healthy", "three 0 20000 healthy", "two 0 20000 healthy"}},
		{"exports-weights-change-no-rank", at(one), none, []endpoints.Candidate{one, with(two, asks(1000)), with(three, asks(1000))},
			[]string{"one 0 100000 healthy", "two 1 100000 healthy", "three 2 100000 healthy"}},
		{"exports-ask-for-no-more-than-there-is", outside, none, []endpoints.Candidate{with(one, asks(4_000_000_000)), with(two, asks(1000))},
			[]string{"one 0 50000 healthy", "two 0 50000 healthy"}},
		{"a-policys-weights-win", outside, policies(weigh(place("two"), 3)), []endpoints.Candidate{with(one, asks(500)), two},
			[]string{"one 0 25000 healthy", "two 0 75000 healthy"}},
		{"own-down-renumbers-nobody", at(one), none, []endpoints.Candidate{with(one, health(u)), two, three},
			[]string{"one 0 100000 unhealthy", "two 1 100000 healthy", "three 2 100000 healthy"}},
		{"region-down", at(one), none, []endpoints.Candidate{with(one, health(u)), with(two, health(u)), three},
			[]string{"one 0 100000 unhealthy", "two 1 100000 unhealthy", "three 2 100000 healthy"}},
		{"one-of-a-rank-down-keeps-its-place", at(three), none, []endpoints.Candidate{with(one, health(u)), two, with(three, health(u))},
			[]string{"three 0 100000 unhealthy", "one 1 100000 unhealthy", "two 1 100000 healthy"}},
		{"all-down", at(one), none, []endpoints.Candidate{with(one, health(u)), with(two, health(u)), with(three, health(u))},
			[]string{"one 0 100000 degraded", "two 1 100000 degraded", "three 2 100000 degraded"}},
		{"degraded-ones-serve-where-nobody-is-well", at(one), none, []endpoints.Candidate{with(one, health(u)), with(two, health(d)), with(three, health(d))},
			[]string{"one 0 100000 unhealthy", "two 1 100000 degraded", "three 2 100000 degraded"}},
		{"degraded-ones-take-nothing-beside-well-ones", at(one), none, []endpoints.Candidate{with(one, health(d)), two, three},
			[]string{"one 0 100000 degraded", "two 1 100000 healthy", "three 2 100000 healthy"}},
		{"no-address-no-endpoint", at(one), none, []endpoints.Candidate{with(one, unaddressed), {}, two},
			[]string{"two 0 100000 healthy"}},
		{"nobody", at(one), none, nil, nil},
		{"twice-counts-once", at(three), none, []endpoints.Candidate{one, two, one}, []string{"one 0 50000 healthy", "two 0 50000 healthy"}},

		// Spill-over: 50 % are enough to take all.
		{"half-ready-is-enough", at(one), none, []endpoints.Candidate{with(one, ready(5, 10)), two, three},
			[]string{"one 0 100000 healthy", "two 1 100000 healthy", "three 2 100000 healthy"}},
		{"40-ready-spills-a-fifth", at(one), none, []endpoints.Candidate{with(one, ready(4, 10)), two, three},
			[]string{"one 0 80000 healthy", "two 0 20000 healthy", "three 1 100000 healthy"}},
		{"spills-on-to-the-third", at(one), none, []endpoints.Candidate{with(one, ready(2, 10)), with(two, ready(1, 10)), three},
			[]string{"one 0 40000 healthy", "three 0 40000 healthy", "two 0 20000 healthy"}},
		{"all-scarce-take-in-proportion", at(one), none, []endpoints.Candidate{with(one, ready(2, 10)), with(two, ready(1, 10)), with(three, ready(1, 10))},
			[]string{"one 0 50000 healthy", "three 0 25000 healthy", "two 0 25000 healthy"}},
		{"spills-past-one-that-is-down", at(one), none, []endpoints.Candidate{with(one, ready(4, 10)), with(two, health(u)), three},
			[]string{"one 0 80000 healthy", "three 0 20000 healthy", "two 1 100000 unhealthy"}},
		{"a-rank-is-measured-as-a-whole", at(three), none, []endpoints.Candidate{with(one, ready(2, 10)), two, with(three, health(u))},
			[]string{"three 0 100000 unhealthy", "one 1 28571 healthy", "two 1 71428 healthy"}},
		{"min-healthy-1-never-spills", at(one), policies(minHealthy(1)), []endpoints.Candidate{with(one, ready(1, 100)), two},
			[]string{"one 0 100000 healthy", "two 1 100000 healthy"}},
		{"min-healthy-100-spills-at-once", at(one), policies(minHealthy(100)), []endpoints.Candidate{with(one, ready(9, 10)), two},
			[]string{"one 0 90000 healthy", "two 0 10000 healthy"}},
		{"min-healthy-0-counts-as-1", at(one), policies(minHealthy(0)), []endpoints.Candidate{with(one, ready(1, 100)), two},
			[]string{"one 0 100000 healthy", "two 1 100000 healthy"}},
		{"min-healthy-above-100-counts-as-100", at(one), policies(minHealthy(200)), []endpoints.Candidate{one, two},
			[]string{"one 0 100000 healthy", "two 1 100000 healthy"}},
		{"unknown-desired-counts-as-ready", at(one), none, []endpoints.Candidate{with(one, ready(3, 0)), two},
			[]string{"one 0 100000 healthy", "two 1 100000 healthy"}},
		{"healthy-without-a-ready-endpoint-stands-behind", at(one), none, []endpoints.Candidate{with(one, ready(0, 10)), two, three},
			[]string{"two 0 100000 healthy", "one 1 1 healthy", "three 2 100000 healthy"}},
		{"nobody-can-take-any-the-first-takes-all", at(one), none, []endpoints.Candidate{with(one, ready(0, 10)), with(two, ready(0, 10)), with(three, share(0))},
			[]string{"one 0 100000 healthy", "two 1 1 healthy", "three 2 1 healthy"}},
		{"one-of-very-many-is-some", at(one), policies(minHealthy(100)), []endpoints.Candidate{with(one, ready(1, 1<<40)), two},
			[]string{"one 0 10 healthy", "two 0 99990 healthy"}},

		// Ramps: the share of a lone cluster counts against MinHealthy too.
		{"ramp-at-10", at(one), none, []endpoints.Candidate{with(one, share(10)), two, three},
			[]string{"one 0 10000 healthy", "two 0 90000 healthy", "three 1 100000 healthy"}},
		{"ramp-at-10-without-spare", at(one), policies(minHealthy(100)), []endpoints.Candidate{with(one, share(10)), two, three},
			[]string{"one 0 10000 healthy", "two 0 90000 healthy", "three 1 100000 healthy"}},
		{"ramp-at-10-beside-an-equal", at(three), none, []endpoints.Candidate{one, with(two, share(10))},
			[]string{"one 0 90909 healthy", "two 0 9090 healthy"}},
		{"ramp-behind", at(one), none, []endpoints.Candidate{one, with(two, share(10)), three},
			[]string{"one 0 100000 healthy", "two 1 100000 healthy", "three 2 100000 healthy"}},
		{"drained-to-nothing-stands-behind-its-equal", at(three), none, []endpoints.Candidate{with(one, share(0)), two, with(three, health(u))},
			[]string{"three 0 100000 unhealthy", "two 1 100000 healthy", "one 2 1 healthy"}},
		{"share-above-100-is-100", at(three), none, []endpoints.Candidate{with(one, share(255)), two},
			[]string{"one 0 50000 healthy", "two 0 50000 healthy"}},
		{"the-only-one-takes-all-whatever-its-share", at(one), none, []endpoints.Candidate{with(two, share(1), ready(1, 10))},
			[]string{"two 0 100000 healthy"}},

		// Operators.
		{"cordoned-own-still-serves-its-cluster", at(one), none, []endpoints.Candidate{with(one, cordon), two, three},
			[]string{"one 0 100000 healthy", "two 1 100000 healthy", "three 2 100000 healthy"}},
		{"cordoned-ranks-last-for-others", at(one), none, []endpoints.Candidate{one, with(two, cordon), three},
			[]string{"one 0 100000 healthy", "three 1 100000 healthy", "two 2 100000 healthy"}},
		{"cordoned-stays-first-where-it-is-nearest", at(one), none, []endpoints.Candidate{with(two, cordon), three},
			[]string{"two 0 100000 healthy", "three 1 100000 healthy"}},
		{"cordoned-is-not-first-because-the-first-is-down", at(one), none, []endpoints.Candidate{with(one, health(u)), with(two, cordon), three},
			[]string{"one 0 100000 unhealthy", "three 1 100000 healthy", "two 2 100000 healthy"}},
		{"cordoned-behind-standby", at(one), policies(weigh(place("three"), 0)), []endpoints.Candidate{one, with(two, cordon), three},
			[]string{"one 0 100000 healthy", "three 1 100000 healthy", "two 2 100000 healthy"}},
		{"pinned-is-alone", at(one), none, []endpoints.Candidate{one, two, with(three, pin)}, []string{"three 0 100000 healthy"}},
		{"pinned-is-alone-whoever-comes-first", at(one), none, []endpoints.Candidate{with(three, pin), one, two}, []string{"three 0 100000 healthy"}},
		{"pinned-and-down", at(one), none, []endpoints.Candidate{one, two, with(three, pin, health(u))}, []string{"three 0 100000 degraded"}},
		{"pinned-without-an-address-pins-nothing", at(one), none, []endpoints.Candidate{one, with(three, pin, unaddressed)}, []string{"one 0 100000 healthy"}},

		// Weights.
		{"weights-of-equals", at(three), policies(weigh(place("two"), 3)), []endpoints.Candidate{one, two},
			[]string{"one 0 25000 healthy", "two 0 75000 healthy"}},
		{"the-most-specific-weight-wins", outside, policies(weigh(region("eu"), 2), weigh(place("one"), 5), weigh(zone("eu", "b"), 3)),
			[]endpoints.Candidate{one, two, three, candidate("four", "eu", "c", h)},
			[]string{"four 0 18181 healthy", "one 0 45454 healthy", "three 0 9090 healthy", "two 0 27272 healthy"}},
		{"without-an-order-own-comes-first-whatever-the-weights", at(one), policies(weigh(place("one"), 1), weigh(place("two"), 1000)), []endpoints.Candidate{one, two},
			[]string{"one 0 100000 healthy", "two 1 100000 healthy"}},
		{"weight-0-is-behind-all", at(one), policies(weigh(place("one"), 0)), []endpoints.Candidate{one, two, three},
			[]string{"two 0 100000 healthy", "three 1 100000 healthy", "one 2 100000 healthy"}},
		{"weight-0-takes-what-others-cannot", at(two), policies(weigh(place("one"), 0)), []endpoints.Candidate{one, with(two, ready(4, 10))},
			[]string{"one 0 20000 healthy", "two 0 80000 healthy"}},
		{"weight-0-for-all-is-as-without", at(one), policies(weigh(region("eu"), 0), weigh(region("us"), 0)), []endpoints.Candidate{one, two, three},
			[]string{"one 0 100000 healthy", "two 1 100000 healthy", "three 2 100000 healthy"}},
		{"a-rank-that-waits-has-the-weights-of-all-its-members", at(three), policies(weigh(place("one"), 9)), []endpoints.Candidate{with(one, health(u)), two, three, candidate("four", "", "", h)},
			[]string{"three 0 100000 healthy", "four 1 9090 healthy", "one 1 81818 unhealthy", "two 1 9090 healthy"}},
		{"a-light-one-alone-spills", at(three), policies(weigh(place("one"), 9)), []endpoints.Candidate{with(one, health(u)), two},
			[]string{"one 0 100000 unhealthy", "two 0 100000 healthy"}},
		{"weights-are-bounded", outside, policies(weigh(place("one"), 5000)), []endpoints.Candidate{one, two},
			[]string{"one 0 99900 healthy", "two 0 99 healthy"}},

		// Order.
		{"ordered-regions-seen-from-one", at(one), policies(ordered(region("us"), region("eu"))), []endpoints.Candidate{one, two, three},
			[]string{"three 0 100000 healthy", "one 1 100000 healthy", "two 2 100000 healthy"}},
		{"ordered-regions-seen-from-three", at(three), policies(ordered(region("eu"), region("us"))), []endpoints.Candidate{one, two, three},
			[]string{"one 0 50000 healthy", "two 0 50000 healthy", "three 1 100000 healthy"}},
		{"ordered-regions-with-weights-share", at(one), policies(ordered(region("eu"), region("us")), weigh(place("one"), 4)), []endpoints.Candidate{one, two, three},
			[]string{"one 0 80000 healthy", "two 0 20000 healthy", "three 1 100000 healthy"}},
		{"ordered-regions-with-a-standby-do-not-share", at(one), policies(ordered(region("eu"), region("us")), weigh(place("three"), 0)), []endpoints.Candidate{one, two, three},
			[]string{"one 0 100000 healthy", "two 1 100000 healthy", "three 2 100000 healthy"}},
		{"ordered-clusters", at(one), policies(ordered(place("two"), place("three"), place("one"))), []endpoints.Candidate{one, two, three},
			[]string{"two 0 100000 healthy", "three 1 100000 healthy", "one 2 100000 healthy"}},
		{"unnamed-come-last-by-locality", at(one), policies(ordered(zone("us", "a"))), []endpoints.Candidate{one, two, three, candidate("four", "us", "b", h)},
			[]string{"three 0 100000 healthy", "one 1 100000 healthy", "two 2 100000 healthy", "four 3 100000 healthy"}},
		{"the-first-place-counts", at(one), policies(ordered(place("two"), region("eu"))), []endpoints.Candidate{one, two},
			[]string{"two 0 100000 healthy", "one 1 100000 healthy"}},
		{"ordered-regions-spill", at(one), policies(ordered(region("us"), region("eu"))), []endpoints.Candidate{one, two, with(three, ready(4, 10))},
			[]string{"one 0 20000 healthy", "three 0 80000 healthy", "two 1 100000 healthy"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := policy.Default()
			for _, change := range tc.policy {
				change(&p)
			}
			got := endpoints.Build(tc.consumer, webapp, &p, tc.candidates)
			if d := cmp.Diff(tc.want, lines(got)); d != "" {
				t.Errorf("(-want +got)\n%s", d)
			}
			if got.Consumer != tc.consumer.Cluster || got.Service != webapp {
				t.Errorf("the set is for %s and %s", got.Consumer, got.Service)
			}
		})
	}
}

func TestBuildOrdersByDistance(t *testing.T) {
	all := []endpoints.Candidate{
		candidate("far2", "us", "a", h), candidate("region", "eu", "b", h), candidate("home", "eu", "a", h), candidate("far1", "", "", h),
		candidate("zone", "eu", "a", u), with(candidate("new", "eu", "a", h), unaddressed),
	}
	want := []brief{{"home", 0, h}, {"zone", 1, u}, {"region", 2, h}, {"far1", 3, h}, {"far2", 3, h}}
	p := policy.Default()
	for range 20 {
		rand.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
		got := endpoints.Build(endpoints.Consumer{Cluster: "home", Locality: federation.Locality{Region: "eu", Zone: "a"}}, webapp, &p, all)
		if d := cmp.Diff(want, briefs(got.Endpoints)); d != "" {
			t.Fatalf("(-want +got)\n%s", d)
		}
	}
}

func TestBuildSaysWhatItIsTold(t *testing.T) {
	p := policy.Default()
	c := with(two, func(c *endpoints.Candidate) {
		c.Reason, c.Stale, c.ClusterPinned = "ServingStale", true, true
		vip := *c.VIP
		vip.TailnetRef = "acme"
		c.VIP = &vip
	})
	got := endpoints.Build(at(one), webapp, &p, []endpoints.Candidate{c})
	want := federation.Endpoint{
		Cluster: "two", Addr: netip.MustParseAddr("100.100.0.1"), Ports: []federation.Port{{Port: 80, Protocol: federation.TCP}},
		Weight: endpoints.Whole, Reason: "ServingStale", Stale: true, ClusterPinned: true, TailnetRef: "acme",
	}
	if !endpoints.Equal(federation.EndpointSet{Consumer: "one", Service: webapp, Endpoints: []federation.Endpoint{want}}, got) {
		t.Errorf("got %+v", got)
	}

	got = endpoints.Build(at(one), webapp, &p, []endpoints.Candidate{with(c, health(u))})
	if e := got.Endpoints[0]; e.Reason != endpoints.ReasonAllDown || !e.Stale {
		t.Errorf("all down: got %+v", e)
	}
}

// What the consumer sees itself needs no new set: the rest of a priority takes over, and after it the next one.
func TestOverlayOnSharedLoad(t *testing.T) {
	p := policy.Default()
	set := endpoints.Build(at(one), webapp, &p, []endpoints.Candidate{with(one, health(u)), with(two, ready(4, 10)), three, candidate("four", "ap", "", h)})
	want := []string{"one 0 100000 unhealthy", "four 1 10000 healthy", "three 1 10000 healthy", "two 1 80000 healthy"}
	if d := cmp.Diff(want, lines(set)); d != "" {
		t.Fatalf("(-want +got)\n%s", d)
	}
	got := endpoints.Overlay(set, func(t federation.Target) bool { return t.Cluster == "two" || t.Cluster == "four" })
	want = []string{"one 0 100000 unhealthy", "four 1 10000 unhealthy", "three 1 10000 healthy", "two 1 80000 unhealthy"}
	if d := cmp.Diff(want, lines(got)); d != "" {
		t.Errorf("(-want +got)\n%s", d)
	}
	preferred := federation.EndpointSet{Endpoints: endpoints.Prefer(got, "two")}
	want = []string{"two 0 80000 unhealthy", "one 1 100000 unhealthy", "four 2 10000 unhealthy", "three 2 10000 healthy"}
	if d := cmp.Diff(want, lines(preferred)); d != "" {
		t.Errorf("(-want +got)\n%s", d)
	}
}
