package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/yaml"

	"github.com/tailgate-project/tailgate/e2e-kind/assets"
	"github.com/tailgate-project/tailgate/e2e-kind/controlplane"
	"github.com/tailgate-project/tailgate/e2e-kind/netns"
	testnet "github.com/tailgate-project/tailgate/e2e-kind/tailnet"
	"github.com/tailgate-project/tailgate/extension"
	"github.com/tailgate-project/tailgate/extension/certs"
	"github.com/tailgate-project/tailgate/spoke"
)

func TestMain(m *testing.M) {
	ctrl.SetLogger(logr.Discard())
	os.Exit(netns.RunTests(m))
}

const patience = 2 * time.Minute

func TestBadFlagsSayWhatToDo(t *testing.T) {
	for name, tc := range map[string]struct {
		args []string
		says []string
	}{
		"no-state-dir":     {nil, []string{"--state-dir"}},
		"bad-cluster-id":   {[]string{"--state-dir", t.TempDir(), "--cluster-id", "Not_A_Label"}, []string{"--cluster-id", "RFC 1123"}},
		"bad-ports":        {[]string{"--state-dir", t.TempDir(), "--egress-ports", "9-1"}, []string{"--egress-ports", "LOW-HIGH"}},
		"bad-address":      {[]string{"--state-dir", t.TempDir(), "--egress-address", "here"}, []string{"--egress-address"}},
		"bad-proxies":      {[]string{"--state-dir", t.TempDir(), "--proxies", "pods"}, []string{"--proxies", "process, statefulset or external"}},
		"bad-hub-port":     {[]string{"--state-dir", t.TempDir(), "--hub", "hub:none"}, []string{"--hub", "1 to 65535"}},
		"bad-level":        {[]string{"--state-dir", t.TempDir(), "--log-level", "loud"}, []string{"--log-level"}},
		"bad-kubeconfig":   {[]string{"--state-dir", t.TempDir(), "--kubeconfig", "/nowhere"}, []string{"--kubeconfig", "/nowhere"}},
		"unknown-argument": {[]string{"something"}, []string{"something"}},
	} {
		t.Run(name, func(t *testing.T) {
			cmd := newRun()
			cmd.SetArgs(tc.args)
			cmd.SilenceUsage, cmd.SilenceErrors = true, true
			err := cmd.ExecuteContext(t.Context())
			if err == nil {
				t.Fatal("no error")
			}
			for _, want := range tc.says {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error %q does not say %q", err, want)
				}
			}
		})
	}
}

func TestHubAddress(t *testing.T) {
	for in, want := range map[string]string{
		"tailgate-hub": "tailgate-hub 7443", "hub:99": "hub 99", "100.64.0.1": "100.64.0.1 7443", "100.64.0.1:99": "100.64.0.1 99",
		"fd7a::1": "fd7a::1 7443", "[fd7a::1]:99": "fd7a::1 99",
	} {
		o := options{flags: flags{hub: in}}
		if err := o.parseHub(); err != nil {
			t.Errorf("%s: %v", in, err)
		}
		if got := fmt.Sprintf("%s %d", o.hubName, o.hubPort); got != want {
			t.Errorf("%s is read as %q, want %q", in, got, want)
		}
	}
}

func TestPortInUseNamesTheFlag(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	_, err = listen(t.Context(), "--eds-addr", ln.Addr().String())
	if err == nil || !strings.Contains(err.Error(), "in use") || !strings.Contains(err.Error(), "with --eds-addr") {
		t.Errorf("error %v", err)
	}
}

// world is a member cluster without a spoke, and a tailnet without a hub.
type world struct {
	*testing.T
	api        *controlplane.ControlPlane
	client     *kubernetes.Clientset
	tailnet    *testnet.Tailnet
	kubeconfig string
}

func newWorld(t *testing.T) *world {
	w := &world{T: t, api: controlplane.ForTest(t)}
	found, err := assets.Find(t.Context())
	w.must(err)
	own, err := filepath.Glob("../../../deploy/crds/*.yaml")
	w.must(err)
	w.must(w.api.ApplyFiles(t.Context(), append(own, found.EnvoyGatewayCRDs...)...))
	w.client, err = kubernetes.NewForConfig(w.api.RESTConfig())
	w.must(err)
	w.kubeconfig = w.api.AdminKubeconfig()
	w.tailnet = testnet.ForTest(t, testnet.Options{})
	return w
}

func (w *world) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

