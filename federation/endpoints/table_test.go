package endpoints_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"testing"
	"unsafe"

	"github.com/google/go-cmp/cmp"

	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/federation/endpoints"
)

// naive is a table in so many words.
type naive struct {
	exports   map[federation.ExportKey]bool
	interests map[federation.ClusterID]federation.Interest
}

func (n naive) exporters(id federation.ServiceID) (out []federation.ClusterID) {
	for k := range n.exports {
		if k.Service == id {
			out = append(out, k.Cluster)
		}
	}
	slices.Sort(out)
	return out
}

func (n naive) consumers(id federation.ServiceID) (out []federation.ClusterID) {
	for c, i := range n.interests {
		if i.All || slices.Contains(i.Services, id) {
			out = append(out, c)
		}
	}
	slices.Sort(out)
	return out
}

func (n naive) services() []federation.ServiceID {
	ids := map[federation.ServiceID]bool{}
	for k := range n.exports {
		ids[k.Service] = true
	}
	return slices.SortedFunc(maps.Keys(ids), federation.ServiceID.Compare)
}

func (n naive) wanted(c federation.ClusterID) (out []federation.ServiceID) {
	for _, id := range n.services() {
		if i := n.interests[c]; i.All || slices.Contains(i.Services, id) {
			out = append(out, id)
		}
	}
	return out
}

// agree demands that a table answers as the model does, about some services and a cluster.
func agree(t *testing.T, model naive, table *endpoints.Table, ids []federation.ServiceID, c federation.ClusterID) {
	t.Helper()
	if got, want := table.Services(), len(model.services()); got != want {
		t.Fatalf("%d services, want %d", got, want)
	}
	if d := cmp.Diff(model.wanted(c), slices.Collect(table.Wanted(c))); d != "" {
		t.Fatalf("%s wants (-want +got)\n%s", c, d)
	}
	for _, id := range ids {
		if want, got := model.exporters(id), table.Exporters(id); !slices.Equal(want, got) {
			t.Fatalf("%s is exported by %s, want %s", id, got, want)
		}
		if want, got := model.consumers(id), table.Consumers(id); !slices.Equal(want, got) {
			t.Fatalf("%s is referred to by %s, want %s", id, got, want)
		}
	}
}

func FuzzTable(f *testing.F) {
	for seed := range uint64(60) {
		f.Add(seed, uint16(seed*seed))
	}
	f.Fuzz(func(t *testing.T, seed uint64, variety uint16) {
		g := rand.New(rand.NewPCG(seed, 0))
		ids := make([]federation.ServiceID, 1+variety%3000)
		for i := range ids {
			ids[i] = federation.Service(fmt.Sprint("n", i%7), fmt.Sprint("s", i))
		}
		some := func() federation.ServiceID { return ids[g.IntN(len(ids))] }
		cluster := func() federation.ClusterID { return federation.ClusterID(fmt.Sprint("c", g.IntN(5))) }
		model := naive{map[federation.ExportKey]bool{}, map[federation.ClusterID]federation.Interest{}}
		table := endpoints.NewTable()
		removing := 0 // out of ten
		for step := range min(4*len(ids), 3000) {
			if step%400 == 0 {
				removing = []int{1, 3, 8, 9}[g.IntN(4)]
			}
			k := federation.ExportKey{Cluster: cluster(), Service: some()}
			switch n := g.IntN(12); {
			case n == 11:
				i := federation.Interest{All: g.IntN(4) == 0}
				for range g.IntN(6) {
					i.Services = append(i.Services, some())
				}
				table.SetInterest(k.Cluster, i)
				model.interests[k.Cluster] = i
			case n == 10 && g.IntN(3) == 0:
				table.Forget(k.Cluster)
				delete(model.interests, k.Cluster)
			case n < removing:
				table.Remove(k)
				delete(model.exports, k)
			default:
				table.Add(k)
				model.exports[k] = true
			}
			if step%97 == 0 {
				agree(t, model, table, []federation.ServiceID{k.Service, some()}, k.Cluster)
			}
		}
		agree(t, model, table, ids[:min(len(ids), 50)], "c1")

		// What is taken out again was never there.
		for k := range model.exports {
			table.Remove(k)
			delete(model.exports, k)
		}
		agree(t, model, table, ids[:min(len(ids), 50)], "c1")
	})
}

func TestTableListsNeverChange(t *testing.T) {
	table := endpoints.NewTable()
	key := func(c federation.ClusterID) federation.ExportKey {
		return federation.ExportKey{Cluster: c, Service: webapp}
	}
	table.Add(key("b"))
	table.Add(key("d"))
	names := federation.Interest{Services: []federation.ServiceID{webapp}}
	table.SetInterest("b", names)
	table.SetInterest("x", federation.Interest{All: true})
	exporters, consumers := table.Exporters(webapp), table.Consumers(webapp)
	table.Add(key("a"))
	table.Remove(key("b"))
	table.SetInterest("a", names)
	table.Forget("b")
	if d := cmp.Diff([]federation.ClusterID{"b", "d"}, exporters); d != "" {
		t.Errorf("exporters (-want +got)\n%s", d)
	}
	if d := cmp.Diff([]federation.ClusterID{"b", "x"}, consumers); d != "" {
		t.Errorf("consumers (-want +got)\n%s", d)
	}
}

