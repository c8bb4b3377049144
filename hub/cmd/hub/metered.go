package main

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"sync"
	"time"

	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/federation/ledger"
	"github.com/tailgate-project/tailgate/federation/linkstate"
	"github.com/tailgate-project/tailgate/hub"
	tailnetcontroller "github.com/tailgate-project/tailgate/hub/controllers/tailnet"
	"github.com/tailgate-project/tailgate/hub/store"
	"github.com/tailgate-project/tailgate/hub/tailnet"
	"github.com/tailgate-project/tailgate/hub/web"
)

// meteredStore counts what is committed, and tells readiness how the store is.
type meteredStore struct {
	store.Store
	metrics *web.Metrics
	ready   *readiness
}

// Commit stores the batch.
func (s meteredStore) Commit(ctx context.Context, b ledger.Batch) error {
	began := time.Now()
	done := s.ready.committing(began)
	err := s.Store.Commit(ctx, b)
	done(err)
	s.metrics.Committed(time.Since(began), b.Journal, err)
	return err
}

// Superseded waits until another hub leads.
func (s meteredStore) Superseded(ctx context.Context) error {
	err := s.Store.Superseded(ctx)
	if err != nil {
		s.ready.lost(err)
	}
	return err
}

// meteredProvider counts what the tailnets refuse.
type meteredProvider struct {
	hub.Provider
	metrics *web.Metrics
}

// EnsureVIP makes a VIP and returns its addresses.
func (p meteredProvider) EnsureVIP(ctx context.Context, v federation.VIP) ([]netip.Addr, error) {
	addrs, err := p.Provider.EnsureVIP(ctx, v)
	p.failed(ctx, err)
	return addrs, err
}

// DeleteVIP deletes a VIP.
func (p meteredProvider) DeleteVIP(ctx context.Context, v federation.VIP) error {
	err := p.Provider.DeleteVIP(ctx, v)
	p.failed(ctx, err)
	return err
}

func (p meteredProvider) failed(ctx context.Context, err error) {
	if err != nil && ctx.Err() == nil {
		p.metrics.VIPFailed(vipFailure(err))
	}
}

// vipFailures are the reasons by which failures are counted, the more telling ones first.
var vipFailures = []struct {
	err    error
	reason string
}{
	{tailnetcontroller.ErrNoTailnet, "TailnetNotFound"},
	{tailnetcontroller.ErrNotReady, "TailnetNotReady"},
	{tailnet.ErrForeignVIP, "VIPConflict"},
	{tailnet.ErrUnauthorized, "Unauthorized"},
	{tailnet.ErrIdentityToken, "IdentityToken"},
	{tailnet.ErrForbidden, "Forbidden"},
	{tailnet.ErrRateLimited, "RateLimited"},
	{tailnet.ErrUnavailable, "Unavailable"},
	{tailnet.ErrNameNotResolved, "Unreachable"},
	{tailnet.ErrUnreachable, "Unreachable"},
	{tailnet.ErrTimeout, "Timeout"},
	{tailnet.ErrNotFound, "NotFound"},
	{tailnet.ErrRejected, "Rejected"},
}

func vipFailure(err error) string {
	for _, f := range vipFailures {
		if errors.Is(err, f.err) {
			return f.reason
		}
	}
	return "Other"
}

// meteredTransport counts requests to the admin API. What is in them, and where they go, is nobody's business.
type meteredTransport struct {
	http.RoundTripper
	metrics *web.Metrics
}

// newAdminTransport returns a transport for the admin API, which honours the proxy of the environment.
func newAdminTransport(m *web.Metrics) http.RoundTripper {
	return meteredTransport{&http.Transport{
		Proxy: http.ProxyFromEnvironment, ForceAttemptHTTP2: true,
		TLSHandshakeTimeout: 10 * time.Second, ResponseHeaderTimeout: 30 * time.Second, IdleConnTimeout: 90 * time.Second,
	}, m}
}

// RoundTrip makes the request.
func (t meteredTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	began := time.Now()
	res, err := t.RoundTripper.RoundTrip(r)
	code := "none"
	if err == nil {
		code = strconv.Itoa(res.StatusCode)
	}
	t.metrics.AdminCalled(r.Method, code, time.Since(began))
	return res, err
}

// meteredHub counts the streams that wait for the hub.
type meteredHub struct {
	*hub.Hub
	metrics *web.Metrics
}

// Next waits for what a member is to know next.
func (h meteredHub) Next(ctx context.Context, c federation.ClusterID, epoch, version uint64) (linkstate.Update, error) {
	done := h.metrics.Watching()
	u, err := h.Hub.Next(ctx, c, epoch, version)
	done(err == nil)
	return u, err
}

// meteredListener counts the connections that are open.
type meteredListener struct {
	net.Listener
	metrics *web.Metrics
}

// Accept waits for a connection.
func (l meteredListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &meteredConn{Conn: c, closed: sync.OnceFunc(l.metrics.Connected())}, nil
}

type meteredConn struct {
	net.Conn
	closed func()
}

// Close closes the connection.
func (c *meteredConn) Close() error {
	c.closed()
	return c.Conn.Close()
}
