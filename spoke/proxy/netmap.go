package proxy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"tailscale.com/client/local"
	"tailscale.com/ipn"
	"tailscale.com/ipn/ipnstate"
	"tailscale.com/tailcfg"
)

// netmap is what the proxy needs of the node's network map: which addresses its peers own, which names there are, and
// which VIPs it hosts itself. It follows the node's notifications, so that neither costs a question per connection.
type netmap struct {
	local  *local.Client
	logger *slog.Logger
	// named says that names are asked for. It is set before run.
	named bool

	mu sync.Mutex
	// changed is closed at the next change.
	changed chan struct{}
	// seen is set once there was a map.
	seen  bool
	peers map[tailcfg.NodeID]peer
	// routes has the peers that own a prefix.
	routes map[netip.Prefix]map[tailcfg.NodeID]bool
	dns    names
	// names are those of the own VIPs by address, without svc:, and vips the addresses by name.
	names map[netip.Addr]string
	vips  map[string][]netip.Addr
}

// peer is another node of the tailnet.
type peer struct {
	name string
	// addrs are its own addresses, those of IPv4 first; owns also has the VIPs that it hosts now.
	addrs []netip.Addr
	owns  []netip.Prefix
}

func newPeer(name string, addrs []netip.Addr, owns []netip.Prefix) peer {
	return peer{name: name, addrs: slices.SortedFunc(slices.Values(addrs), netip.Addr.Compare), owns: owns}
}

func (p peer) equal(o peer) bool {
	return p.name == o.name && slices.Equal(p.addrs, o.addrs) && slices.Equal(p.owns, o.owns)
}

func newNetmap(local *local.Client, logger *slog.Logger) *netmap {
	return &netmap{
		local:   local,
		logger:  logger,
		changed: make(chan struct{}),
		peers:   map[tailcfg.NodeID]peer{},
		routes:  map[netip.Prefix]map[tailcfg.NodeID]bool{},
	}
}

// changes returns a channel that is closed at the next change.
func (m *netmap) changes() <-chan struct{} {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.changed
}

// owned reports whether a peer owns addr. Exit nodes' default routes do not count: nothing may leave by them.
func (m *netmap) owned(addr netip.Addr) bool {
	_, ok := m.owner(addr)
	return ok
}

// owner returns the peer that owns addr; if there are several, always the same of them.
func (m *netmap) owner(addr netip.Addr) (tailcfg.NodeID, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for bits := addr.BitLen(); bits > 0; bits-- {
		prefix, err := addr.Prefix(bits)
		if owners := m.routes[prefix]; err == nil && len(owners) > 0 {
			return slices.Min(slices.Collect(maps.Keys(owners))), true
		}
	}
	return 0, false
}

// hosted returns the name of the own VIP with this address.
func (m *netmap) hosted(addr netip.Addr) (string, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	name, ok := m.names[addr]
	return name, ok
}

// addrs returns the addresses of the own VIP of this name. They must not be changed.
func (m *netmap) addrs(name string) []netip.Addr {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.vips[name]
}

// errForgotten reports that the node has to join anew: it was deleted, or its key has expired.
var errForgotten = errors.New("the tailnet does not know this node any more")

// run follows the notifications until ctx ends. A watch that breaks, as one that falls behind does, begins anew. It fails
// when the tailnet has forgotten the node.
func (m *netmap) run(ctx context.Context) error {
	for ctx.Err() == nil {
		err := m.watch(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, errForgotten):
			return err
		default:
			m.logger.Warn("lost sight of the tailnet, looking again", "error", err)
			select {
			case <-ctx.Done():
			case <-time.After(100 * time.Millisecond):
			}
		}
	}
	return nil
}

func (m *netmap) watch(ctx context.Context) error {
	watcher, err := m.local.WatchIPNBus(ctx, ipn.NotifyInitialStatus|ipn.NotifyPeerPatches)
	if err != nil {
		return fmt.Errorf("watch node: %w", err)
	}
	defer watcher.Close()
	for {
		notify, err := watcher.Next()
		if err != nil {
			return fmt.Errorf("watch node: %w", err)
		}
		if notify.ErrMessage != nil {
			return errors.New(*notify.ErrMessage)
		}
		if notify.State != nil && *notify.State == ipn.NeedsLogin {
			return errForgotten
		}
		// A change of the names comes with a new map as a whole, but not in it.
		var config *tailcfg.DNSConfig
		if notify.SelfChange != nil && m.named {
			if config, err = m.local.DNSConfig(ctx); err != nil {
				return fmt.Errorf("read the names of the tailnet: %w", err)
			}
		}
		m.update(&notify, config)
	}
}

