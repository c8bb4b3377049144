package route_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/config"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/tailgate-project/tailgate/e2e-kind/assets"
	"github.com/tailgate-project/tailgate/e2e-kind/controlplane"
	"github.com/tailgate-project/tailgate/spoke"
	"github.com/tailgate-project/tailgate/spoke/controllers/route"
)

func TestMain(m *testing.M) {
	ctrl.SetLogger(logr.Discard())
	os.Exit(m.Run())
}

const patience = 2 * time.Minute

var errDown = errors.New("the spoke does not answer")

// teller remembers what it was told.
type teller struct {
	mu    sync.Mutex
	fails int
	told  [][]spoke.Rule
	news  chan struct{}
}

func (t *teller) SetRules(_ context.Context, rules []spoke.Rule) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.fails > 0 {
		t.fails--
		return errDown
	}
	t.told = append(t.told, rules)
	select {
	case t.news <- struct{}{}:
	default:
	}
	return nil
}

func (t *teller) fail(times int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.fails = times
}

// all returns what the teller was told, oldest first.
func (t *teller) all() [][]spoke.Rule {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.told
}

type world struct {
	*testing.T
	api  *controlplane.ControlPlane
	kube client.Client
	mgr  ctrl.Manager
	to   *teller

	mu sync.Mutex
	// events are those that were recorded, oldest first.
	events []string
}

// newWorld starts the reconciler over a real API server. The CRDs whose names have omit in them are not there.
func newWorld(t *testing.T, omit string) *world {
	t.Helper()
	w := &world{T: t, api: controlplane.ForTest(t), to: &teller{news: make(chan struct{}, 1)}}
	found, err := assets.Find(t.Context())
	w.must(err)
	text, err := os.ReadFile(found.EnvoyGatewayCRDs[0])
	w.must(err)
	var kept []string
	for doc := range strings.SplitSeq(string(text), "\n---") {
		if omit == "" || !strings.Contains(doc, "name: "+omit+".gateway.networking.k8s.io") {
			kept = append(kept, doc)
		}
	}
	w.must(w.api.ApplyYAML(t.Context(), []byte(strings.Join(kept, "\n---"))))
	scheme := runtime.NewScheme()
	w.must(gatewayv1.Install(scheme))
	w.kube, err = client.New(w.api.RESTConfig(), client.Options{Scheme: scheme})
	w.must(err)
	w.mgr, err = ctrl.NewManager(w.api.RESTConfig(), ctrl.Options{
		Scheme: scheme, Metrics: metricsserver.Options{BindAddress: "0"}, Controller: config.Controller{SkipNameValidation: new(true)},
	})
	w.must(err)
	return w
}

// start runs the reconciler until the test ends.
func (w *world) start() {
	w.Helper()
	w.must((&route.Reconciler{Client: w.mgr.GetClient(), Spoke: w.to, Record: w.record}).SetupWithManager(w.mgr))
	ctx, cancel := context.WithCancel(w.Context())
	done := make(chan error, 1)
	go func() { done <- w.mgr.Start(ctx) }()
	w.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			w.Error(err)
		}
	})
}

func (w *world) record(o client.Object, e route.Event) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.events = append(w.events, fmt.Sprintf("%T %s: %s %s %s", o, o.GetName(), e.Type, e.Reason, e.Message))
}

// recorded waits until events that begin so, and no others, were recorded since the last time, in any order.
func (w *world) recorded(want ...string) {
	w.Helper()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		w.mu.Lock()
		got := slices.Sorted(slices.Values(w.events))
		w.mu.Unlock()
		if len(got) == len(want) && !slices.ContainsFunc(want, func(text string) bool {
			return !slices.ContainsFunc(got, func(e string) bool { return strings.HasPrefix(e, text) })
		}) {
			w.mu.Lock()
			w.events = nil
			w.mu.Unlock()
			return
		}
		select {
		case <-tick.C:
		case <-deadline.C:
			w.Fatalf("recorded %q, want what begins with %q", got, want)
		}
	}
}

func (w *world) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

func (w *world) apply(yaml string) {
	w.Helper()
	w.must(w.api.ApplyYAML(w.Context(), []byte(yaml)))
}

