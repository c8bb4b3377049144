package failoverpolicy_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/tailgate-project/tailgate/api/v1alpha1"
	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/federation/policy"
	"github.com/tailgate-project/tailgate/hub/controllers/failoverpolicy"
)

// told is a hub that remembers what it was told last, and may refuse it.
type told struct {
	fallback policy.Policy
	policies []policy.Policy
	times    int
	err      error
}

func (h *told) SetPolicies(_ context.Context, fallback policy.Policy, policies []policy.Policy) error {
	h.fallback, h.policies = fallback, policies
	h.times++
	return h.err
}

// desk is a reconciler on a cluster that holds what it was given, without an API server's validation.
type desk struct {
	*testing.T
	client.Client
	hub        told
	events     []string
	now        time.Time
	reconciler *failoverpolicy.Reconciler
	funcs      interceptor.Funcs
}

func newDesk(t *testing.T, objects ...client.Object) *desk {
	t.Helper()
	scheme := runtime.NewScheme()
	if err := v1alpha1.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	d := &desk{T: t, now: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)}
	d.Client = fake.NewClientBuilder().WithScheme(scheme).WithObjects(objects...).WithStatusSubresource(&v1alpha1.FailoverPolicy{}).
		WithInterceptorFuncs(interceptor.Funcs{
			List: func(ctx context.Context, c client.WithWatch, l client.ObjectList, opts ...client.ListOption) error {
				if d.funcs.List != nil {
					return d.funcs.List(ctx, c, l, opts...)
				}
				return c.List(ctx, l, opts...)
			},
			SubResourceUpdate: func(ctx context.Context, c client.Client, sub string, o client.Object, opts ...client.SubResourceUpdateOption) error {
				if d.funcs.SubResourceUpdate != nil {
					if err := d.funcs.SubResourceUpdate(ctx, c, sub, o, opts...); err != nil {
						return err
					}
				}
				return c.SubResource(sub).Update(ctx, o, opts...)
			},
		}).Build()
	d.reconciler = failoverpolicy.New(failoverpolicy.Options{
		Client: d.Client, Policies: &d.hub, Now: func() time.Time { return d.now },
		Record: func(o client.Object, reason, message string) {
			d.events = append(d.events, fmt.Sprintf("%s %s %s", o.GetName(), reason, message))
		},
	})
	return d
}

func (d *desk) reconcile() (ctrl.Result, error) {
	return d.reconciler.Reconcile(d.Context(), ctrl.Request{})
}

func (d *desk) mustReconcile() {
	d.Helper()
	if result, err := d.reconcile(); err != nil || result != (ctrl.Result{}) {
		d.Fatalf("Reconcile = %+v, %v", result, err)
	}
}

func (d *desk) get(name string) *v1alpha1.FailoverPolicy {
	d.Helper()
	o := &v1alpha1.FailoverPolicy{}
	if err := d.Get(d.Context(), types.NamespacedName{Name: name}, o); err != nil {
		d.Fatal(err)
	}
	return o
}

// wantAccepted checks the condition of an object, and returns its message.
func (d *desk) wantAccepted(name string, status metav1.ConditionStatus, reason string) string {
	d.Helper()
	o := d.get(name)
	c := meta.FindStatusCondition(o.Status.Conditions, v1alpha1.ConditionAccepted)
	if c == nil || c.Status != status || c.Reason != reason || c.ObservedGeneration != o.Generation || o.Status.ObservedGeneration != o.Generation {
		d.Fatalf("status of %s = %+v, want Accepted %s for %s", name, o.Status, status, reason)
	}
	return c.Message
}

// object returns a FailoverPolicy.
func object(name string, spec v1alpha1.FailoverPolicySpec) *v1alpha1.FailoverPolicy {
	return &v1alpha1.FailoverPolicy{ObjectMeta: metav1.ObjectMeta{Name: name, Generation: 3}, Spec: spec}
}

func named(names ...string) *v1alpha1.FailoverServices {
	return &v1alpha1.FailoverServices{Names: names}
}

