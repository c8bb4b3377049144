package failover_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/federation/failover"
)

// probes is what observers see of c2, again and again; c1 is the one whose view is asked for first.
type probes []failover.Observed

var (
	nobody    = probes(nil)
	reached   = probes{sees("c1", "c2", true), sees("c3", "c2", true), sees("c4", "c2", true)}
	unreached = probes{sees("c1", "c2", false), sees("c3", "c2", false), sees("c4", "c2", true)}
	split     = probes{sees("c1", "c2", false), sees("c3", "c2", true), sees("c4", "c2", true)}
)

// TestEveryPairOfSignals crosses every control view with every data view, and looks before and after the grace time of
// five seconds: at c1, whose observer is the first to fail, and at c9, which observes nothing.
func TestEveryPairOfSignals(t *testing.T) {
	type seen struct {
		health federation.Health
		reason failover.Reason
		stale  bool
	}
	up := seen{reason: failover.Serving}
	stale := seen{reason: failover.ServingStale, stale: true}
	down := func(r failover.Reason) seen { return seen{health: federation.Unhealthy, reason: r} }
	blind := down(failover.UnreachableByObserver)
	blindStale := seen{health: federation.Unhealthy, reason: failover.UnreachableByObserver, stale: true}
	none, quorum := down(failover.NoReadyEndpoints), down(failover.UnreachableByQuorum)
	unreachable, unobserved := down(failover.ControlLostUnreachable), down(failover.ControlLostUnobserved)
	const linkLost, apiLost = "link-lost", "api-lost"
	noneStale := seen{health: federation.Unhealthy, reason: failover.NoReadyEndpoints, stale: true}
	tests := []struct {
		control string
		data    string
		ready   int
		probes
		// early is at 4.5 s, late at 20 s; c1's view, then c9's.
		early, late [2]seen
	}{
		{control: "ready", ready: 1, data: "reachable", probes: reached, early: [2]seen{up, up}, late: [2]seen{up, up}},
		{control: "ready", ready: 1, data: "quorum-fails", probes: unreached, early: [2]seen{quorum, quorum}, late: [2]seen{quorum, quorum}},
		{control: "ready", ready: 1, data: "one-fails", probes: split, early: [2]seen{blind, up}, late: [2]seen{blind, up}},
		{control: "ready", ready: 1, data: "unobserved", probes: nobody, early: [2]seen{up, up}, late: [2]seen{up, up}},
		{control: "none-ready", data: "reachable", probes: reached, early: [2]seen{none, none}, late: [2]seen{none, none}},
		{control: "none-ready", data: "quorum-fails", probes: unreached, early: [2]seen{quorum, quorum}, late: [2]seen{quorum, quorum}},
		{control: "none-ready", data: "one-fails", probes: split, early: [2]seen{blind, none}, late: [2]seen{blind, none}},
		{control: "none-ready", data: "unobserved", probes: nobody, early: [2]seen{none, none}, late: [2]seen{none, none}},
		{control: linkLost, ready: 1, data: "reachable", probes: reached, early: [2]seen{stale, stale}, late: [2]seen{stale, stale}},
		{control: linkLost, ready: 1, data: "quorum-fails", probes: unreached, early: [2]seen{quorum, quorum}, late: [2]seen{quorum, quorum}},
		{control: linkLost, ready: 1, data: "one-fails", probes: split, early: [2]seen{blindStale, stale}, late: [2]seen{unreachable, unreachable}},
		{control: linkLost, ready: 1, data: "unobserved", probes: nobody, early: [2]seen{stale, stale}, late: [2]seen{unobserved, unobserved}},
		{control: linkLost, data: "reachable", probes: reached, early: [2]seen{noneStale, noneStale}, late: [2]seen{noneStale, noneStale}},
		{control: apiLost, ready: 1, data: "reachable", probes: reached, early: [2]seen{stale, stale}, late: [2]seen{stale, stale}},
		{control: apiLost, ready: 1, data: "quorum-fails", probes: unreached, early: [2]seen{quorum, quorum}, late: [2]seen{quorum, quorum}},
		{control: apiLost, ready: 1, data: "one-fails", probes: split, early: [2]seen{blindStale, stale}, late: [2]seen{unreachable, unreachable}},
		{control: apiLost, ready: 1, data: "unobserved", probes: nobody, early: [2]seen{stale, stale}, late: [2]seen{stale, stale}},
	}
	for _, tt := range tests {
		t.Run(fmt.Sprintf("%s-%d-and-%s", tt.control, tt.ready, tt.data), func(t *testing.T) {
			b := newBench(t)
			b.do(failover.LinkChanged{Cluster: "c2", Up: true})
			b.do(failover.APIChanged{Cluster: "c2", Up: true})
			for _, o := range tt.probes { // what was before, so that no single first observation is a quorum
				b.see(o.Observer, "c2", true)
			}
			b.export(c2, tt.ready)
			b.do(failover.LinkChanged{Cluster: "c2", Up: tt.control != linkLost})
			b.do(failover.APIChanged{Cluster: "c2", Up: tt.control != apiLost})
			for _, look := range []struct {
				at   time.Duration
				want [2]seen
			}{{4500 * time.Millisecond, tt.early}, {20 * time.Second, tt.late}} {
				b.keep(look.at, tt.probes...)
				for i, consumer := range []federation.ClusterID{"c1", "c9"} {
					v, _ := b.state.Verdict(c2, consumer)
					if got := (seen{v.Health, v.Reason, v.Stale}); got != look.want[i] {
						t.Errorf("%s at +%v: got %+v, want %+v", consumer, look.at, got, look.want[i])
					}
				}
			}
		})
	}
}

