package policy_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/federation/policy"
)

func TestPlaces(t *testing.T) {
	eu1 := federation.Locality{Region: "eu", Zone: "1"}
	tests := map[string]struct {
		place policy.Place
		at    federation.Locality
		want  bool
		words string
	}{
		"the-cluster":                          {policy.Place{Cluster: "c1"}, eu1, true, "cluster c1"},
		"another-cluster":                      {policy.Place{Cluster: "c2"}, eu1, false, "cluster c2"},
		"its-region":                           {policy.Place{Region: "eu"}, eu1, true, "region eu"},
		"another-region":                       {policy.Place{Region: "us"}, eu1, false, "region us"},
		"its-zone":                             {policy.Place{Region: "eu", Zone: "1"}, eu1, true, "zone 1 of region eu"},
		"another-zone":                         {policy.Place{Region: "eu", Zone: "2"}, eu1, false, "zone 2 of region eu"},
		"the-same-zone-of-another-region":      {policy.Place{Region: "us", Zone: "1"}, eu1, false, "zone 1 of region us"},
		"an-unknown-region-is-no-region":       {policy.Place{Region: "eu"}, federation.Locality{}, false, "region eu"},
		"no-place-names-nobody":                {policy.Place{}, federation.Locality{}, false, "region "},
		"a-region-of-a-cluster-without-a-zone": {policy.Place{Region: "eu"}, federation.Locality{Region: "eu"}, true, "region eu"},
		"a-zone-of-a-cluster-without-a-zone":   {policy.Place{Region: "eu", Zone: "1"}, federation.Locality{Region: "eu"}, false, "zone 1 of region eu"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if got := tt.place.Matches("c1", tt.at); got != tt.want {
				t.Errorf("Matches(c1, %v) = %v, want %v", tt.at, got, tt.want)
			}
			if diff := cmp.Diff(tt.words, tt.place.String()); diff != "" {
				t.Errorf("String (-want +got):\n%s", diff)
			}
		})
	}
}

// TestDefaultSuitsTheLeastFederation keeps the default valid and in proportion: an export that flaps is held longer than
// it takes to come back, and has its whole weight by then.
func TestDefaultSuitsTheLeastFederation(t *testing.T) {
	d := policy.Default()
	if err := d.Validate(); err != nil {
		t.Error(err)
	}
	if d.Hold < d.FailbackDelay+d.Ramp {
		t.Errorf("the hold time %v is shorter than a return takes: %v and %v", d.Hold, d.FailbackDelay, d.Ramp)
	}
	if d.Name != "" || d.Order != nil || d.Weights != nil {
		t.Errorf("the default %+v is more than locality", d)
	}
}

func TestEqual(t *testing.T) {
	full := func() policy.Policy {
		return policy.Policy{
			Name: "p", Order: []policy.Place{{Cluster: "c1"}}, Weights: []policy.Weight{{Place: policy.Place{Region: "eu"}, Weight: 3}},
			Select: policy.Selector{
				Namespaces: []string{"shop"}, Names: []string{"web"}, Labels: map[string]string{"tier": "1"}, Consumers: []federation.ClusterID{"c2"},
			},
			MinHealthy: 60, Times: policy.Times{Grace: time.Second, FailbackDelay: 2 * time.Second, Hold: 3 * time.Second, Ramp: 4 * time.Second},
		}
	}
	changes := map[string]func(*policy.Policy){
		"name":           func(p *policy.Policy) { p.Name = "q" },
		"namespaces":     func(p *policy.Policy) { p.Select.Namespaces = nil },
		"names":          func(p *policy.Policy) { p.Select.Names = append(p.Select.Names, "api") },
		"labels":         func(p *policy.Policy) { p.Select.Labels["tier"] = "2" },
		"consumers":      func(p *policy.Policy) { p.Select.Consumers[0] = "c3" },
		"order":          func(p *policy.Policy) { p.Order[0].Cluster = "c9" },
		"weights":        func(p *policy.Policy) { p.Weights[0].Weight = 4 },
		"min-healthy":    func(p *policy.Policy) { p.MinHealthy = 61 },
		"grace":          func(p *policy.Policy) { p.Grace = 0 },
		"failback-delay": func(p *policy.Policy) { p.FailbackDelay = 0 },
		"hold":           func(p *policy.Policy) { p.Hold = 0 },
		"ramp":           func(p *policy.Policy) { p.Ramp = 0 },
	}
	if !full().Equal(full()) {
		t.Error("a policy does not equal its like")
	}
	for name, change := range changes {
		t.Run(name, func(t *testing.T) {
			changed := full()
			change(&changed)
			if full().Equal(changed) || changed.Equal(full()) {
				t.Error("the policies are called equal")
			}
			a, b := policy.NewSet(policy.Default(), []policy.Policy{full()}), policy.NewSet(policy.Default(), []policy.Policy{changed})
			if a.Equal(b) || policy.NewSet(full(), nil).Equal(policy.NewSet(changed, nil)) {
				t.Error("the sets are called equal")
			}
		})
	}
}
