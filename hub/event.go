package hub

import (
	"net/netip"

	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/federation/failover"
	"github.com/tailgate-project/tailgate/hub/store"
)

// event is what the loop takes in. Each method of Hub that tells it something makes one.
type event interface{ event() }

type (
	// decided goes to failover as it is.
	decided struct{ failover.Event }
	// memberSeen is a member that joined, or whose locality changed.
	memberSeen struct {
		cluster  federation.ClusterID
		locality federation.Locality
	}
	memberHosts struct {
		cluster federation.ClusterID
		hosts   []store.Host
	}
	memberInterest struct {
		cluster  federation.ClusterID
		interest store.Interest
	}
	memberGone struct{ cluster federation.ClusterID }
	// vipAssigned and vipRefused are the provider's answers.
	vipAssigned struct {
		service string
		addrs   []netip.Addr
	}
	vipRefused struct {
		service string
		notice  federation.Notice
	}
	// asked is a question, that ask answers from the loop's state without changing it.
	asked      struct{ ask func(*Hub) }
	vipDeleted struct{ service string }
	vipFound   struct{ vip federation.VIP }
)

func (decided) event()        {}
func (memberSeen) event()     {}
func (memberHosts) event()    {}
func (memberInterest) event() {}
func (memberGone) event()     {}
func (vipAssigned) event()    {}
func (vipRefused) event()     {}
func (asked) event()          {}
func (vipDeleted) event()     {}
func (vipFound) event()       {}
