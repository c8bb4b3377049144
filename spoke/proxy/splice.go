package proxy

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// lingerTimeout is how long a connection of which one direction has ended may be silent in the other. It bounds what
// remains of ends that vanished without a word.
const lingerTimeout = 5 * time.Minute

const bufferSize = 64 << 10

var buffers = sync.Pool{New: func() any { return new([bufferSize]byte) }}

// stream is a connection that can be closed in one direction.
type stream interface {
	net.Conn
	CloseWrite() error
}

// reset ends a connection so that its peer gets a reset, where the connection knows how.
func reset(conn net.Conn) {
	if c, ok := conn.(interface{ SetLinger(seconds int) error }); ok {
		// It fails on a connection that is gone already.
		_ = c.SetLinger(0)
	}
	conn.Close()
}

// splice copies between client and server until both directions have ended. The end of one direction is passed on as
// such; an error in either, or the end of ctx, resets both ends.
func splice(ctx context.Context, client, server stream, flow flow) {
	ctx, abort := context.WithCancel(ctx)
	defer abort()
	stop := context.AfterFunc(ctx, func() {
		reset(client)
		reset(server)
	})
	var half atomic.Bool
	var wg sync.WaitGroup
	direction := func(dst, src stream, counter prometheus.Counter) {
		if err := copyStream(dst, src, counter, &half); err != nil {
			abort()
			return
		}
		half.Store(true)
		// The other direction may be waiting without a deadline. Where this fails the connection is gone.
		_ = dst.SetReadDeadline(time.Now().Add(lingerTimeout))
	}
	wg.Go(func() { direction(server, client, flow.received) })
	wg.Go(func() { direction(client, server, flow.sent) })
	wg.Wait()
	if stop() {
		client.Close()
		server.Close()
	}
}

// copyStream copies until src ends and then ends dst's direction. half tells it that the other direction has ended.
func copyStream(dst, src stream, counter prometheus.Counter, half *atomic.Bool) error {
	buffer := buffers.Get().(*[bufferSize]byte)
	defer buffers.Put(buffer)
	for {
		if half.Load() {
			if err := src.SetReadDeadline(time.Now().Add(lingerTimeout)); err != nil {
				return err
			}
		}
		n, err := src.Read(buffer[:])
		if n > 0 {
			counter.Add(float64(n))
			if _, err := dst.Write(buffer[:n]); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return dst.CloseWrite()
		}
		if err != nil {
			return err
		}
	}
}
