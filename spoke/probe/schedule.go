package probe

import (
	"container/heap"
	"context"
	"sync"
	"time"
)

// schedule is what [Prober.Run] knows of its targets. Its goroutine alone touches it: a target that is not being probed
// costs no goroutine of its own, and one that is slow to answer holds up no other.
type schedule struct {
	opts    Options
	watches map[string]*watch
	// waiting are the watches that are not being probed, the one that is due next at the front.
	waiting queue
	// ended takes the results of probes.
	ended chan ending
}

// watch is one target.
type watch struct {
	target Target
	// due is when the next probe begins; beat is a moment at which one does by interval and phase.
	due, beat time.Time
	// place is the watch's in the queue, while it is waiting.
	place int
	// stop ends the probe that is under way; it is nil while none is.
	stop context.CancelFunc
	// gone says that nobody wants the target any more, anew that it became another one during a probe.
	gone, anew bool

	// known says that there is a last result. It may be of what the target was before: fresh says that there is none since.
	known, fresh bool
	last         Result
	reported     time.Time
}

// ending is the end of a round.
type ending struct {
	watch  *watch
	result Result
}

// set makes the targets those that are wanted.
func (s *schedule) set(targets map[string]Target, now time.Time) {
	for id, w := range s.watches {
		if _, ok := targets[id]; ok {
			continue
		}
		delete(s.watches, id)
		if w.gone = true; w.stop != nil {
			w.stop()
		} else {
			heap.Remove(&s.waiting, w.place)
		}
	}
	for id, t := range targets {
		w, ok := s.watches[id]
		switch {
		case !ok:
			w = &watch{}
			w.retarget(t, now)
			if w.due = w.beat; t.Check != nil && t.Interval > soon {
				w.due = now.Add(t.phase(soon))
			}
			s.watches[id] = w
			heap.Push(&s.waiting, w)
		case t.equal(w.target):
		case w.stop != nil:
			w.retarget(t, now)
			w.anew = true
			w.stop()
		default:
			w.retarget(t, now)
			w.due = now
			heap.Fix(&s.waiting, w.place)
		}
	}
}

// retarget gives the watch a target, with a beat of its own.
func (w *watch) retarget(t Target, now time.Time) {
	w.target, w.beat, w.fresh = t, now.Add(t.phase(t.Interval)), true
}

// start begins the rounds that are due.
func (s *schedule) start(ctx context.Context, wg *sync.WaitGroup, now time.Time) {
	for len(s.waiting) > 0 && !s.waiting[0].due.After(now) {
		w := heap.Pop(&s.waiting).(*watch)
		probing, stop := context.WithCancel(ctx)
		w.stop = stop
		target, confirm := w.target, w.target.Check == nil && (!w.known || w.last.Reachable)
		wg.Go(func() {
			result := s.opts.round(probing, target, confirm)
			select {
			case s.ended <- ending{watch: w, result: result}:
			case <-ctx.Done():
			}
		})
	}
}

// end takes what a round found, and says when the next one begins.
func (s *schedule) end(e ending, now time.Time) {
	w := e.watch
	w.stop()
	w.stop = nil
	switch {
	case w.gone:
		return
	case w.anew: // what was found is of the target that was
		w.anew, w.due = false, now
	default:
		s.record(w, e.result)
		w.due = w.next(now)
	}
	heap.Push(&s.waiting, w)
}

// record keeps a result, and reports what has to be.
func (s *schedule) record(w *watch, r Result) {
	changed := !w.known || w.last.Reachable != r.Reachable
	// Reported now where waiting for the next probe would let the last report grow older than refresh.
	due := r.At.Add(w.target.Interval).Sub(w.reported) > refresh
	r.Row = 1
	if !changed && !w.fresh {
		r.Row = w.last.Row + 1
	}
	w.known, w.fresh, w.last = true, false, r
	if changed || due || w.target.Check != nil {
		w.reported = r.At
		s.opts.Report(r)
	}
}

// next returns when the target is to be probed after a round. A round that took longer than the interval skips beats, so
// that the target keeps its phase.
func (w *watch) next(now time.Time) time.Time {
	if late := now.Sub(w.beat); late >= 0 {
		w.beat = w.beat.Add((late/w.target.Interval + 1) * w.target.Interval)
	}
	if again := now.Add(failing); w.target.Check == nil && !w.last.Reachable && again.Before(w.beat) {
		return again
	}
	return w.beat
}

// next returns when the next probe is due, if any is.
func (s *schedule) next() (time.Time, bool) {
	if len(s.waiting) == 0 {
		return time.Time{}, false
	}
	return s.waiting[0].due, true
}

// queue is a heap of watches by when they are due.
type queue []*watch

func (q queue) Len() int           { return len(q) }
func (q queue) Less(i, j int) bool { return q[i].due.Before(q[j].due) }

func (q queue) Swap(i, j int) {
	q[i], q[j] = q[j], q[i]
	q[i].place, q[j].place = i, j
}

// Push is for package heap alone, as is Pop.
func (q *queue) Push(x any) {
	w := x.(*watch)
	w.place = len(*q)
	*q = append(*q, w)
}

func (q *queue) Pop() any {
	old := *q
	w := old[len(old)-1]
	old[len(old)-1] = nil
	*q = old[:len(old)-1]
	return w
}
