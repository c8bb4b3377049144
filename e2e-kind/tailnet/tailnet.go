// Package tailnet is test equipment: one real tailnet in a process. Its data
// plane is real WireGuard between real nodes; its control server is Tailscale's
// own test control server, completed by what production does and that leaves
// out (auth keys, who is online, Tailscale Services, removal of devices); DERP
// and STUN are there too. On the same state and address it serves a stand-in
// of the Tailscale admin API, for the client tailscale.com/client/tailscale/v2.
//
// It doesn't model access rules (all nodes may reach each other), users (nobody
// logs in; keys are what lets nodes join), device approval, the expiry of node
// keys, and tailnet lock. Nodes need a network interface besides loopback: see
// package netns.
package tailnet

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"regexp"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tailgate-project/tailgate/e2e-kind/tailnet/internal/admin"
	"github.com/tailgate-project/tailgate/e2e-kind/tailnet/internal/control"
	"github.com/tailgate-project/tailgate/e2e-kind/tailnet/internal/derp"
	"github.com/tailgate-project/tailgate/e2e-kind/tailnet/internal/state"
)

// Defaults of [Options].
const (
	DefaultDomain         = "tailgate.ts.net"
	DefaultFailoverAfter  = 15 * time.Second
	DefaultEphemeralAfter = time.Minute
)

// DefaultTags returns the tags that exist unless [Options] say otherwise.
func DefaultTags() []string {
	return []string{"tag:tailgate-hub", "tag:tailgate-spoke", "tag:tailgate-proxy", "tag:k8s-operator", "tag:other"}
}

var defaultVIPPrefix = netip.MustParsePrefix("100.100.0.0/16")

// Options say what tailnet to make. The zero value is a tailnet on loopback.
type Options struct {
	// Addr is where the control server, the admin API and the console
	// listen. The default is "127.0.0.1:0".
	Addr string
	// DERPIP is the address that DERP and STUN listen on. The default is
	// 127.0.0.1.
	DERPIP netip.Addr
	// Domain is the MagicDNS suffix. The default is DefaultDomain.
	Domain string
	// Tags are the tags that exist. The default is DefaultTags. They are
	// only used for the default policy file; with Policy, its tagOwners
	// say which tags exist.
	Tags []string
	// Policy is the policy file to begin with, in HuJSON. By default it has
	// the tags and approves nothing.
	Policy string
	// VIPPrefix is where services get their IPv4 addresses from. The
	// default is 100.100.0.0/16; nodes have 100.64.x.y.
	VIPPrefix netip.Prefix
	// OAuthClients may call the admin API.
	OAuthClients []OAuthClient
	// APIKey may do everything in the admin API. The default is none.
	APIKey string
	// AdminLatency is how long each answer of the admin API takes. The default
	// is none.
	AdminLatency time.Duration
	// FailoverAfter is how long the primary host of a service may be
	// offline until another one takes over. The default is
	// DefaultFailoverAfter, as in production.
	FailoverAfter time.Duration
	// EphemeralAfter is how long an ephemeral device may be offline until
	// it is removed. The default is DefaultEphemeralAfter.
	EphemeralAfter time.Duration
	// Logger defaults to none.
	Logger *slog.Logger
	// Now is the clock for what expires. The default is time.Now.
	Now func() time.Time
}

// OAuthClient may get tokens for the admin API: with its secret, or as a
// federated identity with a JWT that says its Issuer, Subject and Audience;
// whose signature it has, nobody checks in this stand-in. Without
// Scopes it may do everything, but give only its own Tags away.
type OAuthClient = admin.Client

// Tailnet is a tailnet. Make it with [New].
type Tailnet struct {
	opts    Options
	ready   chan struct{}
	ln      net.Listener
	state   *state.State
	derp    *derp.Server
	control *control.Server
	api     *admin.API
}

// New opens the sockets of a tailnet; what listens there answers while
// [Tailnet.Run] runs.
func New(opts Options) (_ *Tailnet, err error) {
	opts = opts.withDefaults()
	t := &Tailnet{opts: opts, ready: make(chan struct{})}
	t.state, err = state.New(state.Config{
		Domain:         opts.Domain,
		Policy:         opts.Policy,
		VIPPrefix:      opts.VIPPrefix,
		FailoverAfter:  opts.FailoverAfter,
		EphemeralAfter: opts.EphemeralAfter,
		Now:            opts.Now,
	})
	if err != nil {
		return nil, err
	}
	t.api, err = admin.New(admin.Config{
		State:   t.state,
		Domain:  opts.Domain,
		APIKey:  opts.APIKey,
		Clients: opts.OAuthClients,
		Now:     opts.Now,
	})
	if err != nil {
		return nil, err
	}
	t.ln, err = net.Listen("tcp", opts.Addr)
	if err != nil {
		return nil, fmt.Errorf("listen for nodes and admin API: %w", err)
	}
	t.derp, err = derp.Listen(opts.DERPIP, opts.Logger)
	if err != nil {
		return nil, errors.Join(err, t.ln.Close())
	}
	t.control, err = control.New(control.Config{
		State:   t.state,
		DERPMap: t.derp.Map(),
		URL:     t.URL(),
		Logger:  opts.Logger,
	})
	if err != nil {
		return nil, errors.Join(err, t.ln.Close(), t.derp.Close())
	}
	return t, nil
}

