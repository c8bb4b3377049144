// Package checks judges an endpoint by the results of its health checks: so many good ones in a row make it healthy, so
// many bad ones unhealthy.
package checks

import (
	"time"
)

// Thresholds are how many results in a row count. Those below 1 are taken for 1.
type Thresholds struct{ Healthy, Unhealthy int }

// Result is what one check found.
type Result struct {
	OK bool
	At time.Time
	// Reason says in a word why it is not OK.
	Reason string
	// Row is how many results in a row were like this one, itself among them, where that is known: it stands for all of
	// them then, whether or not they were recorded. With 0 it is one more than those that were.
	Row int
}

// State is the verdict on an endpoint.
type State int

// The verdicts. An endpoint is Unknown until as many results in a row as a verdict takes.
const (
	Unknown State = iota
	Healthy
	Unhealthy
)

// String returns the verdict as it is written in a status.
func (s State) String() string {
	switch s {
	case Healthy:
		return "Healthy"
	case Unhealthy:
		return "Unhealthy"
	}
	return "Unknown"
}

// Health is what is known of one endpoint. Use [New].
//
// The laws: the verdict changes only with a result that completes a row; a row is broken by one result to the contrary;
// results older than the last one count for nothing, and the last one recorded again counts once if it has its Row.
type Health struct {
	thresholds Thresholds
	state      State
	// row counts the results in a row that were like the last one.
	row    int
	last   Result
	failed Result
}

// New returns the health of an endpoint that was never checked.
func New(t Thresholds) *Health {
	return &Health{thresholds: Thresholds{Healthy: max(t.Healthy, 1), Unhealthy: max(t.Unhealthy, 1)}}
}

// Record takes a result and reports whether the verdict changed.
func (h *Health) Record(r Result) bool {
	if r.At.Before(h.last.At) {
		return false
	}
	if r.OK != h.last.OK {
		h.row = 0
	}
	if h.row++; r.Row > 0 {
		h.row = r.Row
	}
	h.last = r
	verdict, enough := Healthy, h.thresholds.Healthy
	if !r.OK {
		h.failed = r
		verdict, enough = Unhealthy, h.thresholds.Unhealthy
	}
	if h.row < enough || h.state == verdict {
		return false
	}
	h.state = verdict
	return true
}

// State returns the verdict.
func (h *Health) State() State { return h.state }

// Last returns the last result, the zero value before the first.
func (h *Health) Last() Result { return h.last }

// Failed returns the last bad result, the zero value before the first. It is kept when the endpoint recovers.
func (h *Health) Failed() Result { return h.failed }
