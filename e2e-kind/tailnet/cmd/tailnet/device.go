package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"time"

	"golang.org/x/sync/errgroup"
	"tailscale.com/net/socks5"
	"tailscale.com/types/logger"

	"github.com/tailgate-project/tailgate/e2e-kind/tailnet"
)

// device is a device of a tailnet that is no cluster's, such as somebody's laptop. In the tailnet it answers HTTP at port 80, as
// webapp does. Beside it, it is a SOCKS5 proxy, so that a harness can make requests from there without being in the tailnet
// itself. The key to join by is in the variable TS_AUTHKEY. When ready, it prints a line of JSON on standard output,
// {"socks":"ADDRESS"}.
func device(ctx context.Context, args []string) (err error) {
	flags := flag.NewFlagSet("tailnet device", flag.ContinueOnError)
	o := tailnet.NodeOptions{AuthKey: os.Getenv("TS_AUTHKEY"), Ephemeral: true, AcceptRoutes: true}
	flags.StringVar(&o.ControlURL, "control-url", "", "`URL` of the control server")
	flags.StringVar(&o.Hostname, "hostname", "device", "`name` in the tailnet, and in its answers")
	addr := flags.String("socks-addr", "127.0.0.1:0", "`address` of the SOCKS5 proxy")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if o.Dir, err = os.MkdirTemp("", "device-"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(o.Dir)) }()
	node, err := tailnet.Node(ctx, o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, node.Close()) }()
	inside, err := node.Listen("tcp", ":80")
	if err != nil {
		return fmt.Errorf("listen in the tailnet: %w", err)
	}
	outside, err := net.Listen("tcp", *addr)
	if err != nil {
		return fmt.Errorf("-socks-addr: %w", err)
	}
	web := &http.Server{ReadHeaderTimeout: 10 * time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		answer := map[string]string{"cluster": o.Hostname, "host": r.Host, "path": r.URL.Path}
		_ = json.NewEncoder(w).Encode(answer) // who is gone needs none
	})}
	proxy := socks5.Server{Logf: logger.Discard, Dialer: node.Dial}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return web.Serve(inside) })
	g.Go(func() error { return proxy.Serve(outside) })
	if err := json.NewEncoder(os.Stdout).Encode(map[string]string{"socks": outside.Addr().String()}); err != nil {
		return err
	}
	<-ctx.Done()
	err = errors.Join(web.Close(), outside.Close())
	if ended := g.Wait(); !errors.Is(ended, http.ErrServerClosed) && !errors.Is(ended, net.ErrClosed) {
		err = errors.Join(err, ended)
	}
	return err
}
