package sim

import (
	"container/heap"
	"time"
)

// queue holds all that is still to happen, in the order of its virtual time. What falls on the same moment happens in
// the order in which it was put in.
type queue struct {
	now   time.Duration
	items itemHeap
	seq   uint64
}

// item is something that happens to a party. It is dropped if the party has been started anew since.
type item struct {
	at    time.Duration
	seq   uint64
	party *party // nil for the world itself
	life  int
	do    func()
}

// push has do happen to the party at the time at, or now if that has passed.
func (q *queue) push(at time.Duration, p *party, do func()) {
	q.seq++
	it := item{at: max(at, q.now), seq: q.seq, party: p, do: do}
	if p != nil {
		it.life = p.life
	}
	heap.Push(&q.items, it)
}

// pop takes out what is next and moves the time to it.
func (q *queue) pop() (item, bool) {
	if len(q.items) == 0 {
		return item{}, false
	}
	it := heap.Pop(&q.items).(item)
	q.now = it.at
	return it, true
}

type itemHeap []item

func (h itemHeap) Len() int { return len(h) }
func (h itemHeap) Less(i, j int) bool {
	return h[i].at < h[j].at || h[i].at == h[j].at && h[i].seq < h[j].seq
}
func (h itemHeap) Swap(i, j int) { h[i], h[j] = h[j], h[i] }
func (h *itemHeap) Push(x any)   { *h = append(*h, x.(item)) }
func (h *itemHeap) Pop() any {
	old := *h
	last := old[len(old)-1]
	old[len(old)-1] = item{}
	*h = old[:len(old)-1]
	return last
}
