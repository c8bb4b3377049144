package router

import (
	"math"
	"net/http"
	"strconv"
	"time"
)

// StreamLimit returns how long a whole stream with these headers may take; 0: without end. The deadline of grpc-timeout
// counts in place of the route's own limit where the route says so.
func (f *Forward) StreamLimit(h http.Header) time.Duration {
	if f.GRPCTimeout {
		if d, ok := grpcTimeout(h.Get("Grpc-Timeout")); ok {
			if f.MaxGRPCTimeout > 0 {
				d = min(d, f.MaxGRPCTimeout)
			}
			return d
		}
	}
	return f.MaxDuration
}

var grpcUnits = map[byte]time.Duration{
	'H': time.Hour, 'M': time.Minute, 'S': time.Second, 'm': time.Millisecond, 'u': time.Microsecond, 'n': time.Nanosecond,
}

// grpcTimeout reads a header such as 20S, at most 8 digits and a unit.
func grpcTimeout(text string) (time.Duration, bool) {
	if len(text) < 2 || len(text) > 9 {
		return 0, false
	}
	n, err := strconv.ParseUint(text[:len(text)-1], 10, 32)
	unit, ok := grpcUnits[text[len(text)-1]]
	if err != nil || !ok {
		return 0, false
	}
	if time.Duration(n) > math.MaxInt64/unit {
		return math.MaxInt64, true
	}
	return time.Duration(n) * unit, true
}