// bootstrap runs `spoke bootstrap` and returns what it prints.
func (w *world) bootstrap(print string) string {
	w.Helper()
	cmd := newBootstrap()
	var out bytes.Buffer
	cmd.SetOut(&out)
	cmd.SetArgs([]string{"--kubeconfig", w.kubeconfig, "--print", print})
	w.must(cmd.ExecuteContext(w.Context()))
	return out.String()
}

// options are those of `spoke run` with a key, or a wrong one.
func (w *world) options(dir, key string) options {
	w.Helper()
	path := filepath.Join(w.TempDir(), "key")
	w.must(os.WriteFile(path, []byte(key+"\n"), 0o600))
	f := flags{
		clusterID: "c1", kubeconfig: w.kubeconfig, stateDir: dir, controlURL: w.tailnet.URL(), joinKeyFile: path, joinTimeout: patience,
		hub: "tailgate-hub", hubTag: "tag:tailgate-hub", namespace: "tailgate-system", gatewayNamespace: "envoy-gateway-system",
		proxies: proxiesExternal, proxySocket: filepath.Join(dir, "p.sock"), egressAddress: "127.0.0.1", egressPorts: "20000-20009",
		extensionAddr: "127.0.0.1:15005", edsAddr: "127.0.0.1:15006", statusAddr: "127.0.0.1:19470", loglevel: "error", apiPort: 6443,
	}
	o, err := f.complete()
	w.must(err)
	return o
}

// get asks the status server, and returns the status code with the body.
func get(path string) (int, []byte, error) {
	res, err := http.Get("http://127.0.0.1:19470" + path)
	if err != nil {
		return 0, nil, err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	return res.StatusCode, body, err
}

func (w *world) eventually(what string, check func() error) {
	w.Helper()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	ticker := time.NewTicker(50 * time.Millisecond)
	defer ticker.Stop()
	for {
		err := check()
		if err == nil {
			return
		}
		select {
		case <-deadline.C:
			w.Fatalf("%s: %v", what, err)
		case <-ticker.C:
		}
	}
}

// TestRun runs the whole agent, with a real API server and a real tailnet.
func TestRun(t *testing.T) {
	w := newWorld(t)
	w.testBootstrap()
	w.testVersions()
	w.testAgent()
}

func (w *world) testBootstrap() {
	var settings struct {
		ExtensionManager struct {
			Service struct {
				IP struct {
					Address string
					Port    int
				} `json:"ip"`
			} `json:"service"`
		} `json:"extensionManager"`
	}
	text := w.bootstrap(printSettings)
	w.must(yaml.Unmarshal([]byte(text), &settings))
	if ip := settings.ExtensionManager.Service.IP; ip.Address != "127.0.0.1" || ip.Port != 5005 {
		w.Errorf("settings name %+v", ip)
	}
	if again := w.bootstrap(printSettings); again != text {
		w.Error("a second bootstrap prints something else")
	}
	proxy := w.bootstrap(printEnvoyProxy)
	if again := w.bootstrap(printEnvoyProxy); again != proxy {
		w.Error("a second bootstrap makes other certificates")
	}
	w.must(w.api.ApplyYAML(w.Context(), []byte("apiVersion: v1\nkind: Namespace\nmetadata: {name: envoy-gateway-system}\n"), []byte(proxy)))
	for name, key := range map[string]string{
		secretCA: corev1.TLSCertKey, secretClient: corev1.TLSPrivateKeyKey, secretServer: corev1.TLSPrivateKeyKey, secretCAKey: corev1.TLSPrivateKeyKey,
		secretProxy: corev1.ServiceAccountRootCAKey,
	} {
		s, err := w.client.CoreV1().Secrets("tailgate-system").Get(w.Context(), name, metav1.GetOptions{})
		w.must(err)
		if len(s.Data[key]) == 0 {
			w.Errorf("Secret %s has no %s", name, key)
		}
	}
}

// testVersions installs an Envoy Gateway.
func (w *world) testVersions() {
	h := hubSide{options: w.options(w.TempDir(), ""), client: w.client}
	if v := h.versions(w.Context()); v.GetEnvoyGateway() != "" || !strings.HasPrefix(v.GetKubernetes(), "v1.") || v.GetSpoke() == "" {
		w.Errorf("versions without an Envoy Gateway: %v", v)
	}
	w.must(w.api.ApplyYAML(w.Context(), []byte(`{apiVersion: apps/v1, kind: Deployment, metadata: {name: envoy-gateway, namespace: envoy-gateway-system}, spec: {
		selector: {matchLabels: {a: b}}, template: {metadata: {labels: {a: b}}, spec: {containers: [{name: envoy-gateway, image: "example.com/gateway:v1.9.1"}]}}}}`)))
	if got := h.versions(w.Context()).GetEnvoyGateway(); got != "v1.9.1" {
		w.Errorf("Envoy Gateway's version %q", got)
	}
}

// testAgent runs an agent whose key is a wrong one at first: what it serves in the cluster does not wait for the tailnet,
// and the right key is taken from the same file once it is there.
func (w *world) testAgent() {
	key, err := w.tailnet.MintKey(testnet.KeyOptions{Tags: []string{"tag:tailgate-spoke"}})
	w.must(err)
	ctx, cancel := context.WithCancel(w.Context())
	ended := make(chan error, 1)
	o := w.options(w.TempDir(), "tskey-auth-wrong")
	go func() { ended <- run(ctx, o) }()
	w.eventually("ready", func() error {
		if code, body, err := get("/readyz"); err != nil || code != http.StatusOK {
			return fmt.Errorf("%d %s: %w", code, body, err)
		}
		return nil
	})
	w.linkSays("the refused key", spoke.ReasonJoinKeyRefused, "the tailnet refuses the join key: give one that is not expired", "--join-key-file "+o.joinKeyFile)
	w.must(os.WriteFile(o.joinKeyFile, []byte(key+"\n"), 0o600))
	w.linkSays("the missing hub", spoke.ReasonHubUnreachable, `no peer "tailgate-hub"`)
	if _, body, err := get("/metrics"); err != nil || !strings.Contains(string(body), "tailgate_spoke_link_up 0") {
		w.Errorf("metrics: %v\n%s", err, body)
	}
	w.testHandshakes()
	if err := run(w.Context(), w.options(w.TempDir(), key)); err == nil || !strings.Contains(err.Error(), "--status-addr") {
		w.Errorf("a second spoke on the same ports: %v, want an error that names the flag", err)
	}
	cancel()
	if err := <-ended; err != nil {
		w.Errorf("run: %v", err)
	}
}

// linkSays waits until the status says why there is no link.
func (w *world) linkSays(what, reason string, words ...string) {
	w.Helper()
	w.eventually("status names "+what, func() error {
		_, body, err := get("/status")
		if err != nil {
			return err
		}
		var st spoke.Status
		if err := json.Unmarshal(body, &st); err != nil {
			return fmt.Errorf("read %s: %w", body, err)
		}
		if st.Link.Up || st.Link.Reason != reason || slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(st.Link.Message, w) }) {
			return fmt.Errorf("link %+v", st.Link)
		}
		return nil
	})
}

