package sim_test

import (
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/federation/coordinator"
	"github.com/tailgate-project/tailgate/federation/failover"
	"github.com/tailgate-project/tailgate/federation/ledger"
	"github.com/tailgate-project/tailgate/federation/linkstate"
	"github.com/tailgate-project/tailgate/federation/sim"
)

// sometimes returns a function that says yes each n-th time that it is asked, once the federation has come up.
func sometimes(n int) func(time.Duration) bool {
	asked := 0
	return func(now time.Duration) bool {
		asked++
		return now > 10*time.Second && asked%n == 0
	}
}

// sabotage is a broken part and the invariant that catches it. The parts are made anew for each run, since some of them
// count.
type sabotage struct {
	parts func() sim.Parts
	want  string
	// kinds are the faults that are left; none means all.
	kinds []sim.Kind
}

func sabotages() map[string]sabotage {
	return map[string]sabotage{
		"tailnet-gives-an-address-twice": {
			func() sim.Parts { return sim.Parts{AddressTwice: func(time.Duration) bool { return true }} }, "vipsAreDistinct", nil,
		},
		"devices-outlive-their-vips": {
			func() sim.Parts { return sim.Parts{KeepDevices: true} }, "vipsAreDistinct", []sim.Kind{sim.LeaveForGood, sim.Unexport, sim.Cut},
		},
		"hub-starts-with-other-names": {
			func() sim.Parts {
				return sim.Parts{Load: func(s ledger.State) ledger.State {
					for i := range s.VIPs {
						s.VIPs[i].ServiceName += "-x"
					}
					return s
				}}
			}, "vipsAreKept", []sim.Kind{sim.HubCrash},
		},
		"store-acknowledges-and-forgets": {
			func() sim.Parts { return sim.Parts{StoreForgets: sometimes(3)} }, "announcedIsStored", []sim.Kind{sim.PowerLoss, sim.Ready},
		},
		"hub-publishes-before-it-commits": {
			func() sim.Parts { return sim.Parts{PublishFirst: true} }, "announcedIsStored", []sim.Kind{sim.CommitFails, sim.PowerLoss, sim.Ready},
		},
		"spoke-believes-any-epoch": {
			func() sim.Parts { return sim.Parts{AnyEpoch: true} }, "epochsGoForward", []sim.Kind{sim.Takeover, sim.LinkReset},
		},
		"spoke-leaves-its-probes-out": {
			func() sim.Parts { return sim.Parts{NoOverlay: true} }, "consumersLeaveTheDead", []sim.Kind{sim.PowerLoss, sim.HubCrash, sim.Cut},
		},
		"no-rule-but-readiness": {
			func() sim.Parts { return sim.Parts{Rules: []failover.Rule{failover.Emptied, failover.NoneReady}} }, "deadAreDown", []sim.Kind{sim.PowerLoss},
		},
		"no-rule-for-readiness": {
			func() sim.Parts { return sim.Parts{Rules: failover.Table()[2:]} }, "unreadyIsDown", []sim.Kind{sim.Ready},
		},
		"hold-time-is-not-kept": {
			func() sim.Parts {
				return sim.Parts{Policies: func(s sim.PolicySet) sim.PolicySet {
					s.Fallback.Hold, s.Fallback.FailbackDelay, s.Named = 0, 0, nil
					return s
				}}
			}, "noSwitchStorms", []sim.Kind{sim.Ready, sim.PowerLoss, sim.Flap},
		},
		"one-observer-evicts": {
			func() sim.Parts {
				return sim.Parts{Rules: slices.Insert(failover.Table(), 0, func(in failover.Inputs) (failover.Opinion, bool) {
					return failover.Opinion{Down: true, Reason: failover.UnreachableByQuorum}, in.Votes.Fail > 0
				})}
			}, "isolatedEvictsNobody", []sim.Kind{sim.Cut},
		},
		"journal-tells-another-reason": {
			func() sim.Parts {
				return sim.Parts{Batch: func(b ledger.Batch) ledger.Batch {
					b.Journal = slices.Clone(b.Journal)
					for i := range b.Journal {
						b.Journal[i].Reason = failover.Pinned
					}
					return b
				}}
			}, "journalReplays", nil,
		},
		"step-is-applied-again-later": {
			func() sim.Parts { return sim.Parts{ApplyAgain: 10 * time.Second} }, "coreIsSound", []sim.Kind{sim.Unexport, sim.Leave},
		},
		"drain-takes-an-hour": {
			func() sim.Parts {
				return sim.Parts{Event: func(e coordinator.Event) coordinator.Event {
					if f, ok := e.(coordinator.Failover); ok {
						if o, ok := f.Event.(failover.Operated); ok {
							o.Ramp = time.Hour
							return coordinator.Failover{Event: o}
						}
					}
					return e
				}}
			}, "operatorsHold", []sim.Kind{sim.DrainIt, sim.Ready},
		},
		"fail-open-is-taken-out": {
			func() sim.Parts {
				return sim.Parts{Envoy: func(s federation.EndpointSet) federation.EndpointSet {
					s.Endpoints = slices.Clone(s.Endpoints)
					for i := range s.Endpoints {
						if s.Endpoints[i].Health == federation.Degraded {
							s.Endpoints[i].Health = federation.Unhealthy
						}
					}
					return s
				}}
			}, "failsOpen", []sim.Kind{sim.Ready, sim.Isolate},
		},
		"edits-of-views-are-lost": {
			func() sim.Parts {
				lost := sometimes(3)
				return sim.Parts{Edit: func(now time.Duration, changes []linkstate.Change) []linkstate.Change {
					if lost(now) {
						return nil
					}
					return changes
				}}
			}, "viewsAreWhole", []sim.Kind{sim.Ready, sim.PowerLoss},
		},
		"hub-starts-without-its-decisions": {
			func() sim.Parts {
				return sim.Parts{Load: func(s ledger.State) ledger.State {
					for i := range s.Exports {
						s.Exports[i].Cells = nil
					}
					for i := range s.Clusters {
						s.Clusters[i].Cells = nil
					}
					return s
				}}
			}, "restartChangesNothing", []sim.Kind{sim.HubCrash, sim.Ready, sim.PowerLoss},
		},
		"spoke-starts-with-an-empty-disk": {
			func() sim.Parts { return sim.Parts{ForgetDisk: true} }, "egressFromDisk", []sim.Kind{sim.SpokeCrash},
		},
		"envoy-is-not-told-the-last-endpoint": {
			func() sim.Parts {
				return sim.Parts{Envoy: func(s federation.EndpointSet) federation.EndpointSet {
					s.Endpoints = s.Endpoints[:max(1, len(s.Endpoints)-1)]
					return s
				}}
			}, "converges", []sim.Kind{sim.Ready},
		},
		"hub-speaks-before-it-knows": {
			func() sim.Parts { return sim.Parts{NoRebuild: true} }, "setsAreKept", []sim.Kind{sim.StoreLost, sim.Throttle},
		},
		"rule-panics": {
			func() sim.Parts {
				return sim.Parts{Rules: []failover.Rule{func(in failover.Inputs) (failover.Opinion, bool) { panic(in.Policy) }}}
			}, "nothingPanics", nil,
		},
	}
}

