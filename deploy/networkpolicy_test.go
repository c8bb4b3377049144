package deploy_test

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/tailgate-project/tailgate/deploy"
	"github.com/tailgate-project/tailgate/spoke"
)

// peer is a pod as a NetworkPolicy sees it.
type peer struct {
	namespace string
	labels    map[string]string
}

// envoy has the labels that Envoy Gateway v1.9 gives its Envoys.
var envoy = map[string]string{
	"app.kubernetes.io/name": "envoy", "app.kubernetes.io/managed-by": "envoy-gateway", "app.kubernetes.io/component": "proxy",
	"gateway.envoyproxy.io/owning-gateway-name": "main-gateway", "gateway.envoyproxy.io/owning-gateway-namespace": "default",
}

// allows reports whether the policies of the namespace tailgate-system let a packet from one pod in to another.
func allows(t *testing.T, policies []networkingv1.NetworkPolicy, from, to peer, protocol corev1.Protocol, port int32) bool {
	t.Helper()
	isolated := false
	for _, p := range policies {
		if p.Namespace != to.namespace || !matches(t, &p.Spec.PodSelector, to.labels) {
			continue
		}
		isolated = true
		for _, rule := range p.Spec.Ingress {
			if reaches(rule.Ports, protocol, port) && comesFrom(t, rule.From, p.Namespace, from) {
				return true
			}
		}
	}
	return !isolated
}

func reaches(ports []networkingv1.NetworkPolicyPort, protocol corev1.Protocol, port int32) bool {
	for _, p := range ports {
		first := p.Port.IntVal
		last := first
		if p.EndPort != nil {
			last = *p.EndPort
		}
		if *p.Protocol == protocol && first <= port && port <= last {
			return true
		}
	}
	return len(ports) == 0
}

func comesFrom(t *testing.T, peers []networkingv1.NetworkPolicyPeer, own string, from peer) bool {
	t.Helper()
	for _, p := range peers {
		namespace := from.namespace == own
		if p.NamespaceSelector != nil {
			namespace = matches(t, p.NamespaceSelector, map[string]string{corev1.LabelMetadataName: from.namespace})
		}
		if namespace && (p.PodSelector == nil || matches(t, p.PodSelector, from.labels)) {
			return true
		}
	}
	return len(peers) == 0
}

// TestWhoMayTalkToWhom asks the network policies for each pair that matters, with the labels that the pods really have.
func TestWhoMayTalkToWhom(t *testing.T) {
	objects := append(rendered(t, deploy.Hub, deploy.Options{}), rendered(t, deploy.Spoke, deploy.Options{})...)
	policies := all[networkingv1.NetworkPolicy](t, objects, "NetworkPolicy")
	objects = append(objects, append(proxies(t, spoke.Ingress), proxies(t, spoke.Egress)...)...)
	ours := func(name string) peer {
		for _, w := range workloads(t, objects) {
			if w.name == name {
				return peer{deploy.Namespace, w.template.Labels}
			}
		}
		t.Fatalf("no pods of %s", name)
		return peer{}
	}
	pods := map[string]peer{
		"hub": ours(deploy.Hub), "spoke": ours(deploy.Spoke),
		"ingress": ours("tailgate-ingress-production-tailnet"), "egress": ours("tailgate-egress-production-tailnet"),
		"envoy-gateway": {deploy.EnvoyGatewayNamespace, gatewayLabels(t)}, "envoy": {deploy.EnvoyGatewayNamespace, envoy}, "envoy-elsewhere": {"shop", envoy},
		"prometheus": {"monitoring", nil}, "neighbour": {deploy.Namespace, map[string]string{"app": "x"}}, "pod": {"shop", map[string]string{"app": "x"}},
		// Somebody who calls himself as they do, where he may.
		"false-gateway": {"shop", gatewayLabels(t)}, "false-proxy": {"shop", ours("tailgate-egress-production-tailnet").labels},
	}
	const tcp, udp = corev1.ProtocolTCP, corev1.ProtocolUDP
	for _, door := range []struct {
		to       string
		protocol corev1.Protocol
		port     int32
		from     []string
	}{
		{"spoke", tcp, 5005, []string{"envoy-gateway"}},
		{"spoke", tcp, 5006, []string{"envoy", "envoy-elsewhere"}},
		{"spoke", tcp, 5007, []string{"ingress", "egress"}},
		{"spoke", tcp, 9470, []string{"prometheus"}},
		{"spoke", tcp, 22, nil},
		{"hub", tcp, 9470, []string{"prometheus"}},
		{"hub", tcp, 9471, nil},
		{"hub", tcp, 7443, nil},
		{"ingress", tcp, 8086, []string{"prometheus"}},
		{"ingress", tcp, 20000, nil},
		{"egress", tcp, 8086, []string{"prometheus"}},
		{"egress", tcp, 20000, []string{"*"}},
		{"egress", udp, 29999, []string{"*"}},
		{"egress", tcp, 30000, nil},
		{"hub", udp, 41641, []string{"*"}},
		{"spoke", udp, 41641, []string{"*"}},
		{"ingress", udp, 41641, []string{"*"}},
	} {
		want := map[string]bool{}
		for _, from := range door.from {
			want[from] = true
		}
		for name, from := range pods {
			if got := allows(t, policies, from, pods[door.to], door.protocol, door.port); got != (want[name] || want["*"]) {
				t.Errorf("%s to %s at %s %d: %v", name, door.to, door.protocol, door.port, got)
			}
		}
	}
}

