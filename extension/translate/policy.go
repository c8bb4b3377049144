package translate

import (
	"encoding/json"
	"fmt"
	"slices"
)

// Policy is what matters of a policy object, which names the Gateway that a translation is for.
type Policy struct {
	Namespace, Name string
	// Gateways are the names of the Gateways it targets, in its own namespace.
	Gateways []string
	// TailscaleGateway is the object that the policy was made for.
	TailscaleGateway string
	// Revision is raised when the structure of the routes changed.
	Revision int64
}

// ParsePolicy reads the JSON of a policy object as Envoy Gateway hands it over.
func ParsePolicy(object []byte) (Policy, error) {
	var o struct {
		Metadata struct{ Namespace, Name string }
		Spec     struct {
			TargetRefs          []struct{ Kind, Name string }
			TailscaleGatewayRef struct{ Name string }
			Revision            int64
		}
	}
	if err := json.Unmarshal(object, &o); err != nil {
		return Policy{}, fmt.Errorf("read policy object: %w", err)
	}
	p := Policy{
		Namespace: o.Metadata.Namespace, Name: o.Metadata.Name,
		TailscaleGateway: o.Spec.TailscaleGatewayRef.Name, Revision: o.Spec.Revision,
	}
	for _, r := range o.Spec.TargetRefs {
		if r.Kind == "Gateway" {
			p.Gateways = append(p.Gateways, r.Name)
		}
	}
	if p.Name == "" || len(p.Gateways) == 0 {
		return Policy{}, fmt.Errorf("policy %s/%s: spec.targetRefs names no Gateway", p.Namespace, p.Name)
	}
	return p, nil
}

// joined returns the gateways of the snapshot that the policies are for, in a fixed order.
func joined(s Snapshot, policies []Policy) []Gateway {
	var out []Gateway
	for _, g := range s.Gateways {
		if slices.ContainsFunc(policies, func(p Policy) bool {
			return p.Namespace == g.Namespace && slices.Contains(p.Gateways, g.Name) && (g.Policy == "" || g.Policy == p.Name)
		}) {
			g.Listeners = slices.SortedFunc(slices.Values(g.Listeners), compareListeners)
			out = append(out, g)
		}
	}
	slices.SortFunc(out, compareGateways)
	return out
}
