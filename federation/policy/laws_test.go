package policy_test

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/federation/policy"
)

// script draws small numbers from a fuzzer's bytes; at their end it draws zeros.
type script []byte

func (s *script) pick(n int) int {
	if len(*s) == 0 {
		return 0
	}
	b := (*s)[0]
	*s = (*s)[1:]
	return int(b) % n
}

// some returns a subset of the words.
func some[T any](s *script, words []T) []T {
	mask := s.pick(1 << len(words))
	var out []T
	for i, w := range words {
		if mask>>i&1 == 1 {
			out = append(out, w)
		}
	}
	return out
}

var (
	namespaces = []string{"shop", "pay"}
	names      = []string{"web", "edge/https"}
	consumers  = []federation.ClusterID{"c1", "c2"}
	keys       = []string{"team", "tier"}
)

func (s *script) selector() policy.Selector {
	x := policy.Selector{Labels: s.labels()}
	switch s.pick(4) { // all at once would seldom match anything
	case 0:
		x.Names, x.Consumers = some(s, names), some(s, consumers)
	case 1:
		x.Namespaces, x.Consumers = some(s, namespaces), some(s, consumers)
	case 2:
		x.Names, x.Namespaces = some(s, names), some(s, namespaces)
	}
	return x
}

func (s *script) labels() map[string]string {
	out := map[string]string{}
	for _, k := range some(s, keys) {
		out[k] = fmt.Sprint(s.pick(2))
	}
	return out
}

func (s *script) policies() []policy.Policy {
	out := make([]policy.Policy, s.pick(10))
	for i := range out {
		out[i] = selects(fmt.Sprintf("p%d", i), s.selector())
	}
	return out
}

// precedes is what NewSet says of precedence, line by line.
func precedes(a, b policy.Policy) bool {
	x, y := a.Select, b.Select
	byName := func(s policy.Selector) bool { return len(s.Names) != 0 }
	bySpace := func(s policy.Selector) bool { return len(s.Namespaces) != 0 }
	byConsumer := func(s policy.Selector) bool { return len(s.Consumers) != 0 }
	if byName(x) != byName(y) {
		return byName(x)
	}
	if len(x.Labels) != len(y.Labels) {
		return len(x.Labels) > len(y.Labels)
	}
	if bySpace(x) != bySpace(y) {
		return bySpace(x)
	}
	if byConsumer(x) != byConsumer(y) {
		return byConsumer(x)
	}
	return a.Name < b.Name
}

// naiveFor looks at all policies: of those that select the service, the one that precedes all others counts.
func naiveFor(policies []policy.Policy, id federation.ServiceID, labels map[string]string, consumer federation.ClusterID) string {
	var best *policy.Policy
	for i, p := range policies {
		x := p.Select
		selected := (x.Names == nil || slices.Contains(x.Names, id.Name)) &&
			(x.Namespaces == nil || slices.Contains(x.Namespaces, id.Namespace)) &&
			(x.Consumers == nil || slices.Contains(x.Consumers, consumer))
		for k, v := range x.Labels {
			got, ok := labels[k]
			selected = selected && ok && got == v
		}
		if selected && (best == nil || precedes(p, *best)) {
			best = &policies[i]
		}
	}
	if best == nil {
		return ""
	}
	return best.Name
}

// everything calls f with each service, labels and consumer that the selectors of a script can tell apart.
func everything(f func(id federation.ServiceID, labels map[string]string, consumer federation.ClusterID)) {
	values := []string{"none", "0", "1"}
	for _, namespace := range append(namespaces, "other") {
		for _, name := range append(names, "other") {
			for _, consumer := range append(consumers, "c9", "") {
				for _, team := range values {
					for _, tier := range values {
						labels := map[string]string{"team": team, "tier": tier}
						for k, v := range labels {
							if v == "none" {
								delete(labels, k)
							}
						}
						f(federation.Service(namespace, name), labels, consumer)
					}
				}
			}
		}
	}
}

// FuzzSet holds sets of any policies to their laws, for all services, labels and consumers:
//   - For answers what a scan of all policies does;
//   - For does not depend on the order in which the policies were given, and neither does the set;
//   - a policy that is shadowed never counts, and what shadows it precedes it.
func FuzzSet(f *testing.F) {
	f.Add([]byte{}, uint8(0))
	f.Add([]byte{3, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3, 0}, uint8(1))
	f.Add([]byte("names and labels, namespaces and consumers"), uint8(7))
	f.Add([]byte{9, 3, 1, 1, 0, 3, 3, 1, 0, 1, 0, 2, 2, 2, 1, 2, 0, 1, 1, 1, 3, 0, 0, 0, 3, 3, 0, 1, 1, 1}, uint8(200))
	f.Fuzz(func(t *testing.T, raw []byte, rotate uint8) {
		s := script(raw)
		policies := s.policies()
		set := policy.NewSet(policy.Default(), policies)
		if again := script(raw); !slices.EqualFunc(policies, again.policies(), policy.Policy.Equal) {
			t.Errorf("NewSet changed what it was given: %+v", policies)
		}
		other := slices.Clone(policies)
		slices.Reverse(other)
		if n := len(other); n > 0 {
			other = append(other[int(rotate)%n:], other[:int(rotate)%n]...)
		}
		permuted := policy.NewSet(policy.Default(), other)
		if !set.Equal(permuted) {
			t.Errorf("the set depends on the order of the policies: %+v and %+v", set.Policies(), permuted.Policies())
		}
		counts := map[string]bool{}
		everything(func(id federation.ServiceID, labels map[string]string, consumer federation.ClusterID) {
			got, want := set.For(id, labels, consumer).Name, naiveFor(policies, id, labels, consumer)
			if got != want {
				t.Fatalf("For(%s, %v, %q) = %q, want %q of %+v", id, labels, consumer, got, want, policies)
			}
			if again := permuted.For(id, labels, consumer).Name; again != got {
				t.Fatalf("For(%s, %v, %q) = %q, with the policies in another order %q", id, labels, consumer, got, again)
			}
			counts[got] = true
		})
		for _, p := range policies {
			by, shadowed := set.Shadow(p.Name)
			if shadowed && counts[p.Name] {
				t.Errorf("%q counts and is called shadowed by %q, of %+v", p.Name, by.Name, policies)
			}
			if shadowed && !precedes(*by, p) {
				t.Errorf("%q is shadowed by %q, which comes behind it, of %+v", p.Name, by.Name, policies)
			}
		}
	})
}

