package machine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Process describes a process that a [Supervisor] starts.
type Process struct {
	// Name is what errors and logs call it; unique among the supervisor's running processes.
	Name string
	// Path is the program, looked up in PATH if it has no slash; Args are its arguments, without its own name.
	Path string
	Args []string
	// Env is the whole environment; nil means this process's.
	Env []string
	// Dir is the working directory; by default this process's.
	Dir string
	// LogFile gets standard output and error, appended; the directory must exist. Required: the reason of a failure is in
	// it.
	LogFile string
	// Binds gives the process a root directory of its own, which is the real one plus these: the key is the absolute path
	// where the process sees the file or directory that the value names. A key is either an entry of the root, which need
	// not exist ("/certs"), or exists ("/etc/hosts"). Needs the rights of root, which [Isolate] gives.
	Binds map[string]string
	// Ready tells, by nil, that the process does its work; Start polls it. Without it a process is ready when it runs.
	Ready func(ctx context.Context) error
	// ReadyTimeout bounds the wait for Ready; by default one minute.
	ReadyTimeout time.Duration
	// Restart starts the process again when it ends by itself, a quarter of a second later, then half a second, at most 5 s.
	Restart bool
	// StopTimeout is how long SIGTERM may take before SIGKILL; by default 5 s.
	StopTimeout time.Duration
}

const (
	defaultReadyTimeout = time.Minute
	defaultStopTimeout  = 5 * time.Second
	readyInterval       = 50 * time.Millisecond
	firstRestartDelay   = 250 * time.Millisecond
	maxRestartDelay     = 5 * time.Second
)

func (p *Process) complete() error {
	if p.Name == "" || p.Path == "" || p.LogFile == "" {
		return errors.New("a process needs a name, a path and a log file")
	}
	if err := checkBinds(p.Binds); err != nil {
		return err
	}
	path, err := exec.LookPath(p.Path)
	if err != nil {
		return err
	}
	p.Path = path
	if p.Env == nil {
		p.Env = os.Environ()
	}
	if p.Dir == "" {
		if p.Dir, err = os.Getwd(); err != nil {
			return err
		}
	}
	if p.ReadyTimeout == 0 {
		p.ReadyTimeout = defaultReadyTimeout
	}
	if p.StopTimeout == 0 {
		p.StopTimeout = defaultStopTimeout
	}
	return nil
}

// spawn starts the process once. What it started has been waited for when the returned function returns.
func (p *Process) spawn() (*exec.Cmd, error) {
	log, err := os.OpenFile(p.LogFile, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	defer func() { _ = log.Close() }()
	if len(p.Binds) == 0 {
		cmd := exec.Command(p.Path, p.Args...)
		cmd.Env, cmd.Dir, cmd.Stdout, cmd.Stderr = p.Env, p.Dir, log, log
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
		return cmd, start(cmd)
	}
	s := newShim()
	s.cmd.Stdout, s.cmd.Stderr = log, log
	s.cmd.SysProcAttr.Cloneflags = unix.CLONE_NEWNS
	if err := s.launch(roleRoot); err != nil {
		return nil, err
	}
	err = s.tell(rootConfig{
		Binds: p.Binds,
		Path:  p.Path,
		Args:  slices.Concat([]string{p.Path}, p.Args),
		Env:   p.Env,
		Dir:   p.Dir,
	})
	if err != nil {
		_ = s.cmd.Process.Kill()
		_ = s.cmd.Wait() // killed, and the reason is known
		return nil, err
	}
	return s.cmd, nil
}

const tailLines, tailBytes = 12, 4096

// logTail is the end of the process's log, for an error message.
func (p *Process) logTail() string {
	f, err := os.Open(p.LogFile)
	if err != nil {
		return err.Error()
	}
	defer func() { _ = f.Close() }()
	if end, err := f.Seek(0, io.SeekEnd); err != nil {
		return err.Error()
	} else if _, err := f.Seek(max(0, end-tailBytes), io.SeekStart); err != nil {
		return err.Error()
	}
	b, err := io.ReadAll(f)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	return strings.Join(lines[max(0, len(lines)-tailLines):], "\n")
}

// ended describes the end of the process for a reader who cannot see its log.
func (p *Process) ended(err error) error {
	how := "ended with status 0"
	if err != nil {
		how = err.Error()
	}
	return fmt.Errorf("%s: %s; the end of %s:\n%s", p.Name, how, p.LogFile, p.logTail())
}
