package export_test

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
	"sigs.k8s.io/randfill"

	"github.com/tailgate-project/tailgate/api/v1alpha1"
	"github.com/tailgate-project/tailgate/hub/controllers/export"
)

// FuzzObjects plans objects of all kinds, more than an API server would let through. Nothing may panic, and an export has
// ports and no more ready endpoints than there are.
func FuzzObjects(f *testing.F) {
	for seed := range int64(30) {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, seed int64) {
		fill := randfill.NewWithSeed(seed).NilChance(.3).NumElements(0, 4)
		var svc corev1.Service
		gateways := make([]v1alpha1.TailscaleGateway, 2)
		slices := make([]discoveryv1.EndpointSlice, 2)
		var g gatewayv1.Gateway
		fill.Fill(&svc.Spec)
		fill.Fill(&g.Spec)
		for i := range gateways {
			fill.Fill(&gateways[i].Spec)
			fill.Fill(&slices[i].Endpoints)
		}
		svc.Namespace, svc.Name = "shop", "web"
		svc.Annotations = map[string]string{v1alpha1.AnnotationExpose: "true"}
		for _, plan := range []func() bool{
			func() bool {
				x, ok := export.PlanService("c1", gateways, &svc, slices)
				return !ok || len(x.Ports) > 0 && x.Ready <= x.Desired
			},
			func() bool { x, ok := export.PlanExported("c1", gateways, &svc); return !ok || len(x.Ports) > 0 },
		} {
			if !plan() {
				t.Errorf("an export without ports, or with too many endpoints: %+v", svc.Spec)
			}
		}
	})
}
