package tailscaleendpoints

import (
	"github.com/tailgate-project/tailgate/api/v1alpha1"
	"github.com/tailgate-project/tailgate/federation/discovery"
	"github.com/tailgate-project/tailgate/spoke"
)

// Plan returns what an object asks for, and what is wrong with its endpoints.
func Plan(o *v1alpha1.TailscaleEndpoints) (spoke.Backend, map[string]string) {
	b, _, problems := plan(o)
	return b, problems
}

// Everything does with an object all that is done before anybody is told, where this was found.
func Everything(o *v1alpha1.TailscaleEndpoints, found discovery.Inventory) (spoke.Backend, v1alpha1.TailscaleEndpointsStatus) {
	backend, _, problems := plan(o)
	v := verdict{problems: problems, discovery: &discovered{found: Found{Inventory: found}, ever: true}}
	query, _ := queryOf(o)
	v.discovery.query = query
	v.discovered = planDiscovered(o, query.Select(found), &backend)
	v.backend = backend
	_ = recall(o)
	o.Status.Conditions = nil // those of a real object are valid
	return backend, judge(o, v, nil, nil, true)
}
