package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"time"
)

// pollInterval is short against everything that the lab waits for.
const pollInterval = 50 * time.Millisecond

// poll calls f until it succeeds. When ctx ends first, the error is the last one of f.
func poll(ctx context.Context, f func(context.Context) error) error {
	ticker := time.NewTicker(pollInterval)
	defer ticker.Stop()
	for {
		err := f(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w (last: %w)", ctx.Err(), err)
		case <-ticker.C:
		}
	}
}

func dial(ctx context.Context, to netip.AddrPort) error {
	c, err := new(net.Dialer).DialContext(ctx, "tcp", to.String())
	if err != nil {
		return err
	}
	return c.Close()
}

// environ is this process's environment without the machine's config, which has a key in it, and with more.
func environ(more ...string) []string {
	var out []string
	for _, e := range os.Environ() {
		if !strings.HasPrefix(e, configEnv+"=") {
			out = append(out, e)
		}
	}
	return append(out, more...)
}

// stderr is what a command printed before it failed.
func stderr(err error) string {
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return strings.TrimSpace(string(exit.Stderr))
	}
	return ""
}
