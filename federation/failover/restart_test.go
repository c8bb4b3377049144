package failover_test

import (
	"maps"
	"testing"
	"time"

	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/federation/failover"
	"github.com/tailgate-project/tailgate/federation/policy"
)

// kept is what the store would hold of a bench.
type kept struct {
	exports  map[federation.ExportKey]failover.Saved
	clusters map[federation.ClusterID]failover.SavedCluster
}

// stored plays events at their times, each after its predecessor, and returns what was stored.
func stored(b *bench, events ...failover.Event) kept {
	k := kept{exports: map[federation.ExportKey]failover.Saved{}, clusters: map[federation.ClusterID]failover.SavedCluster{}}
	for _, e := range events {
		tr := b.state.Plan(e, b.now)
		b.state.Apply(tr)
		exports, clusters := tr.Save()
		keep(k.exports, exports)
		keep(k.clusters, clusters)
	}
	return k
}

// restarted returns a bench on a state that was restored from the store at a time after the start.
func (k kept) restarted(b *bench, at time.Duration) *bench {
	r := &bench{T: b.T, state: failover.New(config, b.state.Policies()), now: start.Add(at)}
	for _, c := range k.clusters {
		r.state.RestoreCluster(c, r.now)
	}
	for _, x := range k.exports {
		r.state.Restore(x, r.now)
	}
	return r
}

// seen is what an observer saw at the start.
func seen(observer, cluster federation.ClusterID, reachable bool) failover.Observed {
	o := sees(observer, cluster, reachable)
	o.At = start
	return o
}

var newC2 = failover.ExportChanged{Export: federation.Export{Key: c2, Ready: 1}}

// TestSilenceAfterARestart neither recovers what is down nor evicts what serves.
func TestSilenceAfterARestart(t *testing.T) {
	b := newBench(t)
	k := stored(b, newC2, failover.ExportChanged{Export: federation.Export{Key: c3, Ready: 1}},
		failover.LinkChanged{Cluster: "c2", Up: true}, seen("c1", "c2", false), seen("c1", "c2", true))
	if saved := k.clusters["c2"].Cells; len(saved) != 2 || saved[0].GoodSince.IsZero() {
		t.Fatalf("not about to come back: %+v", saved)
	}
	r := k.restarted(b, time.Hour)
	r.wantVerdict(c2, "c9", federation.Unhealthy, failover.UnreachableByQuorum)
	r.until(24 * time.Hour)
	r.wantVerdict(c2, "c9", federation.Unhealthy, failover.UnreachableByQuorum)
	r.wantVerdict(c3, "c9", federation.Healthy, failover.Serving)
	if at, ok := r.state.Deadline(); ok {
		t.Errorf("due at +%v, though nothing may change", at.Sub(start))
	}
}

// TestARestartBreaksTheFailbackDelay has a member speak up before anything else is looked at: what was about to come
// back when the hub went away was not seen for an hour.
func TestARestartBreaksTheFailbackDelay(t *testing.T) {
	b := newBench(t)
	k := stored(b, newC2, failover.LinkChanged{Cluster: "c2", Up: true}, seen("c1", "c2", false), seen("c1", "c2", true))
	r := k.restarted(b, time.Hour)
	r.do(failover.LinkChanged{Cluster: "c2", Up: true})
	r.until(time.Hour + 9999*time.Millisecond)
	r.wantVerdict(c2, "c9", federation.Unhealthy, failover.UnreachableByQuorum)
	r.until(time.Hour + 10*time.Second)
	r.wantVerdict(c2, "c9", federation.Healthy, failover.Serving)
}

func TestARestartInADrain(t *testing.T) {
	b := newBench(t)
	k := stored(b, newC2, failover.Operated{Subject: cluster2, Mode: failover.Drain, Ramp: 100 * time.Second},
		failover.Operated{Subject: federation.Target(c2), Mode: failover.Cordon})
	r := k.restarted(b, 55*time.Second)
	v, _ := r.state.Verdict(c2, "c9")
	if v.Share != 50 || !v.Cordoned || v.Reason != failover.Draining {
		t.Errorf("after the restart: %+v", v)
	}
	r.until(100 * time.Second)
	r.wantVerdict(c2, "c9", federation.Unhealthy, failover.Drained)
	r = k.restarted(b, time.Hour) // it ended while the hub was away
	r.do(failover.Tick{})
	r.wantVerdict(c2, "c9", federation.Unhealthy, failover.Drained)
}

func TestARestartInARamp(t *testing.T) {
	b := newTimed(t, policy.Times{Ramp: 10 * time.Second})
	k := stored(b, failover.LinkChanged{Cluster: "c2", Up: true}, newC2,
		failover.ExportChanged{Export: federation.Export{Key: c2}}, newC2)
	r := k.restarted(b, 3*time.Second)
	if v, _ := r.state.Verdict(c2, "c9"); v.Share != 40 {
		t.Errorf("share %d after three tenths of the ramp, want 40", v.Share)
	}
}

