package kubelet_test

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tailgate-project/tailgate/e2e-kind/machine"
)

// roleEnv makes the test binary the program that the tests give out as Envoy.
const roleEnv = "KUBELET_TEST_ROLE"

func TestMain(m *testing.M) {
	machine.Init()
	if os.Getenv(roleEnv) == "" {
		os.Exit(machine.RunIsolated(m.Run))
	}
	if err := envoy(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// seen is what the program that stands for Envoy found when it was started.
type seen struct {
	PID      int
	Args     []string
	Files    []string
	XDSHosts []string
}

// envoy writes what it sees to its working directory and answers the readiness probe.
func envoy() error {
	s := seen{PID: os.Getpid(), Args: os.Args[1:]}
	for _, dir := range []string{"/certs", "/sds"} {
		entries, err := os.ReadDir(dir)
		if err != nil {
			return err
		}
		for _, e := range entries {
			s.Files = append(s.Files, dir+"/"+e.Name())
		}
	}
	slices.Sort(s.Files)
	var err error
	if s.XDSHosts, err = net.LookupHost("envoy-gateway.envoy-gateway-system.svc.cluster.local."); err != nil {
		return err
	}
	b, err := json.Marshal(s)
	if err != nil {
		return err
	}
	if err := os.WriteFile("seen.tmp", b, 0o600); err != nil {
		return err
	}
	if err := os.Rename("seen.tmp", "seen.json"); err != nil {
		return err
	}
	return http.ListenAndServe(":19003", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/ready" {
			http.NotFound(w, r)
		}
	}))
}

// eventually polls a condition; what it returned last is in the failure's message.
func eventually(t *testing.T, what string, condition func() (any, bool)) {
	t.Helper()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(60 * time.Second)
	for {
		got, ok := condition()
		if ok {
			return
		}
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("%s did not come in a minute, last: %s", what, strings.TrimSpace(fmt.Sprintf("%+v", got)))
		}
	}
}
