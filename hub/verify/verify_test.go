package verify_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/controller-runtime/pkg/client"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/tailgate-project/tailgate/api/operator"
	"github.com/tailgate-project/tailgate/api/v1alpha1"
	"github.com/tailgate-project/tailgate/e2e-kind/assets"
	"github.com/tailgate-project/tailgate/e2e-kind/controlplane"
	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/hub/controllers/member"
	"github.com/tailgate-project/tailgate/hub/verify"
)

// hub is one with two members, both well.
type hub struct {
	operator.API
	status operator.Status
	// ahead is how far its clock is off.
	ahead time.Duration
	err   error
}

func newHub() *hub {
	up := operator.Signal{Up: true}
	cluster := func(id federation.ClusterID) operator.Cluster {
		return operator.Cluster{ID: id, Link: up, API: up, Applied: operator.Position{Epoch: 1, Version: 7}, Newest: operator.Position{Epoch: 1, Version: 7}}
	}
	return &hub{status: operator.Status{
		Version: "v0.9.0", Epoch: 1, Clusters: []operator.Cluster{cluster("cluster1"), cluster("cluster2")},
		Probes: []operator.Probe{{Observer: "cluster1", Target: "cluster2", Reachable: true}, {Observer: "cluster2", Target: "cluster1", Reachable: true}},
	}}
}

func (h *hub) Status(context.Context) (operator.Status, error) {
	s := h.status
	s.Now = time.Now().Add(h.ahead)
	return s, h.err
}

func (h *hub) Services(context.Context) ([]operator.Service, error) {
	port := []operator.Port{{Name: "http", Port: 80, Protocol: federation.TCP, App: "http"}}
	return []operator.Service{
		{ID: operator.ServiceID{ServiceID: federation.Service("default", "webapp")}, Exports: []operator.Export{{Cluster: "cluster1", Ports: port}, {Cluster: "cluster2", Ports: port}}},
		{ID: operator.ServiceID{ServiceID: federation.Service("default", "db")}, Exports: []operator.Export{{Cluster: "cluster1", Ports: []operator.Port{{Port: 5432, Protocol: federation.TCP}}}}},
	}, nil
}

// world is a member cluster of a real API server, which is the management cluster, too. What runs in pods runs here.
type world struct {
	*testing.T
	client  client.Client
	cluster verify.Cluster
	hub     *hub
	// status is what the spoke answers, ahead how far its clock is off.
	status map[string]any
	ahead  time.Duration
	// envoy answers requests.
	envoy http.HandlerFunc
	asked []string
}

func newWorld(t *testing.T) *world {
	w := &world{T: t, hub: newHub()}
	api := controlplane.ForTest(t)
	found, err := assets.Find(t.Context())
	w.must(err)
	own, err := filepath.Glob("../../deploy/crds/*.yaml")
	w.must(err)
	w.must(api.ApplyFiles(t.Context(), append(own, found.EnvoyGatewayCRDs...)...))
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{clientgoscheme.AddToScheme, gatewayv1.Install, v1alpha1.AddToScheme} {
		w.must(add(scheme))
	}
	w.client, err = client.New(api.RESTConfig(), client.Options{Scheme: scheme})
	w.must(err)
	w.status = map[string]any{"cluster": "cluster1", "link": map[string]any{"up": true, "reason": "Connected"}, "ingressReady": true, "egressReady": true}
	spoke := httptest.NewServer(http.HandlerFunc(w.answerStatus))
	t.Cleanup(spoke.Close)
	w.envoy = func(rw http.ResponseWriter, r *http.Request) {
		if !strings.Contains(r.URL.Path, "webapp") {
			http.NotFound(rw, r)
		}
	}
	envoy := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		w.asked = append(w.asked, r.Host+r.URL.Path)
		w.envoy(rw, r)
	}))
	t.Cleanup(envoy.Close)
	ports := map[string]string{
		"tailgate-system/tailgate-spoke-0:9470":      spoke.Listener.Addr().String(),
		"envoy-gateway-system/envoy-default-0:10080": envoy.Listener.Addr().String(),
	}
	w.cluster = verify.Cluster{Context: "kind-cluster1", REST: api.RESTConfig(), Dial: func(ctx context.Context, namespace, pod string, port uint16) (net.Conn, error) {
		addr, there := ports[fmt.Sprintf("%s/%s:%d", namespace, pod, port)]
		if !there {
			return nil, fmt.Errorf("nobody listens on port %d of %s/%s", port, namespace, pod)
		}
		return (&net.Dialer{}).DialContext(ctx, "tcp", addr)
	}}
	w.install()
	return w
}

