package link

import (
	"net/netip"

	"github.com/tailgate-project/tailgate/federation/discovery"
)

// MaxDiscovered is how many devices and services an answer has.
const MaxDiscovered = 1000

// FromQuery converts what a spoke asks for.
func FromQuery(q discovery.Query) *DiscoverRequest {
	out := &DiscoverRequest{ServiceNames: q.Names, ServiceTags: q.Tags}
	for _, s := range q.Selectors {
		out.Selectors = append(out.Selectors, &TagSelector{Tag: s.Tag, Operator: string(s.Operator), Values: s.Values})
	}
	return out
}

// ToQuery converts what [FromQuery] made, and reports what makes no sense.
func ToQuery(p *DiscoverRequest) (discovery.Query, error) {
	out := discovery.Query{Names: p.GetServiceNames(), Tags: p.GetServiceTags()}
	for _, s := range p.GetSelectors() {
		out.Selectors = append(out.Selectors, discovery.TagSelector{Tag: s.GetTag(), Operator: discovery.Operator(s.GetOperator()), Values: s.GetValues()})
	}
	return out, out.Validate()
}

// FromInventory converts what was found, as far as it fits into an answer: devices before services.
func FromInventory(i discovery.Inventory) *DiscoverResponse {
	out := &DiscoverResponse{}
	for _, d := range i.Devices {
		if len(out.GetDevices()) == MaxDiscovered {
			out.LeftOut++
			continue
		}
		out.Devices = append(out.Devices, &Device{Fqdn: d.FQDN, Addrs: fromAddrs(d.Addrs), Tags: d.Tags})
	}
	for _, s := range i.Services {
		if len(out.GetDevices())+len(out.GetServices()) == MaxDiscovered {
			out.LeftOut++
			continue
		}
		out.Services = append(out.Services, &TailscaleService{Name: s.Name, Addrs: fromAddrs(s.Addrs), Ports: fromPorts(s.Ports), Tags: s.Tags})
	}
	return out
}

// ToInventory converts what [FromInventory] made.
func ToInventory(p *DiscoverResponse) (discovery.Inventory, error) {
	var out discovery.Inventory
	for _, d := range p.GetDevices() {
		addrs, err := toAddrs(d.GetAddrs())
		if err != nil {
			return out, err
		}
		out.Devices = append(out.Devices, discovery.Device{FQDN: d.GetFqdn(), Addrs: addrs, Tags: d.GetTags()})
	}
	for _, s := range p.GetServices() {
		addrs, err := toAddrs(s.GetAddrs())
		if err != nil {
			return out, err
		}
		ports, err := toPorts(s.GetPorts())
		if err != nil {
			return out, err
		}
		out.Services = append(out.Services, discovery.Service{Name: s.GetName(), Addrs: addrs, Ports: ports, Tags: s.GetTags()})
	}
	return out, nil
}

func toAddrs(raw [][]byte) ([]netip.Addr, error) {
	var out []netip.Addr
	for _, b := range raw {
		addr, err := toAddr(b)
		if err != nil {
			return nil, err
		}
		out = append(out, addr)
	}
	return out, nil
}
