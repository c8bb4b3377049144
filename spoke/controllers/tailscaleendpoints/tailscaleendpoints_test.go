package tailscaleendpoints_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/tailgate-project/tailgate/api/v1alpha1"
	"github.com/tailgate-project/tailgate/e2e-kind/controlplane"
	"github.com/tailgate-project/tailgate/federation/discovery"
	"github.com/tailgate-project/tailgate/spoke"
	"github.com/tailgate-project/tailgate/spoke/controllers/tailscaleendpoints"
)

// envoy is told of endpoints, which the spoke's own tests look at.
type envoy struct{}

func (envoy) SetStructure(spoke.Structure)                       {}
func (envoy) SetEndpoints(map[spoke.Assignment][]spoke.Endpoint) {}

type bed struct {
	*testing.T
	client.Client
	*spoke.Spoke
	reconciler *tailscaleendpoints.Reconciler
	// tailnet is what the hub knows, and asked how often.
	tailnet discovery.Inventory
	problem error
	found   tailscaleendpoints.Found
	asked   int
	// names are what the name server knows; now is the reconciler's clock, writes counts what it wrote.
	names  map[string][]netip.Addr
	now    time.Time
	writes int
}

func start(t *testing.T) *bed {
	t.Helper()
	b := &bed{T: t, names: map[string][]netip.Addr{}, now: time.Now()}
	api := controlplane.ForTest(t)
	crds := filepath.FromSlash("../../../deploy/crds/gateway.tailscale.com_")
	b.must(api.ApplyFiles(t.Context(), crds+"tailscalegateways.yaml", crds+"tailscaleendpoints.yaml"))
	scheme := runtime.NewScheme()
	b.must(errors.Join(clientgoscheme.AddToScheme(scheme), v1alpha1.AddToScheme(scheme)))
	direct, err := client.NewWithWatch(api.RESTConfig(), client.Options{Scheme: scheme})
	b.must(err)
	b.Client = direct
	b.Spoke, err = spoke.New(spoke.Config{
		Cluster: "c1", StateDir: t.TempDir(), EgressAddr: netip.MustParseAddr("127.0.0.1"), EgressPorts: spoke.PortRange{Low: 20000, High: 20009},
		Extension: envoy{}, Log: slog.New(slog.DiscardHandler),
	})
	b.must(err)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- b.Spoke.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		b.must(<-done)
	})
	counted := interceptor.NewClient(direct, interceptor.Funcs{SubResourcePatch: func(
		ctx context.Context, c client.Client, sub string, o client.Object, p client.Patch, opts ...client.SubResourcePatchOption,
	) error {
		b.writes++
		return c.SubResource(sub).Patch(ctx, o, p, opts...)
	}})
	b.reconciler = &tailscaleendpoints.Reconciler{
		Client: counted, Spoke: b.Spoke, Now: func() time.Time { return b.now },
		Discover: func(_ context.Context, tailnet string, q discovery.Query, _ time.Duration) (tailscaleendpoints.Found, error) {
			b.asked++
			if tailnet != "production-tailnet" {
				return tailscaleendpoints.Found{}, fmt.Errorf("%w: %s", tailscaleendpoints.ErrNoTailnet, tailnet)
			}
			found := b.found
			found.Inventory = q.Select(b.tailnet)
			return found, b.problem
		},
		Lookup: func(_ context.Context, _, host string) ([]netip.Addr, error) {
			if addrs, ok := b.names[host]; ok {
				return addrs, nil
			}
			return nil, &net.DNSError{Err: "no such host", Name: host, Server: fmt.Sprint("192.0.2.", len(b.names)), IsNotFound: true}
		},
	}
	return b
}

func (b *bed) must(err error) {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
}

// reconcile looks at an object and returns it as it is then.
func (b *bed) reconcile(name string) *v1alpha1.TailscaleEndpoints {
	b.Helper()
	key := client.ObjectKey{Namespace: "default", Name: name}
	_, err := b.reconciler.Reconcile(b.Context(), ctrl.Request{NamespacedName: key})
	b.must(err)
	var o v1alpha1.TailscaleEndpoints
	b.must(client.IgnoreNotFound(b.Get(b.Context(), key, &o)))
	return &o
}

