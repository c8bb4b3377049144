package failover

import (
	"cmp"
	"container/heap"
	"slices"
	"time"

	"github.com/tailgate-project/tailgate/federation"
)

// timers know when which export is due. An export has one time; setting a new one leaves the old one in the heap,
// where it is passed over.
type timers struct {
	heap timerHeap
	at   map[federation.ExportKey]time.Time
}

type timer struct {
	at  time.Time
	key federation.ExportKey
}

func (t *timers) set(k federation.ExportKey, at time.Time) {
	if t.at == nil {
		t.at = map[federation.ExportKey]time.Time{}
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

// due returns the exports whose time has come. They stay due until they are given another time.
func (t *timers) due(now time.Time) []federation.ExportKey {
	var out []federation.ExportKey
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
	slices.SortFunc(out, federation.ExportKey.Compare)
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

func compareDecisions(a, b Decision) int {
	return cmp.Or(a.Export.Compare(b.Export), cmp.Compare(a.Consumer, b.Consumer))
}
