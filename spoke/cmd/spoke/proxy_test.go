package main

import (
	"strings"
	"testing"
)

func TestReplicaOfAPod(t *testing.T) {
	for name, tc := range map[string]struct {
		given int
		pod   string
		want  uint32
		says  string
	}{
		"given":              {given: 4, pod: "tailgate-egress-acme-2", want: 4},
		"of-the-pod":         {given: -1, pod: "tailgate-egress-acme-12", want: 12},
		"no-pod":             {given: -1, want: 0},
		"pod-of-another-set": {given: -1, pod: "tailgate-egress-7d9fc-x2b", says: "-ORDINAL"},
		"ordinal-too-large":  {given: -1, pod: "a-99999999999", says: "-ORDINAL"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := replica(tc.given, tc.pod)
			if got != tc.want || (err == nil) != (tc.says == "") || err != nil && !strings.Contains(err.Error(), tc.says) {
				t.Errorf("got %d, %v", got, err)
			}
		})
	}
}

func TestBadProxyFlagsSayWhatToDo(t *testing.T) {
	t.Setenv(podNamespaceEnv, "")
	for name, tc := range map[string]struct {
		args []string
		says string
	}{
		"no-role":         {[]string{"--socket", "s"}, "use ingress or egress"},
		"no-spoke":        {[]string{"--role", "egress"}, "either the path of the spoke's socket or"},
		"no-certificates": {[]string{"--role", "egress", "--spoke", "spoke:5007"}, "no directory with certificates"},
		"empty-directory": {[]string{"--role", "egress", "--spoke", "spoke:5007", "--tls-dir", t.TempDir()}, "--tls-dir: read the proxy's certificate"},
		"bad-address":     {[]string{"--role", "egress", "--socket", "s", "--listen-addr", "here"}, "--listen-addr"},
		"no-namespace":    {[]string{"--role", "egress", "--socket", "s", "--state-secret", "egress-0"}, "$POD_NAMESPACE"},
	} {
		t.Run(name, func(t *testing.T) {
			cmd := newProxy()
			cmd.SetArgs(tc.args)
			cmd.SilenceUsage, cmd.SilenceErrors = true, true
			if err := cmd.ExecuteContext(t.Context()); err == nil || !strings.Contains(err.Error(), tc.says) {
				t.Errorf("got %v, want %q", err, tc.says)
			}
		})
	}
}