func (b *bed) want(o *v1alpha1.TailscaleEndpoints, kind string, status metav1.ConditionStatus, reason, says string) {
	b.Helper()
	c := meta.FindStatusCondition(o.Status.Conditions, kind)
	if c == nil || c.Status != status || c.Reason != reason || !strings.Contains(c.Message, says) {
		b.Errorf("%s is %+v, want %s %s and that it says %q", kind, c, status, reason, says)
	}
}

func brief(o *v1alpha1.TailscaleEndpoints) []string {
	var out []string
	for _, e := range o.Status.Endpoints {
		out = append(out, strings.TrimSpace(fmt.Sprintf("%s %s %s", e.Name, e.Health, e.Message)))
	}
	return out
}

func named(name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: "default", Name: name}
}

func TestReconciler(t *testing.T) {
	b := start(t)
	ctx := t.Context()
	set := &v1alpha1.TailscaleEndpoints{ObjectMeta: named("production-endpoints"), Spec: v1alpha1.TailscaleEndpointsSpec{
		Tailnet: "production-tailnet", Endpoints: []v1alpha1.TailscaleEndpoint{
			{Name: "api", TailscaleIP: "100.64.1.10", Port: 80, HealthCheck: &v1alpha1.EndpointHealthCheck{Path: "/up", UnhealthyThreshold: new(int32(1))}},
			{Name: "httpbin", ExternalTarget: "httpbin.example.com:8080", Port: 80},
		},
	}}
	b.must(b.Create(ctx, set))
	o := b.reconcile(set.Name)
	b.want(o, v1alpha1.ConditionAccepted, metav1.ConditionFalse, v1alpha1.ReasonTailnetNotFound, `no TailscaleGateway of this cluster joins the tailnet "production-tailnet"`)
	b.want(o, v1alpha1.ConditionReady, metav1.ConditionFalse, v1alpha1.ReasonTailnetNotFound, "spec.tailnet")

	b.must(b.Create(ctx, &v1alpha1.TailscaleGateway{ObjectMeta: named("ts"), Spec: v1alpha1.TailscaleGatewaySpec{
		GatewayRef: v1alpha1.GatewayReference{Name: "main"},
		Tailnets:   []v1alpha1.TailnetConfig{{Name: "production", TailscaleTailnetRef: v1alpha1.TailnetReference{Name: "production-tailnet"}}},
	}}))
	o = b.reconcile(set.Name)
	b.want(o, v1alpha1.ConditionAccepted, metav1.ConditionTrue, v1alpha1.ReasonAccepted, "")
	b.want(o, v1alpha1.ConditionReady, metav1.ConditionFalse, v1alpha1.ReasonProxiesNotReady, "egress proxy")
	b.wantBrief(o, "api Unknown", "httpbin Unhealthy look up httpbin.example.com: there is no such name")

	b.must(b.ProxyOpened(ctx, spoke.ProxyID{Role: spoke.Egress}))
	b.checked(true, 2)
	b.names["httpbin.example.com"] = []netip.Addr{netip.MustParseAddr("192.0.2.10"), netip.MustParseAddr("192.0.2.9")}
	b.now = b.now.Add(10 * time.Second)
	b.wantBrief(b.reconcile(set.Name), "api Healthy", "httpbin Unhealthy look up httpbin.example.com: there is no such name")
	b.now = b.now.Add(20 * time.Second)
	o = b.reconcile(set.Name)
	b.wantBrief(o, "api Healthy", "httpbin Disabled")
	b.want(o, v1alpha1.ConditionReady, metav1.ConditionTrue, v1alpha1.ReasonReady, "")
	if o.Status.TotalEndpoints != 2 || o.Status.HealthyEndpoints != 1 {
		t.Errorf("%d of %d endpoints are healthy, want 1 of 2", o.Status.HealthyEndpoints, o.Status.TotalEndpoints)
	}

	b.writes = 0
	for range 3 {
		b.now = b.now.Add(30 * time.Second)
		b.reconcile(set.Name)
	}
	if b.writes != 0 {
		t.Errorf("%d writes although nothing changed", b.writes)
	}
	delete(b.names, "httpbin.example.com")
	b.now = b.now.Add(30 * time.Second)
	b.checked(false, 1)
	o = b.reconcile(set.Name)
	b.wantBrief(o, "api Unhealthy status-503", "httpbin Disabled the addresses of httpbin.example.com are those found last: there is no such name")
	b.want(o, v1alpha1.ConditionReady, metav1.ConditionTrue, v1alpha1.ReasonReady, "")

	b.must(b.Delete(ctx, o))
	b.reconcile(set.Name)
	if all, err := b.Backends(ctx); err != nil || len(all) != 0 {
		t.Errorf("backends %v, %v; want none when the object is gone", all, err)
	}
}

