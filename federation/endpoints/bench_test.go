package endpoints_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/federation/endpoints"
	"github.com/tailgate-project/tailgate/federation/policy"
)

// BenchmarkBuild has candidates in the order of [endpoints.Table], but for the shuffled ones.
func BenchmarkBuild(b *testing.B) {
	plain, detailed := policy.Default(), policy.Default()
	detailed.Order = []policy.Place{{Region: "r1"}, {Cluster: "cluster-003"}, {Region: "r2", Zone: "a"}}
	detailed.Weights = []policy.Weight{{Place: policy.Place{Region: "r1"}, Weight: 3}, {Place: policy.Place{Cluster: "cluster-004"}, Weight: 0}}
	for _, n := range []int{1, 5, 25, 250} {
		candidates := make([]endpoints.Candidate, n)
		for i := range candidates {
			candidates[i] = candidate(federation.ClusterID(fmt.Sprintf("cluster-%03d", i)), fmt.Sprint("r", i%4), []string{"a", "b"}[i%2], h)
		}
		ill := slices.Clone(candidates)
		for i := range ill {
			switch i % 3 {
			case 0:
				ill[i].Ready = 3
			case 1:
				ill[i].Share = 10
			}
		}
		shuffled := slices.Clone(candidates)
		rand.New(rand.NewPCG(1, 1)).Shuffle(n, func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
		c := endpoints.Consumer{Cluster: "cluster-000", Locality: federation.Locality{Region: "r0", Zone: "a"}}
		for name, run := range map[string]struct {
			policy     *policy.Policy
			candidates []endpoints.Candidate
		}{"well": {&plain, candidates}, "spilling-by-policy": {&detailed, ill}, "shuffled": {&plain, shuffled}} {
			b.Run(fmt.Sprintf("%s/%d", name, n), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					if got := endpoints.Build(c, webapp, run.policy, run.candidates); len(got.Endpoints) != n {
						b.Fatalf("%d endpoints", len(got.Endpoints))
					}
				}
			})
		}
	}
}

func BenchmarkTable(b *testing.B) {
	for _, clusters := range []int{25, 250} {
		all := keys(clusters, 1000)
		b.Run(fmt.Sprintf("fill/%d", clusters), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				table := endpoints.NewTable()
				for _, k := range all {
					table.Add(k)
				}
			}
		})
		table := endpoints.NewTable()
		for _, k := range own(all) {
			table.Add(k)
		}
		b.Run(fmt.Sprintf("remove-and-add/%d", clusters), func(b *testing.B) {
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				k := all[i*7919%len(all)]
				table.Remove(k)
				table.Add(k)
			}
		})
	}
}
