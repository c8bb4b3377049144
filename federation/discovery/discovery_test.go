package discovery_test

import (
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/tailgate-project/tailgate/federation/discovery"
)

var inventory = discovery.Inventory{
	Devices: []discovery.Device{
		{FQDN: "web-2.example.ts.net", Tags: []string{"tag:web", "tag:prod"}}, {FQDN: "web-1.example.ts.net", Tags: []string{"tag:web", "tag:dev"}},
		{FQDN: "db.example.ts.net", Tags: []string{"tag:db", "tag:prod"}}, {FQDN: "laptop.example.ts.net"},
	},
	Services: []discovery.Service{
		{Name: "stock", Tags: []string{"tag:shop"}}, {Name: "orders", Tags: []string{"tag:shop", "tag:prod"}}, {Name: "local-web-c1", Tags: []string{"tag:shop"}, Federated: true},
		{Name: "plain"},
	},
}

func names(i discovery.Inventory) string {
	var out []string
	for _, d := range i.Devices {
		out = append(out, d.Name())
	}
	for _, s := range i.Services {
		out = append(out, "svc:"+s.Name)
	}
	return strings.Join(out, " ")
}

func TestSelect(t *testing.T) {
	by := func(op discovery.Operator, tag string, values ...string) discovery.TagSelector {
		return discovery.TagSelector{Tag: tag, Operator: op, Values: values}
	}
	devices := func(s ...discovery.TagSelector) discovery.Query { return discovery.Query{Selectors: s} }
	for name, tc := range map[string]struct {
		query discovery.Query
		want  string
	}{
		"nothing-asked":            {discovery.Query{}, ""},
		"exists":                   {devices(by(discovery.Exists, "tag:web")), "web-1 web-2"},
		"does-not-exist":           {devices(by(discovery.DoesNotExist, "tag:web")), "db laptop"},
		"in-the-tag-itself":        {devices(by(discovery.In, "tag:web")), "web-1 web-2"},
		"in-a-value":               {devices(by(discovery.In, "tag:none", "tag:db", "tag:dev")), "db web-1"},
		"not-in":                   {devices(by(discovery.NotIn, "tag:web", "tag:db")), "laptop"},
		"all-selectors":            {devices(by(discovery.Exists, "tag:prod"), by(discovery.NotIn, "tag:db")), "web-2"},
		"nobody":                   {devices(by(discovery.Exists, "tag:none")), ""},
		"services-by-name":         {discovery.Query{Names: []string{"plain", "none"}}, "svc:plain"},
		"services-by-tag":          {discovery.Query{Tags: []string{"tag:shop"}}, "svc:orders svc:stock"},
		"services-by-either":       {discovery.Query{Names: []string{"plain"}, Tags: []string{"tag:prod"}}, "svc:orders svc:plain"},
		"federated-only-by-name":   {discovery.Query{Names: []string{"local-web-c1"}}, "svc:local-web-c1"},
		"devices-beside-services":  {discovery.Query{Selectors: []discovery.TagSelector{by(discovery.Exists, "tag:db")}, Names: []string{"stock"}}, "db svc:stock"},
		"values-are-not-for-exist": {devices(by(discovery.Exists, "tag:none", "tag:web")), ""},
	} {
		t.Run(name, func(t *testing.T) {
			if err := tc.query.Validate(); err != nil {
				t.Fatal(err)
			}
			got := tc.query.Select(inventory)
			if names(got) != tc.want {
				t.Errorf("got %q, want %q", names(got), tc.want)
			}
			if !got.Equal(tc.query.Select(inventory)) {
				t.Error("twice the same query, and not the same answer")
			}
		})
	}
}

func TestValidate(t *testing.T) {
	for name, tc := range map[string]struct {
		selector discovery.TagSelector
		says     string
	}{
		"unknown-operator": {discovery.TagSelector{Tag: "tag:a", Operator: "Like"}, "use In, NotIn, Exists or DoesNotExist"},
		"no-tag":           {discovery.TagSelector{Operator: discovery.Exists}, "has no tag"},
	} {
		t.Run(name, func(t *testing.T) {
			if err := (discovery.Query{Selectors: []discovery.TagSelector{tc.selector}}).Validate(); err == nil || !strings.Contains(err.Error(), tc.says) {
				t.Errorf("got %v", err)
			}
		})
	}
}

// FuzzSelectors checks the laws of selectors: NotIn is the opposite of In, DoesNotExist that of Exists, Exists is In without
// values, and more selectors never select more.
func FuzzSelectors(f *testing.F) {
	for seed := range uint64(20) {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, seed uint64) {
		r := rand.New(rand.NewPCG(seed, 1))
		tags := func(most int) []string {
			var out []string
			for range r.IntN(most + 1) {
				out = append(out, "tag:"+string(rune('a'+r.IntN(5))))
			}
			return out
		}
		has, tag, values := tags(3), "tag:"+string(rune('a'+r.IntN(5))), tags(3)
		is := func(op discovery.Operator, values []string) bool {
			return discovery.TagSelector{Tag: tag, Operator: op, Values: values}.Matches(has)
		}
		if is(discovery.In, values) == is(discovery.NotIn, values) || is(discovery.Exists, nil) == is(discovery.DoesNotExist, nil) {
			t.Errorf("%s with %v of %v: an operator and its opposite agree", tag, values, has)
		}
		if is(discovery.In, nil) != is(discovery.Exists, values) || is(discovery.In, nil) != slices.Contains(has, tag) {
			t.Errorf("%s of %v: In without values is not Exists", tag, has)
		}
		all := discovery.Inventory{Devices: []discovery.Device{{FQDN: "d", Tags: has}}}
		one := discovery.Query{Selectors: []discovery.TagSelector{{Tag: tag, Operator: discovery.In, Values: values}}}
		two := discovery.Query{Selectors: append(one.Selectors, discovery.TagSelector{Tag: "tag:z", Operator: discovery.DoesNotExist})}
		if len(two.Select(all).Devices) > len(one.Select(all).Devices) {
			t.Errorf("one more selector selects more of %v", has)
		}
	})
}
