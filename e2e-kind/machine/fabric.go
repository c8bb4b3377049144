package machine

import (
	"errors"
	"fmt"
	"net/netip"
	"sync"

	"github.com/vishvananda/netlink"
)

// ErrNotIsolated says that the program still runs in the network of the host, which no fabric may touch.
var ErrNotIsolated = errors.New("not in namespaces of its own: start the program by machine.RunIsolated")

// DefaultPrefix is the fabric's own address and the prefix of all machines on it.
var DefaultPrefix = netip.MustParsePrefix("10.200.0.1/24")

const bridgeName = "br0"

// Fabric is the network between the machines: a bridge, on which this program has an address too.
type Fabric struct {
	prefix netip.Prefix
	bridge netlink.Link

	mu       sync.Mutex
	machines map[string]*Machine // by name; those that run
	booted   int                 // names the next link
}

// NewFabric makes the bridge br0 in this program's own network namespace and gives it the prefix's address, which becomes
// the machines' default gateway. The prefix is an IPv4 one; the zero value means [DefaultPrefix]. It returns
// [ErrNotIsolated] outside of namespaces made by [Isolate]. There is one fabric to a namespace.
func NewFabric(prefix netip.Prefix) (*Fabric, error) {
	if !Isolated() {
		return nil, ErrNotIsolated
	}
	if !prefix.IsValid() {
		prefix = DefaultPrefix
	}
	if !prefix.Addr().Is4() {
		return nil, fmt.Errorf("fabric prefix %s: it must be an IPv4 one", prefix)
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name = bridgeName
	// Without an address of its own a bridge takes that of its lowest port, and changes it as ports come and go.
	attrs.HardwareAddr = hardwareAddr(prefix.Addr())
	bridge := &netlink.Bridge{LinkAttrs: attrs}
	if err := netlink.LinkAdd(bridge); err != nil {
		return nil, fmt.Errorf("make bridge %s: %w", bridgeName, err)
	}
	f := &Fabric{prefix: prefix, bridge: bridge, machines: map[string]*Machine{}}
	if err := netlink.AddrAdd(bridge, &netlink.Addr{IPNet: ipNet(prefix)}); err != nil {
		return nil, errors.Join(fmt.Errorf("give %s the address %s: %w", bridgeName, prefix, err), f.Close())
	}
	if err := netlink.LinkSetUp(bridge); err != nil {
		return nil, errors.Join(fmt.Errorf("set %s up: %w", bridgeName, err), f.Close())
	}
	return f, nil
}

// Addr is the fabric's own address, that of this program as the machines see it.
func (f *Fabric) Addr() netip.Addr { return f.prefix.Addr() }

// Close kills all machines and removes the bridge.
func (f *Fabric) Close() error {
	var errs []error
	for _, m := range f.running() {
		errs = append(errs, m.Kill())
	}
	if err := netlink.LinkDel(f.bridge); err != nil {
		errs = append(errs, fmt.Errorf("remove bridge %s: %w", bridgeName, err))
	}
	return errors.Join(errs...)
}

func (f *Fabric) running() []*Machine {
	f.mu.Lock()
	defer f.mu.Unlock()
	var all []*Machine
	for _, m := range f.machines {
		all = append(all, m)
	}
	return all
}

// enter takes the machine's name and address and numbers its link; nothing else may have them until it is gone.
func (f *Fabric) enter(m *Machine) (number int, err error) {
	if !f.prefix.Contains(m.spec.IP) || m.spec.IP == f.prefix.Addr() {
		return 0, fmt.Errorf("address %s is not a machine's on %s", m.spec.IP, f.prefix)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for name, other := range f.machines {
		if name == m.spec.Name || other.spec.IP == m.spec.IP {
			return 0, fmt.Errorf("machine %s with address %s runs already", name, other.spec.IP)
		}
	}
	f.machines[m.spec.Name] = m
	f.booted++
	return f.booted, nil
}

func (f *Fabric) leave(m *Machine) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.machines, m.spec.Name)
}

// plug makes a pair of links, one end in the bridge, and moves the other into the network namespace of the process, where it
// has the name returned.
func (f *Fabric) plug(m *Machine, number, pid int) (inside string, err error) {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = fmt.Sprintf("vm%d", number)
	attrs.MasterIndex = f.bridge.Attrs().Index
	inside = fmt.Sprintf("eth%dm", number)
	pair := &netlink.Veth{LinkAttrs: attrs, PeerName: inside, PeerHardwareAddr: hardwareAddr(m.spec.IP)}
	if err := netlink.LinkAdd(pair); err != nil {
		return "", fmt.Errorf("make link %s: %w", attrs.Name, err)
	}
	m.cable = pair
	peer, err := netlink.LinkByName(inside)
	if err != nil {
		return "", fmt.Errorf("find link %s: %w", inside, err)
	}
	if err := netlink.LinkSetNsPid(peer, pid); err != nil {
		return "", fmt.Errorf("move link %s into the machine: %w", inside, err)
	}
	if err := netlink.LinkSetUp(pair); err != nil {
		return "", fmt.Errorf("set link %s up: %w", attrs.Name, err)
	}
	return inside, nil
}
