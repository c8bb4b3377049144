package service_test

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tailgate-project/tailgate/api/v1alpha1"
	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/spoke"
	"github.com/tailgate-project/tailgate/spoke/controllers/service"
)

// own is the spoke's namespace.
const own = "tailgate-system"

func object(namespace string, ports ...corev1.ServicePort) corev1.Service {
	return corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "web"}, Spec: corev1.ServiceSpec{Ports: ports}}
}

func slice(port discoveryv1.EndpointPort, endpoints ...discoveryv1.Endpoint) discoveryv1.EndpointSlice {
	return discoveryv1.EndpointSlice{Ports: []discoveryv1.EndpointPort{port}, Endpoints: endpoints}
}

func endpoint(ready *bool, addrs ...string) discoveryv1.Endpoint {
	return discoveryv1.Endpoint{Addresses: addrs, Conditions: discoveryv1.EndpointConditions{Ready: ready}}
}

func number(name string, port int32, protocol *corev1.Protocol) discoveryv1.EndpointPort {
	return discoveryv1.EndpointPort{Name: &name, Port: &port, Protocol: protocol}
}

func TestReadyEndpoints(t *testing.T) {
	udp := corev1.ProtocolUDP
	http := corev1.ServicePort{Name: "http", Port: 80}
	for name, tc := range map[string]struct {
		port   corev1.ServicePort
		slices []discoveryv1.EndpointSlice
		want   []string
	}{
		"none": {port: http},
		"sorted-and-once": {port: http, want: []string{"10.0.0.1:8080", "10.0.0.2:8080"}, slices: []discoveryv1.EndpointSlice{
			slice(number("http", 8080, nil), endpoint(nil, "10.0.0.2")), slice(number("http", 8080, nil), endpoint(new(true), "10.0.0.1"), endpoint(nil, "10.0.0.2")),
		}},
		"ports-of-their-own": {port: http, want: []string{"10.0.0.1:8080", "10.0.0.2:9090"}, slices: []discoveryv1.EndpointSlice{
			slice(number("http", 8080, nil), endpoint(nil, "10.0.0.1")), slice(number("http", 9090, nil), endpoint(nil, "10.0.0.2")),
		}},
		"not-ready":        {port: http, slices: []discoveryv1.EndpointSlice{slice(number("http", 8080, nil), endpoint(new(false), "10.0.0.1"))}},
		"another-port":     {port: http, slices: []discoveryv1.EndpointSlice{slice(number("https", 8443, nil), endpoint(nil, "10.0.0.1"))}},
		"another-protocol": {port: http, slices: []discoveryv1.EndpointSlice{slice(number("http", 8080, &udp), endpoint(nil, "10.0.0.1"))}},
		"name-for-address": {port: http, slices: []discoveryv1.EndpointSlice{slice(number("http", 8080, nil), endpoint(nil, "web.example"))}},
		"ipv6":             {port: http, want: []string{"[fd00::1]:8080"}, slices: []discoveryv1.EndpointSlice{slice(number("http", 8080, nil), endpoint(nil, "fd00::1"))}},
	} {
		t.Run(name, func(t *testing.T) {
			svc := service.Convert(object("shop", tc.port), tc.slices, own)
			var got []string
			for _, p := range svc.Ports {
				for _, a := range p.Ready {
					got = append(got, a.String())
				}
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestPorts(t *testing.T) {
	got := service.Convert(object("shop",
		corev1.ServicePort{Name: "dns", Port: 53, Protocol: corev1.ProtocolUDP}, corev1.ServicePort{Name: "sctp", Port: 1, Protocol: corev1.ProtocolSCTP},
		corev1.ServicePort{Name: "http", Port: 80},
	), nil, own)
	want := spoke.Service{Name: spoke.Name{Namespace: "shop", Name: "web"}, Ports: []spoke.ServicePort{
		{Port: federation.Port{Name: "dns", Port: 53, Protocol: federation.UDP}}, {Port: federation.Port{Name: "http", Port: 80, Protocol: federation.TCP}},
	}}
	if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); diff != "" {
		t.Error(diff)
	}
}

func TestWhoseServiceItIs(t *testing.T) {
	envoy := map[string]string{"gateway.envoyproxy.io/owning-gateway-name": "main", "gateway.envoyproxy.io/owning-gateway-namespace": "shop"}
	proxies := map[string]string{v1alpha1.LabelProxyRole: "egress"}
	for name, tc := range map[string]struct {
		namespace string
		labels    map[string]string
		gateway   spoke.Name
		proxies   spoke.ProxySet
	}{
		"anybodys":                   {namespace: own},
		"an-envoys":                  {namespace: "envoy-gateway-system", labels: envoy, gateway: spoke.Name{Namespace: "shop", Name: "main"}},
		"the-proxies":                {namespace: own, labels: proxies, proxies: spoke.ProxySet{Role: spoke.Egress, Tailnet: "acme"}},
		"somebody-who-pretends-that": {namespace: "shop", labels: proxies},
	} {
		t.Run(name, func(t *testing.T) {
			svc := object(tc.namespace)
			svc.Labels, svc.Annotations = tc.labels, map[string]string{v1alpha1.AnnotationTailnet: "acme"}
			if got := service.Convert(svc, nil, own); got.Gateway != tc.gateway || got.Proxies != tc.proxies {
				t.Errorf("got %+v", got)
			}
		})
	}
}
