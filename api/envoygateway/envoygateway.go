// Package envoygateway says which Envoy Gateway a cluster runs, and whether Tailgate was tried with it.
package envoygateway

import (
	"strings"

	"golang.org/x/mod/semver"
)

const (
	// Deployment is what Envoy Gateway's chart calls its Deployment.
	Deployment = "envoy-gateway"
	// Namespace is where its instructions install it.
	Namespace = "envoy-gateway-system"
	// Tested is the version that the tests run.
	Tested = "v1.9.1"
)

// versionLabel is the label that Helm's charts carry the version in.
const versionLabel = "app.kubernetes.io/version"

// Version returns the version of a Deployment of Envoy Gateway, by its labels, else by the tag of its image: v and a
// semantic version. It is empty if neither says one.
func Version(labels map[string]string, image string) string {
	if v := canonical(labels[versionLabel]); v != "" {
		return v
	}
	image, _, _ = strings.Cut(image, "@")
	i := strings.LastIndexByte(image, ':')
	if i < 0 || strings.Contains(image[i:], "/") { // that was a registry's port
		return ""
	}
	return canonical(image[i+1:])
}

func canonical(v string) string {
	if v != "" && !strings.HasPrefix(v, "v") {
		v = "v" + v
	}
	if !semver.IsValid(v) {
		return ""
	}
	return v
}

// Supported reports whether a version is of the minor release that Tailgate is tested with. The hooks' messages and what they
// may change differ between minor releases.
func Supported(version string) bool { return semver.MajorMinor(version) == semver.MajorMinor(Tested) }
