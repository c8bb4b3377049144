package main

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tailgate-project/tailgate/federation/sim"
)

func TestRun(t *testing.T) {
	var out bytes.Buffer
	failed, err := run(t.Context(), options{seed0: 7, seeds: 3, workers: 2, tries: 10, write: t.TempDir()}, &out)
	if err != nil || failed > 0 {
		t.Fatalf("%d failed, %v\n%s", failed, err, &out)
	}
	if got := out.String(); !strings.HasSuffix(got, "\n3 passed, 0 failed\n") || !strings.Contains(got, string(sim.TopicFault)) {
		t.Errorf("the report does not end with the verdict, or has no coverage:\n%s", got)
	}
}

func TestRunEndsEarly(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := run(ctx, options{seeds: 3, workers: 1}, &bytes.Buffer{}); err == nil {
		t.Error("no error although it was interrupted")
	}
	if _, err := run(t.Context(), options{seeds: 0, workers: 1}, &bytes.Buffer{}); err == nil {
		t.Error("no error although there is nothing to run")
	}
}

func TestReplay(t *testing.T) {
	write := func(s schedule) string {
		data, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(t.TempDir(), "schedule.json")
		if err := os.WriteFile(file, data, 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	for name, tc := range map[string]struct {
		faults []sim.Fault
		failed int
		says   string
	}{
		"sound":         {[]sim.Fault{{At: 10 * time.Second, For: time.Second, Kind: sim.HubCrash}}, 0, "passed"},
		"unknown-fault": {[]sim.Fault{{At: 10 * time.Second, Kind: "earthquake"}}, 1, `there is no fault "earthquake"`},
	} {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			failed, err := run(t.Context(), options{replay: write(schedule{Seed: 5, Faults: tc.faults})}, &out)
			if err != nil || failed != tc.failed || !strings.Contains(out.String(), tc.says) {
				t.Errorf("%d failed, %v; want %d and %q in\n%s", failed, err, tc.failed, tc.says, &out)
			}
		})
	}
	if _, err := run(t.Context(), options{replay: filepath.Join(t.TempDir(), "none")}, &bytes.Buffer{}); err == nil {
		t.Error("no error for a file that is not there")
	}
}

// What a failing seed leaves can be played again and fails in the same way.
func TestExplain(t *testing.T) {
	var out bytes.Buffer
	dir := t.TempDir()
	p := &progress{options: options{write: dir}, out: &out}
	p.explain(5, &sim.Failure{Invariant: "schedule", Message: "made up"}, 10, []sim.Fault{{At: time.Second, Kind: "earthquake", A: "c1"}})
	for _, want := range []string{"seed 5: schedule broken", "of its 10 faults it takes 1", "earthquake", "the end of the trace", "-replay"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is missing in\n%s", want, &out)
		}
	}
	failed, err := run(t.Context(), options{replay: filepath.Join(dir, "sim-5.json")}, &bytes.Buffer{})
	if err != nil || failed != 1 {
		t.Errorf("%d failed, %v; want the one that was kept", failed, err)
	}
}

// TestShrink finds the one fault among harmless ones that breaks an invariant.
func TestShrink(t *testing.T) {
	bad := sim.Fault{At: 3 * time.Second, Kind: "earthquake", A: "c1"}
	faults := []sim.Fault{
		{At: time.Second, For: time.Second, Kind: sim.HubCrash}, {At: 2 * time.Second, For: time.Second, Kind: sim.HubCrash}, bad,
		{At: 4 * time.Second, For: time.Second, Kind: sim.HubCrash},
	}
	if small := shrink(sim.NewScenario(5), faults, "schedule", 50); len(small) != 1 || small[0] != bad {
		t.Errorf("shrunk to %v, want the one that breaks it", small)
	}
}
