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

// netmap is what the proxy needs of the node's network map: which addresses its peers own, and which VIPs it hosts
// itself. It follows the node's notifications, so that neither costs a question per connection.
type netmap struct {
	local  *local.Client
	logger *slog.Logger

	mu sync.Mutex
	// changed is closed at the next change.
	changed chan struct{}
	peers   map[tailcfg.NodeID][]netip.Prefix
	// routes counts the peers that own a prefix.
	routes map[netip.Prefix]int
	// names are those of the own VIPs by address, without svc:, and vips the addresses by name.
	names map[netip.Addr]string
	vips  map[string][]netip.Addr
}

func newNetmap(local *local.Client, logger *slog.Logger) *netmap {
	return &netmap{
		local:   local,
		logger:  logger,
		changed: make(chan struct{}),
		peers:   map[tailcfg.NodeID][]netip.Prefix{},
		routes:  map[netip.Prefix]int{},
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
	m.mu.Lock()
	defer m.mu.Unlock()
	for bits := addr.BitLen(); bits > 0; bits-- {
		if prefix, err := addr.Prefix(bits); err == nil && m.routes[prefix] > 0 {
			return true
		}
	}
	return false
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

// run follows the notifications until ctx ends. A watch that breaks, as one that falls behind does, begins anew.
func (m *netmap) run(ctx context.Context) error {
	for ctx.Err() == nil {
		if err := m.watch(ctx); err != nil && ctx.Err() == nil {
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
		m.update(&notify)
	}
}

func (m *netmap) update(notify *ipn.Notify) {
	m.mu.Lock()
	defer m.mu.Unlock()
	changed := false
	if status := notify.InitialStatus; status != nil {
		m.resetLocked(status)
		changed = true
	}
	if self := notify.SelfChange; self != nil {
		changed = m.hostLocked(self.CapMap) || changed
	}
	for _, peer := range notify.PeersChanged {
		changed = m.setLocked(peer.ID, peer.AllowedIPs) || changed
	}
	for _, id := range notify.PeersRemoved {
		changed = m.setLocked(id, nil) || changed
	}
	if changed {
		close(m.changed)
		m.changed = make(chan struct{})
	}
}

func (m *netmap) resetLocked(status *ipnstate.Status) {
	clear(m.peers)
	clear(m.routes)
	for _, peer := range status.Peer {
		if peer.AllowedIPs != nil {
			m.setLocked(peer.NodeID, peer.AllowedIPs.AsSlice())
		}
	}
	if status.Self != nil {
		m.hostLocked(status.Self.CapMap)
	}
}

// setLocked replaces what a peer owns, and reports whether that changes anything. Nothing means that the peer is gone.
func (m *netmap) setLocked(id tailcfg.NodeID, prefixes []netip.Prefix) (changed bool) {
	if slices.Equal(m.peers[id], prefixes) {
		return false
	}
	for _, prefix := range m.peers[id] {
		if m.routes[prefix]--; m.routes[prefix] == 0 {
			delete(m.routes, prefix)
		}
	}
	delete(m.peers, id)
	if len(prefixes) > 0 {
		m.peers[id] = prefixes
	}
	for _, prefix := range prefixes {
		m.routes[prefix]++
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
