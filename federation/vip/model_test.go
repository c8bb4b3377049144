package vip_test

import (
	"cmp"
	"errors"
	"net/netip"
	"slices"
	"time"

	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/federation/vip"
)

// model is the registry as one would write it without a thought for its size: a list of entries and a list of
// addresses, both walked from end to end. It knows names of the tailnet "production" that need no hash.
type model struct {
	entries []vip.Entry
	pool    []netip.Addr // in their order; nil without one
	epoch   uint64
}

func (m *model) find(is func(vip.Entry) bool) *vip.Entry {
	if i := slices.IndexFunc(m.entries, is); i >= 0 {
		return &m.entries[i]
	}
	return nil
}

func (m *model) owned(k federation.ExportKey) *vip.Entry {
	return m.find(func(e vip.Entry) bool { return e.Owner == k })
}

func (m *model) named(name string) *vip.Entry {
	return m.find(func(e vip.Entry) bool { return e.ServiceName == name })
}

func (m *model) held(a netip.Addr) *vip.Entry {
	return m.find(func(e vip.Entry) bool { return slices.Contains(e.Addrs, a) })
}

func (m *model) give(e *vip.Entry) error {
	if len(e.Addrs) > 0 || m.pool == nil {
		return nil
	}
	for _, a := range m.pool {
		if m.held(a) == nil {
			e.Addrs = []netip.Addr{a}
			return nil
		}
	}
	return vip.ErrRangeFull
}

func (m *model) claim(k federation.ExportKey, ports []federation.Port) error {
	if e := m.owned(k); e != nil {
		had := len(e.Addrs)
		err := m.give(e)
		if !e.ReleasedAt.IsZero() || !slices.Equal(e.Ports, ports) || len(e.Addrs) != had {
			e.ReleasedAt, e.Ports, e.Tailnet, e.Epoch = time.Time{}, ports, "production", m.epoch
		}
		return err
	}
	for _, infix := range []string{"", k.Service.Namespace + "-"} {
		name := "local-production-" + infix + k.Service.Name
		service := name + "-" + string(k.Cluster)
		if k.Cluster == "" {
			name = "federated-production-" + infix + k.Service.Name
			service = name
		}
		if m.named(service) == nil {
			e := vip.Entry{VIP: federation.VIP{Owner: k, Name: name, ServiceName: service, Tailnet: "production", Ports: ports}, Epoch: m.epoch}
			err := m.give(&e)
			m.entries = append(m.entries, e)
			return err
		}
	}
	return vip.ErrNameTaken
}

func (m *model) assign(service string, a netip.Addr) error {
	e := m.named(service)
	switch {
	case e == nil:
		return vip.ErrUnknown
	case slices.Equal(e.Addrs, []netip.Addr{a}):
		return nil
	case len(e.Addrs) > 0:
		return vip.ErrAddressChanged
	case m.held(a) != nil:
		return vip.ErrAddressTaken
	}
	e.Addrs = []netip.Addr{a}
	return nil
}

func (m *model) adopt(v federation.VIP, now time.Time) error {
	if e := m.named(v.ServiceName); e != nil && e.Owner != v.Owner {
		return vip.ErrNameTaken
	}
	e := m.owned(v.Owner)
	if e != nil && len(e.Addrs) > 0 {
		switch {
		case e.ServiceName != v.ServiceName:
			return vip.ErrNameTaken
		case !slices.Equal(e.Addrs, v.Addrs):
			return vip.ErrAddressChanged
		}
		return nil
	}
	if m.held(v.Addrs[0]) != nil {
		return vip.ErrAddressTaken
	}
	if e == nil {
		m.entries = append(m.entries, vip.Entry{VIP: v, ReleasedAt: now})
		return nil
	}
	e.Name, e.ServiceName, e.Addrs = v.Name, v.ServiceName, v.Addrs
	return nil
}

func (m *model) release(k federation.ExportKey, now time.Time) {
	if e := m.owned(k); e != nil && e.ReleasedAt.IsZero() {
		e.ReleasedAt = now
	}
}

func (m *model) dismiss(k federation.ExportKey, now time.Time) {
	if e := m.owned(k); e != nil && (e.ReleasedAt.IsZero() || now.Before(e.ReleasedAt.Add(quarantine))) {
		e.ReleasedAt = now.Add(-quarantine)
	}
}

func (m *model) expire(now time.Time) {
	m.entries = slices.DeleteFunc(m.entries, func(e vip.Entry) bool {
		return !e.ReleasedAt.IsZero() && !now.Before(e.ReleasedAt.Add(quarantine))
	})
}

func (m *model) fill() {
	for _, e := range m.sorted() {
		if e.ReleasedAt.IsZero() {
			if err := m.give(m.named(e.ServiceName)); errors.Is(err, vip.ErrRangeFull) {
				return
			}
		}
	}
}

func (m *model) deadline() (at time.Time, ok bool) {
	for _, e := range m.entries {
		if !e.ReleasedAt.IsZero() && (!ok || e.ReleasedAt.Add(quarantine).Before(at)) {
			at, ok = e.ReleasedAt.Add(quarantine), true
		}
	}
	return at, ok
}

func (m *model) outside() []vip.Entry {
	var out []vip.Entry
	for _, e := range m.sorted() {
		if m.pool != nil && slices.ContainsFunc(e.Addrs, func(a netip.Addr) bool { return !slices.Contains(m.pool, a) }) {
			out = append(out, e)
		}
	}
	return out
}

func (m *model) sorted() []vip.Entry {
	return slices.SortedFunc(slices.Values(m.entries), func(a, b vip.Entry) int { return cmp.Compare(a.ServiceName, b.ServiceName) })
}