func (m *netmap) update(notify *ipn.Notify, config *tailcfg.DNSConfig) {
	m.mu.Lock()
	defer m.mu.Unlock()
	changed := false
	if status := notify.InitialStatus; status != nil {
		m.resetLocked(status)
		changed = true
	}
	if self := notify.SelfChange; self != nil {
		changed = m.hostLocked(self.CapMap) || changed
		changed = m.nameLocked(self.Name) || changed
		if notify.PeersChanged != nil {
			changed = m.keepLocked(notify.PeersChanged) || changed
		}
	}
	if config != nil {
		changed = m.dns.record(config.ExtraRecords) || changed
	}
	for _, p := range notify.PeersChanged {
		addrs := make([]netip.Addr, 0, len(p.Addresses))
		for _, prefix := range p.Addresses {
			addrs = append(addrs, prefix.Addr())
		}
		changed = m.setLocked(p.ID, newPeer(p.Name, addrs, p.AllowedIPs)) || changed
	}
	for _, id := range notify.PeersRemoved {
		changed = m.setLocked(id, peer{}) || changed
	}
	if changed {
		close(m.changed)
		m.changed = make(chan struct{})
	}
}

func (m *netmap) resetLocked(status *ipnstate.Status) {
	clear(m.peers)
	clear(m.routes)
	m.dns = names{}
	for _, p := range status.Peer {
		if p.AllowedIPs != nil {
			m.setLocked(p.NodeID, newPeer(p.DNSName, p.TailscaleIPs, p.AllowedIPs.AsSlice()))
		}
	}
	m.dns.record(status.ExtraRecords)
	if status.Self != nil {
		m.hostLocked(status.Self.CapMap)
		m.nameLocked(status.Self.DNSName)
		m.seen = true
	}
}

// nameLocked takes the node's own name, which tells the tailnet's domain, and reports whether that changes.
func (m *netmap) nameLocked(name string) (changed bool) {
	suffix := tailnetOf(name)
	changed = m.dns.suffix != suffix
	m.dns.suffix = suffix
	return changed
}

// keepLocked drops the peers that are not in a whole map, and reports whether there are any. A map that comes as a whole
// does not say otherwise who is gone.
func (m *netmap) keepLocked(whole []*tailcfg.Node) (changed bool) {
	there := make(map[tailcfg.NodeID]bool, len(whole))
	for _, p := range whole {
		there[p.ID] = true
	}
	for id := range m.peers {
		if !there[id] {
			changed = m.setLocked(id, peer{}) || changed
		}
	}
	return changed
}

// setLocked replaces what is known of a peer, and reports whether that changes anything. One that owns nothing is gone.
func (m *netmap) setLocked(id tailcfg.NodeID, next peer) (changed bool) {
	if len(next.owns) == 0 {
		next = peer{}
	}
	was := m.peers[id]
	if was.equal(next) {
		return false
	}
	for _, prefix := range was.owns {
		if delete(m.routes[prefix], id); len(m.routes[prefix]) == 0 {
			delete(m.routes, prefix)
		}
	}
	m.dns.device(id, was.name, next.name)
	delete(m.peers, id)
	if len(next.owns) > 0 {
		m.peers[id] = next
	}
	for _, prefix := range next.owns {
		if m.routes[prefix] == nil {
			m.routes[prefix] = map[tailcfg.NodeID]bool{}
		}
		m.routes[prefix][id] = true
	}
	return true
}

// hostLocked replaces the VIPs that the control server lets the node host, and reports whether they change.
func (m *netmap) hostLocked(caps tailcfg.NodeCapMap) (changed bool) {
	mappings, err := tailcfg.UnmarshalNodeCapJSON[tailcfg.ServiceIPMappings](caps, tailcfg.NodeAttrServiceHost)
	if err != nil {
		m.logger.Warn("cannot read which VIPs this node hosts, keeping those known", "error", err)
		return false
	}
	names, vips := map[netip.Addr]string{}, map[string][]netip.Addr{}
	for _, mapping := range mappings {
		for service, addrs := range mapping {
			name := service.WithoutPrefix()
			vips[name] = append(vips[name], addrs...)
			for _, addr := range addrs {
				names[addr] = name
			}
		}
	}
	if maps.Equal(m.names, names) {
		return false
	}
	m.names, m.vips = names, vips
	return true
}
