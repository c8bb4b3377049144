package admin

import (
	"cmp"
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"
)

// tokenLife is how long an access token is valid, as in production.
const tokenLife = time.Hour

// Client is an OAuth client, or a federated identity if it has a Subject.
type Client struct {
	ID     string
	Secret string
	Scopes []string // "all", "auth_keys", "devices:core", "services:read", ...
	Tags   []string // that it may give to keys

	// Issuer, Subject and Audience are what the identity token of a federated
	// identity has to say. An empty Issuer allows any; the default audience
	// is "api.tailscale.com/" and the id. The token's signature isn't
	// checked: this is a stand-in, which fetches no issuer's keys.
	Issuer, Subject, Audience string

	// Expires is when the client expires; zero is never.
	Expires time.Time
}

// grant is what a caller may do.
type grant struct {
	client  string // id of the OAuth client; "" for the API key
	scopes  []string
	tags    []string // meaningless if anyTag
	anyTag  bool
	expires time.Time // zero for never
}

// may reports whether the grant includes scope.
func (g *grant) may(scope string, read bool) bool {
	return includes(g.scopes, scope) || read && includes(g.scopes, scope+":read")
}

// includes reports whether scopes grant scope: by its name, by the name of the
// group that it is in, or as writing includes reading.
func includes(scopes []string, scope string) bool {
	name, read := strings.CutSuffix(scope, ":read")
	group, _, _ := strings.Cut(name, ":")
	for _, s := range scopes {
		if s == "all" || s == name || s == group {
			return true
		}
		if read && (s == "all:read" || s == scope || s == group+":read") {
			return true
		}
	}
	return false
}

// authority knows who may do what.
type authority struct {
	apiKey string
	now    func() time.Time

	mu      sync.Mutex
	clients map[string]Client
	tokens  map[string]*grant
}

func newAuthority(cfg Config) (*authority, error) {
	a := &authority{apiKey: cfg.APIKey, now: cfg.Now, clients: map[string]Client{}, tokens: map[string]*grant{}}
	for _, c := range cfg.Clients {
		if _, ok := a.clients[c.ID]; ok {
			return nil, fmt.Errorf("OAuth client %q: the id must be there only once", c.ID)
		}
		if err := a.put(c); err != nil {
			return nil, err
		}
	}
	return a, nil
}

// put adds a client, or replaces the one of that id. Tokens that are out keep
// what they were given.
func (a *authority) put(c Client) error {
	if c.ID == "" {
		return errors.New("OAuth client: the id must be set")
	}
	if c.Secret == "" && c.Subject == "" {
		return fmt.Errorf("OAuth client %q: neither secret nor subject is set", c.ID)
	}
	if len(c.Scopes) == 0 {
		c.Scopes = []string{"all"}
	}
	c.Audience = cmp.Or(c.Audience, "api.tailscale.com/"+c.ID)
	a.mu.Lock()
	defer a.mu.Unlock()
	a.clients[c.ID] = c
	return nil
}

// revoke ends a client and the tokens that were given to it.
func (a *authority) revoke(id string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.clients, id)
	maps.DeleteFunc(a.tokens, func(_ string, g *grant) bool { return g.client == id })
}

// revokeTokens ends the tokens of a client, which may get others.
func (a *authority) revokeTokens(id string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	maps.DeleteFunc(a.tokens, func(_ string, g *grant) bool { return g.client == id })
}

// client returns the client of that id, unless it has expired.
func (a *authority) client(id string) (Client, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	c, ok := a.clients[id]
	return c, ok && (c.Expires.IsZero() || a.now().Before(c.Expires))
}

