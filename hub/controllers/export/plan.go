package export

import (
	"cmp"
	"path"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/tailgate-project/tailgate/api/v1alpha1"
	"github.com/tailgate-project/tailgate/federation"
)

// Labels that Envoy Gateway puts on the Services that it makes for its proxies.
const (
	labelGatewayName      = "gateway.envoyproxy.io/owning-gateway-name"
	labelGatewayNamespace = "gateway.envoyproxy.io/owning-gateway-namespace"
	labelGatewayClass     = "gateway.envoyproxy.io/owning-gatewayclass" // where the Gateways of a class are merged
)

// systemNamespaces hold what no wildcard should bring to a tailnet by accident.
var systemNamespaces = []string{"kube-system", "envoy-gateway-system", "tailgate-system"}

// offer is a Service with what counts for its export.
type offer struct {
	service *corev1.Service
	slices  []discoveryv1.EndpointSlice
	// exported is set where there is a ServiceExport of its name.
	exported bool
	says     v1alpha1.ServiceAnnotations
}

// explicit reports whether somebody asks for the export of this one Service, and not by a pattern for many.
func (o offer) explicit() bool {
	return o.exported || o.says.Expose != nil && *o.says.Expose
}

// refused reports whether its owner does not want it exported. A ServiceExport says more than the annotation.
func (o offer) refused() bool {
	return !o.exported && o.says.Expose != nil && !*o.says.Expose
}

// planService returns what a Service is exported as, if it is. A cluster exports a Service once: on the first tailnet,
// by age of the TailscaleGateways and then by their order, that selects it.
func planService(cluster federation.ClusterID, gateways []v1alpha1.TailscaleGateway, o offer) (federation.Export, bool) {
	svc := o.service
	o.says, _ = v1alpha1.ReadServiceAnnotations(svc.Annotations) // what makes no sense, the spoke tells
	ports := servicePorts(svc)
	if len(ports) == 0 || !exportable(o) {
		return federation.Export{}, false
	}
	tailnet, ok := selectTailnet(gateways, o)
	if !ok {
		return federation.Export{}, false
	}
	ready, all := count(o.slices)
	return federation.Export{
		Key:     federation.ExportKey{Cluster: cluster, Service: federation.Service(svc.Namespace, svc.Name)},
		Tailnet: tailnet.Name, TailnetRef: tailnet.TailscaleTailnetRef.Name, Ports: ports, Ready: ready, Desired: all,
		Labels: svc.Labels, Federated: o.says.FederatedVIP, Weight: o.says.Weight, ClusterPinned: o.says.ClusterPinned,
	}, true
}

// planGateway returns an export for each listener of a Gateway that a TailscaleGateway names, on the first of its
// tailnets. The endpoints that count are those of the Services by which Envoy's proxies are reached.
func planGateway(cluster federation.ClusterID, gateways []v1alpha1.TailscaleGateway, gw *gatewayv1.Gateway, envoy []discoveryv1.EndpointSlice) []federation.Export {
	if !gw.DeletionTimestamp.IsZero() {
		return nil
	}
	for _, g := range effective(gateways) {
		if g.Namespace != gw.Namespace || g.Spec.GatewayRef.Name != gw.Name || len(g.Spec.Tailnets) == 0 {
			continue
		}
		ready, all := count(envoy)
		var exports []federation.Export
		for _, l := range gw.Spec.Listeners {
			exports = append(exports, federation.Export{
				Key:     federation.ExportKey{Cluster: cluster, Service: federation.Listener(gw.Namespace, gw.Name, string(l.Name))},
				Tailnet: g.Spec.Tailnets[0].Name, TailnetRef: g.Spec.Tailnets[0].TailscaleTailnetRef.Name,
				Ports: []federation.Port{{Name: string(l.Name), Port: uint16(l.Port), Protocol: listenerProtocol(l.Protocol)}},
				Ready: ready, Desired: all, Labels: gw.Labels, Federated: gw.Annotations[v1alpha1.AnnotationFederatedVIP] == "true",
			})
		}
		return exports
	}
	return nil
}

