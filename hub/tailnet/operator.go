package tailnet

import (
	"context"
	"errors"
	"fmt"

	"tailscale.com/client/local"
	"tailscale.com/client/tailscale/apitype"
	"tailscale.com/tailcfg"
)

// OperatorCapability is the app capability by which the tailnet's policy file says who may look at the federation and who
// may act on it: {"role": "viewer"} or {"role": "admin"}.
const OperatorCapability tailcfg.PeerCapability = "gateway.tailscale.com/cap/tailgate"

// ErrNoRole reports a peer to whom the tailnet's policy file gives no role.
var ErrNoRole = errors.New(`the tailnet's policy file gives no role; it needs a grant of the app capability "` + string(OperatorCapability) +
	`" with {"role": "viewer"} or {"role": "admin"}`)

// Operator is a person, or a machine, to whom the policy file gives a role.
type Operator struct {
	// Name is a user's login name, or the name of a tagged node.
	Name  string
	Admin bool
}

// Operator returns who is behind an address, which may have a port. Its error wraps [ErrUnknownPeer] or [ErrNoRole] if nobody
// is who may look.
func (n *Node) Operator(ctx context.Context, addr string) (Operator, error) {
	who, err := n.local.WhoIs(ctx, addr)
	if err != nil {
		if errors.Is(err, local.ErrPeerNotFound) {
			err = ErrUnknownPeer
		}
		return Operator{}, fmt.Errorf("who is %s: %w", addr, err)
	}
	return operator(who)
}

func operator(who *apitype.WhoIsResponse) (Operator, error) {
	o := Operator{Name: peer(who).Name}
	if len(who.Node.Tags) == 0 && who.UserProfile != nil {
		o.Name = who.UserProfile.LoginName
	}
	grants, err := tailcfg.UnmarshalCapJSON[struct {
		Role string `json:"role"`
	}](who.CapMap, OperatorCapability)
	if err != nil {
		return Operator{}, fmt.Errorf("%s: %w; what it gives cannot be read: %w", o.Name, ErrNoRole, err)
	}
	known := false
	for _, g := range grants {
		known = known || g.Role == "viewer" || g.Role == "admin"
		o.Admin = o.Admin || g.Role == "admin"
	}
	if !known {
		return Operator{}, fmt.Errorf("%s: %w", o.Name, ErrNoRole)
	}
	return o, nil
}
