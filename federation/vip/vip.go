// Package vip is the registry of VIPs: which export has which name and which addresses.
//
// A change goes through three steps. Plan says what would change and changes nothing; the caller stores that; Apply
// makes it so. Nobody hears of a VIP that is not stored, and applying the stored changes again gives the same
// registry.
package vip

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/tailgate-project/tailgate/federation"
)

var (
	// ErrNoPorts reports an export without a port: it cannot have a VIP.
	ErrNoPorts = errors.New("export has no port")
	// ErrUnknown reports a Tailscale Service that the registry does not know.
	ErrUnknown = errors.New("no such VIP")
	// ErrAddressTaken reports an address that another VIP holds, or held within its quarantine.
	ErrAddressTaken = errors.New("address belongs to another VIP")
	// ErrNameTaken reports an export whose name, with the namespace, belongs to another one.
	ErrNameTaken = errors.New("name belongs to another VIP")
	// ErrAddressChanged reports addresses that differ from those that the VIP has: a VIP once given is kept.
	ErrAddressChanged = errors.New("addresses of a VIP never change")
)

// Entry is a VIP with its state in the registry.
type Entry struct {
	federation.VIP
	// ReleasedAt is when the export went away, zero while it is there. A released VIP rests until its quarantine
	// ends: its export may come back to it, nobody else may have it.
	ReleasedAt time.Time
}

// Change puts an entry in place of the one with the same ServiceName, or deletes that.
type Change struct {
	Entry  Entry
	Delete bool
}

// Registry holds the entries under three indexes that always agree. The zero value is not ready, use [New].
type Registry struct {
	quarantine time.Duration
	byService  map[string]Entry
	byOwner    map[federation.ExportKey]string
	byAddr     map[netip.Addr]string
}

// New returns an empty registry in which released VIPs rest for the quarantine.
func New(quarantine time.Duration) *Registry {
	return &Registry{
		quarantine: quarantine,
		byService:  map[string]Entry{},
		byOwner:    map[federation.ExportKey]string{},
		byAddr:     map[netip.Addr]string{},
	}
}

// Get returns the entry of an export, released ones included.
func (r *Registry) Get(owner federation.ExportKey) (Entry, bool) {
	e, ok := r.byService[r.byOwner[owner]]
	return e, ok
}

// Named returns the entry of a Tailscale Service, released ones included.
func (r *Registry) Named(service string) (Entry, bool) {
	e, ok := r.byService[service]
	return e, ok
}

// Entries returns all entries, sorted by ServiceName.
func (r *Registry) Entries() []Entry {
	return slices.SortedFunc(maps.Values(r.byService), func(a, b Entry) int { return cmp.Compare(a.ServiceName, b.ServiceName) })
}

// PlanClaim plans the VIP of an export: the one that it has or had, or a new one without addresses. It returns no
// change when the registry says so already.
func (r *Registry) PlanClaim(x federation.Export) ([]Change, error) {
	if len(x.Ports) == 0 {
		return nil, fmt.Errorf("%s: %w", x.Key, ErrNoPorts)
	}
	if e, ok := r.Get(x.Key); ok {
		if e.ReleasedAt.IsZero() && slices.Equal(e.Ports, x.Ports) && e.Tailnet == x.Tailnet && e.TailnetRef == x.TailnetRef {
			return nil, nil
		}
		e.ReleasedAt, e.Ports, e.Tailnet, e.TailnetRef = time.Time{}, x.Ports, x.Tailnet, x.TailnetRef
		return []Change{{Entry: e}}, nil
	}
	name, service := names(x, false)
	if _, taken := r.byService[service]; taken {
		name, service = names(x, true)
	}
	if holder, taken := r.byService[service]; taken {
		return nil, fmt.Errorf("%s: %w: %s is of %s", x.Key, ErrNameTaken, service, holder.Owner)
	}
	return []Change{{Entry: Entry{VIP: federation.VIP{
		Owner: x.Key, Name: name, ServiceName: service, Tailnet: x.Tailnet, TailnetRef: x.TailnetRef, Ports: slices.Clone(x.Ports),
	}}}}, nil
}

// PlanAssign plans the addresses that the provider gave for a Tailscale Service.
func (r *Registry) PlanAssign(service string, addrs []netip.Addr) ([]Change, error) {
	e, ok := r.byService[service]
	if !ok {
		return nil, fmt.Errorf("%s: %w", service, ErrUnknown)
	}
	if slices.Equal(e.Addrs, addrs) {
		return nil, nil
	}
	if len(e.Addrs) > 0 {
		return nil, fmt.Errorf("%s: %w: has %v, was given %v", service, ErrAddressChanged, e.Addrs, addrs)
	}
	for _, a := range addrs {
		if holder, taken := r.byAddr[a]; taken {
			return nil, fmt.Errorf("%s: %w: %s is of %s", service, ErrAddressTaken, a, holder)
		}
	}
	e.Addrs = slices.Clone(addrs)
	return []Change{{Entry: e}}, nil
}

