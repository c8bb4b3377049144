package proxyset_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tailgate-project/tailgate/api/v1alpha1"
	"github.com/tailgate-project/tailgate/spoke"
	"github.com/tailgate-project/tailgate/spoke/controllers/proxyset"
)

type proxies = map[string]*v1alpha1.ProxyConfig

var (
	ingress = proxyset.Key{Tailnet: "production-tailnet", Role: spoke.Ingress}
	egress  = proxyset.Key{Tailnet: "production-tailnet", Role: spoke.Egress}
)

// TestProxySets follows the objects of proxies over a real API server, with the rights that deploy/rbac gives the spoke.
func TestProxySets(t *testing.T) {
	f := newFixture(t)
	f.leftBehind()
	stop := f.start()
	defer func() { stop() }()
	f.wantObjects("long-gone", spoke.Egress, nil)

	oldest := f.gateway("oldest", proxies{"production-tailnet": nil})
	f.testCreated(oldest)
	f.testSpecFollowed(oldest)
	f.testIdentityKept()
	f.testOwnSecretsOnly()
	f.testScaledByOther(oldest)
	f.testFieldOfOther(oldest)
	f.testShared(oldest)
	f.testObjectOfOther(oldest)
	f.testRefused(oldest)
	f.testMended()
	f.testDirections(oldest)
	f.testRestart(&stop)
	f.testGone(oldest)
	if len(f.opened) > 0 {
		t.Errorf("the spoke has read what is in Secrets: %q", f.opened)
	}
}

// leftBehind makes what a spoke left that was away when the last TailscaleGateway of a tailnet went.
func (f *fixture) leftBehind() {
	for _, o := range proxyset.Objects(proxyset.Set{Key: proxyset.Key{Tailnet: "long-gone", Role: spoke.Egress}, Options: options(), Ordinals: 2}) {
		f.must(f.admin.Create(f.Context(), o))
	}
}

func (f *fixture) testCreated(t *v1alpha1.TailscaleGateway) {
	f.wantObjects(ingress.Tailnet, ingress.Role, whole("tailgate-ingress-production-tailnet", 2))
	f.wantObjects(egress.Tailnet, egress.Role, whole("tailgate-egress-production-tailnet", 2))
	f.told("Normal default/oldest ProxiesCreated", "StatefulSet tailgate-system/tailgate-egress-production-tailnet with 2 egress proxies")
	f.settled()
	f.condition(t, metav1.ConditionFalse, v1alpha1.ReasonProxiesNotReady, "0 of 2 ingress proxies for TailscaleTailnet production-tailnet are ready: 0 of the 2 pods")
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.changes == 0 {
		f.Error("nobody was told that the status is another")
	}
}

func (f *fixture) testSpecFollowed(t *v1alpha1.TailscaleGateway) {
	f.want(t, proxies{"production-tailnet": {
		Replicas: new(int32(3)), Image: "registry.example.com/mirror:v2", NodeSelector: map[string]string{"pool": "edge"},
		TopologySpreadConstraints: []corev1.TopologySpreadConstraint{{MaxSkew: 1, TopologyKey: "rack", WhenUnsatisfiable: corev1.DoNotSchedule}},
	}})
	f.wantObjects(egress.Tailnet, egress.Role, whole(egress.String(), 3))
	f.eventually("the StatefulSet to follow", func() error {
		sts := f.statefulSet(egress.String())
		spec := sts.Spec.Template.Spec
		if *sts.Spec.Replicas != 3 || spec.Containers[0].Image != "registry.example.com/mirror:v2" || spec.NodeSelector["pool"] != "edge" ||
			len(spec.TopologySpreadConstraints) != 1 || spec.TopologySpreadConstraints[0].TopologyKey != "rack" {
			return fmt.Errorf("%d replicas, %+v", *sts.Spec.Replicas, spec)
		}
		return nil
	})
	f.settled()
	f.want(t, proxies{"production-tailnet": {Replicas: new(int32(2))}})
	f.eventually("what is no longer said to go", func() error {
		sts := f.statefulSet(egress.String())
		spec := sts.Spec.Template.Spec
		if *sts.Spec.Replicas != 2 || spec.Containers[0].Image != options().Image || len(spec.NodeSelector) > 0 || len(spec.TopologySpreadConstraints) != 2 {
			return fmt.Errorf("%d replicas, %+v", *sts.Spec.Replicas, spec)
		}
		return nil
	})
	f.wantObjects(egress.Tailnet, egress.Role, whole(egress.String(), 2))
	f.settled()
}

