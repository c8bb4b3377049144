package upstream

import (
	"testing"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// The shares are those of the tables in Envoy's documentation of priority levels, degraded endpoints and panic.
func TestComputeLoads(t *testing.T) {
	of100 := func(healthy ...int) []tally {
		var all []tally
		for _, h := range healthy {
			all = append(all, tally{total: 100, healthy: h})
		}
		return all
	}
	for _, tt := range []struct {
		name     string
		in       []tally
		panicAt  float64
		excluded []bool
		want     loads
	}{
		{name: "first-takes-all", in: of100(100, 100), panicAt: 50, want: loads{healthy: []int{100, 0}}},
		{name: "overprovisioning-hides-a-loss", in: of100(72, 100), panicAt: 50, want: loads{healthy: []int{100, 0}}},
		{name: "graduated-spill", in: of100(50, 100), panicAt: 50, want: loads{healthy: []int{70, 30}}},
		{name: "most-spills", in: of100(25, 100), panicAt: 50, want: loads{healthy: []int{35, 65}}},
		{name: "first-gone", in: of100(0, 100), panicAt: 50, want: loads{healthy: []int{0, 100}}},
		{name: "three-levels", in: of100(25, 25, 100), panicAt: 50, want: loads{healthy: []int{35, 35, 30}}},
		{name: "not-enough-anywhere", in: of100(25, 25), panicAt: 50, want: loads{healthy: []int{50, 50}, panic: []bool{true, true}}},
		{name: "all-gone-is-total-panic", in: of100(0, 0), panicAt: 50, want: loads{healthy: []int{50, 50}, panic: []bool{true, true}}},
		{name: "all-gone-by-number-of-hosts", in: []tally{{total: 3}, {total: 1}}, panicAt: 50, want: loads{healthy: []int{75, 25}, panic: []bool{true, true}}},
		{name: "all-gone-without-panic", in: of100(0, 0), panicAt: 0, want: loads{healthy: []int{100, 0}}},
		{name: "degraded-after-healthy", in: []tally{{total: 100, healthy: 25, degraded: 75}, {total: 100, healthy: 25}}, panicAt: 50,
			want: loads{healthy: []int{35, 35}, degraded: []int{30, 0}}},
		{name: "priority-without-hosts", in: []tally{{}, {total: 1, healthy: 1}}, panicAt: 50, want: loads{healthy: []int{0, 100}}},
		{name: "excluded", in: of100(100, 100), panicAt: 50, excluded: []bool{true, false}, want: loads{healthy: []int{0, 100}}},
		{name: "nothing", in: nil, panicAt: 50, want: loads{}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			n := len(tt.in)
			want := loads{healthy: make([]int, n), degraded: make([]int, n), panic: make([]bool, n)}
			copy(want.healthy, tt.want.healthy)
			copy(want.degraded, tt.want.degraded)
			copy(want.panic, tt.want.panic)
			got := computeLoads(tt.in, 140, tt.panicAt, tt.excluded)
			if d := cmp.Diff(want, got, cmp.AllowUnexported(loads{})); d != "" {
				t.Errorf("loads (-want +got):\n%s", d)
			}
		})
	}
}

