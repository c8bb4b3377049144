package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"os"
	"strconv"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
	"k8s.io/client-go/kubernetes"

	"github.com/tailgate-project/tailgate/spoke/proxy"
	"github.com/tailgate-project/tailgate/spoke/proxy/proxytls"
	"github.com/tailgate-project/tailgate/spoke/proxy/statestore"
	"github.com/tailgate-project/tailgate/spoke/web"
)

// The environment of a proxy. In a pod the downward API sets the last three.
const (
	proxyKeyEnv     = "TS_AUTHKEY"
	podNameEnv      = "POD_NAME"
	podNamespaceEnv = "POD_NAMESPACE"
	podIPEnv        = "POD_IP"
)

type proxyFlags struct {
	proxy.Options
	role, tags, listenAddr, stateSecret, kubeconfig, statusAddr, loglevel string
	replica                                                               int
}

func newProxy() *cobra.Command {
	var f proxyFlags
	cmd := &cobra.Command{
		Use: "proxy", Short: "Run one proxy", Args: cobra.NoArgs,
		Long: `Run one ingress or egress proxy. ` + "`spoke run`" + ` starts its proxies itself with --proxies=process, and has Kubernetes start
them with --proxies=statefulset. A proxy that is new in its tailnet, or that the tailnet has forgotten, asks the spoke
for an auth key, unless one is given in $` + proxyKeyEnv + `.`,
		RunE: func(cmd *cobra.Command, _ []string) error { return f.run(cmd.Context()) },
	}
	fl := cmd.Flags()
	fl.StringVar(&f.role, "role", "", "ingress or egress (required)")
	fl.IntVar(&f.replica, "replica", -1, "ordinal of the proxy among those of its role (default: the end of $"+podNameEnv+", else 0)")
	fl.StringVar(&f.Tailnet, "tailnet", "", "TailscaleTailnet that the proxy is in (default: the only one there is)")
	fl.StringVar(&f.Socket, "socket", "", "the spoke's socket; either this or --spoke is required")
	fl.StringVar(&f.Spoke, "spoke", "", "host and port of the spoke")
	fl.StringVar(&f.TLSDir, "tls-dir", "", "directory with tls.crt, tls.key and ca.crt for --spoke; files that are replaced count at once")
	fl.StringVar(&f.StateDir, "state-dir", "", "directory for the last configuration and, without --state-secret, the tailnet identity, of this proxy alone (required)")
	fl.StringVar(&f.stateSecret, "state-secret", "", "Secret in $"+podNamespaceEnv+" that keeps the tailnet identity; it has to be there, and be empty at first")
	fl.StringVar(&f.kubeconfig, "kubeconfig", "", "kubeconfig for --state-secret (default: $KUBECONFIG, else the pod's own account)")
	fl.StringVar(&f.ControlURL, "control-url", "", "control server of the tailnet (default: what the spoke says, else Tailscale's)")
	fl.StringVar(&f.Hostname, "hostname", "", "name of the proxy in the tailnet (required)")
	fl.StringVar(&f.tags, "tags", "", "tags to ask for, separated by commas; those of the auth key count")
	fl.StringVar(&f.listenAddr, "listen-addr", "", "address at which an egress proxy listens (default: $"+podIPEnv+", else what the spoke says)")
	fl.DurationVar(&f.DrainTimeout, "drain-timeout", 0, "how long the VIPs may take to move and connections to end (default 20s)")
	fl.StringVar(&f.statusAddr, "status-addr", "", "address for /healthz, /readyz and /metrics (default: none)")
	fl.StringVar(&f.loglevel, "log-level", "info", "debug, info, warn or error")
	return cmd
}

func (f *proxyFlags) run(ctx context.Context) error {
	log, err := logger(f.loglevel)
	if err != nil {
		return err
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	o, err := f.complete()
	if err != nil {
		return err
	}
	o.Version, o.Metrics, o.Ready = version(), registry, &proxy.Readiness{}
	o.Logger = log.With("role", f.role, "replica", o.Replica)
	if f.stateSecret != "" {
		store, err := f.openState(ctx, o.Logger)
		if err != nil {
			return err
		}
		o.Store = store
	}
	if f.statusAddr == "" {
		return proxy.Run(ctx, o)
	}
	ln, err := listen(ctx, "--status-addr", f.statusAddr)
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	mux.Handle("GET /healthz", web.Health(func(context.Context) error { return nil }))
	mux.Handle("GET /readyz", web.Health(func(context.Context) error { return o.Ready.Err() }))
	serving, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	g, serving := errgroup.WithContext(serving)
	g.Go(func() error { return web.Serve(serving, ln, mux) })
	g.Go(func() error {
		defer stop()
		return proxy.Run(ctx, o)
	})
	return g.Wait()
}

// complete reads the flags, and the environment for those that are not given.
func (f *proxyFlags) complete() (proxy.Options, error) {
	o := f.Options
	o.Role = proxy.Role(f.role)
	var err error
	if o.Replica, err = replica(f.replica, os.Getenv(podNameEnv)); err != nil {
		return o, err
	}
	if f.listenAddr == "" && o.Role == proxy.Egress {
		f.listenAddr = os.Getenv(podIPEnv)
	}
	if f.listenAddr != "" {
		if o.ListenAddr, err = netip.ParseAddr(f.listenAddr); err != nil {
			return o, fmt.Errorf("--listen-addr: %w", err)
		}
	}
	if f.tags != "" {
		o.Tags = strings.Split(f.tags, ",")
	}
	if o.Spoke != "" && o.TLSDir != "" {
		if err := proxytls.Check(o.TLSDir); err != nil {
			return o, fmt.Errorf("--tls-dir: %w", err)
		}
	}
	o.AuthKey = os.Getenv(proxyKeyEnv)
	if err := os.Unsetenv(proxyKeyEnv); err != nil { // the tailnet library would read it too
		return o, fmt.Errorf("clear the environment: %w", err)
	}
	return o, nil
}

// replica returns the ordinal that was given, or else that of the pod of a StatefulSet.
func replica(given int, pod string) (uint32, error) {
	if given >= 0 || pod == "" {
		return uint32(max(given, 0)), nil
	}
	n, err := strconv.ParseUint(pod[strings.LastIndexByte(pod, '-')+1:], 10, 32)
	if err != nil {
		return 0, fmt.Errorf("$%s %q: want a name that ends in -ORDINAL, or give --replica", podNameEnv, pod)
	}
	return uint32(n), nil
}

// openState returns the store of the Secret that was named.
func (f *proxyFlags) openState(ctx context.Context, log *slog.Logger) (*statestore.Store, error) {
	namespace := os.Getenv(podNamespaceEnv)
	if namespace == "" {
		return nil, errors.New("--state-secret: $" + podNamespaceEnv + " has to name the Secret's namespace")
	}
	cfg, err := restConfig(f.kubeconfig)
	if err != nil {
		return nil, err
	}
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return nil, fmt.Errorf("connect to the API server: %w", err)
	}
	return statestore.Open(ctx, client.CoreV1().Secrets(namespace), f.stateSecret, log)
}
