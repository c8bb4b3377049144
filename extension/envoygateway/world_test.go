package envoygateway_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/controller-runtime/pkg/client"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
	"sigs.k8s.io/yaml"

	"github.com/tailgate-project/tailgate/api/v1alpha1"
	"github.com/tailgate-project/tailgate/e2e-kind/assets"
	"github.com/tailgate-project/tailgate/e2e-kind/controlplane"
	"github.com/tailgate-project/tailgate/e2e-kind/kubelet"
	"github.com/tailgate-project/tailgate/e2e-kind/machine"
	"github.com/tailgate-project/tailgate/extension"
	"github.com/tailgate-project/tailgate/extension/certs"
)

const (
	patience   = 2 * time.Minute
	hooksPort  = 18100
	xdsAddress = "127.0.0.1:18000"
	namespace  = kubelet.DefaultNamespace
)

// world is a cluster with Envoy Gateway and the extension server.
type world struct {
	testing.TB
	api    *controlplane.ControlPlane
	assets assets.Paths
	kube   client.Client
	hooks  *extension.Server
	// gateway is the directory of the newest Envoy Gateway.
	gateway string
	// generation counts the changes of the benchmark.
	generation int
}

// newWorld starts an API server with all CRDs.
func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{TB: t, api: controlplane.ForTest(t)}
	found, err := assets.Find(t.Context())
	w.must(err)
	w.assets = found
	own, err := filepath.Glob("../../deploy/crds/*.yaml")
	w.must(err)
	w.must(w.api.ApplyFiles(t.Context(), append(own, found.EnvoyGatewayCRDs...)...))
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{clientgoscheme.AddToScheme, gatewayv1.Install, v1alpha1.AddToScheme} {
		w.must(add(scheme))
	}
	w.kube, err = client.New(w.api.RESTConfig(), client.Options{Scheme: scheme})
	w.must(err)
	w.apply("apiVersion: v1\nkind: Namespace\nmetadata: {name: " + namespace + "}")
	return w
}

// startGateway starts Envoy Gateway and returns when it is ready; settings are those of its extension manager, nil for
// none. It runs until the test ends, or until stop is called.
func (w *world) startGateway(settings map[string]any) (stop func()) {
	w.Helper()
	o := kubelet.EnvoyGatewayOptions{
		Path: w.assets.EnvoyGateway, Kubeconfig: w.api.AdminKubeconfig(), Dir: w.TempDir(), Supervisor: &machine.Supervisor{}, ExtensionManager: settings,
	}
	stop = sync.OnceFunc(func() {
		if err := o.Supervisor.Stop(); err != nil {
			w.Error(err)
		}
	})
	w.Cleanup(stop)
	_, err := kubelet.StartEnvoyGateway(w.Context(), o)
	w.must(err)
	w.gateway = o.Dir
	return stop
}

// startHooks starts the extension server and returns the settings by which Envoy Gateway finds it.
func (w *world) startHooks(snap extension.Snapshot) map[string]any {
	w.Helper()
	bundle := w.certificates()
	pool, err := certs.Pool(bundle.Trust)
	w.must(err)
	live := new(certs.Live)
	w.must(live.Set(bundle.Server))
	w.hooks, err = extension.NewServer(extension.Options{
		TLS: certs.ServerConfig(live, func() *x509.CertPool { return pool }, ""),
		Listen: func(ctx context.Context) (net.Listener, error) {
			var c net.ListenConfig
			return c.Listen(ctx, "tcp", hooksAddress.String())
		},
	})
	w.must(err)
	w.hooks.SetSnapshot(snap)
	ctx, cancel := context.WithCancel(context.WithoutCancel(w.Context()))
	done := make(chan error, 1)
	go func() { done <- w.hooks.Run(ctx) }()
	w.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			w.Error(err)
		}
	})
	return w.hookSettings()
}

