package vip

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"net/netip"
	"slices"
	"strings"

	"go4.org/netipx"
)

// MaxPool is how many addresses a [Pool] may have: four times 100.64.0.0/10.
const MaxPool = 1 << 24

// ErrInvalidRange reports a range that no VIPs can come from.
var ErrInvalidRange = errors.New("invalid range of VIPs")

// unusable are the addresses that no host can be reached at through a tailnet.
var unusable = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"), netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("169.254.0.0/16"),
	netip.MustParsePrefix("224.0.0.0/3"), netip.MustParsePrefix("::/127"), netip.MustParsePrefix("::ffff:0:0/96"),
	netip.MustParsePrefix("fe80::/10"), netip.MustParsePrefix("ff00::/8"),
}

// Pool is a range of addresses that is reserved for VIPs. It never changes and may be shared. Its addresses have an
// order: IPv4 before IPv6, then by number. The nil pool has none.
type Pool struct {
	ranges []netipx.IPRange // sorted, neither overlapping nor adjacent
	first  []int            // how many addresses the ranges before have
	size   int
}

// ParsePool reads a list of prefixes, ranges and addresses, such as "100.100.0.0/24, 100.101.0.1-100.101.0.20,
// 100.102.0.7". They may overlap; an address counts once. The empty list is a pool without addresses. Errors wrap
// [ErrInvalidRange].
func ParsePool(list string) (*Pool, error) {
	if strings.TrimSpace(list) == "" {
		return NewPool()
	}
	var ranges []netipx.IPRange
	for item := range strings.SplitSeq(list, ",") {
		r, err := parseRange(strings.TrimSpace(item))
		if err != nil {
			return nil, err
		}
		ranges = append(ranges, r)
	}
	return NewPool(ranges...)
}

func parseRange(s string) (netipx.IPRange, error) {
	if prefix, err := netip.ParsePrefix(s); err == nil {
		if prefix != prefix.Masked() {
			return netipx.IPRange{}, fmt.Errorf("%w %q: it has bits beyond its length; write %s, or %s for the one address",
				ErrInvalidRange, s, prefix.Masked(), prefix.Addr())
		}
		return netipx.RangeOfPrefix(prefix), nil
	}
	if a, err := netip.ParseAddr(s); err == nil && a.Zone() == "" {
		return netipx.IPRangeFrom(a, a), nil
	}
	if r, err := netipx.ParseIPRange(s); err == nil {
		return r, nil
	}
	return netipx.IPRange{}, fmt.Errorf("%w %q: want a prefix (100.100.0.0/24), a range (100.100.0.1-100.100.0.20) or an address",
		ErrInvalidRange, s)
}

// NewPool returns the pool of all addresses in the ranges, which may overlap. Errors wrap [ErrInvalidRange].
func NewPool(ranges ...netipx.IPRange) (*Pool, error) {
	var set netipx.IPSetBuilder
	for _, r := range ranges {
		if !r.IsValid() {
			return nil, fmt.Errorf("%w %s: want two addresses of one family, the lower one first", ErrInvalidRange, r)
		}
		for _, no := range unusable {
			if r.Overlaps(netipx.RangeOfPrefix(no)) {
				return nil, fmt.Errorf("%w %s: no VIP can be reached in %s; take a range of 100.64.0.0/10 or a private one",
					ErrInvalidRange, r, no)
			}
		}
		set.AddRange(r)
	}
	whole, err := set.IPSet()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalidRange, err)
	}
	p := &Pool{ranges: whole.Ranges()}
	for _, r := range p.ranges {
		p.first = append(p.first, p.size)
		n := span(r.From(), r.To())
		if n >= uint64(MaxPool-p.size) {
			return nil, fmt.Errorf("%w %s: more than %d addresses; take a smaller range", ErrInvalidRange, p, MaxPool)
		}
		p.size += int(n) + 1
	}
	return p, nil
}

// Size returns how many addresses the pool has.
func (p *Pool) Size() int {
	if p == nil {
		return 0
	}
	return p.size
}

// Contains reports whether an address is of the pool.
func (p *Pool) Contains(a netip.Addr) bool {
	_, ok := p.ordinal(a)
	return ok
}

// String lists the pool's ranges, as prefixes where they are some.
func (p *Pool) String() string {
	if p == nil || len(p.ranges) == 0 {
		return "(empty range)"
	}
	var out []string
	for _, r := range p.ranges {
		if prefix, ok := r.Prefix(); r.From() == r.To() {
			out = append(out, r.From().String())
		} else if ok {
			out = append(out, prefix.String())
		} else {
			out = append(out, r.String())
		}
	}
	return strings.Join(out, ",")
}

// ordinal returns how many addresses of the pool are before a, if a is one.
func (p *Pool) ordinal(a netip.Addr) (int, bool) {
	if p == nil {
		return 0, false
	}
	// The first range that does not end before a.
	i, _ := slices.BinarySearchFunc(p.ranges, a, func(r netipx.IPRange, a netip.Addr) int { return r.To().Compare(a) })
	if i == len(p.ranges) || !p.ranges[i].Contains(a) {
		return 0, false
	}
	return p.first[i] + int(span(p.ranges[i].From(), a)), true
}

// addr returns the address with n others before it.
func (p *Pool) addr(n int) netip.Addr {
	i, found := slices.BinarySearch(p.first, n)
	if !found {
		i--
	}
	return plus(p.ranges[i].From(), uint64(n-p.first[i]))
}

// span returns how far b is behind a, of the same family: the highest number if it is farther than that.
func span(a, b netip.Addr) uint64 {
	aHi, aLo := halves(a)
	bHi, bLo := halves(b)
	lo, borrow := bits.Sub64(bLo, aLo, 0)
	if hi, _ := bits.Sub64(bHi, aHi, borrow); hi != 0 {
		return ^uint64(0)
	}
	return lo
}

// plus returns the address that is n behind a.
func plus(a netip.Addr, n uint64) netip.Addr {
	hi, lo := halves(a)
	lo, carry := bits.Add64(lo, n, 0)
	var b [16]byte
	binary.BigEndian.PutUint64(b[:8], hi+carry)
	binary.BigEndian.PutUint64(b[8:], lo)
	if a.Is4() {
		return netip.AddrFrom16(b).Unmap()
	}
	return netip.AddrFrom16(b)
}

func halves(a netip.Addr) (hi, lo uint64) {
	b := a.As16()
	return binary.BigEndian.Uint64(b[:8]), binary.BigEndian.Uint64(b[8:])
}
