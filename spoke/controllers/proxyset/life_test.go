package proxyset_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tailgate-project/tailgate/api/v1alpha1"
	"github.com/tailgate-project/tailgate/e2e-kind/assets"
	"github.com/tailgate-project/tailgate/e2e-kind/kubelet"
	"github.com/tailgate-project/tailgate/e2e-kind/machine"
	"github.com/tailgate-project/tailgate/spoke/controllers/proxyset"
)

// node is what the stand-in of the kubelet is to do with pods.
type node struct {
	mu sync.Mutex
	// clinging are the pods that do not end.
	clinging map[string]bool
}

func (n *node) gone(pod string) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return !n.clinging[pod]
}

func (n *node) cling(pod string, yes bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.clinging[pod] = yes
}

// cluster starts what brings StatefulSets to life: the real controllers, and a stand-in of the kubelet.
func (f *fixture) cluster() *node {
	f.Helper()
	path, err := assets.FindControllerManager()
	f.must(err)
	supervisor := &machine.Supervisor{}
	_, err = kubelet.StartControllerManager(f.Context(), kubelet.ControllerManagerOptions{
		Path: path, Kubeconfig: f.api.AdminKubeconfig(), Dir: f.TempDir(), Supervisor: supervisor,
		Controllers: []string{"statefulset-controller", "endpointslice-controller", "disruption-controller", "garbage-collector-controller"},
	})
	f.must(err)
	n := &node{clinging: map[string]bool{}}
	pods := &kubelet.Pods{
		Config: f.api.RESTConfig(), Namespace: namespace, Addresses: netip.MustParsePrefix("10.50.0.0/24"), Log: slog.New(slog.DiscardHandler),
		Image: func(image string) bool { return !strings.Contains(image, "missing") }, Gone: n.gone,
	}
	ctx, cancel := context.WithCancel(f.Context())
	ended := make(chan error, 1)
	go func() { ended <- pods.Run(ctx) }()
	f.Cleanup(func() {
		cancel()
		f.must(errors.Join(<-ended, supervisor.Stop()))
	})
	return n
}

// TestLife has the real controllers of Kubernetes bring a set to life, replace its pods and take them away.
func TestLife(t *testing.T) {
	f := newFixture(t)
	n := f.cluster()
	defer f.start()()
	g := f.gateway("g", proxies{"production-tailnet": {ConnectionType: v1alpha1.ConnectionEgress, Replicas: new(int32(3))}})
	f.testAlive(g)
	f.testRolling(g)
	f.testScaleDown(n, g)
	f.testImageMissing(g)
	f.testEnd(n, g)
}

// pods are those of the set, with their addresses.
func (f *fixture) pods() map[string]string {
	f.Helper()
	var all corev1.PodList
	f.must(f.admin.List(f.Context(), &all, client.InNamespace(namespace)))
	out := map[string]string{}
	for _, p := range all.Items {
		out[p.Name] = p.Status.PodIP
	}
	return out
}

// behind are the ready addresses behind the set's headless Service, as the spoke reads them.
func (f *fixture) behind() []string {
	f.Helper()
	var all discoveryv1.EndpointSliceList
	f.must(f.admin.List(f.Context(), &all, client.InNamespace(namespace), client.MatchingLabels{discoveryv1.LabelServiceName: egress.String()}))
	var out []string
	for _, s := range all.Items {
		for _, p := range s.Ports {
			for _, e := range s.Endpoints {
				if e.Conditions.Ready != nil && *e.Conditions.Ready {
					out = append(out, fmt.Sprintf("%s %s %s:%d", e.TargetRef.Name, *p.Name, e.Addresses[0], *p.Port))
				}
			}
		}
	}
	slices.Sort(out)
	return out
}

func (f *fixture) wantBehind() {
	f.Helper()
	f.eventually("the addresses behind the Service", func() error {
		var want []string
		for name, ip := range f.pods() {
			want = append(want, fmt.Sprintf("%s status %s:8086", name, ip))
		}
		slices.Sort(want)
		if d := cmp.Diff(want, f.behind()); d != "" {
			return fmt.Errorf("(-want +got)\n%s", d)
		}
		return nil
	})
}

func (f *fixture) testAlive(g *v1alpha1.TailscaleGateway) {
	f.status(egress, func(s proxyset.Status) bool { return s.Wanted == 3 && s.Ready == 3 && s.Reason == "" })
	f.condition(g, metav1.ConditionTrue, v1alpha1.ReasonProxiesReady, "")
	want := []string{egress.String() + "-0", egress.String() + "-1", egress.String() + "-2"}
	if d := cmp.Diff(want, slices.Sorted(maps.Keys(f.pods()))); d != "" {
		f.Errorf("pods (-want +got)\n%s", d)
	}
	f.wantBehind()
	f.eventually("a budget that lets one pod go", func() error {
		var budget policyv1.PodDisruptionBudget
		f.must(f.admin.Get(f.Context(), client.ObjectKey{Namespace: namespace, Name: egress.String()}, &budget))
		if budget.Status.ExpectedPods != 3 || budget.Status.DisruptionsAllowed != 1 {
			return fmt.Errorf("%+v", budget.Status)
		}
		return nil
	})
	f.settled()
}

