package bootstrap_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tailgate-project/tailgate/e2e-kind/standin/bootstrap"
)

func TestParseFlags(t *testing.T) {
	got, err := bootstrap.ParseFlags([]string{
		"--service-cluster", "default/eg", "--service-node=n1", "--config-yaml", "a: 1", "--config-yaml", "b: 2", "--log-level", "warn",
		"--cpuset-threads", "--drain-strategy", "immediate", "--concurrency", "2", "--component-log-level", "upstream:debug",
		"--drain-time-s", "60", "--standin-events", "/tmp/e", "--", "--run-id", "7",
	})
	if err != nil {
		t.Fatal(err)
	}
	want := &bootstrap.Flags{
		ServiceCluster: "default/eg", ServiceNode: "n1", ConfigYAML: []string{"a: 1", "b: 2"}, LogLevel: "warn", DrainTime: time.Minute,
		EventsPath: "/tmp/e", Mode: "serve", Ignored: []string{"--cpuset-threads", "--drain-strategy", "--concurrency", "--component-log-level"},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("flags (-want +got):\n%s", d)
	}
	for _, tt := range []struct {
		args []string
		want string
	}{
		{[]string{"--no-such"}, "unknown flag --no-such"},
		{[]string{"--service-node"}, "--service-node needs a value"},
		{[]string{"--drain-time-s", "x"}, "--drain-time-s"},
		{[]string{"--mode", "init_only"}, "--mode"},
	} {
		if _, err := bootstrap.ParseFlags(tt.args); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%v: error %v, want one with %q", tt.args, err, tt.want)
		}
	}
}

func TestLoad(t *testing.T) {
	file := filepath.Join(t.TempDir(), "b.yaml")
	if err := os.WriteFile(file, []byte("admin: {address: {socket_address: {address: 127.0.0.1, port_value: 19000}}}"), 0o600); err != nil {
		t.Fatal(err)
	}
	b, err := bootstrap.Load(&bootstrap.Flags{
		ConfigPath: file, ConfigYAML: []string{"node: {id: from-file, cluster: c}"}, ServiceNode: "n1", ServiceZone: "z",
	})
	if err != nil {
		t.Fatal(err)
	}
	got := []string{bootstrap.AdminAddress(b), b.GetNode().GetId(), b.GetNode().GetCluster(), b.GetNode().GetLocality().GetZone()}
	if d := cmp.Diff([]string{"127.0.0.1:19000", "n1", "c", "z"}, got); d != "" {
		t.Errorf("bootstrap (-want +got):\n%s", d)
	}
	for _, tt := range []struct{ name, yaml, want string }{
		{"unknown-field", "no_such: 1", "no_such"},
		{"unsupported-field", "hds_config: {}", "unsupported: envoy.config.bootstrap.v3.Bootstrap.hds_config"},
		{"no-identity", "{}", "--service-node"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := bootstrap.Load(&bootstrap.Flags{ConfigYAML: []string{tt.yaml}}); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want one with %q", err, tt.want)
			}
		})
	}
	if _, err := bootstrap.Load(&bootstrap.Flags{}); err == nil {
		t.Error("no configuration was accepted")
	}
}
