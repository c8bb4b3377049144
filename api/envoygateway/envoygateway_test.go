package envoygateway_test

import (
	"testing"

	"github.com/tailgate-project/tailgate/api/envoygateway"
)

func TestVersion(t *testing.T) {
	for name, tc := range map[string]struct {
		label, image, want string
		supported          bool
	}{
		"label":              {"v1.9.1", "docker.io/envoyproxy/gateway:v1.0.0", "v1.9.1", true},
		"label-without-v":    {"1.9.4", "", "v1.9.4", true},
		"tag":                {"", "docker.io/envoyproxy/gateway:v1.8.2", "v1.8.2", false},
		"tag-and-digest":     {"", "registry.example:5000/gateway:v1.9.0@sha256:0123", "v1.9.0", true},
		"latest":             {"latest", "gateway:latest", "", false},
		"registry-with-port": {"", "registry.example:5000/gateway", "", false},
		"newer":              {"v1.10.0", "", "v1.10.0", false},
		"candidate":          {"v1.9.2-rc.1", "", "v1.9.2-rc.1", true},
		"nothing":            {"", "", "", false},
	} {
		t.Run(name, func(t *testing.T) {
			got := envoygateway.Version(map[string]string{"app.kubernetes.io/version": tc.label}, tc.image)
			if got != tc.want || envoygateway.Supported(got) != tc.supported {
				t.Errorf("version %q, supported %t; want %q, %t", got, envoygateway.Supported(got), tc.want, tc.supported)
			}
		})
	}
}