// testRolling: of three replicas two serve at every moment, and each is replaced once.
func (f *fixture) testRolling(g *v1alpha1.TailscaleGateway) {
	watching, err := client.NewWithWatch(f.api.RESTConfig(), client.Options{Scheme: f.scheme})
	f.must(err)
	w, err := watching.Watch(f.Context(), &corev1.PodList{}, client.InNamespace(namespace))
	f.must(err)
	defer w.Stop()
	const image = "registry.example.com/mirror:v2"
	f.want(g, proxies{"production-tailnet": {ConnectionType: v1alpha1.ConnectionEgress, Replicas: new(int32(3)), Image: image}})
	serving, least := map[string]bool{}, 3
	var order []string
	var last time.Time
	var soonest time.Duration
	complete := false
	f.eventually("all pods to be replaced", func() error {
		for {
			select {
			case e := <-w.ResultChan():
				pod, ok := e.Object.(*corev1.Pod)
				if !ok {
					return fmt.Errorf("watch: %v", e.Object)
				}
				if e.Type != watch.Deleted && pod.DeletionTimestamp == nil && ready(pod) {
					serving[pod.Name] = true
				} else {
					delete(serving, pod.Name)
				}
				if e.Type == watch.Deleted {
					if now := time.Now(); len(order) > 0 && (soonest == 0 || now.Sub(last) < soonest) {
						soonest = now.Sub(last)
					}
					order, last = append(order, pod.Name), time.Now()
				}
				if complete = complete || len(serving) == 3; complete { // the watch begins with what there is
					least = min(least, len(serving))
				}
			default:
				var all corev1.PodList
				f.must(f.admin.List(f.Context(), &all, client.InNamespace(namespace)))
				for i := range all.Items {
					if all.Items[i].Spec.Containers[0].Image != image || !ready(&all.Items[i]) {
						return fmt.Errorf("pod %s is of %s", all.Items[i].Name, all.Items[i].Spec.Containers[0].Image)
					}
				}
				if len(order) < 3 {
					return fmt.Errorf("gone so far: %q", order)
				}
				return nil
			}
		}
	})
	if least != 2 {
		f.Errorf("at one moment %d of 3 replicas served, want 2 at least", least)
	}
	if soonest < 9*time.Second {
		f.Errorf("a replica was replaced %s after the one before it, which has no time to take over", soonest)
	}
	if d := cmp.Diff([]string{egress.String() + "-2", egress.String() + "-1", egress.String() + "-0"}, order); d != "" {
		f.Errorf("replaced in this order (-want +got)\n%s", d)
	}
	f.wantBehind()
	f.wantObjects(egress.Tailnet, egress.Role, whole(egress.String(), 3))
	f.settled()
}

func ready(pod *corev1.Pod) bool {
	return slices.ContainsFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool { return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue })
}

// testScaleDown: a replica's Secret goes after its pod, and not before.
func (f *fixture) testScaleDown(n *node, g *v1alpha1.TailscaleGateway) {
	last := egress.String() + "-2"
	n.cling(last, true)
	f.want(g, proxies{"production-tailnet": {ConnectionType: v1alpha1.ConnectionEgress, Replicas: new(int32(2)), Image: "registry.example.com/mirror:v2"}})
	f.eventually("the last pod to be told to end", func() error {
		var pod corev1.Pod
		f.must(f.admin.Get(f.Context(), client.ObjectKey{Namespace: namespace, Name: last}, &pod))
		if pod.DeletionTimestamp == nil {
			return errors.New("it goes on")
		}
		return nil
	})
	f.settled()
	f.wantObjects(egress.Tailnet, egress.Role, whole(egress.String(), 3))
	n.cling(last, false)
	f.wantObjects(egress.Tailnet, egress.Role, whole(egress.String(), 2))
	f.wantBehind()
	f.status(egress, func(s proxyset.Status) bool { return s.Wanted == 2 && s.Ready == 2 && s.Reason == "" })
	f.settled()
}

// testImageMissing: one replica stays as it was, and the user learns what the other lacks.
func (f *fixture) testImageMissing(g *v1alpha1.TailscaleGateway) {
	f.want(g, proxies{"production-tailnet": {ConnectionType: v1alpha1.ConnectionEgress, Replicas: new(int32(2)), Image: "registry.example.com/missing:v3"}})
	f.condition(g, metav1.ConditionTrue, v1alpha1.ReasonProxiesReady, "1 of 2 egress proxies for TailscaleTailnet production-tailnet are ready: pod "+egress.String()+"-1 does not start: "+
		`ImagePullBackOff: Back-off pulling image "registry.example.com/missing:v3"`)
	f.status(egress, func(s proxyset.Status) bool {
		return s.Wanted == 2 && s.Ready == 1 && s.Reason == v1alpha1.ReasonProxiesNotReady
	})
	f.settled()
}

// testEnd: proxies that end keep what they need for that, and then nothing is left.
func (f *fixture) testEnd(n *node, g *v1alpha1.TailscaleGateway) {
	first := egress.String() + "-0"
	n.cling(first, true)
	f.must(f.admin.Delete(f.Context(), g))
	f.eventually("the StatefulSet to go", func() error {
		if got := f.objects(egress.Tailnet, egress.Role); slices.Contains(got, "StatefulSet/"+egress.String()) {
			return fmt.Errorf("there are %q", got)
		}
		return nil
	})
	f.eventually("only the first pod to be left", func() error {
		if got := slices.Sorted(maps.Keys(f.pods())); !slices.Equal(got, []string{first}) {
			return fmt.Errorf("there are %q", got)
		}
		return nil
	})
	f.settled()
	proxy, err := client.New(f.as(egress.String()), client.Options{Scheme: f.scheme})
	f.must(err)
	var s corev1.Secret
	f.must(proxy.Get(f.Context(), client.ObjectKey{Namespace: namespace, Name: first}, &s))
	s.Data = map[string][]byte{"last": []byte("word")}
	f.must(proxy.Update(f.Context(), &s))
	n.cling(first, false)
	f.wantObjects(egress.Tailnet, egress.Role, nil)
	if err := f.admin.Get(f.Context(), client.ObjectKeyFromObject(&s), &s); !apierrors.IsNotFound(err) {
		f.Errorf("the Secret: %v, want not found", err)
	}
}
