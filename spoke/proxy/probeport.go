package proxy

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync/atomic"
	"time"

	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/spoke/probe"
)

// probeTimeout is the time to answer one probe.
const probeTimeout = 2 * time.Second

// probePort tells observers that the host lives and whose it is, and nobody else anything.
type probePort struct {
	node     *node
	tags     []string
	version  string
	logger   *slog.Logger
	greeting atomic.Pointer[string]
	serving  bool
}

func newProbePort(n *node, o Options) *probePort {
	return &probePort{node: n, tags: o.ProberTags, version: o.Version, logger: o.Logger}
}

// serve answers for cluster from now on. Without a cluster the host is not ready and answers nobody.
func (p *probePort) serve(ctx context.Context, cluster string) error {
	if cluster == "" {
		return nil
	}
	greeting := probe.Greeting(federation.ClusterID(cluster), p.version)
	p.greeting.Store(&greeting)
	if p.serving {
		return nil
	}
	listener, err := p.node.server.Listen("tcp", fmt.Sprintf(":%d", ProbePort))
	if err != nil {
		return fmt.Errorf("listen at the probe port: %w", err)
	}
	p.serving = true
	go acceptAll(ctx, listener, p.logger, func(conn net.Conn) { p.answer(ctx, conn) })
	return nil
}

func (p *probePort) answer(ctx context.Context, conn net.Conn) {
	defer conn.Close()
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	if conn.RemoteAddr() == nil {
		// The peer is gone already.
		return
	}
	remote := conn.RemoteAddr().String()
	if !p.node.hasTag(ctx, remote, p.tags) {
		p.logger.Warn("refused a peer at the probe port", "peer", remote)
		return
	}
	if err := conn.SetWriteDeadline(time.Now().Add(probeTimeout)); err != nil {
		return
	}
	if _, err := io.WriteString(conn, *p.greeting.Load()); err != nil {
		p.logger.Debug("answer a probe", "peer", remote, "error", err)
	}
}