// testIdentityKept: a proxy writes its Secret, and passes leave alone what it wrote.
func (f *fixture) testIdentityKept() {
	proxy, err := client.New(f.as(egress.String()), client.Options{Scheme: f.scheme})
	f.must(err)
	var s corev1.Secret
	f.must(proxy.Get(f.Context(), client.ObjectKey{Namespace: namespace, Name: egress.String() + "-1"}, &s))
	if len(s.Data) > 0 {
		f.Errorf("a new Secret has %d keys, want none", len(s.Data))
	}
	before := s.DeepCopy()
	s.Data = map[string][]byte{"_machinekey": []byte("privkey:0")}
	f.must(proxy.Patch(f.Context(), &s, client.MergeFrom(before)))
	f.settled()
	f.must(f.admin.Get(f.Context(), client.ObjectKeyFromObject(&s), &s))
	if got := string(s.Data["_machinekey"]); got != "privkey:0" {
		f.Errorf("the identity is %q now", got)
	}
}

func (f *fixture) testOwnSecretsOnly() {
	proxy, err := client.New(f.as(egress.String()), client.Options{Scheme: f.scheme})
	f.must(err)
	secret := func(name string) *corev1.Secret {
		return &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}}
	}
	own, others := secret(egress.String()+"-0"), secret(ingress.String()+"-0")
	f.must(proxy.Get(f.Context(), client.ObjectKeyFromObject(own), own))
	own.StringData = map[string]string{"a": "b"}
	f.must(proxy.Update(f.Context(), own))
	for what, err := range map[string]error{
		"get the other role's":       proxy.Get(f.Context(), client.ObjectKeyFromObject(others), others),
		"patch the other role's":     proxy.Patch(f.Context(), secret(others.Name), client.RawPatch(types.MergePatchType, []byte(`{"data":{}}`))),
		"get that of no replica":     proxy.Get(f.Context(), client.ObjectKey{Namespace: namespace, Name: egress.String() + "-2"}, secret("")),
		"get the certificate":        proxy.Get(f.Context(), client.ObjectKey{Namespace: namespace, Name: "tailgate-proxy-tls"}, secret("")),
		"list":                       proxy.List(f.Context(), &corev1.SecretList{}, client.InNamespace(namespace)),
		"create":                     proxy.Create(f.Context(), secret("another")),
		"delete its own":             proxy.Delete(f.Context(), own),
		"get pods":                   proxy.List(f.Context(), &corev1.PodList{}, client.InNamespace(namespace)),
		"list in another namespace":  proxy.List(f.Context(), &corev1.SecretList{}, client.InNamespace("default")),
		"list Services of all":       proxy.List(f.Context(), &corev1.ServiceList{}),
		"get a Secret of default":    proxy.Get(f.Context(), client.ObjectKey{Namespace: "default", Name: own.Name}, secret("")),
		"change its own rights":      proxy.Patch(f.Context(), &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: egress.String()}}, client.RawPatch(types.MergePatchType, []byte(`{"rules":[]}`))),
		"change its own StatefulSet": proxy.Patch(f.Context(), f.statefulSet(egress.String()), client.RawPatch(types.MergePatchType, []byte(`{"spec":{"replicas":9}}`))),
	} {
		if !apierrors.IsForbidden(err) {
			f.Errorf("a proxy may %s: %v, want forbidden", what, err)
		}
	}
}

