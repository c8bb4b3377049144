package endpoints_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/federation/endpoints"
)

// setOf is the set of a consumer and a service, of one endpoint with the weight.
func setOf(consumer federation.ClusterID, service string, weight uint32) federation.EndpointSet {
	return federation.EndpointSet{Consumer: consumer, Service: federation.Service("n", service), Endpoints: []federation.Endpoint{{Cluster: "c", Weight: weight}}}
}

func brieflyAll(sets []federation.EndpointSet) []string {
	var out []string
	for _, s := range sets {
		out = append(out, fmt.Sprintf("%s %s %d", s.Consumer, s.Service.Name, s.Endpoints[0].Weight))
	}
	return out
}

func TestDiff(t *testing.T) {
	old := []federation.EndpointSet{setOf("b", "x", 1), setOf("a", "z", 1), setOf("a", "x", 1), setOf("c", "x", 1)}
	next := []federation.EndpointSet{setOf("d", "x", 1), setOf("c", "x", 2), setOf("a", "x", 1), setOf("a", "y", 1)}
	changed, removed := endpoints.Diff(old, next)
	if d := cmp.Diff([]string{"a y 1", "c x 2", "d x 1"}, brieflyAll(changed)); d != "" {
		t.Errorf("changed (-want +got)\n%s", d)
	}
	if d := cmp.Diff([]string{"a z 1", "b x 1"}, brieflyAll(removed)); d != "" {
		t.Errorf("removed (-want +got)\n%s", d)
	}
	if d := cmp.Diff([]string{"b x 1", "a z 1", "a x 1", "c x 1"}, brieflyAll(old)); d != "" {
		t.Errorf("the argument was changed:\n%s", d)
	}
	if changed, removed := endpoints.Diff(nil, next[:1]); len(changed) != 1 || removed != nil {
		t.Errorf("from nothing: changed %v, removed %v", brieflyAll(changed), brieflyAll(removed))
	}
	if changed, removed := endpoints.Diff(old[:1], nil); changed != nil || len(removed) != 1 {
		t.Errorf("to nothing: changed %v, removed %v", brieflyAll(changed), brieflyAll(removed))
	}
	if changed, removed := endpoints.Diff(old, old); changed != nil || removed != nil {
		t.Errorf("nothing is different, got %v and %v", changed, removed)
	}
}

func FuzzDiff(f *testing.F) {
	for seed := range uint64(50) {
		f.Add(seed)
	}
	type key struct {
		consumer federation.ClusterID
		service  federation.ServiceID
	}
	index := func(sets []federation.EndpointSet) map[key]federation.EndpointSet {
		out := map[key]federation.EndpointSet{}
		for _, s := range sets {
			out[key{s.Consumer, s.Service}] = s
		}
		return out
	}
	f.Fuzz(func(t *testing.T, seed uint64) {
		g := rand.New(rand.NewPCG(seed, 0))
		sets := func() (out []federation.EndpointSet) {
			for _, c := range []federation.ClusterID{"a", "b", "c"} {
				for i := range 4 {
					if g.IntN(3) > 0 {
						out = append(out, setOf(c, fmt.Sprint(i), uint32(1+g.IntN(2))))
					}
				}
			}
			g.Shuffle(len(out), func(i, j int) { out[i], out[j] = out[j], out[i] })
			return out
		}
		old, next := sets(), sets()
		changed, removed := endpoints.Diff(old, next)
		for _, list := range [][]federation.EndpointSet{changed, removed} {
			if !slices.IsSortedFunc(list, func(a, b federation.EndpointSet) int {
				if a.Consumer != b.Consumer {
					return cmpStrings(a.Consumer, b.Consumer)
				}
				return a.Service.Compare(b.Service)
			}) {
				t.Errorf("%v is not sorted", brieflyAll(list))
			}
		}
		got := index(old)
		for _, s := range removed {
			k := key{s.Consumer, s.Service}
			if _, ok := got[k]; !ok {
				t.Errorf("%v was not there", k)
			}
			delete(got, k)
		}
		for _, s := range changed {
			k := key{s.Consumer, s.Service}
			if was, ok := got[k]; ok && endpoints.Equal(was, s) {
				t.Errorf("%v did not change", k)
			}
			got[k] = s
		}
		want := index(next)
		if len(got) != len(want) {
			t.Errorf("old - removed + changed has %d sets, new %d", len(got), len(want))
		}
		for k, s := range want {
			if !endpoints.Equal(got[k], s) {
				t.Errorf("old - removed + changed: %v is %+v, want %+v", k, got[k], s)
			}
		}
	})
}

func cmpStrings(a, b federation.ClusterID) int {
	if a < b {
		return -1
	}
	return 1
}
