package deploy_test

import (
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/dynamic/fake"

	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/engine"

	"github.com/tailgate-project/tailgate/deploy"
)

// there is a cluster that has these objects and no others.
type there struct{ *fake.FakeDynamicClient }

func (c there) GetClientFor(apiVersion, kind string) (dynamic.NamespaceableResourceInterface, bool, error) {
	gv, err := schema.ParseGroupVersion(apiVersion)
	return c.Resource(gv.WithResource(strings.ToLower(kind) + "s")), kind != "Namespace", err
}

// TestAuthorityIsMadeOnce renders with a cluster at hand, as Helm does when it installs and upgrades.
func TestAuthorityIsMadeOnce(t *testing.T) {
	const system = "apiVersion: v1\nkind: Namespace\nmetadata: {name: kube-system}\n"
	secret := func(name string) string {
		return "---\napiVersion: v1\nkind: Secret\nmetadata: {name: " + name + ", namespace: tailgate-system}\ndata: {tls.crt: LS0tLS1mcm9tLXRoZS1jbHVzdGVyLS0tLS0=}\n"
	}
	const known = "extension: {ca: {certificate: '-----BEGIN CERTIFICATE-----given-----END CERTIFICATE-----'}}"
	for name, tc := range map[string]struct {
		cluster, values string
		// noGateway is a cluster without the kinds of Envoy Gateway.
		noGateway bool
		// made is whether an authority is, proxy what is in the EnvoyProxy, "" for none, err what is wrong.
		made       bool
		proxy, err string
	}{
		"no-cluster":                      {},
		"no-cluster-but-a-certificate":    {values: known, proxy: "-----given-----"},
		"first":                           {cluster: system, made: true, proxy: "-----BEGIN CERTIFICATE-----"},
		"given":                           {cluster: system, values: known, proxy: "-----given-----"},
		"not-wanted":                      {cluster: system, values: "extension: {ca: {generate: false}}"},
		"by-cert-manager":                 {cluster: system, values: "extension: {ca: {certManagerIssuer: {name: x}}}"},
		"there-already":                   {cluster: system + secret("tailgate-extension-ca") + secret("tailgate-extension-ca-key"), proxy: "-----from-the-cluster-----"},
		"key-is-there-but-not-published":  {cluster: system + secret("tailgate-extension-ca-key")},
		"no-envoy-gateway":                {cluster: system, noGateway: true, err: "Envoy Gateway is not installed: install it first"},
		"no-envoy-gateway-and-no-objects": {cluster: system, noGateway: true, values: "envoyGateway: {envoyProxy: {create: false}, gatewayClass: {create: false}}", made: true},
	} {
		t.Run(name, func(t *testing.T) {
			var objects []runtime.Object
			for _, o := range decode(t, tc.cluster) {
				objects = append(objects, o)
			}
			capabilities := chartutil.DefaultCapabilities.Copy()
			if !tc.noGateway {
				capabilities.APIVersions = append(capabilities.APIVersions, "gateway.envoyproxy.io/v1alpha1/EnvoyProxy")
			}
			c := load(t, deploy.Spoke)
			v, err := chartutil.ToRenderValues(c, values(t, tc.values), chartutil.ReleaseOptions{Name: "x", Namespace: deploy.Namespace}, capabilities)
			if err != nil {
				t.Fatal(err)
			}
			files, err := engine.RenderWithClientProvider(c, v, there{fake.NewSimpleDynamicClient(runtime.NewScheme(), objects...)})
			if tc.err != "" {
				if err == nil || !strings.Contains(err.Error(), tc.err) {
					t.Errorf("got %v, want %q in it", err, tc.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			made, proxy := 0, ""
			for _, o := range decode(t, files["tailgate-spoke/templates/envoyproxy.yaml"]) {
				switch o.GetKind() {
				case "Secret":
					made++
					if o.GetAnnotations()["helm.sh/resource-policy"] != "keep" {
						t.Errorf("%s would go with the next upgrade", title(o))
					}
				case "EnvoyProxy":
					proxy = bootstrap(t, []*unstructured.Unstructured{o})
				}
			}
			if made != map[bool]int{true: 2}[tc.made] {
				t.Errorf("%d Secrets, want them made: %v", made, tc.made)
			}
			if (proxy == "") != (tc.proxy == "") || !strings.Contains(proxy, tc.proxy) {
				t.Errorf("bootstrap: %q, want %q in it", proxy, tc.proxy)
			}
		})
	}
}
