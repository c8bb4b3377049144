package proxy

import (
	"context"
	"fmt"
	"net"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/tailgate-project/tailgate/spoke/proxy/proxyapi"
	"github.com/tailgate-project/tailgate/spoke/proxy/proxytls"
)

// The pause between two attempts to connect to the spoke grows from minReconnect to maxReconnect.
const (
	minReconnect = 100 * time.Millisecond
	maxReconnect = time.Second
)

// connect makes the connection to the spoke, which is opened when it is first used and again whenever it breaks.
func connect(o Options) (*grpc.ClientConn, error) {
	target, options := "unix:"+o.Socket, []grpc.DialOption{grpc.WithTransportCredentials(insecure.NewCredentials())}
	if o.Spoke != "" {
		// The name is looked up for each attempt, and no proxy of the environment's is asked.
		target = "passthrough:///" + o.Spoke
		options = []grpc.DialOption{
			grpc.WithTransportCredentials(proxytls.Client(o.TLSDir)), grpc.WithContextDialer(dialListening),
		}
	}
	conn, err := grpc.NewClient(target, append(options,
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(proxyapi.MaxConfigSize), grpc.MaxCallSendMsgSize(proxyapi.MaxStatusSize)),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: minReconnect, Multiplier: 1.6, Jitter: 0.2, MaxDelay: maxReconnect},
			MinConnectTimeout: proxyapi.QuietLimit,
		}))...)
	if err != nil {
		return nil, fmt.Errorf("use the spoke at %s: %w", target, err)
	}
	return conn, nil
}

// dialListening dials the spoke. It speaks at least once in [proxyapi.BeatInterval]; one that does not is dead, whatever the
// kernel thinks of the connection.
func dialListening(ctx context.Context, addr string) (net.Conn, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	return listening{conn}, nil
}

// listening is a connection that fails when nothing is heard for [proxyapi.QuietLimit].
type listening struct{ net.Conn }

// Read implements [net.Conn].
func (c listening) Read(p []byte) (int, error) {
	if err := c.SetReadDeadline(time.Now().Add(proxyapi.QuietLimit)); err != nil {
		return 0, err
	}
	return c.Conn.Read(p)
}
