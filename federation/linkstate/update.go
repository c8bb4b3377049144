// Package linkstate is what hub and spoke agree on over their link, without the sockets: a spoke's state as keyed
// resources under a version and an epoch, and the updates that carry it.
package linkstate

import (
	"github.com/tailgate-project/tailgate/federation"
)

// Resource is one object of a spoke's state. Exactly one field is set.
type Resource struct {
	VIP         *federation.VIP
	EndpointSet *federation.EndpointSet
	Peer        *federation.Peer
	Notice      *federation.Notice
}

// Key returns the key under which the resource stands, unique in a spoke's state; empty for an empty resource.
func (r Resource) Key() string {
	switch {
	case r.VIP != nil && r.VIP.Federated(): // a member may have its own VIP of the service beside it
		return "federated/" + r.VIP.Owner.Service.String()
	case r.VIP != nil:
		return "vip/" + r.VIP.Owner.Service.String()
	case r.EndpointSet != nil:
		return "endpoints/" + r.EndpointSet.Service.String()
	case r.Peer != nil:
		return "peer/" + string(r.Peer.Cluster)
	case r.Notice != nil:
		return "notice/" + r.Notice.Subject
	}
	return ""
}

// Update brings a spoke's state from one version to another.
type Update struct {
	// Epoch is the hub's fencing epoch, Version the state's version after the update.
	Epoch, Version uint64
	// Base is the version that the update goes on from: it names all that changed after it. 0 says nothing, as in a full
	// update and in one of a hub that does not tell.
	Base uint64
	// Full means that Upserts are all there is.
	Full    bool
	Upserts []Resource // sorted by key
	Removed []string   // sorted; empty where Full
}
