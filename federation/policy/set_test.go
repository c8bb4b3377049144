package policy_test

import (
	"fmt"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/federation/policy"
)

var (
	web    = federation.Service("shop", "web")
	listen = federation.Listener("shop", "edge", "https")
	tiers  = map[string]string{"tier": "1", "team": "blue"}
)

// selects makes a policy of a name that selects something.
func selects(name string, s policy.Selector) policy.Policy {
	p := policy.Default()
	p.Name, p.Select = name, s
	return p
}

// TestPrecedence has, on each line, two policies that both select the service web of shop with two labels, as c1 uses it,
// and that are neighbours in the order of precedence. The names speak for the wrong one, except where they decide.
func TestPrecedence(t *testing.T) {
	var (
		name     = []string{"web"}
		space    = []string{"shop"}
		two, one = tiers, map[string]string{"tier": "1"}
		c1       = []federation.ClusterID{"c1"}
	)
	tests := map[string]struct{ first, second policy.Policy }{
		"a-name-before-two-labels": {
			selects("z", policy.Selector{Names: name}),
			selects("a", policy.Selector{Labels: two, Namespaces: space, Consumers: c1}),
		},
		"a-name-before-a-namespace": {selects("z", policy.Selector{Names: name}), selects("a", policy.Selector{Namespaces: space})},
		"a-name-with-labels-before-a-name-in-a-namespace": {
			selects("z", policy.Selector{Names: name, Labels: one}),
			selects("a", policy.Selector{Names: name, Namespaces: space, Consumers: c1}),
		},
		"two-labels-before-one": {
			selects("z", policy.Selector{Labels: two}),
			selects("a", policy.Selector{Labels: one, Namespaces: space, Consumers: c1}),
		},
		"a-label-before-a-namespace": {
			selects("z", policy.Selector{Labels: one}), selects("a", policy.Selector{Namespaces: space, Consumers: c1}),
		},
		"a-label-in-a-namespace-before-a-label": {
			selects("z", policy.Selector{Labels: one, Namespaces: space}), selects("a", policy.Selector{Labels: one, Consumers: c1}),
		},
		"a-namespace-before-a-consumer": {selects("z", policy.Selector{Namespaces: space}), selects("a", policy.Selector{Consumers: c1})},
		"a-namespace-for-a-consumer-before-a-namespace": {
			selects("z", policy.Selector{Namespaces: space, Consumers: c1}), selects("a", policy.Selector{Namespaces: space}),
		},
		"a-consumer-before-none":              {selects("z", policy.Selector{Consumers: c1}), selects("a", policy.Selector{})},
		"by-name-those-of-a-name":             {selects("a", policy.Selector{Names: name}), selects("b", policy.Selector{Names: []string{"web", "api"}})},
		"by-name-those-of-labels":             {selects("a", policy.Selector{Labels: one}), selects("b", policy.Selector{Labels: map[string]string{"team": "blue"}})},
		"by-name-those-of-a-namespace":        {selects("a", policy.Selector{Namespaces: space}), selects("b", policy.Selector{Namespaces: space})},
		"by-name-those-of-a-consumer":         {selects("a", policy.Selector{Consumers: c1}), selects("b", policy.Selector{Consumers: c1})},
		"by-name-those-that-select-all":       {selects("a", policy.Selector{}), selects("b", policy.Selector{})},
		"a-policy-for-all-before-the-default": {selects("z", policy.Selector{}), policy.Default()},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			pair := []policy.Policy{tt.first, tt.second}
			if tt.second.Name == "" {
				pair = pair[:1]
			}
			for range 2 {
				slices.Reverse(pair)
				set := policy.NewSet(policy.Default(), pair)
				if got := set.For(web, tiers, "c1"); got.Name != tt.first.Name {
					t.Errorf("For = %q, want %q", got.Name, tt.first.Name)
				}
				if diff := cmp.Diff(tt.first.Name, set.Policies()[0].Name); diff != "" {
					t.Errorf("the first of Policies (-want +got):\n%s", diff)
				}
				only := policy.NewSet(policy.Default(), slices.DeleteFunc(slices.Clone(pair), func(p policy.Policy) bool { return p.Name == tt.first.Name }))
				if got := only.For(web, tiers, "c1"); got.Name != tt.second.Name {
					t.Errorf("For without the first = %q, want %q", got.Name, tt.second.Name)
				}
			}
		})
	}
}

