package proxyset_test

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/rest"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/config"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"github.com/tailgate-project/tailgate/api/v1alpha1"
	"github.com/tailgate-project/tailgate/e2e-kind/controlplane"
	"github.com/tailgate-project/tailgate/spoke"
	"github.com/tailgate-project/tailgate/spoke/controllers"
	"github.com/tailgate-project/tailgate/spoke/controllers/proxyset"
)

func TestMain(m *testing.M) {
	ctrl.SetLogger(logr.Discard())
	os.Exit(m.Run())
}

const (
	patience  = 2 * time.Minute
	namespace = "tailgate-system"
)

// account is the spoke's, with the rights that deploy/rbac gives and no others.
const account = `apiVersion: v1
kind: Namespace
metadata: {name: tailgate-system, labels: {pod-security.kubernetes.io/enforce: restricted}}
---
apiVersion: v1
kind: Namespace
metadata: {name: envoy-gateway-system}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: tailgate-spoke, namespace: tailgate-system}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: tailgate-spoke}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: tailgate-spoke}
subjects: [{kind: ServiceAccount, namespace: tailgate-system, name: tailgate-spoke}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: tailgate-spoke, namespace: tailgate-system}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: tailgate-spoke}
subjects: [{kind: ServiceAccount, namespace: tailgate-system, name: tailgate-spoke}]
`

// template is the set's pod.
func template(t *testing.T, s proxyset.Set) corev1.PodTemplateSpec {
	t.Helper()
	for _, o := range proxyset.Objects(s) {
		if sts, ok := o.(*appsv1.StatefulSet); ok {
			return sts.Spec.Template
		}
	}
	t.Fatal("the set has no StatefulSet")
	return corev1.PodTemplateSpec{}
}

// requests remembers the requests that write, and what Secrets are read with.
type requests struct {
	next http.RoundTripper
	f    *fixture
}

func (r requests) RoundTrip(req *http.Request) (*http.Response, error) {
	r.f.mu.Lock()
	if req.Method != http.MethodGet {
		r.f.writes = append(r.f.writes, req.Method+" "+req.URL.Path)
	} else if strings.Contains(req.URL.Path, "/secrets") && !strings.Contains(req.Header.Get("Accept"), "PartialObjectMetadata") {
		r.f.opened = append(r.f.opened, req.URL.Path)
	}
	r.f.mu.Unlock()
	return r.next.RoundTrip(req)
}

type fixture struct {
	*testing.T
	api    *controlplane.ControlPlane
	admin  client.Client
	scheme *runtime.Scheme

	reconciler *proxyset.Reconciler
	// other is a reconciler of the same cache and rights that nobody but the test calls.
	other *proxyset.Reconciler

	mu      sync.Mutex
	writes  []string
	opened  []string
	events  []string
	changes int
}

func (f *fixture) must(err error) {
	f.Helper()
	if err != nil {
		f.Fatal(err)
	}
}

func (f *fixture) eventually(what string, check func() error) {
	f.Helper()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for {
		err := check()
		if err == nil {
			return
		}
		select {
		case <-deadline.C:
			f.Fatalf("%s: %v", what, err)
		case <-ticker.C:
		}
	}
}

func newFixture(t *testing.T) *fixture {
	f := &fixture{T: t, api: controlplane.ForTest(t)}
	crds, err := filepath.Glob("../../../deploy/crds/*.yaml")
	f.must(err)
	f.must(f.api.ApplyYAML(t.Context(), []byte(account)))
	f.must(f.api.ApplyFiles(t.Context(), append(crds, "../../../deploy/rbac/spoke-role.yaml")...))
	f.scheme, err = controllers.Scheme()
	f.must(err)
	f.admin, err = client.New(f.api.RESTConfig(), client.Options{Scheme: f.scheme})
	f.must(err)
	return f
}