// TestAClockThatIsBehind is a hub that takes over with a clock behind that of the one before: what began in its future
// has just begun.
func TestAClockThatIsBehind(t *testing.T) {
	share := func(b *bench) uint8 {
		b.Helper()
		v, _ := b.state.Verdict(c2, "c9")
		return v.Share
	}
	t.Run("drain", func(t *testing.T) {
		b := newBench(t)
		k := stored(b, newC2, failover.Operated{Subject: cluster2, Mode: failover.Drain, Ramp: 10 * time.Second})
		r := k.restarted(b, -3*time.Second)
		r.do(failover.Tick{})
		if got := share(r); got != 100 {
			t.Errorf("share %d, want 100", got)
		}
		r.until(time.Second)
		if got := share(r); got != 90 {
			t.Errorf("share %d after a second, want 90", got)
		}
	})
	t.Run("drain-without-a-ramp", func(t *testing.T) {
		b := newBench(t)
		k := stored(b, newC2, failover.Operated{Subject: cluster2, Mode: failover.Drain})
		r := k.restarted(b, -3*time.Second)
		r.do(failover.Tick{})
		r.wantVerdict(c2, "c9", federation.Unhealthy, failover.Drained)
		if got := share(r); got != 0 {
			t.Errorf("share %d, want 0", got)
		}
	})
	t.Run("ramp", func(t *testing.T) {
		b := newTimed(t, policy.Times{Ramp: 10 * time.Second})
		k := stored(b, failover.LinkChanged{Cluster: "c2", Up: true}, newC2,
			failover.ExportChanged{Export: federation.Export{Key: c2}}, newC2)
		r := k.restarted(b, -3*time.Second)
		r.do(failover.Tick{})
		if got := share(r); got != 10 {
			t.Errorf("share %d, want 10", got)
		}
		r.until(time.Minute)
		if got := share(r); got != 100 {
			t.Errorf("share %d in the end, want 100", got)
		}
	})
	t.Run("loss", func(t *testing.T) {
		b := newBench(t)
		b.export(c2, 1)
		b.do(failover.LinkChanged{Cluster: "c2"})
		b.now = start.Add(-time.Second)
		b.do(failover.APIChanged{Cluster: "c2"})
		b.wantVerdict(c2, "c9", federation.Healthy, failover.ServingStale)
	})
}

// TestSaveNamesWhatChanges and nothing else; what is removed is nil.
func TestSaveNamesWhatChanges(t *testing.T) {
	b := newBench(t)
	names := func(e failover.Event) (exports map[federation.ExportKey]bool, clusters map[federation.ClusterID]bool) {
		tr := b.state.Plan(e, b.now)
		b.state.Apply(tr)
		x, c := tr.Save()
		exports, clusters = map[federation.ExportKey]bool{}, map[federation.ClusterID]bool{}
		for k, v := range x {
			exports[k] = v != nil
		}
		for k, v := range c {
			clusters[k] = v != nil
		}
		return exports, clusters
	}
	type (
		xs = map[federation.ExportKey]bool
		cs = map[federation.ClusterID]bool
	)
	for _, step := range []struct {
		name     string
		event    failover.Event
		exports  xs
		clusters cs
	}{
		{name: "a-new-export", event: newC2, exports: xs{c2: true}},
		{name: "a-link", event: failover.LinkChanged{Cluster: "c2", Up: true}},
		{name: "a-good-observation", event: seen("c3", "c2", true)},
		{name: "the-same-observation", event: seen("c3", "c2", true)},
		{name: "a-bad-observation", event: seen("c1", "c2", false), clusters: cs{"c2": true}},
		{name: "a-pin", event: failover.Operated{Subject: federation.Target(c2), Mode: failover.Pin}, exports: xs{c2: true}},
		{name: "the-consumer-leaves", event: failover.ClusterGone{Cluster: "c1"}, clusters: cs{"c1": false, "c2": true}},
		{name: "the-export-goes", event: failover.ExportRemoved{Key: c2}, exports: xs{c2: false}},
		{name: "an-export-comes", event: newC2, exports: xs{c2: true}},
		{name: "the-cluster-leaves", event: failover.ClusterGone{Cluster: "c2"}, exports: xs{c2: false}, clusters: cs{"c2": false}},
	} {
		exports, clusters := names(step.event)
		if !maps.Equal(exports, step.exports) || !maps.Equal(clusters, step.clusters) {
			t.Errorf("%s: saves %v %v, want %v %v", step.name, exports, clusters, step.exports, step.clusters)
		}
	}
}
