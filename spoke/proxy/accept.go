package proxy

import (
	"context"
	"log/slog"
	"net"
	"time"
)

// resourcePause is the time to wait when a socket fails, as when the process has no file descriptors left.
const resourcePause = 50 * time.Millisecond

// pause waits for resourcePause, or until ctx ends.
func pause(ctx context.Context) {
	select {
	case <-ctx.Done():
	case <-time.After(resourcePause):
	}
}

// acceptAll handles each connection in a goroutine of its own, until ctx ends; it closes the listener then.
func acceptAll(ctx context.Context, listener net.Listener, logger *slog.Logger, handle func(net.Conn)) {
	context.AfterFunc(ctx, func() { listener.Close() })
	for {
		conn, err := listener.Accept()
		if ctx.Err() != nil {
			if err == nil {
				reset(conn)
			}
			return
		}
		if err != nil {
			logger.Warn("cannot accept connections", "listen", listener.Addr().String(), "error", err)
			pause(ctx)
			continue
		}
		go handle(conn)
	}
}
