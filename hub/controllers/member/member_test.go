package member_test

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/google/go-cmp/cmp"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/config"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"github.com/tailgate-project/tailgate/api/v1alpha1"
	"github.com/tailgate-project/tailgate/e2e-kind/controlplane"
	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/hub/clusters"
	"github.com/tailgate-project/tailgate/hub/controllers/member"
)

const crd = "../../../deploy/crds/gateway.tailscale.com_memberclusters.yaml"

func TestMain(m *testing.M) {
	ctrl.SetLogger(logr.Discard())
	os.Exit(m.Run())
}

// TestRegistry runs the registry and its reconciler against a real API server.
func TestRegistry(t *testing.T) {
	api := controlplane.ForTest(t)
	if err := api.ApplyFiles(t.Context(), filepath.FromSlash(crd)); err != nil {
		t.Fatal(err)
	}
	scheme := runtime.NewScheme()
	if err := v1alpha1.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	admin, err := client.NewWithWatch(api.RESTConfig(), client.Options{Scheme: scheme})
	if err != nil {
		t.Fatal(err)
	}
	f := &fixture{api: api, scheme: scheme, admin: admin}
	t.Run("unaccepted-cluster-waits-for-an-administrator", f.testAcceptance)
	t.Run("second-node-cannot-take-the-id", f.testTaken)
	t.Run("racing-nodes-get-one-id", f.testRace)
	t.Run("conditions-follow-link-and-api", f.testConditions)
	t.Run("refused-and-deleted-clusters-are-removed", f.testRemoval)
	t.Run("dismissed-clusters-are-refused-and-told-once", f.testDismissal)
	t.Run("clusters-deleted-while-the-hub-was-away-are-pruned", f.testPrune)
	t.Run("acceptance-by-option", f.testAcceptOptions)
}

type fixture struct {
	api    *controlplane.ControlPlane
	scheme *runtime.Scheme
	admin  client.WithWatch
}

func (f *fixture) testAcceptance(t *testing.T) {
	r := f.run(t, member.Options{})
	c := claim("waiting", "n1")
	for range 2 {
		_, err := r.registry.Join(t.Context(), c)
		if !errors.Is(err, member.ErrNotAccepted) {
			t.Fatalf("Join = %v, want %v", err, member.ErrNotAccepted)
		}
		const command = `kubectl patch membercluster waiting --type=merge -p '{"spec":{"accepted":true}}'`
		if !strings.Contains(err.Error(), command) {
			t.Errorf("error %q does not say to run %s", err, command)
		}
	}
	object := f.await(t, "waiting", condition(v1alpha1.ConditionAccepted, metav1.ConditionFalse, v1alpha1.ReasonNotAccepted))
	if message := meta.FindStatusCondition(object.Status.Conditions, v1alpha1.ConditionAccepted).Message; !strings.Contains(message, "spoke-n1 (n1) asks to join") {
		t.Errorf("condition %q does not say who asks", message)
	}
	if object.Status.NodeID != "" || r.registry.Owns("waiting", "n1") {
		t.Error("the id was given to a node before it was accepted")
	}
	f.accept(t, "waiting", true)
	got, err := r.registry.Join(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	want := member.Member{ID: "waiting", NodeID: "n1", Addr: c.Addr, Locality: federation.Locality{Region: "eu", Zone: "eu-1"}}
	if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); diff != "" {
		t.Errorf("Join (-want +got):\n%s", diff)
	}
	r.recorder.await(t, "engage waiting 100.64.0.1:8443 n1")
	object = f.await(t, "waiting", condition(v1alpha1.ConditionSynced, metav1.ConditionFalse, v1alpha1.ReasonSyncing))
	if object.Status.NodeID != "n1" || object.Status.FirstJoined == nil || object.Status.Versions.Spoke != "v1" || object.Status.Addresses[0] != "100.64.0.1" {
		t.Errorf("status = %+v", object.Status)
	}
	if !r.registry.Owns("waiting", "n1") || r.registry.Owns("waiting", "n2") {
		t.Error("Owns does not say that n1 alone has the id")
	}
}

