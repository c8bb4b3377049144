package tailscalegateway_test

import (
	"testing"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
	"sigs.k8s.io/randfill"

	"github.com/tailgate-project/tailgate/api/v1alpha1"
	"github.com/tailgate-project/tailgate/spoke"
	"github.com/tailgate-project/tailgate/spoke/controllers/tailscalegateway"
)

// FuzzObjects reads objects of all kinds, more than an API server would let through. Nothing may panic, and what is written
// must fit.
func FuzzObjects(f *testing.F) {
	for seed := range int64(30) {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, seed int64) {
		fill := randfill.NewWithSeed(seed).NilChance(.3).NumElements(0, 5)
		var o v1alpha1.TailscaleGateway
		var g gatewayv1.Gateway
		var now spoke.Status
		fill.Fill(&o.Spec)
		fill.Fill(&g.Spec)
		fill.Fill(&now)
		if j := tailscalegateway.Convert(&o, &g); len(j.Tailnets) != len(o.Spec.Tailnets) {
			t.Errorf("%d of %d tailnets", len(j.Tailnets), len(o.Spec.Tailnets))
		}
		st := tailscalegateway.Judge(&o, now, tailscalegateway.Facts{ExtensionPort: 5005})
		if len(st.Services) > 256 || len(st.Conditions) > 8 || len(st.Tailnets) != len(o.Spec.Tailnets) {
			t.Errorf("%d services, %d conditions, %d tailnets", len(st.Services), len(st.Conditions), len(st.Tailnets))
		}
		names := map[string]bool{}
		for _, s := range st.Services {
			if names[s.Name] {
				t.Errorf("two services are called %q", s.Name)
			}
			names[s.Name] = true
		}
	})
}
