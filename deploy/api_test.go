package deploy_test

import (
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tailgate-project/tailgate/deploy"
	"github.com/tailgate-project/tailgate/e2e-kind/controlplane"
	"github.com/tailgate-project/tailgate/spoke"
	"github.com/tailgate-project/tailgate/spoke/apiproxy"
)

var createOptions = metav1.CreateOptions{}

// proxiesBySpoke has the spoke's account make the proxies' objects, Roles among them: the API server refuses who gives away
// more than he has.
func proxiesBySpoke(t *testing.T, plane *controlplane.ControlPlane) {
	config := plane.RESTConfig()
	config.Impersonate = rest.ImpersonationConfig{UserName: "system:serviceaccount:" + deploy.Namespace + ":" + deploy.Spoke}
	api, err := client.New(config, client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	for _, role := range []spoke.Role{spoke.Ingress, spoke.Egress} {
		for _, o := range proxies(t, role) {
			o.SetName(o.GetName() + "-x") // made anew
			//nolint:staticcheck // unstructured objects have no apply configuration
			if err := api.Patch(t.Context(), o, client.Apply, client.ForceOwnership, client.FieldOwner("test")); err != nil {
				t.Errorf("%s: %v", title(o), err)
			}
		}
	}
	far := proxies(t, spoke.Egress)[0]
	far.SetNamespace("default")
	//nolint:staticcheck // as above
	if err := api.Patch(t.Context(), far, client.Apply, client.ForceOwnership, client.FieldOwner("test")); !apierrors.IsForbidden(err) {
		t.Errorf("in another namespace: got %v, want it forbidden", err)
	}
}

// actsForHub reads the member's API server as the hub does: through the spoke's proxy, with the kubeconfig of the chart and a
// token of the spoke's account.
func actsForHub(t *testing.T, plane *controlplane.ControlPlane) {
	token, err := plane.ServiceAccountToken(t.Context(), deploy.Namespace, deploy.Spoke)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for name, data := range map[string][]byte{"token": []byte(token), "ca.crt": plane.CAData()} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	text := as[corev1.ConfigMap](t, only(t, rendered(t, deploy.Spoke, deploy.Options{}), "ConfigMap", "tailgate-spoke-api")).Data["kubeconfig"]
	// What a pod has, is here for this test.
	text = strings.NewReplacer("/var/run/secrets/kubernetes.io/serviceaccount", dir, "https://kubernetes.default.svc", plane.URL()).Replace(text)
	config, err := clientcmd.RESTConfigFromKubeConfig([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	served(t, plane, "TailscaleGateway", "TailscaleEndpoints")
	handler, err := apiproxy.New(apiproxy.Options{
		API: config, HubTag: "tag:tailgate-hub", Log: slog.New(slog.DiscardHandler),
		Tags: func(context.Context, string) ([]string, error) { return []string{"tag:tailgate-hub"}, nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(handler)
	t.Cleanup(srv.Close)
	for _, path := range []string{
		"/version", "/apis", "/api/v1", "/readyz", "/api/v1/services", "/api/v1/namespaces/default/services/kubernetes", "/api/v1/namespaces/kube-system",
		"/apis/discovery.k8s.io/v1/endpointslices", "/apis/gateway.networking.k8s.io/v1/gateways", "/apis/gateway.tailscale.com/v1alpha1/tailscalegateways",
		"/apis/gateway.tailscale.com/v1alpha1/tailscaleendpoints",
	} {
		resp, err := srv.Client().Get(srv.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			t.Errorf("%s: %s", path, resp.Status)
		}
	}
	// Behind the proxy, too: the account is what bounds the hub where the proxy should fail.
	api, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	_, list := api.CoreV1().Secrets(deploy.Namespace).List(t.Context(), metav1.ListOptions{})
	_, create := api.CoreV1().Services("default").Create(t.Context(), &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "x"}}, createOptions)
	for name, err := range map[string]error{"list Secrets": list, "create a Service": create} {
		if !apierrors.IsForbidden(err) {
			t.Errorf("the hub's account could %s: %v", name, err)
		}
	}
}

// served waits until kinds of ours can be listed, which takes a moment after their CRDs were made: the API server asks clients
// for patience, which this one has.
func served(t *testing.T, plane *controlplane.ControlPlane, kinds ...string) {
	t.Helper()
	for _, kind := range kinds {
		list := &unstructured.UnstructuredList{}
		list.SetGroupVersionKind(schema.GroupVersionKind{Group: "gateway.tailscale.com", Version: "v1alpha1", Kind: kind + "List"})
		if err := strict(t, plane).List(t.Context(), list); err != nil {
			t.Fatal(err)
		}
	}
}
