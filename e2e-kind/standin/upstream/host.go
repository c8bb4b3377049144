package upstream

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"

	"github.com/tailgate-project/tailgate/e2e-kind/standin/stats"
	"github.com/tailgate-project/tailgate/e2e-kind/standin/tlsctx"
)

// host is one endpoint with what must outlive an update of the endpoints: its connections and its health.
type host struct {
	key      string // address and transport socket
	address  string
	spec     *Spec
	socket   *corev3.TransportSocket
	secrets  *tlsctx.Store
	detector *detector // nil: no outlier detection
	cx       struct{ total, active, failed *stats.Value }
	active   atomic.Int64 // requests in flight

	mu         sync.Mutex
	failing    map[int]bool // by index of the health check: its last verdict, or no verdict yet
	waiting    int          // health checks without a verdict
	transports map[string]*http.Transport
	removed    bool
}

// connectError is a failure to establish a connection, TLS included.
type connectError struct{ err error }

func (e *connectError) Error() string { return "connect: " + e.err.Error() }
func (e *connectError) Unwrap() error { return e.err }

func newHost(spec *Spec, e Endpoint, key string, socket *corev3.TransportSocket, deps Deps, d *detector) *host {
	h := &host{
		key: key, address: e.Address, spec: spec, socket: socket, secrets: deps.Secrets, detector: d,
		failing: map[int]bool{}, transports: map[string]*http.Transport{},
	}
	h.cx.total = deps.Stats.Counter("cluster", spec.Name, "upstream_cx_total")
	h.cx.active = deps.Stats.Gauge("cluster", spec.Name, "upstream_cx_active")
	h.cx.failed = deps.Stats.Counter("cluster", spec.Name, "upstream_cx_connect_fail")
	if !e.Unchecked {
		h.waiting = len(spec.checks)
		for i := range spec.checks {
			h.failing[i] = true // until the first check passes
		}
	}
	return h
}

// state joins what EDS, the health checks and outlier detection say.
func (h *host) state(e Endpoint) health {
	switch e.Health {
	case corev3.HealthStatus_UNHEALTHY, corev3.HealthStatus_DRAINING, corev3.HealthStatus_TIMEOUT:
		return unhealthy
	}
	if h.failedCheck() || h.detector.ejected(h) {
		return unhealthy
	}
	if e.Health == corev3.HealthStatus_DEGRADED {
		return degraded
	}
	return healthy
}

func (h *host) failedCheck() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, failing := range h.failing {
		if failing {
			return true
		}
	}
	return false
}

func (h *host) unchecked() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.waiting > 0
}

// drain closes the connections: idle ones at once, the others when their requests are done.
func (h *host) drain() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.removed = true
	for _, t := range h.transports {
		t.CloseIdleConnections()
	}
}

// transport returns the connection pool for requests with that SNI, which came in HTTP/2 or not.
func (h *host) transport(sni string, cameInHTTP2 bool) (*http.Transport, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	http2 := h.spec.http2 || h.spec.downstream && cameInHTTP2
	key := sni
	if http2 {
		key += " h2"
	}
	if t := h.transports[key]; t != nil {
		return t, nil
	}
	t, err := h.newTransport(sni, http2, false)
	if err != nil {
		return nil, err
	}
	t.DisableKeepAlives = h.removed
	h.transports[key] = t
	return t, nil
}

// newTransport makes a transport. The pool never resends a request by itself: see emptyBody.
func (h *host) newTransport(sni string, http2, once bool) (*http.Transport, error) {
	t := &http.Transport{
		DisableCompression: true, DisableKeepAlives: once, MaxIdleConnsPerHost: 4096, IdleConnTimeout: h.spec.idleTimeout,
		DialContext: h.dial, Protocols: new(http.Protocols),
	}
	ctx, err := upstreamTLS(h.socket)
	if err != nil {
		return nil, err
	}
	if ctx == nil {
		t.Protocols.SetHTTP1(!http2)
		t.Protocols.SetUnencryptedHTTP2(http2)
		return t, nil
	}
	cfg, err := tlsctx.Client(ctx, h.secrets)
	if err != nil {
		return nil, err
	}
	if h.spec.autoSNI && cfg.ServerName == "" {
		cfg.ServerName = serverName(sni)
	}
	switch {
	case http2:
		cfg.NextProtos = []string{"h2"}
	case h.spec.alpn:
		cfg.NextProtos = []string{"h2", "http/1.1"}
	}
	t.Protocols.SetHTTP1(!http2)
	t.Protocols.SetHTTP2(http2 || h.spec.alpn)
	t.DialTLSContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
		return h.dialTLS(ctx, network, addr, cfg)
	}
	return t, nil
}

// serverName returns what auto_sni makes of a Host: no port, and nothing of an address.
func serverName(host string) string {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	if net.ParseIP(strings.Trim(host, "[]")) != nil {
		return ""
	}
	return host
}

func (h *host) scheme() string {
	if ctx, err := upstreamTLS(h.socket); err == nil && ctx != nil {
		return "https"
	}
	return "http"
}

func (h *host) dial(ctx context.Context, network, _ string) (net.Conn, error) {
	h.cx.total.Inc()
	d := net.Dialer{Timeout: h.spec.ConnectTimeout}
	conn, err := d.DialContext(ctx, network, h.address)
	if err != nil {
		h.cx.failed.Inc()
		return nil, &connectError{err}
	}
	h.cx.active.Inc()
	return &countedConn{Conn: conn, active: h.cx.active}, nil
}

func (h *host) dialTLS(ctx context.Context, network, addr string, cfg *tls.Config) (net.Conn, error) {
	raw, err := h.dial(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, h.spec.ConnectTimeout)
	defer cancel()
	conn := tls.Client(raw, cfg)
	if err := conn.HandshakeContext(ctx); err != nil {
		h.cx.failed.Inc()
		_ = raw.Close() // the handshake's error says why
		return nil, &connectError{fmt.Errorf("TLS handshake: %w", err)}
	}
	return conn, nil
}

// countedConn keeps a gauge of open connections.
type countedConn struct {
	net.Conn
	active *stats.Value
	once   sync.Once
}

func (c *countedConn) Close() error {
	c.once.Do(func() { c.active.Add(-1) })
	return c.Conn.Close()
}