func TestTableInterest(t *testing.T) {
	a, b, c := federation.Service("n", "a"), federation.Service("n", "b"), federation.Service("n", "c")
	table := endpoints.NewTable()
	for _, id := range []federation.ServiceID{c, a} {
		table.Add(federation.ExportKey{Cluster: "one", Service: id})
	}
	table.SetInterest("two", federation.Interest{Services: []federation.ServiceID{c, b, c, a}}) // neither sorted nor each once
	if d := cmp.Diff([]federation.ServiceID{a, c}, slices.Collect(table.Wanted("two"))); d != "" {
		t.Errorf("named: (-want +got)\n%s", d)
	}
	if d := cmp.Diff([]federation.ClusterID{"two"}, table.Consumers(b)); d != "" {
		t.Errorf("a service that nobody exports is referred to: (-want +got)\n%s", d)
	}
	for range table.Wanted("two") {
		break // a loop may end early
	}
	table.SetInterest("two", federation.Interest{All: true, Services: []federation.ServiceID{b}})
	if d := cmp.Diff([]federation.ClusterID{"two"}, table.Consumers(b)); d != "" {
		t.Errorf("all and named is once: (-want +got)\n%s", d)
	}
	for id := range table.Wanted("two") {
		if id != a {
			t.Errorf("the first of all is %s", id)
		}
		break
	}
	table.SetInterest("two", federation.Interest{})
	if got := table.Consumers(a); len(got) != 0 {
		t.Errorf("nobody wants anything, and consumers are %s", got)
	}
	table.Forget("two")
	table.Remove(federation.ExportKey{Cluster: "two", Service: b})
	if got := table.Exporters(b); got != nil {
		t.Errorf("nobody exports it, and exporters are %s", got)
	}
}

// keys are the exports of a federation in which each cluster exports all services.
func keys(clusters, services int) []federation.ExportKey {
	out := make([]federation.ExportKey, 0, clusters*services)
	for c := range clusters {
		for s := range services {
			out = append(out, federation.ExportKey{Cluster: federation.ClusterID(fmt.Sprintf("cluster-%03d", c)), Service: federation.Service(fmt.Sprintf("team-%02d", s%20), fmt.Sprintf("service-%04d", s))})
		}
	}
	return out
}

// own gives every cluster services of its own.
func own(ks []federation.ExportKey) []federation.ExportKey {
	for i := range ks {
		ks[i].Service.Name += "-" + string(ks[i].Cluster)
	}
	return ks
}

// A table of 250 clusters with 1,000 exports each takes a small part of the 1 KiB that an export may.
func TestTableMemory(t *testing.T) {
	for name, tc := range map[string]struct {
		keys []federation.ExportKey
		most uint64 // bytes for each export
	}{
		"shared-services": {keys(250, 1000), 32},
		"own-services":    {own(keys(250, 1000)), 300},
	} {
		t.Run(name, func(t *testing.T) {
			heap := func() uint64 {
				runtime.GC()
				runtime.GC() // pools are emptied by the second
				var m runtime.MemStats
				runtime.ReadMemStats(&m)
				return m.HeapAlloc
			}
			before := heap()
			table := endpoints.NewTable()
			for i, k := range tc.keys {
				table.Add(k)
				if i%1000 == 0 { // each cluster refers to 50
					table.SetInterest(k.Cluster, federation.Interest{Services: services(tc.keys[i : i+50])})
				}
			}
			each := (heap() - before) / uint64(len(tc.keys))
			t.Logf("%d bytes for each export", each)
			if each > tc.most {
				t.Errorf("%d bytes for each of %d exports, want at most %d", each, len(tc.keys), tc.most)
			}
			runtime.KeepAlive(table)
			runtime.KeepAlive(tc.keys)
		})
	}
}

func services(ks []federation.ExportKey) []federation.ServiceID {
	var out []federation.ServiceID
	for _, k := range ks {
		out = append(out, k.Service)
	}
	slices.SortFunc(out, federation.ServiceID.Compare)
	return out
}

// TestKnownIsTheIDThatTheTableHolds: exports that take theirs from the table share its strings.
func TestKnownIsTheIDThatTheTableHolds(t *testing.T) {
	table := endpoints.NewTable()
	table.Add(federation.ExportKey{Cluster: "c1", Service: webapp})
	again := federation.ServiceID{Kind: webapp.Kind, Namespace: strings.Clone(webapp.Namespace), Name: strings.Clone(webapp.Name)}
	known := table.Known(again)
	if known != webapp || unsafe.StringData(known.Name) != unsafe.StringData(webapp.Name) {
		t.Errorf("%v is another copy", known)
	}
	if stranger := federation.Service("x", "y"); table.Known(stranger) != stranger {
		t.Error("an unknown service is known as another one")
	}
}
