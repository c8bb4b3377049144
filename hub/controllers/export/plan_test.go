package export_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/tailgate-project/tailgate/api/v1alpha1"
	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/hub/controllers/export"
)

func TestPlanServiceSelects(t *testing.T) {
	own := tsgw("shop", "main")
	patterns := func(p ...v1alpha1.ServicePattern) v1alpha1.TailscaleGateway {
		return discovering(own, v1alpha1.ServiceDiscoveryConfig{Patterns: p})
	}
	deleted := metav1.NewTime(time.Unix(100, 0))
	tests := []struct {
		name     string
		gateways []v1alpha1.TailscaleGateway
		service  *corev1.Service
		want     string // tailnet, "" if it is not exported
	}{
		{"no-tailscale-gateway", nil, service("shop", "web"), ""},
		{"default-is-own-namespace", list(own), service("shop", "web"), "prod"},
		{"default-is-not-another-namespace", list(own), service("blog", "web"), ""},
		{"disabled", list(discovering(own, v1alpha1.ServiceDiscoveryConfig{Enabled: new(false)})), service("shop", "web"), ""},
		{"enabled-without-patterns", list(discovering(own, v1alpha1.ServiceDiscoveryConfig{Enabled: new(true)})), service("shop", "web"), "prod"},
		{"pattern-of-name", list(patterns("we*")), service("shop", "web"), "prod"},
		{"pattern-of-name-does-not-match", list(patterns("api-*")), service("shop", "web"), ""},
		{"pattern-of-name-stays-in-own-namespace", list(patterns("web")), service("blog", "web"), ""},
		{"pattern-of-other-namespace", list(patterns("blog/*")), service("blog", "web"), "prod"},
		{"pattern-of-all-namespaces", list(patterns("*/web")), service("blog", "web"), "prod"},
		{"one-of-several-patterns", list(patterns("x", "y", "w?b", "web")), service("shop", "web"), "prod"},
		{"other-wildcards-match-nothing", list(patterns("w?b", "[w]eb")), service("shop", "web"), ""},
		{"excluded-by-pattern", list(discovering(own, v1alpha1.ServiceDiscoveryConfig{ExcludePatterns: []v1alpha1.ServicePattern{"w*"}})), service("shop", "web"), ""},
		{"excluded-by-annotation", list(own), exposed(service("shop", "web"), "false"), ""},
		{"published-by-annotation", list(own), exposed(service("blog", "web"), "true"), "prod"},
		{"published-though-disabled", list(discovering(own, v1alpha1.ServiceDiscoveryConfig{Enabled: new(false)})), exposed(service("shop", "web"), "true"), "prod"},
		{"another-value-says-nothing", list(own), exposed(service("shop", "web"), "no"), "prod"},
		{"not-exposed-comes-before-its-full-name", list(patterns("web")), exposed(service("shop", "web"), "false"), ""},
		{"stands-for-a-vip-itself", list(own), labelled(exposed(service("shop", "web"), "true"), v1alpha1.LabelVIPService, "true"), ""},
		{"wildcard-leaves-out-kube-system", list(patterns("*/*")), service("kube-system", "kube-dns"), ""},
		{"wildcard-leaves-out-envoy-gateway-system", list(patterns("*/*")), service("envoy-gateway-system", "envoy-gateway"), ""},
		{"wildcard-leaves-out-the-api-server", list(discovering(tsgw("default", "main"), v1alpha1.ServiceDiscoveryConfig{})), service("default", "kubernetes"), ""},
		{"wildcard-leaves-out-envoys-services", list(own), labelled(service("shop", "envoy"), "gateway.envoyproxy.io/owning-gateway-name", "main"), ""},
		{"full-name-brings-in-kube-system", list(patterns("kube-system/kube-dns")), service("kube-system", "kube-dns"), "prod"},
		{"external-name", list(own), edited(service("shop", "web"), func(s *corev1.Service) { s.Spec.Type = corev1.ServiceTypeExternalName }), ""},
		{"headless", list(own), edited(service("shop", "web"), func(s *corev1.Service) { s.Spec.ClusterIP = corev1.ClusterIPNone }), ""},
		{"without-ports", list(own), edited(service("shop", "web"), func(s *corev1.Service) { s.Spec.Ports = nil }), ""},
		{"sctp-only", list(own), edited(service("shop", "web"), func(s *corev1.Service) { s.Spec.Ports[0].Protocol = corev1.ProtocolSCTP }), ""},
		{"being-deleted", list(own), edited(service("shop", "web"), func(s *corev1.Service) { s.DeletionTimestamp = &deleted }), ""},
		{"first-tailnet-that-selects", list(withTailnet(discovering(own, v1alpha1.ServiceDiscoveryConfig{Patterns: []v1alpha1.ServicePattern{"api"}}), "staging")), service("shop", "web"), "staging"},
		{"older-object-first", list(named(aged(tsgw("shop", "second"), 2), "young"), named(aged(tsgw("shop", "first"), 1), "old")), service("shop", "web"), "old"},
		{"conflicting-object-does-not-count", list(named(aged(discovering(own, v1alpha1.ServiceDiscoveryConfig{Enabled: new(false)}), 1), "old"), named(aged(own, 2), "young")), service("shop", "web"), ""},
		{"publication-prefers-own-namespace", list(named(aged(tsgw("ops", "a"), 1), "ops"), named(aged(discovering(tsgw("shop", "b"), v1alpha1.ServiceDiscoveryConfig{Enabled: new(false)}), 2), "shop")), exposed(service("shop", "web"), "true"), "shop"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, ok := export.PlanService("c1", tt.gateways, tt.service, nil)
			if ok != (tt.want != "") || got.Tailnet != tt.want {
				t.Errorf("exported = %v on %q, want on %q", ok, got.Tailnet, tt.want)
			}
		})
	}
}

