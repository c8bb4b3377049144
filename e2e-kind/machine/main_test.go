package machine_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/tailgate-project/tailgate/e2e-kind/machine"
)

// roleEnv makes the test binary one of the programs that the tests start; its arguments are separated by spaces.
const roleEnv = "MACHINE_TEST_ROLE"

func TestMain(m *testing.M) {
	machine.Init()
	role := strings.Fields(os.Getenv(roleEnv))
	if len(role) == 0 {
		os.Exit(machine.RunIsolated(m.Run))
	}
	roles := map[string]func(args []string) error{
		"serve":   serve,
		"isolate": isolate,
		"fabric":  fabric,
		"trap":    trap,
		"accept":  accept,
		"denied":  denied,
		"orphan":  orphan,
	}
	if err := roles[role[0]](role[1:]); err != nil {
		fmt.Fprintln(os.Stderr, role[0], err)
		os.Exit(1)
	}
}

// self is the test binary in a role.
func self(t *testing.T, role ...string) (path string, env []string) {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return exe, []string{roleEnv + "=" + strings.Join(role, " ")}
}

// serve is a machine's program: it accepts on each address, says the host name and closes. It prints "up" when it does.
func serve(addrs []string) error {
	host, err := os.Hostname()
	if err != nil {
		return err
	}
	for _, addr := range addrs {
		l, err := net.Listen("tcp", addr)
		if err != nil {
			return err
		}
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				_, _ = fmt.Fprintf(c, "%s pid %d\n", host, os.Getpid())
				_ = c.Close()
			}
		}()
	}
	// What is local to the machine answers inside it.
	for _, addr := range addrs {
		c, err := net.DialTimeout("tcp", addr, time.Second)
		if err != nil {
			return err
		}
		_ = c.Close()
	}
	say("up", host)
	select {}
}

// isolate isolates itself with the rest of the arguments as the inner role, and hands on the exit status.
func isolate(inner []string) error {
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	exit, err := machine.Isolate(machine.IsolateOptions{
		Command: []string{exe},
		Env:     []string{roleEnv + "=" + strings.Join(inner, " ")},
		Files:   []*os.File{os.NewFile(3, "extra")},
	})
	if err != nil {
		return err
	}
	os.Exit(exit)
	return nil
}

// forever is the context of a program that has no test around it and ends when it is told to.
type forever struct{}

func (forever) Deadline() (time.Time, bool) { return time.Time{}, false }
func (forever) Done() <-chan struct{}       { return nil }
func (forever) Err() error                  { return nil }
func (forever) Value(any) any               { return nil }

// fabric boots a machine and waits for ever, until SIGINT.
func fabric([]string) error {
	f, err := machine.NewFabric(netip.Prefix{})
	if err != nil {
		return err
	}
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	interrupted := make(chan os.Signal, 1)
	signal.Notify(interrupted, os.Interrupt)
	if _, err := f.Boot(forever{}, machine.Spec{
		Name: "deep", IP: netip.MustParseAddr("10.200.0.2"),
		Command: []string{exe}, Env: []string{roleEnv + "=serve :80"}, Stdout: os.Stdout, Stderr: os.Stderr,
	}); err != nil {
		return err
	}
	<-interrupted
	say("interrupted")
	if err := f.Close(); err != nil {
		return err
	}
	os.Exit(42)
	return nil
}

// accept accepts once on the listener that is file 3, whose address does not answer in its own network.
func accept(addr []string) error {
	if c, err := net.DialTimeout("tcp", addr[0], time.Second); err == nil {
		_ = c.Close()
		return errors.New("the outer network is reached")
	}
	l, err := net.FileListener(os.NewFile(3, "listener"))
	if err != nil {
		return err
	}
	c, err := l.Accept()
	if err != nil {
		return err
	}
	return c.Close()
}

// denied isolates itself where the kernel lets nobody make a network namespace, as in a container with a strict profile.
func denied([]string) error {
	const network, returnError, allow = unix.CLONE_NEWNET, unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM), unix.SECCOMP_RET_ALLOW
	filter := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: 0}, // the system call's number
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.SYS_CLONE, Jf: 3},
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: 16}, // its first argument: flags
		{Code: unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K, K: network, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: returnError},
		{Code: unix.BPF_RET | unix.BPF_K, K: allow},
	}
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	_, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&program)))
	if errno != 0 {
		return errno
	}
	_, err := machine.Isolate(machine.IsolateOptions{})
	if !errors.Is(err, machine.ErrNoNamespaces) {
		return fmt.Errorf("isolate returned %w, want ErrNoNamespaces", err)
	}
	say(err)
	return nil
}

// trap ignores SIGTERM.
func trap([]string) error {
	signal.Ignore(syscall.SIGTERM)
	say("deaf")
	select {}
}

// orphan leaves a grandchild behind for process 1 to reap and exits with status 7 a moment after that is dead; it fails if
// the dead one is not reaped.
func orphan([]string) error {
	out, err := exec.Command("/bin/sh", "-c", "sleep 0.05 & echo $!").Output()
	if err != nil {
		return err
	}
	var pid int
	if _, err := fmt.Sscan(string(out), &pid); err != nil {
		return err
	}
	poll := time.NewTicker(20 * time.Millisecond)
	defer poll.Stop()
	for range 1500 { // half a minute, on the busiest machine
		if syscall.Kill(pid, 0) == syscall.ESRCH {
			os.Exit(7)
		}
		<-poll.C
	}
	return fmt.Errorf("process %d is still there", pid)
}

// lines starts a process with its output, and that of all its descendants, in a pipe. The pipe ends when all of them are
// gone.
func lines(t *testing.T, role ...string) (*exec.Cmd, *bufio.Scanner) {
	t.Helper()
	path, env := self(t, role...)
	cmd := exec.Command(path)
	cmd.Env = append(os.Environ(), env...)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	extra, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = extra.Close() }()
	cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = w, w, []*os.File{extra}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	_ = w.Close()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = r.Close()
	})
	return cmd, bufio.NewScanner(r)
}

func await(t *testing.T, s *bufio.Scanner, want string) {
	t.Helper()
	for s.Scan() {
		if s.Text() == want {
			return
		}
		t.Logf("output: %s", s.Text())
	}
	t.Fatalf("output ended without %q: %v", want, s.Err())
}

// hello reads what serve says.
func hello(t *testing.T, c net.Conn) string {
	t.Helper()
	defer func() { _ = c.Close() }()
	b, err := io.ReadAll(c)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(b))
}

// eventually polls a condition that another process makes true.
func eventually(t *testing.T, condition func() bool) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(2 * time.Minute)
	for !condition() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatal("the condition did not come true in 10 s")
		}
	}
}

func sorted(s []string) []string {
	s = slices.Clone(s)
	slices.Sort(s)
	return s
}

// say writes a line to the test that started this process; when that is gone nobody misses it.
func say(a ...any) { _, _ = fmt.Fprintln(os.Stdout, a...) }