func (w *world) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

func (w *world) answerStatus(rw http.ResponseWriter, _ *http.Request) {
	s := maps.Clone(w.status)
	s["now"] = time.Now().Add(w.ahead)
	if err := json.NewEncoder(rw).Encode(s); err != nil {
		w.Error(err)
	}
}

const settings = `apiVersion: gateway.envoyproxy.io/v1alpha1
kind: EnvoyGateway
extensionManager:
  service: {fqdn: {hostname: tailgate-spoke.tailgate-system.svc, port: 5005}}
`

// install makes what an installation that works has.
func (w *world) install() {
	for _, namespace := range []string{"tailgate-system", "envoy-gateway-system"} {
		w.create(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}})
	}
	labels := map[string]string{"control-plane": "envoy-gateway"}
	d := &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Namespace: "envoy-gateway-system", Name: "envoy-gateway", Labels: map[string]string{"control-plane": "envoy-gateway", "app.kubernetes.io/version": "v1.9.1"}},
		Spec:       appsv1.DeploymentSpec{Selector: &metav1.LabelSelector{MatchLabels: labels}, Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: podSpec()}},
	}
	w.create(d)
	d.Status = appsv1.DeploymentStatus{Replicas: 1, ReadyReplicas: 1, AvailableReplicas: 1}
	w.must(w.client.Status().Update(w.Context(), d))
	w.create(&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "envoy-gateway-system", Name: "envoy-gateway-config"}, Data: map[string]string{"envoy-gateway.yaml": settings}})
	w.pod("tailgate-system", "tailgate-spoke-0", map[string]string{"app.kubernetes.io/name": "tailgate-spoke"})
	w.pod("envoy-gateway-system", "envoy-default-0", map[string]string{
		"gateway.envoyproxy.io/owning-gateway-name": "main-gateway", "gateway.envoyproxy.io/owning-gateway-namespace": "default",
	})
	w.create(&gatewayv1.Gateway{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "main-gateway"}, Spec: gatewayv1.GatewaySpec{
		GatewayClassName: "eg", Listeners: []gatewayv1.Listener{{Name: "http", Port: 80, Protocol: gatewayv1.HTTPProtocolType}},
	}})
	g := &v1alpha1.TailscaleGateway{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "main"}}
	g.Spec.GatewayRef.Name = "main-gateway"
	g.Spec.Tailnets = []v1alpha1.TailnetConfig{{Name: "production", TailscaleTailnetRef: v1alpha1.TailnetReference{Name: "production"}}}
	w.create(g)
	w.ready(g, &g.Status.Conditions, metav1.ConditionTrue, "Ready", "")
	t := &v1alpha1.TailscaleTailnet{ObjectMeta: metav1.ObjectMeta{Name: "production"}}
	t.Spec.Tailnet, t.Spec.OAuthSecretName, t.Spec.OAuthSecretNamespace = "example.com", "oauth", "tailgate-system"
	w.create(t)
	w.ready(t, &t.Status.Conditions, metav1.ConditionTrue, "Ready", "")
	for _, name := range []string{"cluster1", "cluster2"} {
		w.create(&v1alpha1.MemberCluster{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: v1alpha1.MemberClusterSpec{Accepted: true}})
	}
}

func podSpec() corev1.PodSpec {
	return corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "example.com/x:v1", Args: []string{"run", "--hub=tailgate-hub:7443"}}}}
}

func (w *world) create(o client.Object) {
	w.Helper()
	w.must(w.client.Create(w.Context(), o))
}

func (w *world) pod(namespace, name string, labels map[string]string) {
	w.Helper()
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, Labels: labels}, Spec: podSpec()}
	w.create(p)
	p.Status.Phase = corev1.PodRunning
	p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
	w.must(w.client.Status().Update(w.Context(), p))
}

func (w *world) ready(o client.Object, conditions *[]metav1.Condition, status metav1.ConditionStatus, reason, message string) {
	w.Helper()
	meta.SetStatusCondition(conditions, metav1.Condition{Type: v1alpha1.ConditionReady, Status: status, Reason: reason, Message: message})
	w.must(w.client.Status().Update(w.Context(), o))
}

func (w *world) link(reason, message string) {
	w.status["link"] = map[string]any{"up": false, "reason": reason, "message": message}
}

// edit changes an object and puts it back as it was when the test ends.
func edit[T client.Object](w *world, o T, namespace, name string, change func(T)) {
	w.Helper()
	w.must(w.client.Get(w.Context(), client.ObjectKey{Namespace: namespace, Name: name}, o))
	change(o)
	w.must(w.client.Update(w.Context(), o))
}

