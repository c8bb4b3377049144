// Package envoygateway_test runs the extension server below the real Envoy Gateway, against a real API server, and reads
// the outcome as an Envoy does: by the delta xDS protocol.
package envoygateway_test

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"testing"

	"github.com/go-logr/logr"
	ctrl "sigs.k8s.io/controller-runtime"

	"github.com/tailgate-project/tailgate/e2e-kind/machine"
)

// Envoy Gateway listens on fixed ports of all addresses, so the tests have a network of their own.
func TestMain(m *testing.M) {
	machine.Init()
	if file, ok := os.LookupEnv(hooksFile); ok {
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
		err := runHooks(ctx, file)
		stop()
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	ctrl.SetLogger(logr.Discard())
	os.Exit(machine.RunIsolated(m.Run))
}
