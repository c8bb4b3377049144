package machine

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"syscall"

	"golang.org/x/sys/unix"
)

// ErrNoNamespaces says that this user may not make namespaces on this machine.
var ErrNoNamespaces = errors.New(`this needs Linux namespaces, which this user may not make here. Any one of these helps:
  run it as root;
  Ubuntu 23.10 and newer: sysctl kernel.apparmor_restrict_unprivileged_userns=0;
  Debian 10 and older: sysctl kernel.unprivileged_userns_clone=1;
  where user.max_user_namespaces is 0: sysctl user.max_user_namespaces=10000;
  in a container: start the container with --privileged`)

// Isolated tells whether this program runs in the namespaces that [Isolate] made.
func Isolated() bool { return os.Getenv(insideEnv) != "" }

// IsolateOptions says what the program gets in its namespaces.
type IsolateOptions struct {
	// Command is the program and its arguments; by default this very one with the arguments it has.
	Command []string
	// Env is added to this process's environment.
	Env []string
	// Files are open in the program as file descriptors 3 and up. Sockets among them stay in the network they were made in,
	// so that a listener passed in here relays from the outside.
	Files []*os.File
}

// Isolate runs the program in new network, process, mount and host-name namespaces (and, for anyone but root, a user
// namespace in which it is root), where of the network only lo is up, and waits for its end. SIGINT, SIGTERM and their like
// go on to it. It returns the exit status, 128 and the signal's number where a signal ended it. When the program ends, or
// this process dies in whatever way, all descendants are killed.
//
// The error wraps [ErrNoNamespaces] where namespaces are not to be had.
func Isolate(o IsolateOptions) (exit int, err error) {
	if len(o.Command) == 0 {
		exe, err := os.Executable()
		if err != nil {
			return 0, fmt.Errorf("find this program: %w", err)
		}
		o.Command = append([]string{exe}, os.Args[1:]...)
	}
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, forwarded...)
	defer signal.Stop(signals)

	s, err := launchIsolated(o.Files)
	if err != nil {
		return 0, err
	}
	dir, err := os.Getwd()
	if err == nil {
		err = s.tell(initConfig{
			Command: o.Command,
			Env:     append(append(os.Environ(), o.Env...), insideEnv+"=1"),
			Dir:     dir,
		})
	} else {
		s.drop()
	}
	done := make(chan error, 1)
	go func() { done <- s.cmd.Wait() }()
	if err != nil {
		<-done
		if errors.Is(err, os.ErrPermission) || s.mayNot(err) {
			return 0, fmt.Errorf("%w\n(%w)", ErrNoNamespaces, err)
		}
		return 0, fmt.Errorf("isolate: %w", err)
	}
	for {
		select {
		case sig := <-signals:
			// It fails only when the process is gone, and then done is next.
			_ = s.cmd.Process.Signal(sig)
		case err := <-done:
			return exitStatus(err)
		}
	}
}

// mayNot tells whether the shim complained of a missing permission: Ubuntu lets anyone make a user namespace and then denies
// every capability in it. The complaint comes over a pipe as text.
func (s *shim) mayNot(complaint error) bool {
	text := complaint.Error()
	for _, e := range []error{unix.EPERM, unix.EACCES} {
		if tail := e.Error(); len(text) >= len(tail) && text[len(text)-len(tail):] == tail {
			return true
		}
	}
	return false
}

const machineNamespaces = unix.CLONE_NEWNET | unix.CLONE_NEWPID | unix.CLONE_NEWNS | unix.CLONE_NEWUTS

// launchIsolated starts the shim in its new namespaces. Root does without a user namespace, unless it is a root that may not
// make the others, as in some containers.
func launchIsolated(files []*os.File) (*shim, error) {
	attempts := []uintptr{machineNamespaces, machineNamespaces | unix.CLONE_NEWUSER}
	if os.Geteuid() != 0 {
		attempts = attempts[1:]
	}
	var errs []error
	for _, flags := range attempts {
		s := newShim()
		s.cmd.Stdin, s.cmd.Stdout, s.cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
		s.cmd.ExtraFiles = append(s.cmd.ExtraFiles, files...)
		s.cmd.SysProcAttr.Cloneflags = flags
		if flags&unix.CLONE_NEWUSER != 0 {
			s.cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{HostID: os.Geteuid(), Size: 1}}
			s.cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getegid(), Size: 1}}
		}
		err := s.launch(roleInit)
		if err == nil {
			return s, nil
		}
		errs = append(errs, err)
	}
	return nil, fmt.Errorf("%w\n(%w)", ErrNoNamespaces, errors.Join(errs...))
}

// exitStatus turns what exec.Cmd.Wait returned into an exit status as a shell tells it.
func exitStatus(err error) (int, error) {
	failed, ok := errors.AsType[*exec.ExitError](err)
	switch {
	case err == nil:
		return 0, nil
	case !ok:
		return 0, fmt.Errorf("wait for the isolated program: %w", err)
	}
	if ws, ok := failed.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		return 128 + int(ws.Signal()), nil
	}
	return failed.ExitCode(), nil
}

// RunIsolated is the whole main function of a program that lives in namespaces of its own, and of a TestMain:
//
//	func TestMain(m *testing.M) { os.Exit(machine.RunIsolated(m.Run)) }
//
// It handles the package's shims, isolates the program unless it is already, and runs run in there. The result is the exit
// status; what keeps it from isolating goes to standard error.
func RunIsolated(run func() int) int {
	Init()
	if Isolated() {
		return run()
	}
	exit, err := Isolate(IsolateOptions{})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return exit
}
