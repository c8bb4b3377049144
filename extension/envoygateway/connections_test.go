package envoygateway_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	tcpproxyv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	udpproxyv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/udp/udp_proxy/v3"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/types/known/anypb"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/tailgate-project/tailgate/extension"
	"github.com/tailgate-project/tailgate/federation"
)

// l4 is a route of connections or datagrams under test, with a listener of its own: its rules' backends, and where the
// listener must lead. In that, $ stands for the cluster that Envoy Gateway has for the route.
type l4 struct {
	kind, name string
	rules      [][]ref
	want       string
}

var l4Routes = []l4{
	{"TCPRoute", "single", [][]ref{{{ours: true, name: "web", port: 80, weight: 1}}}, "tsgw/connections/default/web/80"},
	{"TCPRoute", "port-by-default", [][]ref{{{ours: true, name: "api", weight: 1}}}, "tsgw/connections/default/api/443"},
	{"TCPRoute", "weighted", [][]ref{{{ours: true, name: "web", port: 80, weight: 3}, {ours: true, name: "api", port: 443, weight: 1}}},
		"1 tsgw/connections/default/api/443, 3 tsgw/connections/default/web/80"},
	{"TCPRoute", "weight-zero", [][]ref{{{ours: true, name: "web", port: 80, weight: 1}, {ours: true, name: "api", port: 443}}}, "tsgw/connections/default/web/80"},
	{"TCPRoute", "mixed", [][]ref{{{name: "svc", port: 80, weight: 2}, {ours: true, name: "web", port: 80, weight: 3}, {name: "svc2", port: 80, weight: 5}}},
		"7 $, 3 tsgw/connections/default/web/80"},
	{"TCPRoute", "missing-object", [][]ref{{{ours: true, name: "gone", port: 80, weight: 1}}}, "$"},
	{"TCPRoute", "one-object-missing", [][]ref{{{ours: true, name: "gone", port: 80, weight: 1}, {ours: true, name: "web", port: 80, weight: 3}}},
		"1 invalid-backend-cluster, 3 tsgw/connections/default/web/80"},
	{"TCPRoute", "one-port-missing", [][]ref{{{name: "svc", port: 80, weight: 2}, {ours: true, name: "web", port: 81, weight: 1}}},
		"2 $, 1 invalid-backend-cluster"},
	{"TCPRoute", "granted", [][]ref{{{ours: true, namespace: "granted", name: "web", port: 80, weight: 1}}}, "tsgw/connections/granted/web/80"},
	{"TCPRoute", "not-granted", [][]ref{{{ours: true, namespace: "closed", name: "web", port: 80, weight: 1}, {ours: true, name: "web", port: 80, weight: 1}}},
		"1 invalid-backend-cluster, 1 tsgw/connections/default/web/80"},
	{"TCPRoute", "ordinary", [][]ref{{{name: "svc", port: 80, weight: 1}}}, "$"},
	{"TLSRoute", "tls-single", [][]ref{{{ours: true, name: "api", port: 443, weight: 1}}}, "[tls-single.example.com] tsgw/connections/default/api/443"},
	{"TLSRoute", "tls-mixed", [][]ref{{{name: "svc", port: 80, weight: 2}, {ours: true, name: "api", port: 443, weight: 1}}},
		"[tls-mixed.example.com] 2 $, 1 tsgw/connections/default/api/443"},
	{"UDPRoute", "udp-single", [][]ref{{{ours: true, name: "dns", port: 53, weight: 1}}}, "tsgw/datagrams/default/dns/53"},
	{"UDPRoute", "udp-weighted", [][]ref{{{ours: true, name: "dns", port: 53, weight: 1}, {ours: true, name: "dns", port: 5353, weight: 3}}},
		"[0-9]*(0[0-9]|1[0-9]|2[0-4]) tsgw/datagrams/default/dns/53, else tsgw/datagrams/default/dns/5353"},
	{"UDPRoute", "udp-mixed", [][]ref{{{name: "udpsvc", port: 53, weight: 1}, {ours: true, name: "dns", port: 53, weight: 1}}},
		"[0-9]*(0[0-9]|1[0-9]|2[0-9]|3[0-9]|4[0-9]) $, else tsgw/datagrams/default/dns/53"},
	{"UDPRoute", "udp-not-of-tcp", [][]ref{{{ours: true, name: "web", port: 80, weight: 1}}}, "$"},
}

