package coordinator

import (
	"cmp"
	"container/heap"
	"hash/fnv"
	"time"

	"github.com/tailgate-project/tailgate/federation"
)

// The delays between tries of one VIP; the tailnet's own rate limit stands below them.
const (
	firstRetry = 500 * time.Millisecond
	lastRetry  = time.Minute
)

// Task is a VIP that the tailnet should have or, with Remove, should no longer have.
type Task struct {
	VIP    federation.VIP
	Remove bool
	// Tries counts how often it failed.
	Tries int

	due        time.Time
	generation uint64
}

// Queue is what the tailnet is still to be asked for: one task a VIP, the newest wish. Tasks of different VIPs may be
// worked on at the same time, those of one VIP never are. Use [NewQueue].
type Queue struct {
	tasks      map[string]Task // by service name
	busy       map[string]bool // the VIPs that are worked on
	order      taskHeap        // with tasks that were replaced since, which are passed over
	generation uint64
}

// NewQueue returns an empty queue.
func NewQueue() *Queue { return &Queue{tasks: map[string]Task{}, busy: map[string]bool{}} }

// Add takes in what follows from a step. A VIP that is to be deleted already keeps its place.
func (q *Queue) Add(e Effects) {
	for _, x := range e.Ensure {
		q.put(Task{VIP: x.VIP})
	}
	for _, x := range e.Delete {
		if !q.tasks[x.ServiceName].Remove {
			q.put(Task{VIP: x.VIP, Remove: true})
		}
	}
}

func (q *Queue) put(t Task) {
	q.generation++
	t.generation = q.generation
	q.tasks[t.VIP.ServiceName] = t
	heap.Push(&q.order, t)
}

// Next returns the task that is due first, if one is due. It stays in the queue until it is done, and no other one of the
// same VIP is returned before that.
func (q *Queue) Next(now time.Time) (Task, bool) {
	t, ok := q.first()
	if !ok || t.due.After(now) {
		return Task{}, false
	}
	heap.Pop(&q.order)
	q.busy[t.VIP.ServiceName] = true
	return t, true
}

// Deadline returns when the next task is due that nobody works on; the zero time for one that was never tried.
func (q *Queue) Deadline() (time.Time, bool) {
	t, ok := q.first()
	return t.due, ok
}

func (q *Queue) first() (Task, bool) {
	for len(q.order) > 0 {
		if t := q.order[0]; q.current(t) && !q.busy[t.VIP.ServiceName] {
			return t, true
		}
		heap.Pop(&q.order) // what waits for a busy VIP comes back when that is done
	}
	return Task{}, false
}

// current reports whether nothing newer has taken the task's place.
func (q *Queue) current(t Task) bool { return q.tasks[t.VIP.ServiceName].generation == t.generation }

// Done takes a task out of the queue, or, if it failed, puts it off. A task that something newer has replaced
// meanwhile is none of the queue's.
func (q *Queue) Done(t Task, err error, now time.Time) {
	delete(q.busy, t.VIP.ServiceName)
	switch next, waits := q.tasks[t.VIP.ServiceName]; {
	case !q.current(t):
		if waits {
			heap.Push(&q.order, next)
		}
	case err == nil:
		delete(q.tasks, t.VIP.ServiceName)
	default:
		t.due = now.Add(backoff(t.VIP.ServiceName, t.Tries))
		t.Tries++
		q.put(t)
	}
}

// Len returns how many tasks there are.
func (q *Queue) Len() int { return len(q.tasks) }

// backoff doubles from firstRetry to lastRetry. A part of it hangs on the name, so that many VIPs do not come back at
// once.
func backoff(name string, tries int) time.Duration {
	d := min(firstRetry<<min(tries, 10), lastRetry)
	h := fnv.New32a()
	h.Write([]byte(name))
	return d/2 + d/2*time.Duration(h.Sum32()%1000)/1000
}

// taskHeap orders tasks by when they are due, then by when they were put.
type taskHeap []Task

func (h taskHeap) Len() int { return len(h) }
func (h taskHeap) Less(i, j int) bool {
	return cmp.Or(h[i].due.Compare(h[j].due), cmp.Compare(h[i].generation, h[j].generation)) < 0
}
func (h taskHeap) Swap(i, j int) { h[i], h[j] = h[j], h[i] }
func (h *taskHeap) Push(x any)   { *h = append(*h, x.(Task)) }
func (h *taskHeap) Pop() any {
	old := *h
	last := old[len(old)-1]
	old[len(old)-1] = Task{}
	*h = old[:len(old)-1]
	return last
}
