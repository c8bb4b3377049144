package docs_test

import (
	"slices"
	"testing"

	mcsv1beta1 "sigs.k8s.io/mcs-api/pkg/apis/v1beta1"

	"github.com/tailgate-project/tailgate/api/v1alpha1"
	"github.com/tailgate-project/tailgate/federation/coordinator"
	"github.com/tailgate-project/tailgate/federation/endpoints"
	"github.com/tailgate-project/tailgate/federation/failover"
	"github.com/tailgate-project/tailgate/spoke"
	"github.com/tailgate-project/tailgate/spoke/controllers/serviceexport"
	"github.com/tailgate-project/tailgate/spoke/probe"
)

// TestReasonsAreThere asks for one reason of each part by its value, as the compiler has it: the pages are made from source.
func TestReasonsAreThere(t *testing.T) {
	spans := read(t, "deploy/docs/reasons.md").spans()
	for _, reason := range []string{
		string(failover.ControlLostUnobserved), endpoints.ReasonAllDown, coordinator.ReasonPortConflict, v1alpha1.ReasonExtensionNotCalled, spoke.ReasonClusterIDTaken,
		string(serviceexport.ReasonNoPorts), string(mcsv1beta1.ServiceExportReasonInvalidServiceType), string(mcsv1beta1.ServiceExportReasonNoService),
		string(mcsv1beta1.ServiceExportReasonExported), string(mcsv1beta1.ServiceExportReasonFailed), string(mcsv1beta1.ServiceExportReasonPending),
		string(mcsv1beta1.ServiceExportReasonNoConflicts), string(mcsv1beta1.ServiceExportReasonValid), string(probe.TLSHandshake),
	} {
		if !slices.Contains(spans, reason) {
			t.Errorf("the page of reasons lacks %s", reason)
		}
	}
}

// TestNamesAreThere does the same for annotations, labels and conditions.
func TestNamesAreThere(t *testing.T) {
	page := read(t, "deploy/docs/api.md")
	spans := page.spans()
	for _, name := range []string{
		v1alpha1.AnnotationExpose, v1alpha1.AnnotationFederatedVIP, v1alpha1.AnnotationWeight, v1alpha1.AnnotationClusterPinned, v1alpha1.AnnotationUnreachable,
		v1alpha1.LabelVIPService, v1alpha1.LabelProxyRole, v1alpha1.LoadBalancerClassVIP, string(v1alpha1.TagEndpoint), v1alpha1.SecretKeyClientSecret,
	} {
		if !slices.Contains(spans, name) {
			t.Errorf("the page of the API lacks %s", name)
		}
	}
	anchors := page.anchors()
	for _, condition := range []string{"condition-ready", "condition-hubconnected", "condition-identityconflict", "condition-discovered"} {
		if !anchors[condition] {
			t.Errorf("the page of the API lacks the %s", condition)
		}
	}
}
