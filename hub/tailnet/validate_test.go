package tailnet_test

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	fake "github.com/tailgate-project/tailgate/e2e-kind/tailnet"
	"github.com/tailgate-project/tailgate/hub/tailnet"
)

func TestValidateTellsWhy(t *testing.T) {
	t.Run("wrong-secret", func(t *testing.T) {
		api := newAPI(t, tailnet.APIOptions{BaseURL: start(t).URL(), ClientSecret: "tskey-client-wrong"})
		wantKind(t, api, tailnet.ErrUnauthorized, "")
	})
	t.Run("rate-limited", func(t *testing.T) {
		tn := start(t)
		tn.RejectNext(1, http.StatusTooManyRequests, 30*time.Second, regexp.MustCompile("vip-services"))
		api := newAPI(t, tailnet.APIOptions{BaseURL: tn.URL()})
		before := time.Now()
		wantKind(t, api, tailnet.ErrRateLimited, "")
		wantKind(t, api, tailnet.ErrRateLimited, "") // now by our own restraint
		if rest := api.NextCall().Sub(before); rest < 30*time.Second || rest > 40*time.Second {
			t.Errorf("the next call is due in %v, want the 30 s that were asked for, or a little more", rest)
		}
	})
	t.Run("unavailable-token-endpoint", func(t *testing.T) {
		tn := start(t)
		tn.RejectNext(1, http.StatusServiceUnavailable, 0, regexp.MustCompile("oauth/token"))
		wantKind(t, newAPI(t, tailnet.APIOptions{BaseURL: tn.URL()}), tailnet.ErrUnavailable, "access token")
	})
	t.Run("unreachable", func(t *testing.T) {
		server := httptest.NewServer(http.NotFoundHandler())
		server.Close()
		wantKind(t, newAPI(t, tailnet.APIOptions{BaseURL: server.URL}), tailnet.ErrUnreachable, "connection refused")
	})
	t.Run("unknown-name", func(t *testing.T) { // this test has a network of its own, without a resolver
		wantKind(t, newAPI(t, tailnet.APIOptions{BaseURL: "http://api.invalid"}), tailnet.ErrNameNotResolved, "api.invalid")
	})
	t.Run("silent", func(t *testing.T) {
		over := make(chan struct{})
		silent := serve(t, func(http.ResponseWriter, *http.Request) { <-over })
		t.Cleanup(func() { close(over) }) // before the server waits for its handlers
		transport := &http.Transport{ResponseHeaderTimeout: 50 * time.Millisecond}
		t.Cleanup(transport.CloseIdleConnections)
		wantKind(t, newAPI(t, tailnet.APIOptions{BaseURL: silent, Transport: transport}), tailnet.ErrTimeout, "in time")
	})
	for _, status := range []int{http.StatusBadRequest, http.StatusForbidden} {
		t.Run("token-refused-with-"+http.StatusText(status), func(t *testing.T) {
			tn := start(t)
			tn.RejectNext(1, status, 0, regexp.MustCompile("oauth/token"))
			wantKind(t, newAPI(t, tailnet.APIOptions{BaseURL: tn.URL()}), tailnet.ErrUnauthorized, "access token")
		})
	}
	t.Run("some-other-server", func(t *testing.T) {
		server := httptest.NewServer(http.NotFoundHandler())
		t.Cleanup(server.Close)
		wantKind(t, newAPI(t, tailnet.APIOptions{BaseURL: server.URL}), tailnet.ErrNotFound, "not the API's own")
	})
}

// TestSilenceIsToldAlike checks that an error has nothing in it that differs from try to try: the port that was dialled
// from would make a condition change each time.
func TestSilenceIsToldAlike(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		panic(http.ErrAbortHandler)
	}))
	t.Cleanup(server.Close)
	told := map[string]bool{}
	for range 3 {
		_, err := newAPI(t, tailnet.APIOptions{BaseURL: server.URL}).Validate(t.Context())
		if !errors.Is(err, tailnet.ErrUnreachable) {
			t.Fatalf("Validate = %v, want %v", err, tailnet.ErrUnreachable)
		}
		told[err.Error()] = true
	}
	if len(told) != 1 {
		t.Errorf("three alike failures are told as %v", told)
	}
}

