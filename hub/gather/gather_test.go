package gather_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tailgate-project/tailgate/api/operator"
	"github.com/tailgate-project/tailgate/api/v1alpha1"
	"github.com/tailgate-project/tailgate/e2e-kind/controlplane"
	"github.com/tailgate-project/tailgate/hub/gather"
	"github.com/tailgate-project/tailgate/hub/verify"
)

// secret is in everything that a bundle is made of.
const (
	secret = "kL3ak3dCNTRLvalue"
	ns     = "tailgate-system"
)

var noon = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)

// hub is one of whose answers a test knows the text. What it is not asked for, it has not.
type hub struct{ operator.API }

func (hub) Status(context.Context) (operator.Status, error) {
	return operator.Status{Version: "0.1.0", Now: noon}, nil
}
func (hub) VIPs(context.Context) ([]operator.VIP, error)         { return nil, nil }
func (hub) Services(context.Context) ([]operator.Service, error) { return nil, nil }
func (hub) Operations(context.Context) ([]operator.Operation, error) {
	return []operator.Operation{{By: "tskey-auth-" + secret}}, nil
}

func (hub) Journal(context.Context, operator.JournalQuery) ([]operator.Record, error) {
	return nil, errors.New("the store is away")
}

// kubelet is a node's, as far as the API server asks it for logs.
func kubelet(t *testing.T) *net.TCPAddr {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /containerLogs/{namespace}/{pod}/{container}", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "log of %s, previous %q\nkey tskey-auth-%s refused\n", r.PathValue("pod"), r.URL.Query().Get("previous"), secret)
	})
	s := httptest.NewTLSServer(mux)
	t.Cleanup(s.Close)
	return s.Listener.Addr().(*net.TCPAddr)
}

// cluster is one with a spoke, and secrets in all places where people put them.
func cluster(t *testing.T) *rest.Config {
	api := controlplane.ForTest(t)
	own, err := filepath.Glob("../../deploy/crds/*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if err := api.ApplyFiles(t.Context(), own...); err != nil {
		t.Fatal(err)
	}
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{clientgoscheme.AddToScheme, v1alpha1.AddToScheme} {
		if err := add(scheme); err != nil {
			t.Fatal(err)
		}
	}
	c, err := client.New(api.RESTConfig(), client.Options{Scheme: scheme})
	if err != nil {
		t.Fatal(err)
	}
	in := func(name string) metav1.ObjectMeta { return metav1.ObjectMeta{Namespace: ns, Name: name} }
	at := kubelet(t)
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node"}}
	pod := &corev1.Pod{ObjectMeta: in("tailgate-spoke-0"), Spec: corev1.PodSpec{NodeName: "node", Containers: []corev1.Container{{
		Name: "spoke", Image: "spoke:1", Env: []corev1.EnvVar{{Name: "MINE", Value: secret}, {Name: "POD", ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.name"}}}},
	}}}}
	pod.Labels = map[string]string{"app.kubernetes.io/name": "tailgate-spoke"}
	pod.Annotations = map[string]string{corev1.LastAppliedConfigAnnotation: `{"mine":"` + secret + `"}`}
	gateway := &v1alpha1.TailscaleGateway{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "main", Annotations: map[string]string{"note": "https://me:" + secret + "@host"}}}
	gateway.Spec.GatewayRef.Name = "main-gateway"
	gateway.Spec.Tailnets = []v1alpha1.TailnetConfig{{Name: "production", TailscaleTailnetRef: v1alpha1.TailnetReference{Name: "production"}}}
	for _, o := range []client.Object{
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: ns}}, node, &corev1.ServiceAccount{ObjectMeta: in("default")}, pod, gateway,
		&corev1.Secret{ObjectMeta: in("tailgate-spoke-join-key"), StringData: map[string]string{"authkey": secret}},
		&corev1.ConfigMap{ObjectMeta: in("settings"), Data: map[string]string{"settings.yaml": "password: " + secret + "\nlevel: info\n"}},
		&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "somebodys"}},
	} {
		if err := c.Create(t.Context(), o); err != nil {
			t.Fatal(err)
		}
	}
	node.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: at.IP.String()}}
	node.Status.DaemonEndpoints.KubeletEndpoint.Port = int32(at.Port)
	pod.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "spoke", RestartCount: 1, State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}}}
	for _, o := range []client.Object{node, pod} {
		if err := c.Status().Update(t.Context(), o); err != nil {
			t.Fatal(err)
		}
	}
	return api.RESTConfig()
}