func TestFor(t *testing.T) {
	set := policy.NewSet(policy.Policy{MinHealthy: 42}, []policy.Policy{
		selects("web", policy.Selector{Names: []string{"web"}, Namespaces: []string{"shop"}}),
		selects("edge", policy.Selector{Names: []string{"edge/https"}}),
		selects("tier", policy.Selector{Labels: map[string]string{"tier": "1"}}),
		selects("empty-value", policy.Selector{Labels: map[string]string{"bare": ""}}),
		selects("shop", policy.Selector{Namespaces: []string{"shop", "pay"}, Consumers: []federation.ClusterID{"c1", "c2"}}),
		selects("far", policy.Selector{Consumers: []federation.ClusterID{"c9"}}),
	})
	tests := map[string]struct {
		id       federation.ServiceID
		labels   map[string]string
		consumer federation.ClusterID
		want     string
	}{
		"by-name":                                 {web, nil, "", "web"},
		"by-name-whatever-the-labels":             {web, tiers, "c9", "web"},
		"the-name-in-another-namespace":           {federation.Service("blog", "web"), nil, "c9", "far"},
		"a-listener":                              {listen, nil, "", "edge"},
		"a-service-of-the-gateway's-name":         {federation.Service("shop", "edge"), nil, "", ""},
		"by-label":                                {federation.Service("blog", "api"), tiers, "c9", "tier"},
		"another-value":                           {federation.Service("blog", "api"), map[string]string{"tier": "2"}, "", ""},
		"a-label-without-a-value":                 {federation.Service("blog", "api"), map[string]string{"bare": ""}, "", "empty-value"},
		"no-label-is-not-one-without-a-value":     {federation.Service("blog", "api"), map[string]string{"tier": "2"}, "", ""},
		"by-namespace-for-a-consumer":             {federation.Service("pay", "api"), nil, "c2", "shop"},
		"by-namespace-for-another-consumer":       {federation.Service("pay", "api"), nil, "c9", "far"},
		"by-namespace-for-consumers-nobody-names": {federation.Service("pay", "api"), nil, "", ""},
		"nothing-selects-it":                      {federation.Service("blog", "api"), nil, "c1", ""},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			got := set.For(tt.id, tt.labels, tt.consumer)
			if got.Name != tt.want {
				t.Errorf("For = %q, want %q", got.Name, tt.want)
			}
			if tt.want == "" && got.MinHealthy != 42 {
				t.Errorf("the fallback is %+v, not what was given", got)
			}
		})
	}
}

func TestNilSetHasTheDefault(t *testing.T) {
	var none *policy.Set
	want := policy.Default()
	if got := none.For(web, tiers, "c1"); !got.Equal(want) {
		t.Errorf("For = %+v, want %+v", got, want)
	}
	if got := none.Fallback(); !got.Equal(want) {
		t.Errorf("Fallback = %+v, want %+v", got, want)
	}
	if got := none.Policies(); got != nil {
		t.Errorf("Policies = %+v, want none", got)
	}
	if _, shadowed := none.Shadow("any"); shadowed {
		t.Error("Shadow names a policy")
	}
	if !none.Equal(policy.NewSet(want, nil)) || !policy.NewSet(want, nil).Equal(none) {
		t.Error("it does not equal a set of the default alone")
	}
}

