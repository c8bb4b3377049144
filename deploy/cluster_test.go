package deploy_test

import (
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tailgate-project/tailgate/deploy"
	"github.com/tailgate-project/tailgate/e2e-kind/assets"
	"github.com/tailgate-project/tailgate/e2e-kind/controlplane"
	"github.com/tailgate-project/tailgate/spoke"
)

const namespaces = `
apiVersion: v1
kind: Namespace
metadata: {name: tailgate-system, labels: {pod-security.kubernetes.io/enforce: restricted}}
---
apiVersion: v1
kind: Namespace
metadata: {name: envoy-gateway-system}
---
apiVersion: v1
kind: Namespace
metadata: {name: gateways}
`

// cluster is an API server with the kinds of Envoy Gateway, the Gateway API and those of foreign-crds.yaml.
func cluster(t *testing.T) *controlplane.ControlPlane {
	t.Helper()
	found, err := assets.Find(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	c := controlplane.ForTest(t)
	if err := c.ApplyFiles(t.Context(), append(found.EnvoyGatewayCRDs, "testdata/foreign-crds.yaml")...); err != nil {
		t.Fatal(err)
	}
	return c
}

// strict is a client to which an unknown field is an error.
func strict(t *testing.T, c *controlplane.ControlPlane) client.Client {
	t.Helper()
	out, err := client.New(c.RESTConfig(), client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return client.WithFieldValidation(out, metav1.FieldValidationStrict)
}

// TestAPIServerTakesEverything applies all that the charts render, without keeping it.
func TestAPIServerTakesEverything(t *testing.T) {
	plane := cluster(t)
	if err := plane.ApplyYAML(t.Context(), []byte(namespaces)); err != nil {
		t.Fatal(err)
	}
	api := strict(t, plane)
	for _, name := range charts {
		for variant, v := range variants(t, name) {
			t.Run(name+"/"+variant, func(t *testing.T) {
				objects := rendered(t, name, deploy.Options{Values: v})
				if name == deploy.Spoke {
					objects = append(objects, append(proxies(t, spoke.Ingress), proxies(t, spoke.Egress)...)...)
				}
				for _, o := range objects {
					//nolint:staticcheck // unstructured objects have no apply configuration
					if err := api.Patch(t.Context(), o.DeepCopy(), client.Apply, client.DryRunAll, client.ForceOwnership, client.FieldOwner("test")); err != nil {
						t.Errorf("%s: %v", title(o), err)
					}
				}
				for _, w := range workloads(t, objects) {
					if err := api.Create(t.Context(), pod(w), client.DryRunAll); err != nil {
						t.Errorf("pod of %s: %v", w.name, err)
					}
				}
			})
		}
	}
	t.Run("a-pod-that-is-not-restricted", func(t *testing.T) {
		bad := workloads(t, rendered(t, deploy.Hub, deploy.Options{}))[0]
		bad.template.Spec.SecurityContext.SeccompProfile = nil
		if err := api.Create(t.Context(), pod(bad), client.DryRunAll); !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "restricted") {
			t.Errorf("got %v, want it refused: else this test proves nothing", err)
		}
	})
	t.Run("an-unknown-field", func(t *testing.T) {
		o := only(t, rendered(t, deploy.Hub, deploy.Options{}), "Service", deploy.Hub)
		if err := unstructured.SetNestedField(o.Object, "x", "spec", "selektor"); err != nil {
			t.Fatal(err)
		}
		if err := api.Create(t.Context(), o, client.DryRunAll); err == nil || !strings.Contains(err.Error(), "selektor") {
			t.Errorf("got %v, want it refused: else this test proves nothing", err)
		}
	})
	t.Run("helm", func(t *testing.T) { helmLife(t, plane, api) })
}

// pod is one that a workload would have.
func pod(w workload) *corev1.Pod {
	out := &corev1.Pod{ObjectMeta: *w.template.ObjectMeta.DeepCopy(), Spec: *w.template.Spec.DeepCopy()}
	out.Namespace, out.Name = deploy.Namespace, fmt.Sprintf("%s-0", w.name)
	// The volume of a StatefulSet is named in the pod by its controller.
	for _, c := range out.Spec.Containers {
		for _, m := range c.VolumeMounts {
			if m.Name == "state" && len(w.template.Spec.Volumes) == len(out.Spec.Volumes) && !has(out.Spec.Volumes, m.Name) {
				out.Spec.Volumes = append(out.Spec.Volumes, corev1.Volume{Name: m.Name, VolumeSource: corev1.VolumeSource{
					PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "state-" + out.Name},
				}})
			}
		}
	}
	return out
}

func has(volumes []corev1.Volume, name string) bool {
	for _, v := range volumes {
		if v.Name == name {
			return true
		}
	}
	return false
}
