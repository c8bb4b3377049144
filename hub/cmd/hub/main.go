// Command hub is Tailgate's hub: it watches the member clusters over the tailnet, keeps the registry of VIPs and the
// failover decisions, and tells the spokes.
package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/tailgate-project/tailgate/federation/policy"
)

// joinKeyEnv is where the hub's auth key may be given instead of a file.
const joinKeyEnv = "TAILGATE_JOIN_KEY"

// options are the flags of `hub run`.
type options struct {
	kubeconfig, stateDir                      string
	controlURL, apiURL, hostname, joinKeyFile string
	spokeTag, proxyTag, tailnet               string
	namespace, federation                     string
	linkPort                                  uint16
	statusAddr, operatorAddr, logLevel        string
	webPort                                   uint16
	acceptAll                                 bool
	grace, failbackDelay, quarantine          time.Duration
	etcd                                      etcdOptions
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := command().ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "hub:", err)
		os.Exit(1)
	}
}

func command() *cobra.Command {
	root := &cobra.Command{Use: "hub", Short: "Tailgate's hub", SilenceUsage: true, SilenceErrors: true, Version: versionLine()}
	root.AddCommand(runCommand(), &cobra.Command{
		Use: "version", Short: "Print the version", Args: cobra.NoArgs,
		Run: func(cmd *cobra.Command, _ []string) { fmt.Fprintln(cmd.OutOrStdout(), versionLine()) },
	})
	return root
}

func runCommand() *cobra.Command {
	var o options
	cmd := &cobra.Command{
		Use: "run", Short: "Run the hub", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			log, err := logger(o.logLevel)
			if err != nil {
				return err
			}
			return run(cmd.Context(), o, log)
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.kubeconfig, "kubeconfig", "", "`file` for the management cluster (default: KUBECONFIG, else in-cluster)")
	f.StringVar(&o.stateDir, "state-dir", "", "`directory` for the store and the tailnet identity (required)")
	f.StringVar(&o.controlURL, "control-url", "", "`URL` of the tailnet's control server (default: Tailscale's)")
	f.StringVar(&o.apiURL, "api-url", "", "`URL` of the admin API of TailscaleTailnets that name none (default: Tailscale's)")
	f.StringVar(&o.hostname, "hostname", "tailgate-hub", "the hub's `name` on the tailnet")
	f.StringVar(&o.joinKeyFile, "join-key-file", "", "`file` with an auth key, needed the first time only; "+joinKeyEnv+" does as well")
	f.StringVar(&o.spokeTag, "spoke-tag", "tag:tailgate-spoke", "`tag` that a node must carry to be served")
	f.StringVar(&o.proxyTag, "proxy-tag", "tag:tailgate-proxy", "`tag` of the spokes' proxies")
	f.StringVar(&o.tailnet, "tailnet", "", "`name` of the TailscaleTailnet that the hub and the spokes are on (required)")
	f.StringVar(&o.namespace, "namespace", "tailgate-system", "`namespace` that the hub runs in, with the tailnets' Secrets")
	f.StringVar(&o.federation, "federation", "", "`id` that the federation's VIPs carry; name one if it is to outlive the management cluster (default: the uid of the namespace kube-system)")
	f.Uint16Var(&o.linkPort, "link-port", 7443, "`port` on the hub's tailnet node where it serves the spokes")
	f.StringVar(&o.statusAddr, "status-addr", "127.0.0.1:9470", "`address` for /healthz, /readyz, /metrics and /api/v1")
	f.StringVar(&o.operatorAddr, "operator-addr", "127.0.0.1:9471", "`address` on a loopback interface where operators of this machine, or of this pod, see and steer the federation")
	f.Uint16Var(&o.webPort, "web-port", 80, "`port` on the hub's tailnet node for operators to whom the tailnet's policy file gives a role; 0 for none")
	f.StringVar(&o.logLevel, "log-level", "info", "debug, info, warn or error")
	f.BoolVar(&o.acceptAll, "accept-all", false, "accept every cluster that joins; then the join keys alone decide who is a member")
	f.DurationVar(&o.grace, "grace", policy.Default().Grace, "how long a lost control view of a member is borne before it counts")
	f.DurationVar(&o.failbackDelay, "failback-delay", policy.Default().FailbackDelay, "how long an export must have been good before it serves again")
	f.DurationVar(&o.quarantine, "quarantine", time.Hour, "how long the VIP of an export that went away is kept for it")
	o.etcd.addTo(f)
	for _, required := range []string{"state-dir", "tailnet"} {
		if err := cmd.MarkFlagRequired(required); err != nil {
			panic(err) // the flag is defined above
		}
	}
	return cmd
}

func logger(level string) (*slog.Logger, error) {
	var l slog.Level
	if err := l.UnmarshalText([]byte(level)); err != nil {
		return nil, fmt.Errorf("--log-level %q: want debug, info, warn or error", level)
	}
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: l})), nil
}

// joinKey returns the auth key, empty if none was given: a node that has joined needs none.
func (o options) joinKey() (string, error) {
	if o.joinKeyFile == "" {
		return os.Getenv(joinKeyEnv), nil
	}
	key, err := os.ReadFile(o.joinKeyFile)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "", fmt.Errorf("--join-key-file %s: there is no such file", o.joinKeyFile)
	case err != nil:
		return "", fmt.Errorf("--join-key-file: %w", err)
	}
	return strings.TrimSpace(string(key)), nil
}

func (o options) nodeDir() string { return filepath.Join(o.stateDir, "tailnet") }
