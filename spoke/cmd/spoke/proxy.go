package main

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/tailgate-project/tailgate/spoke/children"
	"github.com/tailgate-project/tailgate/spoke/proxy"
	"github.com/tailgate-project/tailgate/spoke/web"
)

type proxyFlags struct {
	proxy.Options
	role, tags, metricsAddr, loglevel string
}

func newProxy() *cobra.Command {
	var f proxyFlags
	cmd := &cobra.Command{
		Use: "proxy", Short: "Run one proxy", Args: cobra.NoArgs,
		Long: `Run one ingress or egress proxy. Its auth key, which it needs the first time only, is read from $` + children.AuthKeyEnv + `;
with --proxies=process, ` + "`spoke run`" + ` starts the proxies itself.`,
		RunE: func(cmd *cobra.Command, _ []string) error { return f.run(cmd.Context()) },
	}
	fl := cmd.Flags()
	fl.StringVar(&f.role, "role", "", "ingress or egress (required)")
	fl.Uint32Var(&f.Replica, "replica", 0, "ordinal of the proxy among those of its role")
	fl.StringVar(&f.Socket, "socket", "", "the spoke's socket (required)")
	fl.StringVar(&f.StateDir, "state-dir", "", "directory for the tailnet identity and the last configuration, of this proxy alone (required)")
	fl.StringVar(&f.ControlURL, "control-url", "", "control server of the tailnet (default: Tailscale's)")
	fl.StringVar(&f.Hostname, "hostname", "", "name of the proxy in the tailnet (required)")
	fl.StringVar(&f.tags, "tags", "", "tags to ask for, separated by commas; those of the auth key count")
	fl.DurationVar(&f.DrainTimeout, "drain-timeout", 0, "how long the VIPs may take to move and connections to end (default 20s)")
	fl.StringVar(&f.metricsAddr, "metrics-addr", "", "address for /metrics (default: none)")
	fl.StringVar(&f.loglevel, "log-level", "info", "debug, info, warn or error")
	return cmd
}

func (f *proxyFlags) run(ctx context.Context) error {
	log, err := logger(f.loglevel)
	if err != nil {
		return err
	}
	registry := prometheus.NewRegistry()
	o := f.Options
	o.Role, o.Version, o.Metrics = proxy.Role(f.role), version(), registry
	o.Logger = log.With("role", f.role, "replica", f.Replica)
	o.AuthKey = os.Getenv(children.AuthKeyEnv)
	if f.tags != "" {
		o.Tags = strings.Split(f.tags, ",")
	}
	if err := os.Unsetenv(children.AuthKeyEnv); err != nil { // the tailnet library would read it too
		return fmt.Errorf("clear the environment: %w", err)
	}
	if f.metricsAddr == "" {
		return proxy.Run(ctx, o)
	}
	ln, err := listen(ctx, "--metrics-addr", f.metricsAddr)
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
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
