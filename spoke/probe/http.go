package probe

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"
)

const (
	// maxBody is how much of an answer's body is read, in bytes. A longer one is as good.
	maxBody = 4 << 10
	// maxHeader is how much of headers an answer may have, in bytes.
	maxHeader = 64 << 10
	// userAgent tells the owners of a target who is asking.
	userAgent = "tailgate-health-check"
)

// askHTTP wants an expected status.
func (c *Check) askHTTP(ctx context.Context, conn net.Conn, r Remote) error {
	target, err := url.ParseRequestURI(c.Path)
	if c.Path == "" {
		target, err = &url.URL{Path: "/"}, nil
	}
	if err != nil {
		return fmt.Errorf("path of the check: %w", err)
	}
	request := &http.Request{Method: http.MethodGet, URL: target, Host: c.host(r), Header: http.Header{"Accept": {"*/*"}}}
	response, err := roundTrip(ctx, conn, request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if !c.expects(response.StatusCode) {
		return fail(statusReason(response.StatusCode), "the answer to GET %s has status %s", target.RequestURI(), response.Status)
	}
	if _, err := io.CopyN(io.Discard, response.Body, maxBody); err != nil && !errors.Is(err, io.EOF) {
		return answerError(ctx, "read the body of the answer", err)
	}
	return nil
}

// roundTrip sends one request on conn, and returns the answer to it. It speaks HTTP/2 where that was agreed on by TLS or
// the request wants it. Neither is conn used again nor any other.
func roundTrip(ctx context.Context, conn net.Conn, request *http.Request) (*http.Response, error) {
	request.Header.Set("User-Agent", userAgent)
	request = request.WithContext(ctx)
	protocols := new(http.Protocols)
	peer := &hearing{Conn: conn}
	secured, ok := conn.(*tls.Conn)
	switch {
	case ok && secured.ConnectionState().NegotiatedProtocol == "h2":
		request.URL.Scheme = "https"
		protocols.SetHTTP2(true)
	case request.ProtoMajor == 2:
		request.URL.Scheme = "http"
		protocols.SetUnencryptedHTTP2(true)
		conn = peer
	default:
		return roundTrip1(ctx, conn, request)
	}
	var taken atomic.Bool
	ready := func(context.Context, string, string) (net.Conn, error) {
		if taken.Swap(true) {
			return nil, net.ErrClosed // a check is one attempt
		}
		return conn, nil
	}
	transport := &http.Transport{
		DialContext: ready, DialTLSContext: ready, Protocols: protocols,
		DisableKeepAlives: true, DisableCompression: true, MaxResponseHeaderBytes: maxHeader,
	}
	request.URL.Host = request.Host
	response, err := transport.RoundTrip(request)
	if err != nil {
		return nil, answerError(ctx, "wait for the answer", peer.explain(err))
	}
	return response, nil
}

// hearing is a connection that remembers what its peer did. A peer that does not understand often says so and hangs up
// while it is still written to; a transport whose write fails gives up before it has read that, and one whose connection
// has ended before the request says no more than that there is none.
type hearing struct {
	net.Conn

	mu sync.Mutex
	// heard is how the peer's answer begins.
	heard []byte
	// failed are the first errors of writing and reading.
	unsent, failed error
}

// http1 is how answers in HTTP/1 begin.
const http1 = "HTTP/1."

// Write implements [net.Conn]. It does not fail: the error comes at the end of what there is to read.
func (c *hearing) Write(p []byte) (int, error) {
	_, err := c.Conn.Write(p)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.unsent == nil {
		c.unsent = err
	}
	return len(p), nil
}

// Read implements [net.Conn].
func (c *hearing) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.mu.Lock()
	defer c.mu.Unlock()
	if missing := len(http1) - len(c.heard); missing > 0 {
		c.heard = append(c.heard, p[:min(n, missing)]...)
	}
	if err != nil {
		err = errors.Join(err, c.unsent)
		if c.failed == nil {
			c.failed = err
		}
	}
	return n, err
}

// explain returns why there was no answer, where the transport says err.
func (c *hearing) explain(err error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if string(c.heard) == http1 {
		return fail(WrongProtocol, "the answer is of HTTP/1: %w", err)
	}
	return errors.Join(err, c.failed)
}

// roundTrip1 is roundTrip in HTTP/1.1, without a goroutine, and without the log lines of a transport to which somebody
// speaks first.
func roundTrip1(ctx context.Context, conn net.Conn, request *http.Request) (*http.Response, error) {
	request.Close = true
	// Who refuses a request need not read it to its end.
	unsent := request.Write(conn)
	reader := bufio.NewReader(io.LimitReader(conn, maxHeader+maxBody))
	for {
		response, err := http.ReadResponse(reader, request)
		if err != nil {
			return nil, answerError(ctx, "wait for the answer", errors.Join(err, unsent))
		}
		if response.StatusCode >= http.StatusOK || response.StatusCode == http.StatusSwitchingProtocols {
			return response, nil
		}
	}
}

// answerError says why a target that took a connection gave no answer that can be read.
func answerError(ctx context.Context, doing string, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("%s: %w", doing, ctx.Err())
	}
	if f, ok := errors.AsType[*failure](err); ok {
		return fail(f.reason, "%s: %w", doing, f.err)
	}
	reason, known := connectionReason(err)
	switch {
	case known:
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, net.ErrClosed):
		reason = Closed
	default:
		reason = WrongProtocol
	}
	return fail(reason, "%s: %w", doing, err)
}
