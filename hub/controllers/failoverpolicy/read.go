package failoverpolicy

import (
	"fmt"
	"slices"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tailgate-project/tailgate/api/v1alpha1"
	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/federation/policy"
)

// reading is what a list of FailoverPolicies says.
type reading struct {
	fallback policy.Policy
	policies []policy.Policy
	// refused says by the objects' names which say nothing that counts, and why.
	refused map[string]error
}

// read reads the objects. Those that are being deleted are gone, and those that are invalid say nothing: what they said
// before is not kept, since a hub that starts would not know it.
func read(fallback policy.Policy, objects []v1alpha1.FailoverPolicy) reading {
	rd := reading{fallback: fallback, refused: map[string]error{}}
	for i := range objects {
		object := &objects[i]
		if !object.DeletionTimestamp.IsZero() {
			continue
		}
		p, err := convert(object)
		if err == nil {
			err = p.Validate()
		}
		switch {
		case err != nil:
			rd.refused[object.Name] = err
		case p.Name == "":
			rd.fallback = p
		default:
			rd.policies = append(rd.policies, p)
		}
	}
	return rd
}

// convert says in the words of the core what an object says, and shares nothing with it. It fails if a number does not
// fit, which the API server does not let happen.
func convert(object *v1alpha1.FailoverPolicy) (policy.Policy, error) {
	spec, d := object.Spec, policy.Default().Times
	p := policy.Policy{
		Select: policy.Selector{Consumers: clusters(spec.Consumers)},
		Times: policy.Times{
			Grace: duration(spec.Grace, d.Grace), FailbackDelay: duration(spec.FailbackDelay, d.FailbackDelay),
			Hold: duration(spec.Hold, d.Hold), Ramp: duration(spec.Ramp, d.Ramp),
		},
	}
	if object.Name != v1alpha1.DefaultFailoverPolicy {
		p.Name = object.Name
	}
	if s := spec.Services; s != nil {
		p.Select.Namespaces, p.Select.Names = slices.Clone(s.Namespaces), slices.Clone(s.Names)
		p.Select.Labels = labels(s.MatchLabels)
	}
	if n := spec.MinHealthyPercent; n < 0 || n > policy.MaxHealthy {
		return policy.Policy{}, fmt.Errorf("%w: minHealthyPercent %d: set 1 to %d", policy.ErrInvalid, n, policy.MaxHealthy)
	}
	p.MinHealthy = uint8(spec.MinHealthyPercent)
	if p.MinHealthy == 0 {
		p.MinHealthy = policy.Default().MinHealthy // left out by a client that does not ask for defaults
	}
	for _, x := range spec.Order {
		p.Order = append(p.Order, place(x))
	}
	for i, x := range spec.Weights {
		if x.Weight < 0 {
			return policy.Policy{}, fmt.Errorf("%w: weights[%d].weight %d: set 0 to %d", policy.ErrInvalid, i, x.Weight, policy.MaxWeight)
		}
		p.Weights = append(p.Weights, policy.Weight{Place: place(x.FailoverPlace), Weight: uint32(x.Weight)})
	}
	return p, nil
}

func place(p v1alpha1.FailoverPlace) policy.Place {
	return policy.Place{Cluster: federation.ClusterID(p.Cluster), Region: p.Region, Zone: p.Zone}
}

func labels(values map[string]v1alpha1.FailoverLabelValue) map[string]string {
	out := make(map[string]string, len(values))
	for k, v := range values {
		out[k] = string(v)
	}
	return out
}

func clusters(names []v1alpha1.ClusterName) []federation.ClusterID {
	var out []federation.ClusterID
	for _, n := range names {
		out = append(out, federation.ClusterID(n))
	}
	return out
}

func duration(d *metav1.Duration, byDefault time.Duration) time.Duration {
	if d == nil {
		return byDefault
	}
	return d.Duration
}
