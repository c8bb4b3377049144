package downstream

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tailgate-project/tailgate/e2e-kind/standin/router"
	"github.com/tailgate-project/tailgate/e2e-kind/standin/stats"
	"github.com/tailgate-project/tailgate/e2e-kind/standin/tlsctx"
	"github.com/tailgate-project/tailgate/e2e-kind/standin/upstream"
)

// Deps are what listeners share.
type Deps struct {
	Clusters func(name string) *upstream.Cluster // nil if there is none of that name
	Routes   func(name string) *router.Config    // nil if it has not arrived
	Failed   func() bool                         // the admin interface has failed the health check
	Secrets  *tlsctx.Store
	Stats    *stats.Registry
	Log      *slog.Logger
	// DrainTime is how long connections of an old configuration may live on. In it, answers ask HTTP/1.1 clients
	// to close.
	DrainTime time.Duration
}

// Listener is a bound listener. Its configuration can be replaced without closing its socket or its connections.
type Listener struct {
	ctx     context.Context // the process's, for the requests' contexts
	deps    Deps
	ln      net.Listener
	stat    string
	chains  atomic.Pointer[generation]
	wg      sync.WaitGroup
	retired atomic.Bool
	stopped chan struct{} // closed when the process ends
}

// generation is one configuration of a listener.
type generation struct {
	spec   *Spec
	chains []*chain
	cancel context.CancelFunc // ends what outlives its connection's HTTP: tunnels
}

// chain serves the connections of one filter chain.
type chain struct {
	spec     *chainSpec
	tls      *tls.Config
	server   *http.Server
	conns    *handoff
	draining atomic.Bool
}

// Bind binds a listener's address. Run serves it. Requests end with ctx.
func Bind(ctx context.Context, spec *Spec, deps Deps) (*Listener, error) {
	var lc net.ListenConfig
	ln, err := lc.Listen(ctx, "tcp", spec.Address)
	if err != nil {
		return nil, fmt.Errorf("cannot bind %q: %w", spec.Address, err)
	}
	l := &Listener{ctx: ctx, deps: deps, ln: ln, stat: strings.ReplaceAll(spec.Address, ":", "_"), stopped: make(chan struct{})}
	l.cx("downstream_cx_active").Set(0) // there from the start: a shutdown waits for it to become 0
	gen, err := l.generation(spec)
	if err != nil {
		return nil, errors.Join(err, ln.Close())
	}
	l.start(gen)
	return l, nil
}

// Spec returns the present configuration.
func (l *Listener) Spec() *Spec { return l.chains.Load().spec }

// Addr returns the bound address.
func (l *Listener) Addr() string { return l.ln.Addr().String() }

// Update gives new connections another configuration. Present connections keep theirs and are drained.
func (l *Listener) Update(spec *Spec) error {
	gen, err := l.generation(spec)
	if err != nil {
		return err
	}
	old := l.chains.Load()
	l.start(gen)
	l.wg.Go(func() { l.drain(old) })
	return nil
}

func (l *Listener) cx(stat string) *stats.Value {
	if strings.HasSuffix(stat, "_total") {
		return l.deps.Stats.Counter("listener", l.stat, stat)
	}
	return l.deps.Stats.Gauge("listener", l.stat, stat)
}

func (l *Listener) generation(spec *Spec) (*generation, error) {
	ctx, cancel := context.WithCancel(l.ctx)
	gen := &generation{spec: spec, cancel: cancel}
	for _, cs := range spec.chains {
		c := &chain{spec: cs, conns: newHandoff(l.ln.Addr())}
		if cs.tls != nil {
			cfg, err := tlsctx.Server(cs.tls, l.deps.Secrets)
			if err != nil {
				cancel()
				return nil, err
			}
			c.tls = cfg
		}
		protocols := new(http.Protocols)
		protocols.SetHTTP1(cs.hcm.http1)
		protocols.SetHTTP2(cs.hcm.http2)
		protocols.SetUnencryptedHTTP2(cs.hcm.http2)
		c.server = &http.Server{
			BaseContext: func(net.Listener) context.Context { return ctx },
			Handler:     newProxy(l.deps, c), Protocols: protocols, IdleTimeout: cs.hcm.idleTimeout,
			ReadHeaderTimeout: cs.hcm.headersTimeout, ErrorLog: slog.NewLogLogger(l.deps.Log.Handler(), slog.LevelDebug),
		}
		gen.chains = append(gen.chains, c)
	}
	return gen, nil
}

func (l *Listener) start(gen *generation) {
	for _, c := range gen.chains {
		l.wg.Go(func() {
			if err := c.server.Serve(c.conns); !errors.Is(err, http.ErrServerClosed) && !errors.Is(err, net.ErrClosed) {
				l.deps.Log.Error("HTTP server of a filter chain ended", "listener", gen.spec.Name, "err", err)
			}
		})
	}
	l.chains.Store(gen)
}

