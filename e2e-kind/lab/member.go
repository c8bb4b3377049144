package lab

import (
	"context"
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"strings"

	"sigs.k8s.io/yaml"

	"github.com/tailgate-project/tailgate/e2e-kind/kubelet"
	"github.com/tailgate-project/tailgate/e2e-kind/machine"
)

// webappPort is where the workload's pods listen. Their addresses are the machine's, and Envoy Gateway has 8080 on all of them.
const webappPort = 9080

const gatewayClass = `
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: eg}
spec:
  controllerName: gateway.envoyproxy.io/gatewayclass-controller
  parametersRef: {group: gateway.envoyproxy.io, kind: EnvoyProxy, name: tailgate, namespace: envoy-gateway-system}
---
`

const memberObjects = `
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: main-gateway, namespace: default}
spec:
  gatewayClassName: eg
  listeners: [{name: http, port: 80, protocol: HTTP}]
---
apiVersion: gateway.tailscale.com/v1alpha1
kind: TailscaleGateway
metadata: {name: main-tailscale-gateway, namespace: default}
spec:
  gatewayRef: {name: main-gateway}
  tailnets:
  - name: production
    tailscaleTailnetRef: {name: production-tailnet}
    serviceDiscovery: {enabled: true, patterns: ["webapp*"]}
    routeGeneration:
      ingress: {hostPattern: "{service}.production.gateway.local"}
      egress: {pathPrefix: "/api/{service}/"}
`

// member makes the machine a member cluster: an API server, Envoy Gateway, a spoke, Envoy and the workload.
func (n *node) member(ctx context.Context) error {
	if err := n.controlPlane(ctx, n.Assets.EnvoyGatewayCRDs...); err != nil {
		return err
	}
	if n.HubKey != "" {
		if err := n.hub(ctx); err != nil {
			return err
		}
	}
	settings, err := n.bootstrap(ctx)
	if err != nil {
		return err
	}
	if n.Workload {
		if err := n.workload(ctx); err != nil {
			return err
		}
	}
	if err := n.spoke(ctx); err != nil {
		return err
	}
	if _, err := kubelet.StartEnvoyGateway(ctx, kubelet.EnvoyGatewayOptions{
		Path: n.Assets.EnvoyGateway, Kubeconfig: n.plane.AdminKubeconfig(), ExtensionManager: settings,
		Dir: n.path("envoy-gateway"), Supervisor: &n.supervisor, Restart: true,
	}); err != nil {
		return err
	}
	n.done("Envoy Gateway v1.9.1")
	objects := gatewayClass
	if !n.Bare {
		objects += memberObjects
	}
	if err := n.plane.ApplyYAML(ctx, []byte(objects)); err != nil {
		return err
	}
	return n.envoy(ctx)
}

// outside starts what answers for the hosts outside of the clusters, and returns a file that has their names.
func (n *node) outside(ctx context.Context) (hosts string, err error) {
	var text strings.Builder
	text.WriteString("127.0.0.1 localhost\n")
	addr := n.Pods.Addr().Next().Next()
	for _, name := range n.Outside {
		addr = addr.Next()
		listen := netip.AddrPortFrom(addr, 80)
		fmt.Fprintf(&text, "%s %s\n", addr, name)
		_, err := n.supervisor.Start(ctx, machine.Process{
			Name: name, Path: n.Programs.Webapp, LogFile: n.path(name + ".log"), Restart: true,
			Args:  []string{"--listen", listen.String(), "--cluster", "outside"},
			Env:   environ(),
			Ready: func(ctx context.Context) error { return dial(ctx, listen) },
		})
		if err != nil {
			return "", err
		}
	}
	hosts = n.path("hosts")
	return hosts, os.WriteFile(hosts, []byte(text.String()), 0o644)
}

// bootstrap lets the spoke make its Secrets and say how Envoy Gateway and Envoy are to be set up.
func (n *node) bootstrap(ctx context.Context) (map[string]any, error) {
	const namespace = "apiVersion: v1\nkind: Namespace\nmetadata: {name: envoy-gateway-system}\n"
	if err := n.plane.ApplyYAML(ctx, []byte(namespace)); err != nil {
		return nil, err
	}
	text, err := n.spokeBootstrap(ctx, "settings")
	if err != nil {
		return nil, err
	}
	var settings struct {
		ExtensionManager map[string]any `json:"extensionManager"`
	}
	if err := yaml.Unmarshal(text, &settings); err != nil {
		return nil, fmt.Errorf("spoke bootstrap: %w", err)
	}
	proxy, err := n.spokeBootstrap(ctx, "envoyproxy")
	if err != nil {
		return nil, err
	}
	if err := n.plane.ApplyYAML(ctx, proxy); err != nil {
		return nil, fmt.Errorf("apply what spoke bootstrap printed: %w", err)
	}
	return settings.ExtensionManager, nil
}

