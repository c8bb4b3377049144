package controlplane_test

import (
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/tailgate-project/tailgate/e2e-kind/assets"
	"github.com/tailgate-project/tailgate/e2e-kind/controlplane"
)

const widgets = `
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: widgets.test.tailgate.dev}
spec:
  group: test.tailgate.dev
  names: {kind: Widget, plural: widgets, singular: widget, listKind: WidgetList}
  scope: Namespaced
  versions:
  - name: v1
    served: true
    storage: true
    schema: {openAPIV3Schema: {type: object, properties: {spec: {type: object, properties: {size: {type: integer}}}}}}
---
apiVersion: test.tailgate.dev/v1
kind: Widget
metadata: {name: one}
spec: {size: 3}
---
# a document without content, then a list
---
apiVersion: v1
kind: List
items:
- {apiVersion: v1, kind: Namespace, metadata: {name: elsewhere}}
- {apiVersion: v1, kind: ServiceAccount, metadata: {name: reader, namespace: elsewhere}}
- apiVersion: rbac.authorization.k8s.io/v1
  kind: ClusterRole
  metadata: {name: reader}
  rules: [{apiGroups: [test.tailgate.dev], resources: [widgets], verbs: [get]}]
- apiVersion: rbac.authorization.k8s.io/v1
  kind: ClusterRoleBinding
  metadata: {name: reader}
  roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: reader}
  subjects: [{kind: ServiceAccount, name: reader, namespace: elsewhere}]
`

var widgetResource = schema.GroupVersionResource{Group: "test.tailgate.dev", Version: "v1", Resource: "widgets"}

// widget reads widget one and returns its resource version.
func widget(t *testing.T, config *rest.Config) string {
	t.Helper()
	client, err := dynamic.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	w, err := client.Resource(widgetResource).Namespace("default").Get(t.Context(), "one", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return w.GetResourceVersion()
}

func freePort(t *testing.T) uint16 {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().(*net.TCPAddr).AddrPort().Port()
}

func TestSurvivesSIGKILL(t *testing.T) {
	found, err := assets.FindControlPlane(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	o := controlplane.Options{Dir: t.TempDir(), Assets: found, APIServerPort: freePort(t), EtcdPort: freePort(t), EtcdPeerPort: freePort(t)}
	c, err := controlplane.Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Stop(); err != nil {
			t.Error(err)
		}
	})
	for range 2 {
		if err := c.ApplyYAML(t.Context(), []byte(widgets)); err != nil {
			t.Fatal(err)
		}
	}
	before := widget(t, c.RESTConfig())
	token, err := c.ServiceAccountToken(t.Context(), "elsewhere", "reader")
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Kill(); err != nil {
		t.Fatal(err)
	}
	// Half a file, as a write that the kill cut short would leave, is not taken for a key.
	if err := os.WriteFile(filepath.Join(o.Dir, "pki", "ca.key.tmp"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	former := c.RESTConfig()
	if c, err = controlplane.Start(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, widget(t, former)); diff != "" {
		t.Errorf("the object changed (-before +after):\n%s", diff)
	}
	reader := rest.AnonymousClientConfig(c.RESTConfig())
	reader.BearerToken = token
	if diff := cmp.Diff(before, widget(t, reader)); diff != "" {
		t.Errorf("by a token of the former run (-before +after):\n%s", diff)
	}
}

func TestForTest(t *testing.T) {
	c := controlplane.ForTest(t)
	if err := c.ApplyYAML(t.Context(), []byte(widgets)); err != nil {
		t.Fatal(err)
	}

	t.Run("kubeconfigs", func(t *testing.T) {
		token, err := c.ServiceAccountToken(t.Context(), "elsewhere", "reader")
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(t.TempDir(), "reader.kubeconfig")
		if err := c.WriteKubeconfig(path, controlplane.KubeconfigOptions{Token: token, Server: strings.Replace(c.URL(), "127.0.0.1", "localhost", 1)}); err != nil {
			t.Fatal(err)
		}
		for _, path := range []string{path, c.AdminKubeconfig()} {
			config, err := clientcmd.BuildConfigFromFlags("", path)
			if err != nil {
				t.Fatal(err)
			}
			widget(t, config)
		}
		config, err := clientcmd.BuildConfigFromFlags("", path)
		if err != nil {
			t.Fatal(err)
		}
		_, err = kubernetes.NewForConfigOrDie(config).CoreV1().Secrets("default").List(t.Context(), metav1.ListOptions{})
		if !apierrors.IsForbidden(err) {
			t.Errorf("the reader lists secrets: %v, want forbidden", err)
		}
	})

	t.Run("anonymous-sees-health-only", func(t *testing.T) {
		client, err := rest.HTTPClientFor(rest.AnonymousClientConfig(c.RESTConfig()))
		if err != nil {
			t.Fatal(err)
		}
		for path, want := range map[string]int{"/readyz": http.StatusOK, "/version": http.StatusUnauthorized, "/api/v1/namespaces": http.StatusUnauthorized} {
			resp, err := client.Get(c.URL() + path)
			if err != nil {
				t.Fatal(err)
			}
			_ = resp.Body.Close()
			if resp.StatusCode != want {
				t.Errorf("%s: %s, want %d", path, resp.Status, want)
			}
		}
	})

	t.Run("bad-yaml", func(t *testing.T) {
		for name, test := range map[string]struct{ yaml, want string }{
			"not-yaml":       {"a: [", "document 1"},
			"no-name":        {"{apiVersion: v1, kind: Namespace}", "it has no kind or no name"},
			"unknown-kind":   {"{apiVersion: v1, kind: Nothing, metadata: {name: x}}", "apply Nothing x"},
			"schema-refuses": {"{apiVersion: test.tailgate.dev/v1, kind: Widget, metadata: {name: x}, spec: {size: big}}", "apply Widget x"},
		} {
			t.Run(name, func(t *testing.T) {
				if err := c.ApplyYAML(t.Context(), []byte(test.yaml)); err == nil || !strings.Contains(err.Error(), test.want) {
					t.Errorf("got %v, want %q in it", err, test.want)
				}
			})
		}
	})

	t.Run("no-such-service-account", func(t *testing.T) {
		if _, err := c.ServiceAccountToken(t.Context(), "elsewhere", "nobody"); !apierrors.IsNotFound(err) {
			t.Errorf("got %v, want not found", err)
		}
	})
}

func TestStartSaysWhyItFails(t *testing.T) {
	broken, err := exec.LookPath("false")
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		options controlplane.Options
		want    string
	}{
		"no-assets":   {controlplane.Options{Dir: t.TempDir()}, "the programs of etcd and kube-apiserver are required"},
		"broken-etcd": {controlplane.Options{Dir: t.TempDir(), Assets: assets.Paths{Etcd: broken, KubeAPIServer: broken}}, "exit status 1"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := controlplane.Start(t.Context(), test.options); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %q in it", err, test.want)
			}
		})
	}
}
