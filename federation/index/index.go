// Package index finds many things by keys that they hold themselves.
package index

import (
	"iter"
	"slices"
)

// Index finds things by a key that they hold themselves. A map would hold all keys a second time, which for a quarter
// of a million owners is more than the entries. It is a hash table with linear probing; it keeps 32 bits of each
// hash, so that it looks at nothing but what it is asked for. The same changes make the same table in every run, but
// which order that has must not be seen.
type Index[T, K comparable] struct {
	key    func(T) K
	hash   func(K) uint32 // never zero
	slots  []T            // as many as a power of two, a quarter of them empty at least
	hashes []uint32       // of their keys, zero where a slot is empty
	used   int
}

// smallest is how many slots an empty index has.
const smallest = 8

// New returns an empty index of things by their keys, whose hashes are never zero; see [Hash].
func New[T, K comparable](key func(T) K, hash func(K) uint32) Index[T, K] {
	return Index[T, K]{key: key, hash: hash, slots: make([]T, smallest), hashes: make([]uint32, smallest)}
}

// Hash returns the FNV-1a hash of the parts, folded to 32 bits, and 1 for 0.
func Hash(parts ...string) uint32 {
	h := uint64(14695981039346656037)
	for _, part := range parts {
		for i := range len(part) {
			h = (h ^ uint64(part[i])) * 1099511628211
		}
		h = (h ^ '/') * 1099511628211
	}
	return max(1, uint32(h^h>>32))
}

// at returns a slot's number from any number; a hash's is where its key would best be.
func (x *Index[T, K]) at(n int) int { return n & (len(x.slots) - 1) }

// find returns the slot of a key, or the one for it.
func (x *Index[T, K]) find(h uint32, k K) (int, bool) {
	i := x.at(int(h))
	for ; x.hashes[i] != 0; i = x.at(i + 1) {
		if x.hashes[i] == h && x.key(x.slots[i]) == k {
			return i, true
		}
	}
	return i, false
}

// Get returns what has a key.
func (x *Index[T, K]) Get(k K) (T, bool) {
	i, ok := x.find(x.hash(k), k)
	return x.slots[i], ok
}

// Put takes t in, in place of what has the same key.
func (x *Index[T, K]) Put(t T) {
	if 4*(x.used+1) > 3*len(x.slots) {
		x.grow()
	}
	k := x.key(t)
	h := x.hash(k)
	i, ok := x.find(h, k)
	if !ok {
		x.used++
	}
	x.slots[i], x.hashes[i] = t, h
}

func (x *Index[T, K]) grow() {
	slots, hashes := x.slots, x.hashes
	x.slots, x.hashes = make([]T, 2*len(slots)), make([]uint32, 2*len(slots))
	for old, h := range hashes {
		if h == 0 {
			continue
		}
		i := x.at(int(h))
		for x.hashes[i] != 0 {
			i = x.at(i + 1)
		}
		x.slots[i], x.hashes[i] = slots[old], h
	}
}

// Remove takes t out and reports true, unless something else with the same key has taken its place.
func (x *Index[T, K]) Remove(t T) bool {
	k := x.key(t)
	hole, ok := x.find(x.hash(k), k)
	if !ok || x.slots[hole] != t {
		return false
	}
	x.used--
	for i := x.at(hole + 1); x.hashes[i] != 0; i = x.at(i + 1) {
		// What stands behind the hole moves into it, unless its best slot lies behind the hole too.
		if x.at(i-int(x.hashes[i])) >= x.at(i-hole) {
			x.slots[hole], x.hashes[hole] = x.slots[i], x.hashes[i]
			hole = i
		}
	}
	var empty T
	x.slots[hole], x.hashes[hole] = empty, 0
	return true
}

// All returns everything, in no order.
func (x *Index[T, K]) All() iter.Seq[T] {
	return func(yield func(T) bool) {
		for i, t := range x.slots {
			if x.hashes[i] != 0 && !yield(t) {
				return
			}
		}
	}
}

// Len returns how many things there are.
func (x *Index[T, K]) Len() int { return x.used }

// Clone returns an index of the same things that changes on its own.
func (x *Index[T, K]) Clone() Index[T, K] {
	c := *x
	c.slots, c.hashes = slices.Clone(x.slots), slices.Clone(x.hashes)
	return c
}