// testHandshakes knocks at the hook server as Envoy Gateway does, and as a stranger.
func (w *world) testHandshakes() {
	s, err := w.client.CoreV1().Secrets("tailgate-system").Get(w.Context(), secretClient, metav1.GetOptions{})
	w.must(err)
	ca, err := w.client.CoreV1().Secrets("tailgate-system").Get(w.Context(), secretCA, metav1.GetOptions{})
	w.must(err)
	pool, err := certs.Pool(ca.Data[corev1.TLSCertKey])
	w.must(err)
	var cert certs.Live
	w.must(cert.Set(certs.Pair{Cert: s.Data[corev1.TLSCertKey], Key: s.Data[corev1.TLSPrivateKeyKey]}))
	stranger, _, err := certs.Renew(certs.Bundle{}, serverNames(nil, ""), time.Now())
	w.must(err)
	var other certs.Live
	w.must(other.Set(stranger.Client))
	for _, name := range []string{"127.0.0.1", extension.EDSServerName} {
		w.eventually("handshake as Envoy Gateway", func() error { return handshake(w.Context(), certs.ClientConfig(&cert, name, pool)) })
	}
	if err := handshake(w.Context(), certs.ClientConfig(&other, "127.0.0.1", pool)); err == nil {
		w.Error("a stranger's certificate was accepted")
	}
}

// handshake connects and reads: a server that speaks TLS 1.3 refuses a client only after the client's handshake.
func handshake(ctx context.Context, cfg *tls.Config) error {
	cfg.NextProtos = []string{"h2"}
	conn, err := (&tls.Dialer{Config: cfg}).DialContext(ctx, "tcp", "127.0.0.1:15005")
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetReadDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	_, err = conn.Read(make([]byte, 1)) // HTTP/2 servers speak first
	return err
}