// findings looks and judges.
func (w *world) findings() []verify.Finding {
	w.Helper()
	w.asked = nil
	p, err := verify.Look(w.Context(), verify.Options{
		Hub: func(context.Context) (operator.API, error) { return w.hub, nil }, Management: &w.cluster, Members: []verify.Cluster{w.cluster}, Namespace: "tailgate-system",
	})
	w.must(err)
	return verify.Judge(p)
}

// first is the first finding that failed.
func first(all []verify.Finding) verify.Finding {
	for _, f := range all {
		if f.Verdict == verify.Failed {
			return f
		}
	}
	return verify.Finding{}
}

func printed(all []verify.Finding) string {
	var b strings.Builder
	for _, f := range all {
		fmt.Fprintf(&b, "%s | %s | %s | %s | %s\n", f.Where, f.Hop, f.Verdict, f.Detail, f.Fix)
	}
	return b.String()
}

// TestVerify looks at a real API server with what an installation has there, as it should be and with one thing wrong at a
// time.
func TestVerify(t *testing.T) {
	w := newWorld(t)
	sound := w.findings()
	if verify.Worst(sound) != verify.OK {
		t.Fatalf("of an installation that works is said:\n%s", printed(sound))
	}
	if len(w.asked) != 3 || w.asked[2] != "verify.tailgate.invalid/cross-cluster/webapp.default.cluster2/" {
		t.Errorf("requests %v", w.asked)
	}
	for _, hop := range []string{verify.HopHub, verify.HopClock, verify.HopTailnet + " production", verify.HopLink, verify.HopProbes, verify.HopKinds, verify.HopEnvoyGateway,
		verify.HopSettings, verify.HopSpoke, verify.HopProxies, verify.HopGateway + " default/main", verify.HopRequests} {
		if !strings.Contains(printed(sound), "| "+hop+" | ok |") {
			t.Errorf("nothing is said of the hop %s:\n%s", hop, printed(sound))
		}
	}
	deployment := func(change func(*appsv1.Deployment)) func(*world) {
		return func(w *world) {
			edit(w, &appsv1.Deployment{}, "envoy-gateway-system", "envoy-gateway", change)
		}
	}
	for _, tc := range []struct {
		name string
		// breaks what is sound, mends makes it sound again; nil where only fields of the world were changed.
		breaks, mends func(w *world)
		where, hop    string
		detail, fix   []string
	}{
		{
			name: "wrong-key",
			breaks: func(w *world) {
				w.link(v1alpha1.ReasonJoinKeyRefused, "the tailnet refuses the join key: give one that is not expired")
			},
			where: "cluster1", hop: verify.HopLink, detail: []string{"JoinKeyRefused", "not expired"}, fix: []string{"tailgate join --cluster cluster1 | kubectl --context kind-cluster1 apply -f -"},
		},
		{
			name: "wrong-hub-address",
			breaks: func(w *world) {
				w.link(v1alpha1.ReasonHubUnreachable, `the hub cannot be reached: no peer "tailgate-hub" carries tag:tailgate-hub, but hub7: check --hub`)
			},
			where: "cluster1", hop: verify.HopLink, detail: []string{"HubUnreachable", "but hub7"}, fix: []string{`hub.address is "tailgate-hub:7443"`, "tailgate join --values"},
		},
		{
			name: "spoke-clock-off", breaks: func(w *world) { w.ahead = -time.Hour },
			where: "cluster1", hop: verify.HopClock, detail: []string{"the clock of the spoke in kind-cluster1 is 1h0m0s behind the others"}, fix: []string{"NTP"},
		},
		{
			name: "hub-clock-off", breaks: func(w *world) { w.hub.ahead = time.Hour },
			where: "hub", hop: verify.HopClock, detail: []string{"the clock of hub is 1h0m0s ahead of the others"}, fix: []string{"NTP"},
		},
		{
			name: "two-spokes-of-one-name-from-the-second",
			breaks: func(w *world) {
				w.link(v1alpha1.ReasonClusterIDTaken, `the cluster id "cluster2" is taken by another node`)
				w.status["cluster"] = "cluster2"
				w.status["problems"] = map[string]any{"last snapshot": `is of cluster "cluster1", this is "cluster2": started without it`}
			},
			where: "kind-cluster1", hop: verify.HopLink, detail: []string{`"cluster2" is taken`}, fix: []string{"tailgate join --cluster ANOTHER", "tailgate leave --cluster cluster2"},
		},
		{
			name: "two-spokes-of-one-name-from-the-hub",
			breaks: func(w *world) {
				m := &v1alpha1.MemberCluster{}
				w.must(w.client.Get(w.Context(), client.ObjectKey{Name: "cluster2"}, m))
				meta.SetStatusCondition(&m.Status.Conditions, metav1.Condition{
					Type: member.ConditionIdentityConflict, Status: metav1.ConditionTrue, Reason: v1alpha1.ReasonClusterIDTaken, Message: "node n7 asks for this cluster id",
				})
				w.must(w.client.Status().Update(w.Context(), m))
			},
			mends: func(w *world) {
				m := &v1alpha1.MemberCluster{}
				w.must(w.client.Get(w.Context(), client.ObjectKey{Name: "cluster2"}, m))
				m.Status.Conditions = nil
				w.must(w.client.Status().Update(w.Context(), m))
			},
			where: "cluster2", hop: verify.HopMember, detail: []string{"two spokes", "node n7"}, fix: []string{"an id of its own"},
		},
		{
			name:   "other-envoy-gateway",
			breaks: deployment(func(d *appsv1.Deployment) { d.Labels["app.kubernetes.io/version"] = "v1.8.2" }),
			mends:  deployment(func(d *appsv1.Deployment) { d.Labels["app.kubernetes.io/version"] = "v1.9.1" }),
			where:  "cluster1", hop: verify.HopEnvoyGateway, detail: []string{"v1.8.2", "tested with v1.9.1"}, fix: []string{"--version v1.9.1", "helm upgrade"},
		},
		{
			name:   "no-envoy-gateway",
			breaks: deployment(func(d *appsv1.Deployment) { delete(d.Labels, "control-plane") }),
			mends:  deployment(func(d *appsv1.Deployment) { d.Labels["control-plane"] = "envoy-gateway" }),
			where:  "cluster1", hop: verify.HopEnvoyGateway, detail: []string{"there is no Envoy Gateway"}, fix: []string{"helm install eg", "envoy-gateway-values.yaml"},
		},
		{
			name: "envoy-gateway-not-told-of-the-spoke",
			breaks: func(w *world) {
				edit(w, &corev1.ConfigMap{}, "envoy-gateway-system", "envoy-gateway-config", func(c *corev1.ConfigMap) { c.Data["envoy-gateway.yaml"] = "kind: EnvoyGateway" })
			},
			mends: func(w *world) {
				edit(w, &corev1.ConfigMap{}, "envoy-gateway-system", "envoy-gateway-config", func(c *corev1.ConfigMap) { c.Data["envoy-gateway.yaml"] = settings })
			},
			where: "cluster1", hop: verify.HopSettings, detail: []string{"no extensionManager"}, fix: []string{"helm upgrade eg"},
		},
		{
			name: "envoy-gateway-older-than-the-kinds",
			breaks: func(w *world) {
				w.pod("envoy-gateway-system", "envoy-gateway-0", map[string]string{"control-plane": "envoy-gateway"})
				p := &corev1.Pod{}
				w.must(w.client.Get(w.Context(), client.ObjectKey{Namespace: "envoy-gateway-system", Name: "envoy-gateway-0"}, p))
				p.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "c", State: corev1.ContainerState{
					Running: &corev1.ContainerStateRunning{StartedAt: metav1.NewTime(time.Now().Add(-time.Hour))},
				}}}
				w.must(w.client.Status().Update(w.Context(), p))
			},
			mends: func(w *world) { // it is restarted, and so is younger
				p := &corev1.Pod{}
				w.must(w.client.Get(w.Context(), client.ObjectKey{Namespace: "envoy-gateway-system", Name: "envoy-gateway-0"}, p))
				p.Status.ContainerStatuses[0].State.Running.StartedAt = metav1.Now()
				w.must(w.client.Status().Update(w.Context(), p))
			},
			where: "cluster1", hop: verify.HopSettings, detail: []string{"started before", "TailscaleEndpoints"},
			fix: []string{"kubectl --context kind-cluster1 --namespace envoy-gateway-system rollout restart deployment/envoy-gateway"},
		},
		{
			name: "no-spoke",
			breaks: func(w *world) {
				w.must(w.client.Delete(w.Context(), &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "tailgate-system", Name: "tailgate-spoke-0"}}, client.GracePeriodSeconds(0)))
			},
			mends: func(w *world) {
				w.pod("tailgate-system", "tailgate-spoke-0", map[string]string{"app.kubernetes.io/name": "tailgate-spoke"})
			},
			where: "kind-cluster1", hop: verify.HopSpoke, detail: []string{"no spoke in the namespace tailgate-system"}, fix: []string{"tailgate join"},
		},
		{
			name: "hub-away", breaks: func(w *world) { w.hub.err = errors.New("no hub is ready: pod tailgate-hub-0 is CrashLoopBackOff") },
			where: "hub", hop: verify.HopHub, detail: []string{"CrashLoopBackOff"}, fix: []string{"get pods"},
		},
		{
			name: "link-lost-as-the-hub-sees-it", breaks: func(w *world) { w.hub.status.Clusters[1].Link = operator.Signal{Reason: "silent"} },
			where: "cluster2", hop: verify.HopLink, detail: []string{"never", "silent"}, fix: []string{"--member"},
		},
		{
			name: "not-reached", breaks: func(w *world) {
				w.hub.status.Probes[0] = operator.Probe{Observer: "cluster1", Target: "cluster2", Error: "i/o timeout"}
			},
			where: "cluster2", hop: verify.HopProbes, detail: []string{"not reached by cluster1 (i/o timeout)"}, fix: []string{"grants"},
		},
		{
			name: "no-route", breaks: func(w *world) { w.envoy = http.NotFound },
			where: "cluster1", hop: verify.HopRequests, detail: []string{"2 of 2", "404 Not Found, as for any path without a route"}, fix: []string{"tailgate explain"},
		},
		{
			name: "no-endpoint", breaks: func(w *world) {
				w.envoy = func(rw http.ResponseWriter, r *http.Request) {
					if strings.Contains(r.URL.Path, "cluster2") {
						http.Error(rw, "no healthy upstream", http.StatusServiceUnavailable)
					}
				}
			},
			where: "cluster1", hop: verify.HopRequests, detail: []string{"1 of 2", "webapp.default.cluster2/: 503 Service Unavailable no healthy upstream"}, fix: []string{"tailgate explain"},
		},
		{
			name: "proxies-not-ready", breaks: func(w *world) {
				w.status["egressReady"], w.status["egressProblem"] = false, "no egress proxy is connected"
			},
			where: "cluster1", hop: verify.HopProxies, detail: []string{"egress: no egress proxy"}, fix: []string{"proxy-role=egress"},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			broken := *w
			broken.T, broken.hub = t, newHub()
			broken.status = maps.Clone(w.status)
			status, envoy := w.status, w.envoy
			tc.breaks(&broken)
			w.status, w.ahead, w.envoy = broken.status, broken.ahead, broken.envoy // the servers answer for the world
			all := broken.findings()
			w.status, w.ahead, w.envoy = status, 0, envoy
			if tc.mends != nil {
				tc.mends(w)
			}
			got := first(all)
			if got.Where != tc.where || got.Hop != tc.hop {
				t.Fatalf("the first that failed is %s of %s, want %s of %s:\n%s", got.Hop, got.Where, tc.hop, tc.where, printed(all))
			}
			for _, words := range tc.detail {
				if !strings.Contains(got.Detail, words) {
					t.Errorf("detail %q lacks %q", got.Detail, words)
				}
			}
			for _, words := range tc.fix {
				if !strings.Contains(got.Fix, words) {
					t.Errorf("fix %q lacks %q", got.Fix, words)
				}
			}
		})
	}
	if again := w.findings(); verify.Worst(again) != verify.OK {
		t.Errorf("once all is mended is said:\n%s", printed(again))
	}
}