// drain ends a configuration that takes no new connections: its connections may live on for DrainTime, and their
// answers ask the clients to close.
func (l *Listener) drain(gen *generation) {
	for _, c := range gen.chains {
		c.draining.Store(true)
	}
	select {
	case <-l.stopped:
	case <-time.After(l.deps.DrainTime):
	}
	gen.close()
}

func (g *generation) close() {
	g.cancel()
	for _, c := range g.chains {
		_ = c.server.Close() // whatever is still open had its time
	}
}

// Retire closes the socket. Present connections may live on for DrainTime; then Run ends.
func (l *Listener) Retire() {
	l.retired.Store(true)
	_ = l.ln.Close() // ends Accept
}

// Drain asks clients to close their connections with the next answer. New connections are still taken.
func (l *Listener) Drain() {
	for _, c := range l.chains.Load().chains {
		c.draining.Store(true)
	}
}

// Run accepts connections until ctx ends, and then closes the listener and all its connections, or until the listener
// is retired and drained.
func (l *Listener) Run(ctx context.Context) error {
	closed := make(chan struct{})
	context.AfterFunc(ctx, func() {
		defer close(closed)
		l.close()
	})
	for {
		conn, err := l.ln.Accept()
		if err != nil {
			if ctx.Err() != nil {
				<-closed
				l.wg.Wait()
				return nil
			}
			if l.retired.Load() {
				l.drain(l.chains.Load())
				l.wg.Wait()
				return nil
			}
			return fmt.Errorf("accept on %s: %w", l.Addr(), err)
		}
		l.cx("downstream_cx_total").Inc()
		l.cx("downstream_cx_active").Inc()
		conn = &trackedConn{Conn: conn, active: l.cx("downstream_cx_active")}
		gen := l.chains.Load()
		if gen.chains[0].tls == nil {
			gen.deliver(conn, gen.match(""))
			continue
		}
		l.wg.Go(func() { l.handshake(ctx, gen, conn) })
	}
}

// close ends the listener with all connections.
func (l *Listener) close() {
	close(l.stopped)
	_ = l.ln.Close() // ends Accept
	l.chains.Load().close()
}

// handshake ends TLS with the chain that the client's server name selects.
func (l *Listener) handshake(ctx context.Context, gen *generation, conn net.Conn) {
	var chosen *chain
	cfg := &tls.Config{GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		if chosen = gen.match(strings.ToLower(hello.ServerName)); chosen == nil {
			return nil, fmt.Errorf("no filter chain matches server name %q", hello.ServerName)
		}
		return chosen.tls, nil
	}}
	ctx, cancel := context.WithTimeout(ctx, gen.chains[0].spec.handshake)
	defer cancel()
	tc := tls.Server(conn, cfg)
	if err := tc.HandshakeContext(ctx); err != nil {
		l.deps.Log.Debug("TLS handshake failed", "listener", gen.spec.Name, "err", err)
		_ = conn.Close() // the handshake's error says why
		return
	}
	gen.deliver(tc, chosen)
}

func (g *generation) deliver(conn net.Conn, c *chain) {
	if c == nil || !c.conns.push(conn) {
		_ = conn.Close() // no filter chain takes it, as in Envoy
	}
}

// match finds the chain for a server name: exact, longest *.suffix, a chain without names, the default chain.
func (g *generation) match(name string) *chain {
	find := func(pattern string) *chain {
		for _, c := range g.chains {
			if !c.spec.isDefault && slices.ContainsFunc(c.spec.serverNames, func(s string) bool { return strings.EqualFold(s, pattern) }) {
				return c
			}
		}
		return nil
	}
	if name != "" {
		if c := find(name); c != nil {
			return c
		}
		for rest := name; ; {
			_, after, found := strings.Cut(rest, ".")
			if !found {
				break
			}
			if c := find("*." + after); c != nil {
				return c
			}
			rest = after
		}
	}
	for _, c := range g.chains {
		if !c.spec.isDefault && len(c.spec.serverNames) == 0 {
			return c
		}
	}
	for _, c := range g.chains {
		if c.spec.isDefault {
			return c
		}
	}
	return nil
}

// handoff is a net.Listener whose connections are accepted elsewhere.
type handoff struct {
	addr  net.Addr
	conns chan net.Conn
	once  sync.Once
	done  chan struct{}
}

func newHandoff(addr net.Addr) *handoff {
	return &handoff{addr: addr, conns: make(chan net.Conn), done: make(chan struct{})}
}

func (h *handoff) push(conn net.Conn) bool {
	select {
	case h.conns <- conn:
		return true
	case <-h.done:
		return false
	}
}

func (h *handoff) Accept() (net.Conn, error) {
	select {
	case conn := <-h.conns:
		return conn, nil
	case <-h.done:
		return nil, net.ErrClosed
	}
}

func (h *handoff) Addr() net.Addr { return h.addr }

func (h *handoff) Close() error {
	h.once.Do(func() { close(h.done) })
	return nil
}

// trackedConn keeps the gauge of open connections.
type trackedConn struct {
	net.Conn
	active *stats.Value
	once   sync.Once
}

func (c *trackedConn) Close() error {
	c.once.Do(func() { c.active.Add(-1) })
	return c.Conn.Close()
}
