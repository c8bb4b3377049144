package vip

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/tailgate-project/tailgate/federation"
)

// PlanClaim plans the VIP of an export: the one that it has or had, or a new one, with an address at once if there is a
// [Pool]. It returns no change when the registry says so already. Pending are changes that were planned before and
// will be applied first, in the same batch.
//
// With [ErrRangeFull] the changes count nevertheless: the VIP has its name and waits for its address, which
// [Registry.PlanFill] or another claim gives it. All other errors come without changes.
func (r *Registry) PlanClaim(x federation.Export, pending ...Change) ([]Change, error) {
	if len(x.Ports) == 0 {
		return nil, fmt.Errorf("%s: %w: give it one, or withdraw it", x.Key, ErrNoPorts)
	}
	if err := x.Key.Cluster.Validate(); err != nil { // without a cluster it would pass for a federated one
		return nil, fmt.Errorf("%s: %w", x.Key, err)
	}
	return r.planClaim(federation.VIP{Owner: x.Key, Tailnet: x.Tailnet, TailnetRef: x.TailnetRef, Ports: x.Ports}, pending)
}

// PlanClaimFederated plans the VIP of a whole federated service from those of its exports that ask for it, as PlanClaim
// does for one of them. Its ports are all of theirs; where two call the same port by different names, the cluster
// that comes first counts. Its tailnet is that of the first cluster, and stays for as long as one of them is in it.
func (r *Registry) PlanClaimFederated(id federation.ServiceID, exports []federation.Export, pending ...Change) ([]Change, error) {
	v := federation.VIP{Owner: federation.ExportKey{Service: id}}
	asking := slices.DeleteFunc(slices.Clone(exports), func(x federation.Export) bool { return !x.Federated || x.Key.Service != id })
	slices.SortStableFunc(asking, func(a, b federation.Export) int { return cmp.Compare(a.Key.Cluster, b.Key.Cluster) })
	for _, x := range asking {
		v.Ports = append(v.Ports, x.Ports...)
	}
	if len(v.Ports) == 0 {
		return nil, fmt.Errorf("federated %s: %w: an export that asks for the VIP must offer one", id, ErrNoPorts)
	}
	v.Ports = union(v.Ports)
	tailnet := func(x federation.Export) bool { return x.Tailnet == v.Tailnet && x.TailnetRef == v.TailnetRef }
	if e, ok := r.now(v.Owner, pending); ok {
		v.Tailnet, v.TailnetRef = e.Tailnet, e.TailnetRef
	}
	if !slices.ContainsFunc(asking, tailnet) {
		v.Tailnet, v.TailnetRef = asking[0].Tailnet, asking[0].TailnetRef
	}
	return r.planClaim(v, pending)
}

// union sorts the ports and keeps of each the one that came first.
func union(ports []federation.Port) []federation.Port {
	number := func(a, b federation.Port) int {
		return cmp.Or(cmp.Compare(a.Port, b.Port), cmp.Compare(a.Protocol, b.Protocol))
	}
	slices.SortStableFunc(ports, number)
	return slices.CompactFunc(ports, func(a, b federation.Port) bool { return number(a, b) == 0 })
}

// planClaim plans the VIP that v says all of but names and addresses.
func (r *Registry) planClaim(v federation.VIP, pending []Change) ([]Change, error) {
	if e, ok := r.now(v.Owner, pending); ok {
		next := e
		next.ReleasedAt, next.Ports, next.Tailnet, next.TailnetRef = time.Time{}, slices.Clone(v.Ports), v.Tailnet, v.TailnetRef
		full := r.give(&next, pending)
		if e.ReleasedAt.IsZero() && slices.Equal(e.Ports, next.Ports) && e.Tailnet == next.Tailnet && e.TailnetRef == next.TailnetRef &&
			len(e.Addrs) == len(next.Addrs) {
			return nil, full
		}
		next.Epoch = r.epoch
		return []Change{{Entry: next}}, full
	}
	var holder federation.ExportKey
	for _, qualified := range []bool{false, true} {
		v.Name, v.ServiceName = names(v, qualified)
		var taken bool
		if holder, taken = r.holder(v.ServiceName, pending); !taken {
			next := Entry{VIP: v, Epoch: r.epoch}
			next.Ports = slices.Clone(v.Ports)
			full := r.give(&next, pending)
			return []Change{{Entry: next}}, full
		}
	}
	return nil, fmt.Errorf("%s: %w: %s is of %s, with and without the namespace; rename one of them, or withdraw the other and wait %s",
		v.Owner, ErrNameTaken, v.ServiceName, holder, r.quarantine)
}

// now returns an owner's entry as it is once the pending changes are made.
func (r *Registry) now(owner federation.ExportKey, pending []Change) (Entry, bool) {
	for _, c := range slices.Backward(pending) {
		if c.Entry.Owner == owner {
			return c.Entry, !c.Delete
		}
	}
	return r.Get(owner)
}

// holder returns who has a name once the pending changes are made.
func (r *Registry) holder(service string, pending []Change) (federation.ExportKey, bool) {
	for _, c := range slices.Backward(pending) {
		if c.Entry.ServiceName == service {
			return c.Entry.Owner, !c.Delete
		}
	}
	e, ok := r.Named(service)
	return e.Owner, ok
}
