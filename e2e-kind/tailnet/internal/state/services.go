package state

import (
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"tailscale.com/net/tsaddr"
	"tailscale.com/tailcfg"
)

// Service is a Tailscale Service as it was put, with its addresses.
type Service struct {
	Name        tailcfg.ServiceName
	Addrs       []netip.Addr // IPv4 first, then IPv6
	Comment     string
	Annotations map[string]string
	Ports       []string // "tcp:443", "udp:53", or "do-not-validate"
	Tags        []string

	// Hosts are the approved hosts in the order in which they came; Primary
	// is the one that gets the traffic, "" if there is none.
	Hosts   []tailcfg.StableNodeID
	Primary tailcfg.StableNodeID
}

type service struct {
	Service
	approvals map[tailcfg.StableNodeID]bool // decided through the API
}

// Approval says whether a device may host a service.
type Approval struct {
	Approved     bool
	AutoApproved bool // by the policy file, nobody having decided otherwise
}

// vip6 is where the IPv6 addresses of services come from: inside Tailscale's
// range, apart from those of the nodes.
var vip6 = netip.MustParsePrefix("fd7a:115c:a1e0:5e7::/64")

// Services returns all services by name.
func (s *State) Services() []Service {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := []Service{}
	for _, name := range slices.Sorted(maps.Keys(s.services)) {
		out = append(out, s.services[name].public())
	}
	return out
}

// Service returns one service.
func (s *State) Service(name string) (Service, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	svc, err := s.serviceLocked(name)
	if err != nil {
		return Service{}, err
	}
	return svc.public(), nil
}

