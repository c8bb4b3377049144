package machine_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tailgate-project/tailgate/e2e-kind/machine"
)

// sh is a process that runs a shell script in a directory of the test, and its log.
func sh(t *testing.T, name, script string) machine.Process {
	t.Helper()
	dir := t.TempDir()
	return machine.Process{
		Name: name, Path: "sh", Args: []string{"-c", script}, Dir: dir, LogFile: filepath.Join(dir, "log"),
		Ready: func(context.Context) error {
			_, err := os.Stat(filepath.Join(dir, "ready"))
			return err
		},
	}
}

func newSupervisor(t *testing.T) *machine.Supervisor {
	t.Helper()
	s := &machine.Supervisor{}
	t.Cleanup(func() {
		if err := s.Stop(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func TestSupervisorStopsInReverse(t *testing.T) {
	s := newSupervisor(t)
	order := filepath.Join(t.TempDir(), "order")
	for _, name := range []string{"first", "second", "third"} {
		p := sh(t, name, "trap 'echo "+name+" >>"+order+"; exit 0' TERM; touch ready; while :; do sleep 0.01; done")
		if _, err := s.Start(t.Context(), p); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Run(ctx); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(order)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff("third\nsecond\nfirst\n", string(got)); diff != "" {
		t.Error(diff)
	}
}

func TestSupervisorTellsWhyAProcessEnded(t *testing.T) {
	t.Run("before-ready", func(t *testing.T) {
		_, err := newSupervisor(t).Start(t.Context(), sh(t, "bad", "echo the reason >&2; exit 3"))
		if err == nil || !strings.Contains(err.Error(), "start bad: exit status 3") || !strings.Contains(err.Error(), "the reason") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("while-it-runs", func(t *testing.T) {
		s := newSupervisor(t)
		if _, err := s.Start(t.Context(), sh(t, "other", "touch ready; sleep 1000")); err != nil {
			t.Fatal(err)
		}
		r, err := s.Start(t.Context(), sh(t, "bad", "echo the reason; touch ready; sleep 1000"))
		if err != nil {
			t.Fatal(err)
		}
		if err := r.Kill(); err != nil {
			t.Fatal(err)
		}
		<-r.Done()
		if err := r.Err(); err == nil || !strings.Contains(err.Error(), "bad: signal: killed") || !strings.Contains(err.Error(), "the reason") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("never-ready", func(t *testing.T) {
		p := sh(t, "slow", "echo still at it; sleep 1000")
		p.ReadyTimeout = 100 * time.Millisecond
		_, err := newSupervisor(t).Start(t.Context(), p)
		if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "still at it") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("run-ends", func(t *testing.T) {
		s := newSupervisor(t)
		p := sh(t, "bad", "touch ready; while [ ! -e die ]; do sleep 0.01; done; echo the reason; exit 4")
		if _, err := s.Start(t.Context(), p); err != nil {
			t.Fatal(err)
		}
		done := make(chan error, 1)
		go func() { done <- s.Run(t.Context()) }()
		if err := os.WriteFile(filepath.Join(p.Dir, "die"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := <-done; err == nil || !strings.Contains(err.Error(), "bad: exit status 4") {
			t.Errorf("got %v", err)
		}
	})
}

func TestSupervisorStopsWholeGroupThatIgnoresTerm(t *testing.T) {
	s := newSupervisor(t)
	p := sh(t, "stubborn", "trap '' TERM; (sleep 1000) & touch ready; wait; sleep 1000")
	p.StopTimeout = 50 * time.Millisecond
	r, err := s.Start(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Stop(); err != nil {
		t.Fatal(err)
	}
	if err := r.Err(); err != nil {
		t.Errorf("a stopped process is no failure, got %v", err)
	}
}

func TestSupervisorRestarts(t *testing.T) {
	s := newSupervisor(t)
	p := sh(t, "phoenix", "echo $$ >>pids; touch ready; sleep 1000")
	p.Restart = true
	r, err := s.Start(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	first := r.PID()
	if err := os.Remove(filepath.Join(p.Dir, "ready")); err != nil {
		t.Fatal(err)
	}
	if err := r.Kill(); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() bool { return p.Ready(t.Context()) == nil })
	if r.PID() == first {
		t.Errorf("process %d was not started again", first)
	}
	if err := r.Stop(); err != nil {
		t.Fatal(err)
	}
}

func TestBinds(t *testing.T) {
	certs, hosts := t.TempDir(), filepath.Join(t.TempDir(), "hosts")
	for path, text := range map[string]string{filepath.Join(certs, "ca.crt"): "a certificate\n", hosts: "10.200.0.1 gateway\n"} {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	dir := t.TempDir()
	// Everything else is as outside, and the working directory is writable.
	p := machine.Process{
		Name: "bound", Path: "sh", Dir: dir, LogFile: filepath.Join(dir, "log"),
		Args: []string{"-c", "cat /certs/ca.crt /etc/hosts >seen && ls / >root && readlink /proc/self/root >>seen && ls /dev/null >>seen && touch ready; sleep 1000"},
		Ready: func(context.Context) error {
			_, err := os.Stat(filepath.Join(dir, "ready"))
			return err
		},
		Binds: map[string]string{"/certs": certs, "/etc/hosts": hosts},
	}
	r, err := newSupervisor(t).Start(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	seen, err := os.ReadFile(filepath.Join(dir, "seen"))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff("a certificate\n10.200.0.1 gateway\n/\n/dev/null\n", string(seen)); diff != "" {
		t.Error(diff)
	}
	listed, err := os.ReadFile(filepath.Join(dir, "root"))
	if err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir("/")
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"certs"}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), ".") {
			want = append(want, e.Name())
		}
	}
	if diff := cmp.Diff(sorted(want), sorted(strings.Fields(string(listed)))); diff != "" {
		t.Errorf("root of the bound process (-want +got):\n%s", diff)
	}
	if _, err := os.Stat("/certs"); err == nil {
		t.Error("/certs is seen outside too")
	}
	if err := r.Stop(); err != nil {
		t.Fatal(err)
	}

	for name, binds := range map[string]map[string]string{
		"deep-and-missing": {"/nowhere/certs": certs},
		"no-source":        {"/certs": filepath.Join(certs, "none")},
		"relative":         {"certs": certs},
	} {
		t.Run(name, func(t *testing.T) {
			bad := p
			bad.Binds = binds
			if _, err := newSupervisor(t).Start(t.Context(), bad); err == nil || !strings.Contains(err.Error(), "bind") {
				t.Errorf("got %v", err)
			}
		})
	}
}
