package tailscaleendpoints_test

import (
	"testing"

	"sigs.k8s.io/randfill"

	"github.com/tailgate-project/tailgate/api/v1alpha1"
	"github.com/tailgate-project/tailgate/federation/discovery"
	"github.com/tailgate-project/tailgate/spoke/controllers/tailscaleendpoints"
)

// FuzzObjects reads objects of all kinds, more than an API server would let through. Nothing may panic, no two endpoints may
// have one name, and the status must fit.
func FuzzObjects(f *testing.F) {
	for seed := range int64(30) {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, seed int64) {
		fill := randfill.NewWithSeed(seed).NilChance(.3).NumElements(0, 5)
		var o v1alpha1.TailscaleEndpoints
		var found discovery.Inventory
		fill.Fill(&o)
		fill.Fill(&found)
		if seed%3 == 0 { // the same names again and again
			for i := range o.Spec.Endpoints {
				o.Spec.Endpoints[i].Name = []string{"a", "b"}[i%2]
			}
			for i := range found.Devices {
				found.Devices[i].FQDN = "a.example.ts.net"
			}
		}
		backend, status := tailscaleendpoints.Everything(&o, found)
		names := map[string]int{}
		for _, e := range o.Spec.Endpoints {
			names[e.Name]++
		}
		seen := map[string]bool{}
		for _, e := range backend.Endpoints {
			if seen[e.Name] && names[e.Name] < 2 {
				t.Errorf("two endpoints are called %q", e.Name)
			}
			seen[e.Name] = true
		}
		if len(status.Endpoints) > 256 || len(status.Conditions) > 8 {
			t.Errorf("%d endpoints and %d conditions", len(status.Endpoints), len(status.Conditions))
		}
	})
}
