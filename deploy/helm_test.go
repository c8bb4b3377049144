package deploy_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"helm.sh/helm/v3/pkg/action"
	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/cli"

	"github.com/tailgate-project/tailgate/deploy"
	"github.com/tailgate-project/tailgate/e2e-kind/controlplane"
	"github.com/tailgate-project/tailgate/extension"
	"github.com/tailgate-project/tailgate/extension/certs"
)

// helm is Helm at an API server.
func helm(t *testing.T, plane *controlplane.ControlPlane) *action.Configuration {
	t.Helper()
	t.Setenv("KUBECACHEDIR", t.TempDir()) // what it learns of an API server is none of the user's business
	settings := cli.New()
	settings.KubeConfig = plane.AdminKubeconfig()
	settings.SetNamespace(deploy.Namespace)
	out := new(action.Configuration)
	if err := out.Init(settings.RESTClientGetter(), deploy.Namespace, "secret", func(string, ...any) {}); err != nil {
		t.Fatal(err)
	}
	return out
}

func install(t *testing.T, plane *controlplane.ControlPlane, c *chart.Chart, values map[string]any) error {
	t.Helper()
	i := action.NewInstall(helm(t, plane))
	i.ReleaseName, i.Namespace = c.Name(), deploy.Namespace
	_, err := i.RunWithContext(t.Context(), c, values)
	return err
}

func upgrade(t *testing.T, plane *controlplane.ControlPlane, c *chart.Chart, values map[string]any) {
	t.Helper()
	u := action.NewUpgrade(helm(t, plane))
	u.Namespace, u.ResetThenReuseValues = deploy.Namespace, true
	if _, err := u.RunWithContext(t.Context(), c.Name(), c, values); err != nil {
		t.Fatal(err)
	}
}

func uninstall(t *testing.T, plane *controlplane.ControlPlane, name string) {
	t.Helper()
	if _, err := action.NewUninstall(helm(t, plane)).Run(name); err != nil {
		t.Fatal(err)
	}
}

// helmLife is what becomes of a release: the authority stays through upgrades, and also when the spoke has renewed it; CRDs are
// updated, and stay when the release goes.
func helmLife(t *testing.T, plane *controlplane.ControlPlane, api client.Client) {
	hub, spoke := load(t, deploy.Hub), load(t, deploy.Spoke)
	for _, c := range []*chart.Chart{hub, spoke} {
		if err := install(t, plane, c, map[string]any{}); err != nil {
			t.Fatal(err)
		}
	}
	t.Run("the-spoke-takes-the-authority", func(t *testing.T) { takesAuthority(t, api) })
	first := proxyNow(t, api)

	t.Run("upgrade", func(t *testing.T) {
		newer := load(t, deploy.Spoke)
		annotate(newer, "tailscalegateways", "x-new")
		upgrade(t, plane, newer, map[string]any{"logLevel": "debug"})
		if diff := cmp.Diff(first, proxyNow(t, api)); diff != "" {
			t.Errorf("the EnvoyProxy changed, and all Envoys restart:\n%s", diff)
		}
		var got apiextensionsv1.CustomResourceDefinition
		if err := api.Get(t.Context(), client.ObjectKey{Name: "tailscalegateways.gateway.tailscale.com"}, &got); err != nil {
			t.Fatal(err)
		}
		if got.Annotations["x-new"] != "1" {
			t.Error("helm upgrade did not update the CRD")
		}
		var s appsv1.StatefulSet
		if err := api.Get(t.Context(), client.ObjectKey{Namespace: deploy.Namespace, Name: deploy.Spoke}, &s); err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(strings.Join(s.Spec.Template.Spec.Containers[0].Args, " "), "--log-level=debug") {
			t.Error("helm upgrade did not update the StatefulSet")
		}
	})

	t.Run("upgrade-after-a-new-authority", func(t *testing.T) {
		trust := authority(t).Trust
		var secret corev1.Secret
		if err := api.Get(t.Context(), client.ObjectKey{Namespace: deploy.Namespace, Name: "tailgate-extension-ca"}, &secret); err != nil {
			t.Fatal(err)
		}
		secret.Data["tls.crt"] = append(trust, secret.Data["tls.crt"]...) // as the spoke does
		if err := api.Update(t.Context(), &secret); err != nil {
			t.Fatal(err)
		}
		upgrade(t, plane, spoke, map[string]any{})
		want, err := extension.EnvoyProxyBootstrap(host, 5006, secret.Data["tls.crt"])
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, proxyNow(t, api)); diff != "" {
			t.Error(diff)
		}
	})

	t.Run("again-after-uninstall", func(t *testing.T) {
		before := proxyNow(t, api)
		for _, c := range []*chart.Chart{hub, spoke} {
			uninstall(t, plane, c.Name())
			var s appsv1.StatefulSet
			if err := api.Get(t.Context(), client.ObjectKey{Namespace: deploy.Namespace, Name: c.Name()}, &s); !apierrors.IsNotFound(err) {
				t.Errorf("%s is still there: %v", c.Name(), err)
			}
			if err := install(t, plane, c, map[string]any{}); err != nil {
				t.Error(err)
			}
		}
		if diff := cmp.Diff(before, proxyNow(t, api)); diff != "" {
			t.Errorf("the authority is another one:\n%s", diff)
		}
	})

	t.Run("crds-stay-or-go", func(t *testing.T) {
		key := client.ObjectKey{Name: "memberclusters.gateway.tailscale.com"}
		var got apiextensionsv1.CustomResourceDefinition
		uninstall(t, plane, deploy.Hub)
		if err := api.Get(t.Context(), key, &got); err != nil || got.DeletionTimestamp != nil {
			t.Errorf("the CRD went with the release: %v", err)
		}
		if err := install(t, plane, hub, map[string]any{"crds": map[string]any{"keep": false}}); err != nil {
			t.Fatal(err)
		}
		uninstall(t, plane, deploy.Hub)
		err := api.Get(t.Context(), key, &got)
		if !apierrors.IsNotFound(err) && got.DeletionTimestamp == nil {
			t.Errorf("the CRD stayed: %v", err)
		}
	})
}