// testScaledByOther: whoever scales the StatefulSet has the last word, and each replica its Secret.
func (f *fixture) testScaledByOther(t *v1alpha1.TailscaleGateway) {
	f.scale(egress.String(), 4)
	f.wantObjects(egress.Tailnet, egress.Role, whole(egress.String(), 4))
	f.condition(t, metav1.ConditionFalse, v1alpha1.ReasonProxiesNotReady, "has 4 replicas and not 2, because autoscaler has scaled it")
	f.told("Normal default/oldest ProxiesScaledByOther", "autoscaler")
	f.settled()
	f.want(t, proxies{"production-tailnet": {Replicas: new(int32(2)), Image: "registry.example.com/mirror:v3"}})
	f.eventually("the rest to follow", func() error {
		if got := f.statefulSet(egress.String()); *got.Spec.Replicas != 4 || got.Spec.Template.Spec.Containers[0].Image != "registry.example.com/mirror:v3" {
			return fmt.Errorf("%d replicas of %s", *got.Spec.Replicas, got.Spec.Template.Spec.Containers[0].Image)
		}
		return nil
	})
	f.settled()
	sts := f.statefulSet(egress.String())
	f.must(f.admin.Patch(f.Context(), sts, client.RawPatch(types.MergePatchType, []byte(`{"spec":{"replicas":0}}`)), client.FieldOwner("kubectl-edit")))
	f.wantObjects(egress.Tailnet, egress.Role, whole(egress.String(), 1))
	var role rbacv1.Role
	f.must(f.admin.Get(f.Context(), client.ObjectKey{Namespace: namespace, Name: egress.String()}, &role))
	if d := cmp.Diff([]string{egress.String() + "-0"}, role.Rules[0].ResourceNames); d != "" {
		f.Errorf("the Secrets that a set of nothing may use (-want +got)\n%s", d)
	}
	f.settled()
	// As the message says.
	f.must(f.admin.Delete(f.Context(), f.statefulSet(egress.String()), client.PropagationPolicy(metav1.DeletePropagationOrphan), client.GracePeriodSeconds(0)))
	f.orphaned(egress.String())
	f.eventually("a StatefulSet that follows again", func() error {
		var sts appsv1.StatefulSet
		if err := f.admin.Get(f.Context(), client.ObjectKey{Namespace: namespace, Name: egress.String()}, &sts); err != nil {
			return err
		}
		if *sts.Spec.Replicas != 2 {
			return fmt.Errorf("%d replicas", *sts.Spec.Replicas)
		}
		return nil
	})
	f.wantObjects(egress.Tailnet, egress.Role, whole(egress.String(), 2))
	f.settled()
}

// orphaned does what the garbage collector would do with a StatefulSet whose pods are to stay.
func (f *fixture) orphaned(name string) {
	f.Helper()
	sts := f.statefulSet(name)
	if sts.DeletionTimestamp == nil {
		f.Fatal("the StatefulSet is not being deleted")
	}
	sts.Finalizers = nil
	f.must(f.admin.Update(f.Context(), sts))
}

func (f *fixture) scale(name string, replicas int32) {
	f.Helper()
	sts := f.statefulSet(name)
	scale := &autoscalingv1.Scale{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}, Spec: autoscalingv1.ScaleSpec{Replicas: replicas}}
	f.must(f.admin.SubResource("scale").Update(f.Context(), sts, client.WithSubResourceBody(scale), client.FieldOwner("autoscaler")))
}

// testFieldOfOther: what somebody else has changed stays, and is reported; undone, all is as before.
func (f *fixture) testFieldOfOther(t *v1alpha1.TailscaleGateway) {
	sts := f.statefulSet(egress.String())
	before := sts.DeepCopy()
	sts.Spec.Template.Spec.Containers[0].Image = "registry.example.com/mine:v9"
	f.must(f.admin.Patch(f.Context(), sts, client.MergeFrom(before), client.FieldOwner("kubectl-edit")))
	f.condition(t, metav1.ConditionFalse, v1alpha1.ReasonConflict, `image ("kubectl-edit"`)
	f.told("Warning default/oldest ProxyConflict", "others have changed it")
	f.notRetried()
	if got := f.statefulSet(egress.String()).Spec.Template.Spec.Containers[0].Image; got != "registry.example.com/mine:v9" {
		f.Errorf("image %s: the user's was overwritten", got)
	}
	f.must(f.admin.Delete(f.Context(), f.statefulSet(egress.String())))
	f.eventually("the StatefulSet to be made anew", func() error {
		var sts appsv1.StatefulSet
		if err := f.admin.Get(f.Context(), client.ObjectKey{Namespace: namespace, Name: egress.String()}, &sts); err != nil {
			return err
		}
		if got := sts.Spec.Template.Spec.Containers[0].Image; got != "registry.example.com/mirror:v3" {
			return errors.New(got)
		}
		return nil
	})
	f.status(egress, func(s proxyset.Status) bool { return s.Reason == v1alpha1.ReasonProxiesNotReady })
	f.settled()
}

