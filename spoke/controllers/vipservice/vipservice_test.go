package vipservice_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/config"
	"sigs.k8s.io/controller-runtime/pkg/event"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"github.com/tailgate-project/tailgate/api/v1alpha1"
	"github.com/tailgate-project/tailgate/e2e-kind/assets"
	"github.com/tailgate-project/tailgate/e2e-kind/controlplane"
	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/spoke"
	"github.com/tailgate-project/tailgate/spoke/controllers"
	"github.com/tailgate-project/tailgate/spoke/controllers/vipservice"
)

const patience = 2 * time.Minute

// registry is a spoke that knows the VIPs that the test gives it.
type registry struct {
	mu   sync.Mutex
	vips spoke.VIPs
	// asked counts the questions: the reconciler has one in each pass.
	asked int
}

func (r *registry) VIPs(context.Context) (spoke.VIPs, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.asked++
	return r.vips, nil
}

// writes counts the requests that change something.
type writes struct {
	next http.RoundTripper
	mu   *sync.Mutex
	log  *[]string
}

func (w writes) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Method != http.MethodGet {
		w.mu.Lock()
		*w.log = append(*w.log, r.Method+" "+r.URL.Path)
		w.mu.Unlock()
	}
	return w.next.RoundTrip(r)
}

type fixture struct {
	*testing.T
	api      *controlplane.ControlPlane
	admin    client.Client
	registry *registry
	changes  chan event.GenericEvent
	kubectl  string

	mu     sync.Mutex
	writes []string
	events []string
}

func (f *fixture) must(err error) {
	f.Helper()
	if err != nil {
		f.Fatal(err)
	}
}

func (f *fixture) eventually(what string, check func() error) {
	f.Helper()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for {
		err := check()
		if err == nil {
			return
		}
		select {
		case <-deadline.C:
			f.Fatalf("%s: %v", what, err)
		case <-ticker.C:
		}
	}
}

// give tells the reconciler of other VIPs.
func (f *fixture) give(known bool, vips ...spoke.VIPService) {
	f.registry.mu.Lock()
	f.registry.vips = spoke.VIPs{Known: known, Services: vips, Joined: []spoke.Joined{{
		TailscaleGateway: spoke.Name{Namespace: "default", Name: "ts"}, Gateway: spoke.Name{Namespace: "default", Name: "main-gateway"}, Tailnets: []spoke.JoinedTailnet{{Name: "production"}},
	}}}
	f.registry.mu.Unlock()
	f.look()
}

// look has the reconciler look again, and returns when it has.
func (f *fixture) look() {
	f.Helper()
	asked := func() int {
		f.registry.mu.Lock()
		defer f.registry.mu.Unlock()
		return f.registry.asked
	}
	for range 2 { // one pass ends before the next one begins
		before := asked()
		f.changes <- event.GenericEvent{Object: &corev1.Service{}}
		f.eventually("a pass of the reconciler", func() error {
			if asked() == before {
				return errors.New("none has begun")
			}
			return nil
		})
	}
}

