//go:build linux

package netns_test

import (
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/tailgate-project/tailgate/e2e-kind/netns"
)

func TestMain(m *testing.M) {
	netns.Enter()
	if os.Getenv("NETNS_TEST_CHILD") != "" {
		os.Exit(child())
	}
	os.Exit(netns.RunTests(m))
}

// child is what the program does when a test starts it: it says which
// namespace it is in, and ends with a status of its own.
func child() int {
	id, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		return 1
	}
	os.Stdout.WriteString(id)
	return 7
}

func TestNamespaceHasOnlyItsOwnInterfaces(t *testing.T) {
	links, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range links {
		if l.Name != "lo" && !strings.HasPrefix(l.Name, "tailgate") {
			t.Errorf("interface %s of the host is visible", l.Name)
		}
		if l.Flags&net.FlagUp == 0 {
			t.Errorf("interface %s is down", l.Name)
		}
	}
}

func TestAddressIsUsable(t *testing.T) {
	ln, err := net.Listen("tcp", netip.AddrPortFrom(netns.Addr.Addr(), 0).String())
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	conn, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
}

// anyIPRuns makes each run of the test below use a prefix of its own: what AnyIP
// did lasts as long as the namespace.
var anyIPRuns atomic.Uint32

func TestAnyIPMakesPrefixLocal(t *testing.T) {
	run := byte(anyIPRuns.Add(1))
	prefix := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 244, run, 0}), 24)
	addr := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 244, run, 9}), 0).String()
	if ln, err := net.Listen("tcp", addr); err == nil {
		ln.Close()
		t.Fatalf("%s was local before", addr)
	}
	for range 2 { // idempotent
		if err := netns.AnyIP(prefix); err != nil {
			t.Fatal(err)
		}
	}
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	ln.Close()
}

func TestEnter(t *testing.T) {
	own, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name   string
		marker string // replaces the marker that the child inherits
		same   bool
	}{
		{name: "child-stays-inside", same: true},
		{name: "stale-marker-of-another-namespace-is-not-believed", marker: "net:[1] net:[2]"},
		{name: "marker-naming-the-current-namespace-as-left-is-not-believed", marker: own},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			cmd := exec.CommandContext(t.Context(), os.Args[0])
			cmd.Env = append(os.Environ(), "NETNS_TEST_CHILD=1")
			if tt.marker != "" {
				cmd.Env = append(cmd.Env, "TAILGATE_NETNS="+tt.marker)
			}
			out, err := cmd.Output()
			if code := cmd.ProcessState.ExitCode(); code != 7 {
				t.Errorf("exit status %d (%v), want the child's own 7", code, err)
			}
			if same := string(out) == own; same != tt.same {
				t.Errorf("child is in %s, we in %s: same = %v, want %v", out, own, same, tt.same)
			}
		})
	}
}
