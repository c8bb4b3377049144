package machine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strconv"
	"sync"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Spec describes a machine.
type Spec struct {
	// Name is the machine's host name, unique on the fabric.
	Name string
	// IP is its one address on the fabric.
	IP netip.Addr
	// LocalPrefixes are further prefixes all of whose addresses are local to the machine (pods, say): a socket may bind any
	// of them without further ado, and only the machine's own processes reach it there.
	LocalPrefixes []netip.Prefix
	// Routes are prefixes that are local to other machines, by these machines' addresses.
	Routes map[netip.Prefix]netip.Addr
	// Command is the program that is the machine, and its arguments: when it ends, the machine is off. Usually this very
	// program with a subcommand of its own.
	Command []string
	// Env is added to this process's environment. Dir is the working directory; by default this process's.
	Env []string
	Dir string
	// Stdout and Stderr get what the program writes there; by default nobody does. A writer that is not an *os.File is
	// written to by one goroutine per stream.
	Stdout io.Writer
	Stderr io.Writer
}

// Machine is one booted machine.
type Machine struct {
	fabric *Fabric
	spec   Spec
	shim   *shim
	cable  netlink.Link
	once   sync.Once // cuts the cable
	cutErr error
	off    chan struct{} // closed when nothing of it is left
	err    error         // how it ended; set before off is closed
}

// Boot starts a machine and returns once its program runs; ctx bounds no more than that. A machine that is killed can be booted again, with the same name,
// address and directories, as soon as [Machine.Kill] has returned.
func (f *Fabric) Boot(ctx context.Context, spec Spec) (*Machine, error) {
	if spec.Name == "" || len(spec.Command) == 0 {
		return nil, errors.New("boot: a machine needs a name and a command")
	}
	m := &Machine{fabric: f, spec: spec, off: make(chan struct{})}
	number, err := f.enter(m)
	if err != nil {
		return nil, fmt.Errorf("boot %s: %w", spec.Name, err)
	}
	m.shim = newShim()
	m.shim.cmd.Stdout, m.shim.cmd.Stderr = spec.Stdout, spec.Stderr
	m.shim.cmd.SysProcAttr.Cloneflags = machineNamespaces
	if err := m.shim.launch(roleInit); err != nil {
		f.leave(m)
		return nil, fmt.Errorf("boot %s: %w", spec.Name, err)
	}
	giveUp := context.AfterFunc(ctx, func() { _ = m.shim.cmd.Process.Kill() })
	inside, err := f.plug(m, number, m.shim.cmd.Process.Pid)
	if err == nil {
		err = m.shim.tell(initConfig{
			Hostname: spec.Name,
			Command:  spec.Command,
			Env:      append(os.Environ(), spec.Env...),
			Dir:      spec.Dir,
			Network: networkConfig{
				Link:    inside,
				Address: netip.PrefixFrom(spec.IP, f.prefix.Bits()),
				Gateway: f.prefix.Addr(),
				Local:   spec.LocalPrefixes,
				Routes:  spec.Routes,
			},
		})
	} else {
		m.shim.drop()
	}
	if !giveUp() {
		err = errors.Join(ctx.Err(), err)
	}
	go m.wait()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("boot %s: %w", spec.Name, err), m.Kill())
	}
	return m, nil
}

// wait ends when nothing is left of the machine: the kernel lets process 1 go only after all others of its namespace.
func (m *Machine) wait() {
	err := m.shim.cmd.Wait()
	m.err = errors.Join(err, m.cut())
	m.fabric.leave(m)
	close(m.off)
}

// cut removes the link to the bridge, once.
func (m *Machine) cut() error {
	m.once.Do(func() {
		if m.cable == nil {
			return
		}
		// The link goes with the machine's network namespace too, in the kernel's own time: gone already is as good.
		err := netlink.LinkDel(m.cable)
		if _, gone := errors.AsType[netlink.LinkNotFoundError](err); gone || errors.Is(err, unix.ENODEV) {
			return
		}
		if err != nil {
			m.cutErr = fmt.Errorf("remove the link of %s: %w", m.spec.Name, err)
		}
	})
	return m.cutErr
}

// Name is the machine's host name.
func (m *Machine) Name() string { return m.spec.Name }

// IP is the machine's address on the fabric.
func (m *Machine) IP() netip.Addr { return m.spec.IP }

// PID is the process id of the machine's process 1, as this program sees it.
func (m *Machine) PID() int { return m.shim.cmd.Process.Pid }

// Kill cuts the machine's power: first its link is gone, so that no dying socket says goodbye to anybody, then every process
// gets SIGKILL. It returns when nothing of the machine is left, and does nothing to one that is off.
func (m *Machine) Kill() error {
	err := m.cut()
	if kerr := m.shim.cmd.Process.Kill(); kerr != nil && !errors.Is(kerr, os.ErrProcessDone) {
		return errors.Join(err, fmt.Errorf("kill %s: %w", m.spec.Name, kerr))
	}
	<-m.off
	return err
}

// Stop sends SIGTERM to the machine's program, waits for its end, and kills what is left of the machine when ctx ends.
func (m *Machine) Stop(ctx context.Context) error {
	if err := m.shim.cmd.Process.Signal(unix.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("stop %s: %w", m.spec.Name, err)
	}
	select {
	case <-m.off:
		return nil
	case <-ctx.Done():
		return errors.Join(fmt.Errorf("stop %s: %w; killed", m.spec.Name, ctx.Err()), m.Kill())
	}
}

// Off is closed when nothing of the machine is left.
func (m *Machine) Off() <-chan struct{} { return m.off }

// Wait returns how the machine ended, when it has: nil if its program ended with status 0.
func (m *Machine) Wait(ctx context.Context) error {
	select {
	case <-m.off:
		return m.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Dial opens a TCP connection from the fabric to a port of the machine. What listens on the machine's loopback or local
// prefixes alone is not reached.
func (m *Machine) Dial(ctx context.Context, port uint16) (net.Conn, error) {
	var d net.Dialer
	return d.DialContext(ctx, "tcp", net.JoinHostPort(m.spec.IP.String(), strconv.Itoa(int(port))))
}
