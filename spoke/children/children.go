// Package children runs a spoke's proxies as its own child processes, where there is no Kubernetes to run them as
// StatefulSets. They end with the spoke, in whatever way that ends.
package children

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/spoke"
)

// AuthKeyEnv is the environment variable that carries a proxy's auth key: arguments can be read by everybody.
const AuthKeyEnv = "TS_AUTHKEY"

const (
	restartMin = 200 * time.Millisecond
	restartMax = 10 * time.Second
	// settled is how long a proxy must have run for its next end to be an accident and not its state.
	settled = 10 * time.Second
	// nodeState is the file of a tailnet node that has an identity.
	nodeState = "tailscaled.state"
)

// Key is what a proxy needs to join the tailnet.
type Key struct {
	AuthKey, ControlURL string
	Tags                []string
}

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
	// Key asks for an auth key. It is asked for a proxy that has no identity yet, or that ended soon after its start.
	Key func(ctx context.Context, r spoke.Role, replica uint32) (Key, error)
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
	fresh := !c.joinedBefore()
	for pause := restartMin; ctx.Err() == nil; {
		began := time.Now()
		err := c.once(ctx, fresh)
		if ctx.Err() != nil {
			return nil
		}
		ran := time.Since(began)
		fresh = !c.joinedBefore() || ran < settled
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

func (c *child) joinedBefore() bool {
	_, err := os.Stat(filepath.Join(c.dir(), nodeState))
	return !errors.Is(err, fs.ErrNotExist)
}

// once runs the proxy until it ends.
func (c *child) once(ctx context.Context, fresh bool) error {
	key := Key{ControlURL: c.ControlURL}
	if fresh {
		k, err := c.Key(ctx, c.role, c.replica)
		if err != nil && !c.joinedBefore() {
			return err
		}
		if err == nil {
			key = k
		}
	}
	cmd := c.command(ctx, key)
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start the proxy: %w", err)
	}
	c.Log.Info("started a proxy", "role", string(c.role), "replica", c.replica, "pid", cmd.Process.Pid)
	return cmd.Wait()
}

func (c *child) command(ctx context.Context, key Key) *exec.Cmd {
	args := []string{
		"proxy", "--role", string(c.role), "--replica", strconv.FormatUint(uint64(c.replica), 10), "--socket", c.Socket,
		"--state-dir", c.dir(), "--hostname", fmt.Sprintf("tailgate-%s-%s-%d", c.role, c.Cluster, c.replica), "--log-level", c.LogLevel, "--drain-timeout", c.DrainTimeout.String(),
	}
	if key.ControlURL == "" {
		key.ControlURL = c.ControlURL
	}
	if key.ControlURL != "" {
		args = append(args, "--control-url", key.ControlURL)
	}
	if len(key.Tags) > 0 {
		args = append(args, "--tags", strings.Join(key.Tags, ","))
	}
	cmd := exec.CommandContext(ctx, c.Executable, args...)
	for _, e := range os.Environ() { // the spoke's own key is not for its proxies
		if name, _, _ := strings.Cut(e, "="); name != AuthKeyEnv && name != "TAILGATE_JOIN_KEY" {
			cmd.Env = append(cmd.Env, e)
		}
	}
	if key.AuthKey != "" {
		cmd.Env = append(cmd.Env, AuthKeyEnv+"="+key.AuthKey)
	}
	cmd.Stdout, cmd.Stderr = c.Output, c.Output
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = c.Grace
	return cmd
}