func (f *fixture) testTaken(t *testing.T) {
	r := f.run(t, member.Options{AcceptAll: true})
	if _, err := r.registry.Join(t.Context(), claim("taken", "n1")); err != nil {
		t.Fatal(err)
	}
	_, err := r.registry.Join(t.Context(), claim("taken", "n2"))
	if !errors.Is(err, member.ErrClusterIDTaken) {
		t.Fatalf("Join of another node = %v, want %v", err, member.ErrClusterIDTaken)
	}
	for _, part := range []string{"belongs to tailnet node n1", "spoke-n2 (n2)", "kubectl delete membercluster taken"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("error %q does not contain %q", err, part)
		}
	}
	object := f.await(t, "taken", condition(member.ConditionIdentityConflict, metav1.ConditionTrue, v1alpha1.ReasonClusterIDTaken))
	if message := meta.FindStatusCondition(object.Status.Conditions, member.ConditionIdentityConflict).Message; !strings.Contains(message, "spoke-n2 (n2)") {
		t.Errorf("condition %q does not name the other node", message)
	}
	if !r.registry.Owns("taken", "n1") || r.registry.Owns("taken", "n2") {
		t.Error("the refused node changed who has the id")
	}
	settled := func(o *v1alpha1.MemberCluster) bool {
		return meta.FindStatusCondition(o.Status.Conditions, member.ConditionIdentityConflict) == nil
	}
	r.clock.advance(6 * time.Minute)
	r.registry.SetConnected(t.Context(), "taken", true, "") // anything that has it reconciled
	f.await(t, "taken", settled)
	// Whoever is known by another id no longer asks for this one.
	if _, err := r.registry.Join(t.Context(), claim("taken", "n2")); !errors.Is(err, member.ErrClusterIDTaken) {
		t.Fatalf("Join of another node, again = %v, want %v", err, member.ErrClusterIDTaken)
	}
	f.await(t, "taken", condition(member.ConditionIdentityConflict, metav1.ConditionTrue, v1alpha1.ReasonClusterIDTaken))
	if _, err := r.registry.Join(t.Context(), claim("free", "n2")); err != nil {
		t.Fatal(err)
	}
	object = f.await(t, "taken", settled)
	if err := f.admin.Delete(t.Context(), object); err != nil {
		t.Fatal(err)
	}
	r.recorder.await(t, "remove taken")
	if _, err := r.registry.Join(t.Context(), claim("taken", "n2")); err != nil {
		t.Errorf("Join after the MemberCluster was deleted: %v", err)
	}
}

func (f *fixture) testRace(t *testing.T) {
	r := f.run(t, member.Options{AcceptAll: true})
	var wg sync.WaitGroup
	errs := make([]error, 8)
	for i := range errs {
		wg.Go(func() { _, errs[i] = r.registry.Join(t.Context(), claim("race", "n"+string(rune('a'+i)))) })
	}
	wg.Wait()
	won := 0
	for _, err := range errs {
		switch {
		case err == nil:
			won++
		case !errors.Is(err, member.ErrClusterIDTaken):
			t.Errorf("Join = %v, want %v", err, member.ErrClusterIDTaken)
		}
	}
	if won != 1 {
		t.Errorf("%d nodes have the id, want 1", won)
	}
}

func (f *fixture) testConditions(t *testing.T) {
	r := f.run(t, member.Options{AcceptAll: true})
	ctx := t.Context()
	if _, err := r.registry.Join(ctx, claim("states", "n1")); err != nil {
		t.Fatal(err)
	}
	steps := []struct {
		name string
		do   func() error
		want func(*v1alpha1.MemberCluster) bool
	}{
		{"joined", func() error { return nil }, condition(v1alpha1.ConditionConnected, metav1.ConditionFalse, v1alpha1.ReasonLinkLost)},
		{"linked", func() error { r.registry.SetConnected(ctx, "states", true, ""); return nil },
			condition(v1alpha1.ConditionConnected, metav1.ConditionUnknown, v1alpha1.ReasonSyncing)},
		{"api-up", func() error { return r.registry.APIState(ctx, "states", true, "read") },
			condition(v1alpha1.ConditionConnected, metav1.ConditionTrue, v1alpha1.ReasonConnected)},
		{"synced", func() error { return nil }, condition(v1alpha1.ConditionSynced, metav1.ConditionTrue, v1alpha1.ReasonSynced)},
		{"api-down", func() error { return r.registry.APIState(ctx, "states", false, "no answer") },
			condition(v1alpha1.ConditionConnected, metav1.ConditionFalse, v1alpha1.ReasonAPIUnreachable)},
		{"not-synced", func() error { return nil }, condition(v1alpha1.ConditionSynced, metav1.ConditionFalse, v1alpha1.ReasonAPIUnreachable)},
		{"api-back", func() error { return r.registry.APIState(ctx, "states", true, "read") },
			condition(v1alpha1.ConditionConnected, metav1.ConditionTrue, v1alpha1.ReasonConnected)},
	}
	for _, s := range steps {
		if err := s.do(); err != nil {
			t.Fatal(err)
		}
		if !t.Run(s.name, func(t *testing.T) { f.await(t, "states", s.want) }) {
			return
		}
	}
	f.testLastSeen(t, r)
}

