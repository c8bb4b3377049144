package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/tailgate-project/tailgate/e2e-kind/netns"
	"github.com/tailgate-project/tailgate/e2e-kind/tailnet"
)

// asCommand makes the test binary be the command.
const asCommand = "TAILNET_TEST_AS_COMMAND"

func TestMain(m *testing.M) {
	if os.Getenv(asCommand) != "" {
		main()
		return
	}
	os.Exit(netns.RunTests(m))
}

func command(t *testing.T, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(t.Context(), os.Args[0], args...)
	cmd.Env = append(os.Environ(), asCommand+"=1")
	return cmd
}

// begin starts a command, which is killed at the latest when the test ends, and reads the line of
// JSON that it prints when it is ready.
func begin(t *testing.T, cmd *exec.Cmd, ready any) {
	t.Helper()
	cmd.Stderr = t.Output()
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
			t.Error(err)
		}
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal([]byte(line), ready); err != nil {
		t.Fatalf("printed %q: %v", line, err)
	}
}

func TestCommand(t *testing.T) {
	clients := filepath.Join(t.TempDir(), "clients.json")
	if err := os.WriteFile(clients, []byte(`[{"ID":"hub","Secret":"s3cret","Tags":["tag:other"]}]`), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := command(t, "-domain", "demo.ts.net", "-oauth-clients-file", clients)
	var ready struct {
		URL string
		PID int
	}
	if begin(t, cmd, &ready); ready.PID != cmd.Process.Pid {
		t.Fatalf("its pid is %d, and it says %d", cmd.Process.Pid, ready.PID)
	}
	res, err := http.Post(ready.URL+"/console/keys", "application/json", strings.NewReader(`{"tags":["tag:other"]}`))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	var key tailnet.KeyResponse
	if err := json.NewDecoder(res.Body).Decode(&key); err != nil {
		t.Fatal(err)
	}
	node, err := tailnet.Node(t.Context(), tailnet.NodeOptions{
		Hostname: "node", AuthKey: key.Key, ControlURL: ready.URL, Dir: t.TempDir(),
	})
	if err != nil {
		t.Fatal(err)
	}
	if got := node.CertDomains(); len(got) != 0 {
		t.Errorf("certificates are offered for %v", got)
	}
	if err := node.Close(); err != nil {
		t.Error(err)
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("after SIGTERM: %v", err)
	}
}

func TestCommandRefusesBadFlags(t *testing.T) {
	tests := []struct {
		name string
		args []string
		want string
	}{
		{"bad-prefix", []string{"-vip-prefix", "x"}, "-vip-prefix"},
		{"missing-policy-file", []string{"-policy-file", "nowhere"}, "-policy-file"},
		{"missing-clients-file", []string{"-oauth-clients-file", "nowhere"}, "-oauth-clients-file"},
		{"argument", []string{"up"}, `unexpected argument "up"`},
		{"address-not-here", []string{"-addr", "192.0.2.1:80"}, "listen for nodes and admin API"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			cmd := command(t, tt.args...)
			stderr, err := cmd.StderrPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			message, err := io.ReadAll(stderr)
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Wait(); err == nil || !strings.Contains(string(message), tt.want) {
				t.Errorf("ended with %v, said %q; want failure and %q", err, message, tt.want)
			}
		})
	}
}
