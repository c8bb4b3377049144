package proxy_test

import (
	"context"
	"io"
	"net/netip"
	"testing"

	"github.com/tailgate-project/tailgate/e2e-kind/tailnet"
	"github.com/tailgate-project/tailgate/spoke/proxy/proxyapi"
)

func TestProbePort(t *testing.T) {
	p := newPair(t, backend(t, "one"))
	var addr string
	p.ingress.await("address", func() bool { addr = p.ingress.status.GetAddr(); return addr != "" })

	t.Run("observers-see-the-host", func(t *testing.T) {
		p.egress.set(func(c *proxyapi.Config) {
			c.Probes = []*proxyapi.Probe{
				{Id: "right", Addrs: []string{addr}, IntervalMs: 200, TimeoutMs: 2000, IngressOf: "c2"},
				{Id: "wrong", Addrs: []string{addr}, IntervalMs: 200, TimeoutMs: 2000, IngressOf: "c3"},
				{Id: "vip", Addrs: []string{netip.AddrPortFrom(p.vip, 80).String()}, IntervalMs: 200, TimeoutMs: 2000},
				{Id: "nobody", Addrs: []string{"100.127.0.9:80"}, IntervalMs: 200, TimeoutMs: 2000},
			}
		})
		want := map[string]string{"right": "", "wrong": "wrong-host", "vip": "", "nobody": "no-route"}
		for id, reason := range want {
			p.egress.await(id, func() bool {
				r := p.egress.results[id]
				return r != nil && r.GetError() == reason && r.GetReachable() == (reason == "")
			})
		}
	})
	t.Run("unknown-peers-get-no-byte", func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		stranger, err := tailnet.Node(ctx, tailnet.NodeOptions{
			Hostname: "stranger", AuthKey: p.key("tag:other"), Dir: t.TempDir(), ControlURL: p.URL(), Ephemeral: true,
		})
		if err != nil {
			t.Fatal(err)
		}
		defer stranger.Close()
		conn, err := stranger.Dial(ctx, "tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if answer, err := io.ReadAll(conn); len(answer) > 0 {
			t.Errorf("the stranger was told %q (%v)", answer, err)
		}
	})
}
