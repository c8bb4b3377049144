package vipservice

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tailgate-project/tailgate/api/v1alpha1"
	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/federation/vip"
	"github.com/tailgate-project/tailgate/spoke"
)

const (
	// manager says in labels whose the objects are.
	manager        = "tailgate-spoke"
	labelManagedBy = "app.kubernetes.io/managed-by"
	// maxEndpoints is how many endpoints an EndpointSlice may have.
	maxEndpoints = 1000
	// maxLabelValue is the length that Kubernetes allows.
	maxLabelValue = 63
)

// object is a Service that there should be, with its slices.
type object struct {
	owner   spoke.Name
	service *corev1.Service
	slices  []*discoveryv1.EndpointSlice
}

// plan returns the Services that there should be for the VIPs, sorted by namespace and name. A VIP that belongs to no joined
// Gateway has none.
func plan(v spoke.VIPs) []object {
	var out []object
	for _, s := range v.Services {
		for _, owner := range homes(s, v.Joined) {
			out = append(out, build(s, owner))
		}
	}
	slices.SortStableFunc(out, func(a, b object) int { return key(a.service).Compare(key(b.service)) })
	return slices.CompactFunc(out, func(a, b object) bool { return key(a.service) == key(b.service) })
}

func key(o metav1.Object) spoke.Name {
	return spoke.Name{Namespace: o.GetNamespace(), Name: o.GetName()}
}

// homes are the TailscaleGateways that the Services of a VIP belong to. An own VIP has one: that of its Gateway, or of its
// Service's namespace if there is one on the tailnet. A remote VIP has one in each namespace that has a TailscaleGateway.
func homes(s spoke.VIPService, joined []spoke.Joined) []spoke.Joined {
	if s.Name == "" {
		return slices.CompactFunc(slices.Clone(joined), func(a, b spoke.Joined) bool {
			return a.TailscaleGateway.Namespace == b.TailscaleGateway.Namespace
		})
	}
	var best []spoke.Joined
	for _, j := range joined {
		if !j.On(s.Tailnet) {
			continue
		}
		if s.Service.Kind == federation.KindListener {
			gateway, _ := s.Service.Gateway()
			if j.Gateway == (spoke.Name{Namespace: s.Service.Namespace, Name: gateway}) {
				return []spoke.Joined{j}
			}
			continue
		}
		if near := j.TailscaleGateway.Namespace == s.Service.Namespace; len(best) == 0 || near && best[0].TailscaleGateway.Namespace != s.Service.Namespace {
			best = []spoke.Joined{j}
		}
	}
	return best
}

// name is the registry's for an own VIP, and <service>-<cluster> for a remote one, as in /cross-cluster/. Where the service
// is of another namespace than the TailscaleGateway, that namespace stands between both.
func name(s spoke.VIPService, home spoke.Joined) string {
	return Name(s, home.TailscaleGateway.Namespace)
}

// Name is what the Service of a VIP is called in a namespace.
func Name(s spoke.VIPService, namespace string) string {
	if s.Name != "" {
		return s.Name
	}
	parts := []string{s.Service.Name}
	if s.Service.Kind == federation.KindListener {
		gateway, listener := s.Service.Gateway()
		parts = []string{"gateway", gateway, listener}
		if len(s.Ports) > 0 {
			parts = append(parts, strconv.Itoa(int(s.Ports[0].Port.Port)))
		}
	}
	if s.Service.Namespace != namespace {
		parts = append(parts, s.Service.Namespace)
	}
	return vip.Label(append(parts, string(s.Cluster))...)
}

func build(s spoke.VIPService, home spoke.Joined) object {
	meta := metav1.ObjectMeta{
		Namespace: home.TailscaleGateway.Namespace, Name: name(s, home),
		Labels: map[string]string{
			v1alpha1.LabelVIPService: "true", labelManagedBy: manager, v1alpha1.LabelTarget: labelValue(s.Target),
		},
		Annotations: map[string]string{v1alpha1.AnnotationTarget: target(s)},
	}
	if s.Cluster != "" {
		meta.Labels[v1alpha1.LabelCluster] = string(s.Cluster)
	}
	if s.TailscaleService != "" {
		meta.Annotations[v1alpha1.AnnotationTailscaleService] = "svc:" + s.TailscaleService
	}
	out := object{owner: home.TailscaleGateway, service: &corev1.Service{
		ObjectMeta: meta,
		Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeLoadBalancer, LoadBalancerClass: new(v1alpha1.LoadBalancerClassVIP), AllocateLoadBalancerNodePorts: new(false),
			IPFamilyPolicy: new(corev1.IPFamilyPolicyPreferDualStack), Ports: ports(s.Ports),
		},
	}}
	for _, a := range s.Addrs {
		out.service.Status.LoadBalancer.Ingress = append(out.service.Status.LoadBalancer.Ingress, corev1.LoadBalancerIngress{
			IP: a.String(), IPMode: new(corev1.LoadBalancerIPModeProxy),
		})
	}
	out.slices = endpointSlices(out.service, s.Ports)
	if text := unreachable(s); text != "" {
		meta.Annotations[v1alpha1.AnnotationUnreachable] = text
	}
	return out
}