// wantKind checks that Validate fails in that way and tells no secret.
func wantKind(t *testing.T, api *tailnet.API, kind error, text string) {
	t.Helper()
	_, err := api.Validate(t.Context())
	if !errors.Is(err, kind) || !strings.Contains(err.Error(), text) {
		t.Fatalf("Validate = %v, want %v with %q", err, kind, text)
	}
	if strings.Contains(err.Error(), "tskey-") {
		t.Errorf("error %q tells a secret", err)
	}
}

// TestValidateNamesScopes checks that all that is missing is told at once, and what may only be read as well.
func TestValidateNamesScopes(t *testing.T) {
	const services, keys, devices = tailnet.ScopeServices, tailnet.ScopeAuthKeys, tailnet.ScopeDevices
	tests := []struct {
		name              string
		granted           []string
		missing, readOnly []tailnet.Scope
	}{
		{name: "all", granted: []string{"all"}},
		{name: "each", granted: []string{"services", "auth_keys", "devices:core"}},
		{name: "group", granted: []string{"services", "auth_keys", "devices"}},
		{name: "no-services", granted: []string{"auth_keys", "devices:core"}, missing: []tailnet.Scope{services}},
		{name: "no-auth-keys", granted: []string{"services", "devices:core"}, missing: []tailnet.Scope{keys}},
		{name: "no-devices", granted: []string{"services", "auth_keys"}, missing: []tailnet.Scope{devices}},
		{name: "none-of-them", granted: []string{"dns"}, missing: []tailnet.Scope{services, keys, devices}},
		{name: "one-read-only", granted: []string{"services:read", "auth_keys", "devices:core"}, readOnly: []tailnet.Scope{services}},
		{name: "all-read-only", granted: []string{"all:read"}, readOnly: []tailnet.Scope{services, keys, devices}},
		{name: "read-and-write", granted: []string{"all:read", "services", "auth_keys", "devices:core"}},
		{name: "mixed", granted: []string{"auth_keys:read", "devices"}, missing: []tailnet.Scope{services}, readOnly: []tailnet.Scope{keys}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tn := start(t, tt.granted...)
			_, err := newAPI(t, tailnet.APIOptions{BaseURL: tn.URL()}).Validate(t.Context())
			e, ok := errors.AsType[*tailnet.MissingScopesError](err)
			if !ok {
				e = &tailnet.MissingScopesError{}
			}
			if want := len(tt.missing)+len(tt.readOnly) > 0; ok != want || errors.Is(err, tailnet.ErrForbidden) != want {
				t.Fatalf("Validate = %v, want an error: %v", err, want)
			}
			if diff := cmp.Diff([][]tailnet.Scope{tt.missing, tt.readOnly}, [][]tailnet.Scope{e.Scopes, e.ReadOnly}); diff != "" {
				t.Errorf("missing and read-only (-want +got):\n%s", diff)
			}
			for _, s := range slices.Concat(tt.missing, tt.readOnly) {
				if !strings.Contains(err.Error(), string(s)) {
					t.Errorf("error %q does not name the scope %s", err, s)
				}
			}
			for what := range tn.Requests() {
				if strings.HasPrefix(what, "POST") && !strings.Contains(what, "oauth") || strings.HasPrefix(what, "PUT") {
					t.Errorf("validation made the request %s", what)
				}
			}
		})
	}
}

