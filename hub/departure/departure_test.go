package departure_test

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tailgate-project/tailgate/api/v1alpha1"
	"github.com/tailgate-project/tailgate/e2e-kind/controlplane"
	"github.com/tailgate-project/tailgate/hub/departure"
)

const ns = "tailgate-system"

type member struct {
	*testing.T
	client.Client
}

func (m member) must(err error) {
	m.Helper()
	if err != nil {
		m.Fatal(err)
	}
}

func object(namespace, name string, labels map[string]string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: namespace, Name: name, Labels: labels}
}

// install makes what a spoke has made, and what people have made beside it.
func (m member) install() {
	made := map[string]string{"app.kubernetes.io/managed-by": "tailgate-spoke"}
	pod := corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: made}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}}}
	port := corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80}}}
	gateway := &v1alpha1.TailscaleGateway{ObjectMeta: object("default", "main", nil)}
	gateway.Spec.GatewayRef.Name = "main-gateway"
	gateway.Spec.Tailnets = []v1alpha1.TailnetConfig{{Name: "production", TailscaleTailnetRef: v1alpha1.TailnetReference{Name: "production"}}}
	m.must(m.Create(m.Context(), gateway))
	endpoints := func(name string) *v1alpha1.TailscaleEndpoints {
		e := &v1alpha1.TailscaleEndpoints{ObjectMeta: object("default", name, nil)}
		e.Spec.Tailnet = "production"
		e.Spec.AutoDiscovery = &v1alpha1.EndpointAutoDiscovery{TagSelectors: []v1alpha1.TagSelector{{Tag: "tag:test"}}}
		return e
	}
	owned := endpoints("main-production")
	owned.OwnerReferences = []metav1.OwnerReference{*metav1.NewControllerRef(gateway, v1alpha1.GroupVersion.WithKind(v1alpha1.KindTailscaleGateway))}
	replicas := int32(1)
	for _, o := range []client.Object{
		owned, endpoints("by-hand"),
		&appsv1.StatefulSet{ObjectMeta: object(ns, "tailgate-spoke", nil), Spec: appsv1.StatefulSetSpec{Replicas: &replicas, Selector: &metav1.LabelSelector{MatchLabels: made}, Template: pod}},
		&appsv1.StatefulSet{ObjectMeta: object(ns, "tailgate-ingress-production", made), Spec: appsv1.StatefulSetSpec{Selector: &metav1.LabelSelector{MatchLabels: made}, Template: pod}},
		&corev1.Secret{ObjectMeta: object(ns, "tailgate-ingress-production-0", made)}, &corev1.Secret{ObjectMeta: object(ns, "tailgate-extension-ca", nil)},
		&corev1.Secret{ObjectMeta: object(ns, "somebodys", nil)}, &corev1.ServiceAccount{ObjectMeta: object(ns, "tailgate-ingress", made)},
		vip("webapp-cluster2"),
		&corev1.Service{ObjectMeta: object("default", "webapp", nil), Spec: port},
	} {
		m.must(m.Create(m.Context(), o))
	}
}

func TestClean(t *testing.T) {
	api := controlplane.ForTest(t)
	bare, err := departure.NewClient(api.RESTConfig())
	if err != nil {
		t.Fatal(err)
	}
	options := departure.Options{Namespace: ns, Timeout: time.Minute}
	if r, err := departure.Clean(t.Context(), bare, options); err != nil || len(r.Deleted) > 0 {
		t.Errorf("of a cluster that never had Tailgate: %+v, %v", r, err)
	}
	own, err := filepath.Glob("../../deploy/crds/*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if err := api.ApplyFiles(t.Context(), own...); err != nil {
		t.Fatal(err)
	}
	c, err := departure.NewClient(api.RESTConfig())
	if err != nil {
		t.Fatal(err)
	}
	m := member{t, c}
	m.must(c.Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: ns}}))
	m.install()
	r, err := departure.Clean(t.Context(), c, options)
	m.must(err)
	want := departure.Report{
		Deleted: map[string]int{"TailscaleGateway": 1, "StatefulSet": 1, "Secret": 2, "ServiceAccount": 1, "Service": 1, "TailscaleEndpoints": 1},
		Kept:    []string{"default/by-hand"},
	}
	if diff := cmp.Diff(want, r); diff != "" {
		t.Errorf("report (-want +got):\n%s", diff)
	}
	var spoke appsv1.StatefulSet
	m.must(c.Get(t.Context(), client.ObjectKey{Namespace: ns, Name: "tailgate-spoke"}, &spoke))
	if *spoke.Spec.Replicas != 0 {
		t.Error("the spoke goes on, and makes again what was deleted")
	}
	for _, kept := range []client.Object{
		&corev1.Secret{ObjectMeta: object(ns, "somebodys", nil)}, &corev1.Service{ObjectMeta: object("default", "webapp", nil)}, &v1alpha1.TailscaleEndpoints{ObjectMeta: object("default", "by-hand", nil)},
	} {
		if err := c.Get(t.Context(), client.ObjectKeyFromObject(kept), kept); err != nil {
			t.Errorf("somebody's own: %v", err)
		}
	}
	if again, err := departure.Clean(t.Context(), c, options); err != nil || len(again.Deleted) > 0 {
		t.Errorf("said again: %+v, %v", again, err)
	}
}

