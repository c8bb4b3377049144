package downstream

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"google.golang.org/grpc/codes"

	"github.com/tailgate-project/tailgate/e2e-kind/standin/router"
	"github.com/tailgate-project/tailgate/e2e-kind/standin/upstream"
)

// replayLimit is how much of a request's body is kept for a retry, in bytes. It is Envoy's default buffer limit.
const replayLimit = 1 << 20

var (
	errIdle     = errors.New("stream timeout")
	errDuration = errors.New("downstream duration timeout")
)

// hopByHop are the headers that belong to one connection.
var hopByHop = []string{
	"Connection", "Proxy-Connection", "Keep-Alive", "Proxy-Authenticate", "Proxy-Authorization", "Te", "Trailer",
	"Transfer-Encoding", "Upgrade",
}

// proxy handles the requests of one filter chain.
type proxy struct {
	deps  Deps
	chain *chain
	*hcm
}

func newProxy(deps Deps, c *chain) *proxy { return &proxy{deps: deps, chain: c, hcm: c.spec.hcm} }

// exchange is one request and its answer.
type exchange struct {
	*proxy
	w      http.ResponseWriter
	r      *http.Request
	choice *router.Choice // nil until there is a route
	id     string
	begin  time.Time
}

func (p *proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.deps.Stats.Counter("http", p.statPrefix, "downstream_rq_total").Inc()
	active := p.deps.Stats.Gauge("http", p.statPrefix, "downstream_rq_active")
	active.Inc()
	defer active.Add(-1)
	e := &exchange{proxy: p, w: w, r: r, begin: time.Now()}
	if status, location := e.admit(); status != 0 {
		if location != "" {
			w.Header().Set("Location", location)
		}
		e.reply(status, "")
		return
	}
	for _, matches := range p.health {
		if matches(r) {
			e.health()
			return
		}
	}
	e.route()
}

// admit checks and normalizes the request. A status that is not 0 is the answer.
func (e *exchange) admit() (status int, location string) {
	for name := range e.r.Header {
		if !strings.Contains(name, "_") {
			continue
		}
		switch e.underscores {
		case corev3.HttpProtocolOptions_REJECT_REQUEST:
			return http.StatusBadRequest, ""
		case corev3.HttpProtocolOptions_DROP_HEADER:
			delete(e.r.Header, name)
		}
	}
	e.r.Host = e.cleanHost(e.r.Host)
	if status, location := e.normalizePath(e.r); status != 0 {
		return status, location
	}
	h := e.r.Header
	scheme, _ := router.Header(e.r, ":scheme")
	if ip, _, err := net.SplitHostPort(e.r.RemoteAddr); err == nil && e.useRemoteAddress {
		h.Set("X-Forwarded-Proto", scheme)
		if !e.skipXFF {
			if prior := h.Get("X-Forwarded-For"); prior != "" {
				ip = prior + "," + ip
			}
			h.Set("X-Forwarded-For", ip)
		}
	} else if h.Get("X-Forwarded-Proto") == "" {
		h.Set("X-Forwarded-Proto", scheme)
	}
	if e.via != "" {
		h.Add("Via", e.via)
	}
	e.id = h.Get("X-Request-Id")
	// A client at the edge, which is where use_remote_address stands, does not choose the request's id.
	if e.generateID && (e.id == "" || (e.useRemoteAddress && !e.preserveID)) {
		e.id = newID()
		h.Set("X-Request-Id", e.id)
	}
	return 0, ""
}

func newID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// health answers for the health_check filter.
func (e *exchange) health() {
	if e.deps.Failed() {
		e.w.Header().Set("X-Envoy-Immediate-Health-Check-Fail", "true")
		e.reply(http.StatusServiceUnavailable, "")
		return
	}
	e.reply(http.StatusOK, "")
}

func (e *exchange) route() {
	cfg := e.inline
	if cfg == nil {
		cfg = e.deps.Routes(e.rds)
	}
	if cfg != nil {
		e.choice = cfg.Route(e.r)
	}
	if e.choice == nil {
		e.deps.Stats.Counter("http", e.statPrefix, "no_route").Inc()
		e.reply(http.StatusNotFound, "")
		return
	}
	switch rt := e.choice.Route; {
	case rt.Direct != nil:
		body := rt.Direct.Body(e.r)
		if body != "" {
			e.w.Header().Set("Content-Type", rt.Direct.ContentType)
		}
		e.reply(rt.Direct.Status, body)
	case rt.Redirect != nil:
		e.w.Header().Set("Location", e.choice.Location(e.r))
		e.reply(rt.Redirect.Status, "")
	default:
		e.forward(rt.Forward)
	}
}

