package proxy_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"testing"

	"github.com/tailgate-project/tailgate/e2e-kind/netns"
	"github.com/tailgate-project/tailgate/spoke/proxy"
)

// childOptions is the environment variable that makes the test binary a proxy process.
const childOptions = "PROXY_TEST_OPTIONS"

func TestMain(m *testing.M) {
	netns.Enter()
	if options := os.Getenv(childOptions); options != "" {
		os.Exit(child(options))
	}
	os.Exit(netns.RunTests(m))
}

func child(options string) int {
	var o proxy.Options
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	err := json.Unmarshal([]byte(options), &o)
	if err == nil {
		err = proxy.Run(ctx, o)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}
