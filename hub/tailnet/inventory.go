package tailnet

import (
	"context"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	tsapi "tailscale.com/client/tailscale/v2"

	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/federation/discovery"
)

// Inventory lists the devices and the services of the tailnet, in two calls. Devices that have one of the tags in without are
// left out, as are those that are not authorized and those of other tailnets that are shared into this one.
func (a *API) Inventory(ctx context.Context, without []string) (discovery.Inventory, error) {
	var out discovery.Inventory
	devices, err := a.client.Devices().List(ctx)
	if err != nil {
		return out, said(err, "list devices")
	}
	services, err := a.client.VIPServices().List(ctx)
	if err != nil {
		return out, said(err, "list services")
	}
	for _, d := range devices {
		hidden := slices.ContainsFunc(d.Tags, func(t string) bool { return slices.Contains(without, t) })
		if !hidden && d.Authorized && !d.IsExternal {
			out.Devices = append(out.Devices, discovery.Device{FQDN: strings.TrimSuffix(d.Name, "."), Addrs: addrsOf(d.Addresses), Tags: d.Tags})
		}
	}
	for _, s := range services {
		out.Services = append(out.Services, discovery.Service{
			Name: strings.TrimPrefix(s.Name, "svc:"), Addrs: addrsOf(s.Addrs), Ports: servicePorts(s), Tags: s.Tags, Federated: a.mine(s),
		})
	}
	return out, nil
}

// addrsOf reads addresses, those of IPv4 first. The API has no others.
func addrsOf(texts []string) []netip.Addr {
	var out []netip.Addr
	for _, text := range texts {
		if addr, err := netip.ParseAddr(text); err == nil {
			out = append(out, addr)
		}
	}
	slices.SortFunc(out, netip.Addr.Compare)
	return out
}

// servicePorts reads ports such as tcp:443 and udp:5000-5010. Of a range only the first counts: an endpoint is one port. A
// service that may have any port, do-not-validate, has none that could be named.
func servicePorts(s tsapi.VIPService) []federation.Port {
	var out []federation.Port
	for _, text := range s.Ports {
		protocol, number, _ := strings.Cut(text, ":")
		number, _, _ = strings.Cut(number, "-")
		n, err := strconv.ParseUint(number, 10, 16)
		if p := federation.Protocol(strings.ToUpper(protocol)); err == nil && n > 0 && (p == federation.TCP || p == federation.UDP) {
			out = append(out, federation.Port{Port: uint16(n), Protocol: p})
		}
	}
	slices.SortFunc(out, federation.Port.Compare)
	return slices.Compact(out)
}
