package deploy_test

import (
	"cmp"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	authorizationv1 "k8s.io/api/authorization/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/yaml"

	"github.com/tailgate-project/tailgate/deploy"
	"github.com/tailgate-project/tailgate/e2e-kind/controlplane"
	"github.com/tailgate-project/tailgate/spoke"
)

// account is a ServiceAccount that the charts, the spoke or Envoy Gateway's chart make.
type account struct{ namespace, name string }

var accounts = map[string]account{
	"tailgate-hub":       {deploy.Namespace, deploy.Hub},
	"tailgate-spoke":     {deploy.Namespace, deploy.Spoke},
	"tailgate-spoke-api": {deploy.Namespace, "tailgate-spoke-api"},
	"tailgate-ingress":   {deploy.Namespace, "tailgate-ingress-production-tailnet"},
	"tailgate-egress":    {deploy.Namespace, "tailgate-egress-production-tailnet"},
	"envoy-gateway":      {deploy.EnvoyGatewayNamespace, "envoy-gateway"},
}

// looked are the namespaces in which the accounts are asked what they may.
var looked = []string{deploy.Namespace, deploy.EnvoyGatewayNamespace, "kube-system", "default"}

// in acts in the name of an account.
func in(t *testing.T, plane *controlplane.ControlPlane, a account) kubernetes.Interface {
	t.Helper()
	config := plane.RESTConfig()
	config.Impersonate = rest.ImpersonationConfig{UserName: "system:serviceaccount:" + a.namespace + ":" + a.name}
	out, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// installed is an API server on which all has been applied, with the objects of a set of proxies of each role.
func installed(t *testing.T) *controlplane.ControlPlane {
	t.Helper()
	plane := cluster(t)
	if err := plane.ApplyYAML(t.Context(), []byte(namespaces)); err != nil {
		t.Fatal(err)
	}
	if err := plane.ApplyFiles(t.Context(), "install/hub.yaml", "install/spoke.yaml"); err != nil {
		t.Fatal(err)
	}
	for _, o := range append(proxies(t, spoke.Ingress), proxies(t, spoke.Egress)...) {
		text, err := yaml.Marshal(o.Object)
		if err != nil {
			t.Fatal(err)
		}
		if err := plane.ApplyYAML(t.Context(), text); err != nil {
			t.Fatal(err)
		}
	}
	return plane
}

// TestRightsGolden asks the API server what each account may do, beside what everybody may, and compares it with what was
// written down: whoever gives a right sees it in a review.
func TestRightsGolden(t *testing.T) {
	plane := installed(t)
	for name, a := range accounts {
		t.Run(name, func(t *testing.T) {
			got := rights(t, plane, a)
			file := "testdata/rbac-" + name + ".golden"
			if os.Getenv("UPDATE_GOLDEN") != "" {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if diff := gocmp.Diff(read(t, file), got); diff != "" {
				t.Errorf("rights of %s changed; if that is meant, run make golden:\n%s", name, diff)
			}
		})
	}
	t.Run("dangerous", func(t *testing.T) { dangerous(t, plane) })
	t.Run("proxies-by-the-spoke", func(t *testing.T) { proxiesBySpoke(t, plane) })
	t.Run("acts-for-the-hub", func(t *testing.T) { actsForHub(t, plane) })
}

// right is one verb on one thing.
type right struct{ what, verb string }

// rights lists what an account may do, a line for each thing, what holds in all namespaces first.
func rights(t *testing.T, plane *controlplane.ControlPlane, a account) string {
	t.Helper()
	byNamespace := map[string]map[right]bool{}
	for _, ns := range looked {
		everybody := review(t, in(t, plane, account{"default", "nobody"}), ns)
		byNamespace[ns] = review(t, in(t, plane, a), ns)
		maps.DeleteFunc(byNamespace[ns], func(r right, _ bool) bool { return everybody[r] })
	}
	everywhere := maps.Clone(byNamespace[looked[0]])
	maps.DeleteFunc(everywhere, func(r right, _ bool) bool {
		return slices.ContainsFunc(looked, func(ns string) bool { return !byNamespace[ns][r] })
	})
	out := section("everywhere", everywhere)
	for _, ns := range looked {
		maps.DeleteFunc(byNamespace[ns], func(r right, _ bool) bool { return everywhere[r] })
		out += section("in "+ns, byNamespace[ns])
	}
	return out
}

func section(title string, of map[right]bool) string {
	verbs := map[string][]string{}
	for r := range of {
		verbs[r.what] = append(verbs[r.what], r.verb)
	}
	out := ""
	if len(verbs) > 0 {
		out = title + ":\n"
	}
	for _, what := range slices.Sorted(maps.Keys(verbs)) {
		out += "  " + what + ": " + strings.Join(slices.Sorted(slices.Values(verbs[what])), " ") + "\n"
	}
	return out
}

// review asks the API server what the client may do in a namespace.
func review(t *testing.T, api kubernetes.Interface, namespace string) map[right]bool {
	t.Helper()
	got, err := api.AuthorizationV1().SelfSubjectRulesReviews().Create(t.Context(),
		&authorizationv1.SelfSubjectRulesReview{Spec: authorizationv1.SelfSubjectRulesReviewSpec{Namespace: namespace}}, createOptions)
	if err != nil {
		t.Fatal(err)
	}
	if got.Status.Incomplete {
		t.Fatalf("the list is not complete: %s", got.Status.EvaluationError)
	}
	out := map[right]bool{}
	add := func(what string, verbs []string) {
		for _, verb := range verbs {
			out[right{what, verb}] = true
		}
	}
	for _, r := range got.Status.ResourceRules {
		for _, group := range r.APIGroups {
			for _, resource := range r.Resources {
				what := strings.TrimSuffix(resource+"."+group, ".")
				if len(r.ResourceNames) == 0 {
					add(what, r.Verbs)
				}
				for _, name := range r.ResourceNames {
					add(what+" "+name, r.Verbs)
				}
			}
		}
	}
	for _, r := range got.Status.NonResourceRules {
		for _, url := range r.NonResourceURLs {
			add(url, r.Verbs)
		}
	}
	return out
}

// dangerous asks for what none of the accounts may do.
func dangerous(t *testing.T, plane *controlplane.ControlPlane) {
	type question = authorizationv1.ResourceAttributes
	removal := question{Verb: "delete", Group: "gateway.tailscale.com", Resource: "memberclusters"} // which the hub alone may
	never := []question{
		{Namespace: "kube-system", Verb: "get", Resource: "secrets"},
		{Namespace: "default", Verb: "get", Resource: "secrets"},
		{Verb: "list", Resource: "secrets"},
		{Namespace: deploy.EnvoyGatewayNamespace, Verb: "get", Resource: "secrets", Name: "envoy-gateway"},
		{Namespace: deploy.EnvoyGatewayNamespace, Verb: "update", Resource: "secrets", Name: "envoy"},
		{Namespace: deploy.Namespace, Verb: "create", Resource: "pods", Subresource: "exec"},
		{Namespace: deploy.Namespace, Verb: "get", Resource: "pods", Subresource: "exec"},
		{Namespace: deploy.Namespace, Verb: "create", Resource: "pods", Subresource: "attach"},
		{Namespace: deploy.Namespace, Verb: "create", Resource: "pods", Subresource: "portforward"},
		{Namespace: deploy.Namespace, Verb: "patch", Resource: "pods", Subresource: "ephemeralcontainers"},
		{Namespace: deploy.Namespace, Verb: "create", Resource: "pods"},
		{Namespace: "kube-system", Verb: "create", Resource: "pods"},
		{Namespace: "kube-system", Verb: "create", Group: "apps", Resource: "daemonsets"},
		{Namespace: "kube-system", Verb: "create", Group: "apps", Resource: "statefulsets"},
		{Namespace: "kube-system", Verb: "create", Resource: "serviceaccounts", Subresource: "token"},
		{Namespace: deploy.Namespace, Verb: "create", Resource: "serviceaccounts", Subresource: "token", Name: "default"},
		{Namespace: "kube-system", Verb: "impersonate", Resource: "serviceaccounts"},
		{Namespace: deploy.Namespace, Verb: "impersonate", Resource: "serviceaccounts", Name: deploy.Hub},
		{Verb: "impersonate", Resource: "users", Name: "admin"},
		{Verb: "impersonate", Resource: "groups", Name: "system:masters"},
		{Namespace: deploy.Namespace, Verb: "escalate", Group: "rbac.authorization.k8s.io", Resource: "roles"},
		{Namespace: deploy.Namespace, Verb: "bind", Group: "rbac.authorization.k8s.io", Resource: "roles"},
		{Verb: "escalate", Group: "rbac.authorization.k8s.io", Resource: "clusterroles"},
		{Verb: "bind", Group: "rbac.authorization.k8s.io", Resource: "clusterroles", Name: "cluster-admin"},
		{Verb: "create", Group: "rbac.authorization.k8s.io", Resource: "clusterroles"},
		{Verb: "create", Group: "rbac.authorization.k8s.io", Resource: "clusterrolebindings"},
		{Namespace: "kube-system", Verb: "create", Group: "rbac.authorization.k8s.io", Resource: "rolebindings"},
		{Verb: "get", Resource: "nodes", Subresource: "proxy"},
		{Namespace: "default", Verb: "get", Resource: "services", Subresource: "proxy"},
		{Namespace: "default", Verb: "get", Resource: "pods", Subresource: "log"},
		{Namespace: "default", Verb: "get", Resource: "configmaps"},
		{Verb: "patch", Resource: "nodes"},
		{Verb: "patch", Resource: "namespaces"},
		{Verb: "create", Resource: "namespaces"},
		{Verb: "create", Resource: "persistentvolumes"},
		{Verb: "update", Group: "apiextensions.k8s.io", Resource: "customresourcedefinitions"},
		{Verb: "create", Group: "admissionregistration.k8s.io", Resource: "mutatingwebhookconfigurations"},
		{Verb: "create", Group: "certificates.k8s.io", Resource: "certificatesigningrequests"},
		{Namespace: "default", Verb: "update", Group: "gateway.networking.k8s.io", Resource: "gateways"},
		{Namespace: "default", Verb: "update", Group: "gateway.networking.k8s.io", Resource: "httproutes"},
		removal,
		{Verb: "delete", Group: "gateway.tailscale.com", Resource: "tailscaletailnets"},
	}
	// The control: the spoke may do these, so the question is put rightly.
	for _, q := range []question{
		{Namespace: deploy.Namespace, Verb: "get", Resource: "secrets"},
		{Namespace: deploy.EnvoyGatewayNamespace, Verb: "get", Resource: "secrets", Name: "envoy"},
		{Namespace: deploy.Namespace, Verb: "impersonate", Resource: "serviceaccounts", Name: "tailgate-spoke-api"},
		{Namespace: deploy.Namespace, Verb: "create", Group: "apps", Resource: "statefulsets"},
	} {
		if !may(t, plane, accounts["tailgate-spoke"], q) {
			t.Errorf("the spoke may not %s", asked(q))
		}
	}
	for name, a := range accounts {
		for _, q := range never {
			if may(t, plane, a, q) != (name == deploy.Hub && q == removal) {
				t.Errorf("%s may %s, or may not what it has to", name, asked(q))
			}
		}
	}
}

func may(t *testing.T, plane *controlplane.ControlPlane, a account, q authorizationv1.ResourceAttributes) bool {
	t.Helper()
	got, err := in(t, plane, a).AuthorizationV1().SelfSubjectAccessReviews().Create(t.Context(),
		&authorizationv1.SelfSubjectAccessReview{Spec: authorizationv1.SelfSubjectAccessReviewSpec{ResourceAttributes: &q}}, createOptions)
	if err != nil {
		t.Fatal(err)
	}
	return got.Status.Allowed
}

func asked(q authorizationv1.ResourceAttributes) string {
	what := q.Resource
	if q.Subresource != "" {
		what += "/" + q.Subresource
	}
	return strings.TrimSpace(fmt.Sprintf("%s %s %s in %s", q.Verb, what, q.Name, cmp.Or(q.Namespace, "the whole cluster")))
}
