package envoygateway_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/tailgate-project/tailgate/api/v1alpha1"
	"github.com/tailgate-project/tailgate/extension"
	"github.com/tailgate-project/tailgate/federation"
)

const gatewayObjects = `
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: eg}
spec: {controllerName: gateway.envoyproxy.io/gatewayclass-controller}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: eg, namespace: default}
spec:
  gatewayClassName: eg
  listeners:
  - {name: http, protocol: HTTP, port: 80}
---
apiVersion: gateway.tailscale.com/v1alpha1
kind: TailscaleRoutePolicy
metadata: {name: p, namespace: default}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: eg}]
  tailscaleGatewayRef: {name: p}
  revision: 1
---
apiVersion: v1
kind: Namespace
metadata: {name: granted}
---
apiVersion: v1
kind: Namespace
metadata: {name: closed}
---
apiVersion: gateway.networking.k8s.io/v1beta1
kind: ReferenceGrant
metadata: {name: g, namespace: granted}
spec:
  from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: default}]
  to: [{group: gateway.tailscale.com, kind: TailscaleEndpoints}]
`

// service is a Service with one endpoint, or with none.
func service(name, addr string) string {
	text := fmt.Sprintf(`
---
apiVersion: v1
kind: Service
metadata: {name: %s, namespace: default}
spec: {ports: [{name: http, port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: %s-1, namespace: default, labels: {kubernetes.io/service-name: %s}}
addressType: IPv4
ports: [{name: http, port: 8080, protocol: TCP}]
endpoints: `, name, name, name)
	if addr == "" {
		return text + "[]"
	}
	return text + "[{addresses: [" + addr + "], conditions: {ready: true}}]"
}

// endpointsObject is a TailscaleEndpoints.
func endpointsObject(namespace, name string) string {
	return fmt.Sprintf(`
---
apiVersion: gateway.tailscale.com/v1alpha1
kind: TailscaleEndpoints
metadata: {name: %s, namespace: %s}
spec: {tailnet: production, endpoints: [{name: a, tailscaleIP: 100.64.1.1, port: 80}]}`, name, namespace)
}

// ref is a backend of a rule under test; ours are TailscaleEndpoints.
type ref struct {
	ours            bool
	namespace, name string
	port            uint16
	weight          uint32
}

func (r ref) yaml() string {
	text := fmt.Sprintf("name: %s, weight: %d", r.name, r.weight)
	if r.ours {
		text += ", group: gateway.tailscale.com, kind: TailscaleEndpoints"
	}
	if r.namespace != "" {
		text += ", namespace: " + r.namespace
	}
	if r.port != 0 {
		text += fmt.Sprintf(", port: %d", r.port)
	}
	return "{" + text + "}"
}

// rule is a rule under test, and where its route must lead. In both, $ stands for the cluster that Envoy Gateway has for
// the rule.
type rule struct {
	name string
	refs []ref
	want string
}

