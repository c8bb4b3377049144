// Package coordinator is the decision part of a hub: it joins the registry of VIPs, the failover decisions and the
// members into what each member is told.
//
// An event goes through two steps. Plan says what it changes and changes nothing; the caller stores the step's batch;
// Apply makes the change and returns what follows from it for the members' views and for the tailnet. So nobody hears
// of what is not stored. The work of a step is in proportion to what it changes.
package coordinator

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/federation/endpoints"
	"github.com/tailgate-project/tailgate/federation/failover"
	"github.com/tailgate-project/tailgate/federation/ledger"
	"github.com/tailgate-project/tailgate/federation/linkstate"
	"github.com/tailgate-project/tailgate/federation/policy"
	"github.com/tailgate-project/tailgate/federation/vip"
)

// expireAgain is after how long a VIP whose quarantine is over is asked to be deleted again.
const expireAgain = time.Minute

// Config is what a coordinator goes by. Zero parts have the defaults that are said.
type Config struct {
	Failover failover.Config // failover.DefaultConfig
	// Fallback is the policy for what no other selects, unless the kept state has one; policy.Default.
	Fallback policy.Policy
	VIPs     vip.Options
	// StartupGrace is how long the links of known members may be missing after the start, 30 s. Without it a hub that
	// restarts would take everybody for lost.
	StartupGrace time.Duration
	// RebuildGrace is how long a hub that has lost its store keeps silent at most, while it learns what there is: 2 min.
	RebuildGrace time.Duration
}

// Coordinator is the state of a hub. It is not safe for concurrent use; use [New].
type Coordinator struct {
	registry *vip.Registry
	state    *failover.State
	table    *endpoints.Table
	members  map[federation.ClusterID]*ledger.Member
	policies map[string]policy.Policy // as they are kept; the fallback has the empty name
	// unlinked are the members that were known at the start and have not been heard of since; after graceEnds they
	// count as lost.
	unlinked  map[federation.ClusterID]struct{}
	graceEnds time.Time
	// rebuild is what the hub waits for before it speaks; nil once it does.
	rebuild *rebuild
	// held are the notices for members that the hub does not speak to yet.
	held map[federation.ClusterID]map[string]*linkstate.Resource
	// expireAt is when VIPs whose quarantine is over are next asked to be deleted.
	expireAt time.Time
}

// New returns a coordinator with what a hub kept. It fails if that is broken.
func New(c Config, kept ledger.State, now time.Time) (*Coordinator, error) {
	if c.Fallback.Equal(policy.Policy{}) {
		c.Fallback = policy.Default()
	}
	if c.StartupGrace == 0 {
		c.StartupGrace = 30 * time.Second
	}
	co := &Coordinator{
		registry:  vip.New(c.VIPs),
		table:     endpoints.NewTable(),
		members:   make(map[federation.ClusterID]*ledger.Member, len(kept.Members)),
		policies:  map[string]policy.Policy{},
		unlinked:  map[federation.ClusterID]struct{}{},
		graceEnds: now.Add(c.StartupGrace),
		held:      map[federation.ClusterID]map[string]*linkstate.Resource{},
	}
	if !slices.ContainsFunc(kept.Members, func(m ledger.Member) bool { return m.Complete }) {
		co.rebuild = &rebuild{until: now.Add(cmp.Or(c.RebuildGrace, 2*time.Minute)), listed: map[federation.ClusterID]bool{}}
	}
	for _, p := range kept.Policies {
		co.policies[p.Name] = p
	}
	if p, ok := co.policies[""]; ok {
		c.Fallback = p
	}
	co.state = failover.New(c.Failover, policySet(c.Fallback, co.policies))
	return co, co.restore(kept, now)
}

func policySet(fallback policy.Policy, policies map[string]policy.Policy) *policy.Set {
	var named []policy.Policy
	for _, name := range slices.Sorted(maps.Keys(policies)) {
		if name != "" {
			named = append(named, policies[name])
		}
	}
	return policy.NewSet(fallback, named)
}

func (c *Coordinator) restore(kept ledger.State, now time.Time) error {
	for i := range kept.VIPs {
		c.registry.Apply([]vip.Change{{Entry: kept.VIPs[i]}})
	}
	if errs := c.registry.Check(); len(errs) > 0 {
		return fmt.Errorf("the kept registry of VIPs is broken, restore a backup: %w", errors.Join(errs...))
	}
	for _, x := range kept.Exports {
		c.state.Restore(x, now)
		c.table.Add(x.Export.Key)
	}
	for _, cl := range kept.Clusters {
		c.state.RestoreCluster(cl, now)
	}
	for _, m := range kept.Members {
		c.members[m.Cluster] = &m
		c.table.SetInterest(m.Cluster, m.Interest)
		c.unlinked[m.Cluster] = struct{}{}
	}
	return nil
}

// Deadline returns when a [Tick] is due, if ever.
func (c *Coordinator) Deadline() (time.Time, bool) {
	var at time.Time
	soonest := func(t time.Time, ok bool) {
		if ok && (at.IsZero() || t.Before(at)) {
			at = t
		}
	}
	soonest(c.state.Deadline())
	if expires, ok := c.registry.Deadline(); ok {
		if expires.Before(c.expireAt) {
			expires = c.expireAt
		}
		soonest(expires, true)
	}
	soonest(c.graceEnds, len(c.unlinked) > 0)
	if c.rebuild != nil {
		soonest(c.rebuild.until, true)
	}
	return at, !at.IsZero()
}

// Members returns the members, sorted.
func (c *Coordinator) Members() []federation.ClusterID { return slices.Sorted(maps.Keys(c.members)) }

// Member returns what is known of a member.
func (c *Coordinator) Member(id federation.ClusterID) (ledger.Member, bool) {
	if m := c.members[id]; m != nil {
		return *m, true
	}
	return ledger.Member{}, false
}

func (c *Coordinator) isMember(id federation.ClusterID) bool { return c.members[id] != nil }

// locality returns where a member stands; nowhere if it has not joined yet.
func (c *Coordinator) locality(id federation.ClusterID) federation.Locality {
	if m := c.members[id]; m != nil {
		return m.Locality
	}
	return federation.Locality{}
}

// State returns the failover state, to be read.
func (c *Coordinator) State() *failover.State { return c.state }

// Registry returns the registry of VIPs, to be read.
func (c *Coordinator) Registry() *vip.Registry { return c.registry }

// Verdict returns the state of an export as the consumer should see it.
func (c *Coordinator) Verdict(k federation.ExportKey, consumer federation.ClusterID) (failover.Verdict, bool) {
	return c.state.Verdict(k, consumer)
}

// Check returns what is broken. A sound coordinator returns nothing.
func (c *Coordinator) Check() []error {
	errs := c.registry.Check()
	for _, id := range c.Members() {
		for _, k := range c.state.Exports(id) {
			if !slices.Contains(c.table.Exporters(k.Service), id) {
				errs = append(errs, fmt.Errorf("%s is exported and stands in no table", k))
			}
			if e, ok := c.registry.Lookup(k); ok && !e.ReleasedAt.IsZero() && c.claims() {
				errs = append(errs, fmt.Errorf("%s is exported and its VIP is released", k))
			}
		}
	}
	return errs
}
