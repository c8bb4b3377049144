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
}

// NewSet returns the set of the policies, with the fallback for what none of them selects. The more a policy says of
// what it selects, the earlier it is asked: names before labels, more labels before fewer, labels before namespaces,
// any of these before none; then policies for named consumers before those for all; then by name.
func NewSet(fallback Policy, policies []Policy) *Set {
	s := &Set{fallback: fallback, ordered: slices.Clone(policies)}
	slices.SortFunc(s.ordered, comparePrecedence)
	return s
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
// that counts for consumers that no policy names.
func (s *Set) For(id federation.ServiceID, labels map[string]string, consumer federation.ClusterID) *Policy {
	if s == nil {
		return &defaults
	}
	for i := range s.ordered {
		if s.ordered[i].Select.Matches(id, labels, consumer) {
			return &s.ordered[i]
		}
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

// Matches reports whether the selector selects the service as the consumer uses it.
func (s Selector) Matches(id federation.ServiceID, labels map[string]string, consumer federation.ClusterID) bool {
	return in(s.Namespaces, id.Namespace) && in(s.Names, id.Name) && in(s.Consumers, consumer) && contains(labels, s.Labels)
}

func in[T comparable](any []T, v T) bool { return len(any) == 0 || slices.Contains(any, v) }

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

// Equal reports whether both policies say the same.
func (p Policy) Equal(o Policy) bool {
	return p.Name == o.Name && p.MinHealthy == o.MinHealthy && p.Times == o.Times &&
		slices.Equal(p.Order, o.Order) && slices.Equal(p.Weights, o.Weights) &&
		slices.Equal(p.Select.Namespaces, o.Select.Namespaces) && slices.Equal(p.Select.Names, o.Select.Names) &&
		slices.Equal(p.Select.Consumers, o.Select.Consumers) && maps.Equal(p.Select.Labels, o.Select.Labels)
}
