package state

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"tailscale.com/tailcfg"
	"tailscale.com/types/key"
	"tailscale.com/util/dnsname"
)

// Device is a node as the admin API tells of it.
type Device struct {
	ID         tailcfg.StableNodeID
	LegacyID   tailcfg.NodeID
	NodeKey    key.NodePublic
	Hostname   string // as the node reported it
	Name       string // unique label within the tailnet's domain
	Addrs      []netip.Addr
	Tags       []string
	Created    time.Time
	Authorized bool
	Ephemeral  bool
	Online     bool
	LastSeen   time.Time // zero while online
	OS         string
	Version    string

	Endpoints        []netip.AddrPort
	AdvertisedRoutes []netip.Prefix
	EnabledRoutes    []netip.Prefix
	Services         []tailcfg.ServiceName // that it offers to host
}

type device struct {
	Device
	machine      key.MachinePublic
	settled      bool // has addresses
	connected    bool // at least once
	blocked      bool // by SetOffline
	stream       *stream
	offlineSince time.Time // zero while online

	setRoutes []netip.Prefix // enabled through the API
	// servicesHash is the newest that the node announced; fetchedHash the one
	// that belongs to Services.
	servicesHash, fetchedHash string
}

type stream struct{ stop func() }

func (d *device) online() bool { return d.stream != nil }

func (d *device) disconnect() {
	if d.stream != nil {
		d.stream.stop()
		d.stream = nil
	}
}

func (d *device) setHostinfo(hi *tailcfg.Hostinfo) {
	d.Hostname = hi.Hostname
	d.OS = hi.OS
	d.Version = hi.IPNVersion
	d.AdvertisedRoutes = slices.Clone(hi.RoutableIPs)
	d.servicesHash = hi.ServicesHash
	if hi.ServicesHash == "" {
		d.fetchedHash, d.Services = "", nil
	}
}

// Report is what a node tells about itself in a map request.
type Report struct {
	NodeKey   key.NodePublic
	Hostinfo  *tailcfg.Hostinfo // nil means as before
	Endpoints []netip.AddrPort
}

// Update records a node's report.
func (s *State) Update(r Report) {
	s.mu.Lock()
	defer s.mu.Unlock()
	d, ok := s.devices[r.NodeKey]
	if !ok {
		return
	}
	d.Endpoints = slices.Clone(r.Endpoints)
	if r.Hostinfo == nil {
		return
	}
	before, routes := d.servicesHash, d.AdvertisedRoutes
	d.setHostinfo(r.Hostinfo)
	if before != d.servicesHash || !slices.Equal(routes, d.AdvertisedRoutes) {
		s.touchLocked()
	}
}

// NeedServices returns the connected nodes whose list of services is out of
// date, with the hash that each has announced. The list has to be fetched from
// the node itself.
func (s *State) NeedServices() map[key.NodePublic]string {
	s.mu.Lock()
	defer s.mu.Unlock()
	nodes := map[key.NodePublic]string{}
	for nodeKey, d := range s.devices {
		if d.online() && d.servicesHash != d.fetchedHash {
			nodes[nodeKey] = d.servicesHash
		}
	}
	return nodes
}

// SetServices records the services that a node said it offers, and the hash it
// gave with them. It was asked because of the hash announced.
func (s *State) SetServices(nodeKey key.NodePublic, announced string, services []tailcfg.ServiceName, hash string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	d, ok := s.devices[nodeKey]
	if !ok {
		return
	}
	d.Services, d.fetchedHash = slices.Clone(services), hash
	// The list may be newer than the announcement; that of the newer one is on
	// the way then, and brings nothing new. But if the node has announced
	// something else meanwhile, the list may be the older one: it is asked
	// again.
	if d.servicesHash == announced {
		d.servicesHash = hash
	}
	s.touchLocked()
}

// Devices returns all devices, oldest first.
func (s *State) Devices() []Device {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := []Device{}
	for _, d := range s.devicesLocked() {
		out = append(out, s.publicLocked(d))
	}
	return out
}

// Device returns the device with that stable or legacy id.
func (s *State) Device(id string) (Device, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	d, err := s.deviceLocked(id)
	if err != nil {
		return Device{}, err
	}
	return s.publicLocked(d), nil
}

// DeleteDevice removes a device: peers forget it, and it has to log in again.
func (s *State) DeleteDevice(id string) error {
	return s.edit(id, func(d *device) error {
		s.removeLocked(d.NodeKey)
		return nil
	})
}