func (n *node) spokeBootstrap(ctx context.Context, what string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, n.Programs.Spoke, "bootstrap", "--kubeconfig", n.plane.AdminKubeconfig(), "--print", what)
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("spoke bootstrap --print %s: %w: %s", what, err, stderr(err))
	}
	return out, nil
}

func (n *node) spoke(ctx context.Context) error {
	key := n.path("join-key")
	if err := os.WriteFile(key, []byte(n.JoinKey), 0o600); err != nil {
		return err
	}
	hosts, err := n.outside(ctx)
	if err != nil {
		return err
	}
	status := netip.AddrPortFrom(n.IP, StatusPort)
	args := []string{
		"run", "--cluster-id", n.Name, "--kubeconfig", n.plane.AdminKubeconfig(), "--state-dir", n.path("spoke"),
		"--control-url", n.ControlURL, "--join-key-file", key, "--status-addr", status.String(),
	}
	if n.Controllers != "" {
		if err := n.controllerManager(ctx); err != nil {
			return err
		}
		doors := netip.AddrPortFrom(n.IP, proxyPort).String()
		args = append(args, "--proxies=statefulset", "--proxy-image", proxyImage, "--proxy-addr", doors, "--proxy-service", doors)
	}
	_, err = n.supervisor.Start(ctx, machine.Process{
		Name: "spoke", Path: n.Programs.Spoke, LogFile: n.path("spoke.log"), Restart: true, Args: args,
		Env:   environ(),
		Binds: map[string]string{"/etc/hosts": hosts},
		Ready: alive(status),
	})
	if err != nil {
		return err
	}
	n.done("spoke with extension server, EDS server and proxies")
	return nil
}

func (n *node) envoy(ctx context.Context) error {
	proxies, err := kubelet.NewProxies(kubelet.ProxiesOptions{
		Config: n.plane.RESTConfig(), NodeIP: n.IP, EnvoyPath: n.Programs.Envoy, Dir: n.path("envoy"),
		Supervisor: &n.supervisor, Log: n.log,
	})
	if err != nil {
		return err
	}
	n.background("envoy", proxies.Run)
	if n.Bare { // there is no Gateway yet
		return nil
	}
	gateway := netip.AddrPortFrom(n.IP, GatewayPort)
	if err := poll(ctx, func(ctx context.Context) error { return dial(ctx, gateway) }); err != nil {
		return fmt.Errorf("the gateway does not listen on %s: %w", gateway, err)
	}
	n.done("Envoy serves the Gateway")
	return nil
}

// workload starts one pod of webapp, and keeps its objects.
func (n *node) workload(ctx context.Context) error {
	pod := n.Pods.Addr().Next().Next()
	listen := netip.AddrPortFrom(pod, webappPort)
	_, err := n.supervisor.Start(ctx, machine.Process{
		Name: "webapp", Path: n.Programs.Webapp, LogFile: n.path("webapp.log"), Restart: true,
		Args:  []string{"--listen", listen.String(), "--cluster", n.Name},
		Env:   environ(),
		Ready: func(ctx context.Context) error { return dial(ctx, listen) },
	})
	if err != nil {
		return err
	}
	w := &kubelet.Workload{
		Config: n.plane.RESTConfig(), Namespace: "default", Name: "webapp",
		PodIPs: []netip.Addr{pod}, Port: webappPort, Await: n.Bare, Log: n.log,
	}
	n.background("workload", w.Run)
	n.done("webapp at " + listen.String())
	return nil
}

// FindEnvoy returns the path of a real Envoy, from ENVOY_BIN or the PATH, and otherwise the stand-in's.
func FindEnvoy(standin string) (path string, isReal bool) {
	if path := os.Getenv("ENVOY_BIN"); path != "" {
		return path, true
	}
	if path, err := exec.LookPath("envoy"); err == nil {
		return path, true
	}
	return standin, false
}

func ready(status netip.AddrPort) func(context.Context) error { return get(status, "/readyz") }
func alive(status netip.AddrPort) func(context.Context) error { return get(status, "/healthz") }

func get(status netip.AddrPort, path string) func(context.Context) error {
	return func(ctx context.Context) error {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+status.String()+path, nil)
		if err != nil {
			return err
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return fmt.Errorf("%s: %s", path, resp.Status)
		}
		return nil
	}
}
