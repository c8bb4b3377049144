package probe

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"syscall"
)

// Reason says in a word why a target is not well. There are fewer than six hundred in all, so it can label a metric.
type Reason string

const (
	// Refused: a host answered that nobody listens there.
	Refused Reason = "refused"
	// Reset: the connection was reset after it had been established.
	Reset Reason = "reset"
	// Closed: the connection was closed before a whole answer.
	Closed Reason = "closed"
	// WrongHost: somebody answered who is not an ingress host of the cluster.
	WrongHost Reason = "wrong-host"
	// WrongProtocol: what answered does not speak what the check asks in.
	WrongProtocol Reason = "wrong-protocol"
	// TLSHandshake: the two could not agree on TLS.
	TLSHandshake Reason = "tls-handshake"
	// NotServing: the gRPC service says that it is not serving.
	NotServing Reason = "not-serving"
	// UnknownService: the gRPC server does not know the service that it was asked about.
	UnknownService Reason = "unknown-service"
	// NoHealthService: the gRPC server has no health service to ask.
	NoHealthService Reason = "no-health-service"
	// UnknownName: no device or service of the tailnet has this name.
	UnknownName Reason = "unknown-name"
	// Timeout: nobody answered in time.
	Timeout Reason = "timeout"
	// NoRoute: the tailnet has no way to the address, or the target has no address.
	NoRoute Reason = "no-route"
	// Failed: anything else.
	Failed Reason = "failed"
)

// statusReason is that of an HTTP status which is not expected, such as status-503.
func statusReason(status int) Reason {
	if status < 100 || status > 599 {
		return WrongProtocol
	}
	return Reason(fmt.Sprintf("status-%d", status))
}

// telling are the reasons, those first that say most of where the fault is. What is not among them is an answer of the
// target's own, and says more than any.
var telling = []Reason{
	NotServing, UnknownService, NoHealthService, WrongProtocol, TLSHandshake, Refused, Reset, Closed, WrongHost, Timeout,
	UnknownName, NoRoute, Failed,
}

// ErrNoRoute is returned, wrapped, by dial functions for an address that no peer of the tailnet owns.
var ErrNoRoute = errors.New("no peer of the tailnet has this address")

// ErrUnknownName is returned, wrapped, by dial functions for a name that nobody has.
var ErrUnknownName = errors.New("no device or service of the tailnet has this name")

func (r Reason) tellsMore(o Reason) bool {
	return slices.Index(telling, r) < slices.Index(telling, o)
}

// failure is an error whose reason is known where it happens.
type failure struct {
	reason Reason
	err    error
}

func (f *failure) Error() string { return fmt.Sprintf("%s: %v", f.reason, f.err) }

func (f *failure) Unwrap() error { return f.err }

func fail(reason Reason, format string, args ...any) error {
	return &failure{reason: reason, err: fmt.Errorf(format, args...)}
}

// connectionReason is that of a connection that failed, if that is why there is an error.
func connectionReason(err error) (Reason, bool) {
	var netErr net.Error
	switch {
	case errors.Is(err, ErrUnknownName):
		return UnknownName, true
	case errors.Is(err, syscall.ECONNREFUSED):
		return Refused, true
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE), errors.Is(err, syscall.ECONNABORTED):
		return Reset, true
	case errors.Is(err, ErrNoRoute), errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH):
		return NoRoute, true
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &netErr) && netErr.Timeout():
		return Timeout, true
	}
	return Failed, false
}

func reasonOf(err error) Reason {
	if f, ok := errors.AsType[*failure](err); ok {
		return f.reason
	}
	if reason, ok := connectionReason(err); ok {
		return reason
	}
	if errors.Is(err, ErrGreeting) {
		return WrongHost
	}
	return Failed
}
