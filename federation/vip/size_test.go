package vip_test

import (
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/federation/vip"
)

// The federation that sizes and times are for: 250 clusters with 1,000 exports each.
const (
	clusters = 250
	services = 1000
)

// exportNo returns the i-th export of the large federation, with strings of its own, as a decoder makes them.
func exportNo(i int) federation.Export {
	own := strings.Clone
	return federation.Export{
		Key: federation.ExportKey{
			Cluster: federation.ClusterID(fmt.Sprintf("cluster%03d", i%clusters)),
			Service: federation.ServiceID{
				Kind: federation.Kind(own(string(federation.KindService))), Namespace: fmt.Sprintf("team%02d", i/clusters%50), Name: fmt.Sprintf("service%03d", i/clusters),
			},
		},
		Tailnet: own("production"), TailnetRef: own("production-tailnet"), Ports: []federation.Port{{Name: own("http"), Port: 80, Protocol: federation.Protocol(own("TCP"))}},
	}
}

// large returns a registry of the first n exports of that federation, each with one IPv4 address.
func large(tb testing.TB, n int, list string) *vip.Registry {
	tb.Helper()
	r := vip.New(vip.Options{Quarantine: quarantine, Pool: pool(tb, list)})
	for i := range n {
		changes, err := r.PlanClaim(exportNo(i))
		if err != nil {
			tb.Fatal(err)
		}
		r.Apply(changes)
	}
	return r
}

func heapInUse() int {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int(m.HeapAlloc)
}

// TestSize bounds what an entry costs in memory, with everything that the registry keeps of it. An eighth of the
// federation in an eighth of the range costs as much an entry as the whole: tables double as they grow.
func TestSize(t *testing.T) {
	const n = clusters * services / 8
	before := heapInUse()
	r := large(t, n, "100.64.0.0/13")
	each := (heapInUse() - before) / n
	t.Logf("%d bytes an entry", each)
	if r.Len() != n || each > 450 {
		t.Errorf("%d entries at %d bytes, want %d at 450 or less", r.Len(), each, n)
	}
	if e, ok := r.Named("local-production-service124-cluster249"); !ok || e.Addrs[0] != ip("100.64.122.17") {
		t.Errorf("the last is %+v, want the address number %d", e, n-1)
	}
	check(t, r)
}

// BenchmarkClaim claims, releases and deletes one VIP in a registry of 250,000.
func BenchmarkClaim(b *testing.B) {
	before := heapInUse()
	r := large(b, clusters*services, "100.64.0.0/10")
	each, at := float64(heapInUse()-before)/clusters/services, start
	b.Run("new-to-deleted", func(b *testing.B) {
		b.ReportAllocs()
		for i := range b.N {
			x := export(federation.ClusterID(fmt.Sprintf("new%d", i%1000)), webapp, 80)
			changes, err := r.PlanClaim(x)
			if err != nil {
				b.Fatal(err)
			}
			r.Apply(changes)
			r.Apply(r.PlanRelease(x.Key, at))
			due, ok := r.Deadline()
			if !ok {
				b.Fatal("no deadline")
			}
			r.Apply(r.PlanExpire(due))
			at = at.Add(time.Millisecond)
		}
		b.ReportMetric(each, "B/entry")
		if r.Len() != clusters*services {
			b.Fatalf("%d entries are left", r.Len())
		}
	})
	b.Run("again", func(b *testing.B) {
		b.ReportAllocs()
		x := exportNo(12345)
		for range b.N {
			if changes, err := r.PlanClaim(x); err != nil || len(changes) > 0 {
				b.Fatal(changes, err)
			}
		}
	})
}

// BenchmarkLoad takes in 250,000 stored entries.
func BenchmarkLoad(b *testing.B) {
	entries := large(b, clusters*services, "100.64.0.0/10").Entries()
	b.ResetTimer()
	for range b.N {
		r := vip.New(vip.Options{Quarantine: quarantine, Pool: pool(b, "100.64.0.0/10")})
		for _, e := range entries {
			r.Apply([]vip.Change{{Entry: e}})
		}
		if r.Len() != len(entries) {
			b.Fatalf("%d entries", r.Len())
		}
	}
}