// testLastSeen checks that the status is written in steps only, and at once when the link is lost.
func (f *fixture) testLastSeen(t *testing.T, r run) {
	ctx := t.Context()
	before := f.await(t, "states", func(o *v1alpha1.MemberCluster) bool { return o.Status.LastSeen != nil })
	r.registry.SetProgress("states", member.Progress{Epoch: 3, Version: 4, Exports: 5})
	r.clock.advance(10 * time.Second)
	if _, err := r.registry.Reconcile(ctx, request("states")); err != nil {
		t.Fatal(err)
	}
	after := f.get(t, "states")
	if before.ResourceVersion != after.ResourceVersion {
		t.Errorf("status was written though nothing but 10 s passed:\n%s", cmp.Diff(before.Status, after.Status))
	}
	r.clock.advance(time.Minute)
	if _, err := r.registry.Reconcile(ctx, request("states")); err != nil {
		t.Fatal(err)
	}
	seen := f.await(t, "states", func(o *v1alpha1.MemberCluster) bool { return o.Status.LastSeen.After(before.Status.LastSeen.Time) })
	if s := seen.Status; s.Epoch != 3 || s.SnapshotVersion != 4 || s.Exports != 5 {
		t.Errorf("progress = %d, %d, %d, want 3, 4, 5", s.Epoch, s.SnapshotVersion, s.Exports)
	}
	r.clock.advance(5 * time.Second)
	r.registry.SetConnected(ctx, "states", false, "silent for 3s")
	lost := f.await(t, "states", condition(v1alpha1.ConditionConnected, metav1.ConditionFalse, v1alpha1.ReasonLinkLost))
	if got := lost.Status.LastSeen.Sub(seen.Status.LastSeen.Time); got != 5*time.Second {
		t.Errorf("LastSeen moved by %v when the link was lost, want the 5s that it was still there", got)
	}
}

func (f *fixture) testRemoval(t *testing.T) {
	r := f.run(t, member.Options{AcceptAll: true})
	if _, err := r.registry.Join(t.Context(), claim("leaving", "n1")); err != nil {
		t.Fatal(err)
	}
	r.recorder.await(t, "engage leaving 100.64.0.1:8443 n1")
	f.accept(t, "leaving", false)
	r.recorder.await(t, "disengage leaving")
	r.recorder.await(t, "remove leaving")
	if r.registry.Owns("leaving", "n1") {
		t.Error("a cluster that is not accepted any more is still a member")
	}
	if _, err := r.registry.Join(t.Context(), claim("leaving", "n1")); !errors.Is(err, member.ErrNotAccepted) {
		t.Errorf("Join = %v, want %v: AcceptAll must not overrule an administrator", err, member.ErrNotAccepted)
	}
	f.accept(t, "leaving", true)
	if _, err := r.registry.Join(t.Context(), claim("leaving", "n1")); err != nil {
		t.Fatal(err)
	}
	r.recorder.await(t, "engage leaving 100.64.0.1:8443 n1")
	if err := f.admin.Delete(t.Context(), f.get(t, "leaving")); err != nil {
		t.Fatal(err)
	}
	r.recorder.await(t, "remove leaving")
}

