package router_test

import (
	"net/http"
	"testing"
	"time"

	"github.com/tailgate-project/tailgate/e2e-kind/standin/router"
)

func TestStreamLimit(t *testing.T) {
	for _, tc := range []struct {
		name    string
		forward router.Forward
		header  string
		want    time.Duration
	}{
		{"none", router.Forward{}, "1S", 0},
		{"of-the-route", router.Forward{MaxDuration: time.Minute}, "1S", time.Minute},
		{"of-the-client", router.Forward{GRPCTimeout: true}, "250m", 250 * time.Millisecond},
		{"bounded", router.Forward{GRPCTimeout: true, MaxGRPCTimeout: time.Minute}, "99999999H", time.Minute},
		{"client-says-nothing", router.Forward{GRPCTimeout: true, MaxDuration: time.Hour}, "", time.Hour},
		{"nonsense", router.Forward{GRPCTimeout: true, MaxDuration: time.Hour}, "soon", time.Hour},
		{"too-many-digits", router.Forward{GRPCTimeout: true}, "999999999S", 0},
		{"unknown-unit", router.Forward{GRPCTimeout: true}, "5x", 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			h := http.Header{}
			if tc.header != "" {
				h.Set("Grpc-Timeout", tc.header)
			}
			if got := tc.forward.StreamLimit(h); got != tc.want {
				t.Errorf("got %v, want %v", got, tc.want)
			}
		})
	}
}
