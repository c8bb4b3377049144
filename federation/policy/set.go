package policy

import (
	"cmp"
	"maps"
	"slices"

	"github.com/tailgate-project/tailgate/federation"
)

// Set holds the policies of a federation in the order of their precedence. It is a value that does not change; the nil
// Set has [Default] alone.
type Set struct {
	fallback Policy
	ordered  []Policy

	// The policies by what they say first, each list in the order of precedence. Precedence puts all of the first index
	// before all of the second, and so on.
	byName      map[string][]*Policy
	labelled    []*Policy
	byNamespace map[string][]*Policy
	byConsumer  map[federation.ClusterID]*Policy // only the first can count
	unbound     *Policy                          // here too
}

// NewSet returns the set of the policies, with the fallback for what none of them selects. The more a policy says of
// what it selects, the earlier it is asked:
//
//  1. those that select by name before those that do not,
//  2. more labels before fewer,
//  3. those that select by namespace before those that do not,
//  4. those for named consumers before those for all,
//  5. by their own names.
//
// Each line counts only between policies that are equal by the lines above it. The names are unique, as those of objects
// are, and the policies are not changed any more: the set does not depend on the order in which they are given.
func NewSet(fallback Policy, policies []Policy) *Set {
	s := &Set{
		fallback: fallback, ordered: slices.Clone(policies),
		byName: map[string][]*Policy{}, byNamespace: map[string][]*Policy{}, byConsumer: map[federation.ClusterID]*Policy{},
	}
	slices.SortFunc(s.ordered, comparePrecedence)
	for i := range s.ordered {
		s.index(&s.ordered[i])
	}
	return s
}

// index puts a policy, whose precedence is behind that of all before, where For finds it.
func (s *Set) index(p *Policy) {
	switch x := &p.Select; {
	case len(x.Names) > 0:
		file(s.byName, x.Names, p)
	case len(x.Labels) > 0:
		s.labelled = append(s.labelled, p)
	case len(x.Namespaces) > 0:
		file(s.byNamespace, x.Namespaces, p)
	case len(x.Consumers) > 0:
		for _, c := range x.Consumers {
			if s.byConsumer[c] == nil {
				s.byConsumer[c] = p
			}
		}
	case s.unbound == nil:
		s.unbound = p
	}
}

func file(index map[string][]*Policy, keys []string, p *Policy) {
	for _, k := range keys {
		index[k] = append(index[k], p)
	}
}

func comparePrecedence(a, b Policy) int {
	return cmp.Or(
		first(len(a.Select.Names) > 0, len(b.Select.Names) > 0),
		cmp.Compare(len(b.Select.Labels), len(a.Select.Labels)),
		first(len(a.Select.Namespaces) > 0, len(b.Select.Namespaces) > 0),
		first(len(a.Select.Consumers) > 0, len(b.Select.Consumers) > 0),
		cmp.Compare(a.Name, b.Name),
	)
}

// first orders what is true before what is not.
func first(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return -1
	}
	return 1
}

// For returns the policy for a service with the labels, as the consumer uses it. An empty consumer asks for the policy
// that counts for consumers that no policy names. The policy is the set's own and not to be changed. It takes time for
// the policies that name the service, those that name its namespace and those with labels, not for the others.
func (s *Set) For(id federation.ServiceID, labels map[string]string, consumer federation.ClusterID) *Policy {
	if s == nil {
		return &defaults
	}
	for _, index := range [...][]*Policy{s.byName[id.Name], s.labelled, s.byNamespace[id.Namespace]} {
		for _, p := range index {
			if p.Select.Matches(id, labels, consumer) {
				return p
			}
		}
	}
	if p := s.byConsumer[consumer]; p != nil {
		return p
	}
	if s.unbound != nil {
		return s.unbound
	}
	return &s.fallback
}

// defaults is what the nil Set answers; nobody may change it.
var defaults = Default()

// Fallback returns the policy for what no other selects. Its times count for clusters as a whole.
func (s *Set) Fallback() *Policy {
	if s == nil {
		return &defaults
	}
	return &s.fallback
}

// Policies returns the policies in the order of their precedence, without the fallback.
func (s *Set) Policies() []Policy {
	if s == nil {
		return nil
	}
	return s.ordered
}

// Shadow returns the first policy that is asked before the named one and selects all that it does, if there is one: the
// named one then never counts. It does not tell of a policy whose selection several others share out among them.
func (s *Set) Shadow(name string) (by *Policy, shadowed bool) {
	policies := s.Policies()
	at := slices.IndexFunc(policies, func(p Policy) bool { return p.Name == name })
	for i := range max(0, at) {
		if policies[i].Select.Covers(policies[at].Select) {
			return &policies[i], true
		}
	}
	return nil, false
}

// Matches reports whether the selector selects the service as the consumer uses it.
func (s Selector) Matches(id federation.ServiceID, labels map[string]string, consumer federation.ClusterID) bool {
	return in(s.Namespaces, id.Namespace) && in(s.Names, id.Name) && in(s.Consumers, consumer) && contains(labels, s.Labels)
}

// Covers reports whether the selector selects all that the other one does.
func (s Selector) Covers(o Selector) bool {
	return within(s.Namespaces, o.Namespaces) && within(s.Names, o.Names) && within(s.Consumers, o.Consumers) && contains(o.Labels, s.Labels)
}

func (s Selector) empty() bool {
	return len(s.Namespaces) == 0 && len(s.Names) == 0 && len(s.Labels) == 0 && len(s.Consumers) == 0
}

func in[T comparable](any []T, v T) bool { return len(any) == 0 || slices.Contains(any, v) }

// within reports whether every value that is one of inner is one of outer. Empty lists have all values.
func within[T comparable](outer, inner []T) bool {
	if len(outer) == 0 || len(inner) == 0 {
		return len(outer) == 0
	}
	return !slices.ContainsFunc(inner, func(v T) bool { return !slices.Contains(outer, v) })
}

func contains(have, want map[string]string) bool {
	for k, v := range want {
		if got, ok := have[k]; !ok || got != v {
			return false
		}
	}
	return true
}

// Equal reports whether both sets say the same.
func (s *Set) Equal(o *Set) bool {
	return s.Fallback().Equal(*o.Fallback()) && slices.EqualFunc(s.Policies(), o.Policies(), Policy.Equal)
}

// Equal reports whether both policies say the same, in the same words.
func (p Policy) Equal(o Policy) bool {
	return p.Name == o.Name && p.MinHealthy == o.MinHealthy && p.Times == o.Times &&
		slices.Equal(p.Order, o.Order) && slices.Equal(p.Weights, o.Weights) &&
		slices.Equal(p.Select.Namespaces, o.Select.Namespaces) && slices.Equal(p.Select.Names, o.Select.Names) &&
		slices.Equal(p.Select.Consumers, o.Select.Consumers) && maps.Equal(p.Select.Labels, o.Select.Labels)
}