func (f *fixture) testDismissal(t *testing.T) {
	r := f.run(t, member.Options{})
	if err := r.registry.Invite(t.Context(), "old"); err != nil {
		t.Fatal(err)
	}
	if _, err := r.registry.Join(t.Context(), claim("old", "n1")); err != nil {
		t.Fatal(err)
	}
	device := func(ids ...string) (out []v1alpha1.MemberDevice) {
		for _, id := range ids {
			out = append(out, v1alpha1.MemberDevice{NodeID: id})
		}
		return out
	}
	r.registry.SetDevices("old", device("p1", "p2"))
	f.await(t, "old", func(o *v1alpha1.MemberCluster) bool { return len(o.Status.Devices) == 2 })
	r.registry.SetDevices("old", device("p2", "p3")) // p1 is away
	f.await(t, "old", func(o *v1alpha1.MemberCluster) bool { return len(o.Status.Devices) == 3 })
	all := device("p1", "p2", "p3")
	for n, want := range [][]v1alpha1.MemberDevice{all, all, nil} { // said again, as it could not be done the first time; and again, as it was
		err := r.registry.Dismiss(t.Context(), "old", func(_ context.Context, object *v1alpha1.MemberCluster) (bool, error) {
			if _, err := r.registry.Join(t.Context(), claim("old", "n1")); !errors.Is(err, member.ErrNotAccepted) {
				t.Errorf("its spoke is let in while it leaves: %v", err)
			}
			if (object != nil) != (n < 2) || object != nil && !cmp.Equal(want, object.Status.Devices) {
				t.Errorf("farewell %d to %+v, want its devices %v", n, object, want)
			}
			_, err := r.registry.Reconcile(t.Context(), request("old"))
			if n == 0 && r.recorder.has("remove old") {
				t.Error("the sink was told by the registry, as of one that may come back")
			}
			return n == 1, err
		})
		if err != nil {
			t.Fatal(err)
		}
		if n == 0 {
			if _, err := r.registry.Join(t.Context(), claim("old", "n1")); !errors.Is(err, member.ErrNotAccepted) {
				t.Errorf("its spoke is let in again before all is done: %v", err)
			}
		}
		err = f.admin.Get(t.Context(), client.ObjectKey{Name: "old"}, &v1alpha1.MemberCluster{})
		if n == 0 && err != nil || n > 0 && !apierrors.IsNotFound(err) {
			t.Errorf("after %d tries the MemberCluster is: %v", n+1, err)
		}
	}
	failed := r.registry.Dismiss(t.Context(), "old", func(context.Context, *v1alpha1.MemberCluster) (bool, error) { return false, errors.New("no") })
	if failed == nil {
		t.Error("a farewell that fails is no error")
	}
}

func (f *fixture) testPrune(t *testing.T) {
	r := f.run(t, member.Options{AcceptAll: true})
	if _, err := r.registry.Join(t.Context(), claim("kept", "n1")); err != nil {
		t.Fatal(err)
	}
	if err := r.registry.Prune(t.Context(), []federation.ClusterID{"kept", "vanished"}); err != nil {
		t.Fatal(err)
	}
	r.recorder.await(t, "remove vanished")
	if r.recorder.has("remove kept") {
		t.Error("a cluster with a MemberCluster was removed")
	}
}

func (f *fixture) testAcceptOptions(t *testing.T) {
	r := f.run(t, member.Options{AcceptTags: []string{"tag:trusted"}})
	trusted := claim("trusted", "n1")
	trusted.Tags = []string{"tag:spoke", "tag:trusted"}
	if _, err := r.registry.Join(t.Context(), trusted); err != nil {
		t.Errorf("Join with an accepted tag: %v", err)
	}
	if _, err := r.registry.Join(t.Context(), claim("stranger", "n2")); !errors.Is(err, member.ErrNotAccepted) {
		t.Errorf("Join without the tag = %v, want %v", err, member.ErrNotAccepted)
	}
}

func TestJoinRefusesBadClaims(t *testing.T) {
	tests := []struct {
		name string
		edit func(*member.Claim)
		want error
	}{
		{"id-is-no-label", func(c *member.Claim) { c.Cluster = "Cluster.1" }, federation.ErrInvalidClusterID},
		{"no-node", func(c *member.Claim) { c.NodeID = "" }, member.ErrInvalidClaim},
		{"no-address", func(c *member.Claim) { c.Addr = netip.AddrPort{} }, member.ErrInvalidClaim},
		{"no-port", func(c *member.Claim) { c.Addr = netip.MustParseAddrPort("100.64.0.1:0") }, member.ErrInvalidClaim},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := claim("ok", "n1")
			tt.edit(&c)
			if _, err := member.New(member.Options{}).Join(t.Context(), c); !errors.Is(err, tt.want) {
				t.Errorf("Join = %v, want %v", err, tt.want)
			}
		})
	}
}

