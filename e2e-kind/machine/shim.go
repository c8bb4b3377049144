package machine

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

const (
	// shimEnv marks a process that is one of this package's shims; its value is "<role>:<fd>". From fd the shim reads what
	// it has to do, to fd+1 it writes why it could not.
	shimEnv = "TAILGATE_MACHINE_SHIM"
	// insideEnv marks what runs in the namespaces that Isolate made.
	insideEnv = "TAILGATE_MACHINE_INSIDE"

	roleInit = "init" // process 1 of new namespaces, see runInit
	roleRoot = "root" // a process about to get a root of its own, see runRoot
)

// selfExe is this very program, also where its file was replaced or removed meanwhile.
const selfExe = "/proc/self/exe"

// Init turns this process into one of the package's shims if it was started as one, and then never returns. Otherwise it
// returns at once. It must run before anything else in main, flag parsing included; [RunIsolated] calls it.
func Init() {
	mark, ok := os.LookupEnv(shimEnv)
	if !ok {
		return
	}
	role, number, _ := strings.Cut(mark, ":")
	fd, err := strconv.Atoi(number)
	if err == nil {
		err = os.Unsetenv(shimEnv)
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "machine: %s is %q: only this program's own children have it\n", shimEnv, mark)
		os.Exit(1)
	}
	// Only the shim itself may hold these: the other ends wait for them to be closed.
	unix.CloseOnExec(fd)
	unix.CloseOnExec(fd + 1)
	config, status := os.NewFile(uintptr(fd), "config"), os.NewFile(uintptr(fd+1), "status")
	switch role {
	case roleInit:
		err = runInit(config, status, fd)
	case roleRoot:
		err = runRoot(config)
	default:
		err = fmt.Errorf("unknown role %q", role)
	}
	_, _ = fmt.Fprint(status, err) // to a parent that is gone nothing can be told
	os.Exit(1)
}

// initConfig is what process 1 of a machine, or of an isolated program, is told.
type initConfig struct {
	Hostname string
	Command  []string
	Env      []string
	Dir      string
	Network  networkConfig
}

// runInit is process 1 of new namespaces: it configures the network, starts the one command, passes signals on to it, reaps
// what nobody waits for and ends with the command's exit status, which ends everything else in the namespaces. It returns
// only if the command could not be started.
func runInit(config, status *os.File, fd int) error {
	var c initConfig
	if err := readConfig(config, &c); err != nil {
		return err
	}
	// Mounts made in here must not spread to the host.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if c.Hostname != "" {
		if err := unix.Sethostname([]byte(c.Hostname)); err != nil {
			return fmt.Errorf("set host name: %w", err)
		}
	}
	if err := c.Network.apply(); err != nil {
		return err
	}
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, forwarded...)

	path, err := exec.LookPath(c.Command[0])
	if err != nil {
		return fmt.Errorf("start %s: %w", c.Command[0], err)
	}
	// The files that the caller passed on sit between the standard ones and the shim's own.
	files := []*os.File{os.Stdin, os.Stdout, os.Stderr}
	for i := len(files); i < fd; i++ {
		files = append(files, os.NewFile(uintptr(i), "extra"))
	}
	child, err := os.StartProcess(path, c.Command, &os.ProcAttr{Dir: c.Dir, Env: lastWins(c.Env), Files: files})
	if err != nil {
		return fmt.Errorf("start %s: %w", c.Command[0], err)
	}
	if err := status.Close(); err != nil {
		return fmt.Errorf("report the start: %w", err)
	}
	go func() {
		for s := range signals {
			// It fails only when the child is gone, and then reap ends this process.
			_ = child.Signal(s)
		}
	}()
	os.Exit(reap(child.Pid))
	return nil
}

// forwarded are the signals that reach the program behind a shim.
var forwarded = []os.Signal{unix.SIGINT, unix.SIGTERM, unix.SIGHUP, unix.SIGQUIT, unix.SIGUSR1, unix.SIGUSR2}

// reap waits for every child, its own and adopted ones, until the one with the given id ends, and returns its exit status as
// a shell would tell it.
func reap(pid int) int {
	for {
		var status unix.WaitStatus
		ended, err := unix.Wait4(-1, &status, 0, nil)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			fmt.Fprintf(os.Stderr, "machine: wait for children: %v\n", err)
			return 1
		case ended == pid && status.Signaled():
			return 128 + int(status.Signal())
		case ended == pid && status.Exited():
			return status.ExitStatus()
		}
	}
}

// shim is a child of this program that runs one of the roles.
type shim struct {
	cmd    *exec.Cmd
	config *os.File
	status *os.File
}

// newShim prepares a shim: the caller sets the streams, extra files and namespaces of cmd, then calls launch and tell.
func newShim() *shim {
	cmd := exec.Command(selfExe)
	// The new process group keeps a terminal's Ctrl-C to the outermost process, which passes it on in its own order.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	return &shim{cmd: cmd}
}

// launch starts the process. It does nothing until tell.
func (s *shim) launch(role string) error {
	configRead, configWrite, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("make pipe: %w", err)
	}
	defer func() { _ = configRead.Close() }()
	statusRead, statusWrite, err := os.Pipe()
	if err != nil {
		_ = configWrite.Close()
		return fmt.Errorf("make pipe: %w", err)
	}
	defer func() { _ = statusWrite.Close() }()
	s.cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%s:%d", shimEnv, role, 3+len(s.cmd.ExtraFiles)))
	s.cmd.ExtraFiles = append(s.cmd.ExtraFiles, configRead, statusWrite)
	if err := start(s.cmd); err != nil {
		_ = configWrite.Close()
		_ = statusRead.Close()
		return err
	}
	s.config, s.status = configWrite, statusRead
	return nil
}

// tell hands the shim its task and waits until the command runs. After an error the shim has ended or is about to; waiting
// for it is the caller's.
func (s *shim) tell(config any) error {
	err := json.NewEncoder(s.config).Encode(config)
	if cerr := s.config.Close(); err == nil {
		err = cerr
	}
	complaint, rerr := io.ReadAll(s.status)
	_ = s.status.Close()
	switch {
	case len(complaint) > 0:
		return errors.New(string(complaint))
	case err != nil:
		return fmt.Errorf("tell the new process its task: %w", err)
	case rerr != nil:
		return fmt.Errorf("hear of the new process: %w", rerr)
	}
	return nil
}

// drop gives up a shim that was launched but not told.
func (s *shim) drop() {
	_ = s.config.Close()
	_ = s.status.Close()
}

func readConfig(r io.Reader, into any) error {
	if err := json.NewDecoder(r).Decode(into); err != nil {
		return fmt.Errorf("read the task: %w", err)
	}
	return nil
}

// lastWins drops all but the last setting of each variable, as exec.Cmd does: a Go program would see the first.
func lastWins(env []string) []string { return (&exec.Cmd{Env: env}).Environ() }
