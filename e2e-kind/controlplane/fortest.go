package controlplane

import (
	"fmt"
	"net"
	"testing"

	"github.com/tailgate-project/tailgate/e2e-kind/assets"
)

// startAttempts are more than one because a free port may be taken by another test before etcd or the API server has it.
const startAttempts = 3

// ForTest starts a control plane of the test's own on free ports of 127.0.0.1 and ends it with the test. Where the programs
// are missing the test fails. Its processes die with the test binary, in whatever way that ends.
func ForTest(t testing.TB) *ControlPlane {
	t.Helper()
	found, err := assets.FindControlPlane(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var failed error
	for range startAttempts {
		o := Options{Dir: t.TempDir(), Assets: found}
		if err := freePorts(&o.APIServerPort, &o.EtcdPort, &o.EtcdPeerPort); err != nil {
			t.Fatal(err)
		}
		c, err := Start(t.Context(), o)
		if err == nil {
			// The data goes with the directory, so nothing has to be put in order first.
			t.Cleanup(func() {
				if err := c.Kill(); err != nil {
					t.Error(err)
				}
			})
			return c
		}
		failed = err
	}
	t.Fatal(failed)
	return nil
}

// freePorts sets each to a port that is free on 127.0.0.1 at this moment.
func freePorts(ports ...*uint16) error {
	for _, port := range ports {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return fmt.Errorf("find a free port: %w", err)
		}
		defer func() { _ = l.Close() }() // after all are found, so that they differ
		*port = l.Addr().(*net.TCPAddr).AddrPort().Port()
	}
	return nil
}
