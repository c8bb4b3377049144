package proxy

import (
	"context"
	"fmt"
	"log/slog"
	"net"

	"github.com/prometheus/client_golang/prometheus"
	"tailscale.com/tailcfg"
)

// Relay runs a UDP relay with the sessions' usual life.
func Relay(ctx context.Context, local net.PacketConn, dial func() net.Conn) {
	m, err := newMetrics(prometheus.NewRegistry(), Egress)
	if err != nil {
		panic(err)
	}
	r := &relay{
		local: local, dial: func(context.Context) (net.Conn, error) { return dial(), nil }, idle: sessionIdle,
		flow: m.flow(subject{}), tracker: &tracker{}, logger: slog.New(slog.DiscardHandler),
	}
	r.run(ctx)
}

// Names are the names of a tailnet.
type Names struct{ names }

// Suffix sets the tailnet's own domain by the name of a device in it.
func (n *Names) Suffix(device string) { n.suffix = tailnetOf(device) }

// Device gives a device another name.
func (n *Names) Device(id tailcfg.NodeID, was, name string) { n.device(id, was, name) }

// Record replaces the DNS records.
func (n *Names) Record(records ...tailcfg.DNSRecord) (changed bool) { return n.record(records) }

// Find says what has a name: "device 1", addresses, or nobody.
func (n *Names) Find(name string) string {
	id, addrs, ok := n.find(name)
	switch {
	case !ok:
		return "nobody"
	case addrs != nil:
		return fmt.Sprint(addrs)
	}
	return fmt.Sprintf("device %d", id)
}

// Listening is a connection to a spoke that fails when nothing is heard.
func Listening(c net.Conn) net.Conn { return listening{c} }

// Applied tells a readiness what could not be applied, Drains that the proxy was told to end.
func (r *Readiness) Applied(problems map[string]string) { r.applied(problems) }

// Drains tells a readiness that the proxy was told to end.
func (r *Readiness) Drains() { r.drains() }
