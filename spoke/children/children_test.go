package children_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tailgate-project/tailgate/spoke/children"
)

const patience = 2 * time.Minute

// reportEnv names the file to which a test binary that was started as a proxy writes how it was started.
const reportEnv = "CHILDREN_TEST_REPORT"

func TestMain(m *testing.M) {
	if path := os.Getenv(reportEnv); path != "" && len(os.Args) > 1 && os.Args[1] == "proxy" {
		os.Exit(pretend(path))
	}
	os.Exit(m.Run())
}

// pretend is a proxy: it says how it was started, and ends when it is told to.
func pretend(path string) int {
	told := make(chan os.Signal, 1)
	signal.Notify(told, syscall.SIGTERM)
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err == nil {
		_, err = fmt.Fprintf(f, "%d key=%s join=%s %s\n", os.Getpid(), os.Getenv("TS_AUTHKEY"), os.Getenv("TAILGATE_JOIN_KEY"), strings.Join(os.Args[1:], " "))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	<-told
	return 0
}

type report struct {
	pid  int
	line string
}

// reports waits until there are n of them.
func reports(t *testing.T, path string, n int) []report {
	t.Helper()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	for {
		data, err := os.ReadFile(path)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
		if strings.Count(string(data), "\n") >= n {
			var out []report
			for line := range strings.Lines(string(data)) {
				var r report
				if _, err := fmt.Sscan(line, &r.pid); err != nil {
					t.Fatal(err)
				}
				r.line = strings.TrimSpace(line)
				out = append(out, r)
			}
			return out
		}
		select {
		case <-deadline.C:
			t.Fatalf("%d proxies did not start within %s: %s", n, patience, data)
		case <-ticker.C:
		}
	}
}

func TestProxiesStartRestartAndEnd(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "reports")
	t.Setenv(reportEnv, path)
	t.Setenv("TAILGATE_JOIN_KEY", "the-spokes-own-key")
	t.Setenv("TS_AUTHKEY", "the-spokes-own-key")
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- children.Run(ctx, children.Options{
			Executable: self, Cluster: "c1", IngressReplicas: 1, EgressReplicas: 1, StateDir: t.TempDir(), Socket: "/run/s.sock",
			ControlURL: "http://control",
			Grace:      patience, DrainTimeout: 3 * time.Second, LogLevel: "info", Output: os.Stderr, Log: slog.New(slog.DiscardHandler),
		})
	}()
	started := reports(t, path, 2)
	for _, r := range started {
		for _, want := range []string{
			"key= ", "join= ", "--control-url http://control", "--socket /run/s.sock", "--hostname tailgate-", "-c1-0", "--drain-timeout 3s",
		} {
			if !strings.Contains(r.line, want) {
				t.Errorf("started as %q, which lacks %q", r.line, want)
			}
		}
	}
	if err := syscall.Kill(started[0].pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	all := reports(t, path, 3)
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("run: %v", err)
	}
	for _, r := range all {
		if err := syscall.Kill(r.pid, 0); !errors.Is(err, syscall.ESRCH) {
			t.Errorf("process %d is left behind: %v", r.pid, err)
		}
	}
}