// labelValue makes a text what a label may have. What all names of the cluster end in is left out.
func labelValue(text string) string {
	text = strings.TrimSuffix(text, ".svc.cluster.local")
	text = strings.Map(func(r rune) rune {
		if r == ' ' || r == '/' {
			return '-'
		}
		return r
	}, text)
	return strings.TrimRight(text[:min(len(text), maxLabelValue)], "-.")
}

// target is where the ports lead, such as webapp.default.svc.cluster.local:80.
func target(s spoke.VIPService) string {
	var out []string
	for _, p := range s.Ports {
		out = append(out, fmt.Sprintf("%s:%d", s.Target, p.Port.Port))
	}
	if s.Name == "" && len(s.Addrs) > 0 {
		return strings.Join(out, ", ") + ", by VIP " + s.Addrs[0].String()
	}
	return strings.Join(out, ", ")
}

// ports are those of the Service. Where there are several, each needs a name.
func ports(all []spoke.VIPPort) []corev1.ServicePort {
	out := make([]corev1.ServicePort, 0, len(all))
	for _, p := range all {
		out = append(out, corev1.ServicePort{
			Name: portName(p.Port, len(all)), Port: int32(p.Port.Port), Protocol: corev1.Protocol(p.Port.Protocol), AppProtocol: appProtocol(p.Port.App),
		})
	}
	return out
}

func portName(p federation.Port, of int) string {
	if of == 1 || p.Name != "" {
		return p.Name
	}
	return strings.ToLower(string(p.Protocol)) + "-" + strconv.Itoa(int(p.Port))
}

func appProtocol(a federation.AppProtocol) *string {
	switch a {
	case federation.AppUnknown:
		return nil
	case federation.AppH2C:
		return new("kubernetes.io/h2c")
	}
	return new(a.String())
}

// group is what the endpoints of one slice have in common: the port that they stand for, their own port, and the family.
type group struct {
	name     string
	protocol corev1.Protocol
	number   uint16
	is6      bool
}

func (g group) compare(o group) int {
	return cmp.Or(cmp.Compare(g.name, o.name), cmp.Compare(g.protocol, o.protocol), cmp.Compare(g.number, o.number), cmp.Compare(g.family(), o.family()))
}

func (g group) family() discoveryv1.AddressType {
	if g.is6 {
		return discoveryv1.AddressTypeIPv6
	}
	return discoveryv1.AddressTypeIPv4
}

// endpointSlices are those of the Service. Kubernetes fills in none, because the Service has no selector: where a VIP leads
// is not for labels to say.
func endpointSlices(svc *corev1.Service, all []spoke.VIPPort) []*discoveryv1.EndpointSlice {
	groups := map[group][]netip.Addr{}
	var order []group
	for _, p := range all {
		for _, b := range p.Backends {
			if !reachable(b.Addr()) {
				continue
			}
			g := group{name: portName(p.Port, len(all)), protocol: corev1.Protocol(p.Port.Protocol), number: b.Port(), is6: b.Addr().Is6()}
			if groups[g] == nil {
				order = append(order, g)
			}
			groups[g] = append(groups[g], b.Addr())
		}
	}
	slices.SortFunc(order, group.compare)
	var out []*discoveryv1.EndpointSlice
	for _, g := range order {
		for i, part := range slices.Collect(slices.Chunk(groups[g], maxEndpoints)) {
			out = append(out, slice(svc, g, i, part))
		}
	}
	return out
}

func slice(svc *corev1.Service, g group, part int, addrs []netip.Addr) *discoveryv1.EndpointSlice {
	name := fmt.Sprintf("%s-%s-%s-%d", svc.Name, strings.ToLower(string(g.family())), strings.ToLower(string(g.protocol)), g.number)
	if g.name != "" {
		name = fmt.Sprintf("%s-%s-%s-%d", svc.Name, strings.ToLower(string(g.family())), g.name, g.number)
	}
	if part > 0 {
		name += "-" + strconv.Itoa(part)
	}
	out := &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: svc.Namespace, Name: name,
			Labels: map[string]string{discoveryv1.LabelServiceName: svc.Name, discoveryv1.LabelManagedBy: manager},
		},
		AddressType: g.family(),
		Ports:       []discoveryv1.EndpointPort{{Name: new(g.name), Port: new(int32(g.number)), Protocol: new(g.protocol)}},
	}
	for _, a := range addrs {
		out.Endpoints = append(out.Endpoints, discoveryv1.Endpoint{
			Addresses: []string{a.String()}, Conditions: discoveryv1.EndpointConditions{Ready: new(true)},
		})
	}
	return out
}

// reachable reports whether an address can stand in an EndpointSlice: the API server refuses those that mean another
// host on each host.
func reachable(a netip.Addr) bool {
	return !a.IsLoopback() && !a.IsUnspecified() && !a.IsLinkLocalUnicast() && !a.IsMulticast()
}

// unreachable says why pods cannot use the Service, or nothing.
func unreachable(s spoke.VIPService) string {
	for _, p := range s.Ports {
		for _, b := range p.Backends {
			if !reachable(b.Addr()) {
				return fmt.Sprintf("the egress proxy listens at %s, where pods cannot reach it: run the proxies as StatefulSets, "+
					"or start the spoke with --egress-addr and an address of the node", b.Addr())
			}
		}
	}
	return ""
}
