package failoverpolicy_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	eventsv1 "k8s.io/api/events/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/config"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"
	"sigs.k8s.io/yaml"

	"github.com/tailgate-project/tailgate/api/v1alpha1"
	"github.com/tailgate-project/tailgate/e2e-kind/controlplane"
	"github.com/tailgate-project/tailgate/federation/policy"
	"github.com/tailgate-project/tailgate/hub/controllers/failoverpolicy"
)

const (
	crd      = "../../../deploy/crds/gateway.tailscale.com_failoverpolicies.yaml"
	dataGlob = "../../../api/v1alpha1/testdata/failoverpolicy/good*.yaml"
	patience = 2 * time.Minute
)

func TestMain(m *testing.M) {
	ctrl.SetLogger(logr.Discard())
	os.Exit(m.Run())
}

// TestReconciler runs the reconciler against a real API server. Each test leaves no FailoverPolicy behind.
func TestReconciler(t *testing.T) {
	api := controlplane.ForTest(t)
	if err := api.ApplyFiles(t.Context(), filepath.FromSlash(crd)); err != nil {
		t.Fatal(err)
	}
	scheme := runtime.NewScheme()
	if err := errors.Join(clientgoscheme.AddToScheme(scheme), v1alpha1.AddToScheme(scheme)); err != nil {
		t.Fatal(err)
	}
	admin, err := client.NewWithWatch(api.RESTConfig(), client.Options{Scheme: scheme})
	if err != nil {
		t.Fatal(err)
	}
	f := &fixture{api: api, scheme: scheme, admin: admin}
	t.Run("a-hub-without-policies-is-told-so", f.testNone)
	t.Run("defaults-are-those-of-the-core", f.testDefaults)
	t.Run("all-that-the-schema-takes-for-good-is-accepted", f.testGood)
	t.Run("invalid-is-named-and-mended", f.testMended)
}

type fixture struct {
	api    *controlplane.ControlPlane
	scheme *runtime.Scheme
	admin  client.WithWatch
}

func (f *fixture) testNone(t *testing.T) {
	sets := f.run(t)
	if diff := cmp.Diff(given{fallback: policy.Default()}, sets.next(t), compare); diff != "" {
		t.Errorf("what the hub is told (-want +got):\n%s", diff)
	}
}

// testDefaults keeps the defaults of the schema equal to those of the core.
func (f *fixture) testDefaults(t *testing.T) {
	sets := f.run(t)
	f.create(t, "default", v1alpha1.FailoverPolicySpec{})
	web := policy.Default()
	web.Name, web.Select.Names = "web", []string{"web"}
	o := f.create(t, "web", v1alpha1.FailoverPolicySpec{Services: named("web")})
	sets.await(t, given{fallback: policy.Default(), policies: []policy.Policy{web}})
	if o.Spec.MinHealthyPercent == 0 || o.Spec.Grace == nil || o.Spec.FailbackDelay == nil || o.Spec.Hold == nil || o.Spec.Ramp == nil {
		t.Errorf("the API server left defaults out of %+v, so that the core's are not compared with its", o.Spec)
	}
	f.await(t, "default", metav1.ConditionTrue, v1alpha1.ReasonAccepted)
	f.await(t, "web", metav1.ConditionTrue, v1alpha1.ReasonAccepted)
}

// testGood creates the good objects of the API's tests, one after another.
func (f *fixture) testGood(t *testing.T) {
	f.run(t)
	files, err := filepath.Glob(dataGlob)
	if err != nil || len(files) == 0 {
		t.Fatalf("%d files match %s: %v", len(files), dataGlob, err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".yaml"), func(t *testing.T) {
			raw, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			o := &v1alpha1.FailoverPolicy{}
			if err := yaml.UnmarshalStrict(raw, o); err != nil {
				t.Fatal(err)
			}
			f.create(t, o.Name, o.Spec)
			f.await(t, o.Name, metav1.ConditionTrue, v1alpha1.ReasonAccepted)
		})
	}
}

