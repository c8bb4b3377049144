// Package tailnet is the hub's part in Tailscale: its node in a tailnet ([Node]), and the admin API by which it manages
// VIPs and auth keys ([API]). Nothing else of the hub speaks to Tailscale.
package tailnet

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"tailscale.com/client/local"
	"tailscale.com/client/tailscale/apitype"
	"tailscale.com/envknob"
	"tailscale.com/net/netns"
	"tailscale.com/tsnet"
	"tailscale.com/wgengine/netstack"
)

// DefaultHostname is what the hub is called in its tailnet.
const DefaultHostname = "tailgate-hub"

var (
	// ErrRefused reports that the tailnet does not let the hub's node in.
	ErrRefused = errors.New("the tailnet refuses the hub's node; give it a valid auth key (not expired, not used up, with the hub's tag)")
	// ErrUnknownPeer reports an address that no node of the tailnet has.
	ErrUnknownPeer = errors.New("no node of the tailnet has this address")
	// ErrWrongPeer reports a node that is not the one to be dialled.
	ErrWrongPeer = errors.New("another node than expected has this address")
)

// NodeOptions describe the hub's node. Dir and Log are required.
type NodeOptions struct {
	// Dir keeps the node's state. With it, the node comes back as the same one.
	Dir string
	// Hostname is DefaultHostname by default.
	Hostname string
	// AuthKey is needed the first time only.
	AuthKey string
	// ControlURL is Tailscale's by default.
	ControlURL string
	// Tags are asked for. The auth key must allow them; a key with tags gives its own anyway.
	Tags []string
	Log  *slog.Logger
}

// Node is the hub's node.
type Node struct {
	server *tsnet.Server
	local  *local.Client
	stack  *netstack.Impl
}

// Peer is a node of the tailnet, as the tailnet knows it.
type Peer struct {
	StableID string
	// Name is the node's fully qualified name without the dot at the end.
	Name  string
	Tags  []string
	Addrs []netip.Addr
}

// Join joins the tailnet and returns when the node is up, or fails with an error that wraps [ErrRefused] when it never
// will be. The caller closes the node.
func Join(ctx context.Context, o NodeOptions) (*Node, error) {
	if o.Dir == "" {
		return nil, errors.New("join the tailnet: a directory for the node's state is required")
	}
	// No log leaves the machine, and no socket is to be bound to an interface: that is for machines whose default
	// route is a tailnet's.
	envknob.SetNoLogsNoSupport()
	netns.SetEnabled(false)
	debugf := func(format string, args ...any) {
		if o.Log.Enabled(ctx, slog.LevelDebug) {
			o.Log.Debug("tailnet node", "message", fmt.Sprintf(format, args...))
		}
	}
	n := &Node{server: &tsnet.Server{
		Dir:           o.Dir,
		Hostname:      cmp.Or(o.Hostname, DefaultHostname),
		AuthKey:       o.AuthKey,
		ControlURL:    o.ControlURL,
		AdvertiseTags: o.Tags,
		Logf:          debugf,
		UserLogf:      debugf,
	}}
	if err := n.up(ctx); err != nil {
		if n.local != nil { // one that never started must not be closed
			err = errors.Join(err, n.server.Close())
		}
		return nil, fmt.Errorf("join the tailnet of %s as %s: %w", cmp.Or(o.ControlURL, "Tailscale"), n.server.Hostname, err)
	}
	return n, nil
}

func (n *Node) up(ctx context.Context) error {
	var err error
	if n.local, err = n.server.LocalClient(); err != nil { // starts the server
		return fmt.Errorf("start the node: %w", err)
	}
	if err := n.login(ctx); err != nil {
		return err
	}
	stack, ok := n.server.Sys().Netstack.Get().(*netstack.Impl)
	if !ok {
		return errors.New("the node has no network stack in user space")
	}
	n.stack = stack
	// A SYN that meets a connection in TIME_WAIT is dropped by the stack, and its sender waits for seconds. WireGuard
	// keeps out already what TIME_WAIT guards against.
	timeWait := tcpip.TCPTimeWaitTimeoutOption(0)
	if err := stack.SetTransportProtocolOption(tcp.ProtocolNumber, &timeWait); err != nil {
		return fmt.Errorf("set TIME_WAIT of the node's network stack: %s", err)
	}
	return nil
}

