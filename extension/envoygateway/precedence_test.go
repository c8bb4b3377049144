package envoygateway_test

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tailgate-project/tailgate/e2e-kind/standin/router"
	"github.com/tailgate-project/tailgate/extension"
	"github.com/tailgate-project/tailgate/federation"
)

// webRoute is an HTTPRoute of a Gateway to the Service svc, for a host (all if it is empty) and a match.
func webRoute(name, gateway, host, match string) string {
	hosts := ""
	if host != "" {
		hosts = "\n  hostnames: [" + host + "]"
	}
	return fmt.Sprintf(`
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: %s, namespace: default}
spec:
  parentRefs: [{name: %s}]%s
  rules: [{matches: [%s], backendRefs: [{name: svc, port: 80}]}]`, name, gateway, hosts, match)
}

func below(path string) string { return "{path: {type: PathPrefix, value: " + path + "}}" }

// ofUser is the cluster of the HTTPRoute with the name.
func ofUser(name string) string { return "httproute/default/" + name + "/rule/0" }

// gateway is a Gateway with one listener; a policy joins it.
func gateway(name, listener string) string {
	return fmt.Sprintf(`
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: %s, namespace: default}
spec:
  gatewayClassName: eg
  listeners: [%s]`, name, listener)
}

func policy(gateway string) string {
	return fmt.Sprintf(`
---
apiVersion: gateway.tailscale.com/v1alpha1
kind: TailscaleRoutePolicy
metadata: {name: %s, namespace: default}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: %s}]
  tailscaleGatewayRef: {name: %s}
  revision: 1`, gateway, gateway, gateway)
}

// echoSnapshot has the service echo in two clusters, and Gateways of one listener each.
func echoSnapshot(gateways ...extension.Gateway) extension.Snapshot {
	return extension.Snapshot{Cluster: "c1", Gateways: gateways, Services: []extension.Service{
		{ID: federation.Service("default", "echo"), Port: 80, Clusters: []federation.ClusterID{"c1", "c2"}},
	}}
}

func joinedGateway(name string, port uint16, egress string) extension.Gateway {
	return extension.Gateway{
		Namespace: "default", Name: name, Policy: name, TailscaleGateway: name, Listeners: []extension.Listener{{Name: "http", Port: port}},
		Tailnets: []extension.Tailnet{{
			Name: "production", Egress: extension.RouteTemplate{PathPrefix: egress}, Ingress: extension.RouteTemplate{HostPattern: "{service}." + name + ".example.com"},
		}},
	}
}

// lead is a request, by host and path and perhaps a header, and the cluster that it must go to.
type lead struct{ request, header, want string }

// check waits until all requests to a route configuration go where they must.
func (e *envoy) check(what, config string, leads []lead) {
	e.world.Helper()
	e.world.eventually(what, func() string {
		want, got := map[string]string{}, map[string]string{}
		for _, l := range leads {
			key := strings.TrimSpace(l.request + " " + l.header)
			want[key], got[key] = l.want, e.goes(config, l)
		}
		return cmp.Diff(want, got)
	})
}

// goes returns the cluster that Envoy sends a GET to, or the status that it answers with by itself.
func (e *envoy) goes(config string, l lead) string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.goesLocked(config, l)
}

// goesLocked is goes. It needs mu.
func (e *envoy) goesLocked(config string, l lead) string {
	routes, err := router.Compile(e.routes[config])
	if err != nil {
		return err.Error()
	}
	req, err := http.NewRequest(http.MethodGet, "http://"+l.request, nil)
	if err != nil {
		return err.Error()
	}
	if k, v, ok := strings.Cut(l.header, ": "); ok {
		req.Header.Set(k, v)
	}
	switch c := routes.Route(req); {
	case c == nil:
		return "no route"
	case c.Route.Direct != nil:
		return fmt.Sprintf("answers %d", c.Route.Direct.Status)
	default:
		return c.Cluster
	}
}