// as is a configuration with the rights of a service account.
func (f *fixture) as(name string) *rest.Config {
	f.Helper()
	token, err := f.api.ServiceAccountToken(f.Context(), namespace, name)
	f.must(err)
	admin := f.api.RESTConfig()
	return &rest.Config{Host: admin.Host, BearerToken: token, TLSClientConfig: rest.TLSClientConfig{CAData: admin.CAData}, QPS: -1}
}

// start starts a spoke's reconciler; what is returned ends it.
func (f *fixture) start() (stop func()) {
	f.Helper()
	cfg := f.as("tailgate-spoke")
	cfg.Wrap(func(next http.RoundTripper) http.RoundTripper { return requests{next, f} })
	mgr, err := ctrl.NewManager(cfg, ctrl.Options{
		Scheme: f.scheme, Logger: logr.FromSlogHandler(slog.DiscardHandler), Metrics: metricsserver.Options{BindAddress: "0"}, HealthProbeBindAddress: "0",
		Cache:      cache.Options{DefaultTransform: cache.TransformStripManagedFields(), ByObject: proxyset.CacheOptions(namespace)},
		Controller: config.Controller{SkipNameValidation: new(true)},
	})
	f.must(err)
	f.reconciler = &proxyset.Reconciler{
		Client: mgr.GetClient(), Live: mgr.GetAPIReader(), Options: options(),
		Changed: func() {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.changes++
		},
		Record: func(o client.Object, kind, reason, message string) {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.events = append(f.events, fmt.Sprintf("%s %s/%s %s: %s", kind, o.GetNamespace(), o.GetName(), reason, message))
		},
	}
	f.must(f.reconciler.SetupWithManager(mgr))
	f.other = &proxyset.Reconciler{Client: mgr.GetClient(), Live: mgr.GetAPIReader(), Options: options()}
	ctx, cancel := context.WithCancel(f.Context())
	ended := make(chan error, 1)
	go func() { ended <- mgr.Start(ctx) }()
	return sync.OnceFunc(func() {
		cancel()
		f.must(<-ended)
	})
}

// written are the requests that wrote since the last call.
func (f *fixture) written() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := f.writes
	f.writes = nil
	return out
}

// settled waits until passes write no more, and fails where they never end to.
func (f *fixture) settled() {
	f.Helper()
	f.eventually("passes without a write", func() error {
		f.written()
		for range 3 {
			if _, err := f.other.Reconcile(f.Context(), ctrl.Request{}); err != nil {
				return err
			}
		}
		if writes := f.written(); len(writes) > 0 {
			return fmt.Errorf("passes go on writing: %q", writes)
		}
		return nil
	})
}

// told waits for an Event that begins and goes on so.
func (f *fixture) told(begins, has string) {
	f.Helper()
	f.eventually("an Event", func() error {
		f.mu.Lock()
		defer f.mu.Unlock()
		n := 0
		for _, e := range f.events {
			if strings.HasPrefix(e, begins) && strings.Contains(e, has) {
				n++
			}
		}
		if n != 1 {
			return fmt.Errorf("%d Events begin with %q and have %q: %q", n, begins, has, f.events)
		}
		return nil
	})
}

// objects are the names of all that there is of a set, as kind/name, sorted.
func (f *fixture) objects(tailnet string, role spoke.Role) []string {
	f.Helper()
	var out []string
	for kind, list := range map[string]client.ObjectList{
		"Secret": &corev1.SecretList{}, "ServiceAccount": &corev1.ServiceAccountList{}, "Role": &rbacv1.RoleList{}, "RoleBinding": &rbacv1.RoleBindingList{},
		"Service": &corev1.ServiceList{}, "StatefulSet": &appsv1.StatefulSetList{}, "PodDisruptionBudget": &policyv1.PodDisruptionBudgetList{},
	} {
		f.must(f.admin.List(f.Context(), list, client.InNamespace(namespace), client.MatchingLabels{
			v1alpha1.LabelTailnet: tailnet, v1alpha1.LabelProxyRole: string(role), "app.kubernetes.io/managed-by": "tailgate-spoke",
		}))
		f.must(meta.EachListItem(list, func(o runtime.Object) error {
			out = append(out, kind+"/"+o.(client.Object).GetName())
			return nil
		}))
	}
	slices.Sort(out)
	return out
}