// reply gives an answer of the proxy's own. A call of gRPC is told the status in gRPC's terms, as Envoy does it: no
// client of gRPC reads another.
func (e *exchange) reply(status int, body string) {
	if isGRPC(e.r.Header) {
		e.replyGRPC(grpcStatus(status), body)
		return
	}
	h := e.w.Header()
	if body != "" && h.Get("Content-Type") == "" {
		h.Set("Content-Type", "text/plain")
	}
	h.Set("Content-Length", strconv.Itoa(len(body)))
	e.finishHeaders(true)
	e.count(status)
	e.w.WriteHeader(status)
	if e.r.Method != http.MethodHead {
		_, _ = io.WriteString(e.w, body) // a client that is gone does not want it
	}
}

// replyGRPC answers a call of gRPC with nothing but its status.
func (e *exchange) replyGRPC(code codes.Code, message string) {
	h := e.w.Header()
	h.Set("Content-Type", "application/grpc")
	h.Set("Grpc-Status", strconv.Itoa(int(code)))
	if message != "" {
		h.Set("Grpc-Message", url.PathEscape(message))
	}
	e.finishHeaders(true)
	e.count(http.StatusOK)
	e.w.WriteHeader(http.StatusOK)
}

func isGRPC(h http.Header) bool {
	rest, ok := strings.CutPrefix(h.Get("Content-Type"), "application/grpc")
	return ok && (rest == "" || rest[0] == '+' || rest[0] == ';')
}

// grpcStatus translates a status of HTTP. Source: gRPC's doc/http-grpc-status-mapping.md.
func grpcStatus(status int) codes.Code {
	switch status {
	case http.StatusBadRequest:
		return codes.Internal
	case http.StatusUnauthorized:
		return codes.Unauthenticated
	case http.StatusForbidden:
		return codes.PermissionDenied
	case http.StatusNotFound:
		return codes.Unimplemented
	case http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return codes.Unavailable
	}
	return codes.Unknown
}

// finishHeaders makes the last changes to the answer's headers.
func (e *exchange) finishHeaders(local bool) {
	h := e.w.Header()
	if e.choice != nil {
		e.choice.MutateResponse(h, e.r)
	}
	name := e.serverName
	if name == "" {
		name = "envoy-standin"
	}
	switch {
	case e.server == hcmv3.HttpConnectionManager_OVERWRITE, local && h.Get("Server") == "",
		e.server == hcmv3.HttpConnectionManager_APPEND_IF_ABSENT && h.Get("Server") == "":
		h.Set("Server", name)
	}
	if e.returnID && e.id != "" {
		h.Set("X-Request-Id", e.id)
	}
	if e.chain.draining.Load() && e.r.ProtoMajor == 1 {
		h.Set("Connection", "close")
	}
}

func (e *exchange) count(status int) {
	e.deps.Stats.Response("http", e.statPrefix, "downstream_rq", status)
}