func claim(id federation.ClusterID, node string) member.Claim {
	return member.Claim{
		Cluster: id, NodeID: node, NodeName: "spoke-" + node, Tags: []string{"tag:spoke"},
		Addr:     netip.MustParseAddrPort("100.64.0.1:8443"),
		Versions: v1alpha1.MemberVersions{Spoke: "v1"},
		Locality: federation.Locality{Region: "eu", Zone: "eu-1"},
	}
}

func condition(kind string, status metav1.ConditionStatus, reason string) func(*v1alpha1.MemberCluster) bool {
	return func(o *v1alpha1.MemberCluster) bool {
		c := meta.FindStatusCondition(o.Status.Conditions, kind)
		return c != nil && c.Status == status && c.Reason == reason && c.Message != ""
	}
}

func request(name string) ctrl.Request {
	return ctrl.Request{NamespacedName: types.NamespacedName{Name: name}}
}

type run struct {
	registry *member.Registry
	recorder *recorder
	clock    *clock
}

// run runs a registry in a manager until the test ends.
func (f *fixture) run(t *testing.T, o member.Options) run {
	t.Helper()
	mgr, err := ctrl.NewManager(f.api.RESTConfig(), ctrl.Options{
		Scheme: f.scheme, Metrics: metricsserver.Options{BindAddress: "0"}, Controller: config.Controller{SkipNameValidation: new(true)},
	})
	if err != nil {
		t.Fatal(err)
	}
	r := run{recorder: &recorder{seen: map[string]int{}, changed: make(chan struct{}, 1)}, clock: &clock{now: time.Now().Truncate(time.Second)}}
	o.Client, o.Reader, o.Clusters, o.Sink, o.Now = mgr.GetClient(), mgr.GetAPIReader(), r.recorder, r.recorder, r.clock.Now
	r.registry = member.New(o)
	if err := r.registry.AddTo(mgr); err != nil {
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
	return r
}

func (f *fixture) get(t *testing.T, name string) *v1alpha1.MemberCluster {
	t.Helper()
	o := &v1alpha1.MemberCluster{}
	if err := f.admin.Get(t.Context(), types.NamespacedName{Name: name}, o); err != nil {
		t.Fatal(err)
	}
	return o
}

func (f *fixture) accept(t *testing.T, name string, accepted bool) {
	t.Helper()
	o := f.get(t, name)
	patch := client.MergeFrom(o.DeepCopy())
	o.Spec.Accepted = accepted
	if err := f.admin.Patch(t.Context(), o, patch); err != nil {
		t.Fatal(err)
	}
}

// await waits until the object of that name is as wanted.
func (f *fixture) await(t *testing.T, name string, want func(*v1alpha1.MemberCluster) bool) *v1alpha1.MemberCluster {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	w, err := f.admin.Watch(ctx, &v1alpha1.MemberClusterList{}, client.MatchingFields{"metadata.name": name})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	var last *v1alpha1.MemberCluster
	for e := range w.ResultChan() {
		o, ok := e.Object.(*v1alpha1.MemberCluster)
		if !ok || e.Type == watch.Deleted {
			continue
		}
		if last = o; want(o) {
			return o
		}
	}
	t.Fatalf("timed out, the object is %+v", last)
	return nil
}

// recorder keeps what the registry tells others.
type recorder struct {
	mu      sync.Mutex
	seen    map[string]int
	changed chan struct{}
}

func (r *recorder) Engage(m clusters.Member) {
	r.add("engage " + string(m.ID) + " " + m.Addr.String() + " " + m.NodeID)
}

func (r *recorder) Disengage(id federation.ClusterID) { r.add("disengage " + string(id)) }

func (r *recorder) RemoveCluster(_ context.Context, id federation.ClusterID) error {
	r.add("remove " + string(id))
	return nil
}

func (r *recorder) add(what string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.seen[what]++
	select {
	case r.changed <- struct{}{}:
	default:
	}
}

func (r *recorder) has(what string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.seen[what] > 0
}

// await waits until something was told, and forgets it.
func (r *recorder) await(t *testing.T, what string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	for !r.has(what) {
		select {
		case <-r.changed:
		case <-ctx.Done():
			t.Fatalf("timed out waiting for %q", what)
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.seen, what)
}

type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}
