package upstream

import (
	"math/rand/v2"
)

// slot is an endpoint's place in a view.
type slot struct {
	*host
	endpoint Endpoint
	priority int
	locality int
	current  int64 // smooth weighted round robin; guarded by the cluster's mu
}

// tally counts the endpoints of one priority.
type tally struct{ total, healthy, degraded int }

// loads says what percentage of the traffic each priority takes, with its healthy and with its degraded endpoints,
// and which priorities are in panic, which means that health is ignored in them.
type loads struct {
	healthy, degraded []int
	panic             []bool
}

// computeLoads spreads traffic over priorities as Envoy does: a priority counts as fully available while its healthy
// share times the overprovisioning factor is at least 100 percent, what it can't take spills to the next one, and
// degraded endpoints come after all healthy ones. excluded priorities count as having none available.
func computeLoads(tallies []tally, overprovisioning uint32, panicThreshold float64, excluded []bool) loads {
	n := len(tallies)
	l := loads{healthy: make([]int, n), degraded: make([]int, n), panic: make([]bool, n)}
	health, degraded := make([]int, n), make([]int, n)
	sum := 0
	for i, t := range tallies {
		if t.total == 0 || (excluded != nil && excluded[i]) {
			continue
		}
		health[i] = min(100, int(overprovisioning)*t.healthy/t.total)
		degraded[i] = min(100, int(overprovisioning)*t.degraded/t.total)
		sum += health[i] + degraded[i]
	}
	available := min(100, sum)
	if available == 0 {
		l.allDown(tallies, panicThreshold)
		return l
	}
	left := 100
	for _, part := range []struct{ from, to []int }{{health, l.healthy}, {degraded, l.degraded}} {
		for i, h := range part.from {
			part.to[i] = min(left, h*100/available)
			left -= part.to[i]
		}
	}
	l.roundUp(left, health, degraded)
	for i, t := range tallies {
		l.panic[i] = available < 100 && inPanic(t, panicThreshold)
	}
	return l
}

// roundUp gives what integer division lost to the first priority that has something available.
func (l *loads) roundUp(left int, health, degraded []int) {
	for i := range health {
		if health[i] > 0 {
			l.healthy[i] += left
			return
		}
	}
	for i := range degraded {
		if degraded[i] > 0 {
			l.degraded[i] += left
			return
		}
	}
}

// allDown spreads traffic by the number of endpoints if none is available, unless panic is switched off.
func (l *loads) allDown(tallies []tally, panicThreshold float64) {
	total, left, first := 0, 100, -1
	for i, t := range tallies {
		total += t.total
		if t.total > 0 && first < 0 {
			first = i
		}
	}
	if total == 0 {
		return
	}
	if panicThreshold == 0 {
		l.healthy[0] = 100
		return
	}
	for i, t := range tallies {
		l.panic[i] = true
		l.healthy[i] = 100 * t.total / total
		left -= l.healthy[i]
	}
	l.healthy[first] += left
}

func inPanic(t tally, threshold float64) bool {
	return t.total == 0 || 100*float64(t.healthy+t.degraded)/float64(t.total) < threshold
}

// choosePriority returns the priority in whose share n, from 0 to 99, falls, and whether its degraded endpoints
// are meant.
func (l loads) choosePriority(n int) (priority int, degraded bool) {
	for i, load := range l.healthy {
		if n -= load; n < 0 {
			return i, false
		}
	}
	for i, load := range l.degraded {
		if n -= load; n < 0 {
			return i, true
		}
	}
	return 0, false
}

// view is what a request is balanced over: the endpoints and their health at one moment. It is never changed.
type view struct {
	spec       *Spec
	endpoints  *Endpoints
	priorities [][]*slot
	tallies    []tally
	loads      loads
	health     map[*slot]health
	weights    []uint32 // by locality
}

type health int

const (
	healthy health = iota
	degraded
	unhealthy
)

func newView(spec *Spec, endpoints *Endpoints, slots []*slot) *view {
	v := &view{spec: spec, endpoints: endpoints, health: map[*slot]health{}}
	n := 0
	for _, s := range slots {
		n = max(n, s.priority+1)
	}
	v.priorities, v.tallies = make([][]*slot, n), make([]tally, n)
	for _, l := range endpoints.Localities {
		v.weights = append(v.weights, l.Weight)
	}
	for _, s := range slots {
		h := s.state(s.endpoint)
		v.health[s] = h
		v.priorities[s.priority] = append(v.priorities[s.priority], s)
		t := &v.tallies[s.priority]
		t.total++
		switch h {
		case healthy:
			t.healthy++
		case degraded:
			t.degraded++
		}
	}
	v.loads = computeLoads(v.tallies, endpoints.Overprovisioning, spec.panicThreshold, nil)
	return v
}

// pool returns the endpoints among which one is chosen, all of one priority.
func (v *view) pool(l loads) []*slot {
	if len(v.priorities) == 0 {
		return nil
	}
	p, wantDegraded := l.choosePriority(rand.IntN(100))
	if l.panic[p] {
		return v.priorities[p]
	}
	want := healthy
	if wantDegraded {
		want = degraded
	}
	var pool []*slot
	for _, s := range v.priorities[p] {
		if v.health[s] == want {
			pool = append(pool, s)
		}
	}
	if v.spec.localityWeighted {
		pool = v.oneLocality(p, pool)
	}
	return pool
}

// oneLocality narrows a pool to one locality, chosen by the localities' weights, each lessened by the share of its
// endpoints that is not available.
func (v *view) oneLocality(priority int, pool []*slot) []*slot {
	total, available := map[int]int{}, map[int]int{}
	for _, s := range v.priorities[priority] {
		total[s.locality]++
	}
	for _, s := range pool {
		available[s.locality]++
	}
	effective, sum := make([]float64, len(v.weights)), 0.0
	for i, w := range v.weights {
		if available[i] > 0 {
			share := float64(v.endpoints.Overprovisioning) / 100 * float64(available[i]) / float64(total[i])
			effective[i] = float64(w) * min(1, share)
			sum += effective[i]
		}
	}
	if sum == 0 {
		return pool // no locality has a weight
	}
	n := rand.Float64() * sum
	for i, w := range effective {
		if n -= w; n < 0 {
			var narrowed []*slot
			for _, s := range pool {
				if s.locality == i {
					narrowed = append(narrowed, s)
				}
			}
			return narrowed
		}
	}
	return pool
}

// choose picks one of the pool by the cluster's policy. The cluster's mu must be held.
func (v *view) chooseLocked(pool []*slot) *slot {
	if len(pool) == 0 {
		return nil
	}
	switch v.spec.policy {
	case random:
		return weightedRandom(pool)
	case leastRequest:
		best := weightedRandom(pool)
		for range v.spec.choices - 1 {
			if s := weightedRandom(pool); s.active.Load() < best.active.Load() {
				best = s
			}
		}
		return best
	}
	var best *slot
	sum := int64(0)
	for _, s := range pool {
		s.current += int64(s.endpoint.Weight)
		sum += int64(s.endpoint.Weight)
		if best == nil || s.current > best.current {
			best = s
		}
	}
	best.current -= sum
	return best
}

func weightedRandom(pool []*slot) *slot {
	sum := uint32(0)
	for _, s := range pool {
		sum += s.endpoint.Weight
	}
	if sum == 0 {
		return pool[rand.IntN(len(pool))]
	}
	n := rand.Uint32N(sum)
	for _, s := range pool {
		if n < s.endpoint.Weight {
			return s
		}
		n -= s.endpoint.Weight
	}
	return pool[len(pool)-1]
}