// TestAnExportIsAsGoodAsTheWorse composes what is known of the cluster with what is known of the export, for
// everybody and for one consumer.
func TestAnExportIsAsGoodAsTheWorse(t *testing.T) {
	vip := func(observer federation.ClusterID, reachable bool) failover.Observed {
		return failover.Observed{Observer: observer, Target: federation.Target(c2), Reachable: reachable}
	}
	const byAll, byOne, serving = failover.UnreachableByQuorum, failover.UnreachableByObserver, failover.Serving
	views := map[string]struct{ cluster, vip probes }{
		"fine":         {cluster: reached, vip: probes{vip("c1", true), vip("c3", true), vip("c4", true)}},
		"fails-for-c1": {cluster: split, vip: probes{vip("c1", false), vip("c3", true), vip("c4", true)}},
		"fails":        {cluster: unreached, vip: probes{vip("c1", false), vip("c3", false), vip("c4", true)}},
	}
	tests := []struct {
		cluster, export string
		c1, c3, c9      failover.Reason
	}{
		{cluster: "fine", export: "fine", c1: serving, c3: serving, c9: serving},
		{cluster: "fine", export: "fails-for-c1", c1: byOne, c3: serving, c9: serving},
		{cluster: "fine", export: "fails", c1: byAll, c3: byAll, c9: byAll},
		{cluster: "fails-for-c1", export: "fine", c1: byOne, c3: serving, c9: serving},
		{cluster: "fails-for-c1", export: "fails-for-c1", c1: byOne, c3: serving, c9: serving},
		{cluster: "fails-for-c1", export: "fails", c1: byOne, c3: byAll, c9: byAll},
		{cluster: "fails", export: "fine", c1: byAll, c3: byAll, c9: byAll},
		{cluster: "fails", export: "fails-for-c1", c1: byAll, c3: byAll, c9: byAll},
		{cluster: "fails", export: "fails", c1: byAll, c3: byAll, c9: byAll},
	}
	for _, tt := range tests {
		t.Run("cluster-"+tt.cluster+"-export-"+tt.export, func(t *testing.T) {
			b := newBench(t)
			b.export(c2, 1)
			all := append(append(probes(nil), views[tt.cluster].cluster...), views[tt.export].vip...)
			for _, o := range all {
				o.Reachable, o.At = true, b.now
				b.do(o)
			}
			b.keep(5*time.Second, all...)
			for consumer, want := range map[federation.ClusterID]failover.Reason{"c1": tt.c1, "c3": tt.c3, "c9": tt.c9} {
				h := federation.Unhealthy
				if want == serving {
					h = federation.Healthy
				}
				b.wantVerdict(c2, consumer, h, want)
			}
		})
	}
}