// TestValidateReadsNoMoreThanItNeeds counts the requests of first validations and of those that follow.
func TestValidateReadsNoMoreThanItNeeds(t *testing.T) {
	const token, client = "POST /api/v2/oauth/token", "GET /api/v2/tailnet/{tailnet}/keys/{id}"
	const vips, keys, devices = "GET /api/v2/tailnet/{tailnet}/vip-services", "GET /api/v2/tailnet/{tailnet}/keys", "GET /api/v2/tailnet/{tailnet}/devices"
	t.Run("client-that-tells-of-itself", func(t *testing.T) {
		tn := start(t)
		api := newAPI(t, tailnet.APIOptions{BaseURL: tn.URL()})
		for range 2 {
			if _, err := api.Validate(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if diff := cmp.Diff(map[string]int{token: 1, client: 2, vips: 2, keys: 2, devices: 2}, tn.Requests()); diff != "" {
			t.Errorf("requests (-want +got):\n%s", diff)
		}
	})
	t.Run("api-that-does-not-tell", func(t *testing.T) {
		tn := start(t)
		tn.RejectNext(9, http.StatusNotFound, 0, regexp.MustCompile("/keys/"))
		api := newAPI(t, tailnet.APIOptions{BaseURL: tn.URL()})
		for range 2 {
			if info, err := api.Validate(t.Context()); err != nil || !info.Expires.IsZero() {
				t.Fatalf("Validate = %+v, %v, want no expiry", info, err)
			}
		}
		if n := tn.Requests()[client]; n != 1 {
			t.Errorf("the API was asked about the client %d times, want once", n)
		}
	})
	t.Run("one-scope", func(t *testing.T) {
		tn := start(t)
		api := newAPI(t, tailnet.APIOptions{BaseURL: tn.URL()})
		for _, s := range tailnet.Scopes() {
			if _, err := api.Look(t.Context(), s, tailnet.Info{}); err != nil {
				t.Fatal(err)
			}
		}
		if diff := cmp.Diff(map[string]int{token: 1, vips: 1, keys: 1, devices: 1}, tn.Requests()); diff != "" {
			t.Errorf("requests (-want +got):\n%s", diff)
		}
	})
}

func TestValidateTellsExpiry(t *testing.T) {
	tn := start(t)
	end := time.Now().Add(48 * time.Hour).UTC().Truncate(time.Second)
	if err := tn.PutOAuthClient(fake.OAuthClient{ID: clientID, Secret: clientSecret, Expires: end}); err != nil {
		t.Fatal(err)
	}
	info, err := newAPI(t, tailnet.APIOptions{BaseURL: tn.URL()}).Validate(t.Context())
	if err != nil || !info.Expires.Equal(end) {
		t.Errorf("Validate = %+v, %v, want the expiry %v", info, err, end)
	}
}

// TestRetag checks that VIPs get new tags and keep all else, and that others' services are left alone.
func TestRetag(t *testing.T) {
	tn := start(t)
	before, other := newAPI(t, tailnet.APIOptions{BaseURL: tn.URL()}), stranger(t, tn)
	v := webVIP()
	if _, err := before.EnsureVIP(t.Context(), v); err != nil {
		t.Fatal(err)
	}
	foreign := v
	foreign.ServiceName = "of-another-federation"
	if _, err := newAPI(t, tailnet.APIOptions{BaseURL: tn.URL(), Federation: "other"}).EnsureVIP(t.Context(), foreign); err != nil {
		t.Fatal(err)
	}
	want, err := other.Get(t.Context(), "svc:"+v.ServiceName)
	if err != nil {
		t.Fatal(err)
	}
	want.Tags = []string{"tag:k8s-operator", "tag:other"}

	after := newAPI(t, tailnet.APIOptions{BaseURL: tn.URL(), Tags: []string{"tag:other", "tag:k8s-operator"}})
	info, err := after.Validate(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"svc:" + v.ServiceName}, info.Untagged); diff != "" {
		t.Fatalf("VIPs with other tags (-want +got):\n%s", diff)
	}
	if err := after.Retag(t.Context(), append(info.Untagged, "svc:gone", "svc:of-another-federation")); err != nil {
		t.Fatal(err)
	}
	got, err := other.Get(t.Context(), "svc:"+v.ServiceName)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("VIP (-want +got):\n%s", diff)
	}
	if s, err := other.Get(t.Context(), "svc:of-another-federation"); err != nil || !slices.Equal(s.Tags, []string{proxyTag}) {
		t.Errorf("another federation's service is %+v, %v", s, err)
	}
	if info, err := after.Validate(t.Context()); err != nil || len(info.Untagged) != 0 {
		t.Errorf("Validate = %+v, %v, want all tagged", info, err)
	}

	unknown := newAPI(t, tailnet.APIOptions{BaseURL: tn.URL(), Tags: []string{"tag:nobody-defined"}})
	if err := unknown.Retag(t.Context(), info.Untagged); !errors.Is(err, tailnet.ErrRejected) || !strings.Contains(err.Error(), "tag:nobody-defined") {
		t.Errorf("Retag with a tag that does not exist = %v", err)
	}
}

