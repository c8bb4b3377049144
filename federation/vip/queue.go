package vip

import (
	"container/heap"
	"iter"
)

// queue is a heap of entries, each of which knows its place in it.
type queue struct {
	less  func(a, b *record) bool
	items []*record
}

func (q *queue) add(rec *record)    { heap.Push(q, rec) }
func (q *queue) remove(rec *record) { heap.Remove(q, rec.place) }

// ascend returns the entries in order and changes nothing. The first k cost O(k log k), however many there are.
func (q *queue) ascend() iter.Seq[*record] {
	return func(yield func(*record) bool) {
		if len(q.items) == 0 {
			return
		}
		f := &frontier{queue: q, places: []int{0}}
		for len(f.places) > 0 {
			i, _ := heap.Pop(f).(int)
			if !yield(q.items[i]) {
				return
			}
			for child := 2*i + 1; child <= 2*i+2 && child < len(q.items); child++ {
				heap.Push(f, child)
			}
		}
	}
}

// sound reports whether the heap is one and its entries know their places.
func (q *queue) sound() bool {
	for i, rec := range q.items {
		if rec.place != i || i > 0 && q.less(rec, q.items[(i-1)/2]) {
			return false
		}
	}
	return true
}

// Len is of [heap.Interface].
func (q *queue) Len() int { return len(q.items) }

// Less is of [heap.Interface].
func (q *queue) Less(i, j int) bool { return q.less(q.items[i], q.items[j]) }

// Swap is of [heap.Interface].
func (q *queue) Swap(i, j int) {
	q.items[i], q.items[j] = q.items[j], q.items[i]
	q.items[i].place, q.items[j].place = i, j
}

// Push is of [heap.Interface].
func (q *queue) Push(x any) {
	rec, _ := x.(*record)
	rec.place = len(q.items)
	q.items = append(q.items, rec)
}

// Pop is of [heap.Interface].
func (q *queue) Pop() any {
	last := len(q.items) - 1
	rec := q.items[last]
	q.items[last] = nil
	q.items = q.items[:last]
	return rec
}

// frontier is a heap of places in a queue: those that may come next.
type frontier struct {
	queue  *queue
	places []int
}

// Len is of [heap.Interface].
func (f *frontier) Len() int { return len(f.places) }

// Less is of [heap.Interface].
func (f *frontier) Less(i, j int) bool { return f.queue.Less(f.places[i], f.places[j]) }

// Swap is of [heap.Interface].
func (f *frontier) Swap(i, j int) { f.places[i], f.places[j] = f.places[j], f.places[i] }

// Push is of [heap.Interface].
func (f *frontier) Push(x any) {
	i, _ := x.(int)
	f.places = append(f.places, i)
}

// Pop is of [heap.Interface].
func (f *frontier) Pop() any {
	last := len(f.places) - 1
	i := f.places[last]
	f.places = f.places[:last]
	return i
}
