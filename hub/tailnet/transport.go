package tailnet

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"
	"golang.org/x/time/rate"
	tsapi "tailscale.com/client/tailscale/v2"
)

const (
	// bodyLimit bounds an answer, in bytes: a list of 10,000 services has some 8 MB.
	bodyLimit = 64 << 20
	// tokenSlack is how long before its end a token is replaced.
	tokenSlack = time.Minute
)

// politeTransport calls the API at a bounded rate, leaves it alone while it is in trouble, and turns every answer that
// is none of success into an [Error]. The client above it would lose the status of an answer that is not JSON.
type politeTransport struct {
	base    http.RoundTripper
	limiter *rate.Limiter
	gate    gate
	now     func() time.Time
	sleep   func(context.Context, time.Duration) error
}

// RoundTrip does not return answers with a status of 300 or more.
func (t *politeTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	ctx := req.Context()
	if err := t.wait(ctx); err != nil {
		return nil, errors.Join(err, closeBody(req))
	}
	res, err := t.base.RoundTrip(req)
	if err != nil {
		if ctx.Err() != nil && errors.Is(ctx.Err(), context.Canceled) {
			return nil, ctx.Err() // the caller's doing
		}
		e := silence(err)
		t.gate.fail(t.now(), e)
		return nil, e
	}
	if res.StatusCode < http.StatusMultipleChoices {
		t.gate.ok()
		return res, nil
	}
	body, err := io.ReadAll(io.LimitReader(res.Body, 1<<20))
	if closeErr := res.Body.Close(); err != nil || closeErr != nil {
		body = nil // the status is enough
	}
	e := errorOf(res.StatusCode, retryAfter(res.Header, t.now()), body)
	if errors.Is(e, ErrRateLimited) || errors.Is(e, ErrUnavailable) {
		t.gate.fail(t.now(), e)
	} else {
		t.gate.ok() // it answered
	}
	return nil, e
}

// closeBody does what every RoundTripper has to, also for a request that it does not send.
func closeBody(req *http.Request) error {
	if req.Body == nil {
		return nil
	}
	return req.Body.Close()
}

// wait waits for its turn, unless the API is in trouble.
func (t *politeTransport) wait(ctx context.Context) error {
	now := t.now()
	if e := t.gate.shut(now); e != nil {
		return e
	}
	turn := t.limiter.ReserveN(now, 1)
	if d := turn.DelayFrom(now); d > 0 {
		if err := t.sleep(ctx, d); err != nil {
			turn.CancelAt(t.now())
			return err
		}
		if e := t.gate.shut(t.now()); e != nil { // it got into trouble meanwhile
			return e
		}
	}
	return nil
}

// retryAfter reads the header of that name: seconds, or a date.
func retryAfter(h http.Header, now time.Time) time.Duration {
	v := h.Get("Retry-After")
	if n, err := strconv.Atoi(v); err == nil {
		return max(0, time.Duration(n)*time.Second)
	}
	if at, err := http.ParseTime(v); err == nil {
		return max(0, at.Sub(now))
	}
	return 0
}

// authTransport adds the access token, which it gets by the source's credentials, over the same base as all else
// so that a token costs its share of the rate and its errors are [Error]s too. What the client has for this does
// neither, and is not bounded by the caller's context.
type authTransport struct {
	base   http.RoundTripper
	source tokenSource
	now    func() time.Time
	locked chan struct{} // of capacity 1: a lock that a context can give up waiting for
	token  *oauth2.Token // guarded by locked
}

// tokenSource gets access tokens, calling the API over base.
type tokenSource interface {
	token(ctx context.Context, base http.RoundTripper) (*oauth2.Token, error)
}

// oauthClient gets tokens by an OAuth client's secret.
type oauthClient struct{ clientcredentials.Config }

func (c *oauthClient) token(ctx context.Context, base http.RoundTripper) (*oauth2.Token, error) {
	return c.Token(context.WithValue(ctx, oauth2.HTTPClient, &http.Client{Transport: base}))
}

// federatedIdentity gets tokens for identity tokens of the hub's own.
type federatedIdentity struct {
	clientID, baseURL string
	identity          func(context.Context) (string, error)
}