// testMended has an object of which only the core can tell that it is wrong.
func (f *fixture) testMended(t *testing.T) {
	sets := f.run(t)
	eu := v1alpha1.FailoverPlace{Region: "eu"}
	zone := v1alpha1.FailoverPlace{Region: "eu", Zone: "a"}
	f.create(t, "web", v1alpha1.FailoverPolicySpec{Services: named("web"), Order: []v1alpha1.FailoverPlace{eu, zone}})
	c := f.await(t, "web", metav1.ConditionFalse, v1alpha1.ReasonInvalid)
	const want = "order[1], zone a of region eu, is never reached"
	if !strings.Contains(c.Message, want) {
		t.Errorf("message %q does not say %q", c.Message, want)
	}
	f.awaitEvent(t, want)
	sets.await(t, given{fallback: policy.Default()})

	o := f.get(t, "web")
	o.Spec.Order = []v1alpha1.FailoverPlace{zone, eu}
	if err := f.admin.Update(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	f.await(t, "web", metav1.ConditionTrue, v1alpha1.ReasonAccepted)
	web := policy.Default()
	web.Name, web.Select.Names = "web", []string{"web"}
	web.Order = []policy.Place{{Region: "eu", Zone: "a"}, {Region: "eu"}}
	sets.await(t, given{fallback: policy.Default(), policies: []policy.Policy{web}})

	if err := f.admin.Delete(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	sets.await(t, given{fallback: policy.Default()})
}

// given is what a hub is told.
type given struct {
	fallback policy.Policy
	policies []policy.Policy
}

// compare compares givens; what is empty and what is not there are the same.
var compare = cmp.Options{cmp.AllowUnexported(given{}), cmpopts.EquateEmpty()}

// sets are what a hub is told, one after another.
type sets chan given

func (s sets) SetPolicies(ctx context.Context, fallback policy.Policy, policies []policy.Policy) error {
	select {
	case s <- given{fallback, policies}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (s sets) next(t *testing.T) given {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	select {
	case g := <-s:
		return g
	case <-ctx.Done():
		t.Fatal("the hub was told nothing")
		return given{}
	}
}

// await waits until the hub is told what is wanted.
func (s sets) await(t *testing.T, want given) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var last given
	for {
		select {
		case last = <-s:
			if cmp.Equal(want, last, compare) {
				return
			}
		case <-ctx.Done():
			t.Fatalf("timed out, what the hub was told last (-want +got):\n%s", cmp.Diff(want, last, compare))
		}
	}
}

// run runs a reconciler for as long as the test lasts.
func (f *fixture) run(t *testing.T) sets {
	t.Helper()
	mgr, err := ctrl.NewManager(f.api.RESTConfig(), ctrl.Options{
		Scheme: f.scheme, Metrics: metricsserver.Options{BindAddress: "0"}, Controller: config.Controller{SkipNameValidation: new(true)},
	})
	if err != nil {
		t.Fatal(err)
	}
	out := make(sets, 1000) // more than any test makes, so that nobody waits for a reader
	if err := failoverpolicy.New(failoverpolicy.Options{Client: mgr.GetClient(), Policies: out}).AddTo(mgr); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- mgr.Start(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return out
}

// create makes an object that goes with the test.
func (f *fixture) create(t *testing.T, name string, spec v1alpha1.FailoverPolicySpec) *v1alpha1.FailoverPolicy {
	t.Helper()
	o := &v1alpha1.FailoverPolicy{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: spec}
	if err := f.admin.Create(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := client.IgnoreNotFound(f.admin.Delete(context.WithoutCancel(t.Context()), o)); err != nil {
			t.Error(err)
		}
	})
	return o.DeepCopy()
}

func (f *fixture) get(t *testing.T, name string) *v1alpha1.FailoverPolicy {
	t.Helper()
	o := &v1alpha1.FailoverPolicy{}
	if err := f.admin.Get(t.Context(), client.ObjectKey{Name: name}, o); err != nil {
		t.Fatal(err)
	}
	return o
}

// await waits for the condition of an object.
func (f *fixture) await(t *testing.T, name string, status metav1.ConditionStatus, reason string) metav1.Condition {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	w, err := f.admin.Watch(ctx, &v1alpha1.FailoverPolicyList{}, client.MatchingFields{"metadata.name": name})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	var last *v1alpha1.FailoverPolicy
	for e := range w.ResultChan() {
		o, ok := e.Object.(*v1alpha1.FailoverPolicy)
		if !ok {
			continue
		}
		last = o
		c := meta.FindStatusCondition(o.Status.Conditions, v1alpha1.ConditionAccepted)
		if c != nil && c.Status == status && c.Reason == reason && c.ObservedGeneration == o.Generation && c.Message != "" {
			return *c
		}
	}
	t.Fatalf("timed out, the object is %+v", last)
	return metav1.Condition{}
}

// awaitEvent waits for a warning that says something.
func (f *fixture) awaitEvent(t *testing.T, want string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	w, err := f.admin.Watch(ctx, &eventsv1.EventList{})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	for e := range w.ResultChan() {
		if o, ok := e.Object.(*eventsv1.Event); ok && o.Type == "Warning" && o.Reason == v1alpha1.ReasonInvalid && strings.Contains(o.Note, want) {
			return
		}
	}
	t.Fatalf("timed out, no Event says %q", want)
}
