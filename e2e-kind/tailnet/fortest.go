package tailnet

import (
	"context"
	"testing"
)

// ForTest runs a tailnet until the test's end. Nodes that the test starts after it are closed before it ends.
func ForTest(t testing.TB, opts Options) *Tailnet {
	t.Helper()
	tn, err := New(opts)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	ended := make(chan error, 1)
	go func() { ended <- tn.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Errorf("tailnet ended: %v", err)
		}
	})
	<-tn.Ready()
	return tn
}