// token lets the client of the API make the exchange. Its own way of keeping tokens knows neither contexts nor tokens
// that were refused early, so it is used for one token only.
func (f *federatedIdentity) token(ctx context.Context, base http.RoundTripper) (*oauth2.Token, error) {
	exchange := &tsapi.IdentityFederation{ClientID: f.clientID, IDTokenFunc: func() (string, error) {
		token, err := f.identity(ctx)
		if err != nil {
			return "", &Error{Kind: ErrIdentityToken, Message: err.Error()}
		}
		return token, nil
	}}
	client := exchange.HTTPClient(&http.Client{Transport: boundTransport{ctx: ctx, base: base}}, f.baseURL)
	transport, ok := client.Transport.(*oauth2.Transport)
	if !ok {
		return nil, fmt.Errorf("the API's client authenticates by a %T, which has no tokens to take", client.Transport)
	}
	token, err := transport.Source.Token()
	if err != nil {
		return nil, err
	}
	if token.AccessToken == "" {
		return nil, &Error{Kind: ErrRejected, Message: "the Tailscale API answered without an access token"}
	}
	return token, nil
}

// boundTransport binds requests to a context that their maker did not know.
type boundTransport struct {
	ctx  context.Context
	base http.RoundTripper
}

func (t boundTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	return t.base.RoundTrip(req.WithContext(t.ctx))
}

// RoundTrip authenticates and forwards a request. A token that served before and is refused now was revoked early, which
// says nothing of the credentials: the request is made once more, with another one.
func (t *authTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	token, kept, err := t.get(req.Context())
	if err != nil {
		return nil, errors.Join(err, closeBody(req))
	}
	res, err := t.send(req, token)
	if !errors.Is(err, ErrUnauthorized) {
		return res, err
	}
	t.forget(token)
	if !kept || req.Body != nil && req.GetBody == nil {
		return res, err
	}
	again := req.Clone(req.Context())
	if req.GetBody != nil {
		if again.Body, err = req.GetBody(); err != nil {
			return nil, fmt.Errorf("send the request again: %w", err)
		}
	}
	if token, _, err = t.get(req.Context()); err != nil {
		return nil, errors.Join(err, closeBody(again))
	}
	res, err = t.send(again, token)
	if errors.Is(err, ErrUnauthorized) {
		t.forget(token)
	}
	return res, err
}

func (t *authTransport) send(req *http.Request, token string) (*http.Response, error) {
	req = req.Clone(req.Context())
	req.Header.Set("Authorization", "Bearer "+token)
	return t.base.RoundTrip(req)
}

func (t *authTransport) lock(ctx context.Context) error {
	select {
	case t.locked <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// get returns a token, and whether it is one that was kept.
func (t *authTransport) get(ctx context.Context) (token string, kept bool, err error) {
	if err := t.lock(ctx); err != nil {
		return "", false, err
	}
	defer func() { <-t.locked }()
	if t.token != nil && (t.token.Expiry.IsZero() || t.now().Add(tokenSlack).Before(t.token.Expiry)) {
		return t.token.AccessToken, true, nil
	}
	got, err := t.source.token(ctx, t.base)
	if err != nil {
		if e, ok := errors.AsType[*Error](err); ok {
			err = refusal(e)
		}
		return "", false, fmt.Errorf("get an access token: %w", err)
	}
	t.token = got
	return got.AccessToken, false, nil
}

// refusal tells what the endpoint for tokens means: by whatever status it rejects a request with an answer of its own, it
// is the credentials that it rejects.
func refusal(e *Error) *Error {
	own := e.Message != "" && e.Message != notOurs
	if own && e.Status != 0 && (errors.Is(e, ErrRejected) || errors.Is(e, ErrForbidden)) {
		refused := *e
		refused.Kind = ErrUnauthorized
		return &refused
	}
	return e
}

func (t *authTransport) forget(token string) {
	t.locked <- struct{}{}
	defer func() { <-t.locked }()
	if t.token != nil && t.token.AccessToken == token {
		t.token = nil
	}
}

// boundedTransport reads answers into memory, so that a connection that breaks half way through one counts as
// unreachable like any other.
type boundedTransport struct{ base http.RoundTripper }

func (t boundedTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	res, err := t.base.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	body, err := io.ReadAll(io.LimitReader(res.Body, bodyLimit+1))
	closeErr := res.Body.Close()
	switch {
	case err != nil:
		return nil, fmt.Errorf("read the answer: %w", err)
	case closeErr != nil:
		return nil, fmt.Errorf("read the answer: %w", closeErr)
	case len(body) > bodyLimit:
		return nil, fmt.Errorf("the answer has more than %d bytes", bodyLimit)
	}
	res.Body = io.NopCloser(bytes.NewReader(body))
	return res, nil
}
