package failover

import (
	"cmp"
	"container/heap"
	"maps"
	"slices"
	"time"

	"github.com/tailgate-project/tailgate/federation"
)

// timers know when which subject is due. A subject has one time; setting a new one leaves the old one in the heap,
// where it is passed over.
type timers struct {
	heap timerHeap
	at   map[federation.Target]time.Time
}

type timer struct {
	at  time.Time
	key federation.Target
}

func (t *timers) set(k federation.Target, at time.Time) {
	if t.at == nil {
		t.at = map[federation.Target]time.Time{}
	}
	if at.IsZero() {
		delete(t.at, k)
		return
	}
	if t.at[k].Equal(at) {
		return
	}
	t.at[k] = at
	heap.Push(&t.heap, timer{at: at, key: k})
}

func (t *timers) clone() timers { return timers{heap: slices.Clone(t.heap), at: maps.Clone(t.at)} }

// next returns the earliest time.
func (t *timers) next() (time.Time, bool) {
	for len(t.heap) > 0 {
		top := t.heap[0]
		if at, ok := t.at[top.key]; ok && at.Equal(top.at) {
			return top.at, true
		}
		heap.Pop(&t.heap)
	}
	return time.Time{}, false
}

// due returns the subjects whose time has come. They stay due until they are given another time.
func (t *timers) due(now time.Time) []federation.Target {
	var out []federation.Target
	var back []timer
	for {
		at, ok := t.next()
		if !ok || at.After(now) {
			break
		}
		top := heap.Pop(&t.heap).(timer)
		out, back = append(out, top.key), append(back, top)
	}
	for _, b := range back {
		heap.Push(&t.heap, b)
	}
	slices.SortFunc(out, federation.Target.Compare)
	return slices.Compact(out) // a time that was set, changed and set again stands in the heap twice
}

type timerHeap []timer

func (h timerHeap) Len() int { return len(h) }
func (h timerHeap) Less(i, j int) bool {
	return cmp.Or(h[i].at.Compare(h[j].at), h[i].key.Compare(h[j].key)) < 0
}
func (h timerHeap) Swap(i, j int) { h[i], h[j] = h[j], h[i] }
func (h *timerHeap) Push(x any)   { *h = append(*h, x.(timer)) }
func (h *timerHeap) Pop() any {
	old := *h
	last := old[len(old)-1]
	*h = old[:len(old)-1]
	return last
}
