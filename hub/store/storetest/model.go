package storetest

import (
	"cmp"
	"maps"
	"slices"

	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/federation/failover"
	"github.com/tailgate-project/tailgate/federation/ledger"
	"github.com/tailgate-project/tailgate/federation/policy"
	"github.com/tailgate-project/tailgate/federation/vip"
)

// Model is a store that is too simple to be wrong. The zero value is empty.
type Model struct {
	vips     map[string]vip.Entry
	exports  map[federation.ExportKey]failover.Saved
	clusters map[federation.ClusterID]failover.SavedCluster
	members  map[federation.ClusterID]ledger.Member
	policies map[string]policy.Policy
	// Journal are all decisions, the first with the number 1.
	Journal []failover.Decision
}

// Commit makes the changes of a batch.
func (m *Model) Commit(b ledger.Batch) {
	if m.vips == nil {
		*m = Model{
			vips: map[string]vip.Entry{}, exports: map[federation.ExportKey]failover.Saved{}, clusters: map[federation.ClusterID]failover.SavedCluster{},
			members: map[federation.ClusterID]ledger.Member{}, policies: map[string]policy.Policy{},
		}
	}
	for _, c := range b.VIPs {
		if delete(m.vips, c.Entry.ServiceName); !c.Delete {
			m.vips[c.Entry.ServiceName] = c.Entry
		}
	}
	put(m.exports, b.Exports)
	put(m.clusters, b.Clusters)
	put(m.members, b.Members)
	put(m.policies, b.Policies)
	m.Journal = append(m.Journal, b.Journal...)
}

func put[K comparable, V any](into map[K]V, changes map[K]*V) {
	for k, v := range changes {
		if delete(into, k); v != nil {
			into[k] = *v
		}
	}
}

// State returns what Load must return: everything in the order of the keys.
func (m *Model) State() ledger.State {
	return ledger.State{
		VIPs:     values(m.vips, func(k string) string { return k }),
		Exports:  values(m.exports, federation.ExportKey.String),
		Clusters: values(m.clusters, func(c federation.ClusterID) string { return string(c) }),
		Members:  values(m.members, func(c federation.ClusterID) string { return string(c) }),
		Policies: values(m.policies, func(name string) string { return name }),
	}
}

func values[K comparable, V any](m map[K]V, name func(K) string) []V {
	var out []V
	for _, k := range slices.SortedFunc(maps.Keys(m), func(a, b K) int { return cmp.Compare(name(a), name(b)) }) {
		out = append(out, m[k])
	}
	return out
}

// Records returns what the journal holds of a service after a number, as long as nothing was dropped.
func (m *Model) Records(after uint64, id federation.ServiceID) []ledger.Record {
	var out []ledger.Record
	none := federation.ServiceID{}
	for i, d := range m.Journal {
		if seq := uint64(i + 1); seq > after && (id == none || d.Subject.Service == none || d.Subject.Service == id) {
			out = append(out, ledger.Record{Seq: seq, Decision: d})
		}
	}
	return out
}