// table is what kubectl prints, each line with single spaces and without the age.
func (f *fixture) table(args ...string) []string {
	f.Helper()
	kubeconfig := filepath.Join(f.TempDir(), "kubeconfig")
	f.must(f.api.WriteKubeconfig(kubeconfig, controlplane.KubeconfigOptions{}))
	out, err := exec.CommandContext(f.Context(), f.kubectl, append([]string{"--kubeconfig", kubeconfig}, args...)...).CombinedOutput()
	if err != nil {
		f.Fatalf("kubectl %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	var lines []string
	for line := range strings.Lines(string(out)) {
		words := strings.Fields(line)
		for i := range words { // cluster addresses and ages are not the test's to say
			if i == 2 && len(lines) > 0 || i == 5 {
				words[i] = "-"
			}
		}
		lines = append(lines, strings.Join(words, " "))
	}
	return lines
}

func newFixture(t *testing.T) *fixture {
	ctrl.SetLogger(logr.Discard())
	f := &fixture{T: t, api: controlplane.ForTest(t), registry: &registry{}, changes: make(chan event.GenericEvent)}
	found, err := assets.Find(t.Context())
	f.must(err)
	f.kubectl = found.Kubectl
	own, err := filepath.Glob("../../../deploy/crds/*.yaml")
	f.must(err)
	f.must(f.api.ApplyFiles(t.Context(), own...))
	scheme, err := controllers.Scheme()
	f.must(err)
	f.admin, err = client.New(f.api.RESTConfig(), client.Options{Scheme: scheme})
	f.must(err)
	f.must(f.admin.Create(t.Context(), &v1alpha1.TailscaleGateway{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "ts"},
		Spec: v1alpha1.TailscaleGatewaySpec{GatewayRef: v1alpha1.GatewayReference{Name: "main-gateway"}, Tailnets: []v1alpha1.TailnetConfig{{
			Name: "production", TailscaleTailnetRef: v1alpha1.TailnetReference{Name: "production-tailnet"},
		}}},
	}))
	cfg := f.api.RESTConfig()
	cfg.Wrap(func(next http.RoundTripper) http.RoundTripper { return writes{next, &f.mu, &f.writes} })
	mgr, err := ctrl.NewManager(cfg, ctrl.Options{
		Scheme: scheme, Logger: logr.FromSlogHandler(slog.DiscardHandler), Metrics: metricsserver.Options{BindAddress: "0"}, HealthProbeBindAddress: "0",
		Controller: config.Controller{SkipNameValidation: new(true)},
	})
	f.must(err)
	r := &vipservice.Reconciler{
		Client: mgr.GetClient(), Spoke: f.registry, Changes: f.changes,
		Record: func(o client.Object, reason, message string) {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.events = append(f.events, fmt.Sprintf("%s/%s %s: %s", o.GetNamespace(), o.GetName(), reason, message))
		},
	}
	f.must(r.SetupWithManager(mgr))
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- mgr.Start(ctx) }()
	t.Cleanup(func() {
		cancel()
		f.must(<-ended)
	})
	return f
}

var http80 = federation.Port{Name: "http", Port: 80, Protocol: federation.TCP, App: federation.AppHTTP}

func addrPorts(texts ...string) (out []netip.AddrPort) {
	for _, x := range texts {
		out = append(out, netip.MustParseAddrPort(x))
	}
	return out
}

func listenerVIP() spoke.VIPService {
	return spoke.VIPService{
		Cluster: "cluster1", Service: federation.Listener("default", "main-gateway", "http"), Name: "gateway-main-gateway-http-80",
		TailscaleService: "gateway-main-gateway-http-80-cluster1", Tailnet: "production", Target: "envoy-main.envoy-gateway-system.svc.cluster.local",
		Addrs: []netip.Addr{netip.MustParseAddr("100.64.1.10"), netip.MustParseAddr("fd7a:115c:a1e0::10")},
		Ports: []spoke.VIPPort{{Port: http80, Backends: addrPorts("10.1.0.9:10080")}},
	}
}

func remoteVIP(cluster federation.ClusterID, namespace, addr string, backends ...string) spoke.VIPService {
	return spoke.VIPService{
		Cluster: cluster, Service: federation.Service(namespace, "webapp"), Addrs: []netip.Addr{netip.MustParseAddr(addr)}, Target: string(cluster),
		Ports: []spoke.VIPPort{
			{Port: http80, Backends: addrPorts(backends...)},
			{Port: federation.Port{Port: 53, Protocol: federation.UDP}, Backends: addrPorts(backends...)},
		},
	}
}

func TestVIPServices(t *testing.T) {
	f := newFixture(t)
	f.give(false)
	f.give(true, listenerVIP(), remoteVIP("cluster2", "default", "100.64.2.10", "10.2.0.1:20000", "10.2.0.2:20000", "[fd00::2]:20000"), remoteVIP("cluster2", "infra", "100.64.2.11", "127.0.0.1:20002"))
	f.testTables()
	f.testSlices()
	f.testNoWritesWhenNothingChanged()
	f.testMended()
	f.testNameTaken()
	f.testSpokeThatKnowsNothing()
	f.testGone()
}

