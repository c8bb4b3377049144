package vip

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/tailgate-project/tailgate/federation"
)

// Check returns what is broken in the registry: an address or an owner under two names, a name that is no label, an
// index, a queue or the free part of the range that disagrees with the entries. A sound registry returns nothing.
func (r *Registry) Check() []error {
	entries := r.sorted()
	errs := checkEntries(entries)
	errs = append(errs, r.checkIndexes(entries)...)
	errs = append(errs, r.checkQueues(entries)...)
	if err := r.checkFree(entries); err != nil {
		errs = append(errs, err)
	}
	return errs
}

// checkEntries looks at the entries alone.
func checkEntries(entries []*record) []error {
	var errs []error
	addrs, owners := map[netip.Addr]string{}, map[federation.ExportKey]string{}
	for _, e := range entries {
		if !federation.IsLabel(e.ServiceName) || !federation.IsLabel(e.Name) {
			errs = append(errs, fmt.Errorf("%q (%q) is not an RFC 1123 label", e.ServiceName, e.Name))
		}
		if other, taken := owners[e.Owner]; taken {
			errs = append(errs, fmt.Errorf("%s has two VIPs, %s and %s", e.Owner, other, e.ServiceName))
		}
		owners[e.Owner] = e.ServiceName
		for _, a := range e.Addrs {
			if other, taken := addrs[a]; taken {
				errs = append(errs, fmt.Errorf("%s is held by %s and %s", a, other, e.ServiceName))
			}
			if addrs[a] = e.ServiceName; a != a.Unmap() || !a.IsValid() {
				errs = append(errs, fmt.Errorf("%s holds %q, which is no address of a VIP", e.ServiceName, a))
			}
		}
	}
	return errs
}

// checkIndexes looks whether each index finds all entries and nothing else.
func (r *Registry) checkIndexes(entries []*record) []error {
	holdings, lost := 0, 0
	for _, rec := range entries {
		if got, _ := r.byService.Get(rec.ServiceName); got != rec {
			lost++
		}
		if got, _ := r.byOwner.Get(rec.Owner); got != rec {
			lost++
		}
		for n, a := range rec.Addrs {
			holdings++
			if got, _ := r.byAddr.Get(a.As16()); got != (holding{rec, n}) {
				lost++
			}
		}
	}
	var errs []error
	if lost > 0 || r.byService.Len() != len(entries) || r.byOwner.Len() != len(entries) || r.byAddr.Len() != holdings {
		errs = append(errs, fmt.Errorf("the indexes disagree with the entries: %d of %d VIPs with %d addresses are not found, they count %d names, %d owners and %d addresses",
			lost, len(entries), holdings, r.byService.Len(), r.byOwner.Len(), r.byAddr.Len()))
	}
	uses := map[string]int{}
	for text, w := range r.words {
		uses[text] = w.uses
	}
	if !maps.Equal(uses, count(entries)) {
		errs = append(errs, errors.New("the shared strings disagree with the entries"))
	}
	return errs
}

// checkQueues looks whether each entry stands in its queue, and the queues are in order.
func (r *Registry) checkQueues(entries []*record) []error {
	var errs []error
	queued := 0
	for _, rec := range entries {
		q := r.queue(rec)
		if q == nil {
			continue
		}
		if queued++; rec.place >= len(q.items) || q.items[rec.place] != rec {
			errs = append(errs, fmt.Errorf("%s is not in its queue", rec.ServiceName))
		}
	}
	if n := len(r.resting.items) + len(r.waiting.items); n != queued {
		errs = append(errs, fmt.Errorf("%d VIPs rest or wait, %d are queued", queued, n))
	}
	if !r.resting.sound() || !r.waiting.sound() {
		errs = append(errs, errors.New("a queue is out of order"))
	}
	return errs
}

// checkFree looks whether those addresses of the range are free that nobody holds.
func (r *Registry) checkFree(entries []*record) error {
	want := fullBitset(r.pool.Size())
	for _, rec := range entries {
		for _, a := range rec.Addrs {
			if i, ok := r.pool.ordinal(a); ok {
				want.clear(i)
			}
		}
	}
	if want.len != r.free.len || !slices.EqualFunc(want.levels, r.free.levels, slices.Equal[[]uint64]) {
		return fmt.Errorf("the free addresses of %s disagree with the entries", r.pool)
	}
	return nil
}