const firstL4Port = 9000

// listener is the listener of a route, the i-th of all.
func (r l4) listener(i int) string {
	protocol := strings.TrimSuffix(r.kind, "Route")
	text := fmt.Sprintf("\n  - {name: %s, protocol: %s, port: %d", r.name, protocol, firstL4Port+i)
	if protocol == "TLS" {
		text += ", tls: {mode: Passthrough}"
	}
	return text + "}"
}

func (r l4) yaml() string {
	text := fmt.Sprintf("\n---\napiVersion: gateway.networking.k8s.io/v1\nkind: %s\nmetadata: {name: %s, namespace: default}\nspec:\n  parentRefs: [{name: eg, sectionName: %s}]", r.kind, r.name, r.name)
	if r.kind == "TLSRoute" {
		text += "\n  hostnames: [" + r.name + ".example.com]"
	}
	text += "\n  rules:"
	for _, refs := range r.rules {
		var list []string
		for _, x := range refs {
			list = append(list, x.yaml())
		}
		text += "\n  - backendRefs: [" + strings.Join(list, ", ") + "]"
	}
	return text
}

// known are the rules as the extension server knows them.
func (r l4) known() []extension.Rule {
	out := make([]extension.Rule, 0, len(r.rules))
	for i, refs := range r.rules {
		next := rule{name: r.name, refs: refs}.known(r.kind)
		next.Index = i
		for j, b := range next.Backends {
			next.Backends[j].Denied = b.Namespace == "closed"
		}
		out = append(out, next)
	}
	return out
}

func l4Snapshot() extension.Snapshot {
	s := extension.Snapshot{Cluster: "c1", Backends: []extension.Backend{
		{Namespace: "default", Name: "web", Ports: []extension.BackendPort{{Port: 80, App: federation.AppHTTP}}},
		{Namespace: "default", Name: "api", Ports: []extension.BackendPort{{Port: 443, App: federation.AppHTTPS}}},
		{Namespace: "default", Name: "dns", Datagrams: []uint16{53, 5353}},
		{Namespace: "granted", Name: "web", Ports: []extension.BackendPort{{Port: 80, App: federation.AppTCP}}},
		{Namespace: "closed", Name: "web", Ports: []extension.BackendPort{{Port: 80, App: federation.AppTCP}}},
	}}
	for _, r := range l4Routes {
		if slices.ContainsFunc(r.rules, func(refs []ref) bool { return slices.ContainsFunc(refs, func(x ref) bool { return x.ours }) }) {
			s.Rules = append(s.Rules, r.known()...)
		}
	}
	return s
}

// TestConnections gives Envoy Gateway routes of connections and datagrams with TailscaleEndpoints as backends, and looks at
// where the listeners of its Envoys lead.
func TestConnections(t *testing.T) {
	w := newWorld(t)
	w.startGateway(w.startHooks(l4Snapshot()))
	objects := gatewayObjects + service("svc", "10.0.0.1") + service("svc2", "10.0.0.2") + udpService("udpsvc", "10.0.0.3") +
		endpointsObject("default", "web") + endpointsObject("default", "api") + endpointsObject("default", "dns") +
		endpointsObject("granted", "web") + endpointsObject("closed", "web")
	listeners, want := "", map[string]string{}
	for i, r := range l4Routes {
		listeners += r.listener(i)
		objects += r.yaml()
		want[r.name] = strings.ReplaceAll(r.want, "$", strings.ToLower(r.kind)+"/default/"+r.name+"/rule/-1")
	}
	const http = "\n  - {name: http, protocol: HTTP, port: 80}"
	w.apply(strings.Replace(objects, http, http+listeners, 1))
	e := w.connect("default/eg", "default/eg/http")
	w.eventually("the listeners", func() string { return cmp.Diff(want, e.carries("default/eg/")) })

	t.Run("clusters", func(t *testing.T) { checkL4Clusters(t, e) })
	t.Run("conditions", func(t *testing.T) { w.checkL4Conditions(t) })
	t.Run("notes", func(t *testing.T) {
		var got []string
		for _, n := range w.hooks.Status().Notes {
			got = append(got, n.Item+": "+n.Text)
		}
		for _, want := range []string{
			"tcproute/default/missing-object: TailscaleEndpoints default/gone is not there",
			"tcproute/default/one-port-missing: TailscaleEndpoints default/web has no port 81, but 80",
			"tcproute/default/not-granted: TailscaleEndpoints closed/web is in another namespace, and no ReferenceGrant",
			"udproute/default/udp-not-of-tcp: TailscaleEndpoints default/web has no port that carries UDP",
		} {
			if !slices.ContainsFunc(got, func(n string) bool { return strings.HasPrefix(n, want) }) {
				t.Errorf("no note says %q, but %q", want, got)
			}
		}
	})
	t.Run("route-that-comes-later", func(t *testing.T) { w.checkLateL4(t, e) })
	t.Run("loaded-for-an-http-route", func(t *testing.T) { w.checkLoadedL4(t, e) })
}

