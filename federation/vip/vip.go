// Package vip is the registry of VIPs: which export, or which federated service, has which name and which addresses.
//
// A change goes through three steps. Plan says what would change and changes nothing; the caller stores that; Apply
// makes it so. Nobody hears of a VIP that is not stored, and applying the stored changes again gives the same
// registry.
//
// The addresses of a VIP come from one of two providers. Where the control server has Tailscale Services, it gives
// them, and [Registry.PlanAssign] takes them in. Where it has none, as headscale, they come from a reserved range, a
// [Pool], lowest free first, and each is announced as a route of one address.
//
// The laws of the registry are:
//   - No two VIPs have the same owner, the same ServiceName or an address in common.
//   - What a VIP was once given, its names and addresses, it keeps until it is deleted. Nobody takes it away: what
//     would is an error that names both sides. Only a claim that has no address yet may change its names, to those
//     that its owner's VIP is found to have in the tailnet.
//   - A VIP that was released keeps both until its quarantine ends. Its owner may come back to it meanwhile.
//   - From a range with n free addresses, n VIPs get distinct ones; the next waits until one is free again.
//   - Claiming twice is claiming once.
//
// Claims, releases and the next deadline cost O(log n) of n VIPs; what is due costs by how much is due.
package vip

import (
	"cmp"
	"errors"
	"iter"
	"net/netip"
	"slices"
	"time"

	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/federation/index"
)

// Errors of claims.
var (
	// ErrNoPorts reports an export without a port: it cannot have a VIP.
	ErrNoPorts = errors.New("export has no port")
	// ErrNameTaken reports a VIP whose name belongs to another one, with the namespace too, or whose owner has one of
	// another name.
	ErrNameTaken = errors.New("name belongs to another VIP")
	// ErrRangeFull reports a range without a free address. The VIP waits for one.
	ErrRangeFull = errors.New("no free address")
)

// Errors of what a provider says.
var (
	// ErrUnknown reports a Tailscale Service that the registry does not know.
	ErrUnknown = errors.New("no such VIP")
	// ErrInvalid reports a VIP or an address that the registry cannot hold.
	ErrInvalid = errors.New("not a valid VIP")
	// ErrAddressTaken reports an address that another VIP holds, or held within its quarantine.
	ErrAddressTaken = errors.New("address belongs to another VIP")
	// ErrAddressChanged reports addresses that differ from those that the VIP has: a VIP once given is kept.
	ErrAddressChanged = errors.New("addresses of a VIP never change")
)

// Entry is a VIP with its state in the registry.
type Entry struct {
	federation.VIP
	// ReleasedAt is when the export went away, zero while it is there. A released VIP rests until its quarantine
	// ends: its export may come back to it, nobody else may have it.
	ReleasedAt time.Time
	// Epoch is the hub's epoch when the owner's claim was last made or changed; zero if a VIP was adopted and not
	// claimed since.
	Epoch uint64
}

// Change puts an entry in place of the one with the same ServiceName, or deletes that.
type Change struct {
	Entry  Entry
	Delete bool
}

// Options are what a registry goes by.
type Options struct {
	// Quarantine is how long the names and addresses of a released VIP rest.
	Quarantine time.Duration
	// Pool is the range that VIPs get their addresses from, one each. Nil if they come from outside.
	Pool *Pool
	// Epoch is that of the hub whose registry this is; it marks the claims.
	Epoch uint64
}

// Registry holds the entries, under indexes that always agree. It is not safe for concurrent use. The zero value is not
// ready, use [New].
//
// Entries that it gives away share their Addrs and Ports with it: they are to be read, and copied before they are
// changed. Apply replaces an entry and never changes it, so what was given away stays as it was.
type Registry struct {
	quarantine time.Duration
	epoch      uint64
	pool       *Pool
	free       bitset // of the pool's addresses, those that nobody holds

	byService index.Index[*record, string]
	byOwner   index.Index[*record, federation.ExportKey]
	byAddr    index.Index[holding, [16]byte]
	resting   queue // the released, by when
	waiting   queue // those that are claimed and have no address, by name
	words     words
	single    single
}

// record is an entry in the registry.
type record struct {
	Entry
	// place is where it stands in its queue.
	place int
}

// holding is one of the addresses of an entry.
type holding struct {
	*record
	n int
}

