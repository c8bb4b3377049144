package kubelet_test

import (
	"context"
	"encoding/json"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"

	"github.com/tailgate-project/tailgate/e2e-kind/assets"
	"github.com/tailgate-project/tailgate/e2e-kind/controlplane"
	"github.com/tailgate-project/tailgate/e2e-kind/kubelet"
	"github.com/tailgate-project/tailgate/e2e-kind/machine"
)

// world is a control plane at the address of a fabric, and how to look at it.
type world struct {
	*controlplane.ControlPlane
	ip         netip.Addr
	assets     assets.Paths
	supervisor *machine.Supervisor
	kube       kubernetes.Interface
	dynamic    dynamic.Interface
	log        *slog.Logger
}

func newWorld(t *testing.T) *world {
	t.Helper()
	found, err := assets.Find(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	f, err := machine.NewFabric(netip.Prefix{})
	if err != nil {
		t.Fatal(err)
	}
	w := &world{
		ip: f.Addr(), assets: found, supervisor: &machine.Supervisor{},
		log: slog.New(slog.NewTextHandler(t.Output(), nil)),
	}
	t.Cleanup(func() {
		if err := w.supervisor.Stop(); err != nil {
			t.Error(err)
		}
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	})
	w.ControlPlane, err = controlplane.Start(t.Context(), controlplane.Options{
		Dir: t.TempDir(), Assets: found, BindAddress: w.ip, Supervisor: w.supervisor,
	})
	if err != nil {
		t.Fatal(err)
	}
	if w.kube, err = kubernetes.NewForConfig(w.RESTConfig()); err != nil {
		t.Fatal(err)
	}
	if w.dynamic, err = dynamic.NewForConfig(w.RESTConfig()); err != nil {
		t.Fatal(err)
	}
	return w
}

// background runs something until the test ends and checks how it ended.
func background(t *testing.T, run func(context.Context) error) {
	t.Helper()
	done := make(chan error, 1)
	go func() { done <- run(t.Context()) }()
	t.Cleanup(func() {
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

const gateway = `
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: eg}
spec:
  controllerName: gateway.envoyproxy.io/gatewayclass-controller
  parametersRef: {group: gateway.envoyproxy.io, kind: EnvoyProxy, name: ep, namespace: default}
---
apiVersion: gateway.envoyproxy.io/v1alpha1
kind: EnvoyProxy
metadata: {name: ep, namespace: default}
spec:
  provider: {type: Kubernetes}
  bootstrap:
    type: Merge
    value: |
      static_resources:
        clusters:
        - {name: EXTRA, type: STATIC, connect_timeout: 1s}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: eg, namespace: default}
spec:
  gatewayClassName: eg
  listeners:
  - {name: http, protocol: HTTP, port: 8888}
`

func TestProxiesRunWhatEnvoyGatewayMakes(t *testing.T) {
	w := newWorld(t)
	if err := w.ApplyFiles(t.Context(), w.assets.EnvoyGatewayCRDs...); err != nil {
		t.Fatal(err)
	}
	if _, err := kubelet.StartEnvoyGateway(t.Context(), kubelet.EnvoyGatewayOptions{
		Path: w.assets.EnvoyGateway, Kubeconfig: w.AdminKubeconfig(), Dir: t.TempDir(), Supervisor: w.supervisor,
	}); err != nil {
		t.Fatal(err)
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	proxies, err := kubelet.NewProxies(kubelet.ProxiesOptions{
		Config: w.RESTConfig(), NodeIP: w.ip, EnvoyPath: exe, Env: []string{roleEnv + "=envoy"},
		Dir: dir, Supervisor: w.supervisor, Log: w.log,
	})
	if err != nil {
		t.Fatal(err)
	}
	background(t, proxies.Run)
	if err := w.ApplyYAML(t.Context(), []byte(gateway)); err != nil {
		t.Fatal(err)
	}

	w.awaitProgrammed(t)
	first := awaitSeen(t, dir, func(s seen) bool { return true })
	if diff := cmp.Diff([]string{"/certs/ca.crt", "/certs/tls.crt", "/certs/tls.key", "/sds/xds-certificate.json", "/sds/xds-trusted-ca.json"}, first.Files); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{w.ip.String()}, slices.Compact(first.XDSHosts)); diff != "" {
		t.Error(diff)
	}
	node := first.Args[slices.Index(first.Args, "--service-node")+1]
	if !strings.HasPrefix(node, "envoy-default-eg-") {
		t.Errorf("--service-node is %q, want the pod's name in place of $(ENVOY_POD_NAME)", node)
	}
	if diff := cmp.Diff([]string{w.ip.String() + ":8888 true"}, w.endpoints(t, kubelet.DefaultNamespace)); diff != "" {
		t.Error(diff)
	}

	t.Run("died", func(t *testing.T) {
		if err := syscall.Kill(first.PID, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		awaitSeen(t, dir, func(s seen) bool { return s.PID != first.PID })
		w.awaitProgrammed(t)
	})

	t.Run("template-changed", func(t *testing.T) {
		if err := w.ApplyYAML(t.Context(), []byte(strings.Replace(gateway, "EXTRA", "another", 1))); err != nil {
			t.Fatal(err)
		}
		awaitSeen(t, dir, func(s seen) bool { return strings.Contains(strings.Join(s.Args, " "), "another") })
	})

	t.Run("gateway-deleted", func(t *testing.T) {
		if err := w.dynamic.Resource(gateways).Namespace("default").Delete(t.Context(), "eg", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the end of the proxy", func() (any, bool) {
			c, err := net.Dial("tcp", netip.AddrPortFrom(w.ip, 19003).String())
			if err == nil {
				_ = c.Close()
			}
			return err, err != nil
		})
	})
}

var gateways = schema.GroupVersionResource{Group: "gateway.networking.k8s.io", Version: "v1", Resource: "gateways"}

// awaitProgrammed waits until Envoy Gateway says that the data plane is there, which it takes from the objects that the
// stand-in writes.
func (w *world) awaitProgrammed(t *testing.T) {
	t.Helper()
	eventually(t, "a programmed gateway", func() (any, bool) {
		g, err := w.dynamic.Resource(gateways).Namespace("default").Get(t.Context(), "eg", metav1.GetOptions{})
		if err != nil {
			return err, false
		}
		conditions, _, _ := unstructured.NestedSlice(g.Object, "status", "conditions")
		for _, c := range conditions {
			if c := c.(map[string]any); c["type"] == "Programmed" && c["status"] == "True" {
				return nil, true
			}
		}
		return conditions, false
	})
}

// awaitSeen waits until the stand-in started the program so that it saw what is wanted.
func awaitSeen(t *testing.T, dir string, want func(seen) bool) seen {
	t.Helper()
	var last seen
	eventually(t, "the proxy's start", func() (any, bool) {
		files, err := filepath.Glob(filepath.Join(dir, "*", "seen.json"))
		if err != nil || len(files) != 1 {
			return files, false
		}
		b, err := os.ReadFile(files[0])
		if err != nil {
			return err, false
		}
		if err := json.Unmarshal(b, &last); err != nil {
			return err, false
		}
		return last, want(last)
	})
	return last
}

// endpoints are the addresses in the namespace's endpoint slices, with their ports and whether they are ready.
func (w *world) endpoints(t *testing.T, namespace string) []string {
	t.Helper()
	list, err := w.kube.DiscoveryV1().EndpointSlices(namespace).List(t.Context(), metav1.ListOptions{LabelSelector: discoveryv1.LabelServiceName})
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, s := range list.Items {
		for _, e := range s.Endpoints {
			for _, p := range s.Ports {
				ready := "false"
				if *e.Conditions.Ready {
					ready = "true"
				}
				all = append(all, netip.AddrPortFrom(netip.MustParseAddr(e.Addresses[0]), uint16(*p.Port)).String()+" "+ready)
			}
		}
	}
	return all
}

func TestWorkloadFollowsItsProcesses(t *testing.T) {
	w := newWorld(t)
	listen := func() net.Listener {
		l, err := net.Listen("tcp", netip.AddrPortFrom(w.ip, 8080).String())
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	l := listen()
	workload := kubelet.Workload{
		Config: w.RESTConfig(), Namespace: "shop", Name: "webapp",
		PodIPs: []netip.Addr{w.ip, netip.MustParseAddr("10.244.9.9")}, Port: 8080, Log: w.log,
	}
	background(t, workload.Run)
	await := func(want ...string) {
		t.Helper()
		eventually(t, strings.Join(want, ", "), func() (any, bool) {
			got := w.endpoints(t, "shop")
			return got, slices.Equal(got, want)
		})
	}
	here, nowhere := w.ip.String()+":8080", "10.244.9.9:8080"
	await(here+" true", nowhere+" false")
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	await(here+" false", nowhere+" false")
	again := listen()
	defer func() { _ = again.Close() }()
	await(here+" true", nowhere+" false")
	eventually(t, "an available deployment", func() (any, bool) {
		d, err := w.kube.AppsV1().Deployments("shop").Get(t.Context(), "webapp", metav1.GetOptions{})
		if err != nil {
			return err, false
		}
		return d.Status, d.Status.AvailableReplicas == 1 && d.Status.Replicas == 2
	})
}
