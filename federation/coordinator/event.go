package coordinator

import (
	"net/netip"

	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/federation/failover"
	"github.com/tailgate-project/tailgate/federation/ledger"
	"github.com/tailgate-project/tailgate/federation/policy"
)

// Event is something that a hub is told. The types below are all there are.
type Event interface{ event() }

type (
	// Failover goes to failover, and where it is about an export to the registry of VIPs too.
	Failover struct{ failover.Event }
	// MemberSeen is a member that joined, or whose locality changed.
	MemberSeen struct {
		Cluster  federation.ClusterID
		Locality federation.Locality
	}
	// MemberHosts are the ingress hosts that a member has now.
	MemberHosts struct {
		Cluster federation.ClusterID
		Hosts   []ledger.Host
	}
	// MemberInterest is what a member refers to now.
	MemberInterest struct {
		Cluster  federation.ClusterID
		Interest federation.Interest
	}
	// MemberGone is a member that left the federation. One that left for good will not come back: its VIPs do not rest
	// before they are deleted, and those that rest already do so no longer. It may have gone before.
	MemberGone struct {
		Cluster federation.ClusterID
		ForGood bool
	}
	// VIPAssigned gives the addresses that the tailnet has for a Tailscale Service.
	VIPAssigned struct {
		Service string
		Addrs   []netip.Addr
	}
	// VIPRefused is a VIP that the tailnet does not give, for a reason that the member's operator can cure.
	VIPRefused struct {
		Service string
		Notice  federation.Notice
	}
	// VIPDeleted is a VIP that the tailnet no longer has.
	VIPDeleted struct{ Service string }
	// VIPFound is a VIP that the tailnet has already, as after a lost store.
	VIPFound struct{ VIP federation.VIP }
	// PoliciesSet are all policies that there are.
	PoliciesSet struct {
		Fallback policy.Policy
		Policies []policy.Policy
	}
	// VIPsListed says that the tailnets have named all VIPs that they have; each was a VIPFound before.
	VIPsListed struct{}
	// MembersExpected are the members that are accepted, whether or not they have been heard of.
	MembersExpected struct{ Clusters []federation.ClusterID }
	// ExportsListed says that a member's API server has named all its exports; each was an ExportChanged before.
	ExportsListed struct{ Cluster federation.ClusterID }
	// Tick is time that passed; it is due at [Coordinator.Deadline].
	Tick struct{}
)

func (Failover) event()        {}
func (MemberSeen) event()      {}
func (MemberHosts) event()     {}
func (MemberInterest) event()  {}
func (MemberGone) event()      {}
func (VIPAssigned) event()     {}
func (VIPRefused) event()      {}
func (VIPDeleted) event()      {}
func (VIPFound) event()        {}
func (PoliciesSet) event()     {}
func (VIPsListed) event()      {}
func (MembersExpected) event() {}
func (ExportsListed) event()   {}
func (Tick) event()            {}