// takesAuthority has the spoke's code look at what the chart made.
func takesAuthority(t *testing.T, api client.Client) {
	var key, trust corev1.Secret
	for name, into := range map[string]*corev1.Secret{"tailgate-extension-ca-key": &key, "tailgate-extension-ca": &trust} {
		if err := api.Get(t.Context(), client.ObjectKey{Namespace: deploy.Namespace, Name: name}, into); err != nil {
			t.Fatal(err)
		}
	}
	have := certs.Bundle{CA: certs.Pair{Cert: key.Data["tls.crt"], Key: key.Data["tls.key"]}, Trust: trust.Data["tls.crt"]}
	got, changed, err := certs.Renew(have, certs.Names{DNS: []string{host}}, time.Now().Add(time.Second))
	if err != nil || !changed {
		t.Fatalf("changed %v: %v", changed, err)
	}
	if string(got.CA.Cert) != string(have.CA.Cert) || string(got.Trust) != string(have.Trust) {
		t.Error("the spoke would make another authority, which the Envoys do not know")
	}
	want, err := extension.EnvoyProxyBootstrap(host, 5006, have.Trust)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, proxyNow(t, api)); diff != "" {
		t.Error(diff)
	}
}

// proxyNow is the bootstrap of the EnvoyProxy that is there.
func proxyNow(t *testing.T, api client.Client) string {
	t.Helper()
	o := &unstructured.Unstructured{}
	o.SetAPIVersion("gateway.envoyproxy.io/v1alpha1")
	o.SetKind("EnvoyProxy")
	if err := api.Get(t.Context(), client.ObjectKey{Namespace: deploy.EnvoyGatewayNamespace, Name: "tailgate"}, o); err != nil {
		t.Fatal(err)
	}
	return bootstrap(t, []*unstructured.Unstructured{o})
}

// annotate gives a CRD of a chart an annotation, as a newer chart would have another schema.
func annotate(c *chart.Chart, plural, annotation string) {
	for _, f := range c.Files {
		if strings.HasSuffix(f.Name, "_"+plural+".yaml") {
			f.Data = []byte(strings.Replace(string(f.Data), "\n  annotations:\n", "\n  annotations:\n    "+annotation+": \"1\"\n", 1))
		}
	}
}
