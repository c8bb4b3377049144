package failover

import "time"

// forever is longer than anybody watches.
const forever = 100 * 365 * 24 * time.Hour

// maxTicks bounds a dry run: a ramp has ten steps, and few things ramp at once.
const maxTicks = 10_000

// Outcome is what a dry run found.
type Outcome struct {
	// State is what would be after the horizon; it is a copy and changes nothing.
	State     *State
	Decisions []Decision
	Touched   []Touch
}

// DryRun says what the events would do from now to the horizon, on a copy and on the assumption that all that is
// observed now stays as it is.
func (s *State) DryRun(events []Event, now time.Time, horizon time.Duration) Outcome {
	out := Outcome{State: s.Clone()}
	out.State.config.Fresh, out.State.config.FreshVIP = forever, forever
	do := func(e Event, at time.Time) {
		t := out.State.Plan(e, at)
		out.State.Apply(t)
		out.Decisions = append(out.Decisions, t.Decisions...)
		out.Touched = append(out.Touched, t.Touched...)
	}
	for _, e := range events {
		do(e, now)
	}
	for range maxTicks {
		at, ok := out.State.Deadline()
		if !ok || at.After(now.Add(horizon)) {
			break
		}
		do(Tick{}, later(at, now))
	}
	return out
}