// TestKeysHaveTheTailnetsTags checks the tags of nodes that join by a key of the API.
func TestKeysHaveTheTailnetsTags(t *testing.T) {
	tn := start(t)
	api := newAPI(t, tailnet.APIOptions{BaseURL: tn.URL(), Tags: []string{"tag:other", proxyTag}})
	for host, tags := range map[string][]string{"with-more": {spokeTag, proxyTag}, "with-none": nil} {
		key, err := api.MintKey(t.Context(), tailnet.KeyOptions{Tags: tags, Expiry: time.Hour})
		if err != nil {
			t.Fatal(err)
		}
		join(t, tn, key, host)
	}
	got := map[string][]string{}
	for _, n := range tn.Nodes() {
		got[n.Hostname] = n.Tags
	}
	want := map[string][]string{"with-more": {"tag:other", proxyTag, spokeTag}, "with-none": {"tag:other", proxyTag}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("tags of the nodes (-want +got):\n%s", diff)
	}
}

// identity makes an unsigned identity token, which the stand-in takes.
func identity(subject, audience string, end time.Time) string {
	claims := fmt.Sprintf(`{"iss":"https://issuer","sub":%q,"aud":[%q],"exp":%d}`, subject, audience, end.Unix())
	encode := base64.RawURLEncoding.EncodeToString
	return encode([]byte(`{"alg":"none"}`)) + "." + encode([]byte(claims)) + ".none"
}

func TestFederatedIdentity(t *testing.T) {
	const hub, audience = "system:serviceaccount:tailgate-system:tailgate-hub", "api.tailscale.com/" + clientID
	federated := func(t *testing.T) *fake.Tailnet {
		t.Helper()
		return fake.ForTest(t, fake.Options{OAuthClients: []fake.OAuthClient{{ID: clientID, Subject: hub, Tags: fake.DefaultTags()}}})
	}
	var asked atomic.Int64
	token := func(subject, audience string) func(context.Context) (string, error) {
		return func(context.Context) (string, error) {
			asked.Add(1)
			return identity(subject, audience, time.Now().Add(10*time.Minute)), nil
		}
	}
	t.Run("works", func(t *testing.T) {
		asked.Store(0)
		tn := federated(t)
		var ahead atomic.Int64
		api := newAPI(t, tailnet.APIOptions{
			BaseURL: tn.URL(), IdentityToken: token(hub, audience), Now: func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) },
		})
		for range 3 {
			if _, err := api.Validate(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if n := asked.Load(); n != 1 {
			t.Errorf("%d identity tokens were requested, want one for as long as the access token lasts", n)
		}
		ahead.Store(int64(time.Hour))
		if _, err := api.Look(t.Context(), tailnet.ScopeServices, tailnet.Info{}); err != nil || asked.Load() != 2 {
			t.Errorf("Look after the access token's end = %v, with %d identity tokens, want a second one", err, asked.Load())
		}
		ahead.Store(0)
		tn.RevokeTokens(clientID)
		if _, err := api.Validate(t.Context()); err != nil || asked.Load() != 3 {
			t.Errorf("Validate after the access token was revoked = %v, with %d identity tokens, want a third one", err, asked.Load())
		}
	})
	refusals := []struct {
		name     string
		identity func(context.Context) (string, error)
		want     error
		text     string
	}{
		{"another-subject", token("system:serviceaccount:default:default", audience), tailnet.ErrUnauthorized, "another issuer or subject"},
		{"another-audience", token(hub, "https://kubernetes.default.svc"), tailnet.ErrUnauthorized, "another audience"},
		{"no-identity", func(context.Context) (string, error) { return "", errors.New("forbidden by RBAC") }, tailnet.ErrIdentityToken, "forbidden by RBAC"},
	}
	for _, tt := range refusals {
		t.Run(tt.name, func(t *testing.T) {
			wantKind(t, newAPI(t, tailnet.APIOptions{BaseURL: federated(t).URL(), IdentityToken: tt.identity}), tt.want, tt.text)
		})
	}
	t.Run("canceled", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		api := newAPI(t, tailnet.APIOptions{BaseURL: federated(t).URL(), IdentityToken: func(context.Context) (string, error) {
			cancel()
			return identity(hub, audience, time.Now().Add(time.Minute)), nil
		}})
		if _, err := api.Validate(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("Validate = %v, want %v: the exchange must end with its caller", err, context.Canceled)
		}
	})
}
