package machine_test

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/tailgate-project/tailgate/e2e-kind/machine"
)

func newFabric(t *testing.T) *machine.Fabric {
	t.Helper()
	f, err := machine.NewFabric(netip.Prefix{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	})
	return f
}

// boot boots a machine that serves and waits until it does.
func boot(t *testing.T, f *machine.Fabric, name, ip string, addrs ...string) *machine.Machine {
	t.Helper()
	path, env := self(t, append([]string{"serve"}, addrs...)...)
	r, w := io.Pipe()
	m, err := f.Boot(t.Context(), machine.Spec{
		Name: name, IP: netip.MustParseAddr(ip), LocalPrefixes: []netip.Prefix{netip.MustParsePrefix("10.244.7.0/24")},
		Command: []string{path}, Env: env, Stdout: w, Stderr: w,
	})
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		<-m.Off()
		_ = w.Close()
	}()
	s := bufio.NewScanner(r)
	await(t, s, "up "+name)
	go func() {
		for s.Scan() {
			t.Log(s.Text())
		}
	}()
	return m
}

func TestMachineLosesPowerAndComesBack(t *testing.T) {
	f := newFabric(t)
	// serve itself dials what it listens on: the pod address is reachable inside.
	one := boot(t, f, "one", "10.200.0.11", "10.200.0.11:80", "10.244.7.3:8080", "127.0.0.1:81")
	two := boot(t, f, "two", "10.200.0.12", "0.0.0.0:80", "10.244.7.3:8080")

	for _, m := range []*machine.Machine{one, two} {
		c, err := m.Dial(t.Context(), 80)
		if err != nil {
			t.Fatal(err)
		}
		// The init is process 1 of the machine, its program process 2 or a little more.
		if got := hello(t, c); !strings.HasPrefix(got, m.Name()+" pid ") {
			t.Errorf("%s says %q", m.Name(), got)
		}
	}
	if c, err := one.Dial(t.Context(), 81); err == nil {
		_ = c.Close()
		t.Error("a loopback listener of the machine is reached from outside")
	}

	_, err := f.Boot(t.Context(), machine.Spec{Name: "three", IP: one.IP(), Command: []string{"/bin/true"}})
	if err == nil || !strings.Contains(err.Error(), "machine one with address 10.200.0.11 runs already") {
		t.Errorf("boot on a taken address: %v", err)
	}

	// A connection that is open when the power goes hears nothing: no FIN, no RST.
	open, err := one.Dial(t.Context(), 80)
	if err != nil {
		t.Fatal(err)
	}
	_ = hello(t, open)
	if err := one.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := one.Wait(t.Context()); err == nil || !strings.Contains(err.Error(), "killed") {
		t.Errorf("a killed machine ended with %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 400*time.Millisecond)
	defer cancel()
	if _, err := one.Dial(ctx, 80); err == nil {
		t.Fatal("a dead machine answers")
	} else if ne, ok := errors.AsType[net.Error](err); !strings.Contains(err.Error(), "no route") && (!ok || !ne.Timeout()) {
		t.Errorf("a dead machine is felt as %v, want a timeout or no route", err)
	}

	one = boot(t, f, "one", "10.200.0.11", ":80")
	c, err := one.Dial(t.Context(), 80)
	if err != nil {
		t.Fatal(err)
	}
	if got := hello(t, c); !strings.HasPrefix(got, "one pid ") {
		t.Errorf("booted again it says %q", got)
	}
}

func TestKillIsSilent(t *testing.T) {
	f := newFabric(t)
	l, err := net.Listen("tcp", net.JoinHostPort(f.Addr().String(), "0"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	m, err := f.Boot(t.Context(), machine.Spec{
		Name: "client", IP: netip.MustParseAddr("10.200.0.13"),
		Command: []string{"/bin/bash", "-c", "exec 3<>/dev/tcp/" + strings.Replace(l.Addr().String(), ":", "/", 1) + "; echo hi >&3; sleep 1000"},
		Stderr:  os.Stderr,
	})
	if err != nil {
		t.Fatal(err)
	}
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	b := make([]byte, 3)
	if _, err := io.ReadFull(c, b); err != nil {
		t.Fatal(err)
	}
	if err := m.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := c.SetReadDeadline(time.Now().Add(200 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Read(b); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the peer of a machine without power reads %v, want to hear nothing", err)
	}
}

func TestMachineEndsWithItsProgram(t *testing.T) {
	f := newFabric(t)
	path, env := self(t, "orphan")
	m, err := f.Boot(t.Context(), machine.Spec{
		Name: "brief", IP: netip.MustParseAddr("10.200.0.14"), Command: []string{path}, Env: env, Stderr: os.Stderr,
	})
	if err != nil {
		t.Fatal(err)
	}
	failed, ok := errors.AsType[*exec.ExitError](m.Wait(t.Context()))
	if !ok || failed.ExitCode() != 7 {
		t.Errorf("machine ended with %v, want its program's status 7", failed)
	}
	if err := m.Kill(); err != nil {
		t.Errorf("kill a machine that is off: %v", err)
	}
}

func TestStop(t *testing.T) {
	f := newFabric(t)
	m := boot(t, f, "polite", "10.200.0.15", ":80")
	if err := m.Stop(t.Context()); err != nil {
		t.Errorf("stop: %v", err)
	}

	path, env := self(t, "trap")
	out, w := io.Pipe()
	deaf, err := f.Boot(t.Context(), machine.Spec{
		Name: "deaf", IP: netip.MustParseAddr("10.200.0.15"), Command: []string{path}, Env: env, Stdout: w,
	})
	if err != nil {
		t.Fatal(err)
	}
	await(t, bufio.NewScanner(out), "deaf")
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := deaf.Stop(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("stop of a deaf machine: %v, want that it was killed", err)
	}
	<-deaf.Off()
}

func TestBootRefuses(t *testing.T) {
	f := newFabric(t)
	tests := map[string]struct {
		spec machine.Spec
		want string
	}{
		"no-command":      {machine.Spec{Name: "a", IP: netip.MustParseAddr("10.200.0.9")}, "needs a name and a command"},
		"foreign-address": {machine.Spec{Name: "a", IP: netip.MustParseAddr("10.201.0.9"), Command: []string{"/bin/true"}}, "10.201.0.9 is not a machine's on 10.200.0.1/24"},
		"no-such-program": {machine.Spec{Name: "a", IP: netip.MustParseAddr("10.200.0.9"), Command: []string{"/nowhere/x"}}, "start /nowhere/x"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := f.Boot(t.Context(), test.spec)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %q in it", err, test.want)
			}
		})
	}
}

func TestBootGivesUp(t *testing.T) {
	f := newFabric(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	spec := machine.Spec{Name: "late", IP: netip.MustParseAddr("10.200.0.16"), Command: []string{"/bin/sleep", "1000"}}
	if _, err := f.Boot(ctx, spec); !errors.Is(err, context.Canceled) {
		t.Errorf("boot without time: %v", err)
	}
	// Its name and address are free again.
	spec.Command = []string{"/bin/true"}
	m, err := f.Boot(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Wait(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestEverythingEndsWithTheParent(t *testing.T) {
	cmd, out := lines(t, "isolate", "fabric")
	await(t, out, "up deep")
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	for out.Scan() {
		t.Logf("output: %s", out.Text())
	}
	if err := out.Err(); err != nil {
		t.Error(err)
	}
}

func TestInterruptGoesIn(t *testing.T) {
	cmd, out := lines(t, "isolate", "fabric")
	await(t, out, "up deep")
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	await(t, out, "interrupted")
	for out.Scan() {
		t.Logf("output: %s", out.Text())
	}
	failed, ok := errors.AsType[*exec.ExitError](cmd.Wait())
	if !ok || failed.ExitCode() != 42 {
		t.Errorf("the outer process ended with %v, want the inner one's status 42", failed)
	}
}

func TestListenerOfTheOutsideRelays(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	file, err := l.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = file.Close() }()
	go func() {
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Error(err)
			return
		}
		_ = c.Close()
	}()
	// The inner program has a network of its own, in which nothing listens at that address.
	path, env := self(t, "accept", l.Addr().String())
	exit, err := machine.Isolate(machine.IsolateOptions{Command: []string{path}, Env: env, Files: []*os.File{file}})
	if err != nil || exit != 0 {
		t.Errorf("inner program: status %d, %v", exit, err)
	}
}

func TestNoNamespaces(t *testing.T) {
	cmd, out := lines(t, "denied")
	await(t, out, "  in a container: start the container with --privileged")
	for out.Scan() {
		t.Logf("output: %s", out.Text())
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}