// whole are the objects of a set with so many Secrets.
func whole(name string, secrets int) []string {
	out := []string{"PodDisruptionBudget/" + name, "Role/" + name, "RoleBinding/" + name}
	for i := range secrets {
		out = append(out, fmt.Sprintf("Secret/%s-%d", name, i))
	}
	out = append(out, "Service/"+name, "ServiceAccount/"+name, "StatefulSet/"+name)
	slices.Sort(out)
	return out
}

func (f *fixture) wantObjects(tailnet string, role spoke.Role, want []string) {
	f.Helper()
	f.eventually(fmt.Sprintf("the objects of the %s proxies of %s", role, tailnet), func() error {
		if got := f.objects(tailnet, role); !slices.Equal(got, want) {
			return fmt.Errorf("got %q, want %q", got, want)
		}
		return nil
	})
}

// gateway makes a TailscaleGateway for the tailnets, of the proxies that are given.
func (f *fixture) gateway(name string, proxies map[string]*v1alpha1.ProxyConfig) *v1alpha1.TailscaleGateway {
	f.Helper()
	t := &v1alpha1.TailscaleGateway{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
		Spec:       v1alpha1.TailscaleGatewaySpec{GatewayRef: v1alpha1.GatewayReference{Name: name}, Tailnets: tailnets(proxies)},
	}
	f.must(f.admin.Create(f.Context(), t))
	return t
}

func tailnets(proxies map[string]*v1alpha1.ProxyConfig) []v1alpha1.TailnetConfig {
	var out []v1alpha1.TailnetConfig
	for tailnet, proxy := range proxies {
		out = append(out, v1alpha1.TailnetConfig{Name: tailnet, TailscaleTailnetRef: v1alpha1.TailnetReference{Name: tailnet}, Proxy: proxy})
	}
	slices.SortFunc(out, func(a, b v1alpha1.TailnetConfig) int { return strings.Compare(a.Name, b.Name) })
	return out
}

// want changes what a TailscaleGateway wants.
func (f *fixture) want(t *v1alpha1.TailscaleGateway, proxies map[string]*v1alpha1.ProxyConfig) {
	f.Helper()
	before := t.DeepCopy()
	t.Spec.Tailnets = tailnets(proxies)
	f.must(f.admin.Patch(f.Context(), t, client.MergeFrom(before)))
}

func (f *fixture) statefulSet(name string) *appsv1.StatefulSet {
	f.Helper()
	var out appsv1.StatefulSet
	f.must(f.admin.Get(f.Context(), client.ObjectKey{Namespace: namespace, Name: name}, &out))
	return &out
}

// status waits until a set's status passes a check.
func (f *fixture) status(key proxyset.Key, check func(proxyset.Status) bool) {
	f.Helper()
	f.eventually("the status of "+key.String(), func() error {
		status, ok := f.reconciler.Statuses()[key]
		if !ok || !check(status) {
			return fmt.Errorf("it is %+v", status)
		}
		return nil
	})
}

// condition waits until the condition of a TailscaleGateway is so.
func (f *fixture) condition(t *v1alpha1.TailscaleGateway, status metav1.ConditionStatus, reason, has string) {
	f.Helper()
	f.eventually("the condition of "+t.Name, func() error {
		c := f.reconciler.Statuses().Condition(t)
		if c.Status != status || c.Reason != reason || !strings.Contains(c.Message, has) {
			return fmt.Errorf("%+v, want %s for %s with %q", c, status, reason, has)
		}
		return nil
	})
}
