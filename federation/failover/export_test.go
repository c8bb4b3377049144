package failover

import (
	"errors"
	"fmt"

	"github.com/tailgate-project/tailgate/federation"
)

// Check recomputes all that the state keeps twice, and returns an error for what differs.
func (s *State) Check() error {
	var errs []error
	vips := map[federation.ClusterID]int{}
	watchers := map[federation.ClusterID]watcher{}
	for t, seen := range s.seen {
		if len(seen) == 0 {
			errs = append(errs, fmt.Errorf("%s: an empty list of observations", t))
		}
		for _, o := range seen {
			if !whole(t) {
				if o.reachable {
					vips[t.Cluster]++
				}
				continue
			}
			w := watchers[o.observer]
			w.all++
			if !o.reachable {
				w.failing++
			}
			watchers[o.observer] = w
		}
		if _, ok := s.timers.at[t]; !ok {
			errs = append(errs, fmt.Errorf("%s: observations that never expire", t))
		}
	}
	for o := range s.watchers {
		if s.watchers[o] != watchers[o] || s.watchers[o] == (watcher{}) {
			errs = append(errs, fmt.Errorf("observer %s: %+v, want %+v", o, s.watchers[o], watchers[o]))
		}
	}
	if len(watchers) != len(s.watchers) {
		errs = append(errs, fmt.Errorf("%d observers, want %d", len(s.watchers), len(watchers)))
	}
	for id, cl := range s.clusters {
		if cl.facts.vips != vips[id] {
			errs = append(errs, fmt.Errorf("cluster %s: %d reach its VIPs, want %d", id, cl.facts.vips, vips[id]))
		}
		errs = append(errs, cl.check(id))
	}
	for t := range s.timers.at {
		if len(s.seen[t]) == 0 && s.clusters[t.Cluster] == nil {
			errs = append(errs, fmt.Errorf("%s: a timer of what is not there", t))
		}
	}
	return errors.Join(errs...)
}

func (c *cluster) check(id federation.ClusterID) error {
	for svc := range c.restless {
		if x, _ := c.exports.Get(svc); x == nil || x.subject == nil {
			return fmt.Errorf("cluster %s: %s is at rest, or gone", id, svc)
		}
	}
	for x := range c.exports.All() {
		svc := x.id()
		_, restless := c.restless[svc]
		if restless != (x.subject != nil) || (restless && x.subject.resting()) {
			return fmt.Errorf("cluster %s: %s with %+v is restless: %v", id, svc, x.subject, restless)
		}
	}
	return nil
}

// Empty reports whether the state knows nothing and waits for nothing.
func (s *State) Empty() bool {
	return len(s.clusters)+len(s.seen)+len(s.watchers)+len(s.timers.at) == 0
}