var rules = []rule{
	{"single", []ref{{ours: true, name: "web", port: 80, weight: 1}}, "tsgw/endpoints/default/web/80"},
	{"port-by-default", []ref{{ours: true, name: "api", weight: 1}}, "tsgw/endpoints/default/api/8080"},
	{"weighted", []ref{{ours: true, name: "web", port: 80, weight: 3}, {ours: true, name: "api", port: 8080, weight: 1}},
		"1 tsgw/endpoints/default/api/8080, 3 tsgw/endpoints/default/web/80"},
	{"weight-zero", []ref{{ours: true, name: "web", port: 80, weight: 1}, {ours: true, name: "api", port: 8080}}, "tsgw/endpoints/default/web/80"},
	{"all-weights-zero", []ref{{ours: true, name: "web", port: 80}}, "answers 500"},
	{"mixed", []ref{{name: "svc", port: 80, weight: 2}, {ours: true, name: "web", port: 80, weight: 3}}, "2 $, 3 tsgw/endpoints/default/web/80"},
	{"mixed-with-several", []ref{{name: "svc", port: 80, weight: 2}, {ours: true, name: "web", port: 80, weight: 3}, {name: "svc2", port: 80, weight: 5}},
		"7 $, 3 tsgw/endpoints/default/web/80"},
	{"only-ordinary-has-weight", []ref{{name: "svc", port: 80, weight: 2}, {ours: true, name: "web", port: 80}}, "$"},
	{"with-a-missing-service", []ref{{name: "svc", port: 80, weight: 2}, {name: "gone", port: 80, weight: 4}, {ours: true, name: "web", port: 80, weight: 3}},
		"4 invalid-backend-cluster, 2 $/backend/0, 3 tsgw/endpoints/default/web/80, missing INTERNAL_SERVER_ERROR"},
	{"with-an-empty-service", []ref{{name: "empty", port: 80, weight: 4}, {ours: true, name: "web", port: 80, weight: 3}},
		"4 invalid-backend-cluster, 3 tsgw/endpoints/default/web/80, missing SERVICE_UNAVAILABLE"},
	{"missing-object", []ref{{ours: true, name: "gone", port: 80, weight: 1}}, "answers 500"},
	{"one-object-missing", []ref{{ours: true, name: "gone", port: 80, weight: 1}, {ours: true, name: "web", port: 80, weight: 3}},
		"1 invalid-backend-cluster, 3 tsgw/endpoints/default/web/80, missing INTERNAL_SERVER_ERROR"},
	{"missing-port", []ref{{ours: true, name: "web", port: 81, weight: 1}}, "invalid-backend-cluster, missing INTERNAL_SERVER_ERROR"},
	{"one-port-missing", []ref{{name: "svc", port: 80, weight: 2}, {ours: true, name: "web", port: 81, weight: 1}},
		"2 $, 1 invalid-backend-cluster, missing INTERNAL_SERVER_ERROR"},
	{"granted", []ref{{ours: true, namespace: "granted", name: "web", port: 80, weight: 1}}, "tsgw/endpoints/granted/web/80"},
	{"not-granted", []ref{{ours: true, namespace: "closed", name: "web", port: 80, weight: 1}, {ours: true, name: "web", port: 80, weight: 1}},
		"1 invalid-backend-cluster, 1 tsgw/endpoints/default/web/80, missing INTERNAL_SERVER_ERROR"},
	{"ordinary", []ref{{name: "svc", port: 80, weight: 1}}, "$"},
}

// route is the HTTPRoute of a rule, whose filter, match and time limit must stay.
func (r rule) route() string {
	var refs []string
	for _, x := range r.refs {
		refs = append(refs, x.yaml())
	}
	return fmt.Sprintf(`
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: %s, namespace: default}
spec:
  parentRefs: [{name: eg}]
  rules:
  - matches: [{path: {type: PathPrefix, value: /%s}, headers: [{name: x-canary, value: "yes"}]}]
    filters: [{type: RequestHeaderModifier, requestHeaderModifier: {add: [{name: x-of-the-user, value: stays}]}}]
    timeouts: {request: 7s}
    backendRefs: [%s]`, r.name, r.name, strings.Join(refs, ", "))
}

func (r rule) known(kind string) extension.Rule {
	out := extension.Rule{Kind: kind, Namespace: "default", Name: r.name}
	for _, x := range r.refs {
		b := extension.RuleBackend{Custom: x.ours, Namespace: "default", Name: x.name, Port: x.port, Weight: x.weight}
		if x.namespace != "" {
			b.Namespace = x.namespace
		}
		out.Backends = append(out.Backends, b)
	}
	return out
}

func backendsSnapshot() extension.Snapshot {
	s := extension.Snapshot{Cluster: "c1", Gateways: []extension.Gateway{{Namespace: "default", Name: "eg", Policy: "p", Listeners: []extension.Listener{{Name: "http", Port: 80}}}}}
	for _, ns := range []string{"default", "granted", "closed"} {
		s.Backends = append(s.Backends, extension.Backend{Namespace: ns, Name: "web", Ports: []extension.BackendPort{{Port: 80, App: federation.AppHTTP}}})
	}
	for _, name := range []string{"api", "greeter"} {
		s.Backends = append(s.Backends, extension.Backend{Namespace: "default", Name: name, Ports: []extension.BackendPort{{Port: 8080, App: federation.AppH2C}}})
	}
	s.Rules = grpcRules()
	for _, r := range rules {
		if slices.ContainsFunc(r.refs, func(x ref) bool { return x.ours }) {
			s.Rules = append(s.Rules, r.known("HTTPRoute"))
		}
	}
	return s
}

