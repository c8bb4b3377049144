package failover_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/federation/failover"
)

// crowd returns a state of n clusters with m exports each, whose links are up and who all observe each other.
func crowd(n, m int) *failover.State {
	s := failover.New(config, only)
	do := func(e failover.Event) { s.Apply(s.Plan(e, start)) }
	for i := range n {
		do(failover.LinkChanged{Cluster: crowded(i), Up: true})
		do(failover.APIChanged{Cluster: crowded(i), Up: true})
		for j := range m {
			do(failover.ExportChanged{Export: federation.Export{
				Key: federation.ExportKey{Cluster: crowded(i), Service: federation.Service("default", fmt.Sprintf("s%d", j))}, Ready: 1,
			}})
		}
		for j := range n {
			do(failover.Observed{Observer: crowded(j), Target: federation.Target{Cluster: crowded(i)}, Reachable: true, At: start})
		}
	}
	return s
}

func crowded(i int) federation.ClusterID { return federation.ClusterID(fmt.Sprintf("c%03d", i)) }

var sizes = []struct{ clusters, exports int }{{25, 1000}, {250, 1000}}

// BenchmarkFlap is one export whose endpoints all go and come back, in small and large federations: an operation is
// one of these two events, planned and applied. The size should not show.
func BenchmarkFlap(b *testing.B) {
	for _, size := range sizes {
		b.Run(fmt.Sprintf("%dx%d", size.clusters, size.exports), func(b *testing.B) {
			s := crowd(size.clusters, size.exports)
			x := federation.Export{Key: federation.ExportKey{Cluster: crowded(7), Service: federation.Service("default", "s7")}, Ready: 1}
			now := start
			b.ReportAllocs()
			for b.Loop() {
				x.Ready = 1 - x.Ready
				now = now.Add(time.Millisecond)
				s.Apply(s.Plan(failover.ExportChanged{Export: x}, now))
			}
		})
	}
}

// BenchmarkObserved is an observation that says what is known, by far the most frequent event, and one that does not: an
// observer in ten loses sight of a cluster and finds it again.
func BenchmarkObserved(b *testing.B) {
	for _, size := range sizes {
		s, now := crowd(size.clusters, size.exports), start
		for _, c := range []struct {
			name  string
			flips bool
		}{{"again", false}, {"flips", true}} {
			b.Run(fmt.Sprintf("%s-%dx%d", c.name, size.clusters, size.exports), func(b *testing.B) {
				o := failover.Observed{Observer: crowded(3), Target: federation.Target{Cluster: crowded(7)}, Reachable: true}
				b.ReportAllocs()
				for b.Loop() {
					o.Reachable = !c.flips || !o.Reachable
					now = now.Add(time.Microsecond)
					o.At = now
					s.Apply(s.Plan(o, now))
				}
			})
		}
	}
}
