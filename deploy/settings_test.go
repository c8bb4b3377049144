package deploy_test

import (
	"bytes"
	"encoding/base64"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"text/template"
	"time"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/chart/loader"

	"github.com/tailgate-project/tailgate/deploy"
	"github.com/tailgate-project/tailgate/e2e-kind/assets"
	"github.com/tailgate-project/tailgate/extension"
	"github.com/tailgate-project/tailgate/extension/certs"
)

const host = "tailgate-spoke.tailgate-system.svc"

// authority makes one as the spoke does.
func authority(t *testing.T) certs.Bundle {
	t.Helper()
	b, _, err := certs.Renew(certs.Bundle{}, certs.Names{DNS: []string{host}}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func bootstrap(t *testing.T, objects []*unstructured.Unstructured) string {
	t.Helper()
	out, found, err := unstructured.NestedString(only(t, objects, "EnvoyProxy", "tailgate").Object, "spec", "bootstrap", "value")
	if err != nil || !found {
		t.Fatalf("bootstrap of the EnvoyProxy: %v", err)
	}
	return out
}

// TestEnvoyProxyIsTheSpokes compares the chart's EnvoyProxy with the one that the spoke prints: another text would restart
// all Envoys of who changes from the one to the other.
func TestEnvoyProxyIsTheSpokes(t *testing.T) {
	first, second := authority(t), authority(t)
	for name, trust := range map[string]string{"one-authority": string(first.Trust), "two-authorities": string(first.Trust) + string(second.Trust)} {
		t.Run(name, func(t *testing.T) {
			want, err := extension.EnvoyProxyBootstrap(host, 5006, []byte(trust))
			if err != nil {
				t.Fatal(err)
			}
			got := bootstrap(t, rendered(t, deploy.Spoke, deploy.Options{
				Values: map[string]any{"extension": map[string]any{"ca": map[string]any{"certificate": trust}}},
			}))
			if diff := cmp.Diff(want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestEnvoyProxyWithoutHelm renders the template as kubectl does.
func TestEnvoyProxyWithoutHelm(t *testing.T) {
	trust := authority(t).Trust
	parsed, err := template.New("").Funcs(template.FuncMap{"base64decode": func(s string) (string, error) {
		out, err := base64.StdEncoding.DecodeString(s)
		return string(out), err
	}}).Parse(read(t, "install/envoyproxy.gotemplate"))
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := parsed.Execute(&out, map[string]any{"data": map[string]any{"tls.crt": base64.StdEncoding.EncodeToString(trust)}}); err != nil {
		t.Fatal(err)
	}
	want, err := extension.EnvoyProxyBootstrap(host, 5006, trust)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(values(t, want), values(t, bootstrap(t, decode(t, out.String())))); diff != "" {
		t.Error(diff)
	}
}

// TestNothingSecretIsPrinted renders without a cluster at hand, where no authority is known.
func TestNothingSecretIsPrinted(t *testing.T) {
	for _, o := range rendered(t, deploy.Spoke, deploy.Options{}) {
		if kind := o.GetKind(); kind == "Secret" || kind == "EnvoyProxy" {
			t.Errorf("there is a %s", title(o))
		}
	}
}

// gatewayChart are the objects of Envoy Gateway's own chart, with our values.
func gatewayChart(t *testing.T) []*unstructured.Unstructured {
	t.Helper()
	cache, err := assets.Cache()
	if err != nil {
		t.Fatal(err)
	}
	c, err := loader.LoadDir(filepath.Join(cache, "charts", "gateway-helm"))
	if err != nil {
		t.Fatalf("%v: `make assets` puts it there", err)
	}
	// Its hooks make certificates, and are of no interest here.
	c.Templates = slices.DeleteFunc(c.Templates, func(f *chart.File) bool { return bytes.Contains(f.Data, []byte("helm.sh/hook")) })
	all, err := deploy.Render(c, deploy.Options{
		Release: "eg", Namespace: deploy.EnvoyGatewayNamespace, Values: values(t, read(t, "install/envoy-gateway-values.yaml")),
	})
	if err != nil {
		t.Fatal(err)
	}
	var out []*unstructured.Unstructured
	for _, m := range all {
		out = append(out, decode(t, m.Text)...)
	}
	return out
}

// TestEnvoyGatewayIsLedToTheSpoke reads what Envoy Gateway is started with, when its chart is given our values.
func TestEnvoyGatewayIsLedToTheSpoke(t *testing.T) {
	objects := gatewayChart(t)
	config := as[corev1.ConfigMap](t, only(t, objects, "ConfigMap", "envoy-gateway-config"))
	var got struct {
		ExtensionManager map[string]any `json:"extensionManager"`
	}
	if err := yaml.Unmarshal([]byte(config.Data["envoy-gateway.yaml"]), &got); err != nil {
		t.Fatal(err)
	}
	text, err := extension.ExtensionManager(extension.ManagerOptions{
		Host: host, Port: 5005, Namespace: deploy.Namespace, CASecret: "tailgate-extension-ca", ClientSecret: "tailgate-extension-client",
	})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(values(t, text)["extensionManager"], any(got.ExtensionManager)); diff != "" {
		t.Error(diff)
	}
	// The account that our ClusterRole is bound to is the one that it runs under.
	account := as[appsv1.Deployment](t, only(t, objects, "Deployment", "envoy-gateway")).Spec.Template.Spec.ServiceAccountName
	binding := only(t, rendered(t, deploy.Spoke, deploy.Options{}), "ClusterRoleBinding", "tailgate-spoke-envoy-gateway")
	want := []any{map[string]any{"kind": "ServiceAccount", "name": account, "namespace": deploy.EnvoyGatewayNamespace}}
	if diff := cmp.Diff(want, binding.Object["subjects"]); diff != "" {
		t.Error(diff)
	}
}

// TestFlagsAreKnown asks the programs themselves for the flags that the charts give them, and the other way round: each flag
// that an operator may want has a value.
func TestFlagsAreKnown(t *testing.T) {
	flag := regexp.MustCompile(`--[a-z][a-z0-9-]*`)
	// What is not offered is for machines without Kubernetes, or for a process that no chart runs.
	left := map[string][]string{
		deploy.Hub: {"--help", "--kubeconfig", "--join-key-file", "--operator-addr"},
		deploy.Spoke: {
			"--help", "--kubeconfig", "--proxy-socket", "--ingress-replicas", "--egress-replicas", "--egress-address",
		},
	}
	for name, source := range map[string]string{deploy.Hub: "hub", deploy.Spoke: "spoke"} {
		t.Run(name, func(t *testing.T) {
			out, err := exec.CommandContext(t.Context(), "go", "run", "../"+source+"/cmd/"+source, "run", "--help").Output()
			if err != nil {
				t.Fatal(err)
			}
			want := map[string]bool{}
			for line := range strings.Lines(string(out)) {
				if f := flag.FindString(line); strings.HasPrefix(strings.TrimSpace(line), "--") || strings.HasPrefix(strings.TrimSpace(line), "-h,") {
					want[f] = true
				}
			}
			for _, f := range left[name] {
				delete(want, f)
			}
			got := map[string]bool{}
			for _, v := range variants(t, name) {
				delete(v, "extraArgs")
				s := as[appsv1.StatefulSet](t, only(t, rendered(t, name, deploy.Options{Values: v}), "StatefulSet", name))
				for _, arg := range s.Spec.Template.Spec.Containers[0].Args[1:] {
					f, _, _ := strings.Cut(arg, "=")
					got[f] = true
				}
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("flags of `%s run` (-) and of the chart (+); offer them, or leave them out on purpose:\n%s", source, diff)
			}
		})
	}
}
