package tailscaleendpoints_test

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tailgate-project/tailgate/api/v1alpha1"
	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/federation/discovery"
	"github.com/tailgate-project/tailgate/spoke"
	"github.com/tailgate-project/tailgate/spoke/controllers/tailscaleendpoints"
)

// endpoints says what a status tells of each endpoint.
func endpoints(o *v1alpha1.TailscaleEndpoints) string {
	var out []string
	for _, e := range o.Status.Endpoints {
		out = append(out, fmt.Sprintf("%s=%s:%d/%s(%s %s)", e.Name, e.Address, e.Port, e.Protocol, e.Source, e.Discovered))
	}
	return strings.Join(out, " ")
}

func device(name, addr string, tags ...string) discovery.Device {
	return discovery.Device{FQDN: name + ".example.ts.net", Addrs: []netip.Addr{netip.MustParseAddr(addr), netip.MustParseAddr("fd7a::1")}, Tags: tags}
}

func TestDiscovery(t *testing.T) {
	b := start(t)
	ctx := t.Context()
	b.must(b.Create(ctx, &v1alpha1.TailscaleGateway{ObjectMeta: named("ts"), Spec: v1alpha1.TailscaleGatewaySpec{
		GatewayRef: v1alpha1.GatewayReference{Name: "main"},
		Tailnets:   []v1alpha1.TailnetConfig{{Name: "production", TailscaleTailnetRef: v1alpha1.TailnetReference{Name: "production-tailnet"}}},
	}}))
	b.must(b.ProxyOpened(ctx, spoke.ProxyID{Role: spoke.Egress}))
	b.must(b.ProxyReported(ctx, spoke.ProxyStatus{Role: spoke.Egress, NodeID: "n", Applied: 1}))
	set := &v1alpha1.TailscaleEndpoints{ObjectMeta: named("found"), Spec: v1alpha1.TailscaleEndpointsSpec{
		Tailnet:   "production-tailnet",
		Endpoints: []v1alpha1.TailscaleEndpoint{{Name: "mine", TailscaleIP: "100.64.0.3", Port: 80}},
		AutoDiscovery: &v1alpha1.EndpointAutoDiscovery{
			TagSelectors:     []v1alpha1.TagSelector{{Tag: "tag:web", Operator: v1alpha1.TagExists}},
			ServiceDiscovery: &v1alpha1.VIPServiceDiscoveryConfig{Enabled: new(true), ServiceNames: []v1alpha1.VIPServiceName{"svc:stock"}},
		},
	}}
	b.must(b.Create(ctx, set))
	o := b.reconcile(set.Name)
	b.want(o, v1alpha1.ConditionDiscovered, metav1.ConditionFalse, v1alpha1.ReasonNoMatch, "no device and no service of the tailnet matches")
	b.want(o, v1alpha1.ConditionReady, metav1.ConditionTrue, v1alpha1.ReasonReady, "")

	b.tailnet = discovery.Inventory{
		Devices: []discovery.Device{device("web-2", "100.64.0.2", "tag:web"), device("web-1", "100.64.0.1", "tag:web"), device("web-3", "100.64.0.3", "tag:web"), device("db", "100.64.0.9", "tag:db")},
		Services: []discovery.Service{{Name: "stock", Addrs: []netip.Addr{netip.MustParseAddr("100.100.0.1")}, Ports: []federation.Port{
			{Port: 53, Protocol: federation.UDP}, {Port: 443, Protocol: federation.TCP},
		}}},
	}
	b.now = b.now.Add(time.Minute)
	o = b.reconcile(set.Name)
	b.want(o, v1alpha1.ConditionDiscovered, metav1.ConditionFalse, v1alpha1.ReasonInvalid, "3 devices match and nobody says which of their ports to use: add them to spec.ports")

	o.Spec.Ports = []v1alpha1.PortMapping{{Port: 80, TargetPort: new(int32(80))}}
	b.must(b.Update(ctx, o))
	o = b.reconcile(set.Name)
	b.want(o, v1alpha1.ConditionDiscovered, metav1.ConditionTrue, v1alpha1.ReasonDiscovered, "")
	const all = "mine=100.64.0.3:0/(Manual ) svc-stock-443=100.100.0.1:443/TCP(VIPService stock) svc-stock-53-udp=100.100.0.1:53/UDP(VIPService stock) " +
		"web-1=100.64.0.1:80/TCP(TagSelector web-1.example.ts.net) web-2=100.64.0.2:80/TCP(TagSelector web-2.example.ts.net)"
	if got := endpoints(o); got != all {
		t.Errorf("endpoints %s, want %s", got, all)
	}
	if o.Status.DiscoveredEndpoints != 4 || o.Status.TotalEndpoints != 5 || o.Status.LastSync.IsZero() {
		t.Errorf("status %+v", o.Status)
	}
	backends, err := b.Backends(ctx)
	b.must(err)
	if len(backends) != 1 || len(backends[0].Endpoints) != 5 {
		t.Errorf("the spoke knows %+v", backends)
	}

	asked, writes := b.asked, b.writes
	for range 3 {
		b.now = b.now.Add(10 * time.Second)
		b.reconcile(set.Name)
	}
	if b.asked != asked+1 || b.writes != writes {
		t.Errorf("in a time in which nothing changed the hub was asked %d times, and %d times written; want once for the interval of 30 s, and never", b.asked-asked, b.writes-writes)
	}

	// The hub is away: what was found stays, also for a spoke that starts meanwhile.
	b.problem = errors.New("no link to the hub")
	b.tailnet = discovery.Inventory{}
	b.now = b.now.Add(time.Minute)
	for range 2 {
		o = b.reconcile(set.Name)
		b.want(o, v1alpha1.ConditionDiscovered, metav1.ConditionFalse, v1alpha1.ReasonHubUnreachable, "no link to the hub")
		if got := endpoints(o); got != all {
			t.Errorf("while the hub is away: endpoints %s, want %s", got, all)
		}
		b.reconciler = &tailscaleendpoints.Reconciler{Client: b.reconciler.Client, Spoke: b.Spoke, Now: b.reconciler.Now, Lookup: b.reconciler.Lookup, Discover: b.reconciler.Discover}
	}
	b.problem, b.now = nil, b.now.Add(5*time.Second)
	b.found.Problem = "the Tailscale API limits the rate"
	b.tailnet = discovery.Inventory{Devices: []discovery.Device{device("web-2", "100.64.0.22", "tag:web")}}
	o = b.reconcile(set.Name)
	b.want(o, v1alpha1.ConditionDiscovered, metav1.ConditionFalse, v1alpha1.ReasonAPIError, "limits the rate")
	if got := endpoints(o); got != "mine=100.64.0.3:0/(Manual ) web-2=100.64.0.22:80/TCP(TagSelector web-2.example.ts.net)" {
		t.Errorf("a device moved and others went: endpoints %s", got)
	}
	b.found = tailscaleendpoints.Found{LeftOut: 7}
	b.now = b.now.Add(time.Minute)
	b.want(b.reconcile(set.Name), v1alpha1.ConditionDiscovered, metav1.ConditionFalse, v1alpha1.ReasonTooMany, "7 more match")

	b.must(b.Get(ctx, client.ObjectKeyFromObject(o), o))
	o.Spec.AutoDiscovery.Enabled = new(false)
	b.must(b.Update(ctx, o))
	o = b.reconcile(set.Name)
	if got := endpoints(o); got != "mine=100.64.0.3:0/(Manual )" || o.Status.DiscoveredEndpoints != 0 {
		t.Errorf("switched off: endpoints %s", got)
	}
	for _, c := range o.Status.Conditions {
		if c.Type == v1alpha1.ConditionDiscovered {
			t.Errorf("switched off: condition %+v", c)
		}
	}
}