// caller returns the grant of a request's bearer token, or of an API key given
// as token or as user name.
func (a *authority) caller(r *http.Request) (*grant, bool) {
	token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !ok {
		if token, _, ok = r.BasicAuth(); !ok {
			return nil, false
		}
	}
	if a.apiKey != "" && equal(token, a.apiKey) {
		return &grant{scopes: []string{"all"}, anyTag: true}, true
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	g, ok := a.tokens[token]
	if !ok {
		return nil, false
	}
	if !a.now().Before(g.expires) {
		delete(a.tokens, token)
		return nil, false
	}
	return g, true
}

func equal(a, b string) bool { return subtle.ConstantTimeCompare([]byte(a), []byte(b)) == 1 }

// serveToken is the client credentials grant (RFC 6749, section 4.4).
func (a *authority) serveToken(w http.ResponseWriter, r *http.Request) {
	if err := r.ParseForm(); err != nil {
		writeOAuthError(w, http.StatusBadRequest, "invalid_request", "body is not a form")
		return
	}
	id, secret, basic := r.BasicAuth()
	if basic {
		// RFC 6749, section 2.3.1: both are form-encoded first.
		id, secret = unescape(id), unescape(secret)
	} else {
		id, secret = r.PostForm.Get("client_id"), r.PostForm.Get("client_secret")
	}
	if g := r.PostForm.Get("grant_type"); g != "" && g != "client_credentials" {
		writeOAuthError(w, http.StatusBadRequest, "unsupported_grant_type", "grant type must be client_credentials")
		return
	}
	c, ok := a.client(id)
	if !ok || c.Secret == "" || !equal(secret, c.Secret) {
		writeOAuthError(w, http.StatusUnauthorized, "invalid_client", "API token invalid")
		return
	}
	a.issue(w, c, strings.Fields(r.PostForm.Get("scope")), strings.Fields(r.PostForm.Get("tags")))
}

func unescape(s string) string {
	if u, err := url.QueryUnescape(s); err == nil {
		return u
	}
	return s
}

// serveExchange turns an identity token of a federated identity into an access
// token. What the identity token says is checked, who signed it is not.
func (a *authority) serveExchange(w http.ResponseWriter, r *http.Request) {
	if err := r.ParseForm(); err != nil {
		writeOAuthError(w, http.StatusBadRequest, "invalid_request", "body is not a form")
		return
	}
	c, ok := a.client(r.PostForm.Get("client_id"))
	if !ok || c.Subject == "" {
		writeOAuthError(w, http.StatusUnauthorized, "invalid_client", "no such federated identity")
		return
	}
	claims, err := parseClaims(r.PostForm.Get("jwt"))
	switch {
	case err != nil:
		writeOAuthError(w, http.StatusBadRequest, "invalid_request", "jwt: "+err.Error())
	case claims.Expiry == 0 || !a.now().Before(time.Unix(claims.Expiry, 0)):
		writeOAuthError(w, http.StatusUnauthorized, "invalid_grant", "jwt has expired, or has no exp")
	case !slices.Contains(claims.Audience, c.Audience):
		writeOAuthError(w, http.StatusUnauthorized, "invalid_grant", "jwt is for another audience than "+c.Audience)
	case claims.Subject != c.Subject || c.Issuer != "" && claims.Issuer != c.Issuer:
		writeOAuthError(w, http.StatusUnauthorized, "invalid_grant", "jwt has another issuer or subject than the federated identity")
	default:
		a.issue(w, c, nil, nil)
	}
}

type claims struct {
	Issuer   string   `json:"iss"`
	Subject  string   `json:"sub"`
	Audience audience `json:"aud"`
	Expiry   int64    `json:"exp"` // seconds since 1970
}

// audience is one, or a list of them.
type audience []string

func (a *audience) UnmarshalJSON(b []byte) error {
	var one string
	if json.Unmarshal(b, &one) == nil {
		*a = audience{one}
		return nil
	}
	return json.Unmarshal(b, (*[]string)(a))
}

func parseClaims(jwt string) (claims, error) {
	var c claims
	parts := strings.Split(jwt, ".")
	if len(parts) != 3 {
		return c, fmt.Errorf("want 3 parts separated by dots, got %d", len(parts))
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return c, fmt.Errorf("decode payload: %w", err)
	}
	if err := json.Unmarshal(payload, &c); err != nil {
		return c, fmt.Errorf("decode claims: %w", err)
	}
	return c, nil
}

// issue answers with an access token for c, for fewer scopes and tags if the
// client asked for some.
func (a *authority) issue(w http.ResponseWriter, c Client, scopes, tags []string) {
	for _, s := range scopes {
		if !includes(c.Scopes, s) {
			writeOAuthError(w, http.StatusBadRequest, "invalid_scope", fmt.Sprintf("scope %q is not granted to this client", s))
			return
		}
	}
	for _, t := range tags {
		if !slices.Contains(c.Tags, t) {
			writeOAuthError(w, http.StatusBadRequest, "invalid_scope", fmt.Sprintf("tag %q is not granted to this client", t))
			return
		}
	}
	if len(scopes) == 0 {
		scopes = c.Scopes
	}
	if len(tags) == 0 {
		tags = c.Tags
	}
	token := "tskey-api-" + rand.Text()
	now := a.now()
	a.mu.Lock()
	for t, g := range a.tokens {
		if !now.Before(g.expires) {
			delete(a.tokens, t)
		}
	}
	a.tokens[token] = &grant{client: c.ID, scopes: scopes, tags: tags, expires: now.Add(tokenLife)}
	a.mu.Unlock()
	writeJSON(w, http.StatusOK, map[string]any{
		"access_token": token,
		"token_type":   "Bearer",
		"expires_in":   int(tokenLife / time.Second),
		"scope":        strings.Join(scopes, " "),
	})
}

func writeOAuthError(w http.ResponseWriter, status int, code, message string) {
	writeJSON(w, status, map[string]string{"error": code, "error_description": message, "message": message})
}
