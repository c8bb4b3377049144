package proxy

import (
	"context"
	"log/slog"
	"net"

	"github.com/prometheus/client_golang/prometheus"
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
