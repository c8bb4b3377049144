package codec

import (
	"fmt"
	"math"
	"net/netip"
	"strings"
	"time"

	pb "github.com/tailgate-project/tailgate/api/store"
	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/federation/failover"
)

// enum gives words numbers. The word with number n is words[n]; those below least have none.
type enum[N ~int32, W comparable] struct {
	what  string
	least N
	words []W
}

var (
	kinds = enum[pb.Kind, federation.Kind]{
		"kind of service", pb.Kind_KIND_SERVICE, []federation.Kind{"", federation.KindService, federation.KindListener},
	}
	protocols = enum[pb.Protocol, federation.Protocol]{
		"protocol", pb.Protocol_PROTOCOL_TCP, []federation.Protocol{"", federation.TCP, federation.UDP},
	}
	apps = enum[pb.AppProtocol, federation.AppProtocol]{
		"application protocol", pb.AppProtocol_APP_PROTOCOL_UNSPECIFIED, []federation.AppProtocol{
			federation.AppUnknown, federation.AppHTTP, federation.AppH2C, federation.AppHTTPS, federation.AppGRPCS, federation.AppTLS, federation.AppTCP,
		},
	}
	healths = enum[pb.Health, federation.Health]{
		"health", pb.Health_HEALTH_HEALTHY, []federation.Health{federation.Healthy, federation.Degraded, federation.Unhealthy},
	}
	modes = enum[pb.Mode, failover.Mode]{
		"mode", pb.Mode_MODE_NORMAL, []failover.Mode{failover.Normal, failover.Drain, failover.Cordon, failover.Pin},
	}
)

func (e enum[N, W]) number(w W) (N, error) {
	for n := e.least; int(n) < len(e.words); n++ {
		if e.words[n] == w {
			return n, nil
		}
	}
	return 0, fmt.Errorf("unknown %s %v", e.what, w)
}

func (e enum[N, W]) word(n N) (W, error) {
	if n < e.least || int(n) >= len(e.words) {
		var none W
		return none, fmt.Errorf("unknown %s no. %d", e.what, n)
	}
	return e.words[n], nil
}

// writer converts the parts of an object to messages and keeps the first error.
type writer struct{ err error }

// reader converts messages to parts of an object and keeps the first error.
type reader struct {
	words
	err error
}

// fail keeps an error if it is the first.
func fail(first *error, err error) {
	if *first == nil {
		*first = err
	}
}

func written[N ~int32, W comparable](w *writer, e enum[N, W], word W) N {
	n, err := e.number(word)
	fail(&w.err, err)
	return n
}

func read[N ~int32, W comparable](r *reader, e enum[N, W], number N) W {
	word, err := e.word(number)
	fail(&r.err, err)
	return word
}

func (w *writer) cluster(c federation.ClusterID) string {
	fail(&w.err, c.Validate())
	return string(c)
}

func (r *reader) cluster(s string) federation.ClusterID {
	c := federation.ClusterID(r.share(s))
	fail(&r.err, c.Validate())
	return c
}

// anyCluster is a cluster, or the empty word for all of them.
func (w *writer) anyCluster(c federation.ClusterID) string {
	if c == "" {
		return ""
	}
	return w.cluster(c)
}

func (r *reader) anyCluster(s string) federation.ClusterID {
	if s == "" {
		return ""
	}
	return r.cluster(s)
}

func (w *writer) clusters(all []federation.ClusterID) []string {
	var out []string
	for _, c := range all {
		out = append(out, w.cluster(c))
	}
	return out
}

func (r *reader) clusters(all []string) []federation.ClusterID {
	var out []federation.ClusterID
	for _, c := range all {
		out = append(out, r.cluster(c))
	}
	return out
}

// checkService fails for an id that would not be its own key.
func checkService(id federation.ServiceID) error {
	if id.Namespace == "" || id.Name == "" || strings.Contains(id.Namespace, "/") {
		return fmt.Errorf("service %q: want a namespace and a name", id)
	}
	return nil
}