// effective returns the TailscaleGateways that count, oldest first: of several that name the same Gateway, the oldest.
func effective(gateways []v1alpha1.TailscaleGateway) []v1alpha1.TailscaleGateway {
	sorted := slices.SortedFunc(slices.Values(gateways), func(a, b v1alpha1.TailscaleGateway) int {
		return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	taken := map[[2]string]bool{}
	return slices.DeleteFunc(sorted, func(g v1alpha1.TailscaleGateway) bool {
		ref := [2]string{g.Namespace, g.Spec.GatewayRef.Name}
		if taken[ref] || !g.DeletionTimestamp.IsZero() {
			return true
		}
		taken[ref] = true
		return false
	})
}

// exportable reports whether a Service can have a VIP at all and does not refuse it. A headless one must ask for it: a
// pattern that selects a workload's Service mostly selects the headless one beside it as well, which says the same twice.
func exportable(o offer) bool {
	svc := o.service
	return svc.DeletionTimestamp.IsZero() &&
		svc.Spec.Type != corev1.ServiceTypeExternalName &&
		(svc.Spec.ClusterIP != corev1.ClusterIPNone || o.explicit()) &&
		svc.Labels[v1alpha1.LabelVIPService] != "true" &&
		!o.refused()
}

// selectTailnet returns the tailnet that a Service is exported on: the first that selects it, so that a VIP stays where it
// is when somebody asks for it by name as well. One that asks for a VIP by its annotation gets it on the first tailnet
// of its own namespace or, where there is none, of the cluster; one with a ServiceExport on the first of the cluster:
// who may create those need not know who joins the cluster to what.
func selectTailnet(gateways []v1alpha1.TailscaleGateway, o offer) (v1alpha1.TailnetConfig, bool) {
	svc := o.service
	all := effective(gateways)
	for _, g := range all {
		for _, t := range g.Spec.Tailnets {
			if selects(g.Namespace, t.ServiceDiscovery, svc) {
				return t, true
			}
		}
	}
	if !o.explicit() {
		return v1alpha1.TailnetConfig{}, false
	}
	if o.says.Expose != nil && *o.says.Expose {
		slices.SortStableFunc(all, func(a, b v1alpha1.TailscaleGateway) int {
			return distance(a, svc) - distance(b, svc)
		})
	}
	for _, g := range all {
		if len(g.Spec.Tailnets) > 0 {
			return g.Spec.Tailnets[0], true
		}
	}
	return v1alpha1.TailnetConfig{}, false
}

func distance(g v1alpha1.TailscaleGateway, svc *corev1.Service) int {
	if g.Namespace == svc.Namespace {
		return 0
	}
	return 1
}

// selects reports whether the service discovery of a TailscaleGateway in a namespace selects a Service.
func selects(namespace string, d *v1alpha1.ServiceDiscoveryConfig, svc *corev1.Service) bool {
	patterns := []v1alpha1.ServicePattern{"*"}
	if d != nil {
		if d.Enabled != nil && !*d.Enabled {
			return false
		}
		if slices.ContainsFunc(d.ExcludePatterns, func(p v1alpha1.ServicePattern) bool { return matches(namespace, p, svc) }) {
			return false
		}
		if len(d.Patterns) > 0 {
			patterns = d.Patterns
		}
	}
	return slices.ContainsFunc(patterns, func(p v1alpha1.ServicePattern) bool {
		return matches(namespace, p, svc) && (!strings.Contains(string(p), "*") || !system(svc))
	})
}

// system reports whether a Service is part of what runs the cluster, and is selected by its full name only: the
// API server, what is in the system namespaces, and Envoy's own, which the Gateway's listeners stand for.
func system(svc *corev1.Service) bool {
	return slices.Contains(systemNamespaces, svc.Namespace) ||
		svc.Namespace == corev1.NamespaceDefault && svc.Name == "kubernetes" ||
		svc.Labels[labelGatewayName] != "" || svc.Labels[labelGatewayClass] != ""
}

// matches reports whether a pattern, from an object in a namespace, matches a Service.
func matches(namespace string, p v1alpha1.ServicePattern, svc *corev1.Service) bool {
	name := string(p)
	if before, after, ok := strings.Cut(name, "/"); ok {
		namespace, name = before, after
	}
	return glob(namespace, svc.Namespace) && glob(name, svc.Name)
}

// glob reports whether s matches a pattern in which * stands for any characters. The schema admits no other special
// ones; a pattern with one matches nothing.
func glob(pattern, s string) bool {
	ok, err := path.Match(pattern, s)
	return ok && err == nil && !strings.ContainsAny(pattern, `[]?\`)
}

// servicePorts returns the ports that a VIP can carry, sorted.
func servicePorts(svc *corev1.Service) []federation.Port {
	var ports []federation.Port
	for _, p := range svc.Spec.Ports {
		switch p.Protocol {
		case corev1.ProtocolTCP, corev1.ProtocolUDP, "":
			ports = append(ports, federation.Port{
				Name: p.Name, Port: uint16(p.Port), Protocol: cmp.Or(federation.Protocol(p.Protocol), federation.TCP), App: appProtocol(p),
			})
		}
	}
	slices.SortFunc(ports, federation.Port.Compare)
	return ports
}

// appProtocol returns what a port says of itself: its appProtocol, else its name up to the first dash, by which most
// people say it.
func appProtocol(p corev1.ServicePort) federation.AppProtocol {
	if p.Protocol == corev1.ProtocolUDP {
		return federation.AppUnknown
	}
	if p.AppProtocol != nil {
		return federation.ParseAppProtocol(*p.AppProtocol)
	}
	word, _, _ := strings.Cut(p.Name, "-")
	return federation.ParseAppProtocol(word)
}

func listenerProtocol(p gatewayv1.ProtocolType) federation.Protocol {
	if p == gatewayv1.UDPProtocolType {
		return federation.UDP
	}
	return federation.TCP
}

// count counts the endpoints that are ready and stay so, and all that stay. Slices may name an endpoint twice while they are
// rearranged, and a dual-stack Service has it once in each family, so it is the family with the most that counts.
// An endpoint that does not say whether it is ready is.
func count(endpoints []discoveryv1.EndpointSlice) (ready, all int) {
	var isReady, is addresses
	for _, s := range endpoints {
		for _, e := range s.Endpoints {
			c := e.Conditions
			if len(e.Addresses) == 0 || c.Terminating != nil && *c.Terminating {
				continue
			}
			a := e.Addresses[0] // the API says that all addresses of an endpoint are interchangeable
			is.add(s.AddressType, a)
			if c.Ready == nil || *c.Ready {
				isReady.add(s.AddressType, a)
			}
		}
	}
	return isReady.most(), is.most()
}

// addresses are those of endpoints, each once, by family.
type addresses map[discoveryv1.AddressType]map[string]struct{}

func (a *addresses) add(family discoveryv1.AddressType, address string) {
	if *a == nil {
		*a = addresses{}
	}
	if (*a)[family] == nil {
		(*a)[family] = map[string]struct{}{}
	}
	(*a)[family][address] = struct{}{}
}

// most returns how many there are of the family that has most: an endpoint of two families is one.
func (a addresses) most() int {
	n := 0
	for _, family := range a {
		n = max(n, len(family))
	}
	return n
}