func (e *exchange) forward(f *router.Forward) {
	cluster := e.deps.Clusters(e.choice.Cluster)
	if cluster == nil {
		e.deps.Stats.Counter("http", e.statPrefix, "no_cluster").Inc()
		e.reply(f.NotFound, "")
		return
	}
	upgrade := upgradeType(e.r.Header)
	if upgrade != "" && !e.upgradeAllowed(f, upgrade) {
		e.reply(http.StatusForbidden, "")
		return
	}
	ctx, cancel := context.WithCancelCause(e.r.Context())
	defer cancel(nil)
	watch := newWatch(cancel, e.idleLimit(f), f.Timeout)
	defer watch.stop()
	if limit := f.StreamLimit(e.r.Header); limit > 0 {
		timer := time.AfterFunc(limit, func() { cancel(fmt.Errorf("%w: %w", upstream.ErrTimeout, errDuration)) })
		defer timer.Stop()
	}
	req := &upstream.Request{
		Proto: e.outgoing(upgrade), Retry: f.Retry, AutoHost: f.AutoHost, CountAttempts: e.choice.VHost.AttemptCount,
	}
	switch {
	case upgrade != "":
		// The request has no end, so the route's timeout, which begins there, never begins.
	case e.r.Body == nil || e.r.Body == http.NoBody:
		watch.requestDone()
	default:
		// The answer may begin before the request's body has ended. HTTP/2 can do so anyway.
		_ = http.NewResponseController(e.w).EnableFullDuplex()
		req.Body = upstream.NewBody(&touched{e.r.Body, watch}, replayLimit, watch.requestDone)
	}
	resp, fail := cluster.Do(ctx, req)
	if fail != nil && errors.Is(context.Cause(ctx), errDuration) {
		e.late()
		return
	}
	if fail != nil {
		e.failed(fail)
		return
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusSwitchingProtocols {
		e.tunnel(ctx, resp, watch)
		return
	}
	e.answer(resp, watch)
}

func (e *exchange) idleLimit(f *router.Forward) time.Duration {
	if f.IdleTimeout != nil {
		return *f.IdleTimeout
	}
	return e.streamIdle
}

func (e *exchange) upgradeAllowed(f *router.Forward, upgrade string) bool {
	if allowed, set := f.Upgrades[upgrade]; set {
		return allowed
	}
	return e.upgrades[upgrade]
}

// late answers a stream whose time is over.
func (e *exchange) late() {
	if isGRPC(e.r.Header) {
		e.replyGRPC(codes.DeadlineExceeded, errDuration.Error())
		return
	}
	e.reply(http.StatusRequestTimeout, "")
}

// failed answers instead of an upstream.
func (e *exchange) failed(fail *upstream.Failure) {
	if fail.Flag == "DC" {
		panic(http.ErrAbortHandler) // nobody is left to answer
	}
	if e.choice.VHost.ResponseCount {
		e.w.Header().Set("X-Envoy-Attempt-Count", strconv.Itoa(fail.Attempts))
	}
	if fail.Flag == "UO" {
		e.w.Header().Set("X-Envoy-Overloaded", "true")
	}
	e.reply(fail.Status, fail.Text)
}

// outgoing returns the request as it goes upstream, without its body.
func (e *exchange) outgoing(upgrade string) *http.Request {
	out := e.r.Clone(e.r.Context())
	out.Body, out.GetBody, out.Close = nil, nil, false
	out.ContentLength = e.r.ContentLength
	teTrailers := strings.Contains(strings.ToLower(out.Header.Get("Te")), "trailers")
	removeHopByHop(out.Header)
	out.Header.Del("Expect") // answered here, when the body is first read
	if upgrade != "" {
		out.Header.Set("Connection", "Upgrade")
		out.Header.Set("Upgrade", e.r.Header.Get("Upgrade"))
	}
	if teTrailers {
		out.Header.Set("Te", "trailers")
	}
	if _, ok := out.Header["User-Agent"]; !ok {
		out.Header.Set("User-Agent", "") // keeps Go from adding its own
	}
	out.Trailer = e.r.Trailer
	original := e.r.URL.RequestURI()
	changed := e.choice.Rewrite(out, e.r)
	if !e.suppressHeaders {
		if changed {
			out.Header.Set("X-Envoy-Original-Path", original)
		}
		if t := e.choice.Route.Forward.Timeout; t > 0 {
			out.Header.Set("X-Envoy-Expected-Rq-Timeout-Ms", strconv.FormatInt(t.Milliseconds(), 10))
		}
	}
	e.choice.MutateRequest(out.Header, e.r)
	return out
}

func removeHopByHop(h http.Header) {
	for _, v := range h.Values("Connection") {
		for name := range strings.SplitSeq(v, ",") {
			h.Del(strings.TrimSpace(name))
		}
	}
	for _, name := range hopByHop {
		h.Del(name)
	}
}

// answer streams the upstream's answer to the client.
func (e *exchange) answer(resp *upstream.Response, watch *watch) {
	e.copyHeaders(resp)
	h := e.w.Header()
	for name := range resp.Trailer {
		h.Add("Trailer", name)
	}
	announced := len(resp.Trailer)
	e.finishHeaders(false)
	e.count(resp.StatusCode)
	e.w.WriteHeader(resp.StatusCode)
	rc := http.NewResponseController(e.w)
	if resp.ContentLength != 0 {
		_ = rc.Flush() // the client may need the headers before there is a body; a lost client shows at the first write
	}
	buf := make([]byte, 32<<10)
	for {
		n, err := resp.Body.Read(buf)
		watch.touch()
		if n > 0 {
			if _, werr := e.w.Write(buf[:n]); werr != nil {
				panic(http.ErrAbortHandler) // the client is gone
			}
			if ferr := rc.Flush(); ferr != nil {
				panic(http.ErrAbortHandler)
			}
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			panic(http.ErrAbortHandler) // the client must see that the answer is not whole
		}
	}
	prefix := ""
	if len(resp.Trailer) != announced {
		prefix = http.TrailerPrefix
	}
	for name, values := range resp.Trailer {
		for _, v := range values {
			h.Add(prefix+name, v)
		}
	}
}

func (e *exchange) copyHeaders(resp *upstream.Response) {
	removeHopByHop(resp.Header)
	h := e.w.Header()
	for name, values := range resp.Header {
		h[name] = append(h[name], values...)
	}
	if resp.Header.Get("Date") == "" {
		h.Set("Date", time.Now().UTC().Format(http.TimeFormat))
	}
	if _, ok := h["Content-Type"]; !ok {
		h["Content-Type"] = nil // keeps Go from guessing one
	}
	if !e.suppressHeaders {
		h.Set("X-Envoy-Upstream-Service-Time", strconv.FormatInt(time.Since(e.begin).Milliseconds(), 10))
	}
	if e.choice.VHost.ResponseCount {
		h.Set("X-Envoy-Attempt-Count", strconv.Itoa(resp.Attempts))
	}
}