// SetTags replaces a device's tags. A device can't be without any again.
func (s *State) SetTags(id string, tags []string) error {
	return s.edit(id, func(d *device) error {
		if len(tags) == 0 && len(d.Tags) > 0 {
			return refuse(Invalid, "a tagged device must keep at least one tag")
		}
		if err := s.checkTagsLocked(tags); err != nil {
			return err
		}
		d.Tags = normalTags(tags)
		return nil
	})
}

// SetAuthorized lets a device take part in the tailnet, or hides it from all.
func (s *State) SetAuthorized(id string, authorized bool) error {
	return s.edit(id, func(d *device) error {
		d.Authorized = authorized
		return nil
	})
}

// SetName renames a device, given as a label or with the tailnet's domain. An
// empty name goes back to the hostname.
func (s *State) SetName(id, name string) error {
	return s.edit(id, func(d *device) error {
		label, _ := strings.CutSuffix(strings.TrimSuffix(name, "."), "."+s.cfg.Domain)
		if label == "" {
			d.Name = ""
			d.Name = s.freeNameLocked(d.Hostname)
			return nil
		}
		if err := dnsname.ValidLabel(label); err != nil {
			return refuse(Invalid, "name %q is invalid: %v", name, err)
		}
		for _, other := range s.devices {
			if other != d && other.Name == label {
				return refuse(Conflict, "name %q is taken by device %s", label, other.ID)
			}
		}
		d.Name = label
		return nil
	})
}

// SetRoutes replaces the routes that the administrator enabled for a device.
func (s *State) SetRoutes(id string, routes []netip.Prefix) error {
	return s.edit(id, func(d *device) error {
		d.setRoutes = slices.Clone(routes)
		return nil
	})
}

func (s *State) edit(id string, change func(*device) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	d, err := s.deviceLocked(id)
	if err != nil {
		return err
	}
	if err := change(d); err != nil {
		return err
	}
	s.touchLocked()
	return nil
}

func (s *State) removeLocked(nodeKey key.NodePublic) {
	d := s.devices[nodeKey]
	delete(s.devices, nodeKey)
	for _, svc := range s.services {
		delete(svc.approvals, d.ID)
	}
	s.touchLocked()
	// The stream stays open for the push that tells the node; the control
	// server ends it then.
}

func (s *State) deviceLocked(id string) (*device, error) {
	for _, d := range s.devices {
		if d.settled && (string(d.ID) == id || strconv.FormatInt(int64(d.LegacyID), 10) == id) {
			return d, nil
		}
	}
	return nil, refuse(NotFound, "device %q not found", id)
}

func (s *State) devicesLocked() []*device {
	devices := make([]*device, 0, len(s.devices))
	for _, d := range s.devices {
		if d.settled {
			devices = append(devices, d)
		}
	}
	slices.SortFunc(devices, func(a, b *device) int { return strings.Compare(string(a.ID), string(b.ID)) })
	return devices
}

func (s *State) publicLocked(d *device) Device {
	p := d.Device
	p.Online = d.online()
	p.LastSeen = d.offlineSince
	p.Addrs = slices.Clone(d.Addrs)
	p.Tags = slices.Clone(d.Tags)
	p.Services = slices.Clone(d.Services)
	p.Endpoints = slices.Clone(d.Endpoints)
	p.AdvertisedRoutes = slices.Clone(d.AdvertisedRoutes)
	p.EnabledRoutes = s.enabledRoutesLocked(d)
	return p
}

// enabledRoutesLocked returns the routes that are enabled for d, by the
// administrator or by the policy file; whether it advertises them or not.
func (s *State) enabledRoutesLocked(d *device) []netip.Prefix {
	enabled := slices.Clone(d.setRoutes)
	for _, r := range d.AdvertisedRoutes {
		if !slices.Contains(enabled, r) && s.policy.approvesRoute(r, d.Tags) {
			enabled = append(enabled, r)
		}
	}
	return enabled
}

// freeNameLocked returns hostname as a DNS label, with a number if it is taken.
func (s *State) freeNameLocked(hostname string) string {
	base := dnsname.SanitizeHostname(hostname)
	if base == "" {
		base = "node"
	}
	taken := map[string]bool{}
	for _, d := range s.devices {
		taken[d.Name] = true
	}
	name := base
	for n := 1; taken[name]; n++ {
		suffix := fmt.Sprintf("-%d", n)
		name = base[:min(len(base), 63-len(suffix))] + suffix
	}
	return name
}