// PutService creates or updates a service and returns it as stored. A new one
// gets the addresses it doesn't name; an update has to name its addresses, as
// production insists.
func (s *State) PutService(want Service) (Service, error) {
	if err := want.Name.Validate(); err != nil {
		return Service{}, refuse(Invalid, "service name %q is invalid: %v", want.Name, err)
	}
	if err := checkPorts(want.Ports); err != nil {
		return Service{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.checkTagsLocked(want.Tags); err != nil {
		return Service{}, err
	}
	old := s.services[want.Name]
	addrs, err := s.addressesLocked(old, want)
	if err != nil {
		return Service{}, err
	}
	svc := &service{approvals: map[tailcfg.StableNodeID]bool{}}
	if old != nil {
		svc.approvals = old.approvals
		svc.Hosts, svc.Primary = old.Hosts, old.Primary
	}
	svc.Name = want.Name
	svc.Addrs = addrs
	svc.Comment = want.Comment
	svc.Annotations = maps.Clone(want.Annotations)
	svc.Ports = slices.Clone(want.Ports)
	svc.Tags = slices.Clone(want.Tags)
	s.services[want.Name] = svc
	s.touchLocked()
	return svc.public(), nil
}

// DeleteService removes a service and frees its addresses.
func (s *State) DeleteService(name string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	svc, err := s.serviceLocked(name)
	if err != nil {
		return err
	}
	delete(s.services, svc.Name)
	s.touchLocked()
	return nil
}

// Approval returns whether the device may host the service.
func (s *State) Approval(service, device string) (Approval, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	svc, err := s.serviceLocked(service)
	if err != nil {
		return Approval{}, err
	}
	d, err := s.deviceLocked(device)
	if err != nil {
		return Approval{}, err
	}
	return s.approvalLocked(svc, d), nil
}

// Approve decides whether the device may host the service. It may be decided
// before the device offers to.
func (s *State) Approve(service, device string, approved bool) (Approval, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	svc, err := s.serviceLocked(service)
	if err != nil {
		return Approval{}, err
	}
	d, err := s.deviceLocked(device)
	if err != nil {
		return Approval{}, err
	}
	if len(d.Tags) == 0 {
		return Approval{}, refuse(Invalid, "device %s has no tag: only tagged devices can host services", d.ID)
	}
	svc.approvals[d.ID] = approved
	s.touchLocked()
	return s.approvalLocked(svc, d), nil
}

func (s *State) approvalLocked(svc *service, d *device) Approval {
	if approved, decided := svc.approvals[d.ID]; decided {
		return Approval{Approved: approved}
	}
	auto := s.policy.approvesService(svc.Name, svc.Tags, d.Tags)
	return Approval{Approved: auto, AutoApproved: auto}
}

func (s *State) serviceLocked(name string) (*service, error) {
	svc, ok := s.services[tailcfg.ServiceName(name)]
	if !ok {
		return nil, refuse(NotFound, "service %q not found", name)
	}
	return svc, nil
}

func (svc *service) public() Service {
	p := svc.Service
	p.Addrs = slices.Clone(p.Addrs)
	p.Annotations = maps.Clone(p.Annotations)
	p.Ports = slices.Clone(p.Ports)
	p.Tags = slices.Clone(p.Tags)
	p.Hosts = slices.Clone(p.Hosts)
	return p
}

// settleServicesLocked works out anew who hosts each service and who is its
// primary host.
func (s *State) settleServicesLocked() {
	offered := map[tailcfg.ServiceName][]*device{}
	byID := map[tailcfg.StableNodeID]*device{}
	for _, d := range s.devicesLocked() {
		byID[d.ID] = d
		if len(d.Tags) == 0 || !d.Authorized {
			continue
		}
		for _, name := range d.Services {
			offered[name] = append(offered[name], d)
		}
	}
	for name, svc := range s.services {
		var able []tailcfg.StableNodeID
		for _, d := range offered[name] {
			if s.approvalLocked(svc, d).Approved {
				able = append(able, d.ID)
			}
		}
		// Who came first stays first.
		hosts := slices.DeleteFunc(slices.Clone(svc.Hosts), func(id tailcfg.StableNodeID) bool { return !slices.Contains(able, id) })
		for _, id := range able {
			if !slices.Contains(hosts, id) {
				hosts = append(hosts, id)
			}
		}
		svc.Hosts = hosts
		svc.Primary = s.choosePrimaryLocked(svc, byID)
	}
}

// choosePrimaryLocked keeps the primary host while it can serve: production
// doesn't fail back, and gives a host that vanished some time to return.
func (s *State) choosePrimaryLocked(svc *service, byID map[tailcfg.StableNodeID]*device) tailcfg.StableNodeID {
	current := svc.Primary
	if !slices.Contains(svc.Hosts, current) {
		current = ""
	}
	if current != "" && (byID[current].online() || s.cfg.Now().Before(byID[current].offlineSince.Add(s.cfg.FailoverAfter))) {
		return current
	}
	for _, id := range svc.Hosts {
		if byID[id].online() {
			return id
		}
	}
	return current
}

// failoverDueLocked returns when svc moves to another host, if it waits for
// its primary host to return and there is another.
func (s *State) failoverDueLocked(svc *service) (due time.Time, waiting bool) {
	var primary *device
	other := false
	for _, d := range s.devices {
		if d.ID == svc.Primary {
			primary = d
		} else if d.online() && slices.Contains(svc.Hosts, d.ID) {
			other = true
		}
	}
	if primary == nil || primary.online() || !other {
		return time.Time{}, false
	}
	return primary.offlineSince.Add(s.cfg.FailoverAfter), true
}

// addressesLocked returns the addresses that want is to have.
func (s *State) addressesLocked(old *service, want Service) ([]netip.Addr, error) {
	if old != nil && len(want.Addrs) == 0 {
		return nil, refuse(Invalid, "service %q exists: an update must set its addrs (get it first and send them back)", want.Name)
	}
	taken := map[netip.Addr]string{}
	for name, svc := range s.services {
		if svc != old {
			for _, a := range svc.Addrs {
				taken[a] = "service " + string(name)
			}
		}
	}
	for _, d := range s.devices {
		for _, a := range d.Addrs {
			taken[a] = "device " + string(d.ID)
		}
	}
	var v4, v6 netip.Addr
	if old != nil {
		v4, v6 = old.Addrs[0], old.Addrs[1]
	}
	for _, a := range want.Addrs {
		if by, ok := taken[a]; ok {
			return nil, refuse(Conflict, "address %v is in use by %s", a, by)
		}
		switch {
		case a.Is4() && tsaddr.CGNATRange().Contains(a) && !reserved(a):
			v4 = a
		case a.Is6() && a == v6: // sent back as it was
		case a.Is6():
			return nil, refuse(Invalid, "address %v: the IPv6 address of a service can't be chosen", a)
		default:
			return nil, refuse(Invalid, "address %v can't be used for a service: choose one in %v", a, s.cfg.VIPPrefix)
		}
	}
	if !v4.IsValid() {
		v4 = lowestFree(s.cfg.VIPPrefix, taken)
	}
	if !v6.IsValid() {
		v6 = lowestFree(vip6, taken)
	}
	if !v4.IsValid() || !v6.IsValid() {
		return nil, refuse(Conflict, "no address is free in %v", s.cfg.VIPPrefix)
	}
	return []netip.Addr{v4, v6}, nil
}

// lowestFree returns the lowest address of p that is neither taken nor
// reserved, or the zero Addr.
func lowestFree(p netip.Prefix, taken map[netip.Addr]string) netip.Addr {
	for a := p.Masked().Addr().Next(); p.Contains(a); a = a.Next() {
		if _, used := taken[a]; !used && !reserved(a) {
			return a
		}
	}
	return netip.Addr{}
}

// reserved reports whether Tailscale itself uses a.
func reserved(a netip.Addr) bool {
	return a == tsaddr.TailscaleServiceIP() || tsaddr.ChromeOSVMRange().Contains(a)
}

func checkPorts(ports []string) error {
	for _, p := range ports {
		if p == "do-not-validate" {
			continue
		}
		proto, numbers, ok := strings.Cut(p, ":")
		if !ok || proto != "tcp" && proto != "udp" {
			return refuse(Invalid, "port %q is invalid: want tcp:N, udp:N, or a range tcp:N-M", p)
		}
		low, high, ranged := strings.Cut(numbers, "-")
		if !ranged {
			high = low
		}
		first, err1 := strconv.ParseUint(low, 10, 16)
		last, err2 := strconv.ParseUint(high, 10, 16)
		if err1 != nil || err2 != nil || first == 0 || first > last {
			return refuse(Invalid, "port %q is invalid: want numbers from 1 to 65535", p)
		}
	}
	return nil
}
