package main

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/spoke"
)

// joinKeyEnv is the environment variable that may carry the join key instead of a file.
const joinKeyEnv = "TAILGATE_JOIN_KEY"

// hubPort is where the hub's link listens on its tailnet node.
const hubPort = 7443

// Modes of --proxies.
const (
	proxiesProcess     = "process"
	proxiesStatefulSet = "statefulset"
	proxiesExternal    = "external"
)

// defaultProxyAddr is where pods of proxies find the spoke.
const defaultProxyAddr = ":5007"

// flags are those of `spoke run`, as given.
type flags struct {
	clusterID, kubeconfig, apiKubeconfig, stateDir            string
	controlURL, joinKeyFile, hostname                         string
	hub, hubTag, region, zone, namespace, gatewayNamespace    string
	proxies, proxySocket, proxyAddr, proxyService, proxyImage string
	proxyPullSecrets                                          []string
	egressAddress, egressPorts                                string
	extensionAddr, edsAddr, statusAddr, serverNames, loglevel string
	apiPort                                                   uint16
	ingressReplicas, egressReplicas                           int
	drainTimeout, joinTimeout                                 time.Duration
}

func newRun() *cobra.Command {
	var f flags
	cmd := &cobra.Command{
		Use: "run", Short: "Run the agent of a member cluster", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := f.complete()
			if err != nil {
				return err
			}
			return run(cmd.Context(), c)
		},
	}
	fl := cmd.Flags()
	fl.StringVar(&f.clusterID, "cluster-id", "", "id of the member cluster (default: its ClusterProperty cluster.clusterset.k8s.io)")
	fl.StringVar(&f.kubeconfig, "kubeconfig", "", "kubeconfig of the member cluster (default: $KUBECONFIG, else the pod's own account)")
	fl.StringVar(&f.apiKubeconfig, "api-kubeconfig", "", "kubeconfig of the read-only account by which the hub sees the API server (default: as --kubeconfig)")
	fl.StringVar(&f.stateDir, "state-dir", "", "directory for the tailnet identity, the last snapshot and the egress ports (required)")
	fl.StringVar(&f.controlURL, "control-url", "", "control server of the tailnet (default: Tailscale's)")
	fl.StringVar(&f.joinKeyFile, "join-key-file", "", "file with the auth key by which the spoke joins the tailnet for the first time (or $"+joinKeyEnv+")")
	fl.StringVar(&f.hostname, "hostname", "", "name of the spoke in the tailnet (default: tailgate-spoke-<cluster id>)")
	fl.DurationVar(&f.joinTimeout, "join-timeout", time.Minute, "how long the tailnet may take to let the spoke in")
	fl.StringVar(&f.hub, "hub", "tailgate-hub", "name or address of the hub in the tailnet, with or without a port (default port: "+strconv.Itoa(hubPort)+")")
	fl.StringVar(&f.hubTag, "hub-tag", "tag:tailgate-hub", "tag that the hub's node carries")
	fl.Uint16Var(&f.apiPort, "api-port", 6443, "port of the tailnet node where the hub sees the API server")
	fl.StringVar(&f.region, "region", "", "region of the cluster")
	fl.StringVar(&f.zone, "zone", "", "zone of the cluster")
	fl.StringVar(&f.namespace, "namespace", "tailgate-system", "namespace of the spoke's Secrets")
	fl.StringVar(&f.gatewayNamespace, "envoy-gateway-namespace", "envoy-gateway-system", "namespace of Envoy Gateway")
	fl.StringVar(&f.proxies, "proxies", proxiesProcess, "who runs the proxies: process (this process, as its children), statefulset (Kubernetes, as pods) or external")
	fl.StringVar(&f.proxySocket, "proxy-socket", "", "socket of the proxies on this host (default: <state-dir>/proxy.sock)")
	fl.StringVar(&f.proxyAddr, "proxy-addr", "", "address for proxies in pods, over TLS with certificates of both sides (default: none, with --proxies=statefulset \""+defaultProxyAddr+"\")")
	fl.StringVar(&f.proxyService, "proxy-service", "", "host and port at which the pods of proxies reach --proxy-addr, with --proxies=statefulset (default: tailgate-spoke.<namespace>.svc and its port)")
	fl.StringVar(&f.proxyImage, "proxy-image", "", "image of the pods of proxies, with --proxies=statefulset (required then; the spoke's own)")
	fl.StringSliceVar(&f.proxyPullSecrets, "proxy-pull-secrets", nil, "Secrets by which that image is pulled")
	fl.IntVar(&f.ingressReplicas, "ingress-replicas", 1, "ingress proxies, with --proxies=process")
	fl.IntVar(&f.egressReplicas, "egress-replicas", 1, "egress proxies, with --proxies=process")
	fl.DurationVar(&f.drainTimeout, "drain-timeout", 20*time.Second, "how long proxies may take to end, with --proxies=process")
	fl.StringVar(&f.egressAddress, "egress-address", "127.0.0.1", "address at which Envoy reaches the egress proxy, where the proxies are not pods")
	fl.StringVar(&f.egressPorts, "egress-ports", "20000-29999", "ports of that address, one for each port of a remote VIP")
	fl.StringVar(&f.extensionAddr, "extension-addr", "127.0.0.1:5005", "address for Envoy Gateway's hooks")
	fl.StringVar(&f.edsAddr, "eds-addr", "127.0.0.1:5006", "address for Envoy's endpoint discovery")
	fl.StringVar(&f.serverNames, "server-names", "", "more names and addresses by which Envoy Gateway calls the extension server, separated by commas")
	fl.StringVar(&f.statusAddr, "status-addr", "127.0.0.1:9470", "address for /healthz, /readyz, /metrics and /status")
	fl.StringVar(&f.loglevel, "log-level", "info", "debug, info, warn or error")
	return cmd
}

