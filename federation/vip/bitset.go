package vip

import "math/bits"

// bitset is a set of small numbers that finds the next one quickly: above the bits stands a bit for each word that is
// not empty, and so on up.
type bitset struct {
	levels [][]uint64
	len    int
}

// fullBitset returns the set of the numbers from 0 to n-1.
func fullBitset(n int) bitset {
	b := bitset{len: n}
	for ; n > 0; n = (n + 63) / 64 {
		level := make([]uint64, (n+63)/64)
		for i := range level {
			level[i] = ^uint64(0)
		}
		if n%64 != 0 {
			level[len(level)-1] = 1<<(n%64) - 1
		}
		b.levels = append(b.levels, level)
		if n <= 64 {
			break
		}
	}
	return b
}

func (b *bitset) has(i int) bool { return b.levels[0][i/64]>>(i%64)&1 == 1 }

func (b *bitset) set(i int) {
	if b.has(i) {
		return
	}
	b.len++
	for _, level := range b.levels {
		was := level[i/64]
		level[i/64] |= 1 << (i % 64)
		if was != 0 {
			return
		}
		i /= 64
	}
}

func (b *bitset) clear(i int) {
	if !b.has(i) {
		return
	}
	b.len--
	for _, level := range b.levels {
		level[i/64] &^= 1 << (i % 64)
		if level[i/64] != 0 {
			return
		}
		i /= 64
	}
}

// next returns the lowest number of the set that is i or more.
func (b *bitset) next(i int) (int, bool) {
	for up, level := range b.levels {
		if i/64 >= len(level) {
			return 0, false
		}
		if word := level[i/64] >> (i % 64); word != 0 {
			i += bits.TrailingZeros64(word)
			for up--; up >= 0; up-- {
				i = i*64 + bits.TrailingZeros64(b.levels[up][i])
			}
			return i, true
		}
		i = i/64 + 1
	}
	return 0, false
}