func (w *writer) serviceParts(id federation.ServiceID) (kind pb.Kind, namespace, name string) {
	fail(&w.err, checkService(id))
	return written(w, kinds, id.Kind), id.Namespace, id.Name
}

func (r *reader) serviceParts(kind pb.Kind, namespace, name string) federation.ServiceID {
	id := federation.ServiceID{Kind: read(r, kinds, kind), Namespace: r.share(namespace), Name: name}
	fail(&r.err, checkService(id))
	return id
}

func (w *writer) service(id federation.ServiceID) *pb.Service {
	kind, namespace, name := w.serviceParts(id)
	return &pb.Service{Kind: kind, Namespace: namespace, Name: name}
}

func (r *reader) service(m *pb.Service) federation.ServiceID {
	return r.serviceParts(m.GetKind(), m.GetNamespace(), m.GetName())
}

func (w *writer) ports(ports []federation.Port) []*pb.Port {
	var out []*pb.Port
	for _, p := range ports {
		if p.Port == 0 {
			fail(&w.err, fmt.Errorf("port %q has the number 0", p.Name))
		}
		out = append(out, &pb.Port{Name: p.Name, Port: uint32(p.Port), Protocol: written(w, protocols, p.Protocol), App: written(w, apps, p.App)})
	}
	return out
}

func (r *reader) ports(ports []*pb.Port) []federation.Port {
	if len(ports) == 0 {
		return nil
	}
	out := make([]federation.Port, len(ports))
	for i, p := range ports {
		if p.GetPort() == 0 || p.GetPort() > math.MaxUint16 {
			fail(&r.err, fmt.Errorf("port %d: want 1 to 65535", p.GetPort()))
		}
		out[i] = federation.Port{
			Name: r.share(p.GetName()), Port: uint16(p.GetPort()), Protocol: read(r, protocols, p.GetProtocol()), App: read(r, apps, p.GetApp()),
		}
	}
	return out
}

func (w *writer) addrs(addrs []netip.Addr) [][]byte {
	var out [][]byte
	for _, a := range addrs {
		if !a.IsValid() || a.Zone() != "" {
			fail(&w.err, fmt.Errorf("address %q: want an IPv4 or IPv6 address without a zone", a))
		}
		out = append(out, a.AsSlice())
	}
	return out
}

func (r *reader) addrs(addrs [][]byte) []netip.Addr {
	if len(addrs) == 0 {
		return nil
	}
	out := make([]netip.Addr, len(addrs))
	for i, b := range addrs {
		a, ok := netip.AddrFromSlice(b)
		if !ok {
			fail(&r.err, fmt.Errorf("address of %d bytes, want 4 or 16", len(b)))
		}
		out[i] = a
	}
	return out
}

// time is nil for the zero time.
func (w *writer) time(t time.Time) *int64 {
	if t.IsZero() {
		return nil
	}
	n := t.UnixNano()
	if !time.Unix(0, n).Equal(t) {
		fail(&w.err, fmt.Errorf("time %v: want a year from 1678 to 2262", t))
	}
	return &n
}

func (r *reader) time(n *int64) time.Time {
	if n == nil {
		return time.Time{}
	}
	return time.Unix(0, *n).UTC()
}

// checkReason wants a word such as NoReadyEndpoints, or none. Which words there are is not checked: a store may hold
// those of another version.
func checkReason(reason failover.Reason) error {
	ok := strings.IndexFunc(string(reason), func(c rune) bool {
		return (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9')
	}) < 0
	if !ok {
		return fmt.Errorf("reason %q: want a word of letters and digits", reason)
	}
	return nil
}

func (w *writer) reason(reason failover.Reason) string {
	fail(&w.err, checkReason(reason))
	return string(reason)
}

func (r *reader) reason(s string) failover.Reason {
	reason := failover.Reason(r.share(s))
	fail(&r.err, checkReason(reason))
	return reason
}