func TestPlanServiceExport(t *testing.T) {
	svc := service("shop", "web")
	svc.Spec.Ports = []corev1.ServicePort{
		{Name: "https", Port: 443, Protocol: corev1.ProtocolTCP},
		{Name: "http", Port: 80},
		{Name: "dns", Port: 53, Protocol: corev1.ProtocolUDP},
		{Name: "sctp", Port: 99, Protocol: corev1.ProtocolSCTP},
	}
	svc.Labels = map[string]string{"tier": "web"}
	svc.Annotations = map[string]string{v1alpha1.AnnotationFederatedVIP: "true"}
	got, ok := export.PlanService("c1", list(tsgw("shop", "main")), svc, []discoveryv1.EndpointSlice{slice(discoveryv1.AddressTypeIPv4, endpoint("10.0.0.1", nil, nil))})
	if !ok {
		t.Fatal("not exported")
	}
	want := federation.Export{
		Key:     federation.ExportKey{Cluster: "c1", Service: federation.Service("shop", "web")},
		Tailnet: "prod", TailnetRef: "prod-tailnet",
		Ports: []federation.Port{{Name: "dns", Port: 53, Protocol: federation.UDP}, {Name: "http", Port: 80, App: federation.AppHTTP, Protocol: federation.TCP}, {Name: "https", Port: 443, App: federation.AppHTTPS, Protocol: federation.TCP}},
		Ready: 1, Desired: 1, Labels: map[string]string{"tier": "web"}, Federated: true,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("export (-want +got):\n%s", diff)
	}
}

func TestPlanGateway(t *testing.T) {
	gw := &gatewayv1.Gateway{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "main"}}
	gw.Spec.Listeners = []gatewayv1.Listener{{Name: "http", Port: 80, Protocol: gatewayv1.HTTPProtocolType}, {Name: "dns", Port: 53, Protocol: gatewayv1.UDPProtocolType}}
	envoy := []discoveryv1.EndpointSlice{slice(discoveryv1.AddressTypeIPv4, endpoint("10.0.0.1", nil, nil), endpoint("10.0.0.2", new(false), nil))}
	got := export.PlanGateway("c1", list(tsgw("shop", "main")), gw, envoy)
	want := []federation.Export{
		{Key: federation.ExportKey{Cluster: "c1", Service: federation.Listener("shop", "main", "http")}, Tailnet: "prod", TailnetRef: "prod-tailnet", Ports: []federation.Port{{Name: "http", Port: 80, Protocol: federation.TCP}}, Ready: 1, Desired: 2},
		{Key: federation.ExportKey{Cluster: "c1", Service: federation.Listener("shop", "main", "dns")}, Tailnet: "prod", TailnetRef: "prod-tailnet", Ports: []federation.Port{{Name: "dns", Port: 53, Protocol: federation.UDP}}, Ready: 1, Desired: 2},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("exports (-want +got):\n%s", diff)
	}
	disabled := discovering(tsgw("shop", "main"), v1alpha1.ServiceDiscoveryConfig{Enabled: new(false)})
	if got := export.PlanGateway("c1", list(disabled), gw, nil); len(got) != 2 || got[0].Ready != 0 {
		t.Errorf("without service discovery and without Envoy: %v, want both listeners without endpoints", got)
	}
	for name, g := range map[string]v1alpha1.TailscaleGateway{"other Gateway": tsgw("shop", "other"), "other namespace": tsgw("blog", "main")} {
		if got := export.PlanGateway("c1", list(g), gw, envoy); got != nil {
			t.Errorf("a TailscaleGateway of the %s exports %v", name, got)
		}
	}
}

