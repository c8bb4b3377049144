package probe

import (
	"context"
	"errors"
	"net"
	"slices"
	"syscall"
)

// Reason says why a target is not reachable.
type Reason string

const (
	// Refused: a host answered that nobody listens there.
	Refused Reason = "refused"
	// Reset: the connection was reset after it had been established.
	Reset Reason = "reset"
	// WrongHost: somebody answered who is not an ingress host of the cluster.
	WrongHost Reason = "wrong-host"
	// Timeout: nobody answered in time.
	Timeout Reason = "timeout"
	// NoRoute: the tailnet has no way to the address, or the target has no address.
	NoRoute Reason = "no-route"
	// Failed: anything else.
	Failed Reason = "failed"
)

// telling are the reasons, those first that say most of where the fault is.
var telling = []Reason{Refused, Reset, WrongHost, Timeout, NoRoute, Failed}

// ErrNoRoute is returned, wrapped, by dial functions for an address that no peer of the tailnet owns.
var ErrNoRoute = errors.New("no peer of the tailnet has this address")

func (r Reason) tellsMore(o Reason) bool {
	return slices.Index(telling, r) < slices.Index(telling, o)
}

func reasonOf(err error) Reason {
	var netErr net.Error
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return Refused
	case errors.Is(err, syscall.ECONNRESET):
		return Reset
	case errors.Is(err, ErrGreeting):
		return WrongHost
	case errors.Is(err, ErrNoRoute), errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH):
		return NoRoute
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &netErr) && netErr.Timeout():
		return Timeout
	}
	return Failed
}