// PlanAdopt plans an entry for a VIP that was found in the tailnet and that the registry does not know, as after a
// lost store. Its name and addresses are kept as they are. A VIP that is known, or contradicts the registry, is not
// adopted.
func (r *Registry) PlanAdopt(v federation.VIP, now time.Time) ([]Change, error) {
	if _, known := r.byService[v.ServiceName]; known {
		return nil, nil
	}
	if s, has := r.byOwner[v.Owner]; has {
		return nil, fmt.Errorf("adopt %s: %w: %s has %s", v.ServiceName, ErrNameTaken, v.Owner, s)
	}
	for _, a := range v.Addrs {
		if holder, taken := r.byAddr[a]; taken {
			return nil, fmt.Errorf("adopt %s: %w: %s is of %s", v.ServiceName, ErrAddressTaken, a, holder)
		}
	}
	return []Change{{Entry: Entry{VIP: v, ReleasedAt: now}}}, nil
}

// PlanRelease plans the start of the quarantine of an export's VIP.
func (r *Registry) PlanRelease(owner federation.ExportKey, now time.Time) []Change {
	e, ok := r.Get(owner)
	if !ok || !e.ReleasedAt.IsZero() {
		return nil
	}
	e.ReleasedAt = now
	return []Change{{Entry: e}}
}

// PlanExpire plans the end of all entries whose quarantine is over, sorted by ServiceName.
func (r *Registry) PlanExpire(now time.Time) []Change {
	var out []Change
	for _, e := range r.Entries() {
		if !e.ReleasedAt.IsZero() && !now.Before(e.ReleasedAt.Add(r.quarantine)) {
			out = append(out, Change{Entry: e, Delete: true})
		}
	}
	return out
}

// Deadline returns when [Registry.PlanExpire] will next have something to say.
func (r *Registry) Deadline() (time.Time, bool) {
	var at time.Time
	for _, e := range r.byService {
		if !e.ReleasedAt.IsZero() && (at.IsZero() || e.ReleasedAt.Before(at)) {
			at = e.ReleasedAt
		}
	}
	return at.Add(r.quarantine), !at.IsZero()
}

// Apply makes the changes. It is deterministic, and changes that were planned on this registry, or stored by one,
// cannot fail.
func (r *Registry) Apply(changes []Change) {
	for _, c := range changes {
		r.drop(c.Entry.ServiceName)
		if c.Delete {
			continue
		}
		r.byService[c.Entry.ServiceName] = c.Entry
		r.byOwner[c.Entry.Owner] = c.Entry.ServiceName
		for _, a := range c.Entry.Addrs {
			r.byAddr[a] = c.Entry.ServiceName
		}
	}
}

func (r *Registry) drop(service string) {
	e, ok := r.byService[service]
	if !ok {
		return
	}
	delete(r.byService, service)
	delete(r.byOwner, e.Owner)
	for _, a := range e.Addrs {
		delete(r.byAddr, a)
	}
}

// Check returns what is broken in the registry: an address or an export under two names, an index that disagrees, a
// name that is no label. A sound registry returns nothing.
func (r *Registry) Check() []error {
	var errs []error
	addrs, owners := map[netip.Addr]string{}, map[federation.ExportKey]string{}
	for _, e := range r.Entries() {
		if !federation.IsLabel(e.ServiceName) || !federation.IsLabel(e.Name) {
			errs = append(errs, fmt.Errorf("%s (%s) is not an RFC 1123 label", e.ServiceName, e.Name))
		}
		if other, taken := owners[e.Owner]; taken {
			errs = append(errs, fmt.Errorf("%s has two VIPs, %s and %s", e.Owner, other, e.ServiceName))
		}
		owners[e.Owner] = e.ServiceName
		for _, a := range e.Addrs {
			if other, taken := addrs[a]; taken {
				errs = append(errs, fmt.Errorf("%s is held by %s and %s", a, other, e.ServiceName))
			}
			addrs[a] = e.ServiceName
		}
	}
	if !maps.Equal(addrs, r.byAddr) || !maps.Equal(owners, r.byOwner) {
		errs = append(errs, errors.New("the registry's indexes disagree with its entries"))
	}
	return errs
}