const (
	echo   = "tsgw/federated/default/echo"
	echoC1 = "tsgw/cluster/c1/default/echo"
	echoC2 = "tsgw/cluster/c2/default/echo"
)

// TestPrecedence has the user's routes meet ours in three Gateways, of which two are joined, each by a policy of its own.
func TestPrecedence(t *testing.T) {
	w := newWorld(t)
	w.startGateway(w.startHooks(echoSnapshot(joinedGateway("eg", 80, "/api/{service}/"), joinedGateway("second", 8080, "/other/{service}/"))))
	w.apply("apiVersion: gateway.networking.k8s.io/v1\nkind: GatewayClass\nmetadata: {name: eg}\nspec: {controllerName: gateway.envoyproxy.io/gatewayclass-controller}" +
		gateway("eg", "{name: http, protocol: HTTP, port: 80}") + gateway("second", "{name: http, protocol: HTTP, port: 8080}") +
		gateway("alone", "{name: http, protocol: HTTP, port: 80}") + policy("eg") + policy("second") + service("svc", "10.0.0.1") +
		webRoute("tie", "eg", "", below("/cross-cluster/echo")) +
		webRoute("deeper", "eg", "", below("/cross-cluster/echo-c1/special")) +
		webRoute("conditional", "eg", "", "{path: {type: PathPrefix, value: /cross-cluster/echo-c2}, headers: [{name: x-canary, value: \"yes\"}]}") +
		webRoute("exact", "eg", "", "{path: {type: Exact, value: /api/echo/health}}") +
		webRoute("broader", "eg", "", below("/api")) +
		webRoute("all", "eg", "", below("/")) +
		webRoute("host", "eg", "mine.example.com", below("/")) +
		webRoute("host-tie", "eg", "echo.eg.example.com", below("/")) +
		webRoute("of-second", "second", "", below("/cross-cluster")) +
		webRoute("of-alone", "alone", "", below("/")))

	w.connect("default/eg", "default/eg/http").check("the first Gateway", "default/eg/http", []lead{
		{"any.example.com/cross-cluster/echo/x", "", ofUser("tie")},
		{"any.example.com/cross-cluster/echo", "", ofUser("tie")},
		{"any.example.com/cross-cluster/echo-c1/x", "", echoC1},
		{"any.example.com/cross-cluster/echo-c1/special/x", "", ofUser("deeper")},
		{"any.example.com/cross-cluster/echo-c1/specialist", "", echoC1},
		{"any.example.com/cross-cluster/echo-c2/x", "", echoC2},
		{"any.example.com/cross-cluster/echo-c2/x", "x-canary: yes", ofUser("conditional")},
		{"any.example.com/cross-cluster/echo.default/x", "", echo},
		{"any.example.com/cross-cluster/echo-c1/x", "x-tailgate-hop: c1", "answers 508"},
		{"any.example.com/cross-cluster/unknown", "", ofUser("all")},
		{"any.example.com/api/echo/x", "", echo},
		{"any.example.com/api/echo/health", "", ofUser("exact")},
		{"any.example.com/api/other", "", ofUser("broader")},
		{"any.example.com/gateway/eg-http/x", "", "tsgw/gateway/default/eg/http"},
		{"any.example.com/gateway/second-http/x", "", ofUser("all")},
		{"any.example.com/other/echo/x", "", ofUser("all")},
		{"mine.example.com/cross-cluster/echo/x", "", echo},
		{"mine.example.com/x", "", ofUser("host")},
		{"echo.eg.example.com/x", "", ofUser("host-tie")},
		{"echo.eg.example.com/api/echo/x", "", echo},
		{"echo.second.example.com/x", "", ofUser("all")},
	})
	w.connect("default/second", "default/second/http").check("the second Gateway", "default/second/http", []lead{
		{"any.example.com/cross-cluster/echo/x", "", echo},
		{"any.example.com/cross-cluster/x", "", ofUser("of-second")},
		{"any.example.com/other/echo/x", "", echo},
		{"any.example.com/api/echo/x", "", "no route"},
		{"any.example.com/gateway/second-http/x", "", "tsgw/gateway/default/second/http"},
		{"echo.second.example.com/x", "", echo},
		{"echo.eg.example.com/x", "", "no route"},
	})
	w.connect("default/alone", "default/alone/http").check("the Gateway that is not joined", "default/alone/http", []lead{
		{"any.example.com/cross-cluster/echo/x", "", ofUser("of-alone")},
		{"any.example.com/gateway/eg-http/x", "", ofUser("of-alone")},
	})
	checkTaken(t, w.hooks.Status().Notes, "/cross-cluster/echo/")
}

