package tailnet

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"
	"time"
)

// Why a call of the admin API failed. Errors of [API] wrap one of them.
var (
	// ErrUnauthorized: the OAuth client or federated identity is wrong, revoked or expired.
	ErrUnauthorized = errors.New("the Tailscale API refuses the credentials: they are wrong, revoked or expired")
	// ErrIdentityToken: there is no identity token to exchange for an access token.
	ErrIdentityToken = errors.New("no identity token")
	// ErrForbidden: the credentials lack a scope, or may not use a tag.
	ErrForbidden = errors.New("the Tailscale API forbids the call: the credentials lack a scope or may not use a tag")
	// ErrRateLimited: the API asks to be called less often.
	ErrRateLimited = errors.New("the Tailscale API asks to be called less often")
	// ErrUnavailable: the API answered that it has a problem of its own.
	ErrUnavailable = errors.New("the Tailscale API has a problem")
	// ErrUnreachable: there was no connection to the API, or it broke.
	ErrUnreachable = errors.New("the Tailscale API cannot be reached")
	// ErrTimeout: the API did not answer in time.
	ErrTimeout = errors.New("the Tailscale API does not answer in time")
	// ErrNameNotResolved: the name of the API has no address here.
	ErrNameNotResolved = errors.New("the name of the Tailscale API cannot be resolved")
	// ErrNotFound: what the call is about does not exist.
	ErrNotFound = errors.New("not found by the Tailscale API")
	// ErrRejected: the API takes the request for wrong.
	ErrRejected = errors.New("the Tailscale API rejects the request")
)

// Error is an answer of the admin API that is none of success, or the lack of one.
type Error struct {
	// Kind is one of the errors above. It is what the error wraps.
	Kind error
	// Status is the HTTP status, 0 if there was no answer.
	Status int
	// Message is what the API says, or why there was no answer.
	Message string
	// RetryAfter is how long to wait before the next call, zero if that is left to the caller.
	RetryAfter time.Duration
}

func (e *Error) Error() string {
	s := e.Kind.Error()
	if e.Status != 0 {
		s += fmt.Sprintf(" (status %d)", e.Status)
	}
	if e.Message != "" {
		s += ": " + e.Message
	}
	return s
}

func (e *Error) Unwrap() error { return e.Kind }

// MissingScopesError reports scopes that the credentials lack. It wraps [ErrForbidden].
type MissingScopesError struct {
	// Scopes are those that they lack altogether, ReadOnly those in which they may only read.
	Scopes, ReadOnly []Scope
	// Message is what the API said, if it did.
	Message string
}

func (e *MissingScopesError) Error() string {
	s := ErrForbidden.Error()
	if len(e.Scopes) > 0 {
		s += "; missing scope " + joinScopes(e.Scopes)
	}
	if len(e.ReadOnly) > 0 {
		s += "; read-only scope " + joinScopes(e.ReadOnly)
	}
	if e.Message != "" {
		s += ": " + e.Message
	}
	return s
}

func (e *MissingScopesError) Unwrap() error { return ErrForbidden }

func joinScopes(scopes []Scope) string {
	var out []string
	for _, s := range scopes {
		out = append(out, string(s))
	}
	return strings.Join(out, ", ")
}

// silence makes an error of the lack of an answer. Its message has no address of the hub's own, whose port differs from
// try to try: a condition would change each time.
func silence(err error) *Error {
	if e, ok := errors.AsType[*net.DNSError](err); ok {
		return &Error{Kind: ErrNameNotResolved, Message: strings.TrimSpace(e.Name + " " + e.Err)}
	}
	if e, ok := errors.AsType[net.Error](err); ok && e.Timeout() || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded) {
		return &Error{Kind: ErrTimeout}
	}
	if e, ok := errors.AsType[*net.OpError](err); ok {
		return &Error{Kind: ErrUnreachable, Message: e.Op + ": " + e.Err.Error()}
	}
	return &Error{Kind: ErrUnreachable, Message: err.Error()}
}

// maxMessage bounds, in bytes, how much of an answer becomes part of an error.
const maxMessage = 300

// errorOf makes an error of an answer. The body may be anything, as when a proxy on the way answers.
func errorOf(status int, retryAfter time.Duration, body []byte) *Error {
	e := &Error{Status: status, RetryAfter: retryAfter, Message: messageOf(body)}
	switch {
	case status == http.StatusUnauthorized:
		e.Kind = ErrUnauthorized
	case status == http.StatusForbidden:
		e.Kind = ErrForbidden
	case status == http.StatusTooManyRequests:
		e.Kind = ErrRateLimited
	case status == http.StatusNotFound:
		e.Kind = ErrNotFound
	case status >= http.StatusInternalServerError:
		e.Kind = ErrUnavailable
	default:
		e.Kind = ErrRejected
	}
	return e
}

// notOurs is said of an answer that somebody else gave.
const notOurs = "the answer is not the API's own"

// messageOf returns what the API says: its message, or that of the OAuth protocol. A body that is not JSON comes from
// somebody else on the way, and its status says enough.
func messageOf(body []byte) string {
	var answer struct {
		Message     string `json:"message"`
		Error       string `json:"error"`
		Description string `json:"error_description"`
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		return notOurs
	}
	message := answer.Message
	if message == "" {
		message = strings.TrimSpace(answer.Error + " " + answer.Description)
	}
	if len(message) > maxMessage {
		message = strings.ToValidUTF8(message[:maxMessage], "") + "…"
	}
	return message
}
