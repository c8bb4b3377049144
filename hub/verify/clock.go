package verify

import (
	"cmp"
	"fmt"
	"slices"
	"time"
)

// drift is how far two clocks may be apart. WireGuard, certificates and logins bear much more than this, but clocks that are
// kept by NTP are never apart as much.
const drift = 30 * time.Second

// offset is how far a party's clock is ahead of the clock of whoever looks.
type offset struct {
	where string
	ahead time.Duration
}

// ahead is how far the clock was ahead, as little as the reading allows; false if it was not read.
func (r Reading) ahead() (time.Duration, bool) {
	switch {
	case r.Said.IsZero():
		return 0, false
	case r.Said.Add(r.Unit).Before(r.Before):
		return r.Said.Add(r.Unit).Sub(r.Before), true
	case r.Said.After(r.After):
		return r.Said.Sub(r.After), true
	}
	return 0, true
}

// thisMachine is what the looker's own clock is called.
const thisMachine = "this machine"

// offsets are those of all parties against their median, which is taken for the right time: of several clocks it is the odd one
// that is wrong.
func offsets(p Picture) []offset {
	all := []offset{{where: thisMachine}}
	add := func(where string, r Reading) {
		if ahead, read := r.ahead(); read {
			all = append(all, offset{where, ahead})
		}
	}
	add(whereHub, p.Hub.Clock)
	if p.Hub.Objects != nil {
		add("the management cluster's API server", p.Hub.Objects.Clock)
	}
	for _, m := range p.Members {
		add(m.Context, m.Clock)
		if m.Spoke.Status != nil {
			add(m.spokeClock(), m.Spoke.Clock)
		}
	}
	sorted := slices.SortedFunc(slices.Values(all), func(a, b offset) int { return cmp.Compare(a.ahead, b.ahead) })
	median := sorted[len(sorted)/2].ahead
	for i := range all {
		all[i].ahead -= median
	}
	return all
}

func (m *Member) spokeClock() string { return "the spoke in " + m.Context }

// clock judges the clocks of some parties. Those that were not read are not among them.
func (a at) clock(parties ...string) {
	read := 0
	for _, o := range a.clocks {
		if !slices.Contains(parties, o.where) {
			continue
		}
		read++
		if o.ahead.Abs() <= drift {
			continue
		}
		direction := "ahead of"
		if o.ahead < 0 {
			direction = "behind"
		}
		a.failed(HopClock, fmt.Sprintf("the clock of %s is %s %s the others", o.where, o.ahead.Abs().Round(time.Second), direction),
			"have the machine that it runs on keep its clock by NTP (chrony, systemd-timesyncd): the tailnet's handshakes, certificates and keys are judged by it")
		return
	}
	if read > 0 {
		a.ok(HopClock, "as the others', within %s", drift)
	}
}