// udpService is a Service of UDP with one endpoint.
func udpService(name, addr string) string {
	return strings.NewReplacer("port: 80}", "port: 53, protocol: UDP}", "protocol: TCP", "protocol: UDP").Replace(service(name, addr))
}

// checkL4Clusters looks at the clusters: none may speak TLS or HTTP of its own, and connections share the endpoints that
// requests to the same port have.
func checkL4Clusters(t *testing.T, e *envoy) {
	for name, endpoints := range map[string]string{
		"tsgw/connections/default/web/80":  "tsgw/endpoints/default/web/80",
		"tsgw/connections/default/api/443": "tsgw/endpoints/default/api/443",
		"tsgw/datagrams/default/dns/53":    "tsgw/datagrams/default/dns/53",
	} {
		c := e.cluster(name)
		if got := c.GetEdsClusterConfig().GetServiceName(); got != endpoints || c.GetEdsClusterConfig().GetEdsConfig().GetApiConfigSource() == nil {
			t.Errorf("%s: endpoints %q of %v", name, got, c.GetEdsClusterConfig().GetEdsConfig())
		}
		if c.GetTransportSocket() != nil || len(c.GetTypedExtensionProtocolOptions()) > 0 {
			t.Errorf("%s would change what goes through it: %v", name, c)
		}
	}
	if c := e.cluster("tsgw/connections/closed/web/80"); c != nil {
		t.Errorf("there is a cluster of what may not be referred to: %v", c)
	}
}

// checkL4Conditions reads what a user reads in the status of the routes. Envoy Gateway does not load TailscaleEndpoints for
// routes of these kinds, and so finds none, whatever is there: the package doc of translate says what that means.
func (w *world) checkL4Conditions(t *testing.T) {
	for name, want := range map[string]string{
		"ordinary": "True ResolvedRefs", "missing-object": "False BackendNotFound", "single": "False BackendNotFound", "not-granted": "False BackendNotFound,RefNotPermitted",
	} {
		w.tcpResolved(name, want)
	}
}

// tcpResolved waits until a TCPRoute is accepted and has the status and reason of ResolvedRefs.
func (w *world) tcpResolved(name, want string) {
	w.Helper()
	w.eventually("ResolvedRefs of "+name, func() string {
		var o gatewayv1.TCPRoute
		if err := w.kube.Get(w.Context(), client.ObjectKey{Namespace: "default", Name: name}, &o); err != nil {
			return err.Error()
		}
		if len(o.Status.Parents) != 1 {
			return "no status yet"
		}
		if c := meta.FindStatusCondition(o.Status.Parents[0].Conditions, string(gatewayv1.RouteConditionAccepted)); c == nil || c.Status != metav1.ConditionTrue {
			return "it is not accepted"
		}
		c := meta.FindStatusCondition(o.Status.Parents[0].Conditions, string(gatewayv1.RouteConditionResolvedRefs))
		if c == nil {
			return "no condition yet"
		}
		return cmp.Diff(want, fmt.Sprint(c.Status, " ", c.Reason))
	})
}