// checkTaken wants the user to be told of the path of ours that is not there.
func checkTaken(t *testing.T, notes []extension.Note, path string) {
	t.Helper()
	if !slices.ContainsFunc(notes, func(n extension.Note) bool {
		return strings.HasSuffix(n.Item, " "+path) && n.Text == "an HTTPRoute has this path; it keeps it"
	}) {
		t.Errorf("no note says that an HTTPRoute has %s: %v", path, notes)
	}
}

// TestMergedGateways has Gateways share their Envoys, and a port: each has its own routes in its own hosts.
func TestMergedGateways(t *testing.T) {
	w := newWorld(t)
	w.startGateway(w.startHooks(echoSnapshot(joinedGateway("a", 80, "/a/{service}/"), joinedGateway("b", 80, "/b/{service}/"))))
	listener := func(name string) string {
		return "{name: http, protocol: HTTP, port: 80, hostname: \"*." + name + ".example.com\"}"
	}
	w.apply(`
apiVersion: gateway.envoyproxy.io/v1alpha1
kind: EnvoyProxy
metadata: {name: merged, namespace: default}
spec: {mergeGateways: true}
---
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: eg}
spec:
  controllerName: gateway.envoyproxy.io/gatewayclass-controller
  parametersRef: {group: gateway.envoyproxy.io, kind: EnvoyProxy, name: merged, namespace: default}
` + gateway("a", listener("a")) + gateway("b", listener("b")) + gateway("c", listener("c")) + policy("a") + policy("b") + service("svc", "10.0.0.1") +
		webRoute("of-a", "a", "web.a.example.com", below("/")) + webRoute("of-b", "b", "web.b.example.com", below("/")) +
		webRoute("of-c", "c", "web.c.example.com", below("/")) + webRoute("tie-b", "b", "web.b.example.com", below("/cross-cluster/echo")))

	const config = "default/a/http" // they share the one that is named after the first
	w.connect("eg", config).check("the merged Gateways", config, []lead{
		{"web.a.example.com/x", "", ofUser("of-a")},
		{"web.a.example.com/a/echo/x", "", echo},
		{"web.a.example.com/b/echo/x", "", ofUser("of-a")},
		{"web.a.example.com/cross-cluster/echo/x", "", echo},
		{"web.a.example.com/gateway/a-http/x", "", "tsgw/gateway/default/a/http"},
		{"web.a.example.com/gateway/b-http/x", "", ofUser("of-a")},
		{"web.b.example.com/x", "", ofUser("of-b")},
		{"web.b.example.com/b/echo/x", "", echo},
		{"web.b.example.com/cross-cluster/echo/x", "", ofUser("tie-b")},
		{"web.b.example.com/cross-cluster/echo-c2/x", "", echoC2},
		{"web.c.example.com/cross-cluster/echo/x", "", ofUser("of-c")},
		{"web.c.example.com/a/echo/x", "", ofUser("of-c")},
		{"echo.a.example.com/x", "", echo},
		{"echo.b.example.com/x", "", echo},
		{"echo.c.example.com/x", "", "no route"},
	})
}
