package upstream

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptrace"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/http2"

	"github.com/tailgate-project/tailgate/e2e-kind/standin/router"
)

// ErrTimeout is the cause that cancels the context of a request whose route's time is over.
var ErrTimeout = errors.New("upstream request timeout")

var errPerTry = errors.New("per try timeout")

// Request is what goes upstream, in as many attempts as the retry policy allows.
type Request struct {
	Proto         *http.Request // method, path, Host and headers; its body is not used
	Body          *Body         // nil: none
	Retry         *router.RetryPolicy
	AutoHost      bool // the endpoint's hostname becomes the Host
	CountAttempts bool // tell the upstream the number of the attempt
}

// Response is an upstream's answer. Its body must be closed.
type Response struct {
	*http.Response
	Attempts int
	Address  string
}

// Failure is the answer that the proxy gives instead of an upstream.
type Failure struct {
	Status   int
	Flag     string // Envoy's response flag: UH, UF, UC, UT, UO, DC
	Text     string
	Attempts int

	connect, refused, sent, timeout bool
}

func (f *Failure) Error() string { return f.Flag + ": " + f.Text }

// Do sends a request. Exactly one of the results is not nil.
func (c *Cluster) Do(ctx context.Context, r *Request) (*Response, *Failure) {
	c.trafficked.Store(true)
	if c.requests.Add(1) > c.Spec.maxRequests {
		c.requests.Add(-1)
		c.count("upstream_rq_pending_overflow")
		return nil, &Failure{Status: http.StatusServiceUnavailable, Flag: "UO", Text: "upstream connect error or disconnect/reset before headers. reset reason: overflow"}
	}
	resp, fail := c.attempts(ctx, r)
	if fail != nil {
		c.requests.Add(-1)
		c.deps.Stats.Response("cluster", c.Spec.Name, "upstream_rq", fail.Status)
		return nil, fail
	}
	c.deps.Stats.Response("cluster", c.Spec.Name, "upstream_rq", resp.StatusCode)
	resp.Body = onClose(resp.Body, func() { c.requests.Add(-1) })
	return resp, nil
}

func (c *Cluster) attempts(ctx context.Context, r *Request) (*Response, *Failure) {
	t := trial{policy: r.Retry}
	for n := 1; ; n++ {
		s := c.pick(&t)
		if s == nil {
			c.count("upstream_cx_none_healthy")
			return nil, &Failure{Status: http.StatusServiceUnavailable, Flag: "UH", Text: "no healthy upstream", Attempts: n - 1}
		}
		c.count("upstream_rq_total")
		resp, fail := c.attempt(ctx, s, r, n)
		if n > 1 {
			c.retries.Add(-1)
		}
		t.tried = append(t.tried, s)
		if !c.retryable(ctx, r, resp, fail, n) {
			if fail != nil {
				fail.Attempts = n
				return nil, fail
			}
			if n > 1 && resp.StatusCode < 500 {
				c.count("upstream_rq_retry_success")
			}
			return &Response{Response: resp, Attempts: n, Address: s.address}, nil
		}
		if resp != nil {
			_ = resp.Body.Close() // this answer is not wanted
		}
		c.count("upstream_rq_retry")
		if !backoff(ctx, r.Retry, n) {
			c.retries.Add(-1)
			return nil, gone(ctx, n)
		}
	}
}

// retryable decides by the policy, and takes one of the cluster's retries if the answer is yes.
func (c *Cluster) retryable(ctx context.Context, r *Request, resp *http.Response, fail *Failure, n int) bool {
	p := r.Retry
	if p == nil || n > p.Retries || ctx.Err() != nil || !wanted(p, resp, fail) {
		if p != nil && n > p.Retries && wanted(p, resp, fail) {
			c.count("upstream_rq_retry_limit_exceeded")
		}
		return false
	}
	if !r.Body.replayable() {
		c.count("retry_or_shadow_abandoned")
		return false
	}
	if c.retries.Add(1) > c.Spec.maxRetries {
		c.retries.Add(-1)
		c.count("upstream_rq_retry_overflow")
		return false
	}
	return true
}

