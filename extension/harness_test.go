package extension_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/test/bufconn"

	"github.com/tailgate-project/tailgate/extension"
	"github.com/tailgate-project/tailgate/extension/certs"
)

// wire is an in-memory port with certificates for both ends.
type wire struct {
	bundle certs.Bundle
	pool   *x509.CertPool
	lis    *bufconn.Listener
	opened chan struct{}
}

func newWire(t *testing.T) *wire {
	t.Helper()
	b, _, err := certs.Renew(certs.Bundle{}, certs.Names{DNS: []string{extension.EDSServerName}}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	pool, err := certs.Pool(b.Trust)
	if err != nil {
		t.Fatal(err)
	}
	return &wire{bundle: b, pool: pool, lis: bufconn.Listen(1 << 20), opened: make(chan struct{})}
}

func live(t *testing.T, p certs.Pair) *certs.Live {
	t.Helper()
	l := new(certs.Live)
	if err := l.Set(p); err != nil {
		t.Fatal(err)
	}
	return l
}

func (w *wire) options(t *testing.T) extension.Options {
	return extension.Options{
		TLS: certs.ServerConfig(live(t, w.bundle.Server), func() *x509.CertPool { return w.pool }, ""),
		Listen: func(context.Context) (net.Listener, error) {
			close(w.opened)
			return w.lis, nil
		},
	}
}

// run runs a server for the length of the test.
func run(t *testing.T, server func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- server(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func (w *wire) dial(t *testing.T, config *tls.Config) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient("passthrough:///"+extension.EDSServerName,
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return w.lis.DialContext(ctx) }),
		grpc.WithTransportCredentials(credentials.NewTLS(config)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func (w *wire) client(t *testing.T) *grpc.ClientConn {
	return w.dial(t, certs.ClientConfig(live(t, w.bundle.Client), extension.EDSServerName, w.pool))
}
