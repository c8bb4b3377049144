package tailnet

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"
)

// Why a call of the admin API failed. Errors of [API] wrap one of them.
var (
	// ErrUnauthorized: the OAuth client is wrong, revoked or expired.
	ErrUnauthorized = errors.New("the Tailscale API refuses the OAuth client: it is wrong, revoked or expired")
	// ErrForbidden: the OAuth client lacks a scope, or may not use a tag.
	ErrForbidden = errors.New("the Tailscale API forbids the call: the OAuth client lacks a scope or may not use a tag")
	// ErrRateLimited: the API asks to be called less often.
	ErrRateLimited = errors.New("the Tailscale API asks to be called less often")
	// ErrUnavailable: the API answered that it has a problem of its own.
	ErrUnavailable = errors.New("the Tailscale API has a problem")
	// ErrUnreachable: the API did not answer.
	ErrUnreachable = errors.New("the Tailscale API does not answer")
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

// messageOf returns what the API says: its message, or that of the OAuth protocol. A body that is not JSON comes from
// somebody else on the way, and its status says enough.
func messageOf(body []byte) string {
	var answer struct {
		Message     string `json:"message"`
		Error       string `json:"error"`
		Description string `json:"error_description"`
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		return "the answer is not the API's own"
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