// options are the flags, understood.
type options struct {
	flags
	hubName    string
	hubPort    uint16
	egressAddr netip.Addr
	ports      spoke.PortRange
	// extensionPort is that of --extension-addr.
	extensionPort uint16
	joinKey       string
	keySource     string
	locality      federation.Locality
	log           *slog.Logger
}

func (f *flags) complete() (options, error) {
	o := options{flags: *f, locality: federation.Locality{Region: f.region, Zone: f.zone}}
	var err error
	if o.log, err = logger(f.loglevel); err != nil {
		return o, err
	}
	if f.stateDir == "" {
		return o, errors.New("--state-dir is required: a directory that belongs to this spoke alone")
	}
	if o.stateDir, err = filepath.Abs(f.stateDir); err != nil {
		return o, fmt.Errorf("--state-dir: %w", err)
	}
	if err := os.MkdirAll(o.stateDir, 0o700); err != nil {
		return o, fmt.Errorf("--state-dir: %w", err)
	}
	if o.proxySocket == "" {
		o.proxySocket = filepath.Join(o.stateDir, "proxy.sock")
	}
	if f.clusterID != "" {
		if err := federation.ClusterID(f.clusterID).Validate(); err != nil {
			return o, fmt.Errorf("--cluster-id: %w", err)
		}
	}
	if o.egressAddr, err = netip.ParseAddr(f.egressAddress); err != nil {
		return o, fmt.Errorf("--egress-address: %w", err)
	}
	_, port, err := net.SplitHostPort(f.extensionAddr)
	if err != nil {
		return o, fmt.Errorf("--extension-addr: %w", err)
	}
	number, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return o, fmt.Errorf("--extension-addr: port %q: want a number up to 65535", port)
	}
	o.extensionPort = uint16(number)
	if o.ports, err = spoke.ParsePortRange(f.egressPorts); err != nil {
		return o, fmt.Errorf("--egress-ports: %w", err)
	}
	switch f.proxies {
	case proxiesProcess, proxiesExternal:
	case proxiesStatefulSet:
		if err := o.completePods(); err != nil {
			return o, err
		}
	default:
		return o, fmt.Errorf("--proxies %q: use %s, %s or %s", f.proxies, proxiesProcess, proxiesStatefulSet, proxiesExternal)
	}
	if f.ingressReplicas < 0 || f.egressReplicas < 0 {
		return o, errors.New("--ingress-replicas and --egress-replicas cannot be negative")
	}
	if err := o.parseHub(); err != nil {
		return o, err
	}
	return o, o.readKey()
}

// completePods completes what counts where the proxies are pods.
func (o *options) completePods() error {
	o.proxyAddr = cmp.Or(o.proxyAddr, defaultProxyAddr)
	if o.proxyImage == "" {
		return errors.New("--proxies=statefulset: --proxy-image is required, the image that the spoke itself runs")
	}
	if o.proxyService == "" {
		_, port, err := net.SplitHostPort(o.proxyAddr)
		if err != nil {
			return fmt.Errorf("--proxy-addr: %w", err)
		}
		o.proxyService = net.JoinHostPort("tailgate-spoke."+o.namespace+".svc", port)
	}
	if _, _, err := splitAddr("--proxy-service", o.proxyService); err != nil {
		return err
	}
	return nil
}

// parseHub reads NAME, ADDRESS, NAME:PORT and ADDRESS:PORT.
func (o *options) parseHub() error {
	o.hubName, o.hubPort = o.hub, hubPort
	if _, err := netip.ParseAddr(o.hub); err != nil {
		if host, port, err := net.SplitHostPort(o.hub); err == nil {
			n, err := strconv.ParseUint(port, 10, 16)
			if err != nil || n == 0 {
				return fmt.Errorf("--hub %q: the port must be a number from 1 to 65535", o.hub)
			}
			o.hubName, o.hubPort = host, uint16(n)
		}
	}
	if o.hubName == "" {
		return errors.New("--hub: give the hub's name or address in the tailnet")
	}
	return nil
}

func (o *options) readKey() error {
	o.keySource = "--join-key-file or $" + joinKeyEnv
	if o.joinKeyFile == "" {
		o.joinKey = os.Getenv(joinKeyEnv)
		return nil
	}
	o.keySource = "--join-key-file " + o.joinKeyFile
	data, err := os.ReadFile(o.joinKeyFile)
	if errors.Is(err, os.ErrNotExist) {
		return nil // a spoke that has joined needs none; one that has not is told
	}
	if err != nil {
		return fmt.Errorf("--join-key-file: %w", err)
	}
	o.joinKey = strings.TrimSpace(string(data))
	return nil
}
