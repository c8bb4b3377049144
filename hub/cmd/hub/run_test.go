package main

import (
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const kubeconfig = `
apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: "https://127.0.0.1:1"}}]
contexts: [{name: c, context: {cluster: c, user: u}}]
current-context: c
users: [{name: u, user: {}}]
`

// TestRunRefuses starts hubs that cannot run: each must say why, and what to do.
func TestRunRefuses(t *testing.T) {
	busy, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	for name, tc := range map[string]struct {
		spoil func(t *testing.T, o *options)
		want  []string
	}{
		"port-in-use": {
			func(_ *testing.T, o *options) { o.statusAddr = busy.Addr().String() },
			[]string{"--status-addr", "address already in use", "name another address"},
		},
		"operators-from-anywhere": {
			func(_ *testing.T, o *options) { o.operatorAddr = "0.0.0.0:9471" },
			[]string{"--operator-addr", "loopback", "--web-port"},
		},
		"operators-port-in-use": {
			func(_ *testing.T, o *options) { o.operatorAddr = busy.Addr().String() },
			[]string{"--operator-addr", "address already in use", "name another address"},
		},
		"unreadable-store": {
			func(t *testing.T, o *options) { write(t, o.storeFile(), "no database") },
			[]string{"hub.db", "not changed", "restore a backup"},
		},
		"no-kubeconfig": {
			func(_ *testing.T, o *options) { o.kubeconfig = filepath.Join(o.stateDir, "nowhere") },
			[]string{"management cluster", "--kubeconfig"},
		},
		"no-key-file": {
			func(_ *testing.T, o *options) { o.joinKeyFile = filepath.Join(o.stateDir, "nowhere") },
			[]string{"--join-key-file", "there is no such file"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			o := options{stateDir: dir, statusAddr: "127.0.0.1:0", operatorAddr: "127.0.0.1:0", kubeconfig: filepath.Join(dir, "kubeconfig"), tailnet: "production"}
			write(t, o.kubeconfig, kubeconfig)
			tc.spoil(t, &o)
			err := run(t.Context(), o, slog.New(slog.DiscardHandler))
			for _, want := range tc.want {
				if err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("error %v, want %q in it", err, want)
				}
			}
		})
	}
	t.Run("unknown-log-level", func(t *testing.T) {
		if _, err := logger("loud"); err == nil || !strings.Contains(err.Error(), "debug, info, warn or error") {
			t.Errorf("logger: %v", err)
		}
	})
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}
