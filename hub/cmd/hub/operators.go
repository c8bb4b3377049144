package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"time"

	"github.com/tailgate-project/tailgate/api/operator"
	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/hub/console"
	"github.com/tailgate-project/tailgate/hub/controllers/member"
	"github.com/tailgate-project/tailgate/hub/link"
	"github.com/tailgate-project/tailgate/hub/tailnet"
	"github.com/tailgate-project/tailgate/hub/web"
	"github.com/tailgate-project/tailgate/hub/web/dashboard"
)

// loopback listens where nobody comes who is not on this machine, or in this pod: there, reaching the port is the right.
func loopback(ctx context.Context, addr string) (net.Listener, error) {
	ap, err := netip.ParseAddrPort(addr)
	if err != nil || !ap.Addr().IsLoopback() {
		return nil, fmt.Errorf("--operator-addr %q: want the address and port of a loopback interface, such as 127.0.0.1:9471; on the tailnet, operators come in by --web-port", addr)
	}
	var c net.ListenConfig
	ln, err := c.Listen(ctx, "tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("--operator-addr: %w; name another address", err)
	}
	return ln, nil
}

// operators serves the dashboard and the API to those whom the function knows, under the names that the hub has.
func operators(desk *console.Console, who func(*http.Request) (web.Operator, error), names []string, log *slog.Logger) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/api/", web.Guard(who, names, log, web.API(desk, log)))
	mux.Handle("/", dashboard.New(dashboard.Options{
		API: desk, Log: log, Version: version(), HubTag: hubTag, Hosts: names,
		Viewer: func(r *http.Request) (dashboard.Viewer, error) {
			o, err := who(r)
			return dashboard.Viewer(o), err
		},
		As: func(ctx context.Context, v dashboard.Viewer) context.Context { return console.As(ctx, v.Name) },
	}))
	return mux
}

// localOperator is whoever reaches the loopback interface.
func localOperator(*http.Request) (web.Operator, error) {
	return web.Operator{Name: "local", Admin: true}, nil
}

// tailnetOperator names who asks over the tailnet.
func tailnetOperator(n *tailnet.Node) func(*http.Request) (web.Operator, error) {
	return func(r *http.Request) (web.Operator, error) {
		o, err := n.Operator(r.Context(), r.RemoteAddr)
		return web.Operator{Name: o.Name, Admin: o.Admin}, err
	}
}

// tellProbe tells the console a probe of a cluster's ingress. Those of single VIPs are too many to be looked at.
func tellProbe(desk *console.Console, p link.Probe) {
	if p.Target.Service != (federation.ServiceID{}) {
		return
	}
	desk.Probed(operator.Probe{
		Observer: p.Observer, Target: p.Target.Cluster, Reachable: p.Reachable, At: time.Now().Add(-p.Age), RTT: p.RTT, Error: p.Error,
	})
}

// inviteExpiry is how long a new member's key can be used.
const inviteExpiry = time.Hour

// inviter readies the federation for new members.
type inviter struct {
	options
	provider
	members *member.Registry
	node    *tailnet.Node
}

// invite accepts a cluster before it asks, and makes the key with which its spoke joins the tailnet.
func (i inviter) invite(ctx context.Context, cluster federation.ClusterID) (operator.Invitation, error) {
	api, err := i.tailnets.Get(i.tailnet)
	if err != nil {
		return operator.Invitation{}, fmt.Errorf("the tailnet %s of hub and spokes: %w; see: kubectl describe tailscaletailnet %[1]s", i.tailnet, err)
	}
	if err := i.members.Invite(ctx, cluster); err != nil {
		if errors.Is(err, member.ErrClusterIDTaken) || errors.Is(err, member.ErrNotAccepted) {
			err = fmt.Errorf("%w: %w", operator.ErrInvalid, err)
		}
		return operator.Invitation{}, err
	}
	key, err := api.MintKey(ctx, tailnet.KeyOptions{
		Tags: []string{i.spokeTag}, Expiry: inviteExpiry, Description: fmt.Sprintf("tailgate spoke %s", cluster),
	})
	if err != nil {
		return operator.Invitation{}, fmt.Errorf("make a key for the spoke of %s: %w; the OAuth client of TailscaleTailnet %s needs the scope auth_keys and a tag "+
			"that owns %s, or make a key with that tag in the admin console", cluster, err, i.tailnet, i.spokeTag)
	}
	control, err := i.tailnets.ControlURL(ctx, i.tailnet)
	if err != nil {
		return operator.Invitation{}, err
	}
	return operator.Invitation{
		Cluster: cluster, AuthKey: key, Expires: time.Now().Add(inviteExpiry), Hub: fmt.Sprintf("%s:%d", i.hostname, i.linkPort), HubTag: hubTag,
		ControlURL: cmp.Or(control, i.controlURL), Tailnet: i.tailnet,
	}, nil
}
