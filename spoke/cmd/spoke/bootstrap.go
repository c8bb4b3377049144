package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"strconv"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/yaml"

	"github.com/tailgate-project/tailgate/extension"
	"github.com/tailgate-project/tailgate/extension/certs"
)

// What --print prints.
const (
	printSettings   = "settings"
	printEnvoyProxy = "envoyproxy"
	printAll        = "all"
	printNothing    = "nothing"
)

type bootstrapFlags struct {
	kubeconfig, namespace, gatewayNamespace        string
	extensionAddr, edsAddr, serverNames, proxyName string
	print, loglevel                                string
}

func newBootstrap() *cobra.Command {
	var f bootstrapFlags
	cmd := &cobra.Command{
		Use: "bootstrap", Short: "Prepare a member cluster before Envoy Gateway starts", Args: cobra.NoArgs,
		Long: `Create the namespace and the Secrets by which Envoy Gateway, Envoy and the spoke know one another, and print how
Envoy Gateway has to be set up: the extensionManager part of its configuration, and an EnvoyProxy by which Envoys
reach the spoke's endpoint discovery server. It may be repeated, and changes nothing that is there already.`,
		RunE: func(cmd *cobra.Command, _ []string) error { return f.run(cmd.Context(), cmd.OutOrStdout()) },
	}
	fl := cmd.Flags()
	fl.StringVar(&f.kubeconfig, "kubeconfig", "", "kubeconfig of the member cluster (default: $KUBECONFIG, else the pod's own account)")
	fl.StringVar(&f.namespace, "namespace", "tailgate-system", "namespace of the spoke's Secrets")
	fl.StringVar(&f.gatewayNamespace, "envoy-gateway-namespace", "envoy-gateway-system", "namespace of the EnvoyProxy")
	fl.StringVar(&f.proxyName, "envoyproxy-name", "tailgate", "name of the EnvoyProxy")
	fl.StringVar(&f.extensionAddr, "extension-addr", "127.0.0.1:5005", "address at which Envoy Gateway reaches the spoke's hooks")
	fl.StringVar(&f.edsAddr, "eds-addr", "127.0.0.1:5006", "address at which Envoy reaches the spoke's endpoint discovery")
	fl.StringVar(&f.serverNames, "server-names", "", "more names and addresses for the server's certificate, separated by commas")
	fl.StringVar(&f.print, "print", printAll, "what to print: settings, envoyproxy, all or nothing")
	fl.StringVar(&f.loglevel, "log-level", "warn", "debug, info, warn or error")
	return cmd
}

func (f *bootstrapFlags) run(ctx context.Context, out io.Writer) error {
	switch f.print {
	case printSettings, printEnvoyProxy, printAll, printNothing:
	default:
		return fmt.Errorf("--print %q: use %s, %s, %s or %s", f.print, printSettings, printEnvoyProxy, printAll, printNothing)
	}
	log, err := logger(f.loglevel)
	if err != nil {
		return err
	}
	cfg, err := restConfig(f.kubeconfig)
	if err != nil {
		return err
	}
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return fmt.Errorf("connect to the member's API server: %w", err)
	}
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: f.namespace}}
	if _, err := client.CoreV1().Namespaces().Create(ctx, ns, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("create namespace %s: %w", f.namespace, err)
	}
	k := &keeper{client: client, namespace: f.namespace, names: serverNames([]string{f.extensionAddr, f.edsAddr}, f.serverNames), log: log}
	bundle, err := k.ensure(ctx)
	if err != nil {
		return err
	}
	text, err := f.text(bundle)
	if err != nil {
		return err
	}
	_, err = io.WriteString(out, text)
	return err
}

func (f *bootstrapFlags) text(b certs.Bundle) (string, error) {
	settings, err := f.settings()
	if err != nil {
		return "", err
	}
	proxy, err := f.envoyProxy(b)
	if err != nil {
		return "", err
	}
	switch f.print {
	case printSettings:
		return settings, nil
	case printEnvoyProxy:
		return proxy, nil
	case printNothing:
		return "", nil
	}
	return "# Part of Envoy Gateway's configuration:\n" + settings + "---\n# For spec.parametersRef of the GatewayClass:\n" + proxy, nil
}

func (f *bootstrapFlags) settings() (string, error) {
	host, port, err := splitAddr("--extension-addr", f.extensionAddr)
	if err != nil {
		return "", err
	}
	return extension.ExtensionManager(extension.ManagerOptions{
		Host: host, Port: port, Namespace: f.namespace, CASecret: secretCA, ClientSecret: secretClient,
	})
}

func (f *bootstrapFlags) envoyProxy(b certs.Bundle) (string, error) {
	host, port, err := splitAddr("--eds-addr", f.edsAddr)
	if err != nil {
		return "", err
	}
	value, err := extension.EnvoyProxyBootstrap(host, port, b.Trust)
	if err != nil {
		return "", err
	}
	out, err := yaml.Marshal(map[string]any{
		"apiVersion": "gateway.envoyproxy.io/v1alpha1", "kind": "EnvoyProxy",
		"metadata": map[string]any{"name": f.proxyName, "namespace": f.gatewayNamespace},
		"spec":     map[string]any{"bootstrap": map[string]any{"type": "Merge", "value": value}},
	})
	if err != nil {
		return "", fmt.Errorf("write EnvoyProxy: %w", err)
	}
	return string(out), nil
}

// splitAddr reads the HOST:PORT of a flag.
func splitAddr(flag, addr string) (string, uint16, error) {
	host, text, err := net.SplitHostPort(addr)
	if err != nil {
		return "", 0, fmt.Errorf("%s %q: want HOST:PORT: %w", flag, addr, err)
	}
	port, err := strconv.ParseUint(text, 10, 16)
	if err != nil || port == 0 || host == "" {
		return "", 0, fmt.Errorf("%s %q: want HOST:PORT with a port from 1 to 65535", flag, addr)
	}
	return host, uint16(port), nil
}