func (f *fixture) testTables() {
	want := []string{
		"NAME TYPE CLUSTER-IP EXTERNAL-IP PORT(S) - TARGET",
		"gateway-main-gateway-http-80 LoadBalancer - 100.64.1.10,fd7a:115c:a1e0::10 80/TCP - envoy-main.envoy-gateway-system",
		"webapp-cluster2 LoadBalancer - 100.64.2.10 80/TCP,53/UDP - cluster2",
		"webapp-infra-cluster2 LoadBalancer - 100.64.2.11 80/TCP,53/UDP - cluster2",
	}
	f.eventually("the table of the workflow", func() error {
		got := f.table("get", "services", "-l", "gateway.tailscale.com/vip-service=true", "-L", "gateway.tailscale.com/target")
		if d := cmp.Diff(want, got); d != "" {
			return fmt.Errorf("(-want +got)\n%s", d)
		}
		return nil
	})
	annotations := f.service("webapp-infra-cluster2").Annotations
	if got := annotations[v1alpha1.AnnotationUnreachable]; !strings.Contains(got, "127.0.0.1") || !strings.Contains(got, "--egress-addr") {
		f.Errorf("unreachable: %q, want the reason and what to do", got)
	}
	own := f.service("gateway-main-gateway-http-80")
	wantNotes := map[string]string{
		v1alpha1.AnnotationTarget:           "envoy-main.envoy-gateway-system.svc.cluster.local:80",
		v1alpha1.AnnotationTailscaleService: "svc:gateway-main-gateway-http-80-cluster1",
	}
	if d := cmp.Diff(wantNotes, own.Annotations); d != "" {
		f.Errorf("annotations (-want +got)\n%s", d)
	}
	if o := own.OwnerReferences; len(o) != 1 || o[0].Kind != "TailscaleGateway" || o[0].Name != "ts" {
		f.Errorf("owners %v", o)
	}
	if mode := own.Status.LoadBalancer.Ingress[0].IPMode; mode == nil || *mode != corev1.LoadBalancerIPModeProxy {
		f.Errorf("ipMode %v: kube-proxy would take the VIP for its own", mode)
	}
	for _, p := range own.Spec.Ports {
		if p.NodePort != 0 {
			f.Errorf("port %d has node port %d", p.Port, p.NodePort)
		}
	}
}

func (f *fixture) service(name string) corev1.Service {
	f.Helper()
	var s corev1.Service
	f.must(f.admin.Get(f.Context(), client.ObjectKey{Namespace: "default", Name: name}, &s))
	return s
}

// behind are the endpoints of a Service as kube-proxy would read them: port name, protocol and address.
func (f *fixture) behind(service string) []string {
	f.Helper()
	var all discoveryv1.EndpointSliceList
	f.must(f.admin.List(f.Context(), &all, client.InNamespace("default"), client.MatchingLabels{discoveryv1.LabelServiceName: service}))
	var out []string
	for _, s := range all.Items {
		for _, p := range s.Ports {
			for _, e := range s.Endpoints {
				for _, a := range e.Addresses {
					out = append(out, fmt.Sprintf("%s %s %s", *p.Name, *p.Protocol, netip.AddrPortFrom(netip.MustParseAddr(a), uint16(*p.Port))))
				}
			}
		}
	}
	slices.Sort(out)
	return out
}

func (f *fixture) wantBehind(service string, want ...string) {
	f.Helper()
	f.eventually("endpoints of "+service, func() error {
		if d := cmp.Diff(want, f.behind(service)); d != "" {
			return fmt.Errorf("(-want +got)\n%s", d)
		}
		return nil
	})
}

func (f *fixture) testSlices() {
	f.wantBehind("gateway-main-gateway-http-80", "http TCP 10.1.0.9:10080")
	f.wantBehind("webapp-cluster2", "http TCP 10.2.0.1:20000", "http TCP 10.2.0.2:20000", "http TCP [fd00::2]:20000",
		"udp-53 UDP 10.2.0.1:20000", "udp-53 UDP 10.2.0.2:20000", "udp-53 UDP [fd00::2]:20000")
	f.wantBehind("webapp-infra-cluster2")
}

// settled returns the number of writes once a look brings none.
func (f *fixture) settled() int {
	f.Helper()
	for n := -1; ; {
		f.look()
		f.mu.Lock()
		next := len(f.writes)
		f.mu.Unlock()
		if next == n {
			return n
		}
		n = next
	}
}

func (f *fixture) testNoWritesWhenNothingChanged() {
	before := f.settled()
	for range 20 {
		f.look()
	}
	if after := f.settled(); after != before {
		f.Errorf("%d writes with nothing to do: %v", after-before, f.writes[before:])
	}
}

