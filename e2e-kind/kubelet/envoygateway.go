package kubelet

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/yaml"

	"github.com/tailgate-project/tailgate/e2e-kind/machine"
)

// EnvoyGatewayOptions are all required, but for those with a default.
type EnvoyGatewayOptions struct {
	// Path is the program.
	Path string
	// Kubeconfig is a file for the cluster, whose user may do everything.
	Kubeconfig string
	// Namespace is Envoy Gateway's own, made if it is not there; by default [DefaultNamespace].
	Namespace string
	// ExtensionManager is that part of the configuration of Envoy Gateway, as in its YAML; nil means no extension. CRDs that
	// it names must be there.
	ExtensionManager map[string]any
	// Dir gets certificates, configuration and log.
	Dir string
	// Supervisor runs the process. Restart is that of the process.
	Supervisor *machine.Supervisor
	Restart    bool
}

// controllerName is Envoy Gateway's, for GatewayClasses.
const controllerName = "gateway.envoyproxy.io/gatewayclass-controller"

// StartEnvoyGateway starts the real Envoy Gateway against the cluster and returns when it is ready. It listens on fixed
// ports on all addresses of the machine (18000 for the proxies), so there is one to a machine. Its CRDs, in assets.Paths,
// must be there. Leader election and topology injector, which need other parts of a cluster, are off.
func StartEnvoyGateway(ctx context.Context, o EnvoyGatewayOptions) (*machine.Running, error) {
	if o.Path == "" || o.Kubeconfig == "" || o.Dir == "" || o.Supervisor == nil {
		return nil, errors.New("start envoy-gateway: an option is missing")
	}
	if o.Namespace == "" {
		o.Namespace = DefaultNamespace
	}
	certs := filepath.Join(o.Dir, "certs")
	if err := os.MkdirAll(certs, 0o700); err != nil {
		return nil, fmt.Errorf("start envoy-gateway: %w", err)
	}
	if err := o.writeCertificates(ctx, certs); err != nil {
		return nil, fmt.Errorf("start envoy-gateway: certificates: %w", err)
	}
	config := filepath.Join(o.Dir, "envoy-gateway.yaml")
	b, err := o.config()
	if err == nil {
		err = replaceFile(config, b)
	}
	if err != nil {
		return nil, fmt.Errorf("start envoy-gateway: configuration: %w", err)
	}
	running, err := o.Supervisor.Start(ctx, machine.Process{
		Name: "envoy-gateway", Path: o.Path, Args: []string{"server", "--config-path", config}, Env: o.environ(),
		LogFile: filepath.Join(o.Dir, "envoy-gateway.log"), Binds: map[string]string{"/certs": certs}, Restart: o.Restart,
		Ready: func(ctx context.Context) error {
			return probeHTTP(ctx, netip.MustParseAddrPort("127.0.0.1:8081"), "/readyz")
		},
	})
	if err != nil {
		return nil, err
	}
	return running, nil
}

func (o *EnvoyGatewayOptions) environ() []string {
	return append(os.Environ(), "KUBECONFIG="+o.Kubeconfig, "ENVOY_GATEWAY_NAMESPACE="+o.Namespace)
}

// writeCertificates has Envoy Gateway make the Secrets with the certificates of both sides, where they are not there, and
// writes its own to the directory.
func (o *EnvoyGatewayOptions) writeCertificates(ctx context.Context, dir string) error {
	config, err := clientcmd.BuildConfigFromFlags("", o.Kubeconfig)
	if err != nil {
		return err
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: o.Namespace}}
	if _, err := client.CoreV1().Namespaces().Create(ctx, namespace, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
		return err
	}
	const name = "envoy-gateway"
	secret, err := client.CoreV1().Secrets(o.Namespace).Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		generate := exec.CommandContext(ctx, o.Path, "certgen", "--disable-topology-injector")
		generate.Env = o.environ()
		if out, err := generate.CombinedOutput(); err != nil {
			return fmt.Errorf("certgen: %w:\n%s", err, out)
		}
		secret, err = client.CoreV1().Secrets(o.Namespace).Get(ctx, name, metav1.GetOptions{})
	}
	if err != nil {
		return err
	}
	for file, content := range secret.Data {
		if err := replaceFile(filepath.Join(dir, file), content); err != nil {
			return err
		}
	}
	return nil
}

// config is the file that envoy-gateway reads.
func (o *EnvoyGatewayOptions) config() ([]byte, error) {
	config := map[string]any{
		"apiVersion": "gateway.envoyproxy.io/v1alpha1",
		"kind":       "EnvoyGateway",
		"gateway":    map[string]any{"controllerName": controllerName},
		"provider": map[string]any{
			"type": "Kubernetes",
			"kubernetes": map[string]any{
				"leaderElection":        map[string]any{"disable": true},
				"proxyTopologyInjector": map[string]any{"disabled": true},
			},
		},
		// Pods have networks of their own; here Envoy Gateway and Envoy share one, and two ports of the first are the
		// second's: that of the admin interface and that of the metrics.
		"telemetry":     map[string]any{"metrics": map[string]any{"prometheus": map[string]any{"disable": true}}},
		"admin":         map[string]any{"address": map[string]any{"host": "127.0.0.1", "port": 19100}},
		"logging":       map[string]any{"level": map[string]any{"default": "info"}},
		"extensionApis": map[string]any{"enableBackend": true, "enableEnvoyPatchPolicy": true},
	}
	if o.ExtensionManager != nil {
		config["extensionManager"] = o.ExtensionManager
	}
	return yaml.Marshal(config)
}
