package machine

import (
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// networkConfig is what a shim makes of its network namespace. Without a Link there is only lo.
type networkConfig struct {
	// Link is the name of the interface that was moved in; it becomes eth0.
	Link string
	// Address is the machine's address with the length of the fabric's prefix, Gateway that of the fabric's bridge.
	Address netip.Prefix
	Gateway netip.Addr
	// Local are prefixes all of whose addresses are the machine's own.
	Local []netip.Prefix
	// Routes are prefixes with the machines that they are behind.
	Routes map[netip.Prefix]netip.Addr
}

func (c networkConfig) apply() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find lo: %w", err)
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return fmt.Errorf("set lo up: %w", err)
	}
	for _, p := range c.Local {
		route := &netlink.Route{
			LinkIndex: lo.Attrs().Index,
			Dst:       ipNet(p.Masked()),
			Type:      unix.RTN_LOCAL,
			Table:     unix.RT_TABLE_LOCAL,
			Scope:     netlink.SCOPE_HOST,
		}
		if err := netlink.RouteAdd(route); err != nil {
			return fmt.Errorf("make %s local: %w", p, err)
		}
	}
	if c.Link == "" {
		return nil
	}
	return c.applyLink()
}

func (c networkConfig) applyLink() error {
	link, err := netlink.LinkByName(c.Link)
	if err != nil {
		return fmt.Errorf("find %s: %w", c.Link, err)
	}
	if err := netlink.LinkSetName(link, "eth0"); err != nil {
		return fmt.Errorf("rename %s: %w", c.Link, err)
	}
	if err := netlink.AddrAdd(link, &netlink.Addr{IPNet: ipNet(c.Address)}); err != nil {
		return fmt.Errorf("give eth0 the address %s: %w", c.Address, err)
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return fmt.Errorf("set eth0 up: %w", err)
	}
	if err := netlink.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Gw: c.Gateway.AsSlice()}); err != nil {
		return fmt.Errorf("route by %s: %w", c.Gateway, err)
	}
	for to, by := range c.Routes {
		if err := netlink.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Dst: ipNet(to.Masked()), Gw: by.AsSlice()}); err != nil {
			return fmt.Errorf("route to %s by %s: %w", to, by, err)
		}
	}
	return nil
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// hardwareAddr is the same for the same address at every boot, or else the neighbours would send to the machine's former one
// until their ARP entries time out.
func hardwareAddr(ip netip.Addr) net.HardwareAddr {
	b := ip.As4()
	return net.HardwareAddr{0x02, 0x74, b[0], b[1], b[2], b[3]}
}