func vip(name string) *corev1.Service {
	return &corev1.Service{
		ObjectMeta: object("default", name, map[string]string{v1alpha1.LabelVIPService: "true"}), Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80}}},
	}
}

// TestCleanNamesWhatDoesNotGo has a finalizer that nobody takes away, until somebody does.
func TestCleanNamesWhatDoesNotGo(t *testing.T) {
	api := controlplane.ForTest(t)
	c, err := departure.NewClient(api.RESTConfig())
	if err != nil {
		t.Fatal(err)
	}
	m := member{t, c}
	held, slice := vip("held"), &discoveryv1.EndpointSlice{ObjectMeta: object("default", "after-it", map[string]string{v1alpha1.LabelVIPService: "true"}), AddressType: "IPv4"}
	held.Finalizers = []string{"example.com/holds"}
	m.must(c.Create(t.Context(), held))
	m.must(c.Create(t.Context(), slice))
	options := departure.Options{Namespace: ns, Timeout: time.Second}
	_, err = departure.Clean(t.Context(), c, options)
	if !errors.Is(err, departure.ErrStillThere) || !strings.Contains(err.Error(), "Service default/held (finalizers example.com/holds)") {
		t.Errorf("error %v, want one that names the object and its finalizer", err)
	}
	if err := c.Get(t.Context(), client.ObjectKeyFromObject(slice), slice); !apierrors.IsNotFound(err) {
		t.Errorf("what can go stays because of what cannot: %v", err)
	}
	options.Timeout = time.Minute
	done := make(chan error, 1)
	go func() {
		_, err := departure.Clean(t.Context(), c, options)
		done <- err
	}()
	m.must(c.Patch(t.Context(), held, client.RawPatch("application/merge-patch+json", []byte(`{"metadata":{"finalizers":null}}`))))
	m.must(<-done)
}

// TestCleanWaitsForTheSpoke deletes nothing that a spoke which is still there would make again.
func TestCleanWaitsForTheSpoke(t *testing.T) {
	api := controlplane.ForTest(t)
	c, err := departure.NewClient(api.RESTConfig())
	if err != nil {
		t.Fatal(err)
	}
	m := member{t, c}
	const spokes = "spokes"
	labels := map[string]string{"app.kubernetes.io/name": "tailgate-spoke"}
	spec := corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}, AutomountServiceAccountToken: new(false)}
	pod, service := &corev1.Pod{ObjectMeta: object(spokes, "tailgate-spoke-0", labels), Spec: spec}, vip("made-again")
	set := appsv1.StatefulSetSpec{Selector: &metav1.LabelSelector{MatchLabels: labels}, Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: spec}}
	for _, o := range []client.Object{
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: spokes}}, &corev1.ServiceAccount{ObjectMeta: object(spokes, "default", nil)},
		&appsv1.StatefulSet{ObjectMeta: object(spokes, "tailgate-spoke", nil), Spec: set}, pod, service,
	} {
		m.must(client.IgnoreAlreadyExists(c.Create(t.Context(), o)))
	}
	if _, err := departure.Clean(t.Context(), c, departure.Options{Namespace: spokes, Timeout: time.Second}); !errors.Is(err, departure.ErrStillThere) || !strings.Contains(err.Error(), "stop the spoke") {
		t.Errorf("error %v, want one that names the spoke", err)
	}
	m.must(c.Get(t.Context(), client.ObjectKeyFromObject(service), service))
	m.must(c.Delete(t.Context(), pod, client.GracePeriodSeconds(0)))
	r, err := departure.Clean(t.Context(), c, departure.Options{Namespace: spokes, Timeout: time.Minute})
	if diff := cmp.Diff(map[string]int{"Service": 1}, r.Deleted); diff != "" || err != nil {
		t.Errorf("once the spoke is gone: %v\n%s", err, diff)
	}
}
