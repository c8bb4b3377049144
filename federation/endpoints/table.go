package endpoints

import (
	"cmp"
	"iter"
	"slices"

	"github.com/tailgate-project/tailgate/federation"
)

// Table knows which clusters export which service, and which refer to which. It has no verdicts and no VIPs.
//
// The lists it hands out are sorted, shared, and never changed: a change makes a new list. So a change costs as much as
// the lists of its service are long, and finding them does not depend on how many services there are.
type Table struct {
	// services are those that are exported or that somebody names, exported the former in their order.
	services map[federation.ServiceID]*service
	exported shelf
	// interests are those of the clusters that want anything; everything are the clusters that want all.
	interests  map[federation.ClusterID]federation.Interest
	everything []federation.ClusterID
}

// service is what the table knows of one; its lists are sorted.
type service struct {
	id        federation.ServiceID
	exporters []federation.ClusterID
	// naming are those that refer to it by its name; those that want all are not among them.
	naming []federation.ClusterID
}

// NewTable returns an empty table.
func NewTable() *Table {
	return &Table{services: map[federation.ServiceID]*service{}, interests: map[federation.ClusterID]federation.Interest{}}
}

// Add notes that the cluster exports the service.
func (t *Table) Add(k federation.ExportKey) {
	s := t.service(k.Service)
	if len(s.exporters) == 0 {
		t.exported.insert(s)
	}
	s.exporters = with(s.exporters, k.Cluster)
}

// Remove notes that the cluster no longer exports the service.
func (t *Table) Remove(k federation.ExportKey) {
	s := t.services[k.Service]
	if s == nil || len(s.exporters) == 0 {
		return
	}
	if s.exporters = without(s.exporters, k.Cluster); len(s.exporters) == 0 {
		t.exported.remove(s)
		t.tidy(s)
	}
}

// Exporters returns the clusters that export the service, sorted.
func (t *Table) Exporters(id federation.ServiceID) []federation.ClusterID {
	if s := t.services[id]; s != nil {
		return s.exporters
	}
	return nil
}

// Known returns the id of a service as the table holds it, so that the strings of its exports can be the same.
func (t *Table) Known(id federation.ServiceID) federation.ServiceID {
	if s := t.services[id]; s != nil {
		return s.id
	}
	return id
}

// SetInterest notes which services the cluster refers to, in place of what it referred to before. The interest is kept
// and must not be changed.
func (t *Table) SetInterest(c federation.ClusterID, i federation.Interest) {
	t.Forget(c)
	switch {
	case i.All:
		t.everything = with(t.everything, c)
		i.Services = nil
	case len(i.Services) == 0:
		return
	}
	if !sorted(i.Services) {
		i.Services = slices.Compact(slices.SortedFunc(slices.Values(i.Services), federation.ServiceID.Compare))
	}
	t.interests[c] = i
	for _, id := range i.Services {
		s := t.service(id)
		s.naming = with(s.naming, c)
	}
}

func sorted(ids []federation.ServiceID) bool {
	for i := 1; i < len(ids); i++ {
		if ids[i-1].Compare(ids[i]) >= 0 {
			return false
		}
	}
	return true
}

// Forget forgets that the cluster refers to anything. What it exports is not touched: see [Table.Remove].
func (t *Table) Forget(c federation.ClusterID) {
	i, ok := t.interests[c]
	if !ok {
		return
	}
	delete(t.interests, c)
	if i.All {
		t.everything = without(t.everything, c)
	}
	for _, id := range i.Services {
		s := t.services[id]
		s.naming = without(s.naming, c)
		t.tidy(s)
	}
}

// Consumers returns the clusters that refer to the service, sorted: those that want all and those that name it.
func (t *Table) Consumers(id federation.ServiceID) []federation.ClusterID {
	s := t.services[id]
	switch {
	case s == nil || len(s.naming) == 0:
		return t.everything
	case len(t.everything) == 0:
		return s.naming
	}
	out := make([]federation.ClusterID, 0, len(s.naming)+len(t.everything))
	a, b := s.naming, t.everything // no cluster is in both
	for len(a) > 0 && len(b) > 0 {
		if a[0] < b[0] {
			out, a = append(out, a[0]), a[1:]
		} else {
			out, b = append(out, b[0]), b[1:]
		}
	}
	return append(append(out, a...), b...)
}

// Wanted returns the services that are exported and that the cluster refers to, sorted. The table must not change
// before the end.
func (t *Table) Wanted(c federation.ClusterID) iter.Seq[federation.ServiceID] {
	i := t.interests[c]
	return func(yield func(federation.ServiceID) bool) {
		if i.All {
			t.exported.each(func(s *service) bool { return yield(s.id) })
			return
		}
		for _, id := range i.Services {
			if len(t.Exporters(id)) > 0 && !yield(id) {
				return
			}
		}
	}
}

// Services returns how many services are exported.
func (t *Table) Services() int { return t.exported.size }

// service returns what is known of a service, which may be new.
func (t *Table) service(id federation.ServiceID) *service {
	s := t.services[id]
	if s == nil {
		s = &service{id: id}
		t.services[id] = s
	}
	return s
}

// tidy drops a service that nobody exports and nobody names.
func (t *Table) tidy(s *service) {
	if len(s.exporters) == 0 && len(s.naming) == 0 {
		delete(t.services, s.id)
	}
}

// with returns the sorted list with c in it. The list itself stays as it is for those who have it, but must not be used
// to make another one.
func with(list []federation.ClusterID, c federation.ClusterID) []federation.ClusterID {
	i, found := slices.BinarySearchFunc(list, c, cmp.Compare[federation.ClusterID])
	switch {
	case found:
		return list
	case i == len(list): // a list that is made in its order grows behind what others see of it
		return append(list, c)
	}
	out := make([]federation.ClusterID, len(list)+1)
	copy(out, list[:i])
	out[i] = c
	copy(out[i+1:], list[i:])
	return out
}

// without returns the sorted list without c, as a list of its own.
func without(list []federation.ClusterID, c federation.ClusterID) []federation.ClusterID {
	i, found := slices.BinarySearchFunc(list, c, cmp.Compare[federation.ClusterID])
	if !found {
		return list
	}
	if len(list) == 1 {
		return nil
	}
	return slices.Concat(list[:i], list[i+1:])
}
