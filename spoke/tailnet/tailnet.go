// Package tailnet is the spoke's node in the tailnet: it joins, listens for the hub, knows who a peer is, and dials
// nobody but peers.
package tailnet

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
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

// Errors of joining. Each comes with a message that says what to do.
var (
	// ErrNoKey reports a node that has never joined and has no key.
	ErrNoKey = errors.New("no join key")
	// ErrKeyRefused reports a key that the control server does not take.
	ErrKeyRefused = errors.New("the tailnet refuses the join key")
	// ErrTimeout reports a control server that did not let the node in within the time.
	ErrTimeout = errors.New("the tailnet did not answer in time")
)

// ErrNotPeer reports an address that is of no peer with the wanted tag. Nothing was sent there.
var ErrNotPeer = errors.New("not a peer of the wanted identity")

// Options say which tailnet to join, and how.
type Options struct {
	// Dir keeps the node's identity. It belongs to this spoke alone.
	Dir      string
	Hostname string
	// ControlURL is the tailnet's control server; empty means Tailscale's.
	ControlURL string
	// AuthKey lets the node join for the first time. KeySource says where it came from, for error messages.
	AuthKey, KeySource string
	// Timeout is for joining, 60 s by default.
	Timeout time.Duration
	Log     *slog.Logger
}

// Node is a node that has joined.
type Node struct {
	server *tsnet.Server
	local  *local.Client
	stack  *netstack.Impl
}

// Peer is a node of the tailnet, as WhoIs names it.
type Peer struct {
	StableID string
	Name     string
	Tags     []string
	Addrs    []netip.Addr
}

// Join brings the node up. The caller closes it.
func Join(ctx context.Context, o Options) (*Node, error) {
	// Nothing of the spoke's logs leaves the machine, and none of its sockets is bound to the default route's
	// interface: both are for machines whose default route is a tailnet's.
	envknob.SetNoLogsNoSupport()
	netns.SetEnabled(false)
	if o.Timeout == 0 {
		o.Timeout = time.Minute
	}
	if o.AuthKey == "" && !joinedBefore(o.Dir) {
		return nil, fmt.Errorf("%w: %s has never joined a tailnet; give an auth key with the spokes' tag by %s", ErrNoKey, o.Hostname, o.KeySource)
	}
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the directory of the tailnet node: %w", err)
	}
	debugf := func(format string, args ...any) {
		if o.Log.Enabled(ctx, slog.LevelDebug) {
			o.Log.Debug("tailnet node", "message", fmt.Sprintf(format, args...))
		}
	}
	n := &Node{server: &tsnet.Server{
		Dir: o.Dir, Hostname: o.Hostname, ControlURL: o.ControlURL, AuthKey: o.AuthKey, Logf: debugf, UserLogf: debugf,
	}}
	if err := n.up(ctx, o); err != nil {
		if n.local != nil { // one that never started must not be closed
			err = errors.Join(err, n.server.Close())
		}
		return nil, fmt.Errorf("join the tailnet as %s: %w", o.Hostname, err)
	}
	return n, nil
}

// joinedBefore reports whether the directory has the identity of a node.
func joinedBefore(dir string) bool {
	_, err := os.Stat(filepath.Join(dir, "tailscaled.state"))
	return !errors.Is(err, fs.ErrNotExist)
}

func (n *Node) up(ctx context.Context, o Options) error {
	lc, err := n.server.LocalClient() // starts the server
	if err != nil {
		return fmt.Errorf("start the node: %w", err)
	}
	n.local = lc
	if err := n.login(ctx, o); err != nil {
		return err
	}
	stack, ok := n.server.Sys().Netstack.Get().(*netstack.Impl)
	if !ok {
		return errors.New("the node has no user space network stack")
	}
	n.stack = stack
	// A SYN that hits a connection in TIME_WAIT is lost in the stack, and the client waits a second for nothing.
	timeWait := tcpip.TCPTimeWaitTimeoutOption(0)
	if err := stack.SetTransportProtocolOption(tcp.ProtocolNumber, &timeWait); err != nil {
		return fmt.Errorf("set TIME_WAIT of the node's network stack: %s", err)
	}
	return nil
}

// login waits until the node runs. A node that is asked to log in by hand never will: its key was not taken.
func (n *Node) login(ctx context.Context, o Options) error {
	ctx, cancelTimeout := context.WithTimeoutCause(ctx, o.Timeout, fmt.Errorf(
		"%w: %s; check --control-url and that the network lets the spoke out", ErrTimeout, o.Timeout))
	defer cancelTimeout()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	watcher, err := n.local.WatchIPNBus(ctx, ipn.NotifyInitialState)
	if err != nil {
		return fmt.Errorf("watch the node: %w", err)
	}
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		for {
			notify, err := watcher.Next()
			if err != nil {
				return
			}
			if cause := refusal(notify, o.KeySource); cause != nil {
				cancel(cause)
				return
			}
		}
	}()
	_, err = n.server.Up(ctx)
	cause := context.Cause(ctx)
	err = errors.Join(err, watcher.Close())
	<-watched
	if c := context.Cause(ctx); errors.Is(c, ErrKeyRefused) {
		cause = c
	}
	if err != nil && cause != nil {
		return cause
	}
	if err != nil && strings.Contains(err.Error(), "invalid key") {
		return refused(o.KeySource, err.Error())
	}
	return err
}