// testMended has a user change and delete what is not theirs, and the spoke change what it knows.
func (f *fixture) testMended() {
	s := f.service("webapp-cluster2")
	ip := s.Spec.ClusterIP
	s.Spec.Ports[0].Port, s.Labels["team"] = 81, "blue"
	f.must(f.admin.Update(f.Context(), &s))
	f.eventually("the port is put right", func() error {
		s := f.service("webapp-cluster2")
		if s.Spec.Ports[0].Port != 80 || s.Labels["team"] != "blue" || s.Spec.ClusterIP != ip {
			return fmt.Errorf("port %d, labels %v, address %s; want 80, the user's label, and %s", s.Spec.Ports[0].Port, s.Labels, s.Spec.ClusterIP, ip)
		}
		return nil
	})
	f.must(f.admin.DeleteAllOf(f.Context(), &discoveryv1.EndpointSlice{}, client.InNamespace("default"),
		client.MatchingLabels{discoveryv1.LabelServiceName: "webapp-cluster2"}))
	f.wantBehind("webapp-cluster2", "http TCP 10.2.0.1:20000", "http TCP 10.2.0.2:20000", "http TCP [fd00::2]:20000",
		"udp-53 UDP 10.2.0.1:20000", "udp-53 UDP 10.2.0.2:20000", "udp-53 UDP [fd00::2]:20000")
	f.give(true, listenerVIP(), remoteVIP("cluster2", "default", "100.64.2.12", "10.2.0.3:20000"))
	f.wantBehind("webapp-cluster2", "http TCP 10.2.0.3:20000", "udp-53 UDP 10.2.0.3:20000")
	f.eventually("the Service of a VIP that is gone is deleted, and the other VIP is shown", func() error {
		var all corev1.ServiceList
		f.must(f.admin.List(f.Context(), &all, client.MatchingLabels{v1alpha1.LabelVIPService: "true"}))
		if len(all.Items) != 2 {
			return fmt.Errorf("%d Services, want 2", len(all.Items))
		}
		if got := f.service("webapp-cluster2").Status.LoadBalancer.Ingress[0].IP; got != "100.64.2.12" {
			return fmt.Errorf("VIP %s", got)
		}
		return nil
	})
}

func (f *fixture) testNameTaken() {
	f.must(f.admin.Create(f.Context(), &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "webapp-cluster3"}, Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 7777}}},
	}))
	vips := []spoke.VIPService{listenerVIP(), remoteVIP("cluster2", "default", "100.64.2.12", "10.2.0.3:20000"), remoteVIP("cluster3", "default", "100.64.3.12", "10.2.0.3:20001")}
	f.give(true, vips...)
	f.settled()
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.events) != 1 || !strings.HasPrefix(f.events[0], `default/ts VIPServiceNameTaken: `) || !strings.Contains(f.events[0], `"webapp-cluster3"`) {
		f.Errorf("events %q, want one that names the Service", f.events)
	}
	if s := f.service("webapp-cluster3"); s.Spec.Ports[0].Port != 7777 || s.Labels[v1alpha1.LabelVIPService] != "" || len(s.OwnerReferences) != 0 {
		f.Errorf("the user's Service was touched: %+v", s)
	}
	if got := f.behind("webapp-cluster3"); len(got) != 0 {
		f.Errorf("the user's Service got endpoints %v", got)
	}
}

// testSpokeThatKnowsNothing has the spoke start without its last snapshot: addresses in the cluster must not change.
func (f *fixture) testSpokeThatKnowsNothing() {
	before := f.settled()
	f.give(false)
	if after := f.settled(); after != before {
		f.Errorf("a spoke that has never heard of the hub wrote %v", f.writes[before:])
	}
}

func (f *fixture) testGone() {
	f.give(true)
	f.eventually("nothing is left", func() error {
		var services corev1.ServiceList
		var all discoveryv1.EndpointSliceList
		f.must(f.admin.List(f.Context(), &services, client.MatchingLabels{v1alpha1.LabelVIPService: "true"}))
		f.must(f.admin.List(f.Context(), &all, client.MatchingLabels{discoveryv1.LabelManagedBy: "tailgate-spoke"}))
		if n := len(services.Items) + len(all.Items); n > 0 {
			return fmt.Errorf("%d Services, %d EndpointSlices", len(services.Items), len(all.Items))
		}
		return nil
	})
	f.service("webapp-cluster3") // is the user's, and stays
}
