package sim_test

import (
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tailgate-project/tailgate/federation/sim"
)

func TestSeeds(t *testing.T) {
	seeds := uint64(60)
	if testing.Short() {
		seeds = 10
	}
	for seed := range seeds {
		s := sim.NewScenario(seed + 1)
		if r := sim.Run(s, sim.NewFaults(s), sim.Options{}); r.Failure != nil {
			t.Errorf("seed %d: %v; for the shrunk schedule and its trace: go run ./federation/sim/cmd/sim -seed0 %d -seeds 1", s.Seed, r.Failure, s.Seed)
		}
	}
}

func TestSameSeedSameRun(t *testing.T) {
	for seed := range uint64(8) {
		s := sim.NewScenario(seed + 1)
		faults := sim.NewFaults(s)
		quiet, told := sim.Run(s, faults, sim.Options{}), sim.Run(sim.NewScenario(s.Seed), sim.NewFaults(s), sim.Options{Trace: true})
		if quiet.Hash != told.Hash || quiet.Events != told.Events {
			again := sim.Run(s, faults, sim.Options{Trace: true})
			t.Errorf("seed %d: two runs differ (-one +other)\n%.4000s", s.Seed, cmp.Diff(told.Trace, again.Trace))
		}
		if d := cmp.Diff(quiet.Coverage, told.Coverage); d != "" {
			t.Errorf("seed %d: the coverage of two runs differs (-one +other)\n%s", s.Seed, d)
		}
		if len(quiet.Trace) > 0 || len(told.Trace) == 0 {
			t.Errorf("seed %d: %d lines of trace without being asked, %d when asked", s.Seed, len(quiet.Trace), len(told.Trace))
		}
	}
}

func TestSeedsDiffer(t *testing.T) {
	seen := map[uint64]uint64{}
	for seed := range uint64(8) {
		s := sim.NewScenario(seed + 1)
		r := sim.Run(s, nil, sim.Options{})
		if r.Failure != nil {
			t.Errorf("seed %d without a fault: %v", s.Seed, r.Failure)
		}
		if other, ok := seen[r.Hash]; ok {
			t.Errorf("seeds %d and %d run alike", s.Seed, other)
		}
		seen[r.Hash] = s.Seed
	}
}

// A schedule that is made for the test: a run fails if it has all the faults of one kind and one more.
func TestShrink(t *testing.T) {
	var faults []sim.Fault
	for i := range 100 {
		faults = append(faults, sim.Fault{At: time.Duration(i) * time.Second, Kind: sim.Cut})
	}
	for _, i := range []int{3, 50, 99} {
		faults[i].Kind = sim.PowerLoss
	}
	faults[60].Kind = sim.HubCrash
	runs := 0
	fails := func(part []sim.Fault) bool {
		runs++
		count := func(k sim.Kind) (n int) {
			for _, f := range part {
				if f.Kind == k {
					n++
				}
			}
			return n
		}
		return count(sim.PowerLoss) == 3 && count(sim.HubCrash) == 1
	}
	before := slices.Clone(faults)
	got := sim.Shrink(faults, 1000, fails)
	want := []sim.Fault{faults[3], faults[50], faults[60], faults[99]}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("(-want +got)\n%s", d)
	}
	if d := cmp.Diff(before, faults); d != "" {
		t.Errorf("the schedule itself was changed:\n%s", d)
	}
	runs = 0
	if sim.Shrink(faults, 7, fails); runs > 7 {
		t.Errorf("%d runs where 7 were allowed", runs)
	}
	if got := sim.Shrink(nil, 10, func([]sim.Fault) bool { return true }); len(got) > 0 {
		t.Errorf("shrunk nothing to %v", got)
	}
}

// A real failure shrinks to little, and what is left fails in the same way each time.
func TestShrinkReplays(t *testing.T) {
	s := sim.NewScenario(3)
	parts := &sim.Parts{ForgetDisk: true}
	faults := sim.NewFaults(s)
	fails := func(part []sim.Fault) bool {
		r := sim.Run(s, part, sim.Options{Parts: parts})
		return r.Failure != nil && r.Failure.Invariant == "egressFromDisk"
	}
	if !fails(faults) {
		t.Fatal("a spoke that forgets its disk is not caught")
	}
	small := sim.Shrink(faults, 200, fails)
	if len(small) > 3 {
		t.Errorf("%d faults are left of %d", len(small), len(faults))
	}
	one, other := sim.Run(s, small, sim.Options{Parts: parts, Trace: true}), sim.Run(s, small, sim.Options{Parts: parts})
	if one.Failure == nil || one.Hash != other.Hash {
		t.Errorf("the shrunk schedule fails as %v, hashes %x and %x", one.Failure, one.Hash, other.Hash)
	}
}

func TestCoverage(t *testing.T) {
	a, b := sim.Coverage{sim.TopicFault: {"cut": 2}}, sim.Coverage{sim.TopicFault: {"cut": 1, "flap": 5}, sim.TopicState: {"x": 1}}
	a.Merge(b)
	if got := a.Total(sim.TopicFault); got != 8 {
		t.Errorf("total %d, want 8", got)
	}
	want := "fault events: 8 (4.0 a seed)\n           5  flap\n           3  cut\nstates reached: 1 (0.5 a seed)\n           1  x\n"
	if d := cmp.Diff(want, a.Text(2)); d != "" {
		t.Errorf("(-want +got)\n%s", d)
	}
}