// refusal returns what a notification says of a key that was not taken, or nil.
func refusal(n ipn.Notify, source string) error {
	switch {
	case n.BrowseToURL != nil && *n.BrowseToURL != "":
		return refused(source, "log in by hand")
	case n.ErrMessage != nil:
		return refused(source, *n.ErrMessage)
	}
	return nil
}

// refused is the error of a key that was not taken, whichever way the control server's words came.
func refused(source, words string) error {
	return fmt.Errorf("%w: give one that is not expired and not used up and carries the spokes' tag by %s (the control server says: %s)",
		ErrKeyRefused, source, words)
}

// Close leaves nothing behind but the identity.
func (n *Node) Close() error { return n.server.Close() }

// Addrs returns the node's own addresses.
func (n *Node) Addrs() (v4, v6 netip.Addr) { return n.server.TailscaleIPs() }

// Listen listens on a TCP port of the node.
func (n *Node) Listen(port uint16) (net.Listener, error) {
	ln, err := n.server.Listen("tcp", fmt.Sprintf(":%d", port))
	if err != nil {
		return nil, fmt.Errorf("listen on port %d of the tailnet node: %w", port, err)
	}
	return ln, nil
}

// WhoIs names the peer behind a remote address.
func (n *Node) WhoIs(ctx context.Context, remote string) (Peer, error) {
	who, err := n.local.WhoIs(ctx, remote)
	if err != nil {
		return Peer{}, fmt.Errorf("ask who %s is: %w", remote, err)
	}
	p := Peer{StableID: string(who.Node.StableID), Name: who.Node.Name, Tags: who.Node.Tags}
	for _, a := range who.Node.Addresses {
		p.Addrs = append(p.Addrs, a.Addr())
	}
	return p, nil
}

// Find returns the address of the peer with the tag and the name: its host name or its full name in the tailnet. An
// address is looked up as it is, and its tag too.
func (n *Node) Find(ctx context.Context, name, tag string) (netip.Addr, error) {
	if addr, err := netip.ParseAddr(name); err == nil {
		p, err := n.WhoIs(ctx, netip.AddrPortFrom(addr, 1).String())
		if err != nil || !slices.Contains(p.Tags, tag) {
			return netip.Addr{}, fmt.Errorf("%w: %s with %s", ErrNotPeer, name, tag)
		}
		return addr, nil
	}
	st, err := n.local.Status(ctx)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("list the peers: %w", err)
	}
	var others []string
	for _, p := range st.Peer {
		if p.Tags == nil || !slices.Contains(p.Tags.AsSlice(), tag) || len(p.TailscaleIPs) == 0 {
			continue
		}
		full := strings.TrimSuffix(p.DNSName, ".")
		short, _, _ := strings.Cut(full, ".")
		if strings.EqualFold(name, p.HostName) || strings.EqualFold(name, full) || strings.EqualFold(name, short) {
			return p.TailscaleIPs[0], nil
		}
		others = append(others, short)
	}
	if len(others) > 0 {
		slices.Sort(others)
		return netip.Addr{}, fmt.Errorf("%w: no peer %q carries %s, but %s: check --hub", ErrNotPeer, name, tag, strings.Join(others, ", "))
	}
	return netip.Addr{}, fmt.Errorf("%w: no peer %q carries %s: check --hub, that the hub runs, and that the policy file lets the spoke see it",
		ErrNotPeer, name, tag)
}

// DialPeer dials a peer that has the tag. It asks who the peer is first, and never uses anything but the tailnet:
// tsnet's own Dial would send the bytes over the host's network once the peer is gone.
func (n *Node) DialPeer(ctx context.Context, addr netip.AddrPort, tag string) (net.Conn, error) {
	p, err := n.WhoIs(ctx, addr.String())
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNotPeer, err)
	}
	if !slices.Contains(p.Tags, tag) {
		return nil, fmt.Errorf("%w: %s at %s lacks %s", ErrNotPeer, p.Name, addr, tag)
	}
	conn, err := n.stack.DialContextTCP(ctx, addr)
	if err != nil {
		return nil, fmt.Errorf("dial %s at %s: %w", p.Name, addr, err)
	}
	return conn, nil
}

// errNoPeer reports a node that is not in the spoke's tailnet, or not to be seen there.
var errNoPeer = errors.New("not a peer of the spoke")

// Hosts reports whether the tailnet routes any of the addresses to the node with the stable id. Of one that is in another
// tailnet it cannot say.
func (n *Node) Hosts(ctx context.Context, stableID string, addrs []netip.Addr) (bool, error) {
	st, err := n.local.Status(ctx)
	if err != nil {
		return false, fmt.Errorf("list the peers: %w", err)
	}
	for _, p := range st.Peer {
		if string(p.ID) != stableID {
			continue
		}
		if p.AllowedIPs == nil {
			return false, nil
		}
		for _, prefix := range p.AllowedIPs.All() {
			if slices.ContainsFunc(addrs, prefix.Contains) {
				return true, nil
			}
		}
		return false, nil
	}
	return false, fmt.Errorf("node %s: %w", stableID, errNoPeer)
}