// certificates makes those of both sides, and the Secrets that Envoy Gateway reads.
func (w *world) certificates() certs.Bundle {
	w.Helper()
	bundle, _, err := certs.Renew(certs.Bundle{}, certs.Names{DNS: []string{extension.EDSServerName}, IPs: []net.IP{net.IPv4(127, 0, 0, 1)}}, time.Now())
	w.must(err)
	secret := func(name string, data map[string][]byte) string {
		text := "apiVersion: v1\nkind: Secret\nmetadata: {name: " + name + ", namespace: " + namespace + "}\ndata:\n"
		for k, v := range data {
			text += "  " + k + ": " + base64.StdEncoding.EncodeToString(v) + "\n"
		}
		return text
	}
	w.apply(secret("tailgate-ca", map[string][]byte{"tls.crt": bundle.Trust}))
	w.apply(secret("tailgate-client", map[string][]byte{"tls.crt": bundle.Client.Cert, "tls.key": bundle.Client.Key}))
	return bundle
}

// hookSettings are those by which Envoy Gateway finds the extension server.
func (w *world) hookSettings() map[string]any {
	w.Helper()
	text, err := extension.ExtensionManager(extension.ManagerOptions{
		Host: "127.0.0.1", Port: hooksPort, CASecret: "tailgate-ca", ClientSecret: "tailgate-client", Namespace: namespace,
	})
	w.must(err)
	var settings struct {
		ExtensionManager map[string]any `json:"extensionManager"`
	}
	w.must(yaml.Unmarshal([]byte(text), &settings))
	return settings.ExtensionManager
}

func (w *world) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

func (w *world) apply(yaml string) {
	w.Helper()
	w.must(w.api.ApplyYAML(w.Context(), []byte(yaml)))
}

// eventually waits until check returns nothing.
func (w *world) eventually(what string, check func() string) {
	w.Helper()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		wrong := check()
		if wrong == "" {
			return
		}
		select {
		case <-tick.C:
		case <-deadline.C:
			w.Fatalf("%s: %s", what, wrong)
		}
	}
}

// envoy is a client of Envoy Gateway that holds what an Envoy of the Gateway default/eg is sent.
type envoy struct {
	world *world

	mu        sync.Mutex
	clusters  map[string]*clusterv3.Cluster
	listeners map[string]*listenerv3.Listener
	routes    map[string]*routev3.RouteConfiguration
	eds       map[string]*endpointv3.ClusterLoadAssignment
	// now is when the newest response came; arrived gets it when a route with the awaited path is there.
	now     time.Time
	awaited string
	arrived chan time.Time
	// look, where there is one, is called at each response, with mu held.
	look func()
}

// connect connects an Envoy of a Gateway, which asks for the route configurations.
func (w *world) connect(gateway string, routes ...string) *envoy {
	w.Helper()
	var secret corev1.Secret
	w.must(w.kube.Get(w.Context(), client.ObjectKey{Namespace: namespace, Name: "envoy"}, &secret))
	pair, err := tls.X509KeyPair(secret.Data["tls.crt"], secret.Data["tls.key"])
	w.must(err)
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(secret.Data["ca.crt"])
	conn, err := grpc.NewClient("passthrough:///"+xdsAddress, grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(extension.MaxMessage)),
		grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{
			Certificates: []tls.Certificate{pair}, RootCAs: pool, ServerName: "envoy-gateway", MinVersion: tls.VersionTLS13,
		})))
	w.must(err)
	ctx, cancel := context.WithCancel(w.Context())
	stream, err := discoveryv3.NewAggregatedDiscoveryServiceClient(conn).DeltaAggregatedResources(ctx)
	w.must(err)
	e := &envoy{
		world: w, clusters: map[string]*clusterv3.Cluster{}, listeners: map[string]*listenerv3.Listener{},
		routes: map[string]*routev3.RouteConfiguration{}, eds: map[string]*endpointv3.ClusterLoadAssignment{},
	}
	node := &corev3.Node{Id: "envoy of " + gateway, Cluster: gateway} // Envoy Gateway keeps what it sends by this id
	for _, r := range []*discoveryv3.DeltaDiscoveryRequest{
		{Node: node, TypeUrl: resource.ClusterType}, {TypeUrl: resource.ListenerType}, {TypeUrl: resource.RouteType, ResourceNamesSubscribe: routes},
	} {
		w.must(stream.Send(r))
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			r, err := stream.Recv()
			if err != nil {
				return // the test has ended
			}
			if names := e.take(r); len(names) > 0 {
				_ = stream.Send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: resource.EndpointType, ResourceNamesSubscribe: names})
			}
			_ = stream.Send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: r.GetTypeUrl(), ResponseNonce: r.GetNonce()})
		}
	}()
	w.Cleanup(func() {
		cancel()
		<-done
		_ = conn.Close()
	})
	return e
}

