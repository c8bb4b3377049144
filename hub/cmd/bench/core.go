package main

import (
	"context"
	"encoding/json"
	"fmt"
	"runtime"
	"slices"
	"time"

	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/federation/failover"
)

const (
	large = 250
	small = 25
	each  = 1000
	// flaps is how many times an endpoint goes and comes back.
	flaps = 2000
)

// flap measures an endpoint that comes and goes: the time of the whole core, from the event to the edited views of all
// whom it concerns. The baseline is the same in a federation of a tenth of the clusters.
func flap(_ context.Context, print func(line)) error {
	for _, make := range []func(clusters, exports int) shape{spread, sameness} {
		base := flapP50(make(small, each))
		p50 := flapP50(make(large, each))
		l := line{
			Name: "endpoint flap, core time, P50", Unit: "us", Value: micros(p50), Baseline: micros(base), Of: fmt.Sprintf("the same with %d clusters", small),
			Target: "none: the endpoint sets grow with the clusters", Met: true, Where: make(large, each).String(),
		}
		if s := make(large, each); s.copies < s.clusters {
			l.Target, l.Met = "under 50 us, ratio at most 1.5", p50 < 50*time.Microsecond && float64(p50) <= 1.5*float64(base)
		}
		print(l)
	}
	return nil
}

func flapP50(s shape) time.Duration {
	l := newLive(s)
	l.fill()
	var took []time.Duration
	for n := range flaps {
		i := n * 7 % l.referred
		for _, ready := range []int{0, 2} {
			e := failover.ExportChanged{Export: l.export(i, 0, ready)}
			start := time.Now()
			l.decide(e)
			took = append(took, time.Since(start))
		}
		l.now = l.now.Add(time.Millisecond)
	}
	slices.Sort(took)
	return took[len(took)/2]
}

func micros(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1000 }

// memory measures the heap of a live registry and all endpoint state, per export. The baseline is the same exports in a
// plain map, without VIPs, decisions, indexes or views.
func memory(_ context.Context, print func(line)) error {
	s := spread(large, each)
	n := float64(large * each)
	before := heap()
	l := newLive(s)
	l.fill()
	core := float64(heap()-before) / n
	before = heap()
	plain := map[federation.ExportKey]federation.Export{}
	for i := range l.services() {
		for j := range l.copies {
			x := l.export(i, j, 2)
			plain[x.Key] = x
		}
	}
	base := float64(heap()-before) / n
	print(line{
		Name: "live registry and endpoint state, heap per export", Unit: "bytes", Value: core, Baseline: base, Of: "the exports alone in a map",
		Target: "under 1024 bytes", Met: core < 1024, Where: s.String(),
	})
	runtime.KeepAlive(l)
	runtime.KeepAlive(plain)
	return nil
}

func heap() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// drain measures an operator's drain of a cluster that serves a thousand services, to its end: decisions, endpoint sets
// and the differences to what was said before. The baseline is to write what is said as JSON, once.
func drain(_ context.Context, print func(line)) error {
	s := spread(large, each)
	s.referred, s.interest = s.services(), s.services()/large // each of its services is referred to by somebody
	l := newLive(s)
	l.fill()
	var took, base []time.Duration
	for i := range 21 {
		start := time.Now()
		l.decide(failover.Operated{Subject: federation.Target{Cluster: cluster(i)}, Mode: failover.Drain})
		took = append(took, time.Since(start))

		start = time.Now()
		for _, k := range l.core.State().Exports(cluster(i)) {
			if _, err := json.Marshal(l.core.Set(l.consumer(k.Service), k.Service)); err != nil {
				return err
			}
		}
		base = append(base, time.Since(start))
		l.decide(failover.Operated{Subject: federation.Target{Cluster: cluster(i)}, Mode: failover.Normal})
	}
	slices.Sort(took)
	slices.Sort(base)
	p50 := took[len(took)/2]
	print(line{
		Name: "drain of a cluster, decisions and diffs", Unit: "ms", Value: micros(p50) / 1000, Baseline: micros(base[len(base)/2]) / 1000,
		Of: "one set of each of its services, computed and written as JSON", Target: "under 20 ms", Met: p50 < 20*time.Millisecond, Where: s.String(),
	})
	return nil
}
