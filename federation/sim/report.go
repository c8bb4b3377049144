package sim

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Coverage counts what happened in runs, by topic and kind, so that what the simulation reaches is seen.
type Coverage map[Topic]map[string]int

// Topic is a group of counts.
type Topic string

// The topics of a coverage report.
const (
	// TopicFault counts faults that were injected, by kind: one count each time that something is hurt.
	TopicFault Topic = "fault events"
	// TopicHealed counts faults that ended.
	TopicHealed Topic = "faults healed"
	// TopicDecision counts decisions by reason, TopicVerdict what members' sets said of their endpoints.
	TopicDecision Topic = "decisions"
	TopicVerdict  Topic = "endpoints by health and reason"
	// TopicState counts special states that were reached.
	TopicState Topic = "states reached"
	// TopicRefused counts what was refused, and by whom.
	TopicRefused Topic = "refusals"
	// TopicEvent counts the hub's events.
	TopicEvent Topic = "hub events"
	// TopicChecked counts how often each invariant was put to the test.
	TopicChecked Topic = "invariants checked"
)

// count adds one.
func (c Coverage) count(t Topic, kind string) { c.add(t, kind, 1) }

func (c Coverage) add(t Topic, kind string, n int) {
	if c[t] == nil {
		c[t] = map[string]int{}
	}
	c[t][kind] += n
}

// Merge adds the counts of another run.
func (c Coverage) Merge(o Coverage) {
	for t, kinds := range o {
		for kind, n := range kinds {
			c.add(t, kind, n)
		}
	}
}

// Total returns the sum of a topic's counts.
func (c Coverage) Total(t Topic) int {
	sum := 0
	for _, n := range c[t] {
		sum += n
	}
	return sum
}

// Text returns the counts as text, the most frequent first, with the average over the runs.
func (c Coverage) Text(runs int) string {
	var b strings.Builder
	for _, t := range slices.Sorted(maps.Keys(c)) {
		fmt.Fprintf(&b, "%s: %d (%.1f a seed)\n", t, c.Total(t), float64(c.Total(t))/float64(max(runs, 1)))
		kinds := slices.SortedFunc(maps.Keys(c[t]), func(x, y string) int { return cmp.Or(cmp.Compare(c[t][y], c[t][x]), cmp.Compare(x, y)) })
		for _, kind := range kinds {
			fmt.Fprintf(&b, "  %10d  %s\n", c[t][kind], kind)
		}
	}
	return b.String()
}