const grpcRoute = `
---
apiVersion: gateway.networking.k8s.io/v1
kind: GRPCRoute
metadata: {name: greeter, namespace: default}
spec:
  parentRefs: [{name: eg}]
  hostnames: [greeter.example.com]
  rules:
  - backendRefs: [{group: gateway.tailscale.com, kind: TailscaleEndpoints, name: greeter, port: 8080}]
  - matches: [{method: {service: mixed}}]
    backendRefs:
    - {group: gateway.tailscale.com, kind: TailscaleEndpoints, name: greeter, port: 8080, weight: 3}
    - {name: svc, port: 80, weight: 2}
  - matches: [{method: {service: gone}}]
    backendRefs: [{group: gateway.tailscale.com, kind: TailscaleEndpoints, name: gone, port: 8080}]
`

// grpcRules are the rules above as the extension server knows them.
func grpcRules() []extension.Rule {
	one := extension.RuleBackend{Custom: true, Namespace: "default", Name: "greeter", Port: 8080, Weight: 3}
	out := make([]extension.Rule, 3)
	for i := range out {
		out[i] = extension.Rule{Kind: "GRPCRoute", Namespace: "default", Name: "greeter", Index: i, Backends: []extension.RuleBackend{one}}
	}
	out[1].Backends = append(out[1].Backends, extension.RuleBackend{Namespace: "default", Name: "svc", Port: 80, Weight: 2})
	out[2].Backends[0].Name = "gone"
	return out
}

// TestBackends gives Envoy Gateway routes with TailscaleEndpoints as backends and looks at what its Envoys are told.
func TestBackends(t *testing.T) {
	snap := backendsSnapshot()
	w := newWorld(t)
	w.startGateway(w.startHooks(snap))
	objects := gatewayObjects + service("svc", "10.0.0.1") + service("svc2", "10.0.0.2") + service("empty", "") + endpointsObject("default", "web") +
		endpointsObject("default", "api") + endpointsObject("default", "greeter") + endpointsObject("granted", "web") + endpointsObject("closed", "web")
	want := map[string]string{}
	for _, r := range rules {
		objects += r.route()
		want[r.name+"/rule/0"] = strings.ReplaceAll(r.want, "$", "httproute/default/"+r.name+"/rule/0")
	}
	w.apply(objects + grpcRoute)
	e := w.connect("default/eg", "default/eg/http")
	w.eventually("the user's routes", func() string { return cmp.Diff(want, e.leads("httproute/default/")) })

	w.eventually("the GRPCRoute", func() string {
		return cmp.Diff(map[string]string{
			"greeter/rule/0": "tsgw/endpoints/default/greeter/8080",
			"greeter/rule/1": "2 grpcroute/default/greeter/rule/1, 3 tsgw/endpoints/default/greeter/8080",
			"greeter/rule/2": "answers 500",
		}, e.leads("grpcroute/default/"))
	})

	t.Run("what-the-user-said-stays", func(t *testing.T) { e.checkKept(t) })
	t.Run("mixed-rule-draws-no-traffic-for-ours", func(t *testing.T) {
		// The cluster that Envoy Gateway has merged: a locality without endpoints is never chosen.
		w.eventually("the merged cluster's endpoints", func() string {
			return cmp.Diff("weight 2: [10.0.0.1]; weight 3: []; weight 5: [10.0.0.2]", e.endpoints("httproute/default/mixed-with-several/rule/0"))
		})
	})
	t.Run("clusters", func(t *testing.T) {
		for _, name := range []string{"tsgw/endpoints/default/web/80", "tsgw/endpoints/default/api/8080", "tsgw/endpoints/granted/web/80"} {
			c := e.cluster(name)
			if got := c.GetEdsClusterConfig().GetServiceName(); got != name || c.GetEdsClusterConfig().GetEdsConfig().GetApiConfigSource() == nil {
				t.Errorf("%s: endpoints %q of %v", name, got, c.GetEdsClusterConfig().GetEdsConfig())
			}
		}
		if c := e.cluster("tsgw/endpoints/closed/web/80"); c != nil {
			t.Errorf("there is a cluster of what may not be referred to: %v", c)
		}
		if c := e.cluster("httproute/default/single/rule/0"); c == nil || c.GetMetadata().GetFilterMetadata()["tailgate.backends"] != nil {
			t.Errorf("our note is still in Envoy Gateway's cluster: %v", c.GetMetadata())
		}
	})
	t.Run("conditions", func(t *testing.T) { w.checkConditions(t) })
	t.Run("rule-that-comes-later", func(t *testing.T) { w.checkLate(t, e, snap) })
}

