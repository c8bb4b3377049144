// Package ledger is what a hub keeps: the state that outlives it, the batches that change that state, and the journal
// of decisions. How it is kept is the matter of the stores; this is what they are given and give back.
package ledger

import (
	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/federation/failover"
	"github.com/tailgate-project/tailgate/federation/policy"
	"github.com/tailgate-project/tailgate/federation/vip"
)

// Member is what the hub keeps of a member cluster, so that a restart of the hub changes nothing for the others.
type Member struct {
	Cluster  federation.ClusterID
	Locality federation.Locality
	// Ingress are the cluster's ingress hosts as last reported.
	Ingress []Host
	// Interest are the services that the member refers to. Heard is set once it has said so: what a hub tells it before
	// that is less than it knows already.
	Interest federation.Interest
	Heard    bool
	// Complete is set on all members once the hub knows all that there is to know of the federation. A hub that starts
	// and finds none that is complete has lost its store, or has just begun: it rebuilds before it speaks.
	Complete bool
}

// Host is an ingress host of a member.
type Host struct {
	// NodeID is the stable id of its tailnet node.
	NodeID string
	// Addr is the address:port of its probe port.
	Addr string
}

// Record is an entry of the journal.
type Record struct {
	// Seq counts from 1 without gaps.
	Seq uint64
	failover.Decision
}

// Batch is what one event changes. All of it is stored, or nothing.
type Batch struct {
	VIPs []vip.Change
	// Exports are the exports to keep, each with its failover state; nil deletes.
	Exports map[federation.ExportKey]*failover.Saved
	// Clusters are the failover states of whole clusters to keep; nil deletes.
	Clusters map[federation.ClusterID]*failover.SavedCluster
	// Members to keep; nil deletes.
	Members map[federation.ClusterID]*Member
	// Policies to keep, by name; nil deletes.
	Policies map[string]*policy.Policy
	// Journal is appended; the store gives the numbers.
	Journal []failover.Decision
}

// Empty reports whether the batch changes nothing.
func (b Batch) Empty() bool {
	return len(b.VIPs) == 0 && len(b.Exports) == 0 && len(b.Clusters) == 0 && len(b.Members) == 0 && len(b.Policies) == 0 && len(b.Journal) == 0
}

// State is all that a hub keeps but the journal.
type State struct {
	VIPs     []vip.Entry
	Exports  []failover.Saved
	Clusters []failover.SavedCluster
	Members  []Member
	Policies []policy.Policy
}