// TestEgressFollowsTheURLs wants the ports of servers elsewhere, and of none else.
func TestEgressFollowsTheURLs(t *testing.T) {
	for name, tc := range map[string]struct {
		chart, values string
		yes, no       []int32
	}{
		"hub":                 {deploy.Hub, "", []int32{53, 80, 443, 6443}, []int32{22, 2379, 8080}},
		"hub-with-headscale":  {deploy.Hub, "{controlURL: 'http://h:8080', apiURL: 'https://h:9443/x'}", []int32{443, 8080}, []int32{22, 2379}},
		"hub-with-etcd":       {deploy.Hub, "{store: {etcd: {endpoints: ['https://e:2379']}}}", []int32{443, 2379}, []int32{22}},
		"spoke":               {deploy.Spoke, "", []int32{53, 80, 443, 6443}, []int32{22, 8080}},
		"spoke-ports":         {deploy.Spoke, "networkPolicy: {apiServerPorts: [16443]}", []int32{16443}, []int32{6443}},
		"spoke-control":       {deploy.Spoke, "controlURL: https://h", []int32{443}, []int32{8080}},
		"spoke-control-port":  {deploy.Spoke, "controlURL: http://h:8080/path", []int32{8080}, []int32{22}},
		"spoke-control-plain": {deploy.Spoke, "controlURL: http://h", []int32{80}, []int32{22}},
	} {
		t.Run(name, func(t *testing.T) {
			var objects []*unstructured.Unstructured
			for _, o := range rendered(t, tc.chart, deploy.Options{Values: values(t, tc.values)}) {
				if o.GetName() == tc.chart {
					objects = append(objects, o)
				}
			}
			policy := all[networkingv1.NetworkPolicy](t, objects, "NetworkPolicy")[0]
			may := func(port int32) bool {
				for _, rule := range policy.Spec.Egress {
					if len(rule.To) == 0 && reaches(rule.Ports, corev1.ProtocolTCP, port) {
						return true
					}
				}
				return false
			}
			for _, port := range tc.yes {
				if !may(port) {
					t.Errorf("%d cannot be reached", port)
				}
			}
			for _, port := range tc.no {
				if may(port) {
					t.Errorf("%d can be reached", port)
				}
			}
		})
	}
}

// gatewayLabels are those of the pods of Envoy Gateway's own chart.
func gatewayLabels(t *testing.T) map[string]string {
	t.Helper()
	deployment := only(t, gatewayChart(t), "Deployment", "envoy-gateway")
	out, found, err := unstructured.NestedStringMap(deployment.Object, "spec", "template", "metadata", "labels")
	if err != nil || !found {
		t.Fatalf("labels of Envoy Gateway's pods: %v", err)
	}
	return out
}