// wanted reports whether the policy's conditions cover a response or a failure.
func wanted(p *router.RetryPolicy, resp *http.Response, fail *Failure) bool {
	if fail != nil {
		switch {
		case fail.Flag == "UO" || fail.Flag == "DC":
			return false
		case p.On["reset"], p.On["5xx"], p.On["gateway-error"]:
			return true
		case p.On["reset-before-request"] && !fail.sent:
			return true
		case p.On["refused-stream"] && fail.refused:
			return true
		}
		return p.On["connect-failure"] && fail.connect
	}
	code := resp.StatusCode
	grpc := map[string]string{"1": "cancelled", "4": "deadline-exceeded", "8": "resource-exhausted", "13": "internal", "14": "unavailable"}
	return p.On["5xx"] && code >= 500 ||
		p.On["gateway-error"] && code >= 502 && code <= 504 ||
		p.On["retriable-4xx"] && code == http.StatusConflict ||
		p.On["retriable-status-codes"] && slices.Contains(p.StatusCodes, code) ||
		p.On[grpc[resp.Header.Get("Grpc-Status")]]
}

// backoff waits before attempt n+1 with full jitter and reports whether ctx is still alive.
func backoff(ctx context.Context, p *router.RetryPolicy, n int) bool {
	limit := p.BackoffBase
	for range n - 1 {
		limit = min(2*limit, p.BackoffMax)
	}
	if limit <= 0 {
		return ctx.Err() == nil
	}
	select {
	case <-ctx.Done():
		return false
	case <-time.After(rand.N(limit)):
		return true
	}
}

// trial remembers the attempts of one request.
type trial struct {
	policy   *router.RetryPolicy
	tried    []*slot
	since    int    // attempts before this one do not count for priorities any more
	excluded []bool // priorities
	moved    bool
}

// pick chooses the endpoint of the next attempt.
func (c *Cluster) pick(t *trial) *slot {
	v := c.view.Load()
	l := v.loads
	if t.policy != nil && t.policy.PriorityFrequency > 0 {
		l = t.priorities(v)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	s := v.chooseLocked(v.pool(l))
	if t.policy == nil || !t.policy.AvoidHosts || s == nil {
		return s
	}
	for range t.policy.HostAttempts {
		if !slices.ContainsFunc(t.tried, func(old *slot) bool { return old.host == s.host }) {
			break
		}
		s = v.chooseLocked(v.pool(l))
	}
	return s
}

// priorities moves the traffic away from priorities that were tried, every PriorityFrequency attempts.
func (t *trial) priorities(v *view) loads {
	tried := t.tried[t.since:]
	if len(tried) < t.policy.PriorityFrequency || len(v.tallies) == 0 {
		return v.loads
	}
	if len(tried)%t.policy.PriorityFrequency == 0 || len(t.excluded) != len(v.tallies) {
		excluded := make([]bool, len(v.tallies))
		for _, s := range tried {
			if s.priority < len(excluded) {
				excluded[s.priority] = true
			}
		}
		t.excluded, t.moved = excluded, false
		for i, tl := range v.tallies {
			t.moved = t.moved || (!excluded[i] && tl.healthy+tl.degraded > 0)
		}
		if !t.moved { // all were tried: begin anew
			t.excluded, t.since = make([]bool, len(v.tallies)), len(t.tried)
		}
	}
	if !t.moved {
		return v.loads
	}
	return computeLoads(v.tallies, v.endpoints.Overprovisioning, v.spec.panicThreshold, t.excluded)
}

// attempt sends the request once.
func (c *Cluster) attempt(ctx context.Context, s *slot, r *Request, n int) (*http.Response, *Failure) {
	ctx, cancel := context.WithCancelCause(ctx)
	if r.Retry != nil && r.Retry.PerTryTimeout > 0 {
		timer := time.AfterFunc(r.Retry.PerTryTimeout, func() { cancel(errPerTry) })
		defer timer.Stop() // headers in time: the rest is the route's timeout's
	}
	var sent atomic.Bool
	out := c.outgoing(ctx, s, r, n, &sent)
	transport, err := s.transport(out.Host, out.ProtoMajor == 2)
	if err != nil {
		err = &connectError{err}
	}
	s.active.Add(1)
	var resp *http.Response
	if err == nil {
		resp, err = transport.RoundTrip(out)
	}
	if err != nil {
		_ = out.Body.Close() // the next attempt reads the body from its beginning
		s.active.Add(-1)
		fail := c.classify(ctx, err, sent.Load())
		cancel(nil)
		if fail.Flag != "DC" {
			c.outlier(func(d *detector) bool { return d.local(s.host, fail.timeout, c.deps.Now()) })
		}
		return nil, fail
	}
	c.outlier(func(d *detector) bool { return d.status(s.host, resp.StatusCode, c.deps.Now()) })
	resp.Body = onClose(resp.Body, func() {
		s.active.Add(-1)
		cancel(nil)
	})
	return resp, nil
}

func (c *Cluster) outgoing(ctx context.Context, s *slot, r *Request, n int, sent *atomic.Bool) *http.Request {
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{WroteHeaders: func() { sent.Store(true) }})
	out := r.Proto.Clone(ctx)
	out.URL.Scheme, out.URL.Host = s.scheme(), s.address
	out.RequestURI, out.GetBody = "", nil
	out.Trailer = r.Proto.Trailer // the same map: it is filled when the body has been read
	if r.AutoHost && s.endpoint.Hostname != "" {
		out.Host = s.endpoint.Hostname
	}
	if r.CountAttempts {
		out.Header.Set("X-Envoy-Attempt-Count", strconv.Itoa(n))
	}
	// http.Transport takes this header as leave to send a request again. Under a key that is not canonical it goes out
	// all the same, and only the retry policy decides.
	for _, name := range []string{"Idempotency-Key", "X-Idempotency-Key"} {
		if v, ok := out.Header[name]; ok {
			delete(out.Header, name)
			out.Header[string(name[0]|0x20)+name[1:]] = v
		}
	}
	switch {
	case r.Body != nil:
		out.Body = r.Body.reader()
	case out.Method == http.MethodPost || out.Method == http.MethodPut || out.Method == http.MethodPatch:
		// These need a Content-Length of 0, so the body must be nil. The transport may then repeat a request of which
		// nothing has been written, which no upstream can have seen.
		out.Body = http.NoBody
	default:
		out.Body = emptyBody{}
	}
	return out
}

