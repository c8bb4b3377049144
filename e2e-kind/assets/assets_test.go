package assets_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tailgate-project/tailgate/e2e-kind/assets"
)

// touch makes executable files in a new directory.
func touch(t *testing.T, names ...string) string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range names {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, nil, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

const crds = "charts/gateway-helm/charts/crds/crds"

func TestFind(t *testing.T) {
	cache := touch(t, "bin/etcd", "bin/kube-apiserver", "bin/kubectl", "bin/envoy-gateway", crds+"/gatewayapi-crds.yaml", crds+"/generated/a.yaml")
	kubebuilder := touch(t, "etcd", "kube-apiserver", "kubectl")
	gateway := filepath.Join(touch(t, "my-gateway"), "my-gateway")
	yaml := []string{filepath.Join(cache, crds, "gatewayapi-crds.yaml"), filepath.Join(cache, crds, "generated/a.yaml")}
	tests := map[string]struct {
		kubebuilder, gateway string
		want                 assets.Paths
	}{
		"cache": {want: assets.Paths{
			KubeAPIServer: filepath.Join(cache, "bin/kube-apiserver"), Etcd: filepath.Join(cache, "bin/etcd"), Kubectl: filepath.Join(cache, "bin/kubectl"),
			EnvoyGateway: filepath.Join(cache, "bin/envoy-gateway"), EnvoyGatewayCRDs: yaml,
		}},
		"environment": {kubebuilder: kubebuilder, gateway: gateway, want: assets.Paths{
			KubeAPIServer: filepath.Join(kubebuilder, "kube-apiserver"), Etcd: filepath.Join(kubebuilder, "etcd"), Kubectl: filepath.Join(kubebuilder, "kubectl"),
			EnvoyGateway: gateway, EnvoyGatewayCRDs: yaml,
		}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Setenv(assets.CacheEnv, cache)
			t.Setenv(assets.KubebuilderEnv, test.kubebuilder)
			t.Setenv(assets.EnvoyGatewayEnv, test.gateway)
			got, err := assets.Find(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestFindNamesEverythingThatIsMissing(t *testing.T) {
	cache := touch(t, "bin/etcd", "bin/kubectl")
	if err := os.Chmod(filepath.Join(cache, "bin/kubectl"), 0o644); err != nil {
		t.Fatal(err)
	}
	t.Setenv(assets.CacheEnv, cache)
	t.Setenv(assets.KubebuilderEnv, "")
	t.Setenv(assets.EnvoyGatewayEnv, filepath.Join(cache, "none"))
	_, err := assets.Find(t.Context())
	if !errors.Is(err, assets.ErrMissing) {
		t.Fatalf("got %v", err)
	}
	want := strings.ReplaceAll(strings.Join([]string{
		"DIR/bin/kube-apiserver: missing; `make assets` builds it",
		"DIR/bin/kubectl: missing; `make assets` builds it",
		"DIR/none: missing; `make assets` builds it where ENVOY_GATEWAY_BIN is not set",
		"the CRDs of envoy-gateway in DIR/" + crds + ": missing; `make assets` builds it",
	}, "\n"), "DIR", cache)
	if diff := cmp.Diff(want, err.Error()); diff != "" {
		t.Error(diff)
	}
}
