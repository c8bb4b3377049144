package failoverpolicy

import (
	"github.com/tailgate-project/tailgate/api/v1alpha1"
	"github.com/tailgate-project/tailgate/federation/policy"
)

// ReadAll reads objects, and drops what they say.
func ReadAll(objects []v1alpha1.FailoverPolicy) { _ = read(policy.Default(), objects) }
