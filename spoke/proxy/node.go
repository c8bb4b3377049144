package proxy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"tailscale.com/client/local"
	"tailscale.com/envknob"
	"tailscale.com/ipn"
	"tailscale.com/net/netns"
	"tailscale.com/tsnet"
	"tailscale.com/wgengine/netstack"
)

// errAuthKey reports that the tailnet did not let the node in.
var errAuthKey = errors.New("the tailnet refuses this node; give it a valid auth key (not expired, not used up, " +
	"with the proxy's tag)")

// node is the process's node in the tailnet.
type node struct {
	server *tsnet.Server
	local  *local.Client
	stack  *netstack.Impl
	netmap *netmap

	// started is set when the server runs: one that never did must not be closed.
	started bool
	// id is the node's stable id.
	id           string
	addr4, addr6 netip.Addr
	// dialTimeout is the time for all attempts to reach a VIP.
	dialTimeout time.Duration
}

// join brings the node up and prepares its network stack.
func join(ctx context.Context, o Options) (*node, error) {
	// Nothing of a proxy's logs leaves the machine, and no socket of it is to be bound to an interface or marked:
	// both are for machines whose default route is a tailnet's.
	envknob.SetNoLogsNoSupport()
	netns.SetEnabled(false)
	debugf := func(format string, args ...any) {
		if o.Logger.Enabled(ctx, slog.LevelDebug) {
			o.Logger.Debug("tailnet node", "message", fmt.Sprintf(format, args...))
		}
	}
	n := &node{server: &tsnet.Server{
		Dir:           o.StateDir,
		Store:         o.Store,
		Hostname:      o.Hostname,
		ControlURL:    o.ControlURL,
		AuthKey:       o.AuthKey,
		AdvertiseTags: o.Tags,
		Logf:          debugf,
		UserLogf:      debugf,
	}, dialTimeout: o.DialTimeout}
	if err := n.up(ctx, o.Role); err != nil {
		return nil, errors.Join(fmt.Errorf("join the tailnet of %s as %s: %w", controlName(o.ControlURL), o.Hostname, err), n.close())
	}
	n.netmap = newNetmap(n.local, o.Logger)
	return n, nil
}

func controlName(url string) string {
	if url == "" {
		return "Tailscale"
	}
	return url
}

func (n *node) up(ctx context.Context, role Role) error {
	local, err := n.server.LocalClient() // starts the server
	if err != nil {
		return fmt.Errorf("start node: %w", err)
	}
	n.local, n.started = local, true
	if err := n.login(ctx); err != nil {
		return err
	}
	stack, ok := n.server.Sys().Netstack.Get().(*netstack.Impl)
	if !ok {
		return errors.New("the tailnet node has no user space network stack")
	}
	n.stack = stack
	// A SYN that hits a connection in TIME_WAIT is dropped by the stack's forwarder, and the client waits seconds for
	// nothing; WireGuard already keeps out what TIME_WAIT guards against.
	timeWait := tcpip.TCPTimeWaitTimeoutOption(0)
	if err := stack.SetTransportProtocolOption(tcp.ProtocolNumber, &timeWait); err != nil {
		return fmt.Errorf("set TIME_WAIT of the node's network stack: %s", err)
	}
	if role != Egress {
		return nil
	}
	// VIPs are routes of the peers that host them.
	prefs := &ipn.MaskedPrefs{RouteAllSet: true, Prefs: ipn.Prefs{RouteAll: true}}
	if _, err := local.EditPrefs(ctx, prefs); err != nil {
		return fmt.Errorf("accept the routes of the tailnet: %w", err)
	}
	return nil
}

// login waits until the node runs. A node that the control server asks to log in by hand never will.
func (n *node) login(ctx context.Context) error {
	watcher, err := n.local.WatchIPNBus(ctx, ipn.NotifyInitialState)
	if err != nil {
		return fmt.Errorf("watch node: %w", err)
	}
	defer watcher.Close()
	for running := false; !running; {
		notify, err := watcher.Next()
		switch {
		case err != nil:
			return fmt.Errorf("watch node: %w", err)
		case notify.ErrMessage != nil:
			return fmt.Errorf("%w: %s", errAuthKey, *notify.ErrMessage)
		case notify.BrowseToURL != nil && *notify.BrowseToURL != "":
			return errAuthKey
		}
		running = notify.State != nil && *notify.State == ipn.Running
	}
	// It returns at once now, and clears what an earlier process has served.
	status, err := n.server.Up(ctx)
	if err != nil {
		return err
	}
	n.id = string(status.Self.ID)
	n.addr4, n.addr6 = n.server.TailscaleIPs()
	return nil
}

// hasTag reports whether the peer at addr has one of tags.
func (n *node) hasTag(ctx context.Context, addr string, tags []string) bool {
	who, err := n.local.WhoIs(ctx, addr)
	return err == nil && slices.ContainsFunc(who.Node.Tags, func(tag string) bool { return slices.Contains(tags, tag) })
}

// ownAddr is the node's own address of the family of a remote's.
func (n *node) ownAddr(remote netip.Addr) netip.Addr {
	if remote.Is4() {
		return n.addr4
	}
	return n.addr6
}

func (n *node) close() error {
	if !n.started {
		return nil
	}
	return n.server.Close()
}