func (o Options) withDefaults() Options {
	o.Addr = cmp.Or(o.Addr, "127.0.0.1:0")
	o.DERPIP = cmp.Or(o.DERPIP, netip.AddrFrom4([4]byte{127, 0, 0, 1}))
	o.Domain = cmp.Or(o.Domain, DefaultDomain)
	if o.Tags == nil {
		o.Tags = DefaultTags()
	}
	o.Policy = cmp.Or(o.Policy, state.DefaultPolicy(o.Tags))
	o.VIPPrefix = cmp.Or(o.VIPPrefix, defaultVIPPrefix)
	o.FailoverAfter = cmp.Or(o.FailoverAfter, DefaultFailoverAfter)
	o.EphemeralAfter = cmp.Or(o.EphemeralAfter, DefaultEphemeralAfter)
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return o
}

// URL returns the control URL of nodes, which is the base URL of the admin API
// too (its paths begin with /api/v2).
func (t *Tailnet) URL() string { return "http://" + t.ln.Addr().String() }

// Ready returns a channel that is closed once Run serves.
func (t *Tailnet) Ready() <-chan struct{} { return t.ready }

// Run serves until ctx ends, and closes all sockets. It must be called once.
func (t *Tailnet) Run(ctx context.Context) error {
	mux := http.NewServeMux()
	mux.Handle("/", t.control)
	mux.Handle("/api/v2/", t.late(t.api))
	t.routeConsole(mux)
	g, ctx := errgroup.WithContext(ctx)
	server := &http.Server{
		Handler:     mux,
		ErrorLog:    slog.NewLogLogger(t.opts.Logger.Handler(), slog.LevelDebug),
		BaseContext: func(net.Listener) context.Context { return ctx },
	}
	g.Go(func() error { return t.derp.Run(ctx) })
	g.Go(func() error { return t.control.Run(ctx) })
	g.Go(func() error {
		if err := server.Serve(t.ln); !errors.Is(err, http.ErrServerClosed) {
			return fmt.Errorf("serve nodes and admin API: %w", err)
		}
		return nil
	})
	g.Go(func() error {
		<-ctx.Done()
		return server.Close()
	})
	// Connections queue up in the listener until Serve takes them.
	close(t.ready)
	return g.Wait()
}

// late answers after the admin API's latency.
func (t *Tailnet) late(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		timer := time.NewTimer(t.opts.AdminLatency)
		defer timer.Stop()
		select {
		case <-timer.C:
			next.ServeHTTP(w, r)
		case <-r.Context().Done():
		}
	})
}

// RejectNext makes the admin API answer the next n requests whose path matches
// (nil matches all, tokens included) with that HTTP status, and with a
// Retry-After header unless retryAfter is zero.
func (t *Tailnet) RejectNext(n, status int, retryAfter time.Duration, path *regexp.Regexp) {
	t.api.RejectNext(n, status, retryAfter, path)
}

// PutOAuthClient adds an OAuth client, or replaces the one of that id: tokens
// that are out keep their scopes and tags.
func (t *Tailnet) PutOAuthClient(c OAuthClient) error { return t.api.PutClient(c) }

// RevokeOAuthClient ends an OAuth client with all its tokens.
func (t *Tailnet) RevokeOAuthClient(id string) { t.api.RevokeClient(id) }

// RevokeTokens ends the access tokens of an OAuth client, which may get others.
func (t *Tailnet) RevokeTokens(id string) { t.api.RevokeTokens(id) }

// Requests counts the requests to the admin API so far, rejected ones too, by
// method and path, such as "GET /api/v2/tailnet/{tailnet}/keys".
func (t *Tailnet) Requests() map[string]int { return t.api.Requests() }

// SetOffline cuts the node with that stable id off from the control server, or
// lets it back. What flows between it and its peers isn't touched.
func (t *Tailnet) SetOffline(id string, offline bool) error {
	return t.state.SetOffline(id, offline)
}