// FuzzCovers compares Covers with what both selectors match: a selector covers another one exactly if it matches all that
// the other one matches, as far as there is anything that tells them apart.
func FuzzCovers(f *testing.F) {
	f.Add([]byte{0, 0, 1, 0, 0, 0, 3, 0})
	f.Add([]byte("\x01\x01\x02\x03\x01\x03\x01\x01\x03"))
	f.Add([]byte("abcdefgh"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		s := script(raw)
		a, b := s.selector(), s.selector()
		missed := ""
		everything(func(id federation.ServiceID, labels map[string]string, consumer federation.ClusterID) {
			if b.Matches(id, labels, consumer) && !a.Matches(id, labels, consumer) {
				missed = fmt.Sprintf("%s with %v used by %q", id, labels, consumer)
			}
		})
		if covers := a.Covers(b); covers != (missed == "") {
			t.Errorf("%+v covers %+v: %v, but it misses %q", a, b, covers, missed)
		}
	})
}

var (
	label      = `[a-z0-9](?:[-a-z0-9]*[a-z0-9])?`
	value      = `[A-Za-z0-9](?:[-A-Za-z0-9_.]*[A-Za-z0-9])?`
	labels     = regexp.MustCompile(`^` + label + `$`)
	subdomains = regexp.MustCompile(`^` + label + `(\.` + label + `)*$`)
	values     = regexp.MustCompile(`^` + value + `$`)
	labelKeys  = regexp.MustCompile(`^(?:(` + label + `(?:\.` + label + `)*)/)?(` + value + `)$`)
	listeners  = regexp.MustCompile(`^(` + label + `(?:\.` + label + `)*)/(` + label + `(?:\.` + label + `)*)$`)
)

// FuzzWords compares what Validate takes for a name with the patterns that Kubernetes documents, in each field that holds
// one, and demands the word in the message where it is refused.
func FuzzWords(f *testing.F) {
	for _, seed := range []string{
		"", "web", "-web", "web-", "Web", "a.b", "a..b", ".a", "edge/https", "edge/", "/https", "a/b/c", "1", "wéb", "a_b", "a b",
		"example.com/tier", "example.com/Tier.x_y", "Example.com/tier", "\xff", "a23456789-123456789-123456789-123456789-123456789-123456789-1234",
		"sub.a23456789-123456789-123456789-123456789-123456789-123456789-1234/x",
		strings.Repeat("a", 63), strings.Repeat("a", 253), strings.Repeat("a", 254),
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, word string) {
		short := len(word) <= 63
		isLabel := short && labels.MatchString(word)
		isSubdomain := len(word) <= 253 && subdomains.MatchString(word)
		isValue := short && values.MatchString(word)
		isKey := false
		if m := labelKeys.FindStringSubmatch(word); m != nil {
			isKey = len(m[1]) <= 253 && len(m[2]) <= 63
		}
		isName := isLabel
		if m := listeners.FindStringSubmatch(word); m != nil {
			isName = len(m[1]) <= 253 && len(m[2]) <= 253
		}
		everywhere := policy.Selector{Consumers: []federation.ClusterID{"c1"}}
		for _, tt := range []struct {
			field string
			valid bool
			with  func(*policy.Policy)
		}{
			{"name", isSubdomain, func(p *policy.Policy) {
				if p.Name = word; word != "" {
					p.Select = everywhere
				}
			}},
			{"namespace", isLabel, func(p *policy.Policy) { p.Select.Namespaces = []string{word} }},
			{"service", isName, func(p *policy.Policy) { p.Select.Names = []string{word} }},
			{"key", isKey, func(p *policy.Policy) { p.Select.Labels = map[string]string{word: ""} }},
			{"value", isValue || word == "", func(p *policy.Policy) { p.Select.Labels = map[string]string{"key": word} }},
			{"consumer", isLabel, func(p *policy.Policy) { p.Select.Consumers = []federation.ClusterID{federation.ClusterID(word)} }},
			{"cluster", isLabel, func(p *policy.Policy) {
				p.Select, p.Order = everywhere, []policy.Place{{Cluster: federation.ClusterID(word)}}
			}},
			{"region", isValue, func(p *policy.Policy) { p.Select, p.Order = everywhere, []policy.Place{{Region: word}} }},
			{"zone", isValue || word == "", func(p *policy.Policy) {
				p.Select, p.Weights = everywhere, []policy.Weight{{Place: policy.Place{Region: "eu", Zone: word}, Weight: 1}}
			}},
		} {
			p := policy.Default()
			p.Name = "p"
			tt.with(&p)
			err := p.Validate()
			valid := tt.valid || tt.field == "name" && word == "" // the default's
			if (err == nil) != valid {
				t.Errorf("%s %q: %v, want valid %v", tt.field, word, err, valid)
			}
			if err != nil && !errors.Is(err, policy.ErrInvalid) {
				t.Errorf("%s %q: %v does not wrap %v", tt.field, word, err, policy.ErrInvalid)
			}
		}
	})
}
