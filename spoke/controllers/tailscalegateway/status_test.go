package tailscalegateway_test

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tailgate-project/tailgate/api/v1alpha1"
	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/spoke"
	"github.com/tailgate-project/tailgate/spoke/controllers/proxyset"
	"github.com/tailgate-project/tailgate/spoke/controllers/tailscalegateway"
)

func gateway(tailnets ...string) *v1alpha1.TailscaleGateway {
	t := &v1alpha1.TailscaleGateway{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "ts", Generation: 3}}
	for _, name := range tailnets {
		t.Spec.Tailnets = append(t.Spec.Tailnets, v1alpha1.TailnetConfig{Name: name, TailscaleTailnetRef: v1alpha1.TailnetReference{Name: name + "-ref"}})
	}
	return t
}

func vip(tailnet, name string, cluster federation.ClusterID) federation.VIP {
	return federation.VIP{
		Owner: federation.ExportKey{Cluster: cluster, Service: federation.Service("shop", name)}, Name: "local-" + name, ServiceName: "local-" + name + "-c1",
		Tailnet: tailnet, Addrs: []netip.Addr{netip.MustParseAddr("100.100.0.1"), netip.MustParseAddr("fd7a::1")},
	}
}

func remote(service string, refs ...string) spoke.SetInfo {
	out := spoke.SetInfo{Service: service}
	for i, ref := range refs {
		out.Endpoints = append(out.Endpoints, federation.Endpoint{
			Cluster: federation.ClusterID(fmt.Sprintf("c%d", i+2)), TailnetRef: ref, Addr: netip.AddrFrom4([4]byte{100, 100, 1, byte(i)}),
			Ports: []federation.Port{{Port: 443, Protocol: federation.TCP}},
		})
	}
	return out
}

func TestCountsOfEachTailnet(t *testing.T) {
	now := spoke.Status{
		Cluster: "c1", VIPs: []federation.VIP{vip("a", "web", "c1"), vip("a", "api", "c1"), vip("p", "stock", "c1")},
		Sets: []spoke.SetInfo{remote("Service/shop/web", "a-ref"), remote("Service/shop/both", "a-ref", "p-ref"), {Service: "Service/shop/own", Endpoints: []federation.Endpoint{{Cluster: "c1", TailnetRef: "p-ref"}}}},
	}
	var got []string
	for _, ts := range tailscalegateway.Judge(gateway("a", "p", "empty"), now, tailscalegateway.Facts{}).Tailnets {
		got = append(got, fmt.Sprint(ts.Name, " ", ts.DiscoveredServices, " ", ts.RemoteServices))
	}
	if diff := cmp.Diff([]string{"a 2 2", "p 1 1", "empty 0 0"}, got); diff != "" {
		t.Error(diff)
	}
}