func TestOutlierDetection(t *testing.T) {
	const base = 10 * time.Second
	start := time.Unix(1_000_000, 0)
	type step struct {
		host    int
		code    int // 0: a local failure
		changed bool
	}
	for _, tt := range []struct {
		name  string
		spec  *clusterv3.OutlierDetection
		hosts int
		steps []step
	}{
		{name: "run-of-5xx", hosts: 1, spec: &clusterv3.OutlierDetection{Consecutive_5Xx: wrapperspb.UInt32(2), MaxEjectionPercent: wrapperspb.UInt32(100)},
			steps: []step{{code: 500}, {code: 500, changed: true}}},
		{name: "success-breaks-the-run", hosts: 1, spec: &clusterv3.OutlierDetection{Consecutive_5Xx: wrapperspb.UInt32(2), MaxEjectionPercent: wrapperspb.UInt32(100)},
			steps: []step{{code: 500}, {code: 200}, {code: 500}, {code: 500, changed: true}}},
		{name: "resets-count-as-5xx", hosts: 1, spec: &clusterv3.OutlierDetection{Consecutive_5Xx: wrapperspb.UInt32(2), MaxEjectionPercent: wrapperspb.UInt32(100)},
			steps: []step{{}, {changed: true}}},
		{name: "gateway-failures-only-where-enforced", hosts: 1,
			spec:  &clusterv3.OutlierDetection{ConsecutiveGatewayFailure: wrapperspb.UInt32(1), MaxEjectionPercent: wrapperspb.UInt32(100)},
			steps: []step{{code: 503}}},
		{name: "gateway-failures", hosts: 1,
			spec: &clusterv3.OutlierDetection{ConsecutiveGatewayFailure: wrapperspb.UInt32(1), EnforcingConsecutiveGatewayFailure: wrapperspb.UInt32(100),
				MaxEjectionPercent: wrapperspb.UInt32(100)},
			steps: []step{{code: 500}, {code: 503, changed: true}}},
		{name: "split-local-errors", hosts: 1,
			spec: &clusterv3.OutlierDetection{SplitExternalLocalOriginErrors: true, ConsecutiveLocalOriginFailure: wrapperspb.UInt32(2),
				Consecutive_5Xx: wrapperspb.UInt32(1), MaxEjectionPercent: wrapperspb.UInt32(100)},
			steps: []step{{}, {code: 200}, {}, {changed: true}}},
		{name: "default-percentage-spares-a-small-cluster", hosts: 2, spec: &clusterv3.OutlierDetection{Consecutive_5Xx: wrapperspb.UInt32(1)},
			steps: []step{{code: 500}}},
		{name: "always-one-host", hosts: 2,
			spec:  &clusterv3.OutlierDetection{Consecutive_5Xx: wrapperspb.UInt32(1), AlwaysEjectOneHost: wrapperspb.Bool(true)},
			steps: []step{{code: 500, changed: true}, {host: 1, code: 500}}},
		{name: "half", hosts: 2, spec: &clusterv3.OutlierDetection{Consecutive_5Xx: wrapperspb.UInt32(1), MaxEjectionPercent: wrapperspb.UInt32(50)},
			steps: []step{{code: 500, changed: true}, {host: 1, code: 500}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.spec.BaseEjectionTime = durationpb.New(base)
			d := newDetector(compileOutlier(tt.spec))
			hosts, keyed := []*host{}, map[string]*host{}
			for i := range tt.hosts {
				h := &host{key: string(rune('a' + i))}
				hosts, keyed[h.key] = append(hosts, h), h
			}
			d.keep(keyed)
			ejected := false
			for i, s := range tt.steps {
				var changed bool
				if s.code == 0 {
					changed = d.local(hosts[s.host], false, start)
				} else {
					changed = d.status(hosts[s.host], s.code, start)
				}
				if changed != s.changed {
					t.Errorf("step %d: ejected %t, want %t", i, changed, s.changed)
				}
				ejected = ejected || changed
			}
			if d.tick(start.Add(base - 1)) {
				t.Error("the ejection ended too early")
			}
			if d.tick(start.Add(base)) != ejected || d.ejected(hosts[0]) {
				t.Error("the ejection did not end after its time")
			}
		})
	}
}

func TestRepeatedEjectionsLastLonger(t *testing.T) {
	d := newDetector(compileOutlier(&clusterv3.OutlierDetection{Consecutive_5Xx: wrapperspb.UInt32(1), MaxEjectionPercent: wrapperspb.UInt32(100),
		BaseEjectionTime: durationpb.New(time.Second), MaxEjectionTime: durationpb.New(2 * time.Second)}))
	h := &host{key: "a"}
	d.keep(map[string]*host{"a": h})
	now := time.Unix(1_000_000, 0)
	for i, want := range []time.Duration{time.Second, 2 * time.Second, 2 * time.Second} {
		d.status(h, 500, now)
		if d.tick(now.Add(want-1)) || !d.tick(now.Add(want)) {
			t.Errorf("ejection %d did not last %s", i+1, want)
		}
		now = now.Add(want)
	}
	d.status(h, 500, now)
	if !d.checked(h) || d.ejected(h) {
		t.Error("a passed health check did not end the ejection")
	}
	d.keep(nil)
	if d.status(h, 500, now) {
		t.Error("a host that left was ejected")
	}
}
