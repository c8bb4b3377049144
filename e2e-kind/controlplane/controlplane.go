// Package controlplane runs the control plane of a test cluster: one real kube-apiserver with an etcd of its own, without
// nodes, scheduler and controllers. It is test equipment. All data lies in one directory, from which a control plane that
// was killed goes on.
//
// etcd runs with --unsafe-no-fsync: it survives the death of its process, which is what the tests inflict, but not that of
// the real machine. The ServiceAccount admission plugin is off, because nobody makes the default service accounts.
package controlplane

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/tailgate-project/tailgate/e2e-kind/assets"
	"github.com/tailgate-project/tailgate/e2e-kind/machine"
)

// Options describe a control plane. Dir and Assets are required.
type Options struct {
	// Dir has the data, keys, logs and the admin's kubeconfig. It is made if it is not there; one control plane at a time
	// may use it.
	Dir string
	// Assets are the programs, see assets.FindControlPlane.
	Assets assets.Paths
	// BindAddress is where the API server listens; by default 127.0.0.1. etcd listens on 127.0.0.1 only.
	BindAddress netip.Addr
	// APIServerPort, EtcdPort and EtcdPeerPort are by default 6443, 2379 and 2380.
	APIServerPort uint16
	EtcdPort      uint16
	EtcdPeerPort  uint16
	// ServiceCIDR is by default 10.96.0.0/16.
	ServiceCIDR netip.Prefix
	// ExtraSANs are host names and addresses for which the serving certificate is valid too.
	ExtraSANs []string
	// Supervisor runs the processes; by default one of the control plane's own.
	Supervisor *machine.Supervisor
}

func (o *Options) complete() error {
	if o.Dir == "" || o.Assets.Etcd == "" || o.Assets.KubeAPIServer == "" {
		return errors.New("a directory and the programs of etcd and kube-apiserver are required")
	}
	dir, err := filepath.Abs(o.Dir)
	if err != nil {
		return err
	}
	o.Dir = dir
	if !o.BindAddress.IsValid() {
		o.BindAddress = netip.AddrFrom4([4]byte{127, 0, 0, 1})
	}
	for port, value := range map[*uint16]uint16{&o.APIServerPort: 6443, &o.EtcdPort: 2379, &o.EtcdPeerPort: 2380} {
		if *port == 0 {
			*port = value
		}
	}
	if !o.ServiceCIDR.IsValid() {
		o.ServiceCIDR = netip.MustParsePrefix("10.96.0.0/16")
	}
	if o.Supervisor == nil {
		o.Supervisor = &machine.Supervisor{}
	}
	return nil
}

// ControlPlane is a running control plane.
type ControlPlane struct {
	options   Options
	keys      keys
	config    *rest.Config
	etcd, api *machine.Running
}

// Start starts etcd and the API server and returns when it is ready and the namespace default is there. Data that is in the
// directory already is kept, as are keys: tokens and kubeconfigs of a former run stay valid. ctx bounds the start only.
func Start(ctx context.Context, o Options) (*ControlPlane, error) {
	if err := o.complete(); err != nil {
		return nil, fmt.Errorf("start control plane: %w", err)
	}
	for _, dir := range []string{o.Dir, filepath.Join(o.Dir, "pki"), filepath.Join(o.Dir, "log")} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, fmt.Errorf("start control plane: %w", err)
		}
	}
	k, err := loadKeys(&o)
	if err != nil {
		return nil, fmt.Errorf("start control plane: keys: %w", err)
	}
	c := &ControlPlane{options: o, keys: k}
	c.config = &rest.Config{
		Host: c.URL(),
		TLSClientConfig: rest.TLSClientConfig{
			CAData:   k.ca.certPEM,
			CertData: k.admin.certPEM,
			KeyData:  k.admin.keyPEM,
		},
		QPS: -1, // the only client-side limit that a test could hit is its own
	}
	if err := c.WriteKubeconfig(c.AdminKubeconfig(), KubeconfigOptions{}); err != nil {
		return nil, fmt.Errorf("start control plane: %w", err)
	}
	if err := c.startProcesses(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("start control plane: %w", err), c.Stop())
	}
	return c, nil
}

// URL is the API server's.
func (c *ControlPlane) URL() string {
	return "https://" + netip.AddrPortFrom(c.options.BindAddress, c.options.APIServerPort).String()
}

// CAData is the PEM certificate of the authority that signed the serving certificate.
func (c *ControlPlane) CAData() []byte { return c.keys.ca.certPEM }

// RESTConfig is a client configuration of a cluster admin; the caller may change it.
func (c *ControlPlane) RESTConfig() *rest.Config { return rest.CopyConfig(c.config) }

// AdminKubeconfig is the path of a kubeconfig of a cluster admin.
func (c *ControlPlane) AdminKubeconfig() string {
	return filepath.Join(c.options.Dir, "admin.kubeconfig")
}

// KubeconfigOptions describe a kubeconfig; all is optional.
type KubeconfigOptions struct {
	// Server is the URL; by default the API server's own. Another may lead there through a relay on 127.0.0.1 or a name
	// among the extra SANs.
	Server string
	// Token is the user's, as [ControlPlane.ServiceAccountToken] makes them; without one the user is the cluster admin.
	Token string
}

// WriteKubeconfig writes a kubeconfig, readable by its owner only.
func (c *ControlPlane) WriteKubeconfig(path string, o KubeconfigOptions) error {
	const name = "cluster"
	if o.Server == "" {
		o.Server = c.URL()
	}
	user := &clientcmdapi.AuthInfo{Token: o.Token}
	if o.Token == "" {
		user.ClientCertificateData, user.ClientKeyData = c.keys.admin.certPEM, c.keys.admin.keyPEM
	}
	kubeconfig := clientcmdapi.Config{
		Clusters:       map[string]*clientcmdapi.Cluster{name: {Server: o.Server, CertificateAuthorityData: c.CAData()}},
		AuthInfos:      map[string]*clientcmdapi.AuthInfo{name: user},
		Contexts:       map[string]*clientcmdapi.Context{name: {Cluster: name, AuthInfo: name, Namespace: corev1.NamespaceDefault}},
		CurrentContext: name,
	}
	if err := clientcmd.WriteToFile(kubeconfig, path); err != nil {
		return fmt.Errorf("write kubeconfig: %w", err)
	}
	return nil
}

// processes are those that were started, in the order in which to stop them.
func (c *ControlPlane) processes() []*machine.Running {
	var all []*machine.Running
	for _, r := range []*machine.Running{c.api, c.etcd} {
		if r != nil {
			all = append(all, r)
		}
	}
	return all
}

// Stop stops the API server, then etcd.
func (c *ControlPlane) Stop() error {
	var errs []error
	for _, r := range c.processes() {
		errs = append(errs, r.Stop())
	}
	return errors.Join(errs...)
}

// Kill sends SIGKILL to both processes and returns when they are gone.
func (c *ControlPlane) Kill() error {
	var errs []error
	for _, r := range c.processes() {
		errs = append(errs, r.Kill())
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	for _, r := range c.processes() {
		<-r.Done()
	}
	return nil
}
