// Package admin is test equipment: a stand-in of the Tailscale admin API
// (/api/v2) on the state of a test tailnet, for the calls that
// tailscale.com/client/tailscale/v2 and Tailscale's Kubernetes operator make
// for auth keys, devices, services and the policy file.
//
// What is documented or was seen of production is done alike, down to the
// messages where they are known: secrets are told once, an update of a service
// without addresses is refused, the policy file is kept byte for byte and
// guarded by ETag. Where production's behaviour isn't known, the stand-in is
// strict.
package admin

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"net/http"
	"regexp"
	"strconv"
	"sync"
	"time"

	"github.com/tailgate-project/tailgate/e2e-kind/tailnet/internal/state"
)

// Config says what the API serves.
type Config struct {
	State   *state.State
	Domain  string // a name of the tailnet, besides "-"
	APIKey  string // a key that may do everything; "" for none
	Clients []Client
	Now     func() time.Time
}

// API serves /api/v2.
type API struct {
	cfg  Config
	mux  *http.ServeMux
	auth *authority

	mu       sync.Mutex
	faults   []fault
	requests map[string]int // by method and pattern
}

type fault struct {
	left       int
	status     int
	retryAfter time.Duration
	path       *regexp.Regexp
}

// New returns the API.
func New(cfg Config) (*API, error) {
	auth, err := newAuthority(cfg)
	if err != nil {
		return nil, err
	}
	a := &API{cfg: cfg, mux: http.NewServeMux(), auth: auth, requests: map[string]int{}}
	a.mux.HandleFunc("POST /api/v2/oauth/token", a.auth.serveToken)
	a.mux.HandleFunc("POST /api/v2/oauth/token-exchange", a.auth.serveExchange)
	a.routeKeys()
	a.routeDevices()
	a.routeServices()
	a.routePolicy()
	a.mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		writeError(w, http.StatusNotFound, "no such endpoint in this stand-in: "+r.Method+" "+r.URL.Path)
	})
	return a, nil
}

// RejectNext makes the API answer the next n requests whose path matches (nil
// matches all) with status, and with Retry-After unless retryAfter is zero.
// Several calls add up, first come first served.
func (a *API) RejectNext(n, status int, retryAfter time.Duration, path *regexp.Regexp) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.faults = append(a.faults, fault{left: n, status: status, retryAfter: retryAfter, path: path})
}

func (a *API) nextFault(path string) (fault, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for i := range a.faults {
		if f := &a.faults[i]; f.left > 0 && (f.path == nil || f.path.MatchString(path)) {
			f.left--
			return *f, true
		}
	}
	return fault{}, false
}

// ServeHTTP serves one request.
func (a *API) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a.count(r)
	if f, ok := a.nextFault(r.URL.Path); ok {
		if f.retryAfter > 0 {
			w.Header().Set("Retry-After", strconv.Itoa(int(math.Ceil(f.retryAfter.Seconds()))))
		}
		writeError(w, f.status, http.StatusText(f.status)+" (injected)")
		return
	}
	a.mux.ServeHTTP(w, r)
}

// PutClient adds an OAuth client, or replaces the one of that id.
func (a *API) PutClient(c Client) error { return a.auth.put(c) }

// RevokeClient ends an OAuth client with all its tokens.
func (a *API) RevokeClient(id string) { a.auth.revoke(id) }

// RevokeTokens ends the access tokens of an OAuth client, which may get others.
func (a *API) RevokeTokens(id string) { a.auth.revokeTokens(id) }

// Requests counts the requests so far, rejected ones too, by method and path;
// the parts of a path that differ are in braces.
func (a *API) Requests() map[string]int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return maps.Clone(a.requests)
}

func (a *API) count(r *http.Request) {
	_, pattern := a.mux.Handler(r)
	a.mu.Lock()
	defer a.mu.Unlock()
	a.requests[pattern]++
}

// call is an authorised request.
type call struct {
	*http.Request
	w      http.ResponseWriter
	caller *grant
}

// errScope refuses a call for want of a scope.
type errScope string

func (e errScope) Error() string {
	return "calling actor does not have enough permissions to perform this function: scope " + string(e) + " needed"
}

// handle registers a handler for calls that need scope (or scope:read, which
// is enough for GET); with none, the handler decides. The handler returns what to answer as JSON, nil for
// nothing.
func (a *API) handle(pattern, scope string, serve func(*call) (any, error)) {
	a.mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
		caller, ok := a.auth.caller(r)
		if !ok {
			w.Header().Set("WWW-Authenticate", `Bearer realm="tailnet"`)
			writeError(w, http.StatusUnauthorized, "API token invalid")
			return
		}
		if t := r.PathValue("tailnet"); t != "" && t != "-" && t != a.cfg.Domain {
			writeError(w, http.StatusNotFound, fmt.Sprintf("tailnet %q not found", t))
			return
		}
		if scope != "" && !caller.may(scope, r.Method == http.MethodGet) {
			writeError(w, http.StatusForbidden, errScope(scope).Error())
			return
		}
		out, err := serve(&call{Request: r, w: w, caller: caller})
		switch {
		case err != nil:
			writeError(w, statusOf(err), err.Error())
		case out != nil:
			writeJSON(w, http.StatusOK, out)
		}
	})
}

// decode reads the JSON body of a call.
func (c *call) decode(v any) error {
	body, err := c.body()
	if err != nil {
		return err
	}
	if err := json.Unmarshal(body, v); err != nil {
		return &state.Error{Kind: state.Invalid, Message: "request body is not what is expected: " + err.Error()}
	}
	return nil
}

func (c *call) body() ([]byte, error) {
	body, err := io.ReadAll(http.MaxBytesReader(c.w, c.Body, 1<<20))
	if err != nil {
		return nil, &state.Error{Kind: state.Invalid, Message: "request body can't be read: " + err.Error()}
	}
	return body, nil
}

func statusOf(err error) int {
	if _, ok := errors.AsType[errScope](err); ok {
		return http.StatusForbidden
	}
	refusal, ok := errors.AsType[*state.Error](err)
	if !ok {
		return http.StatusInternalServerError
	}
	switch refusal.Kind {
	case state.NotFound:
		return http.StatusNotFound
	case state.Conflict:
		return http.StatusConflict
	case state.Stale:
		return http.StatusPreconditionFailed
	default:
		return http.StatusBadRequest
	}
}

func writeError(w http.ResponseWriter, status int, message string) {
	writeJSON(w, status, map[string]string{"message": message})
}

// writeJSON answers a request; a client that is gone misses nothing.
func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v)
}
