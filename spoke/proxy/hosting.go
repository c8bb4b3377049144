package proxy

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"reflect"
	"slices"

	"tailscale.com/client/local"
	"tailscale.com/ipn"
	"tailscale.com/tailcfg"

	"github.com/tailgate-project/tailgate/federation"
)

// hosting tells the node which VIPs it hosts: all of them in one call, because each call rewrites the whole
// configuration. What was told is remembered and not told again. A node begins with nothing.
type hosting struct {
	local *local.Client
	// withdrawn is set when nothing is to be advertised any more.
	withdrawn  bool
	served     map[tailcfg.ServiceName]*ipn.ServiceConfig
	advertised []string
}

// host makes the node serve the wanted ports and those that are leaving, and advertise the services that are wanted.
func (h *hosting) host(ctx context.Context, wanted map[inletKey][]netip.AddrPort, leaving map[inletKey]*inlet) error {
	served := map[tailcfg.ServiceName]*ipn.ServiceConfig{}
	var names []string
	for key := range wanted {
		serve(served, key)
		names = append(names, string(serviceName(key)))
	}
	slices.Sort(names)
	names = slices.Compact(names)
	for key := range leaving {
		serve(served, key)
	}
	if h.withdrawn {
		names = nil
	}
	if !reflect.DeepEqual(served, h.served) && len(served)+len(h.served) > 0 {
		if err := h.local.SetServeConfig(ctx, &ipn.ServeConfig{Services: served}); err != nil {
			return fmt.Errorf("serve %d services: %w", len(served), err)
		}
		h.served = maps.Clone(served)
	}
	return h.advertise(ctx, names)
}

func serviceName(key inletKey) tailcfg.ServiceName {
	return tailcfg.AsServiceName("svc:" + key.service)
}

// serve adds a port. A handler that does nothing lets the packets pass on to the listeners of the node's own process.
// UDP ports need no entry, but their service does.
func serve(services map[tailcfg.ServiceName]*ipn.ServiceConfig, key inletKey) {
	name := serviceName(key)
	config, ok := services[name]
	if !ok {
		config = &ipn.ServiceConfig{}
		services[name] = config
	}
	if key.protocol == federation.TCP {
		if config.TCP == nil {
			config.TCP = map[uint16]*ipn.TCPPortHandler{}
		}
		config.TCP[key.port] = &ipn.TCPPortHandler{}
	}
}

// advertise offers the node as a host of these services, and of no others.
func (h *hosting) advertise(ctx context.Context, names []string) error {
	if slices.Equal(names, h.advertised) {
		return nil
	}
	prefs := &ipn.MaskedPrefs{AdvertiseServicesSet: true, Prefs: ipn.Prefs{AdvertiseServices: names}}
	if _, err := h.local.EditPrefs(ctx, prefs); err != nil {
		return fmt.Errorf("advertise %d services: %w", len(names), err)
	}
	h.advertised = names
	return nil
}