// login waits until the node runs. One that is asked to log in by hand never will, and Up alone would wait for ever.
func (n *Node) login(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	watcher, err := n.local.WatchIPNBus(ctx, 0)
	if err != nil {
		return fmt.Errorf("watch the node: %w", err)
	}
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		for {
			notify, err := watcher.Next()
			switch {
			case err != nil:
				return // it was closed
			case notify.BrowseToURL != nil && *notify.BrowseToURL != "":
				cancel(ErrRefused)
				return
			case notify.ErrMessage != nil:
				cancel(fmt.Errorf("%w: %s", ErrRefused, *notify.ErrMessage))
				return
			}
		}
	}()
	_, upErr := n.server.Up(ctx)
	closeErr := watcher.Close()
	<-watched
	switch cause := context.Cause(ctx); {
	case upErr == nil:
		return closeErr
	case errors.Is(cause, ErrRefused): // what the control server said beats how Up was ended
		return cause
	case strings.Contains(upErr.Error(), "invalid key"): // Up was told first
		return fmt.Errorf("%w: %w", ErrRefused, upErr)
	}
	return upErr
}

// Close takes the node off the tailnet. It may come back with the same state.
func (n *Node) Close() error {
	if err := n.server.Close(); err != nil {
		return fmt.Errorf("close the hub's node: %w", err)
	}
	return nil
}

// Addrs returns the node's addresses, IPv4 first.
func (n *Node) Addrs() []netip.Addr {
	v4, v6 := n.server.TailscaleIPs()
	return slices.DeleteFunc([]netip.Addr{v4, v6}, func(a netip.Addr) bool { return !a.IsValid() })
}

// FullName returns the node's name in the tailnet with the tailnet's suffix, without the dot at the end.
func (n *Node) FullName(ctx context.Context) (string, error) {
	st, err := n.local.StatusWithoutPeers(ctx)
	if err != nil {
		return "", fmt.Errorf("ask the node for its name: %w", err)
	}
	if st.Self == nil {
		return "", errors.New("the node has no name yet")
	}
	return strings.TrimSuffix(st.Self.DNSName, "."), nil
}

// Listen listens on the tailnet, and nowhere else. The address is like ":443".
func (n *Node) Listen(network, addr string) (net.Listener, error) {
	l, err := n.server.Listen(network, addr)
	if err != nil {
		return nil, fmt.Errorf("listen on %s of the tailnet: %w", addr, err)
	}
	return l, nil
}

// WhoIs returns the node behind an address, which may have a port. An address that no node has gives an error that
// wraps [ErrUnknownPeer].
func (n *Node) WhoIs(ctx context.Context, addr string) (Peer, error) {
	who, err := n.local.WhoIs(ctx, addr)
	if err != nil {
		if errors.Is(err, local.ErrPeerNotFound) {
			err = ErrUnknownPeer
		}
		return Peer{}, fmt.Errorf("who is %s: %w", addr, err)
	}
	return peer(who), nil
}

func peer(who *apitype.WhoIsResponse) Peer {
	p := Peer{StableID: string(who.Node.StableID), Name: who.Node.Name, Tags: slices.Clone(who.Node.Tags)}
	if last := len(p.Name) - 1; last >= 0 && p.Name[last] == '.' {
		p.Name = p.Name[:last]
	}
	for _, prefix := range who.Node.Addresses {
		p.Addrs = append(p.Addrs, prefix.Addr())
	}
	return p
}

// DialPeer connects to a node over the tailnet, and only if the node that has the address is the wanted one. Its error
// wraps [ErrUnknownPeer] or [ErrWrongPeer] if not.
//
// It must be used in place of what tsnet has: that falls back to the host's own network when no node has the address,
// as when the peer is gone or not there yet, and whoever answers on that network would be believed.
func (n *Node) DialPeer(ctx context.Context, addr netip.AddrPort, wantStableID, wantTag string) (net.Conn, error) {
	who, err := n.WhoIs(ctx, addr.String())
	if err != nil {
		return nil, err
	}
	if who.StableID != wantStableID || !slices.Contains(who.Tags, wantTag) {
		return nil, fmt.Errorf("dial %s: %w: it is %s (%s) with tags %v, want %s with %s", addr, ErrWrongPeer, who.Name, who.StableID, who.Tags, wantStableID, wantTag)
	}
	c, err := n.stack.DialContextTCP(ctx, addr)
	if err != nil {
		return nil, fmt.Errorf("dial %s: %w", who.Name, err)
	}
	return c, nil
}