func TestCount(t *testing.T) {
	yes, no := new(true), new(false)
	tests := []struct {
		name   string
		slices []discoveryv1.EndpointSlice
		want   [2]int // ready, all
	}{
		{"nothing", nil, [2]int{0, 0}},
		{"unsaid-is-ready", []discoveryv1.EndpointSlice{slice(discoveryv1.AddressTypeIPv4, endpoint("a", nil, nil))}, [2]int{1, 1}},
		{"not-ready", []discoveryv1.EndpointSlice{slice(discoveryv1.AddressTypeIPv4, endpoint("a", no, nil), endpoint("b", yes, nil))}, [2]int{1, 2}},
		{"terminating", []discoveryv1.EndpointSlice{slice(discoveryv1.AddressTypeIPv4, endpoint("a", yes, yes), endpoint("b", yes, no))}, [2]int{1, 1}},
		{"in-two-slices", []discoveryv1.EndpointSlice{slice(discoveryv1.AddressTypeIPv4, endpoint("a", yes, nil)), slice(discoveryv1.AddressTypeIPv4, endpoint("a", yes, nil), endpoint("b", yes, nil))}, [2]int{2, 2}},
		{"dual-stack", []discoveryv1.EndpointSlice{slice(discoveryv1.AddressTypeIPv4, endpoint("a", yes, nil), endpoint("b", yes, nil)), slice(discoveryv1.AddressTypeIPv6, endpoint("::a", yes, nil))}, [2]int{2, 2}},
		{"without-address", []discoveryv1.EndpointSlice{{Endpoints: []discoveryv1.Endpoint{{}}}}, [2]int{0, 0}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if ready, all := export.Count(tt.slices); [2]int{ready, all} != tt.want {
				t.Errorf("%d ready of %d, want %v", ready, all, tt.want)
			}
		})
	}
}

func list(g ...v1alpha1.TailscaleGateway) []v1alpha1.TailscaleGateway { return g }

// tsgw returns a TailscaleGateway for a Gateway in a namespace, with the tailnet prod.
func tsgw(namespace, gateway string) v1alpha1.TailscaleGateway {
	return v1alpha1.TailscaleGateway{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "tailscale-" + gateway},
		Spec: v1alpha1.TailscaleGatewaySpec{
			GatewayRef: v1alpha1.GatewayReference{Name: gateway},
			Tailnets:   []v1alpha1.TailnetConfig{{Name: "prod", TailscaleTailnetRef: v1alpha1.TailnetReference{Name: "prod-tailnet"}}},
		},
	}
}

func discovering(g v1alpha1.TailscaleGateway, d v1alpha1.ServiceDiscoveryConfig) v1alpha1.TailscaleGateway {
	c := g.DeepCopy()
	c.Spec.Tailnets[0].ServiceDiscovery = &d
	return *c
}

func withTailnet(g v1alpha1.TailscaleGateway, name string) v1alpha1.TailscaleGateway {
	c := g.DeepCopy()
	c.Spec.Tailnets = append(c.Spec.Tailnets, v1alpha1.TailnetConfig{Name: name})
	return *c
}

func named(g v1alpha1.TailscaleGateway, tailnet string) v1alpha1.TailscaleGateway {
	c := g.DeepCopy()
	c.Spec.Tailnets[0].Name = tailnet
	return *c
}

func aged(g v1alpha1.TailscaleGateway, created int64) v1alpha1.TailscaleGateway {
	c := g.DeepCopy()
	c.CreationTimestamp = metav1.NewTime(time.Unix(created, 0))
	return *c
}

func service(namespace, name string) *corev1.Service {
	return &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Spec:       corev1.ServiceSpec{Type: corev1.ServiceTypeClusterIP, Ports: []corev1.ServicePort{{Name: "http", Port: 80, Protocol: corev1.ProtocolTCP}}},
	}
}

func edited(s *corev1.Service, edit func(*corev1.Service)) *corev1.Service {
	edit(s)
	return s
}

func exposed(s *corev1.Service, value string) *corev1.Service {
	metav1.SetMetaDataAnnotation(&s.ObjectMeta, v1alpha1.AnnotationExpose, value)
	return s
}

func labelled(s *corev1.Service, label, value string) *corev1.Service {
	metav1.SetMetaDataLabel(&s.ObjectMeta, label, value)
	return s
}

func slice(family discoveryv1.AddressType, e ...discoveryv1.Endpoint) discoveryv1.EndpointSlice {
	return discoveryv1.EndpointSlice{AddressType: family, Endpoints: e}
}

func endpoint(addr string, ready, terminating *bool) discoveryv1.Endpoint {
	return discoveryv1.Endpoint{Addresses: []string{addr}, Conditions: discoveryv1.EndpointConditions{Ready: ready, Terminating: terminating}}
}
