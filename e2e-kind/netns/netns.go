//go:build linux

// Package netns is test equipment: it moves a process into a network namespace
// of its own, so that tests and the demo can use any address, reach nothing
// outside, and leave nothing behind.
//
// The namespace has lo, and a veth pair ([Interface] with [Addr] and a default
// route) because Tailscale's network monitor takes a host with loopback only
// for a host without a network. It vanishes with its last process.
package netns

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Interface is the end of the veth pair that has [Addr].
const Interface = "tailgate0"

const peerInterface = "tailgate1"

// Addr is the namespace's own address outside loopback.
var Addr = netip.MustParsePrefix("10.200.0.1/24")

// gateway is the next hop of the default route. Nobody answers there: the
// route only has to exist, and packets that follow it go nowhere.
var gateway = net.IPv4(10, 200, 0, 254)

// The marker tells a process that it was started by Enter: it holds the
// identity of the namespace that was left and, once set up, of the one
// entered. Identities and not a mere flag, so that a marker which leaked into
// somebody's shell can never make Enter change the host's own network.
const marker = "TAILGATE_NETNS"

// RunTests runs m's tests inside a namespace of their own and returns the exit
// code for [os.Exit]. A test package uses it so:
//
//	func TestMain(m *testing.M) { os.Exit(netns.RunTests(m)) }
func RunTests(m *testing.M) int {
	Enter()
	return m.Run()
}

// Enter returns in a process that is inside a prepared namespace. Outside of
// one it starts the same program again inside, with the same arguments and
// files, passes signals on, and exits with its status; it never returns then.
// Call it first in main. Children of a process inside are inside too, and
// Enter lets them stay.
//
// As root it makes a network namespace only; otherwise a user namespace as
// well, in which the user is root. Where the kernel refuses, it prints what to
// do and exits with status 1.
func Enter() {
	inside, err := enterOrPrepare()
	if err != nil {
		fmt.Fprintf(os.Stderr, "network namespace: %v\n", err)
		os.Exit(1)
	}
	if inside {
		return
	}
	code, err := reexec()
	if err != nil {
		fmt.Fprintf(os.Stderr, "network namespace: %v\n", err)
		os.Exit(1)
	}
	os.Exit(code)
}

// AnyIP makes every address of prefix local to the namespace, so that servers
// can listen on any of them and clients reach them.
func AnyIP(prefix netip.Prefix) error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find lo: %w", err)
	}
	err = netlink.RouteReplace(&netlink.Route{
		LinkIndex: lo.Attrs().Index,
		Dst:       ipNet(prefix.Masked()),
		Scope:     netlink.SCOPE_HOST,
		Table:     unix.RT_TABLE_LOCAL,
		Type:      unix.RTN_LOCAL,
	})
	if err != nil {
		return fmt.Errorf("make %v local: %w", prefix, err)
	}
	return nil
}

// enterOrPrepare reports whether this process is inside, and sets the
// namespace up if it is the first process in it.
func enterOrPrepare() (bool, error) {
	value, marked := os.LookupEnv(marker)
	if !marked {
		return false, nil
	}
	current, err := identity()
	if err != nil {
		return false, err
	}
	left, entered, _ := strings.Cut(value, " ")
	switch {
	case entered == current:
		return true, nil
	case entered != "" || left == current:
		return false, nil
	}
	if err := setUp(); err != nil {
		return false, fmt.Errorf("set up: %w", err)
	}
	return true, os.Setenv(marker, left+" "+current)
}

func identity() (string, error) {
	id, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		return "", fmt.Errorf("identify current namespace (is /proc mounted?): %w", err)
	}
	return id, nil
}

func reexec() (int, error) {
	current, err := identity()
	if err != nil {
		return 0, err
	}
	self, err := os.Executable()
	if err != nil {
		return 0, fmt.Errorf("find own executable: %w", err)
	}
	// Pdeathsig is sent when the starting thread ends, so it must be kept.
	runtime.LockOSThread()
	cmd := exec.Command(self, os.Args[1:]...)
	cmd.Args[0] = os.Args[0]
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), marker+"="+current)
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNET,
		Pdeathsig:  syscall.SIGKILL,
	}
	if os.Geteuid() != 0 {
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{HostID: os.Geteuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getegid(), Size: 1}}
	}
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM, syscall.SIGQUIT, syscall.SIGHUP)
	if err := cmd.Start(); err != nil {
		return 0, refusal(err)
	}
	go func() {
		for s := range signals {
			// The child may be gone already; Wait below tells its fate.
			_ = cmd.Process.Signal(s)
		}
	}()
	return exitCode(cmd.Wait())
}

// exitCode turns the child's end into an exit status as a shell would.
func exitCode(err error) (int, error) {
	if err == nil {
		return 0, nil
	}
	exit, ok := errors.AsType[*exec.ExitError](err)
	if !ok {
		return 0, fmt.Errorf("wait for the process inside: %w", err)
	}
	if status, ok := exit.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return 128 + int(status.Signal()), nil
	}
	return exit.ExitCode(), nil
}

func refusal(err error) error {
	if os.Geteuid() == 0 {
		return fmt.Errorf("this system lets root make no network namespace: %w\n"+
			"In a container, run it with CAP_SYS_ADMIN (docker run --cap-add SYS_ADMIN)", err)
	}
	return fmt.Errorf("this system lets user %d make no user and network namespace: %w\n"+
		"Either allow it:\n"+
		"  sudo sysctl kernel.unprivileged_userns_clone=1                  (Debian)\n"+
		"  sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0      (Ubuntu 24.04 and later)\n"+
		"  sudo sysctl user.max_user_namespaces=10000                      (where it is 0)\n"+
		"or run the same command as root", os.Geteuid(), err)
}

func setUp() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find lo: %w", err)
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return fmt.Errorf("bring lo up: %w", err)
	}
	err = netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: Interface}, PeerName: peerInterface})
	if err != nil {
		return fmt.Errorf("add veth pair (kernel module veth): %w", err)
	}
	link, err := netlink.LinkByName(Interface)
	if err != nil {
		return fmt.Errorf("find %s: %w", Interface, err)
	}
	peer, err := netlink.LinkByName(peerInterface)
	if err != nil {
		return fmt.Errorf("find %s: %w", peerInterface, err)
	}
	if err := netlink.AddrAdd(link, &netlink.Addr{IPNet: ipNet(Addr)}); err != nil {
		return fmt.Errorf("give %s the address %v: %w", Interface, Addr, err)
	}
	if err := errors.Join(netlink.LinkSetUp(peer), netlink.LinkSetUp(link)); err != nil {
		return fmt.Errorf("bring veth pair up: %w", err)
	}
	if err := netlink.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Gw: gateway}); err != nil {
		return fmt.Errorf("add default route: %w", err)
	}
	return nil
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{
		IP:   p.Addr().AsSlice(),
		Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen()),
	}
}
