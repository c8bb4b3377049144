package sim

import (
	"time"

	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/federation/coordinator"
	"github.com/tailgate-project/tailgate/federation/failover"
	"github.com/tailgate-project/tailgate/federation/ledger"
	"github.com/tailgate-project/tailgate/federation/linkstate"
	"github.com/tailgate-project/tailgate/federation/vip"
)

// Parts are the seams at which a test puts broken parts in place of sound ones, to see that the invariants notice. What
// is nil or false is sound. Now is the virtual time.
type Parts struct {
	// Rules are failover's; Policies what the hub is told in place of what its operator said.
	Rules    []failover.Rule
	Policies func(PolicySet) PolicySet
	// Load changes what a hub that starts finds in its store, Batch what reaches the store.
	Load  func(ledger.State) ledger.State
	Batch func(ledger.Batch) ledger.Batch
	// StoreForgets has the store acknowledge a commit without keeping it.
	StoreForgets func(now time.Duration) bool
	// PublishFirst has a hub publish before it commits. ApplyAgain has it apply a step once more, so much later.
	PublishFirst bool
	ApplyAgain   time.Duration
	// Event changes what the coordinator is told, Edit the edits of the members' views.
	Event func(coordinator.Event) coordinator.Event
	Edit  func(now time.Duration, changes []linkstate.Change) []linkstate.Change
	// AddressTwice has the tailnet give an address without noting that it is given.
	AddressTwice func(now time.Duration) bool
	// AnyEpoch has spokes believe a hub of any epoch.
	AnyEpoch bool
	// NoOverlay has spokes leave out what their own probes say. Envoy changes the sets that Envoy gets.
	NoOverlay bool
	Envoy     func(federation.EndpointSet) federation.EndpointSet
	// NoRebuild has a hub that finds its store empty speak before it knows what there is.
	NoRebuild bool
	// ForgetDisk has spokes start with nothing.
	ForgetDisk bool
	// KeepDevices has the tailnet keep the devices of members that leave for good.
	KeepDevices bool
}

// complete puts a sound part where there is none.
func (p *Parts) complete() {
	never := func(time.Duration) bool { return false }
	if p.Rules == nil {
		p.Rules = failover.Table()
	}
	if p.Policies == nil {
		p.Policies = func(s PolicySet) PolicySet { return s }
	}
	if p.Load == nil {
		p.Load = func(s ledger.State) ledger.State { return s }
	}
	if p.Batch == nil {
		p.Batch = func(b ledger.Batch) ledger.Batch { return b }
	}
	if p.StoreForgets == nil {
		p.StoreForgets = never
	}
	if p.Event == nil {
		p.Event = func(e coordinator.Event) coordinator.Event { return e }
	}
	if p.Edit == nil {
		p.Edit = func(_ time.Duration, changes []linkstate.Change) []linkstate.Change { return changes }
	}
	if p.AddressTwice == nil {
		p.AddressTwice = never
	}
	if p.Envoy == nil {
		p.Envoy = func(s federation.EndpointSet) federation.EndpointSet { return s }
	}
}

// rebuildFor is how long a hub that finds its store empty waits for the tailnet and the members. It is shorter than the
// default, as all is here.
const rebuildFor = time.Minute

// pool is the range of scenarios in which the hub gives the addresses.
var pool = func() *vip.Pool {
	p, err := vip.ParsePool("100.90.0.0/26")
	if err != nil {
		panic(err) // the constant above is wrong
	}
	return p
}()

// config is what the coordinators of a scenario go by.
func (p *Parts) config(s Scenario, epoch uint64) coordinator.Config {
	c := coordinator.Config{VIPs: vip.Options{Quarantine: s.Quarantine, Epoch: epoch}, Fallback: s.Policies[0].Fallback}
	c.Failover.Rules, c.RebuildGrace = p.Rules, rebuildFor
	if p.NoRebuild {
		c.RebuildGrace = time.Nanosecond
	}
	if s.Pool {
		c.VIPs.Pool = pool
	}
	return c
}