func TestServices(t *testing.T) {
	many := make([]federation.ClusterID, 40)
	for i := range many {
		many[i] = federation.ClusterID(fmt.Sprintf("c%02d", i))
	}
	shared := vip("a", "web", "")
	shared.Name = "federated-web"
	now := spoke.Status{
		Cluster: "c1", Consumers: many, VIPs: []federation.VIP{vip("a", "web", "c1")}, FederatedVIPs: []federation.VIP{shared},
		Sets: []spoke.SetInfo{remote("Service/shop/web", "a-ref", "a-ref"), remote("Service/other/web", "a-ref"), remote("Listener/shop/main/https", "a-ref")},
	}
	st := tailscalegateway.Judge(gateway("a"), now, tailscalegateway.Facts{})
	var got []string
	for _, s := range st.Services {
		got = append(got, fmt.Sprintf("%s %s %v %s", s.Name, s.OwnerCluster, s.VIPAddresses, s.TailscaleService))
		if len(s.ConsumerClusters) != 32 || s.ConsumerClusters[0] != "c00" {
			t.Errorf("consumers %v", s.ConsumerClusters)
		}
	}
	want := []string{
		"federated-web  [100.100.0.1 fd7a::1] svc:local-web-c1", "local-web c1 [100.100.0.1 fd7a::1] svc:local-web-c1",
		"gateway-main-https-443-c2 c2 [100.100.1.0] ", "web-c2 c2 [100.100.1.0] ", "web-c3 c3 [100.100.1.1] ", "web-other-c2 c2 [100.100.1.0] ",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if st.ServiceCount != 3 {
		t.Errorf("%d services", st.ServiceCount)
	}
	for i := range 300 {
		now.Sets = append(now.Sets, remote(fmt.Sprintf("Service/shop/s%d", i), "a-ref"))
	}
	st = tailscalegateway.Judge(gateway("a"), now, tailscalegateway.Facts{})
	if len(st.Services) != 256 || st.ServiceCount != 303 || st.Services[0].Name != "federated-web" {
		t.Errorf("%d of %d services, the first is %s", len(st.Services), st.ServiceCount, st.Services[0].Name)
	}
}

func TestGeneratedRoutes(t *testing.T) {
	at := time.Date(2030, 1, 2, 3, 4, 5, 6, time.UTC)
	mine := spoke.Policy{TailscaleGateway: spoke.Name{Namespace: "shop", Name: "ts"}, Revision: 5, Seen: 4, SeenAt: at, Routes: spoke.RouteCount{Ingress: 1, Egress: 2, CrossCluster: 3}}
	other := mine
	other.TailscaleGateway.Name, other.Seen = "other", 9
	unseen := mine
	unseen.Seen = 0
	for name, tc := range map[string]struct {
		policies []spoke.Policy
		want     *v1alpha1.GeneratedRoutesStatus
	}{
		"asked":       {[]spoke.Policy{other, mine}, &v1alpha1.GeneratedRoutesStatus{Ingress: 1, Egress: 2, CrossCluster: 3, Revision: 4, LastHookCall: new(metav1.NewTime(at.Truncate(time.Second)))}},
		"never-asked": {[]spoke.Policy{other, unseen}, nil},
		"no-policy":   {[]spoke.Policy{other}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			st := tailscalegateway.Judge(gateway("a"), spoke.Status{Policies: tc.policies}, tailscalegateway.Facts{})
			if diff := cmp.Diff(tc.want, st.GeneratedRoutes); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestSettingsThatDoNotCountAreTold(t *testing.T) {
	for name, tc := range map[string]struct {
		config *v1alpha1.ExtensionServerConfig
		reason string
		says   []string
	}{
		"nothing-said":    {nil, v1alpha1.ReasonAccepted, nil},
		"the-same-port":   {&v1alpha1.ExtensionServerConfig{Port: 5005}, v1alpha1.ReasonAccepted, nil},
		"another-port":    {&v1alpha1.ExtensionServerConfig{Port: 5006}, v1alpha1.ReasonPartiallyInvalid, []string{"port 5006 does not count", "listens on 5005", "--extension-addr"}},
		"own-certificate": {&v1alpha1.ExtensionServerConfig{TLS: &v1alpha1.ExtensionServerTLS{}}, v1alpha1.ReasonPartiallyInvalid, []string{"tls does not count"}},
	} {
		t.Run(name, func(t *testing.T) {
			g := gateway("a")
			g.Spec.ExtensionServer = tc.config
			st := tailscalegateway.Judge(g, spoke.Status{}, tailscalegateway.Facts{ExtensionPort: 5005})
			c := meta.FindStatusCondition(st.Conditions, v1alpha1.ConditionAccepted)
			if c == nil || c.Status != metav1.ConditionTrue || c.Reason != tc.reason {
				t.Fatalf("condition %+v", c)
			}
			for _, want := range tc.says {
				if !strings.Contains(c.Message, want) {
					t.Errorf("message %q does not say %q", c.Message, want)
				}
			}
		})
	}
}

func TestProxiesReady(t *testing.T) {
	heard := spoke.Status{IngressReady: true, EgressReady: true}
	refused := heard
	refused.EgressProblem = "127.0.0.1:20000: address already in use"
	in, out := proxyset.Key{Tailnet: "a-ref", Role: spoke.Ingress}, proxyset.Key{Tailnet: "a-ref", Role: spoke.Egress}
	up := proxyset.Status{Wanted: 2, Ready: 2}
	for name, tc := range map[string]struct {
		now    spoke.Status
		sets   proxyset.Statuses
		status metav1.ConditionStatus
		reason string
		says   string
	}{
		"children":            {heard, nil, metav1.ConditionTrue, v1alpha1.ReasonProxiesReady, ""},
		"no-children":         {spoke.Status{IngressReady: true}, nil, metav1.ConditionFalse, v1alpha1.ReasonProxiesNotReady, "no egress proxy"},
		"pods":                {heard, proxyset.Statuses{in: up, out: up}, metav1.ConditionTrue, v1alpha1.ReasonProxiesReady, ""},
		"pods-not-made-yet":   {heard, proxyset.Statuses{}, metav1.ConditionFalse, v1alpha1.ReasonPending, "are not made yet"},
		"pods-that-fail":      {heard, proxyset.Statuses{in: up, out: {Wanted: 2, Reason: v1alpha1.ReasonProxiesNotReady, Message: "ImagePullBackOff"}}, metav1.ConditionFalse, v1alpha1.ReasonProxiesNotReady, "ImagePullBackOff"},
		"pods-with-a-problem": {refused, proxyset.Statuses{in: up, out: up}, metav1.ConditionFalse, v1alpha1.ReasonProxyRefusedConfig, "already in use"},
	} {
		t.Run(name, func(t *testing.T) {
			st := tailscalegateway.Judge(gateway("a"), tc.now, tailscalegateway.Facts{Sets: tc.sets})
			i := slices.IndexFunc(st.Conditions, func(c metav1.Condition) bool { return c.Type == v1alpha1.ConditionProxiesReady })
			if c := st.Conditions[i]; c.Status != tc.status || c.Reason != tc.reason || !strings.Contains(c.Message, tc.says) {
				t.Errorf("condition %+v", c)
			}
		})
	}
}
