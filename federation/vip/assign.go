package vip

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/tailgate-project/tailgate/federation"
)

// PlanAssign plans the addresses that the provider gave for a Tailscale Service.
func (r *Registry) PlanAssign(service string, addrs []netip.Addr) ([]Change, error) {
	e, ok := r.Named(service)
	if !ok {
		return nil, fmt.Errorf("%s: %w: it was deleted meanwhile", service, ErrUnknown)
	}
	addrs, err := tidy(addrs)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", service, err)
	}
	if slices.Equal(e.Addrs, addrs) {
		return nil, nil
	}
	if len(e.Addrs) > 0 {
		return nil, changed(e, addrs)
	}
	if err := r.untaken(service, addrs); err != nil {
		return nil, err
	}
	e.Addrs = addrs
	return []Change{{Entry: e}}, nil
}

// PlanAdopt plans an entry for a VIP that was found in the tailnet, as after a lost store. Its names and addresses are
// kept as they are, and it rests until its owner claims it. If the owner has claimed a VIP meanwhile that has no address
// yet, the one of the tailnet wins: the claim goes over to it, and a name that differs is deleted. A VIP that is known
// changes nothing; one that contradicts the registry is not adopted, and nothing is taken from anybody.
//
// With a [Pool], VIPs are to be adopted before they are claimed: a claim is given an address at once.
func (r *Registry) PlanAdopt(v federation.VIP, now time.Time) ([]Change, error) {
	if err := validate(v); err != nil {
		return nil, fmt.Errorf("adopt %q: %w", v.ServiceName, err)
	}
	addrs, err := tidy(v.Addrs)
	if err != nil {
		return nil, fmt.Errorf("adopt %s: %w", v.ServiceName, err)
	}
	v.Addrs = addrs
	if named, ok := r.Named(v.ServiceName); ok && named.Owner != v.Owner {
		return nil, fmt.Errorf("adopt %s: %w: here it is of %s, in the tailnet of %s; delete svc:%s in the tailnet, it will be made anew",
			v.ServiceName, ErrNameTaken, named.Owner, v.Owner, v.ServiceName)
	}
	had, ok := r.Get(v.Owner)
	switch {
	case !ok:
		had.ReleasedAt = instant(now)
	case had.ServiceName == v.ServiceName && (len(addrs) == 0 || slices.Equal(had.Addrs, addrs)):
		return nil, nil
	case had.ServiceName == v.ServiceName && len(had.Addrs) > 0:
		return nil, fmt.Errorf("adopt: %w", changed(had, addrs))
	case len(had.Addrs) > 0:
		return nil, fmt.Errorf("adopt %s: %w: %s has %s at %v; delete svc:%s in the tailnet unless somebody uses it",
			v.ServiceName, ErrNameTaken, v.Owner, had.ServiceName, had.Addrs, v.ServiceName)
	}
	if err := r.untaken(v.ServiceName, addrs); err != nil {
		return nil, fmt.Errorf("adopt %w", err)
	}
	next := Entry{VIP: v, ReleasedAt: had.ReleasedAt, Epoch: had.Epoch}
	if !ok {
		return []Change{{Entry: next}}, nil
	}
	next.Ports, next.Tailnet, next.TailnetRef = had.Ports, had.Tailnet, had.TailnetRef
	if had.ServiceName == v.ServiceName {
		return []Change{{Entry: next}}, nil
	}
	return []Change{{Entry: had, Delete: true}, {Entry: next}}, nil
}

// changed is the error for addresses that differ from those that a VIP has.
func changed(e Entry, addrs []netip.Addr) error {
	return fmt.Errorf("%s: %w: has %v, was given %v; delete svc:%s in the tailnet, it will be made anew with the addresses that it has",
		e.ServiceName, ErrAddressChanged, e.Addrs, addrs, e.ServiceName)
}

// untaken returns an error unless the addresses are free for a VIP that has none.
func (r *Registry) untaken(service string, addrs []netip.Addr) error {
	for _, a := range addrs {
		if h, taken := r.Holder(a); taken {
			return fmt.Errorf("%s: %w: %s is of %s (%s); delete svc:%s in the tailnet, it will be made anew with an address of its own",
				service, ErrAddressTaken, a, h.ServiceName, h.Owner, service)
		}
	}
	return nil
}

// tidy returns the addresses in their one order, IPv4 first, each once.
func tidy(addrs []netip.Addr) ([]netip.Addr, error) {
	if len(addrs) == 0 {
		return nil, nil
	}
	out := make([]netip.Addr, 0, len(addrs))
	for _, a := range addrs {
		if !a.IsValid() || a.Zone() != "" {
			return nil, fmt.Errorf("%w: %q is no address of a VIP", ErrInvalid, a)
		}
		out = append(out, a.Unmap())
	}
	slices.SortFunc(out, netip.Addr.Compare)
	return slices.Compact(out), nil
}

// validate returns an error unless a VIP has an owner and names that the registry could have given.
func validate(v federation.VIP) error {
	if !federation.IsLabel(v.ServiceName) || !federation.IsLabel(v.Name) {
		return fmt.Errorf("%w: its name %q and that of its Service must be RFC 1123 labels; delete it in the tailnet if it is not in use", ErrInvalid, v.Name)
	}
	if _, err := federation.ParseServiceID(v.Owner.Service.String()); err != nil {
		return fmt.Errorf("%w: its owner: %w", ErrInvalid, err)
	}
	if !v.Federated() {
		if err := v.Owner.Cluster.Validate(); err != nil {
			return fmt.Errorf("%w: its owner: %w", ErrInvalid, err)
		}
	}
	return nil
}

// instant returns a time without the clock reading that a store would not keep.
func instant(t time.Time) time.Time { return t.Round(0) }