// checked has an egress proxy report on the endpoint api.
func (b *bed) checked(ok bool, times int) {
	b.Helper()
	for i := range times {
		r := spoke.ProbeResult{ID: "endpoint/default/production-endpoints/api", Reachable: ok, At: time.Now().Add(time.Duration(i) * time.Millisecond)}
		if !ok {
			r.Error = "status-503"
		}
		b.must(b.ProxyReported(b.Context(), spoke.ProxyStatus{Role: spoke.Egress, NodeID: "e", Applied: 1, Results: []spoke.ProbeResult{r}}))
	}
}

func (b *bed) wantBrief(o *v1alpha1.TailscaleEndpoints, want ...string) {
	b.Helper()
	if d := cmp.Diff(want, brief(o)); d != "" {
		b.Errorf("endpoints (-want +got)\n%s", d)
	}
}

// TestWhatCannotBeDoneIsSaid has objects that are taken in part.
func TestWhatCannotBeDoneIsSaid(t *testing.T) {
	b := start(t)
	ctx := t.Context()
	b.must(b.Create(ctx, &v1alpha1.TailscaleGateway{ObjectMeta: named("ts"), Spec: v1alpha1.TailscaleGatewaySpec{
		GatewayRef: v1alpha1.GatewayReference{Name: "main"},
		Tailnets:   []v1alpha1.TailnetConfig{{Name: "production", TailscaleTailnetRef: v1alpha1.TailnetReference{Name: "production-tailnet"}}},
	}}))
	b.must(b.Create(ctx, &corev1.Service{ObjectMeta: named("taken"), Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80}}}}))
	outside := func(name, endpoint string) *v1alpha1.TailscaleEndpoints {
		return &v1alpha1.TailscaleEndpoints{ObjectMeta: named(name), Spec: v1alpha1.TailscaleEndpointsSpec{
			Tailnet: "production-tailnet", Endpoints: []v1alpha1.TailscaleEndpoint{{Name: endpoint, ExternalTarget: "192.0.2.1:80", Port: 80}},
		}}
	}
	discovering := outside("discovering", "fine")
	discovering.Spec.AutoDiscovery = &v1alpha1.EndpointAutoDiscovery{}
	discovering.Spec.Proxy = &v1alpha1.ProxyConfig{}
	b.must(b.Create(ctx, outside("a-first", "twice")))
	for name, tc := range map[string]struct {
		o    *v1alpha1.TailscaleEndpoints
		says string
	}{
		"the-name-of-a-service": {outside("service", "taken"), "endpoint taken: there is a Service of this name"},
		"the-name-of-another":   {outside("b-second", "twice"), `endpoint twice: the older TailscaleEndpoints "a-first" exports an endpoint of this name`},
		"not-built":             {discovering, "this version gives no set proxies of its own"},
		"port-out-of-range": {func() *v1alpha1.TailscaleEndpoints {
			o := outside("port", "far")
			o.Spec.Endpoints[0].ExternalTarget = "192.0.2.1:99999"
			return o
		}(), "endpoint far: externalTarget"},
	} {
		t.Run(name, func(t *testing.T) {
			b := *b
			b.T = t
			b.must(b.Create(t.Context(), tc.o))
			b.want(b.reconcile(tc.o.Name), v1alpha1.ConditionAccepted, metav1.ConditionFalse, v1alpha1.ReasonPartiallyInvalid, tc.says)
		})
	}
	b.want(b.reconcile("a-first"), v1alpha1.ConditionAccepted, metav1.ConditionTrue, v1alpha1.ReasonAccepted, "")
}
