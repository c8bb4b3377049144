package probe

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/tailgate-project/tailgate/federation"
)

// Kind is how a target is asked whether it is well.
type Kind string

// The kinds of checks. A certificate is not verified: what is asked is whether there is somebody, not who.
const (
	// Connect wants a connection, and for UDP no more than that nobody refuses until the timeout.
	Connect Kind = ""
	// HTTP and HTTPS want an answer to a GET with an expected status. Redirects are not followed. HTTPS speaks HTTP/2
	// with those who offer it.
	HTTP  Kind = "http"
	HTTPS Kind = "https"
	// GRPC wants the status SERVING of grpc.health.v1, GRPCS the same over TLS.
	GRPC  Kind = "grpc"
	GRPCS Kind = "grpcs"
	// TLS wants a handshake.
	TLS Kind = "tls"
)

// Check says what must come back from a target.
type Check struct {
	Kind Kind
	// Path, with a query where there is one, is for HTTP; empty means /.
	Path string
	// Host is the Host header and the SNI name of TLS; empty means the target's name or address.
	Host string
	// Expected are the statuses of HTTP that are well; none for 200 to 399.
	Expected []StatusRange
	// Service is what gRPC is asked about; empty for the server as a whole.
	Service string
}

// StatusRange is a range of statuses of HTTP, both ends in it.
type StatusRange struct{ Low, High int }

// Validate returns what is wrong with a check of a target of this protocol, and what to do about it.
func (c Check) Validate(p federation.Protocol) error {
	switch c.Kind {
	case Connect, HTTP, HTTPS, GRPC, GRPCS, TLS:
	default:
		return fmt.Errorf("check %q: use %s, %s, %s, %s or %s, or none for a connection", c.Kind, HTTP, HTTPS, GRPC, GRPCS, TLS)
	}
	if p == federation.UDP && c.Kind != Connect {
		return fmt.Errorf("check %q goes over TCP, the endpoint's protocol is UDP: leave the kind empty", c.Kind)
	}
	if c.Path != "" {
		if u, err := url.ParseRequestURI(c.Path); err != nil || !strings.HasPrefix(c.Path, "/") || u.Fragment != "" {
			return fmt.Errorf("path %q: begin it with / and escape what a URL must not have", c.Path)
		}
	}
	if u, err := url.Parse("http://" + c.Host); err != nil || u.Host != c.Host {
		return fmt.Errorf("host %q: use a host name, with :port where the Host header shall have one", c.Host)
	}
	for _, r := range c.Expected {
		if r.Low < 100 || r.High > 599 || r.High < r.Low {
			return fmt.Errorf("statuses %d-%d: use two from 100 to 599, the lower first", r.Low, r.High)
		}
	}
	return nil
}

func (c *Check) equal(o *Check) bool {
	if c == nil || o == nil {
		return c == o
	}
	return c.Kind == o.Kind && c.Path == o.Path && c.Host == o.Host && c.Service == o.Service && slices.Equal(c.Expected, o.Expected)
}

// expects reports whether a status is well.
func (c *Check) expects(status int) bool {
	if len(c.Expected) == 0 {
		return status >= 200 && status <= 399
	}
	return slices.ContainsFunc(c.Expected, func(r StatusRange) bool { return status >= r.Low && status <= r.High })
}

// secure reports whether the check goes over TLS.
func (c *Check) secure() bool { return c.Kind == HTTPS || c.Kind == GRPCS || c.Kind == TLS }

// host is the Host header for a target.
func (c *Check) host(r Remote) string {
	if c.Host != "" {
		return c.Host
	}
	usual := uint16(80)
	if c.secure() {
		usual = 443
	}
	if host := r.host(); r.Addr.Port() != usual {
		return net.JoinHostPort(host, strconv.Itoa(int(r.Addr.Port())))
	} else if strings.Contains(host, ":") {
		return "[" + host + "]"
	} else {
		return host
	}
}

// serverName is the SNI name for a target; an address sends none.
func (c *Check) serverName(r Remote) string {
	if c.Host == "" {
		return r.host()
	}
	if host, _, err := net.SplitHostPort(c.Host); err == nil {
		return host
	}
	return strings.Trim(c.Host, "[]")
}

// ask returns nil if what answers on conn is well. It may leave conn open; the end of ctx must close it.
func (c *Check) ask(ctx context.Context, conn net.Conn, r Remote) error {
	if c.secure() {
		secured, err := c.handshake(ctx, conn, r)
		if err != nil {
			return err
		}
		conn = secured
	}
	switch c.Kind {
	case HTTP, HTTPS:
		return c.askHTTP(ctx, conn, r)
	case GRPC, GRPCS:
		return c.askGRPC(ctx, conn, r)
	}
	return nil
}

func (c *Check) handshake(ctx context.Context, conn net.Conn, r Remote) (*tls.Conn, error) {
	config := &tls.Config{InsecureSkipVerify: true, ServerName: c.serverName(r)}
	switch c.Kind {
	case HTTPS:
		config.NextProtos = []string{"h2", "http/1.1"}
	case GRPCS:
		config.NextProtos = []string{"h2"}
	}
	secured := tls.Client(conn, config)
	err := secured.HandshakeContext(ctx)
	_, plain := errors.AsType[tls.RecordHeaderError](err)
	switch reason, known := connectionReason(err); {
	case err == nil && c.Kind == GRPCS && secured.ConnectionState().NegotiatedProtocol != "h2":
		return nil, fail(WrongProtocol, "the server does not offer HTTP/2, which gRPC needs")
	case err == nil:
		return secured, nil
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case plain:
		return nil, fail(WrongProtocol, "TLS handshake: %w", err)
	case known:
		return nil, fail(reason, "TLS handshake: %w", err)
	}
	return nil, fail(TLSHandshake, "TLS handshake: %w", err)
}

// silence waits on a UDP connection for a refusal. An answer ends the wait; nothing at all until ctx ends, which closes
// conn, is as good, and answered is false then.
func silence(ctx context.Context, conn net.Conn) (answered bool, err error) {
	// An empty datagram asks nothing of a server, and makes a host without one refuse.
	if _, err := conn.Write(nil); err != nil {
		return false, err
	}
	_, err = conn.Read(make([]byte, 1))
	switch {
	case err == nil, errors.Is(err, io.ErrShortBuffer):
		return true, nil
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return false, nil
	case ctx.Err() != nil:
		return false, ctx.Err()
	}
	return false, err
}

// Remote is an endpoint in the tailnet.
type Remote struct {
	// Name is that of a device or a service, and looked up by who dials. Where it is empty, Addr has the address.
	Name string
	// Addr has, beside a Name, a port only.
	Addr netip.AddrPort
	// Protocol is TCP or UDP.
	Protocol federation.Protocol
}

// String returns the name or address with the port.
func (r Remote) String() string {
	return net.JoinHostPort(r.host(), strconv.Itoa(int(r.Addr.Port())))
}

// host is the name, without a last dot, or the address.
func (r Remote) host() string {
	if r.Name != "" {
		return strings.TrimSuffix(r.Name, ".")
	}
	return r.Addr.Addr().String()
}
