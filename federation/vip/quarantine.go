package vip

import (
	"cmp"
	"slices"
	"time"

	"github.com/tailgate-project/tailgate/federation"
)

// PlanRelease plans the start of the quarantine of an owner's VIP.
func (r *Registry) PlanRelease(owner federation.ExportKey, now time.Time) []Change {
	e, ok := r.Get(owner)
	if !ok || !e.ReleasedAt.IsZero() {
		return nil
	}
	e.ReleasedAt = instant(now)
	return []Change{{Entry: e}}
}

// PlanDismiss plans the end of an owner's VIP, also of one that rests, without a quarantine: as if it had been released so long
// ago that it is over. A quarantine waits for an owner to come back, and one that left for good will not.
func (r *Registry) PlanDismiss(owner federation.ExportKey, now time.Time) []Change {
	e, ok := r.Get(owner)
	if !ok || !e.ReleasedAt.IsZero() && r.rested(e, now) {
		return nil
	}
	e.ReleasedAt = instant(now.Add(-r.quarantine))
	return []Change{{Entry: e}}
}

// Rests reports whether a VIP is kept for an owner that has gone and may come back.
func (r *Registry) Rests(e Entry, now time.Time) bool {
	return !e.ReleasedAt.IsZero() && !r.rested(e, now)
}

// PlanExpire plans the end of all entries whose quarantine is over, sorted by ServiceName. Addresses that become free
// are given to those that wait by [Registry.PlanFill].
func (r *Registry) PlanExpire(now time.Time) []Change {
	var out []Change
	for rec := range r.resting.ascend() {
		if !r.rested(rec.Entry, now) {
			break
		}
		out = append(out, Change{Entry: rec.Entry, Delete: true})
	}
	slices.SortFunc(out, func(a, b Change) int { return cmp.Compare(a.Entry.ServiceName, b.Entry.ServiceName) })
	return out
}

// PlanForget plans the end of one entry, if its quarantine is over: of the changes of [Registry.PlanExpire] the one for
// a Tailscale Service, without looking at the others.
func (r *Registry) PlanForget(service string, now time.Time) []Change {
	e, ok := r.Named(service)
	if !ok || e.ReleasedAt.IsZero() || !r.rested(e, now) {
		return nil
	}
	return []Change{{Entry: e, Delete: true}}
}

// rested reports whether the quarantine of a released entry is over.
func (r *Registry) rested(e Entry, now time.Time) bool {
	return !now.Before(e.ReleasedAt.Add(r.quarantine))
}

// Deadline returns when [Registry.PlanExpire] will next have something to say.
func (r *Registry) Deadline() (time.Time, bool) {
	if len(r.resting.items) == 0 {
		return time.Time{}, false
	}
	return r.resting.items[0].ReleasedAt.Add(r.quarantine), true
}
