package failover_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/federation/failover"
)

// TestDryRun asks what a drain and a loss would do: the answer comes to its end, and nothing happens.
func TestDryRun(t *testing.T) {
	b := newBench(t)
	b.up("c2")
	b.export(c2, 1)
	b.see("c1", "c2", true)
	at, _ := b.state.Deadline()
	type told struct {
		At       time.Duration
		Consumer federation.ClusterID
		To       federation.Health
		Reason   failover.Reason
	}
	tests := []struct {
		name    string
		events  []failover.Event
		horizon time.Duration
		want    []told
		verdict failover.Verdict
	}{
		{
			name: "drain", horizon: time.Minute, events: []failover.Event{failover.Operated{Subject: cluster2, Mode: failover.Drain, Ramp: 20 * time.Second}},
			want:    []told{{Reason: failover.Draining}, {At: 20 * time.Second, To: federation.Unhealthy, Reason: failover.Drained}},
			verdict: failover.Verdict{Health: federation.Unhealthy, Reason: failover.Drained, Since: start.Add(20 * time.Second)},
		},
		{
			name: "half-a-drain", horizon: 10 * time.Second, events: []failover.Event{failover.Operated{Subject: cluster2, Mode: failover.Drain, Ramp: 20 * time.Second}},
			want:    []told{{Reason: failover.Draining}},
			verdict: failover.Verdict{Reason: failover.Draining, Share: 50},
		},
		{
			name: "what-is-observed-stays", horizon: time.Hour, events: []failover.Event{failover.LinkChanged{Cluster: "c2"}},
			verdict: failover.Verdict{Reason: failover.ServingStale, Stale: true, Share: 100},
		},
		{
			name: "loss", horizon: time.Hour, events: []failover.Event{seen("c1", "c2", false)},
			want: []told{
				{To: federation.Unhealthy, Reason: failover.UnreachableByQuorum},
				{Consumer: "c1", To: federation.Unhealthy, Reason: failover.UnreachableByObserver},
			},
			verdict: failover.Verdict{Health: federation.Unhealthy, Reason: failover.UnreachableByQuorum, Share: 100, Since: start},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			out := b.state.DryRun(tt.events, b.now, tt.horizon)
			var got []told
			for _, d := range out.Decisions {
				got = append(got, told{d.At.Sub(start), d.Consumer, d.To, d.Reason})
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("decisions (-want +got)\n%s", diff)
			}
			v, _ := out.State.Verdict(c2, "c9")
			if diff := cmp.Diff(tt.verdict, v); diff != "" {
				t.Errorf("verdict (-want +got)\n%s", diff)
			}
			if len(out.Touched) == 0 {
				t.Error("nobody is touched")
			}
			b.wantVerdict(c2, "c9", federation.Healthy, failover.Serving)
			if now, _ := b.state.Deadline(); !now.Equal(at) {
				t.Errorf("the state that was asked is due at %v, was at %v", now, at)
			}
		})
	}
}

// TestADryRunOfALateState has ticks that are overdue: what they bring comes now and not in the past.
func TestADryRunOfALateState(t *testing.T) {
	b := newBench(t)
	b.export(c2, 1)
	b.do(failover.LinkChanged{Cluster: "c2"})
	now := start.Add(time.Minute)
	out := b.state.DryRun(nil, now, time.Second)
	if len(out.Decisions) != 1 || !out.Decisions[0].At.Equal(now) || out.Decisions[0].Reason != failover.ControlLostUnobserved {
		t.Errorf("decisions %+v", out.Decisions)
	}
}