// notRetried wants that what was refused is not tried again and again: once by the other reconciler, which does not know
// of it yet, and never after that.
func (f *fixture) notRetried() {
	f.Helper()
	f.settled()
	if writes := f.written(); len(writes) > 0 {
		f.Errorf("what was refused is tried again: %q", writes)
	}
}

// testShared: the oldest one's counts, and who says something else is told.
func (f *fixture) testShared(oldest *v1alpha1.TailscaleGateway) {
	silent := f.gateway("silent", proxies{"production-tailnet": nil})
	younger := f.gateway("younger", proxies{"production-tailnet": {Replicas: new(int32(7))}})
	const want = "spec.tailnets[production-tailnet].proxy does not count: the proxies of TailscaleTailnet production-tailnet are shared, and " +
		"spec.tailnets[production-tailnet].proxy of TailscaleGateway default/oldest comes first"
	f.condition(younger, metav1.ConditionFalse, v1alpha1.ReasonProxiesNotReady, want)
	f.told("Warning default/younger ProxyIgnored", want)
	for _, t := range []*v1alpha1.TailscaleGateway{oldest, silent} {
		if c := f.reconciler.Statuses().Condition(t); strings.Contains(c.Message, "does not count") {
			f.Errorf("%s is told: %s", t.Name, c.Message)
		}
	}
	f.wantObjects(egress.Tailnet, egress.Role, whole(egress.String(), 2))
	f.settled()
	f.must(f.admin.Delete(f.Context(), younger))
	f.must(f.admin.Delete(f.Context(), silent))
}

// testObjectOfOther: an object of somebody else is left alone, and only the set that needs its name waits.
func (f *fixture) testObjectOfOther(t *v1alpha1.TailscaleGateway) {
	mine := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "tailgate-egress-staging", Labels: map[string]string{"mine": "yes"}},
		Spec:       corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80}}},
	}
	f.must(f.admin.Create(f.Context(), mine))
	f.want(t, proxies{"production-tailnet": {Replicas: new(int32(2))}, "staging": nil})
	f.wantObjects("staging", spoke.Ingress, whole("tailgate-ingress-staging", 2))
	const want = "Service tailgate-egress-staging in namespace tailgate-system is not the spoke's"
	f.condition(t, metav1.ConditionFalse, v1alpha1.ReasonConflict, want)
	f.status(proxyset.Key{Tailnet: "staging", Role: spoke.Egress}, func(s proxyset.Status) bool {
		return s.Reason == v1alpha1.ReasonConflict && s.Wanted == 2 && s.Ready == 0
	})
	f.told("Warning default/oldest ProxyConflict", want)
	f.settled()
	var got corev1.Service
	f.must(f.admin.Get(f.Context(), client.ObjectKeyFromObject(mine), &got))
	if d := cmp.Diff(mine, &got); d != "" {
		f.Errorf("the user's Service was changed (-want +got)\n%s", d)
	}
	if got := f.objects("staging", spoke.Egress); slices.Contains(got, "StatefulSet/tailgate-egress-staging") {
		f.Error("the StatefulSet was made without its Service")
	}
	result, err := f.other.Reconcile(f.Context(), ctrl.Request{})
	f.must(err)
	if result.RequeueAfter <= 0 || result.RequeueAfter > time.Minute {
		f.Errorf("the next look is in %s: nothing tells the reconciler when the user's Service goes", result.RequeueAfter)
	}
	f.must(f.admin.Delete(f.Context(), mine))
	f.want(t, proxies{"production-tailnet": {Replicas: new(int32(2))}, "staging": {Replicas: new(int32(1))}})
	f.wantObjects("staging", spoke.Egress, whole("tailgate-egress-staging", 1))
	f.settled()
	f.want(t, proxies{"production-tailnet": {Replicas: new(int32(2))}})
	f.wantObjects("staging", spoke.Egress, nil)
	f.wantObjects("staging", spoke.Ingress, nil)
}

