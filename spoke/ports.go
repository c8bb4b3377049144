package spoke

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/tailgate-project/tailgate/federation"
)

// portRest is how long a port rests before another VIP may get it. An Envoy that has not heard of the change yet would
// otherwise send one service's requests to another.
const portRest = 10 * time.Minute

// errPortsExhausted reports that every egress port is taken or rests.
var errPortsExhausted = errors.New("no egress port is left: widen --egress-ports")

// portKey is a port of a remote VIP.
type portKey struct {
	VIP      federation.ExportKey
	Port     uint16
	Protocol federation.Protocol
}

func (k portKey) compare(o portKey) int {
	return cmp.Or(k.VIP.Compare(o.VIP), cmp.Compare(k.Port, o.Port), cmp.Compare(k.Protocol, o.Protocol))
}

// portLease is a port that was given to a VIP's port, and when it was no longer needed; zero while it is.
type portLease struct {
	Key        portKey
	Port       uint16
	ReleasedAt time.Time `json:",omitzero"`
}

// portTable gives each remote VIP's port a local port, the lowest free one, and never a second one.
type portTable struct {
	span   PortRange
	leases map[portKey]portLease
	taken  map[uint16]portKey
}

func newPortTable(span PortRange) portTable {
	return portTable{span: span, leases: map[portKey]portLease{}, taken: map[uint16]portKey{}}
}

// restore takes over leases that were kept. Those outside of the range or double ones are dropped.
func (t *portTable) restore(leases []portLease) {
	for _, l := range leases {
		_, double := t.taken[l.Port]
		_, known := t.leases[l.Key]
		if double || known || l.Port < t.span.Low || l.Port > t.span.High {
			continue
		}
		t.leases[l.Key], t.taken[l.Port] = l, l.Key
	}
}

// want makes the keys the ones that need a port. It reports whether the table changed, and an error for the keys
// that got none.
func (t *portTable) want(keys []portKey, now time.Time) (changed bool, err error) {
	wanted := make(map[portKey]bool, len(keys))
	for _, k := range keys {
		wanted[k] = true
	}
	for k, l := range t.leases {
		switch {
		case wanted[k] && !l.ReleasedAt.IsZero():
			l.ReleasedAt = time.Time{}
		case !wanted[k] && l.ReleasedAt.IsZero():
			l.ReleasedAt = now
		case !wanted[k] && now.Sub(l.ReleasedAt) >= portRest:
			delete(t.leases, k)
			delete(t.taken, l.Port)
			changed = true
			continue
		default:
			continue
		}
		t.leases[k], changed = l, true
	}
	free := int(t.span.Low)
	for _, k := range slices.SortedFunc(maps.Keys(wanted), portKey.compare) {
		if _, ok := t.leases[k]; ok {
			continue
		}
		for ; free <= int(t.span.High); free++ {
			if _, taken := t.taken[uint16(free)]; !taken {
				break
			}
		}
		if free > int(t.span.High) {
			return changed, fmt.Errorf("%s port %d: %w", k.VIP, k.Port, errPortsExhausted)
		}
		port := uint16(free)
		t.leases[k], t.taken[port], changed = portLease{Key: k, Port: port}, k, true
	}
	return changed, nil
}

// get returns the port of a key that is wanted.
func (t *portTable) get(k portKey) (uint16, bool) {
	l, ok := t.leases[k]
	return l.Port, ok && l.ReleasedAt.IsZero()
}

// list returns all leases by port.
func (t *portTable) list() []portLease {
	return slices.SortedFunc(maps.Values(t.leases), func(a, b portLease) int { return cmp.Compare(a.Port, b.Port) })
}