// TestUnknownAgesHideNothing looks with rights that do not reach CRDs: what is known without them is still said.
func TestUnknownAgesHideNothing(t *testing.T) {
	for name, tc := range map[string]struct {
		hooks  string
		want   verify.Verdict
		detail string
	}{
		"not-told-of-the-spoke": {"", verify.Failed, "no extensionManager"},
		"told-of-the-spoke":     {"tailgate-spoke.tailgate-system.svc", verify.Skipped, "customresourcedefinitions is forbidden"},
	} {
		m := verify.Member{Context: "kind-cluster1", Spoke: verify.Spoke{Namespace: "tailgate-system"}, EnvoyGateway: verify.EnvoyGateway{
			Found: true, Version: "v1.9.1", Ready: 1, Replicas: 1, Hooks: tc.hooks, AgesErr: errors.New("customresourcedefinitions is forbidden"),
		}}
		all := verify.Judge(verify.Picture{Hub: verify.Hub{Err: errors.New("away")}, Members: []verify.Member{m}})
		i := slices.IndexFunc(all, func(f verify.Finding) bool { return f.Hop == verify.HopSettings })
		if i < 0 || all[i].Verdict != tc.want || !strings.Contains(all[i].Detail, tc.detail) {
			t.Errorf("%s: want %s with %q among\n%s", name, tc.want, tc.detail, printed(all))
		}
	}
}