// hears waits until the spoke was told these rules last.
func (w *world) hears(want ...spoke.Rule) {
	w.Helper()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	for {
		var last []spoke.Rule
		if told := w.to.all(); len(told) > 0 {
			last = told[len(told)-1]
		}
		diff := cmp.Diff(append([]spoke.Rule{}, want...), last)
		if diff == "" {
			return
		}
		select {
		case <-w.to.news:
		case <-deadline.C:
			w.Fatalf("told (-want +got):\n%s", diff)
		}
	}
}

const (
	routes = `
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: web, namespace: default}
spec:
  rules:
  - backendRefs: [{name: ordinary, port: 80}]
  - backendRefs:
    - {group: gateway.tailscale.com, kind: TailscaleEndpoints, name: web, port: 443, weight: 7}
    - {group: gateway.tailscale.com, kind: TailscaleEndpoints, name: other, namespace: elsewhere}
    - {name: ordinary, port: 80, weight: 0}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: ordinary, namespace: default}
spec:
  rules:
  - backendRefs: [{name: ordinary, port: 80}]
  - backendRefs: [{group: example.com, kind: TailscaleEndpoints, name: web, port: 80}]
`
	grpcRoute = `
apiVersion: gateway.networking.k8s.io/v1
kind: GRPCRoute
metadata: {name: api, namespace: default}
spec:
  rules:
  - backendRefs: [{group: gateway.tailscale.com, kind: TailscaleEndpoints, name: api, port: 8080}]
`
)

var (
	webRule = spoke.Rule{Kind: "HTTPRoute", Namespace: "default", Name: "web", Index: 1, Backends: []spoke.RuleBackend{
		{Custom: true, Namespace: "default", Name: "web", Port: 443, Weight: 7},
		{Custom: true, Namespace: "elsewhere", Name: "other", Weight: 1},
		{Namespace: "default", Name: "ordinary", Port: 80},
	}}
	apiRule = spoke.Rule{Kind: "GRPCRoute", Namespace: "default", Name: "api", Backends: []spoke.RuleBackend{
		{Custom: true, Namespace: "default", Name: "api", Port: 8080, Weight: 1},
	}}
)

// TestRules follows routes from their making to their end; a change that means nothing to the spoke is not told.
func TestRules(t *testing.T) {
	w := newWorld(t, "")
	w.to.fail(2)
	w.apply(routes + "---" + grpcRoute)
	w.start()
	w.hears(apiRule, webRule)

	// The label changes nothing, nor do the ordinary route's rules; the next that is told is the changed weight alone.
	before := len(w.to.all())
	w.apply(strings.Replace(routes, "{name: web, namespace", "{labels: {a: b}, name: web, namespace", 1))
	w.apply(strings.Replace(routes, "name: ordinary, port: 80}]\n  - backendRefs: [{group", "name: ordinary, port: 81}]\n  - backendRefs: [{group", 1))
	w.apply(strings.Replace(routes, "weight: 7", "weight: 8", 1))
	changed := webRule
	changed.Backends = append([]spoke.RuleBackend{{Custom: true, Namespace: "default", Name: "web", Port: 443, Weight: 8}}, webRule.Backends[1:]...)
	w.hears(apiRule, changed)
	if n := len(w.to.all()); n != before+1 {
		t.Errorf("told %d times of one change", n-before)
	}

	w.must(w.kube.DeleteAllOf(t.Context(), &gatewayv1.GRPCRoute{}, client.InNamespace("default")))
	w.hears(changed)
	w.must(w.kube.DeleteAllOf(t.Context(), &gatewayv1.HTTPRoute{}, client.InNamespace("default")))
	w.hears()
	w.recorded() // of routes of requests Envoy Gateway says all there is to say
}

const (
	tcpRoute = `
apiVersion: gateway.networking.k8s.io/v1
kind: TCPRoute
metadata: {name: db, namespace: default}
spec:
  rules:
  - backendRefs:
    - {name: ordinary, port: 5432}
    - {group: gateway.tailscale.com, kind: TailscaleEndpoints, name: db, namespace: elsewhere, port: 5432}
---
apiVersion: gateway.networking.k8s.io/v1
kind: TCPRoute
metadata: {name: ordinary, namespace: default}
spec:
  rules:
  - backendRefs: [{name: ordinary, port: 5432}]
`
	tlsRoute = `
apiVersion: gateway.networking.k8s.io/v1
kind: TLSRoute
metadata: {name: secure, namespace: default}
spec:
  hostnames: [secure.example.com]
  rules:
  - backendRefs: [{group: gateway.tailscale.com, kind: TailscaleEndpoints, name: api, port: 443, weight: 0}]
`
	udpRoute = `
apiVersion: gateway.networking.k8s.io/v1
kind: UDPRoute
metadata: {name: dns, namespace: default}
spec:
  rules:
  - backendRefs: [{group: gateway.tailscale.com, kind: TailscaleEndpoints, name: dns}]
`
	grantFrom = `
apiVersion: gateway.networking.k8s.io/v1
kind: ReferenceGrant
metadata: {name: %s, namespace: %s}
spec:
  from: [{group: gateway.networking.k8s.io, kind: %s, namespace: default}]
  to: [{group: gateway.tailscale.com, kind: TailscaleEndpoints, name: %s}]
`
)