// New returns an empty registry.
func New(o Options) *Registry {
	r := &Registry{
		quarantine: o.Quarantine,
		epoch:      o.Epoch,
		byService:  index.New(func(e *record) string { return e.ServiceName }, func(name string) uint32 { return index.Hash(name) }),
		byOwner:    index.New(func(e *record) federation.ExportKey { return e.Owner }, hashOwner),
		byAddr:     index.New(func(h holding) [16]byte { return h.Addrs[h.n].As16() }, func(a [16]byte) uint32 { return index.Hash(string(a[:])) }),
		resting: queue{less: func(a, b *record) bool {
			return cmp.Or(a.ReleasedAt.Compare(b.ReleasedAt), cmp.Compare(a.ServiceName, b.ServiceName)) < 0
		}},
		waiting: queue{less: func(a, b *record) bool { return a.ServiceName < b.ServiceName }},
		words:   words{},
		single:  single{},
	}
	r.SetPool(o.Pool)
	return r
}

func hashOwner(k federation.ExportKey) uint32 {
	return index.Hash(string(k.Cluster), string(k.Service.Kind), k.Service.Namespace, k.Service.Name)
}

// Len returns how many entries there are, released ones included.
func (r *Registry) Len() int { return r.byService.Len() }

// Get returns the entry of an owner, released ones included. A federated VIP's owner has no cluster.
func (r *Registry) Get(owner federation.ExportKey) (Entry, bool) { return entry(r.byOwner.Get(owner)) }

// Lookup is Get without a copy. The entry must not be changed; the registry does not change it either, but puts another
// in its place.
func (r *Registry) Lookup(owner federation.ExportKey) (*Entry, bool) {
	rec, ok := r.byOwner.Get(owner)
	if !ok {
		return nil, false
	}
	return &rec.Entry, true
}

// Named returns the entry of a Tailscale Service, released ones included.
func (r *Registry) Named(service string) (Entry, bool) { return entry(r.byService.Get(service)) }

// Holder returns the entry that holds an address, released ones included.
func (r *Registry) Holder(a netip.Addr) (Entry, bool) {
	h, ok := r.byAddr.Get(a.As16())
	return entry(h.record, ok)
}

func entry(rec *record, ok bool) (Entry, bool) {
	if !ok {
		return Entry{}, false
	}
	return rec.Entry, true
}

// All returns the entries as they are now, sorted by ServiceName, without copying them: they must not be changed. The
// registry may be, meanwhile.
func (r *Registry) All() iter.Seq[*Entry] {
	return func(yield func(*Entry) bool) {
		for _, rec := range r.sorted() {
			if !yield(&rec.Entry) {
				return
			}
		}
	}
}

// Entries returns all entries, sorted by ServiceName.
func (r *Registry) Entries() []Entry {
	out := make([]Entry, 0, r.Len())
	for e := range r.All() {
		out = append(out, *e)
	}
	return out
}

func (r *Registry) sorted() []*record {
	return slices.SortedFunc(r.byService.All(), func(a, b *record) int { return cmp.Compare(a.ServiceName, b.ServiceName) })
}

// Apply makes the changes, in their order. It is deterministic, and changes that were planned on this registry, or
// stored by one, cannot fail. Changes that contradict one another are made as far as they can be; [Registry.Check]
// names them.
func (r *Registry) Apply(changes []Change) {
	for _, c := range changes {
		if old, ok := r.byService.Get(c.Entry.ServiceName); ok {
			r.drop(old)
		}
		if !c.Delete {
			r.put(c.Entry)
		}
	}
}

// put takes in an entry whose name is free.
func (r *Registry) put(e Entry) {
	rec := &record{Entry: e}
	rec.Addrs, rec.Ports = slices.Clip(slices.Clone(e.Addrs)), r.single.list(e.Ports)
	r.words.share(&rec.Entry)
	r.byService.Put(rec)
	r.byOwner.Put(rec)
	for n, a := range rec.Addrs {
		r.byAddr.Put(holding{rec, n})
		if i, ok := r.pool.ordinal(a); ok {
			r.free.clear(i)
		}
	}
	if q := r.queue(rec); q != nil {
		q.add(rec)
	}
}

func (r *Registry) drop(rec *record) {
	r.byService.Remove(rec)
	r.byOwner.Remove(rec)
	for n, a := range rec.Addrs {
		if i, ok := r.pool.ordinal(a); r.byAddr.Remove(holding{rec, n}) && ok {
			r.free.set(i)
		}
	}
	if q := r.queue(rec); q != nil {
		q.remove(rec)
	}
	r.words.leave(&rec.Entry)
}

// queue returns the queue that an entry stands in, nil if in none.
func (r *Registry) queue(rec *record) *queue {
	switch {
	case !rec.ReleasedAt.IsZero():
		return &r.resting
	case len(rec.Addrs) == 0:
		return &r.waiting
	}
	return nil
}
