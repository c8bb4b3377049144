// Package apiproxy shows the hub the member's API server, and nothing but what the hub needs, read only.
//
// That a request is a GET does not make it harmless: exec, attach, port-forward and every proxy are GETs. So the
// paths are listed. Who asks is what the tailnet says; what the request itself says about identity is taken away, and
// the API server sees the spoke's own account.
package apiproxy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"k8s.io/client-go/rest"
)

// allowed are the paths that the hub may read: the version, discovery, and the collections and objects of a few
// kinds, without their subresources.
var allowed = regexp.MustCompile(`^/(version|readyz|livez|api|apis|api/v1|apis/[a-z0-9.-]+(/v[a-z0-9]+)?|` +
	object(`api/v1`, `services`) + `|api/v1/namespaces(/[^/]+)?|` +
	object(`apis/discovery\.k8s\.io/v1`, `endpointslices`) + `|` +
	object(`apis/gateway\.networking\.k8s\.io/v1`, `gateways`) + `|` +
	object(`apis/gateway\.tailscale\.com/v1alpha1`, `tailscalegateways|tailscaleendpoints`) + `|` +
	object(`apis/multicluster\.x-k8s\.io/v1(alpha1|beta1)`, `serviceexports`) + `|` +
	`apis/about\.k8s\.io/v1(alpha1|beta1)?/clusterproperties(/[^/]+)?)$`)

func object(group, kinds string) string {
	return group + `/(namespaces/[^/]+/)?(` + kinds + `)(/[^/]+)?`
}

// DefaultStreamLife is the longest life of a request. A watch is asked anew after it, and who asks is asked anew too:
// a node whose tag was taken away sees no more from then on.
const DefaultStreamLife = 10 * time.Minute

// Options are a proxy's parts. All are required but StreamLife.
type Options struct {
	// API is how the spoke itself speaks to its API server, as an account that may read only.
	API *rest.Config
	// Tags names the tags of the peer behind a remote address.
	Tags func(ctx context.Context, remote string) ([]string, error)
	// HubTag is what the hub's node carries.
	HubTag string
	// StreamLife is [DefaultStreamLife] by default.
	StreamLife time.Duration
	Log        *slog.Logger
}

// New returns the handler.
func New(o Options) (http.Handler, error) {
	if o.StreamLife == 0 {
		o.StreamLife = DefaultStreamLife
	}
	target, _, err := rest.DefaultServerUrlFor(o.API)
	if err != nil {
		return nil, fmt.Errorf("address of the API server: %w", err)
	}
	transport, err := rest.TransportFor(o.API) // reads a token file again when it changes, and pings by itself
	if err != nil {
		return nil, fmt.Errorf("connect to the API server: %w", err)
	}
	return &proxy{Options: o, upstream: &httputil.ReverseProxy{
		Transport:     transport,
		FlushInterval: -1,
		Rewrite:       func(r *httputil.ProxyRequest) { rewrite(r, target) },
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
			if r.Context().Err() == nil {
				o.Log.Warn("the API server does not answer", "path", r.URL.Path, "err", err)
			}
			http.Error(w, "the member's API server does not answer", http.StatusBadGateway)
		},
		ErrorLog: slog.NewLogLogger(o.Log.Handler(), slog.LevelDebug),
	}}, nil
}

// rewrite addresses the API server and takes away whatever authenticates or impersonates: the spoke's account alone
// counts.
func rewrite(r *httputil.ProxyRequest, target *url.URL) {
	r.SetURL(target)
	r.Out.Host = target.Host
	for key := range r.Out.Header {
		if key == "Authorization" || key == "Cookie" || strings.HasPrefix(key, "Impersonate-") || strings.HasPrefix(key, "X-Remote-") ||
			strings.HasPrefix(key, "X-Forwarded-") || key == "Forwarded" {
			r.Out.Header.Del(key)
		}
	}
}

type proxy struct {
	Options
	upstream http.Handler
}

// ServeHTTP answers the hub's reads and refuses everything else.
func (p *proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	tags, err := p.Tags(r.Context(), r.RemoteAddr)
	if err != nil || !slices.Contains(tags, p.HubTag) {
		p.Log.Warn("refused a peer that is not the hub", "remote", r.RemoteAddr, "tags", tags, "want", p.HubTag)
		http.Error(w, "you are not the hub: a node with "+p.HubTag+" is let in", http.StatusForbidden)
		return
	}
	if status, message := refuse(r); status != 0 {
		p.Log.Warn("refused a request of the hub", "method", r.Method, "path", r.URL.Path, "reason", message)
		http.Error(w, message, status)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), p.StreamLife)
	defer cancel()
	p.upstream.ServeHTTP(w, r.WithContext(ctx))
}

// refuse returns the status and the reason for a request that is not a read of what is listed, or 0.
func refuse(r *http.Request) (status int, message string) {
	switch {
	case r.Method != http.MethodGet && r.Method != http.MethodHead:
		return http.StatusMethodNotAllowed, "read only: GET and HEAD"
	case r.Header.Get("Upgrade") != "" || headerHas(r.Header, "Connection", "upgrade"):
		return http.StatusMethodNotAllowed, "read only: no upgrade"
	case r.ContentLength != 0 || len(r.TransferEncoding) > 0:
		return http.StatusMethodNotAllowed, "read only: no body"
	case r.URL.RawPath != "" || !allowed.MatchString(r.URL.Path) || slices.Contains(strings.Split(r.URL.Path, "/"), ".."):
		return http.StatusForbidden, "this path is not among those that the hub may read"
	}
	return 0, ""
}

func headerHas(h http.Header, key, value string) bool {
	return slices.ContainsFunc(h.Values(key), func(s string) bool { return strings.Contains(strings.ToLower(s), value) })
}

// Serve serves the handler on the listener until ctx ends. Both HTTP/2 without TLS and HTTP/1.1 are spoken: WireGuard
// has encrypted and authenticated both ends. HTTP/2 pings end the connections of a hub that died without goodbye.
func Serve(ctx context.Context, ln net.Listener, h http.Handler, log *slog.Logger) error {
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	srv := &http.Server{
		Handler: h, Protocols: &protocols, ReadHeaderTimeout: 10 * time.Second, MaxHeaderBytes: 64 << 10,
		HTTP2:    &http.HTTP2Config{SendPingTimeout: 10 * time.Second, PingTimeout: 5 * time.Second, WriteByteTimeout: 20 * time.Second},
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	stop := context.AfterFunc(ctx, func() { _ = srv.Close() }) // watches would hold a graceful end back for minutes
	defer stop()
	if err := srv.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve the API server to the hub: %w", err)
	}
	return nil
}
