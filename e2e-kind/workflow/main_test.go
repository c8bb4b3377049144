package workflow_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/tailgate-project/tailgate/e2e-kind/lab"
	"github.com/tailgate-project/tailgate/e2e-kind/machine"
)

// programs are what the cluster runs.
var programs = map[string]string{"hub": "../../hub/cmd/hub", "spoke": "../../spoke/cmd/spoke", "envoy": "../standin/cmd/envoy", "webapp": "../webapp"}

// binEnv names the directory of the built programs to the inner process, which cannot build: it has no network.
const binEnv = "TAILGATE_WORKFLOW_BIN"

func TestMain(m *testing.M) {
	machine.Init()
	if len(os.Args) > 1 && os.Args[1] == lab.Subcommand {
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
		code := lab.Run(ctx, os.Stdout)
		stop()
		os.Exit(code)
	}
	os.Exit(run(m))
}

func run(m *testing.M) int {
	if machine.Isolated() {
		return m.Run()
	}
	bin, err := os.MkdirTemp("", "tailgate-workflow-")
	if err == nil {
		defer os.RemoveAll(bin)
		err = build(bin)
	}
	if err == nil {
		err = os.Setenv(binEnv, bin)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return machine.RunIsolated(m.Run)
}

func build(bin string) error {
	for name, pkg := range programs {
		out, err := exec.Command("go", "build", "-o", filepath.Join(bin, name), pkg).CombinedOutput()
		if err != nil {
			return fmt.Errorf("build %s: %w\n%s", name, err, out)
		}
	}
	return nil
}
