package proxy

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"tailscale.com/tailcfg"

	"github.com/tailgate-project/tailgate/spoke/probe"
)

// names are the names of the tailnet: those of its devices, and its DNS records, which are where services have theirs. The
// zero value knows none. Its owner guards it.
type names struct {
	// suffix is the tailnet's own domain, without a dot at either end.
	suffix  string
	devices map[string]tailcfg.NodeID
	records map[string][]netip.Addr
}

// canonical is how a name is written here: small, and without a last dot.
func canonical(name string) string { return strings.ToLower(strings.TrimSuffix(name, ".")) }

// tailnetOf is the domain of the tailnet of a device with this name.
func tailnetOf(device string) string {
	_, suffix, _ := strings.Cut(canonical(device), ".")
	return suffix
}

// device says that a device has a name, or with "" none any more; was is the one it had.
func (n *names) device(id tailcfg.NodeID, was, name string) {
	if was = canonical(was); n.devices[was] == id { // another one may have it by now
		delete(n.devices, was)
	}
	if name == "" {
		return
	}
	if n.devices == nil {
		n.devices = map[string]tailcfg.NodeID{}
	}
	n.devices[canonical(name)] = id
}

// record replaces all records, and reports whether that changes anything. Those that are no addresses are left out.
func (n *names) record(records []tailcfg.DNSRecord) (changed bool) {
	next := map[string][]netip.Addr{}
	for _, r := range records {
		if r.Type != "" && r.Type != "A" && r.Type != "AAAA" {
			continue
		}
		if addr, err := netip.ParseAddr(r.Value); err == nil {
			name := canonical(r.Name)
			next[name] = append(next[name], addr.Unmap())
		}
	}
	for _, addrs := range next {
		slices.SortFunc(addrs, netip.Addr.Compare) // IPv4 first
	}
	if maps.EqualFunc(n.records, next, slices.Equal) {
		return false
	}
	n.records = next
	return true
}

// find returns the device with a name, or the addresses of a record. A whole name comes before one in the tailnet's own
// domain, and a device before a record.
func (n *names) find(name string) (device tailcfg.NodeID, addrs []netip.Addr, ok bool) {
	whole := canonical(name)
	for _, try := range []string{whole, whole + "." + n.suffix} {
		if id, ok := n.devices[try]; ok {
			return id, nil, true
		}
		if addrs, ok := n.records[try]; ok {
			return 0, addrs, true
		}
	}
	return 0, nil, false
}

// lookup returns the addresses of a device or a service of the tailnet, those of IPv4 first. The caller may change them.
func (m *netmap) lookup(name string) ([]netip.Addr, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	id, addrs, ok := m.dns.find(name)
	switch {
	case !ok && !m.seen:
		return nil, fmt.Errorf("the tailnet was not seen yet: %w", probe.ErrNoRoute)
	case !ok:
		return nil, fmt.Errorf("%w: %q", probe.ErrUnknownName, name)
	case addrs == nil:
		addrs = m.peers[id].addrs
	}
	return slices.Clone(addrs), nil
}

// unknown returns an error for the user if nobody in the tailnet has the name. There is none for an empty name.
func (m *netmap) unknown(name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, _, ok := m.dns.find(name); ok || name == "" || !m.seen {
		return nil
	}
	return fmt.Errorf("no device or service of the tailnet is called %q, or none that this proxy may see", name)
}
