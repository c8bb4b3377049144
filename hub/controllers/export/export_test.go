package export

import (
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/tailgate-project/tailgate/api/v1alpha1"
	"github.com/tailgate-project/tailgate/federation"
)

// PlanService plans a Service without a ServiceExport, PlanExported one that has one.
func PlanService(id federation.ClusterID, gateways []v1alpha1.TailscaleGateway, svc *corev1.Service, slices []discoveryv1.EndpointSlice) (federation.Export, bool) {
	return planService(id, gateways, offer{service: svc, slices: slices})
}

// PlanExported plans a Service that has a ServiceExport.
func PlanExported(id federation.ClusterID, gateways []v1alpha1.TailscaleGateway, svc *corev1.Service) (federation.Export, bool) {
	return planService(id, gateways, offer{service: svc, exported: true})
}

// The pure functions, for the tests beside this file.
var (
	PlanGateway = planGateway
	Count       = count
)
