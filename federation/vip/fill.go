package vip

import (
	"fmt"
	"iter"
	"net/netip"
	"slices"
)

// SetPool changes the range that addresses come from. VIPs outside of it keep what they have, but what they give back
// is not given again. It changes no entry; VIPs that wait for an address get one by [Registry.PlanFill].
func (r *Registry) SetPool(p *Pool) {
	r.pool, r.free = p, fullBitset(p.Size())
	for rec := range r.byService.All() {
		for _, a := range rec.Addrs {
			if i, ok := p.ordinal(a); ok {
				r.free.clear(i)
			}
		}
	}
}

// Pool returns the range that addresses come from, nil if they come from outside.
func (r *Registry) Pool() *Pool { return r.pool }

// Outside returns the entries with an address that is not of the pool, as after the range shrank, sorted by
// ServiceName. Without a pool nothing is outside.
func (r *Registry) Outside() []Entry {
	var out []Entry
	if r.pool == nil {
		return nil
	}
	for e := range r.All() {
		if slices.ContainsFunc(e.Addrs, func(a netip.Addr) bool { return !r.pool.Contains(a) }) {
			out = append(out, *e)
		}
	}
	return out
}

// PlanFill plans addresses for VIPs that wait for one, in the order of their ServiceNames, as far as there are any: after
// a VIP was deleted, or the range was set. Pending are changes that were planned before and will be applied
// first, in the same batch. It costs nothing where nobody waits.
func (r *Registry) PlanFill(pending ...Change) []Change {
	if r.pool == nil || len(r.waiting.items) == 0 {
		return nil
	}
	var addrs []netip.Addr
	for a := range r.freeAddrs(pending) {
		if addrs = append(addrs, a); len(addrs) == len(r.waiting.items) {
			break
		}
	}
	var out []Change
	for rec := range r.waiting.ascend() {
		if len(out) == len(addrs) {
			break
		}
		e, ok := r.now(rec.Owner, pending)
		if ok && e.ReleasedAt.IsZero() && len(e.Addrs) == 0 {
			e.Addrs = addrs[len(out) : len(out)+1 : len(out)+1]
			out = append(out, Change{Entry: e})
		}
	}
	return out
}

// give gives an entry without an address the lowest free one, if there is a pool.
func (r *Registry) give(e *Entry, pending []Change) error {
	if r.pool == nil || len(e.Addrs) > 0 {
		return nil
	}
	for a := range r.freeAddrs(pending) {
		e.Addrs = []netip.Addr{a}
		return nil
	}
	return fmt.Errorf("%s: %w: all %d of %s are held or in quarantine; it gets the next that is free, or reserve a wider range",
		e.Owner, ErrRangeFull, r.pool.Size(), r.pool)
}

// freeAddrs returns the addresses that are free once the pending changes are made, lowest first.
func (r *Registry) freeAddrs(pending []Change) iter.Seq[netip.Addr] {
	if len(pending) == 0 {
		return r.freeNow
	}
	taken, freed := r.difference(pending)
	return func(yield func(netip.Addr) bool) {
		rest := freed
		for a := range r.freeNow {
			for len(rest) > 0 && rest[0].Less(a) {
				if !yield(rest[0]) {
					return
				}
				rest = rest[1:]
			}
			if _, ok := taken[a]; !ok && !yield(a) {
				return
			}
		}
		for _, a := range rest {
			if !yield(a) {
				return
			}
		}
	}
}

// freeNow yields the addresses that are free, lowest first.
func (r *Registry) freeNow(yield func(netip.Addr) bool) {
	for i, ok := r.free.next(0); ok; i, ok = r.free.next(i + 1) {
		if !yield(r.pool.addr(i)) {
			return
		}
	}
}

// difference returns which addresses the pending changes take, and which of the pool they free, sorted.
func (r *Registry) difference(pending []Change) (taken map[netip.Addr]struct{}, freed []netip.Addr) {
	last := map[string]Change{}
	for _, c := range pending {
		last[c.Entry.ServiceName] = c
	}
	taken = map[netip.Addr]struct{}{}
	for _, c := range last {
		if !c.Delete {
			for _, a := range c.Entry.Addrs {
				taken[a] = struct{}{}
			}
		}
	}
	for service := range last {
		e, _ := r.Named(service)
		for _, a := range e.Addrs {
			if _, kept := taken[a]; !kept && r.pool.Contains(a) {
				freed = append(freed, a)
			}
		}
	}
	slices.SortFunc(freed, netip.Addr.Compare)
	return taken, freed
}
