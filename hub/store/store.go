// Package store says what a hub keeps and which errors keeping it can have. The stores are its subdirectories.
package store

import (
	"errors"
	"slices"

	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/federation/failover"
	"github.com/tailgate-project/tailgate/federation/vip"
)

var (
	// ErrCorrupt reports a store that cannot be read. It is left as it was found.
	ErrCorrupt = errors.New("store is unreadable")
	// ErrSchema reports a store that a newer version of Tailgate has written.
	ErrSchema = errors.New("store has an unknown schema version")
	// ErrInUse reports a store that another process has open.
	ErrInUse = errors.New("store is in use")
	// ErrFenced reports a commit of an epoch that is no longer the newest: another hub has taken over.
	ErrFenced = errors.New("store was taken over by a newer epoch")
)

// Member is what the hub keeps of a member cluster, so that a restart of the hub changes nothing for the others.
type Member struct {
	Cluster  federation.ClusterID
	Locality federation.Locality
	// Ingress are the cluster's ingress hosts as last reported.
	Ingress []Host
	// Interest are the services that the member refers to; All stands for every one.
	Interest Interest
}

// Host is an ingress host of a member.
type Host struct {
	// NodeID is the stable id of its tailnet node.
	NodeID string
	// Addr is the address:port of its probe port.
	Addr string
}

// Interest says which services a member refers to.
type Interest struct {
	All      bool
	Services []federation.ServiceID
}

// Wants reports whether the interest covers a service.
func (i Interest) Wants(id federation.ServiceID) bool {
	return i.All || slices.Contains(i.Services, id)
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
	// Exports are the failover states to keep; a nil state deletes.
	Exports map[federation.ExportKey]*failover.Saved
	// Members to keep; a nil member deletes.
	Members map[federation.ClusterID]*Member
	// Journal is appended; the store gives the numbers.
	Journal []failover.Decision
}

// Empty reports whether the batch changes nothing.
func (b Batch) Empty() bool {
	return len(b.VIPs) == 0 && len(b.Exports) == 0 && len(b.Members) == 0 && len(b.Journal) == 0
}

// State is all that a store holds but the journal.
type State struct {
	VIPs    []vip.Entry
	Exports []failover.Saved
	Members []Member
}