// Each invariant has a broken part that it catches.
func TestInvariantsBite(t *testing.T) {
	for name, tc := range sabotages() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			others := map[string]int{}
			for seed := range uint64(60) {
				s := sim.NewScenario(seed + 1)
				faults := slices.DeleteFunc(sim.NewFaults(s), func(f sim.Fault) bool { return len(tc.kinds) > 0 && !slices.Contains(tc.kinds, f.Kind) })
				parts := tc.parts()
				r := sim.Run(s, faults, sim.Options{Parts: &parts})
				if r.Failure == nil {
					continue
				}
				if r.Failure.Invariant == tc.want {
					return
				}
				others[r.Failure.Invariant]++
			}
			t.Errorf("not caught by %s in 60 seeds; other invariants that caught it: %v", tc.want, others)
		})
	}
}

// No invariant goes without a part that is broken for it, and none is never put to the test.
func TestAllInvariantsBite(t *testing.T) {
	checked := sim.Coverage{}
	for seed := range uint64(20) {
		s := sim.NewScenario(seed + 1)
		checked.Merge(sim.Run(s, sim.NewFaults(s), sim.Options{}).Coverage)
	}
	want := map[string]bool{"nothingPanics": true} // it is put to the test by each event
	for invariant := range checked[sim.TopicChecked] {
		want[invariant] = true
	}
	got := map[string]bool{}
	for _, x := range sabotages() {
		got[x.want] = true
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("the invariants that were checked and those that a broken part is caught by (-checked +caught)\n%s", d)
	}
}