// checkLoadedL4 has an HTTPRoute refer to a TailscaleEndpoints that TCPRoutes have, too: Envoy Gateway finds it then, and the
// traffic of the TCPRoutes goes where it went.
func (w *world) checkLoadedL4(t *testing.T, e *envoy) {
	loads := rule{name: "loads", refs: []ref{{ours: true, name: "web", port: 80, weight: 1}}}
	w.apply(loads.route())
	w.tcpResolved("single", "True ResolvedRefs")
	w.eventually("the mixed route", func() string {
		got := e.carries("default/eg/")
		return cmp.Diff("7 tcproute/default/mixed/rule/-1, 3 tsgw/connections/default/web/80", got["mixed"]) +
			cmp.Diff("tsgw/connections/default/web/80", got["single"]) +
			// A locality without endpoints is never chosen.
			cmp.Diff("weight 2: [10.0.0.1]; weight 3: []; weight 5: [10.0.0.2]", e.endpoints("tcproute/default/mixed/rule/-1"))
	})
}

// checkLateL4 moves a route from a Service to a TailscaleEndpoints, and the extension server hears of it only later: until
// then connections are refused, and no other route is.
func (w *world) checkLateL4(t *testing.T, e *envoy) {
	const name = "ordinary"
	i := slices.IndexFunc(l4Routes, func(r l4) bool { return r.name == name })
	late := l4{l4Routes[i].kind, name, [][]ref{{{ours: true, name: "web", port: 80, weight: 1}}}, ""}
	w.apply(late.yaml())
	w.eventually("the route without us", func() string {
		return cmp.Diff("", e.endpoints("tcproute/default/ordinary/rule/-1"))
	})
	snap := l4Snapshot()
	snap.Rules = append(snap.Rules, late.known()...)
	w.hooks.SetSnapshot(snap)
	w.retranslate(2)
	w.eventually("the route with us", func() string {
		got := e.carries("default/eg/")
		return cmp.Diff("tsgw/connections/default/web/80", got[name]) + cmp.Diff("tsgw/connections/default/web/80", got["single"])
	})
}

// carries returns where each listener below a prefix leads that carries connections or datagrams, by the rest of its name.
func (e *envoy) carries(prefix string) map[string]string {
	e.mu.Lock()
	defer e.mu.Unlock()
	out := map[string]string{}
	for _, l := range e.listeners {
		name, ok := strings.CutPrefix(l.GetName(), prefix)
		if !ok {
			continue
		}
		for _, chain := range l.GetFilterChains() {
			for _, f := range chain.GetFilters() {
				p := new(tcpproxyv3.TcpProxy)
				if !f.GetTypedConfig().MessageIs(p) || f.GetTypedConfig().UnmarshalTo(p) != nil {
					continue
				}
				text := p.GetCluster()
				for i, c := range p.GetWeightedClusters().GetClusters() {
					text += fmt.Sprintf("%s%d %s", map[bool]string{true: ", "}[i > 0], c.GetWeight(), c.GetName())
				}
				if names := chain.GetFilterChainMatch().GetServerNames(); len(names) > 0 {
					text = fmt.Sprint(names, " ", text)
				}
				out[name] += text
			}
		}
		for _, f := range l.GetListenerFilters() {
			p := new(udpproxyv3.UdpProxyConfig)
			if !f.GetTypedConfig().MessageIs(p) || f.GetTypedConfig().UnmarshalTo(p) != nil {
				continue
			}
			for _, m := range p.GetMatcher().GetMatcherList().GetMatchers() {
				out[name] += m.GetPredicate().GetSinglePredicate().GetValueMatch().GetSafeRegex().GetRegex() + " " + udpCluster(m.GetOnMatch().GetAction()) + ", else "
			}
			out[name] += udpCluster(p.GetMatcher().GetOnNoMatch().GetAction())
		}
	}
	return out
}

func udpCluster(action interface{ GetTypedConfig() *anypb.Any }) string {
	r := new(udpproxyv3.Route)
	if err := action.GetTypedConfig().UnmarshalTo(r); err != nil {
		return err.Error()
	}
	return r.GetCluster()
}