// checkKept looks at what else the routes have.
func (e *envoy) checkKept(t *testing.T) {
	e.mu.Lock()
	defer e.mu.Unlock()
	seen := 0
	for _, vh := range e.routes["default/eg/http"].GetVirtualHosts() {
		for _, r := range vh.GetRoutes() {
			if !strings.HasPrefix(r.GetName(), "httproute/default/single/") && !strings.HasPrefix(r.GetName(), "httproute/default/mixed/") {
				continue
			}
			seen++
			if got := r.GetRoute().GetTimeout().AsDuration().String(); got != "7s" {
				t.Errorf("%s: time limit %s", r.GetName(), got)
			}
			if len(r.GetRequestHeadersToAdd()) != 1 || r.GetRequestHeadersToAdd()[0].GetHeader().GetKey() != "x-of-the-user" {
				t.Errorf("%s: headers to add %v", r.GetName(), r.GetRequestHeadersToAdd())
			}
			if len(r.GetMatch().GetHeaders()) != 1 || r.GetMatch().GetHeaders()[0].GetName() != "x-canary" {
				t.Errorf("%s: match %v", r.GetName(), r.GetMatch())
			}
		}
	}
	if seen != 2 {
		t.Errorf("%d routes", seen)
	}
}

// checkConditions reads what a user reads in the status of the routes.
func (w *world) checkConditions(t *testing.T) {
	for name, want := range map[string]string{
		"single": "True ResolvedRefs", "mixed": "True ResolvedRefs", "granted": "True ResolvedRefs",
		"missing-object": "False BackendNotFound", "one-object-missing": "False BackendNotFound", "not-granted": "False RefNotPermitted",
	} {
		w.eventually("ResolvedRefs of "+name, func() string {
			var o gatewayv1.HTTPRoute
			if err := w.kube.Get(t.Context(), client.ObjectKey{Namespace: "default", Name: name}, &o); err != nil {
				return err.Error()
			}
			if len(o.Status.Parents) != 1 {
				return "no status yet"
			}
			c := meta.FindStatusCondition(o.Status.Parents[0].Conditions, string(gatewayv1.RouteConditionResolvedRefs))
			if c == nil {
				return "no condition yet"
			}
			return cmp.Diff(want, fmt.Sprint(c.Status, " ", c.Reason))
		})
	}
	notes := w.hooks.Status().Notes
	for _, want := range []string{"default/web has no port 81, but 80"} {
		if !slices.ContainsFunc(notes, func(n extension.Note) bool { return strings.Contains(n.Text, want) }) {
			t.Errorf("no note says %q: %v", want, notes)
		}
	}
}

// checkLate adds a rule that Envoy Gateway knows before the extension server does: a new revision of the policy is what
// makes it ask again.
func (w *world) checkLate(t *testing.T, e *envoy, snap extension.Snapshot) {
	late := rule{name: "late", refs: []ref{{ours: true, name: "web", port: 80, weight: 1}}}
	w.apply(late.route())
	const name = "late/rule/0"
	w.eventually("the route without us", func() string {
		return cmp.Diff("httproute/default/late/rule/0", e.leads("httproute/default/")[name])
	})
	snap.Rules = append(slices.Clone(snap.Rules), late.known("HTTPRoute"))
	w.hooks.SetSnapshot(snap)
	w.retranslate(2)
	w.eventually("the route with us", func() string {
		return cmp.Diff("tsgw/endpoints/default/web/80", e.leads("httproute/default/")[name])
	})
}

// retranslate has Envoy Gateway translate again, as the spoke does: by a new revision of the policy.
func (w *world) retranslate(revision int) {
	w.Helper()
	policy := &v1alpha1.TailscaleRoutePolicy{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "p"}}
	w.must(w.kube.Patch(w.Context(), policy, client.RawPatch("application/merge-patch+json", fmt.Appendf(nil, `{"spec":{"revision":%d}}`, revision))))
}
