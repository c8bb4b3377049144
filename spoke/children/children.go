// Package children runs a spoke's proxies as its own child processes, where there is no Kubernetes to run them as
// StatefulSets. They end with the spoke, in whatever way that ends.
package children

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/spoke"
)

// secrets are the environment variables that may carry a key of the spoke's own. It is not for its proxies, which ask for
// theirs.
var secrets = []string{"TS_AUTHKEY", "TS_AUTH_KEY", "TAILGATE_JOIN_KEY"}

const (
	restartMin = 200 * time.Millisecond
	restartMax = 10 * time.Second
	// settled is how long a proxy must have run for its next end to be an accident and not its state.
	settled = 10 * time.Second
)

// Options are what the proxies need.
type Options struct {
	// Executable is the spoke's own program.
	Executable string
	Cluster    federation.ClusterID
	// IngressReplicas and EgressReplicas are how many of each there are.
	IngressReplicas, EgressReplicas int
	// StateDir is where each proxy gets a directory of its own.
	StateDir string
	Socket   string
	// ControlURL is for a proxy that joined before; a key brings its own.
	ControlURL string
	// DrainTimeout is how long a proxy may drain, Grace when it is killed.
	DrainTimeout, Grace time.Duration
	LogLevel            string
	// Output takes what the proxies write.
	Output io.Writer
	Log    *slog.Logger
}

// Run runs the proxies until ctx ends, restarts those that end, and returns when all have ended.
func Run(ctx context.Context, o Options) error {
	g, ctx := errgroup.WithContext(ctx)
	for role, replicas := range map[spoke.Role]int{spoke.Ingress: o.IngressReplicas, spoke.Egress: o.EgressReplicas} {
		for i := range replicas {
			c := &child{Options: o, role: role, replica: uint32(i)}
			g.Go(func() error { return c.run(ctx) })
		}
	}
	return g.Wait()
}

type child struct {
	Options
	role    spoke.Role
	replica uint32
}

func (c *child) dir() string {
	return filepath.Join(c.StateDir, fmt.Sprintf("%s-%d", c.role, c.replica))
}

// run starts the proxy, and again with growing pauses.
func (c *child) run(ctx context.Context) error {
	// The kernel sends the parent-death signal when the thread that started the child ends, so this one must not.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	for pause := restartMin; ctx.Err() == nil; {
		began := time.Now()
		err := c.once(ctx)
		if ctx.Err() != nil {
			return nil
		}
		ran := time.Since(began)
		if ran >= settled {
			pause = restartMin
		}
		c.Log.Warn("a proxy ended and is started again", "role", string(c.role), "replica", c.replica, "ran", ran, "pause", pause, "err", err)
		timer := time.NewTimer(pause)
		select {
		case <-ctx.Done():
		case <-timer.C:
		}
		timer.Stop()
		pause = min(2*pause, restartMax)
	}
	return nil
}

// once runs the proxy until it ends.
func (c *child) once(ctx context.Context) error {
	cmd := c.command(ctx)
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start the proxy: %w", err)
	}
	c.Log.Info("started a proxy", "role", string(c.role), "replica", c.replica, "pid", cmd.Process.Pid)
	return cmd.Wait()
}

func (c *child) command(ctx context.Context) *exec.Cmd {
	args := []string{
		"proxy", "--role", string(c.role), "--replica", strconv.FormatUint(uint64(c.replica), 10), "--socket", c.Socket,
		"--state-dir", c.dir(), "--hostname", fmt.Sprintf("tailgate-%s-%s-%d", c.role, c.Cluster, c.replica), "--log-level", c.LogLevel, "--drain-timeout", c.DrainTimeout.String(),
	}
	if c.ControlURL != "" {
		args = append(args, "--control-url", c.ControlURL)
	}
	cmd := exec.CommandContext(ctx, c.Executable, args...)
	for _, e := range os.Environ() {
		if name, _, _ := strings.Cut(e, "="); !slices.Contains(secrets, name) {
			cmd.Env = append(cmd.Env, e)
		}
	}
	cmd.Stdout, cmd.Stderr = c.Output, c.Output
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = c.Grace
	return cmd
}
