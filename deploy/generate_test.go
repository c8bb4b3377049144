package deploy_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	rbacv1 "k8s.io/api/rbac/v1"

	"github.com/tailgate-project/tailgate/deploy"
)

// TestGeneratedFilesAreCurrent fails where `make charts` was forgotten.
func TestGeneratedFilesAreCurrent(t *testing.T) {
	want, err := deploy.Generate(".")
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range want {
		got, err := os.ReadFile(filepath.FromSlash(name))
		if err != nil {
			t.Errorf("%v: run make charts", err)
			continue
		}
		if diff := cmp.Diff(text, string(got)); diff != "" {
			t.Errorf("%s is out of date, run make charts:\n%s", name, diff)
		}
	}
	stale, err := deploy.Stale(".", want)
	if err != nil || len(stale) > 0 {
		t.Errorf("files that nothing generates: %v, %v", stale, err)
	}
}

// TestEveryCRDIsInAChart tries a CRD that nobody has named.
func TestEveryCRDIsInAChart(t *testing.T) {
	dir := t.TempDir()
	for _, sub := range []string{"crds", "rbac"} {
		if err := os.CopyFS(filepath.Join(dir, sub), os.DirFS(sub)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := deploy.Copies(dir); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "crds", "gateway.tailscale.com_new.yaml"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := deploy.Copies(dir); err == nil || !strings.Contains(err.Error(), "gateway.tailscale.com_new.yaml is in no chart") {
		t.Errorf("got %v", err)
	}
}

// TestRulesAreTheMarkers compares the roles that a chart installs with those that controller-gen wrote.
func TestRulesAreTheMarkers(t *testing.T) {
	for name, file := range map[string]string{deploy.Hub: "rbac/hub-role.yaml", deploy.Spoke: "rbac/spoke-role.yaml"} {
		t.Run(name, func(t *testing.T) {
			objects := rendered(t, name, deploy.Options{Namespace: "elsewhere", Values: map[string]any{}})
			for _, want := range decode(t, read(t, file)) {
				namespace := map[string]string{deploy.Namespace: "elsewhere", deploy.EnvoyGatewayNamespace: deploy.EnvoyGatewayNamespace, "": ""}[want.GetNamespace()]
				var bound bool
				for _, got := range objects {
					if got.GetName() != name || got.GetNamespace() != namespace {
						continue
					}
					switch got.GetKind() {
					case want.GetKind():
						if diff := cmp.Diff(want.Object["rules"], got.Object["rules"]); diff != "" {
							t.Errorf("%s: %s", title(got), diff)
						}
					case want.GetKind() + "Binding":
						b := as[rbacv1.RoleBinding](t, got)
						bound = b.RoleRef.Name == name && b.RoleRef.Kind == want.GetKind() &&
							cmp.Equal(b.Subjects, []rbacv1.Subject{{Kind: "ServiceAccount", Name: name, Namespace: "elsewhere"}})
					}
				}
				if !bound {
					t.Errorf("%s is not bound to the ServiceAccount", title(want))
				}
			}
		})
	}
}

// TestChartsHaveOneVersion holds both charts, and the images, to the same version.
func TestChartsHaveOneVersion(t *testing.T) {
	hub, spoke := load(t, deploy.Hub).Metadata, load(t, deploy.Spoke).Metadata
	if hub.Version != spoke.Version || hub.AppVersion != spoke.AppVersion || hub.AppVersion != hub.Version {
		t.Errorf("hub %s, %s; spoke %s, %s", hub.Version, hub.AppVersion, spoke.Version, spoke.AppVersion)
	}
}