// files returns what an archive has, by path.
func files(t *testing.T, archive io.Reader) map[string]string {
	z, err := gzip.NewReader(archive)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		out[h.Name] = string(text)
	}
}

// spokeSays is a way to a spoke that answers /status.
func spokeSays(t *testing.T) func(context.Context, string, string, uint16) (net.Conn, error) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/status" {
			http.NotFound(w, r)
			return
		}
		fmt.Fprintf(w, `{"cluster":"cluster1","link":{"message":"refused: tskey-auth-%s"}}`, secret)
	}))
	t.Cleanup(s.Close)
	return func(ctx context.Context, _, _ string, _ uint16) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "tcp", s.Listener.Addr().String())
	}
}

func TestWrite(t *testing.T) {
	config := cluster(t)
	nowhere := &rest.Config{Host: "https://127.0.0.1:1"}
	o := gather.Options{Now: noon, Version: "0.1.0", LogBytes: 1 << 20, Verify: verify.Options{
		Hub: func(context.Context) (operator.API, error) { return hub{}, nil }, Namespace: ns,
		Management: &verify.Cluster{REST: config},
		Members:    []verify.Cluster{{Context: "admin@cluster/1", REST: config, Dial: spokeSays(t)}, {Context: "gone", REST: nowhere, Dial: spokeSays(t)}},
	}}
	var out bytes.Buffer
	summary, err := gather.Write(t.Context(), &out, o)
	if err != nil {
		t.Fatal(err)
	}
	got := files(t, &out)
	for path, text := range got {
		if strings.Contains(text, secret) {
			t.Errorf("%s has the secret:\n%s", path, text)
		}
	}
	const top = "tailgate-20261124T120000Z/"
	for path, want := range map[string]string{
		"hub/status.json":     `"0.1.0"`,
		"hub/operations.json": "tskey-REDACTED",
		"verify.json":         `"verdict"`,
		"members/admin@cluster_1/logs/tailgate-system/tailgate-spoke-0.spoke.log":          "key tskey-REDACTED refused",
		"members/admin@cluster_1/logs/tailgate-system/tailgate-spoke-0.spoke.previous.log": `previous "true"`,
		"members/admin@cluster_1/spoke.json":                                               `"cluster":"cluster1"`,
		"members/admin@cluster_1/version.json":                                             "gitVersion",
		"members/admin@cluster_1/objects/secret.yaml":                                      "name: tailgate-spoke-join-key",
		"members/admin@cluster_1/objects/configmap.yaml":                                   "password: REDACTED",
		"members/admin@cluster_1/objects/pod.yaml":                                         "fieldPath: metadata.name",
		"management/objects/tailscalegateway.gateway.tailscale.com.yaml":                   "name: main-gateway",
		"README.txt": "hub/journal.json: the store is away",
	} {
		if !strings.Contains(got[top+path], want) {
			t.Errorf("%s has no %q:\n%s", path, want, got[top+path])
		}
	}
	if others := got[top+"members/admin@cluster_1/objects/configmap.yaml"]; strings.Contains(others, "somebodys") {
		t.Errorf("what is somebody else's is there, too:\n%s", others)
	}
	var paths []string
	for path := range got {
		paths = append(paths, strings.TrimPrefix(path, top))
	}
	if diff := cmp.Diff(slices.Sorted(slices.Values(summary.Files)), slices.Sorted(slices.Values(paths))); diff != "" {
		t.Errorf("files of the summary (-) and of the archive (+):\n%s", diff)
	}
	if summary.Redacted < 6 {
		t.Errorf("%d redacted", summary.Redacted)
	}
	missing := strings.Join(summary.Missing, "\n")
	for _, want := range []string{"hub/journal.json: the store is away", "members/gone/version.json: "} {
		if !strings.Contains(missing, want) {
			t.Errorf("missing %q in:\n%s", want, missing)
		}
	}
	if len(summary.Missing) != 2 {
		t.Errorf("missing:\n%s", missing)
	}
}

// full is a disk without room.
type full struct{}

func (full) Write([]byte) (int, error) { return 0, errors.New("no space left on device") }

func TestWriteToAFullDisk(t *testing.T) {
	o := gather.Options{Now: noon, Verify: verify.Options{Hub: func(context.Context) (operator.API, error) { return nil, errors.New("no hub") }}}
	if _, err := gather.Write(t.Context(), full{}, o); err == nil || !strings.Contains(err.Error(), "no space left") {
		t.Errorf("error %v", err)
	}
}
