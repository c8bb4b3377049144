package controlplane

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"k8s.io/client-go/rest"

	"github.com/tailgate-project/tailgate/e2e-kind/machine"
)

// advertised stands in the API server's own Service where it listens on loopback only, which it refuses to advertise: an
// address for documentation, which leads nowhere.
var advertised = netip.MustParseAddr("192.0.2.1")

// anonymousHealth lets in anybody for health checks, and nobody for anything else.
const anonymousHealth = `apiVersion: apiserver.config.k8s.io/v1
kind: AuthenticationConfiguration
anonymous:
  enabled: true
  conditions:
  - path: /livez
  - path: /readyz
  - path: /healthz
`

func (c *ControlPlane) startProcesses(ctx context.Context) error {
	var err error
	if c.etcd, err = c.options.Supervisor.Start(ctx, c.etcdProcess()); err != nil {
		return err
	}
	authentication := c.path("authentication.yaml")
	if err := os.WriteFile(authentication, []byte(anonymousHealth), 0o600); err != nil {
		return fmt.Errorf("write authentication config: %w", err)
	}
	ready, err := c.apiServerReady()
	if err != nil {
		return err
	}
	process := c.apiServerProcess(authentication)
	process.Ready = ready
	c.api, err = c.options.Supervisor.Start(ctx, process)
	return err
}

func (c *ControlPlane) path(elem ...string) string {
	return filepath.Join(append([]string{c.options.Dir}, elem...)...)
}

func (c *ControlPlane) etcdProcess() machine.Process {
	client, peer := c.loopback(c.options.EtcdPort), c.loopback(c.options.EtcdPeerPort)
	return machine.Process{
		Name:    c.processName("etcd"),
		Path:    c.options.Assets.Etcd,
		LogFile: c.path("log", "etcd.log"),
		Args: []string{
			"--data-dir=" + c.path("etcd"),
			"--unsafe-no-fsync",
			"--listen-client-urls=" + client,
			"--advertise-client-urls=" + client,
			"--listen-peer-urls=" + peer,
			"--initial-advertise-peer-urls=" + peer,
			"--initial-cluster=default=" + peer,
			"--log-level=warn",
		},
		Ready: func(ctx context.Context) error { return get(ctx, http.DefaultClient, client+"/health") },
	}
}

// processName tells the processes of several control planes under one supervisor apart.
func (c *ControlPlane) processName(program string) string {
	return fmt.Sprintf("%s of %s", program, filepath.Base(c.options.Dir))
}

func (c *ControlPlane) loopback(port uint16) string {
	return fmt.Sprintf("http://127.0.0.1:%d", port)
}

func (c *ControlPlane) apiServerProcess(authentication string) machine.Process {
	o := &c.options
	advertise, reconciler := o.BindAddress, "lease"
	if o.BindAddress.IsLoopback() {
		advertise, reconciler = advertised, "none"
	}
	return machine.Process{
		Name:    c.processName("kube-apiserver"),
		Path:    o.Assets.KubeAPIServer,
		LogFile: c.path("log", "kube-apiserver.log"),
		Args: []string{
			"--etcd-servers=" + c.loopback(o.EtcdPort),
			"--bind-address=" + o.BindAddress.String(),
			"--secure-port=" + fmt.Sprint(o.APIServerPort),
			"--advertise-address=" + advertise.String(),
			"--endpoint-reconciler-type=" + reconciler,
			"--cert-dir=" + c.path("pki"),
			"--tls-cert-file=" + c.path("pki", "serving.crt"),
			"--tls-private-key-file=" + c.path("pki", "serving.key"),
			"--client-ca-file=" + c.path("pki", "ca.crt"),
			"--authentication-config=" + authentication,
			"--service-account-issuer=https://kubernetes.default.svc",
			"--service-account-key-file=" + c.path("pki", "service-account.key"),
			"--service-account-signing-key-file=" + c.path("pki", "service-account.key"),
			"--service-cluster-ip-range=" + o.ServiceCIDR.String(),
			"--authorization-mode=RBAC",
			"--disable-admission-plugins=ServiceAccount",
		},
	}
}

// apiServerReady makes the check that it serves and has its first namespace, into which clients may then write.
func (c *ControlPlane) apiServerReady() (func(context.Context) error, error) {
	client, err := rest.HTTPClientFor(c.config)
	if err != nil {
		return nil, fmt.Errorf("make client: %w", err)
	}
	return func(ctx context.Context) error {
		if err := get(ctx, client, c.URL()+"/readyz"); err != nil {
			return err
		}
		return get(ctx, client, c.URL()+"/api/v1/namespaces/default")
	}, nil
}

func get(ctx context.Context, client *http.Client, url string) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode == http.StatusOK {
		return nil
	}
	b, _ := io.ReadAll(io.LimitReader(resp.Body, 1024)) // the status is the news, this only explains it
	return fmt.Errorf("%s: %s: %s", url, resp.Status, b)
}
