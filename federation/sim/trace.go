package sim

import (
	"fmt"
	"strings"
	"time"
)

// trace is what happened, as a hash that two equal runs share, and as lines where somebody wants to read them.
type trace struct {
	hash  uint64
	keep  bool
	lines []string
}

const (
	hashBasis = 14695981039346656037 // FNV-1a
	hashPrime = 1099511628211
)

func newTrace(keep bool) *trace { return &trace{hash: hashBasis, keep: keep} }

// add notes that something happened to a party. The words are joined by blanks.
func (t *trace) add(at time.Duration, party, what string, words ...string) {
	t.number(uint64(at))
	t.word(party)
	t.word(what)
	for _, w := range words {
		t.word(w)
	}
	if t.keep {
		t.lines = append(t.lines, fmt.Sprintf("%10.3fs %-8s %-14s %s", at.Seconds(), party, what, strings.Join(words, " ")))
	}
}

func (t *trace) number(n uint64) {
	for range 8 {
		t.hash = (t.hash ^ n&0xff) * hashPrime
		n >>= 8
	}
}

func (t *trace) word(s string) {
	for i := range len(s) {
		t.hash = (t.hash ^ uint64(s[i])) * hashPrime
	}
	t.hash = (t.hash ^ 0xff) * hashPrime
}