func (h *told) want(t *testing.T, fallback policy.Policy, policies ...policy.Policy) {
	t.Helper()
	if diff := cmp.Diff(fallback, h.fallback, cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("fallback (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(policies, h.policies, cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("policies (-want +got):\n%s", diff)
	}
}

func TestNoObjects(t *testing.T) {
	d := newDesk(t)
	d.mustReconcile()
	if d.hub.want(t, policy.Default()); d.hub.times != 1 {
		t.Errorf("the hub was told %d times, want once", d.hub.times)
	}
}

// TestEveryFieldCounts also shows that what the hub is told does not change with the object.
func TestEveryFieldCounts(t *testing.T) {
	spec := v1alpha1.FailoverPolicySpec{
		Services: &v1alpha1.FailoverServices{
			Namespaces: []string{"shop"}, Names: []string{"web", "edge/https"}, MatchLabels: map[string]v1alpha1.FailoverLabelValue{"tier": "1"},
		},
		Consumers: []v1alpha1.ClusterName{"c1", "c2"},
		Order:     []v1alpha1.FailoverPlace{{Cluster: "c3"}, {Region: "eu", Zone: "eu-1"}},
		Weights:   []v1alpha1.FailoverWeight{{FailoverPlace: v1alpha1.FailoverPlace{Region: "eu"}, Weight: 1000}, {FailoverPlace: v1alpha1.FailoverPlace{Cluster: "c3"}}},

		MinHealthyPercent: 100,
		Grace:             &metav1.Duration{Duration: time.Second}, FailbackDelay: &metav1.Duration{},
		Hold: &metav1.Duration{Duration: 24 * time.Hour}, Ramp: &metav1.Duration{Duration: time.Millisecond},
	}
	d := newDesk(t, object("full", spec), object("default", v1alpha1.FailoverPolicySpec{MinHealthyPercent: 70, Ramp: &metav1.Duration{}}))
	d.funcs.SubResourceUpdate = func(_ context.Context, _ client.Client, _ string, o client.Object, _ ...client.SubResourceUpdateOption) error {
		scribble(&o.(*v1alpha1.FailoverPolicy).Spec) // as the answer may do, which is read into the same object
		return nil
	}
	d.mustReconcile()
	fallback := policy.Default()
	fallback.MinHealthy, fallback.Ramp = 70, 0
	d.hub.want(t, fallback, policy.Policy{
		Name: "full",
		Select: policy.Selector{
			Namespaces: []string{"shop"}, Names: []string{"web", "edge/https"}, Labels: map[string]string{"tier": "1"}, Consumers: []federation.ClusterID{"c1", "c2"},
		},
		Order:      []policy.Place{{Cluster: "c3"}, {Region: "eu", Zone: "eu-1"}},
		Weights:    []policy.Weight{{Place: policy.Place{Region: "eu"}, Weight: 1000}, {Place: policy.Place{Cluster: "c3"}}},
		MinHealthy: 100, Times: policy.Times{Grace: time.Second, Hold: 24 * time.Hour, Ramp: time.Millisecond},
	})
	d.wantAccepted("full", metav1.ConditionTrue, v1alpha1.ReasonAccepted)
	if m := d.wantAccepted("default", metav1.ConditionTrue, v1alpha1.ReasonAccepted); !strings.Contains(m, "clusters as a whole") {
		t.Errorf("message %q does not say what the default is for", m)
	}
}

// scribble writes over all that a spec's pointers, slices and maps lead to.
func scribble(s *v1alpha1.FailoverPolicySpec) {
	if x := s.Services; x != nil {
		x.Namespaces[0], x.Names[0], x.MatchLabels["tier"] = "scribble", "scribble", "scribble"
	}
	for i := range s.Consumers {
		s.Consumers[i] = "scribble"
	}
	for i := range s.Order {
		s.Order[i] = v1alpha1.FailoverPlace{Cluster: "scribble"}
	}
	for i := range s.Weights {
		s.Weights[i] = v1alpha1.FailoverWeight{FailoverPlace: v1alpha1.FailoverPlace{Cluster: "scribble"}}
	}
	s.Ramp.Duration = time.Nanosecond
}

// TestInvalidOnesStandAlone has one that is right among those that are wrong in ways that the API server may not know,
// as it does after an upgrade of the CRD.
func TestInvalidOnesStandAlone(t *testing.T) {
	long := &metav1.Duration{Duration: 48 * time.Hour}
	bad := map[string]struct {
		spec v1alpha1.FailoverPolicySpec
		want string
	}{
		"default":         {v1alpha1.FailoverPolicySpec{Hold: long}, "hold 48h0m0s: set 0s to 24h; until that is mended, the hub's own default counts"},
		"two":             {v1alpha1.FailoverPolicySpec{Services: named("a b"), Hold: long}, `services.names[0] "a b": use 1 to 63 lower case letters`},
		"negative-weight": {v1alpha1.FailoverPolicySpec{Services: named("web"), Weights: []v1alpha1.FailoverWeight{{FailoverPlace: v1alpha1.FailoverPlace{Region: "eu"}, Weight: -1}}}, "weights[0].weight -1: set 0 to 1000"},
		"healthy-256":     {v1alpha1.FailoverPolicySpec{Services: named("web"), MinHealthyPercent: 256 + 50}, "minHealthyPercent 306: set 1 to 100"},
		"healthy-minus":   {v1alpha1.FailoverPolicySpec{Services: named("web"), MinHealthyPercent: -206}, "minHealthyPercent -206: set 1 to 100"},
		"for-everything":  {v1alpha1.FailoverPolicySpec{}, "it selects everything: set services or consumers"},
	}
	objects := []client.Object{object("right", v1alpha1.FailoverPolicySpec{Services: named("web")})}
	for name, b := range bad {
		objects = append(objects, object(name, b.spec))
	}
	d := newDesk(t, objects...)
	d.mustReconcile()
	right := policy.Default()
	right.Name, right.Select.Names = "right", []string{"web"}
	d.hub.want(t, policy.Default(), right)
	d.wantAccepted("right", metav1.ConditionTrue, v1alpha1.ReasonAccepted)
	for name, b := range bad {
		m := d.wantAccepted(name, metav1.ConditionFalse, v1alpha1.ReasonInvalid)
		if !strings.Contains(m, b.want) || !strings.Contains(m, "until that is mended") {
			t.Errorf("message %q of %s does not say %q and what counts instead", m, name, b.want)
		}
	}
	if len(d.events) != len(bad) {
		t.Errorf("events are %q, want one for each of %d", d.events, len(bad))
	}
	d.mustReconcile()
	if len(d.events) != len(bad) {
		t.Errorf("events are %q after another look, want no more", d.events)
	}
	changed := d.get("two")
	changed.Generation++
	if err := d.Update(t.Context(), changed); err != nil {
		t.Fatal(err)
	}
	d.mustReconcile()
	d.wantAccepted("two", metav1.ConditionFalse, v1alpha1.ReasonInvalid)
	if len(d.events) != len(bad) {
		t.Errorf("events are %q after a change that mends nothing, want no more", d.events)
	}
}

func TestShadowed(t *testing.T) {
	d := newDesk(t, object("a", v1alpha1.FailoverPolicySpec{Services: named("web", "api")}), object("b", v1alpha1.FailoverPolicySpec{Services: named("web")}))
	d.mustReconcile()
	d.wantAccepted("a", metav1.ConditionTrue, v1alpha1.ReasonAccepted)
	if m := d.wantAccepted("b", metav1.ConditionFalse, v1alpha1.ReasonShadowed); !strings.Contains(m, "FailoverPolicy a comes first") {
		t.Errorf("message %q does not name the other one", m)
	}
	if len(d.hub.policies) != 2 || len(d.events) != 1 || !strings.HasPrefix(d.events[0], "b Shadowed ") {
		t.Errorf("the hub has %+v, events are %q", d.hub.policies, d.events)
	}
	if err := d.Delete(t.Context(), d.get("a")); err != nil {
		t.Fatal(err)
	}
	d.mustReconcile()
	d.wantAccepted("b", metav1.ConditionTrue, v1alpha1.ReasonAccepted)
}

// TestWhatIsBeingDeletedIsGone has objects that somebody's finalizer keeps.
func TestWhatIsBeingDeletedIsGone(t *testing.T) {
	o := object("leaving", v1alpha1.FailoverPolicySpec{Services: named("web")})
	o.Finalizers = []string{"example.com/keep"}
	d := newDesk(t, o)
	if err := d.Delete(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	d.mustReconcile()
	d.hub.want(t, policy.Default())
	if c := d.get("leaving").Status.Conditions; len(c) != 0 {
		t.Errorf("conditions %+v were written", c)
	}
}

// TestWhatTheHubDoesNotTakeIsNotAccepted keeps the order: first the hub, then the status.
func TestWhatTheHubDoesNotTakeIsNotAccepted(t *testing.T) {
	d := newDesk(t, object("web", v1alpha1.FailoverPolicySpec{Services: named("web")}))
	d.hub.err = errors.New("store is full")
	if _, err := d.reconcile(); !errors.Is(err, d.hub.err) {
		t.Errorf("Reconcile = %v, want %v", err, d.hub.err)
	}
	if c := d.get("web").Status.Conditions; len(c) != 0 {
		t.Errorf("conditions %+v were written", c)
	}
	d.hub.err = nil
	d.mustReconcile()
	d.wantAccepted("web", metav1.ConditionTrue, v1alpha1.ReasonAccepted)
}

// TestTroubleWithOneStatus does not keep the others from theirs.
func TestTroubleWithOneStatus(t *testing.T) {
	boom := errors.New("no room")
	resource := v1alpha1.Resource("failoverpolicies")
	tests := map[string]struct {
		err   error
		again time.Duration
		want  error
	}{
		"conflict":  {apierrors.NewConflict(resource, "b", boom), 100 * time.Millisecond, nil},
		"not-found": {apierrors.NewNotFound(resource, "b"), 0, nil},
		"other":     {boom, 0, boom},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			d := newDesk(t,
				object("a", v1alpha1.FailoverPolicySpec{Services: named("a")}), object("b", v1alpha1.FailoverPolicySpec{Services: named("b")}),
				object("c", v1alpha1.FailoverPolicySpec{Services: named("c")}))
			d.funcs.SubResourceUpdate = func(_ context.Context, _ client.Client, _ string, o client.Object, _ ...client.SubResourceUpdateOption) error {
				if o.GetName() == "b" {
					return tt.err
				}
				return nil
			}
			result, err := d.reconcile()
			if !errors.Is(err, tt.want) || result.RequeueAfter != tt.again {
				t.Errorf("Reconcile = %+v, %v, want to be asked again in %v, and %v", result, err, tt.again, tt.want)
			}
			d.wantAccepted("a", metav1.ConditionTrue, v1alpha1.ReasonAccepted)
			d.wantAccepted("c", metav1.ConditionTrue, v1alpha1.ReasonAccepted)
			if c := d.get("b").Status.Conditions; len(c) != 0 {
				t.Errorf("conditions %+v were written", c)
			}
		})
	}
}

