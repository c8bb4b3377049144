package coordinator_test

import (
	"errors"
	"testing"
	"time"

	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/federation/coordinator"
	"github.com/tailgate-project/tailgate/federation/vip"
)

func entry(name string) vip.Entry {
	return vip.Entry{VIP: federation.VIP{Name: name, ServiceName: name}}
}

func TestQueueAsksInOrderAndPutsFailuresOff(t *testing.T) {
	q := coordinator.NewQueue()
	if _, ok := q.Deadline(); ok {
		t.Error("an empty queue has a deadline")
	}
	q.Add(coordinator.Effects{Ensure: []vip.Entry{entry("a"), entry("b")}})
	first, _ := q.Next(start)
	if first.VIP.ServiceName != "a" || first.Remove {
		t.Errorf("first %+v", first)
	}
	q.Done(first, errors.New("429"), start)
	second, _ := q.Next(start)
	if second.VIP.ServiceName != "b" {
		t.Errorf("second %+v: one that fails holds nobody up", second)
	}
	q.Done(second, nil, start)
	if got, ok := q.Next(start); ok {
		t.Errorf("%+v is due at once after it failed", got)
	}
	last := start
	for tries := 1; tries < 12; tries++ {
		at, ok := q.Deadline()
		if wait := at.Sub(last); !ok || wait < 250*time.Millisecond || wait > time.Minute {
			t.Errorf("try %d after %v", tries, wait)
		}
		task, ok := q.Next(at)
		if !ok || task.Tries != tries {
			t.Fatalf("at its deadline: %+v, %v", task, ok)
		}
		q.Done(task, errors.New("429"), at)
		last = at
	}
}

func TestQueueTakesTheNewestWish(t *testing.T) {
	q := coordinator.NewQueue()
	q.Add(coordinator.Effects{Ensure: []vip.Entry{entry("a")}})
	old, _ := q.Next(start)
	q.Add(coordinator.Effects{Delete: []vip.Entry{entry("a")}})
	q.Done(old, nil, start) // the answer to what nobody wants any more
	task, ok := q.Next(start)
	if !ok || !task.Remove || q.Len() != 1 {
		t.Errorf("%+v, %d tasks, want the removal", task, q.Len())
	}
	q.Done(task, errors.New("503"), start)
	q.Add(coordinator.Effects{Delete: []vip.Entry{entry("a")}})
	if _, ok := q.Next(start); ok {
		t.Error("asked again for a removal that is put off")
	}
}

func TestQueueHasOneTaskOfAVIPDoneAtATime(t *testing.T) {
	q := coordinator.NewQueue()
	q.Add(coordinator.Effects{Ensure: []vip.Entry{entry("a"), entry("b")}})
	a, _ := q.Next(start)
	b, ok := q.Next(start)
	if !ok || b.VIP.ServiceName != "b" {
		t.Errorf("while a is worked on: %+v, want b", b)
	}
	if next, ok := q.Next(start); ok {
		t.Errorf("%+v is given out twice", next)
	}
	q.Add(coordinator.Effects{Delete: []vip.Entry{entry("a")}})
	if next, ok := q.Next(start); ok {
		t.Errorf("%+v is given out while something else is done to the same VIP", next)
	}
	if at, ok := q.Deadline(); ok {
		t.Errorf("nothing can be done before one is done, but the deadline is %v", at)
	}
	q.Done(b, nil, start)
	q.Done(a, errors.New("429"), start) // it is not wanted any more: nothing to put off
	next, ok := q.Next(start)
	if !ok || !next.Remove || next.Tries != 0 {
		t.Errorf("then: %+v, want the removal at once", next)
	}
	q.Done(next, nil, start)
	if q.Len() != 0 {
		t.Errorf("%d tasks are left", q.Len())
	}
	if next, ok := q.Next(start); ok {
		t.Errorf("%+v is given out after it was done", next)
	}
}