// testRefused: what the API server refuses is said to the user, and the proxies that run stay.
func (f *fixture) testRefused(t *v1alpha1.TailscaleGateway) {
	was := f.statefulSet(egress.String()).Spec
	f.want(t, proxies{"production-tailnet": {Replicas: new(int32(2)), Resources: &corev1.ResourceRequirements{
		Requests: corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("2Gi")}, Limits: corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("1Gi")},
	}}})
	f.condition(t, metav1.ConditionFalse, v1alpha1.ReasonInvalid, "correct spec.tailnets[].proxy: spec.template.spec.containers[0].resources.requests")
	f.told("Warning default/oldest ProxyRefused", "StatefulSet tailgate-egress-production-tailnet")
	f.notRetried()
	if d := cmp.Diff(was, f.statefulSet(egress.String()).Spec); d != "" {
		f.Errorf("the StatefulSet has changed (-want +got)\n%s", d)
	}
	f.want(t, proxies{"production-tailnet": {Replicas: new(int32(2))}})
	f.status(egress, func(s proxyset.Status) bool { return s.Reason == v1alpha1.ReasonProxiesNotReady })
}

// testMended: what is deleted or emptied by hand comes back.
func (f *fixture) testMended() {
	name := metav1.ObjectMeta{Namespace: namespace, Name: egress.String()}
	secret := name
	secret.Name += "-1"
	for _, o := range []client.Object{
		&corev1.Service{ObjectMeta: name}, &corev1.ServiceAccount{ObjectMeta: name}, &rbacv1.Role{ObjectMeta: name}, &rbacv1.RoleBinding{ObjectMeta: name},
		&appsv1.StatefulSet{ObjectMeta: name}, &corev1.Secret{ObjectMeta: secret},
	} {
		f.must(f.admin.Delete(f.Context(), o))
		f.wantObjects(egress.Tailnet, egress.Role, whole(egress.String(), 2))
	}
	f.settled()
}

// testDirections: a TailscaleGateway may want one of both.
func (f *fixture) testDirections(t *v1alpha1.TailscaleGateway) {
	f.want(t, proxies{"production-tailnet": {ConnectionType: v1alpha1.ConnectionIngress}})
	f.wantObjects(egress.Tailnet, egress.Role, nil)
	f.wantObjects(ingress.Tailnet, ingress.Role, whole(ingress.String(), 2))
	f.eventually("the status of one set", func() error {
		if got := f.reconciler.Statuses(); len(got) != 1 {
			return fmt.Errorf("%d: %+v", len(got), got)
		}
		return nil
	})
}

// testRestart: a spoke that starts again writes nothing.
func (f *fixture) testRestart(stop *func()) {
	f.settled()
	(*stop)()
	f.written()
	*stop = f.start()
	f.status(ingress, func(s proxyset.Status) bool { return s.Wanted == 2 })
	f.settled()
	if writes := f.written(); len(writes) > 0 {
		f.Errorf("the new spoke wrote %q", writes)
	}
}

func (f *fixture) testGone(t *v1alpha1.TailscaleGateway) {
	f.must(f.admin.Delete(f.Context(), t))
	f.wantObjects(ingress.Tailnet, ingress.Role, nil)
	f.settled()
}

// TestRestrictedPodSecurity has a namespace that enforces the restricted profile take the pods, and shows that it would
// refuse others.
func TestRestrictedPodSecurity(t *testing.T) {
	f := newFixture(t)
	for name, set := range sets() {
		pod := func() *corev1.Pod {
			template := template(t, set)
			return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "p", Labels: template.Labels}, Spec: template.Spec}
		}
		if err := f.admin.Create(t.Context(), pod(), client.DryRunAll); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		for what, spoil := range map[string]func(*corev1.Pod){
			"allowPrivilegeEscalation": func(p *corev1.Pod) { p.Spec.Containers[0].SecurityContext.AllowPrivilegeEscalation = nil },
			"runAsNonRoot":             func(p *corev1.Pod) { p.Spec.SecurityContext.RunAsNonRoot = nil },
			"seccompProfile":           func(p *corev1.Pod) { p.Spec.SecurityContext.SeccompProfile = nil },
			"capabilities":             func(p *corev1.Pod) { p.Spec.Containers[0].SecurityContext.Capabilities = nil },
		} {
			bad := pod()
			spoil(bad)
			if err := f.admin.Create(t.Context(), bad, client.DryRunAll); !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), what) {
				t.Errorf("%s without %s: %v, want it to be forbidden", name, what, err)
			}
		}
	}
}
