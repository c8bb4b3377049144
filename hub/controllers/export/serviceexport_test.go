package export_test

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/mcs-api/config/crd"
	mcsv1alpha1 "sigs.k8s.io/mcs-api/pkg/apis/v1alpha1"
	mcsv1beta1 "sigs.k8s.io/mcs-api/pkg/apis/v1beta1"
	"sigs.k8s.io/yaml"

	"github.com/tailgate-project/tailgate/api/v1alpha1"
	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/hub/controllers/export"
)

// testServiceExports installs the MCS API in an old version, exports by it what no pattern selects, and installs the new
// version: the export stays, and the new version's objects count.
func (f *fixture) testServiceExports(t *testing.T) {
	others := []federation.Export{exported(webKey, 0), exported(apiKey, 0)}
	f.create(t, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "blog"}})
	f.create(t, exposed(service("blog", "posts"), "false"), headless(service("blog", "db")), service("blog", "unasked"))
	if err := f.api.ApplyYAML(t.Context(), oldCRD(t)); err != nil {
		t.Fatal(err)
	}
	f.create(t, &mcsv1alpha1.ServiceExport{ObjectMeta: metav1.ObjectMeta{Namespace: "blog", Name: "posts"}})
	posts := exported(federation.ExportKey{Cluster: "c1", Service: federation.Service("blog", "posts")}, 0)
	f.sink.await(t, append(others, posts)...)

	f.sink.forgetCalls()
	if err := f.api.ApplyYAML(t.Context(), crd.ServiceExportCRD); err != nil {
		t.Fatal(err)
	}
	f.create(t, &mcsv1beta1.ServiceExport{ObjectMeta: metav1.ObjectMeta{Namespace: "blog", Name: "db"}})
	db := exported(federation.ExportKey{Cluster: "c1", Service: federation.Service("blog", "db")}, 0)
	f.sink.await(t, append(others, posts, db)...)
	for _, call := range f.sink.forgetCalls() {
		if call == "remove "+posts.Key.String() {
			t.Error("an export was taken away when the MCS API was updated")
		}
	}

	f.delete(t, &mcsv1beta1.ServiceExport{ObjectMeta: metav1.ObjectMeta{Namespace: "blog", Name: "posts"}})
	f.sink.await(t, append(others, db)...)
	f.delete(t, service("blog", "db"))
	f.sink.await(t, others...)
	f.delete(t, service("blog", "posts"))
	f.delete(t, service("blog", "unasked"))
}

// oldCRD is the CRD of ServiceExport as it was before v1beta1.
func oldCRD(t *testing.T) []byte {
	t.Helper()
	var def apiextensionsv1.CustomResourceDefinition
	if err := yaml.Unmarshal(crd.ServiceExportCRD, &def); err != nil {
		t.Fatal(err)
	}
	for i := range def.Spec.Versions {
		v := &def.Spec.Versions[i]
		v.Served, v.Storage = v.Name == "v1alpha1", v.Name == "v1alpha1"
	}
	out, err := yaml.Marshal(def)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func headless(s *corev1.Service) *corev1.Service {
	s.Spec.ClusterIP = corev1.ClusterIPNone
	return s
}

func TestPlanExported(t *testing.T) {
	own := tsgw("shop", "main")
	ops := named(aged(tsgw("ops", "a"), 1), "ops")
	shop := named(aged(discovering(own, v1alpha1.ServiceDiscoveryConfig{Enabled: new(false)}), 2), "shop")
	external := edited(service("shop", "web"), func(s *corev1.Service) { s.Spec.Type = corev1.ServiceTypeExternalName })
	for _, tc := range []struct {
		name     string
		gateways []v1alpha1.TailscaleGateway
		service  *corev1.Service
		want     string // tailnet, "" if it is not exported
	}{
		{"no-tailscale-gateway", nil, service("shop", "web"), ""},
		{"no-pattern-selects-it", list(own), service("blog", "web"), "prod"},
		{"says-more-than-the-annotation", list(own), exposed(service("shop", "web"), "false"), "prod"},
		{"says-more-than-an-exclusion", list(discovering(own, v1alpha1.ServiceDiscoveryConfig{ExcludePatterns: []v1alpha1.ServicePattern{"*"}})), service("shop", "web"), "prod"},
		{"oldest-of-the-cluster", list(shop, ops), service("shop", "web"), "ops"},
		{"the-annotation-prefers-own-namespace", list(shop, ops), exposed(service("shop", "web"), "true"), "shop"},
		{"stays-where-a-pattern-puts-it", list(ops, named(aged(own, 2), "shop")), service("shop", "web"), "shop"},
		{"headless", list(own), headless(service("shop", "web")), "prod"},
		{"headless-without-ports", list(own), edited(headless(service("shop", "web")), func(s *corev1.Service) { s.Spec.Ports = nil }), ""},
		{"external-name", list(own), external, ""},
		{"system-service", list(own), service("kube-system", "kube-dns"), "prod"},
		{"stands-for-a-vip-itself", list(own), labelled(service("shop", "web"), v1alpha1.LabelVIPService, "true"), ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, ok := export.PlanExported("c1", tc.gateways, tc.service)
			if ok != (tc.want != "") || got.Tailnet != tc.want {
				t.Errorf("exported = %v on %q, want on %q", ok, got.Tailnet, tc.want)
			}
		})
	}
	if _, ok := export.PlanService("c1", list(own), headless(exposed(service("shop", "web"), "true")), nil); !ok {
		t.Error("a headless Service that asks by annotation is not exported")
	}
}

// TestPlanReadsTheAnnotations gives each a value that makes sense, and then one that does not.
func TestPlanReadsTheAnnotations(t *testing.T) {
	svc := service("shop", "web")
	svc.Annotations = map[string]string{
		v1alpha1.AnnotationWeight: "30", v1alpha1.AnnotationClusterPinned: "true", v1alpha1.AnnotationFederatedVIP: "true", v1alpha1.AnnotationExpose: "true",
	}
	got, _ := export.PlanService("c1", list(tsgw("shop", "main")), svc, nil)
	if got.Weight != 30 || !got.ClusterPinned || !got.Federated {
		t.Errorf("%+v, want weight 30, pinned and federated", got)
	}
	svc.Annotations = map[string]string{
		v1alpha1.AnnotationWeight: "abc", v1alpha1.AnnotationClusterPinned: "yes", v1alpha1.AnnotationFederatedVIP: "1", v1alpha1.AnnotationExpose: "no",
	}
	got, ok := export.PlanService("c1", list(tsgw("shop", "main")), svc, nil)
	if !ok || got.Weight != 0 || got.ClusterPinned || got.Federated {
		t.Errorf("%+v (%v), want an export with the defaults", got, ok)
	}
}
