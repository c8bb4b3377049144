package main_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// programs are built as `make demo` builds them.
var programs = map[string]string{
	"demo": ".", "hub": "../../../hub/cmd/hub", "spoke": "../../../spoke/cmd/spoke",
	"standin": "../../standin/cmd/envoy", "webapp": "../../webapp",
}

// build puts the programs into a new demo directory.
func build(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for name, pkg := range programs {
		out, err := exec.CommandContext(t.Context(), "go", "build", "-o", filepath.Join(dir, "bin", name), pkg).CombinedOutput()
		if err != nil {
			t.Fatalf("build %s: %v\n%s", name, err, out)
		}
	}
	return dir
}

func start(t *testing.T, dir string, args ...string) (*exec.Cmd, *bytes.Buffer) {
	t.Helper()
	var out bytes.Buffer
	cmd := exec.Command(filepath.Join(dir, "bin", "demo"), append([]string{"--dir", dir, "--crds", "../../../deploy/crds"}, args...)...)
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.Env = append(os.Environ(), "KEEP_LOGS=1")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return cmd, &out
}

// TestDemo runs the whole demo, and looks at the result, the output and what is left behind.
func TestDemo(t *testing.T) {
	dir := build(t)
	cmd, out := start(t, dir)
	err := cmd.Wait()
	t.Logf("the demo printed:\n%s", out)
	if err != nil {
		t.Fatalf("the demo failed: %v\n%s", err, lastWords(dir))
	}
	text, err := os.ReadFile(filepath.Join(dir, "result.json"))
	if err != nil {
		t.Fatal(err)
	}
	var r struct {
		Status          int              `json:"cross_cluster_status"`
		ServedBy        string           `json:"served_by"`
		FailbackFailed  int              `json:"failback_failed_requests"`
		OutsideFailover int              `json:"failed_requests_outside_failover"`
		Total           int              `json:"total_requests"`
		DataPlane       string           `json:"data_plane"`
		Timeline        map[string]int64 `json:"timeline_ms"`
	}
	if err := json.Unmarshal(text, &r); err != nil {
		t.Fatal(err)
	}
	if r.Status != 200 || r.ServedBy != "cluster2" || r.FailbackFailed != 0 || r.OutsideFailover != 0 || r.Total < 500 || r.DataPlane == "" {
		t.Errorf("result %s", text)
	}
	for _, later := range []string{"first_probe_failure", "decision", "endpoint_set_pushed", "eds_received", "first_answer"} {
		if at, ok := r.Timeline[later]; !ok || at < 0 {
			t.Errorf("timeline: %s at %d ms (known: %v)", later, at, ok)
		}
	}
	gone(t, dir)
}

// lastWords are the ends of the logs of the hub and the spokes.
func lastWords(dir string) string {
	var b strings.Builder
	for _, pattern := range []string{"management/hub.log", "cluster*/spoke.log"} {
		logs, _ := filepath.Glob(filepath.Join(dir, "logs", pattern)) // the patterns are good
		for _, path := range logs {
			text, err := os.ReadFile(path)
			lines := strings.SplitAfter(string(text), "\n")
			fmt.Fprintf(&b, "%s (%v)\n%s", path, err, strings.Join(lines[max(0, len(lines)-60):], ""))
		}
	}
	return b.String()
}

// TestInterrupted ends the demo half way by Ctrl-C.
func TestInterrupted(t *testing.T) {
	dir := build(t)
	cmd, out := start(t, dir)
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	poll := time.NewTicker(100 * time.Millisecond)
	defer poll.Stop()
	signalled := false
	for {
		select {
		case err := <-ended:
			if !signalled {
				t.Fatalf("the demo ended by itself: %v\n%s", err, out)
			}
			if code := cmd.ProcessState.ExitCode(); code != 130 {
				t.Errorf("exit status %d, want 130\n%s", code, out)
			}
			gone(t, dir)
			return
		case <-poll.C:
			if _, err := os.Stat(filepath.Join(dir, "run", "cluster1", "control-plane")); err == nil && !signalled {
				signalled = true
				if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
}

// TestFailureHalfWay runs the demo with a hub that cannot start.
func TestFailureHalfWay(t *testing.T) {
	dir := build(t)
	broken := []byte("#!/bin/sh\necho this hub is broken >&2\nexit 3\n")
	if err := os.WriteFile(filepath.Join(dir, "bin", "hub"), broken, 0o755); err != nil {
		t.Fatal(err)
	}
	cmd, out := start(t, dir)
	err := cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != 1 || !strings.Contains(out.String(), "this hub is broken") {
		t.Errorf("err %v, exit status %d, printed\n%s", err, code, out)
	}
	if _, err := os.Stat(filepath.Join(dir, "logs", "management", "hub.log")); err != nil {
		t.Errorf("the logs were not kept, as asked: %v", err)
	}
	gone(t, dir)
}

// TestASecondDemoIsRefused holds the lock that a running demo holds.
func TestASecondDemoIsRefused(t *testing.T) {
	dir := build(t)
	f, err := os.Create(filepath.Join(dir, "lock"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	cmd, out := start(t, dir)
	if err := cmd.Wait(); err == nil || !strings.Contains(out.String(), "another demo runs") {
		t.Errorf("err %v, printed %s", err, out)
	}
}

// gone checks that no process runs a program of the demo's, and that its directory of work is removed.
func gone(t *testing.T, dir string) {
	t.Helper()
	if _, err := os.Stat(filepath.Join(dir, "run")); !os.IsNotExist(err) {
		t.Errorf("the directory run is left behind (%v)", err)
	}
	procs, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range procs {
		if line, err := os.ReadFile(p); err == nil && bytes.Contains(line, []byte(dir)) {
			t.Errorf("a process is left behind: %s", fmt.Sprint(strings.Split(string(line), "\x00")))
		}
	}
}