// classify turns a transport's error into a failure.
func (c *Cluster) classify(ctx context.Context, err error, sent bool) *Failure {
	cause := context.Cause(ctx)
	_, connect := errors.AsType[*connectError](err)
	switch {
	case errors.Is(cause, ErrTimeout):
		c.count("upstream_rq_timeout")
		return &Failure{Status: http.StatusGatewayTimeout, Flag: "UT", Text: "upstream request timeout", timeout: true, sent: sent}
	case errors.Is(cause, errPerTry):
		c.count("upstream_rq_per_try_timeout")
		return &Failure{Status: http.StatusGatewayTimeout, Flag: "UT", Text: "upstream request timeout", timeout: true, sent: sent}
	case cause != nil:
		return &Failure{Status: 499, Flag: "DC", Text: "downstream disconnected"}
	case connect:
		reason := "remote connection failure"
		if ne, ok := errors.AsType[net.Error](err); ok && ne.Timeout() {
			reason = "connection timeout"
		}
		return &Failure{
			Status: http.StatusServiceUnavailable, Flag: "UF", connect: true,
			Text: "upstream connect error or disconnect/reset before headers. reset reason: " + reason + ", transport failure reason: " + err.Error(),
		}
	}
	c.count("upstream_rq_rx_reset")
	f := &Failure{
		Status: http.StatusServiceUnavailable, Flag: "UC", sent: sent,
		Text: "upstream connect error or disconnect/reset before headers. reset reason: connection termination",
	}
	if se, ok := errors.AsType[http2.StreamError](err); ok && se.Code == http2.ErrCodeRefusedStream {
		f.refused = true
	}
	return f
}

// gone is the failure of a request whose context ended between attempts.
func gone(ctx context.Context, n int) *Failure {
	if errors.Is(context.Cause(ctx), ErrTimeout) {
		return &Failure{Status: http.StatusGatewayTimeout, Flag: "UT", Text: "upstream request timeout", Attempts: n}
	}
	return &Failure{Status: 499, Flag: "DC", Text: "downstream disconnected", Attempts: n}
}

// outlier tells the detector something and publishes a new view if a host was ejected.
func (c *Cluster) outlier(note func(*detector) bool) {
	if c.detector != nil && note(c.detector) {
		c.count("outlier_detection.ejections_enforced_total")
		c.refresh()
	}
}

// onClose returns body with a function that is called when it is first closed. A body that can be written, of a
// switched protocol, stays so.
func onClose(body io.ReadCloser, f func()) io.ReadCloser {
	closed := &closer{ReadCloser: body, f: f}
	if rw, ok := body.(io.ReadWriteCloser); ok {
		return struct {
			io.Reader
			io.Writer
			io.Closer
		}{rw, rw, closed}
	}
	return closed
}

type closer struct {
	io.ReadCloser
	once sync.Once
	f    func()
}

func (c *closer) Close() error {
	err := c.ReadCloser.Close()
	c.once.Do(c.f)
	return err
}