func TestTheHubIsToldNothingThatWasNotRead(t *testing.T) {
	d := newDesk(t)
	gone := errors.New("gone")
	d.funcs.List = func(context.Context, client.WithWatch, client.ObjectList, ...client.ListOption) error { return gone }
	if _, err := d.reconcile(); !errors.Is(err, gone) || d.hub.times != 0 {
		t.Errorf("Reconcile = %v with the hub told %d times, want %v and never", err, d.hub.times, gone)
	}
}

// TestStatusIsWrittenOnlyWhenItChanges also keeps the transition time of a condition that stays as it is.
func TestStatusIsWrittenOnlyWhenItChanges(t *testing.T) {
	d := newDesk(t, object("web", v1alpha1.FailoverPolicySpec{Services: named("web")}))
	d.mustReconcile()
	before := d.get("web")
	d.now = d.now.Add(time.Hour)
	d.mustReconcile()
	if after := d.get("web"); after.ResourceVersion != before.ResourceVersion {
		t.Errorf("status was written: %+v, was %+v", after.Status, before.Status)
	}
	before.Generation++
	if err := d.Update(t.Context(), before); err != nil {
		t.Fatal(err)
	}
	d.mustReconcile()
	d.wantAccepted("web", metav1.ConditionTrue, v1alpha1.ReasonAccepted)
	at := d.get("web").Status.Conditions[0].LastTransitionTime
	if want := d.now.Add(-time.Hour); !at.Time.Equal(want) {
		t.Errorf("the condition changed at %v, want %v", at, want)
	}
}
