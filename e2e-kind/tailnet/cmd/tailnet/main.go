// Command tailnet is test equipment: it runs one tailnet (control server, DERP,
// STUN, admin API and console, see package tailnet) until it is told to stop,
// so that a harness can have it as a process of its own. When ready, it prints
// one line of JSON on standard output, {"url":"http://...","pid":123}. Logs go
// to standard error. As "tailnet device" it is a device of one that runs.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"golang.org/x/sync/errgroup"

	"github.com/tailgate-project/tailgate/e2e-kind/tailnet"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := dispatch(ctx, os.Args[1:])
	switch {
	case errors.Is(err, flag.ErrHelp):
	case err != nil:
		fmt.Fprintln(os.Stderr, "tailnet:", err)
		os.Exit(1)
	}
}

func dispatch(ctx context.Context, args []string) error {
	if len(args) > 0 && args[0] == "device" {
		return device(ctx, args[1:])
	}
	opts, err := parse(args)
	if err != nil {
		return err
	}
	return run(ctx, opts)
}

func parse(args []string) (tailnet.Options, error) {
	flags := flag.NewFlagSet("tailnet", flag.ContinueOnError)
	var opts tailnet.Options
	flags.StringVar(&opts.Addr, "addr", "127.0.0.1:0", "`address` of control server, admin API and console")
	flags.TextVar(&opts.DERPIP, "derp-ip", netip.AddrFrom4([4]byte{127, 0, 0, 1}), "`IP` address of DERP and STUN")
	iface := flags.String("interface", "", "`name` of the network interface whose IPv4 address takes the place of both, as in a container")
	flags.StringVar(&opts.Domain, "domain", tailnet.DefaultDomain, "MagicDNS `suffix`")
	tags := flags.String("tags", strings.Join(tailnet.DefaultTags(), ","), "`tags` that exist, separated by commas")
	vips := flags.String("vip-prefix", "100.100.0.0/16", "IPv4 `prefix` for services")
	flags.DurationVar(&opts.FailoverAfter, "failover-after", tailnet.DefaultFailoverAfter,
		"how long a service's primary host may be offline until another takes over")
	flags.DurationVar(&opts.EphemeralAfter, "ephemeral-after", tailnet.DefaultEphemeralAfter,
		"how long an ephemeral device may be offline until it is removed")
	policy := flags.String("policy-file", "", "`file` with the policy to begin with, HuJSON; it defines the tags")
	clients := flags.String("oauth-clients-file", "",
		`JSON `+"`file`"+` with the OAuth clients: [{"ID":"","Secret":"","Scopes":[],"Tags":[]}]`)
	verbose := flags.Bool("v", false, "log debug messages")
	if err := flags.Parse(args); err != nil {
		return opts, err
	}
	if flags.NArg() > 0 {
		return opts, fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	if *iface != "" {
		if err := listenOn(*iface, &opts); err != nil {
			return opts, fmt.Errorf("-interface: %w", err)
		}
	}
	opts.Tags = strings.Split(*tags, ",")
	prefix, err := netip.ParsePrefix(*vips)
	if err != nil {
		return opts, fmt.Errorf("-vip-prefix: %w", err)
	}
	opts.VIPPrefix = prefix
	if *policy != "" {
		text, err := os.ReadFile(*policy)
		if err != nil {
			return opts, fmt.Errorf("-policy-file: %w", err)
		}
		opts.Policy = string(text)
	}
	if *clients != "" {
		text, err := os.ReadFile(*clients)
		if err != nil {
			return opts, fmt.Errorf("-oauth-clients-file: %w", err)
		}
		if err := json.Unmarshal(text, &opts.OAuthClients); err != nil {
			return opts, fmt.Errorf("-oauth-clients-file: %w", err)
		}
	}
	level := slog.LevelInfo
	if *verbose {
		level = slog.LevelDebug
	}
	opts.Logger = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
	return opts, nil
}

// listenOn has the tailnet at an interface's address.
func listenOn(iface string, opts *tailnet.Options) error {
	i, err := net.InterfaceByName(iface)
	if err != nil {
		return fmt.Errorf("%s: %w", iface, err)
	}
	addrs, err := i.Addrs()
	if err != nil {
		return fmt.Errorf("%s: %w", iface, err)
	}
	_, port, err := net.SplitHostPort(opts.Addr)
	if err != nil {
		return fmt.Errorf("the port of -addr: %w", err)
	}
	for _, a := range addrs {
		prefix, err := netip.ParsePrefix(a.String())
		if err == nil && prefix.Addr().Is4() {
			opts.DERPIP, opts.Addr = prefix.Addr(), net.JoinHostPort(prefix.Addr().String(), port)
			return nil
		}
	}
	return fmt.Errorf("%s has no IPv4 address", iface)
}

func run(ctx context.Context, opts tailnet.Options) error {
	t, err := tailnet.New(opts)
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return t.Run(ctx) })
	g.Go(func() error {
		select {
		case <-t.Ready():
		case <-ctx.Done():
			return nil
		}
		return json.NewEncoder(os.Stdout).Encode(struct {
			URL string `json:"url"`
			PID int    `json:"pid"`
		}{t.URL(), os.Getpid()})
	})
	return g.Wait()
}
