package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/tailgate-project/tailgate/e2e-kind/lab"
)

var members = []string{"cluster1", "cluster2", "cluster3"}

// relayed are the services of machines that are reached from outside, in the order of the listeners.
var relayed = []struct {
	machine string
	port    uint16
}{
	{lab.Management, lab.APIServerPort},
	{"cluster1", lab.APIServerPort}, {"cluster2", lab.APIServerPort}, {"cluster3", lab.APIServerPort},
	{"cluster1", lab.GatewayPort}, {"cluster2", lab.GatewayPort}, {"cluster3", lab.GatewayPort},
	{lab.Management, lab.HubStatusPort},
	{"cluster1", lab.StatusPort}, {"cluster2", lab.StatusPort}, {"cluster3", lab.StatusPort},
}

// firstRelay is the file descriptor of the first listener, after standard input, output and error.
const firstRelay = 3

// relays answer connections from outside.
type relays struct {
	listeners []net.Listener
}

func inheritRelays() (*relays, error) {
	r := &relays{}
	for i := range relayed {
		f := os.NewFile(uintptr(firstRelay+i), "relay")
		ln, err := net.FileListener(f)
		if err = errors.Join(err, f.Close()); err != nil {
			return nil, fmt.Errorf("take over relay %d: %w", i, err)
		}
		r.listeners = append(r.listeners, ln)
	}
	return r, nil
}

// addr is where a service of a machine is reached from outside.
func (r *relays) addr(machine string, port uint16) string {
	for i, to := range relayed {
		if to.machine == machine && to.port == port {
			return r.listeners[i].Addr().String()
		}
	}
	return ""
}

// run relays until ctx ends.
func (r *relays) run(ctx context.Context, l *lab.Lab) error {
	var all sync.WaitGroup
	for i, ln := range r.listeners {
		to := netip.AddrPortFrom(l.Addr(relayed[i].machine), relayed[i].port)
		stop := context.AfterFunc(ctx, func() { _ = ln.Close() })
		defer stop()
		all.Go(func() {
			for {
				c, err := ln.Accept()
				if err != nil {
					return // closed: the demo ends
				}
				all.Go(func() { relay(ctx, c, to) })
			}
		})
	}
	all.Wait()
	return nil
}

// relay copies both ways until one side has ended or ctx has.
func relay(ctx context.Context, outer net.Conn, to netip.AddrPort) {
	defer outer.Close()
	inner, err := new(net.Dialer).DialContext(ctx, "tcp", to.String())
	if err != nil {
		return // the machine is off, and so is the connection
	}
	defer inner.Close()
	stop := context.AfterFunc(ctx, func() { _ = outer.Close(); _ = inner.Close() })
	defer stop()
	var both sync.WaitGroup
	for _, pair := range [][2]net.Conn{{outer, inner}, {inner, outer}} {
		both.Go(func() {
			_, _ = io.Copy(pair[0], pair[1]) // either side may hang up at any time
			if c, ok := pair[0].(*net.TCPConn); ok {
				_ = c.CloseWrite()
			}
		})
	}
	both.Wait()
}

// invite says how to reach what runs, and writes the kubeconfigs for that.
func (r *relays) invite(p *printer, l *lab.Lab, dir string) error {
	p.text("\nThe federation runs on. In another terminal:\n\n")
	for _, m := range append([]string{lab.Management}, members...) {
		text, err := os.ReadFile(l.Kubeconfig(m))
		if err != nil {
			return err
		}
		inner := netip.AddrPortFrom(l.Addr(m), lab.APIServerPort).String()
		outer := strings.ReplaceAll(string(text), inner, r.addr(m, lab.APIServerPort))
		path := filepath.Join(dir, m+".kubeconfig")
		if err := os.WriteFile(path, []byte(outer), 0o600); err != nil {
			return err
		}
		kinds := "gateways,tailscalegateways,tailscaleroutepolicies"
		if m == lab.Management {
			kinds = "memberclusters,tailscaletailnets"
		}
		p.text("  kubectl --kubeconfig %s get %s -A\n", path, kinds)
	}
	p.text("\n")
	for _, m := range members {
		p.text("  curl http://%s/cross-cluster/webapp-cluster2/   # through the gateway of %s\n", r.addr(m, lab.GatewayPort), m)
	}
	p.text("\n  curl http://%s/api/v1/journal   # the hub's decisions\n", r.addr(lab.Management, lab.HubStatusPort))
	for _, m := range members {
		p.text("  curl http://%s/status   # the spoke of %s\n", r.addr(m, lab.StatusPort), m)
	}
	p.text("\nCtrl-C ends it.\n")
	return nil
}
