// Package assets finds the programs that the tests and the demo start: etcd, kube-apiserver, kubectl, kube-controller-manager
// and envoy-gateway. The script build beside it, run by `make assets`, puts them into a cache; environment variables name others. It is test
// equipment.
package assets

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// Environment variables that say where to look.
const (
	// KubebuilderEnv names a directory with etcd, kube-apiserver and kubectl, as envtest wants it.
	KubebuilderEnv = "KUBEBUILDER_ASSETS"
	// EnvoyGatewayEnv names an envoy-gateway program.
	EnvoyGatewayEnv = "ENVOY_GATEWAY_BIN"
	// ControllerManagerEnv names a kube-controller-manager program. It has a variable of its own because a directory for
	// envtest has none.
	ControllerManagerEnv = "KUBE_CONTROLLER_MANAGER_BIN"
	// CacheEnv names the cache; by default it is tailgate in the user's cache directory.
	CacheEnv = "TAILGATE_CACHE"
)

// ErrMissing says that something is not where it should be.
var ErrMissing = errors.New("missing; `make assets` builds it")

// Paths are the absolute paths of what was found.
type Paths struct {
	KubeAPIServer string
	Etcd          string
	Kubectl       string
	EnvoyGateway  string
	// EnvoyGatewayCRDs are YAML files with the definitions of the Gateway API and of Envoy Gateway.
	EnvoyGatewayCRDs []string
}

// Find finds everything. An error names all that is missing, and wraps [ErrMissing].
func Find(ctx context.Context) (Paths, error) {
	p, err := FindControlPlane(ctx)
	gateway, gatewayErr := findEnvoyGateway()
	p.EnvoyGateway = gateway
	crds, crdsErr := findCRDs()
	p.EnvoyGatewayCRDs = crds
	if err := errors.Join(err, gatewayErr, crdsErr, ctx.Err()); err != nil {
		return Paths{}, err
	}
	return p, nil
}

// FindControlPlane finds etcd, kube-apiserver and kubectl, and leaves the rest of Paths empty.
func FindControlPlane(ctx context.Context) (Paths, error) {
	dir, err := orCached(KubebuilderEnv, "bin")
	if err != nil {
		return Paths{}, err
	}
	p := Paths{
		KubeAPIServer: filepath.Join(dir, "kube-apiserver"),
		Etcd:          filepath.Join(dir, "etcd"),
		Kubectl:       filepath.Join(dir, "kubectl"),
	}
	errs := []error{ctx.Err()}
	for _, path := range []string{p.Etcd, p.KubeAPIServer, p.Kubectl} {
		errs = append(errs, executable(path, KubebuilderEnv))
	}
	if err := errors.Join(errs...); err != nil {
		return Paths{}, err
	}
	return p, nil
}

// FindControllerManager finds kube-controller-manager, which only few tests want.
func FindControllerManager() (string, error) {
	path, err := orCached(ControllerManagerEnv, "bin/kube-controller-manager")
	if err != nil {
		return "", err
	}
	return path, executable(path, ControllerManagerEnv)
}

func findEnvoyGateway() (string, error) {
	path, err := orCached(EnvoyGatewayEnv, "bin/envoy-gateway")
	if err != nil {
		return "", err
	}
	return path, executable(path, EnvoyGatewayEnv)
}

func findCRDs() ([]string, error) {
	cache, err := Cache()
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(cache, "charts", "gateway-helm", "charts", "crds", "crds")
	api := filepath.Join(dir, "gatewayapi-crds.yaml")
	// Envoy Gateway's own; the pattern is well-formed, which is all that Glob can complain of.
	generated, _ := filepath.Glob(filepath.Join(dir, "generated", "*.yaml"))
	if _, err := os.Stat(api); err != nil || len(generated) == 0 {
		return nil, fmt.Errorf("the CRDs of envoy-gateway in %s: %w", dir, ErrMissing)
	}
	return append([]string{api}, generated...), nil
}

// Cache is the directory that build fills. It need not exist.
func Cache() (string, error) {
	if dir := os.Getenv(CacheEnv); dir != "" {
		return filepath.Abs(dir)
	}
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("find the cache: %w; set %s", err, CacheEnv)
	}
	return filepath.Join(dir, "tailgate"), nil
}

// orCached is the path that the environment variable has, or else the one in the cache.
func orCached(env, inCache string) (string, error) {
	if path := os.Getenv(env); path != "" {
		return filepath.Abs(path)
	}
	cache, err := Cache()
	if err != nil {
		return "", err
	}
	return filepath.Join(cache, inCache), nil
}

func executable(path, env string) error {
	info, err := os.Stat(path)
	if err == nil && info.Mode().IsRegular() && info.Mode().Perm()&0o111 != 0 {
		return nil
	}
	if os.Getenv(env) != "" {
		return fmt.Errorf("%s: %w where %s is not set", path, ErrMissing, env)
	}
	return fmt.Errorf("%s: %w", path, ErrMissing)
}