// take keeps a response, and returns the clusters whose endpoints have to be asked for.
func (e *envoy) take(r *discoveryv3.DeltaDiscoveryResponse) []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.now = time.Now()
	defer e.lookLocked()
	defer func() {
		if e.look != nil {
			e.look()
		}
	}()
	var ask []string
	for _, name := range r.GetRemovedResources() {
		switch r.GetTypeUrl() {
		case resource.ClusterType:
			delete(e.clusters, name)
		case resource.ListenerType:
			delete(e.listeners, name)
		case resource.RouteType:
			delete(e.routes, name)
		}
	}
	for _, res := range r.GetResources() {
		m, err := res.GetResource().UnmarshalNew()
		if err != nil {
			continue // of a type that is not linked in, and not asked about
		}
		switch m := m.(type) {
		case *clusterv3.Cluster:
			if e.clusters[m.GetName()] == nil && m.GetEdsClusterConfig().GetEdsConfig().GetAds() != nil {
				ask = append(ask, m.GetName())
			}
			e.clusters[m.GetName()] = m
		case *listenerv3.Listener:
			e.listeners[m.GetName()] = m
		case *routev3.RouteConfiguration:
			e.routes[m.GetName()] = m
		case *endpointv3.ClusterLoadAssignment:
			e.eds[m.GetClusterName()] = m
		}
	}
	return ask
}

// leads returns where each of the user's routes below a prefix leads, by route name up to the match: its clusters with
// their weights, or the status that it answers by itself.
func (e *envoy) leads(prefix string) map[string]string {
	e.mu.Lock()
	defer e.mu.Unlock()
	out := map[string]string{}
	for _, rc := range e.routes {
		for _, vh := range rc.GetVirtualHosts() {
			for _, r := range vh.GetRoutes() {
				rule, _, _ := strings.Cut(r.GetName(), "/match/")
				if name, ok := strings.CutPrefix(rule, prefix); ok {
					out[name] = describe(r)
				}
			}
		}
	}
	return out
}

func describe(r *routev3.Route) string {
	if d := r.GetDirectResponse(); d != nil {
		return fmt.Sprintf("answers %d", d.GetStatus())
	}
	a := r.GetRoute()
	text := a.GetCluster()
	for i, c := range a.GetWeightedClusters().GetClusters() {
		if i > 0 {
			text += ", "
		}
		text += fmt.Sprintf("%d %s", c.GetWeight().GetValue(), c.GetName())
	}
	if strings.Contains(text, "invalid-backend-cluster") {
		text += ", missing " + a.GetClusterNotFoundResponseCode().String()
	}
	return text
}

// endpoints returns the addresses of a cluster whose endpoints Envoy Gateway tells, by locality.
func (e *envoy) endpoints(cluster string) string {
	e.mu.Lock()
	defer e.mu.Unlock()
	var out []string
	for _, l := range e.eds[cluster].GetEndpoints() {
		var addrs []string
		for _, x := range l.GetLbEndpoints() {
			addrs = append(addrs, x.GetEndpoint().GetAddress().GetSocketAddress().GetAddress())
		}
		out = append(out, fmt.Sprintf("weight %d: [%s]", l.GetLoadBalancingWeight().GetValue(), strings.Join(addrs, " ")))
	}
	return strings.Join(out, "; ")
}

// cluster returns a cluster, nil where there is none.
func (e *envoy) cluster(name string) *clusterv3.Cluster {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.clusters[name]
}
