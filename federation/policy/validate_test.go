package policy_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/federation/policy"
)

// valid returns a policy that says all that can be said.
func valid() policy.Policy {
	return policy.Policy{
		Name: "webapp.example",
		Select: policy.Selector{
			Namespaces: []string{"shop", "pay"}, Names: []string{"webapp", "main.gateway/https"},
			Labels: map[string]string{"example.com/tier": "Front_end.1", "bare": ""}, Consumers: []federation.ClusterID{"c1", "c2"},
		},
		Order:      []policy.Place{{Cluster: "c1"}, {Region: "eu", Zone: "eu-1a"}, {Region: "eu"}, {Region: "us", Zone: "eu-1a"}},
		Weights:    []policy.Weight{{Place: policy.Place{Region: "eu"}, Weight: 1000}, {Place: policy.Place{Region: "eu", Zone: "eu-1a"}}, {Place: policy.Place{Cluster: "c2"}, Weight: 1}},
		MinHealthy: 100, Times: policy.Times{Grace: policy.MinGrace, FailbackDelay: policy.MaxTime},
	}
}

func TestValidPolicies(t *testing.T) {
	for name, change := range map[string]func(*policy.Policy){
		"full":        func(*policy.Policy) {},
		"the-default": func(p *policy.Policy) { *p = policy.Default() },
		"longest-times": func(p *policy.Policy) {
			p.Times = policy.Times{24 * time.Hour, 24 * time.Hour, 24 * time.Hour, 24 * time.Hour}
		},
		"least-healthy":   func(p *policy.Policy) { p.MinHealthy = 1 },
		"consumers-alone": func(p *policy.Policy) { p.Select = policy.Selector{Consumers: []federation.ClusterID{"c1"}} },
		"labels-alone":    func(p *policy.Policy) { p.Select = policy.Selector{Labels: map[string]string{"a": "b"}} },
		"no-order":        func(p *policy.Policy) { p.Order, p.Weights = nil, nil },
		"a-default-with-an-order": func(p *policy.Policy) {
			p.Name, p.Select = "", policy.Selector{}
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := valid()
			change(&p)
			if err := p.Validate(); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestInvalidPolicies(t *testing.T) {
	const (
		label     = "use 1 to 63 lower case letters, digits and '-', starting and ending with a letter or digit (RFC 1123 label)"
		subdomain = "use 1 to 253 lower case letters, digits, '-' and '.', each part between dots starting and ending with a letter or digit (RFC 1123 subdomain)"
		value     = "use at most 63 letters, digits, '-', '_' and '.', starting and ending with a letter or digit"
	)
	order := func(places ...policy.Place) func(*policy.Policy) {
		return func(p *policy.Policy) { p.Order = places }
	}
	weights := func(ws ...policy.Weight) func(*policy.Policy) {
		return func(p *policy.Policy) { p.Weights = ws }
	}
	eu := policy.Place{Region: "eu"}
	for name, tt := range map[string]struct {
		change func(*policy.Policy)
		want   string
	}{
		"name":               {func(p *policy.Policy) { p.Name = "Web" }, `name "Web": ` + subdomain},
		"name-too-long":      {func(p *policy.Policy) { p.Name = strings.Repeat("a", 254) }, `name "` + strings.Repeat("a", 254) + `": ` + subdomain},
		"default-selects":    {func(p *policy.Policy) { p.Name = "" }, "the federation's default counts for whatever no policy selects: leave services and consumers out of it, or give the policy a name"},
		"selects-everything": {func(p *policy.Policy) { p.Select = policy.Selector{} }, "it selects everything: set services or consumers, or make it the federation's default"},
		"namespace":          {func(p *policy.Policy) { p.Select.Namespaces[1] = "a.b" }, `services.namespaces[1] "a.b": ` + label},
		"namespace-twice":    {func(p *policy.Policy) { p.Select.Namespaces[1] = "shop" }, `services.namespaces[0] and services.namespaces[1] are both "shop": leave one out`},
		"service-name":       {func(p *policy.Policy) { p.Select.Names[0] = "*" }, `services.names[0] "*": ` + label},
		"listener-name":      {func(p *policy.Policy) { p.Select.Names[0] = "main/" }, `services.names[0] "main/": a listener is gateway/listener; in both parts, ` + subdomain},
		"service-name-twice": {func(p *policy.Policy) { p.Select.Names[1] = "webapp" }, `services.names[0] and services.names[1] are both "webapp": leave one out`},
		"label-key": {
			func(p *policy.Policy) { p.Select.Labels = map[string]string{"a/b/c": "1"} },
			`services.matchLabels "a/b/c": a label's key is a name of 1 to 63 letters, digits, '-', '_' and '.', with at most a DNS name and '/' before it`,
		},
		"label-value":                   {func(p *policy.Policy) { p.Select.Labels = map[string]string{"a": "-"} }, `services.matchLabels[a] "-": ` + value},
		"consumer":                      {func(p *policy.Policy) { p.Select.Consumers[0] = "C1" }, `consumers[0] "C1": ` + label},
		"consumer-twice":                {func(p *policy.Policy) { p.Select.Consumers[0] = "c2" }, `consumers[0] and consumers[1] are both "c2": leave one out`},
		"place-of-nothing":              {order(policy.Place{}), "order[0]: it names no place: set cluster or region"},
		"a-place-behind-one-of-nothing": {order(policy.Place{}, policy.Place{Cluster: "c1"}), "order[0]: it names no place: set cluster or region"},
		"cluster-in-region":             {order(policy.Place{Cluster: "c1", Region: "eu"}), "order[0]: it names cluster c1 and where it lies: set either cluster, or region and if need be zone"},
		"cluster-in-zone":               {order(policy.Place{Cluster: "c1", Zone: "a"}), "order[0]: it names cluster c1 and where it lies: set either cluster, or region and if need be zone"},
		"zone-alone":                    {order(policy.Place{Zone: "a"}), "order[0]: a zone lies in a region: set region too"},
		"cluster":                       {order(policy.Place{Cluster: "c_1"}), `order[0].cluster "c_1": ` + label},
		"region":                        {order(policy.Place{Region: "eu west"}), `order[0].region "eu west": ` + value},
		"zone":                          {order(policy.Place{Region: "eu", Zone: "-a"}), `order[0].zone "-a": ` + value},
		"place-twice":                   {order(eu, policy.Place{Cluster: "c1"}, eu), "order[2], region eu, is never reached: order[0], region eu, takes it in; leave it out, or put it before"},
		"zone-behind-its-region": {
			order(eu, policy.Place{Region: "eu", Zone: "a"}),
			"order[1], zone a of region eu, is never reached: order[0], region eu, takes it in; leave it out, or put it before",
		},
		"weight-of-nothing": {weights(policy.Weight{Weight: 1}), "weights[0]: it names no place: set cluster or region"},
		"weight":            {weights(policy.Weight{Place: eu, Weight: 1001}), "weights[0].weight 1001: set 0 to 1000"},
		"weight-twice":      {weights(policy.Weight{Place: eu, Weight: 1}, policy.Weight{Place: eu, Weight: 2}), "weights[0] and weights[1] are both of region eu: leave one out"},
		"weights-all-0": {
			weights(policy.Weight{Place: eu}, policy.Weight{Place: policy.Place{Cluster: "c1"}}),
			"weights: not all may be 0: give at least one place a weight of 1 to 1000, or leave weights out",
		},
		"nobody-healthy":       {func(p *policy.Policy) { p.MinHealthy = 0 }, "minHealthyPercent 0: set 1 to 100"},
		"more-than-all":        {func(p *policy.Policy) { p.MinHealthy = 101 }, "minHealthyPercent 101: set 1 to 100"},
		"grace-too-short":      {func(p *policy.Policy) { p.Grace = 999 * time.Millisecond }, "grace 999ms: set 1s to 24h"},
		"grace-too-long":       {func(p *policy.Policy) { p.Grace = 25 * time.Hour }, "grace 25h0m0s: set 1s to 24h"},
		"delay-negative":       {func(p *policy.Policy) { p.FailbackDelay = -1 }, "failbackDelay -1ns: set 0s to 24h"},
		"hold-too-long":        {func(p *policy.Policy) { p.Hold = policy.MaxTime + 1 }, "hold 24h0m0.000000001s: set 0s to 24h"},
		"ramp-negative":        {func(p *policy.Policy) { p.Ramp = -time.Second }, "ramp -1s: set 0s to 24h"},
		"several-are-all-told": {func(p *policy.Policy) { p.MinHealthy, p.Ramp = 0, -time.Second }, "minHealthyPercent 0: set 1 to 100; ramp -1s: set 0s to 24h"},
	} {
		t.Run(name, func(t *testing.T) {
			p := valid()
			tt.change(&p)
			err := p.Validate()
			if !errors.Is(err, policy.ErrInvalid) {
				t.Fatalf("Validate = %v, want %v", err, policy.ErrInvalid)
			}
			if diff := cmp.Diff("invalid policy: "+tt.want, err.Error()); diff != "" {
				t.Errorf("message (-want +got):\n%s", diff)
			}
		})
	}
}
