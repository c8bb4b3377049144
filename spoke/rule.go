package spoke

import "slices"

// Rule is a rule of a route of this cluster that has at least one TailscaleEndpoints as backend.
type Rule struct {
	// Kind is HTTPRoute, GRPCRoute, TCPRoute, TLSRoute or UDPRoute.
	Kind            string
	Namespace, Name string
	// Index is the rule's place in its route, from 0.
	Index int
	// Backends are all that the rule names, the ordinary ones too, in the rule's order.
	Backends []RuleBackend
}

// RuleBackend is a backend that a [Rule] sends to.
type RuleBackend struct {
	// Custom is set for a TailscaleEndpoints, and not for what Envoy Gateway knows by itself.
	Custom          bool
	Namespace, Name string
	// Port is 0 where the rule names none.
	Port uint16
	// Weight is its share of the requests, relative to the rule's other backends.
	Weight uint32
	// Denied is set where a TailscaleEndpoints is in another namespace whose ReferenceGrants do not let the route refer to
	// it. It is only ever set for TCPRoutes, TLSRoutes and UDPRoutes, for of the others Envoy Gateway says it itself.
	Denied bool
}

// Equal reports whether two rules are the same.
func (r Rule) Equal(o Rule) bool {
	return r.Kind == o.Kind && r.Namespace == o.Namespace && r.Name == o.Name && r.Index == o.Index && slices.Equal(r.Backends, o.Backends)
}