func TestShadow(t *testing.T) {
	tests := map[string]struct {
		asked, other policy.Selector // of the policies b and a
		shadowed     bool
	}{
		"the-same":                     {policy.Selector{Names: []string{"web"}}, policy.Selector{Names: []string{"web"}}, true},
		"in-another-order":             {policy.Selector{Names: []string{"web", "api"}}, policy.Selector{Names: []string{"api", "web"}}, true},
		"part-of-the-names":            {policy.Selector{Names: []string{"web"}}, policy.Selector{Names: []string{"api", "web"}}, true},
		"more-names":                   {policy.Selector{Names: []string{"web", "api"}}, policy.Selector{Names: []string{"web"}}, false},
		"behind-but-wider":             {policy.Selector{Namespaces: []string{"shop"}}, policy.Selector{Names: []string{"web"}}, false},
		"wider-but-behind":             {policy.Selector{Names: []string{"web"}}, policy.Selector{Namespaces: []string{"shop"}}, false},
		"part-of-the-consumers":        {policy.Selector{Consumers: []federation.ClusterID{"c1"}}, policy.Selector{Consumers: []federation.ClusterID{"c1", "c2"}}, true},
		"other-consumers":              {policy.Selector{Consumers: []federation.ClusterID{"c1"}}, policy.Selector{Consumers: []federation.ClusterID{"c2"}}, false},
		"the-same-labels":              {policy.Selector{Labels: tiers}, policy.Selector{Labels: tiers}, true},
		"other-labels":                 {policy.Selector{Labels: map[string]string{"tier": "1"}}, policy.Selector{Labels: map[string]string{"team": "blue"}}, false},
		"a-namespace-besides-the-name": {policy.Selector{Names: []string{"web"}}, policy.Selector{Names: []string{"web"}, Namespaces: []string{"shop"}}, false},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			set := policy.NewSet(policy.Default(), []policy.Policy{selects("b", tt.asked), selects("a", tt.other)})
			by, shadowed := set.Shadow("b")
			if shadowed != tt.shadowed || shadowed && by.Name != "a" {
				t.Errorf("Shadow(b) = %v, %v, want %v", by, shadowed, tt.shadowed)
			}
			if by, shadowed := set.Shadow("a"); shadowed && tt.shadowed {
				t.Errorf("Shadow(a) = %s, which a shadows itself", by.Name)
			}
			if _, shadowed := set.Shadow("missing"); shadowed {
				t.Error("a policy that is not there is shadowed")
			}
		})
	}
}

// TestForDoesNotAllocate matters since the hub asks for each consumer of each service that an event touches.
func TestForDoesNotAllocate(t *testing.T) {
	set := policy.NewSet(policy.Default(), many(100))
	if n := testing.AllocsPerRun(100, func() { set.For(web, tiers, "c1") }); n != 0 {
		t.Errorf("For allocates %v times", n)
	}
}

// many returns n policies that each name services of their own.
func many(n int) []policy.Policy {
	out := make([]policy.Policy, n)
	for i := range out {
		s := policy.Selector{Names: []string{fmt.Sprintf("service-%d", i)}}
		if i%2 == 0 {
			s = policy.Selector{Namespaces: []string{fmt.Sprintf("namespace-%d", i)}}
		}
		out[i] = selects(fmt.Sprintf("policy-%d", i), s)
	}
	return out
}

func BenchmarkFor(b *testing.B) {
	for _, n := range []int{1, 1000} {
		policies := many(n)
		set := policy.NewSet(policy.Default(), policies)
		b.Run(fmt.Sprintf("set-of-%d", n), func(b *testing.B) {
			for b.Loop() {
				set.For(web, tiers, "c1")
			}
		})
		b.Run(fmt.Sprintf("baseline-scan-of-%d", n), func(b *testing.B) {
			for b.Loop() {
				_ = slices.IndexFunc(policies, func(p policy.Policy) bool { return p.Select.Matches(web, tiers, "c1") })
			}
		})
	}
}
