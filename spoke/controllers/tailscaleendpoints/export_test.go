package tailscaleendpoints

import (
	"github.com/tailgate-project/tailgate/api/v1alpha1"
	"github.com/tailgate-project/tailgate/spoke"
)

// Plan returns what an object asks for, and what is wrong with its endpoints.
func Plan(o *v1alpha1.TailscaleEndpoints) (spoke.Backend, map[string]string) {
	b, _, problems := plan(o)
	return b, problems
}