// TestConnections reads the routes of connections and datagrams, whose backends in other namespaces need a ReferenceGrant.
func TestConnections(t *testing.T) {
	w := newWorld(t, "")
	w.apply("apiVersion: v1\nkind: Namespace\nmetadata: {name: elsewhere}")
	w.apply(strings.Join([]string{tcpRoute, tlsRoute, udpRoute}, "---"))
	for _, g := range [][]any{ // none of them is for the route
		{"other-kind", "elsewhere", "HTTPRoute", "db"}, {"other-name", "elsewhere", "TCPRoute", "web"}, {"other-namespace", "default", "TCPRoute", "db"},
	} {
		w.apply(fmt.Sprintf(grantFrom, g...))
	}
	w.start()
	db := func(denied bool) spoke.Rule {
		return spoke.Rule{Kind: "TCPRoute", Namespace: "default", Name: "db", Backends: []spoke.RuleBackend{
			{Namespace: "default", Name: "ordinary", Port: 5432, Weight: 1},
			{Custom: true, Namespace: "elsewhere", Name: "db", Port: 5432, Weight: 1, Denied: denied},
		}}
	}
	secure := spoke.Rule{Kind: "TLSRoute", Namespace: "default", Name: "secure", Backends: []spoke.RuleBackend{
		{Custom: true, Namespace: "default", Name: "api", Port: 443},
	}}
	dns := spoke.Rule{Kind: "UDPRoute", Namespace: "default", Name: "dns", Backends: []spoke.RuleBackend{
		{Custom: true, Namespace: "default", Name: "dns", Weight: 1},
	}}
	w.hears(db(true), secure, dns)
	w.recorded("*v1.TCPRoute db: Warning RefNotPermitted TailscaleEndpoints elsewhere/db: their share of the traffic is refused.",
		"*v1.TLSRoute secure: Normal TailscaleEndpointsServed TailscaleEndpoints default/api are served",
		"*v1.UDPRoute dns: Normal TailscaleEndpointsServed TailscaleEndpoints default/dns are served")

	w.apply(fmt.Sprintf(grantFrom, "right", "elsewhere", "TCPRoute", "db"))
	w.hears(db(false), secure, dns)
	w.recorded("*v1.TCPRoute db: Normal TailscaleEndpointsServed TailscaleEndpoints elsewhere/db are served")
	w.must(w.kube.Delete(t.Context(), &gatewayv1.ReferenceGrant{ObjectMeta: metav1.ObjectMeta{Namespace: "elsewhere", Name: "right"}}))
	w.hears(db(true), secure, dns)
	w.apply(strings.Replace(fmt.Sprintf(grantFrom, "whole-kind", "elsewhere", "TCPRoute", "x"), ", name: x}", "}", 1))
	w.hears(db(false), secure, dns)
}

// TestWithoutGrants runs in a cluster that has no ReferenceGrants: nothing of another namespace may be referred to.
func TestWithoutGrants(t *testing.T) {
	w := newWorld(t, "referencegrants")
	w.apply(tcpRoute)
	w.start()
	w.hears(spoke.Rule{Kind: "TCPRoute", Namespace: "default", Name: "db", Backends: []spoke.RuleBackend{
		{Namespace: "default", Name: "ordinary", Port: 5432, Weight: 1},
		{Custom: true, Namespace: "elsewhere", Name: "db", Port: 5432, Weight: 1, Denied: true},
	}})
}

// TestWithoutGRPCRoutes runs in a cluster that has no GRPCRoute, as older sets of the Gateway API's CRDs.
func TestWithoutGRPCRoutes(t *testing.T) {
	w := newWorld(t, "grpcroutes")
	w.apply(routes)
	w.start()
	w.hears(webRule)
}
