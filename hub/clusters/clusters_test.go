package clusters_test

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	toolscache "k8s.io/client-go/tools/cache"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/cluster"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
	mcsv1alpha1 "sigs.k8s.io/mcs-api/pkg/apis/v1alpha1"
	mcsv1beta1 "sigs.k8s.io/mcs-api/pkg/apis/v1beta1"
	"sigs.k8s.io/multicluster-runtime/pkg/multicluster"

	"github.com/tailgate-project/tailgate/api/v1alpha1"
	"github.com/tailgate-project/tailgate/e2e-kind/controlplane"
	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/hub/clusters"
	"github.com/tailgate-project/tailgate/hub/clusters/clusterstest"
)

const crds = "../../deploy/crds"

func TestMain(m *testing.M) {
	ctrl.SetLogger(logr.Discard())
	os.Exit(m.Run())
}

// TestProvider runs the provider against a real API server, behind what stands for the spoke's proxy.
func TestProvider(t *testing.T) {
	api := controlplane.ForTest(t)
	addr := clusterstest.ServeAPI(t, api.RESTConfig())
	admin, err := client.New(api.RESTConfig(), client.Options{Scheme: newScheme(t)})
	if err != nil {
		t.Fatal(err)
	}
	f := fixture{api: api, addr: addr, admin: admin}
	t.Run("unreachable-member-does-not-block-a-healthy-one", f.testBlackHole)
	t.Run("watch-goes-on-after-the-path-was-cut", f.testCut)
	t.Run("leaving-purges-once", f.testLeave)
	t.Run("joining-again", f.testJoinAgain)
	t.Run("objects-are-stripped-and-indexed", f.testStripped)
	t.Run("kinds-that-are-forbidden-are-reported", f.testForbidden)
	t.Run("kind-that-is-installed-later-is-served-then", f.testInstalledLater)
	t.Run("kind-that-cannot-be-listed-is-left-out", f.testUnreadable)
}

type fixture struct {
	api   *controlplane.ControlPlane
	addr  netip.AddrPort
	admin client.Client
}

func (f fixture) testBlackHole(t *testing.T) {
	r := f.run(t, func(ctx context.Context, m clusters.Member) (net.Conn, error) {
		if m.ID == "dark" {
			<-ctx.Done() // a path that answers nothing
			return nil, ctx.Err()
		}
		return dial(ctx, m)
	})
	r.provider.Engage(clusters.Member{ID: "dark", Addr: netip.MustParseAddrPort("100.64.0.99:80"), NodeID: "n9"})
	r.provider.Engage(f.member("live"))
	r.sink.wait(t, "live", "up")
	r.aware.waitObject(t, "live", f.slice(t, "live").Name)
	r.sink.wait(t, "dark", "down")
	if n := r.aware.engagements("dark"); n != 0 {
		t.Errorf("the unreachable member was engaged %d times", n)
	}
}

func (f fixture) testCut(t *testing.T) {
	path := &path{}
	r := f.run(t, path.dial)
	r.provider.Engage(f.member("cut"))
	r.sink.wait(t, "cut", "up")
	path.cut()
	r.sink.wait(t, "cut", "down")
	slice := f.slice(t, "made-while-cut")
	path.heal()
	r.sink.wait(t, "cut", "up")
	r.aware.waitObject(t, "cut", slice.Name)
	if n := r.aware.engagements("cut"); n != 1 {
		t.Errorf("member was engaged %d times, want the one engagement to go on", n)
	}
}

func (f fixture) testLeave(t *testing.T) {
	r := f.run(t, dial)
	r.provider.Engage(f.member("leaver"))
	r.sink.wait(t, "leaver", "up")
	for range 2 {
		r.provider.Disengage("leaver")
	}
	if _, err := r.provider.Get(t.Context(), "leaver"); !errors.Is(err, multicluster.ErrClusterNotFound) {
		t.Errorf("Get after the member left = %v, want %v", err, multicluster.ErrClusterNotFound)
	}
	r.sink.wait(t, "leaver", "gone")
	r.provider.Disengage("nobody")
	r.provider.Engage(f.member("leaver"))
	r.sink.wait(t, "leaver", "up")
	if n := r.sink.count("leaver", "gone"); n != 1 {
		t.Errorf("member was reported gone %d times, want once", n)
	}
	if n := r.sink.count("nobody", "gone"); n != 0 {
		t.Error("a member that never joined was reported gone")
	}
}

func (f fixture) testJoinAgain(t *testing.T) {
	r := f.run(t, dial)
	r.provider.Engage(f.member("again"))
	r.sink.wait(t, "again", "up")
	first, err := r.provider.Get(t.Context(), "again")
	if err != nil {
		t.Fatal(err)
	}
	r.provider.Engage(f.member("again"))
	moved := f.member("again")
	moved.Addr = clusterstest.ServeAPI(t, f.api.RESTConfig())
	r.provider.Engage(moved)
	r.aware.waitEngagements(t, "again", 2) // and not 3: the same member again is nothing new
	second, err := r.provider.Get(t.Context(), "again")
	if err != nil {
		t.Fatal(err)
	}
	if first == second {
		t.Error("member at another address has its old cluster")
	}
	if n := r.sink.count("again", "gone"); n != 0 {
		t.Errorf("member that moved was reported gone %d times", n)
	}
}

func (f fixture) testStripped(t *testing.T) {
	r := f.run(t, dial)
	err := r.provider.IndexField(t.Context(), &discoveryv1.EndpointSlice{}, "service", func(o client.Object) []string {
		return []string{o.GetLabels()[discoveryv1.LabelServiceName]}
	})
	if err != nil {
		t.Fatal(err)
	}
	slice := f.slice(t, "stripped")
	r.provider.Engage(f.member("lean"))
	r.sink.wait(t, "lean", "up")
	c, err := r.provider.Get(t.Context(), "lean")
	if err != nil {
		t.Fatal(err)
	}
	var found discoveryv1.EndpointSliceList
	if err := c.GetClient().List(t.Context(), &found, client.MatchingFields{"service": "stripped"}); err != nil {
		t.Fatal(err)
	}
	if len(found.Items) != 1 || found.Items[0].Name != slice.Name {
		t.Fatalf("index found %d slices, want %s alone", len(found.Items), slice.Name)
	}
	got := found.Items[0]
	if got.ManagedFields != nil || got.Endpoints[0].NodeName != nil {
		t.Errorf("managed fields %v and node name %v were kept", got.ManagedFields, got.Endpoints[0].NodeName)
	}
	if err := r.provider.IndexField(t.Context(), &corev1.Service{}, "late", nil); err == nil {
		t.Error("an index after the first engagement was taken, but the running informers cannot have it")
	}
	var secret corev1.SecretList
	if err := c.GetClient().List(t.Context(), &secret); err == nil {
		t.Error("a kind that is not watched could be listed")
	}
}

func (f fixture) testForbidden(t *testing.T) {
	anonymous := rest.AnonymousClientConfig(f.api.RESTConfig())
	r := f.run(t, dial)
	m := clusters.Member{ID: "forbidden", Addr: clusterstest.ServeAPI(t, anonymous), NodeID: "n1"}
	r.provider.Engage(m)
	r.sink.wait(t, "forbidden", "down")
	if n := r.aware.engagements("forbidden"); n != 0 {
		t.Errorf("member whose objects are forbidden was engaged %d times", n)
	}
}

func (f fixture) testInstalledLater(t *testing.T) {
	r := f.run(t, dial)
	r.provider.Engage(f.member("bare"))
	r.aware.waitEngagements(t, "bare", 1)
	if r.provider.Serves("bare", clusters.TailscaleGateways) {
		t.Fatal("TailscaleGateways are served without their CRD")
	}
	if err := f.api.ApplyFiles(t.Context(), filepath.Join(crds, "gateway.tailscale.com_tailscalegateways.yaml")); err != nil {
		t.Fatal(err)
	}
	r.aware.waitEngagements(t, "bare", 2)
	if !r.provider.Serves("bare", clusters.TailscaleGateways) || r.provider.Serves("bare", clusters.Gateways) {
		t.Error("want TailscaleGateways served, which have a CRD now, and Gateways not")
	}
	c, err := r.provider.Get(t.Context(), "bare")
	if err != nil {
		t.Fatal(err)
	}
	if err := c.GetClient().List(t.Context(), &v1alpha1.TailscaleGatewayList{}); err != nil {
		t.Error(err)
	}
	if n := r.sink.count("bare", "gone"); n != 0 {
		t.Error("member that serves more was reported gone")
	}
}

func (f fixture) member(id federation.ClusterID) clusters.Member {
	return clusters.Member{ID: id, Addr: f.addr, NodeID: "n1"}
}

// slice makes an EndpointSlice with one endpoint.
func (f fixture) slice(t *testing.T, service string) *discoveryv1.EndpointSlice {
	t.Helper()
	node := "node1"
	s := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Namespace: "default", Name: service + "-1", Labels: map[string]string{discoveryv1.LabelServiceName: service}},
		AddressType: discoveryv1.AddressTypeIPv4,
		Endpoints:   []discoveryv1.Endpoint{{Addresses: []string{"10.1.2.3"}, NodeName: &node}},
	}
	if err := f.admin.Create(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	return s
}

type run struct {
	provider *clusters.Provider
	sink     *sink
	aware    *aware
}

// run runs a provider with short times until the test ends.
func (f fixture) run(t *testing.T, dial func(context.Context, clusters.Member) (net.Conn, error)) run {
	r := run{sink: newSink(), aware: &aware{changed: make(chan struct{}, 1)}}
	r.provider = clusters.New(clusters.Options{
		Scheme: newScheme(t), Dial: dial, Sink: r.sink, Log: slog.New(slog.DiscardHandler),
		DialTimeout: 500 * time.Millisecond, Ping: 200 * time.Millisecond, PingTimeout: 200 * time.Millisecond,
		Probe: 50 * time.Millisecond, ProbeTimeout: time.Second, Recheck: 100 * time.Millisecond, Retry: 50 * time.Millisecond,
	})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- r.provider.Run(ctx, r.aware) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return r
}

// sink keeps what it is told, as up, down or gone.
type sink struct {
	mu      sync.Mutex
	states  map[federation.ClusterID][]string
	changed chan struct{}
}

func newSink() *sink {
	return &sink{states: map[federation.ClusterID][]string{}, changed: make(chan struct{}, 1)}
}

func (s *sink) APIState(_ context.Context, c federation.ClusterID, up bool, reason string) error {
	if reason == "" {
		return errors.New("no reason")
	}
	state := "down"
	if up {
		state = "up"
	}
	s.add(c, state)
	return nil
}

func (s *sink) ClusterGone(_ context.Context, c federation.ClusterID) error {
	s.add(c, "gone")
	return nil
}

func (s *sink) add(c federation.ClusterID, state string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.states[c] = append(s.states[c], state)
	notify(s.changed)
}

// wait waits until the last that was told of a member is state.
func (s *sink) wait(t *testing.T, c federation.ClusterID, state string) {
	t.Helper()
	await(t, s.changed, string(c)+" "+state, func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		all := s.states[c]
		return len(all) > 0 && all[len(all)-1] == state
	})
}

func (s *sink) count(c federation.ClusterID, state string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, x := range s.states[c] {
		if x == state {
			n++
		}
	}
	return n
}

// aware stands for the controllers.
type aware struct {
	mu      sync.Mutex
	engaged map[string]int
	objects map[string]bool
	changed chan struct{}
}

func (a *aware) Engage(ctx context.Context, name multicluster.ClusterName, c cluster.Cluster) error {
	informer, err := c.GetCache().GetInformer(ctx, &discoveryv1.EndpointSlice{})
	if err != nil {
		return err
	}
	_, err = informer.AddEventHandler(toolscache.ResourceEventHandlerFuncs{AddFunc: func(o any) {
		a.add(func() { a.objects[string(name)+"/"+o.(client.Object).GetName()] = true })
	}})
	a.add(func() { a.engaged[string(name)]++ })
	return err
}

func (a *aware) add(f func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.engaged == nil {
		a.engaged, a.objects = map[string]int{}, map[string]bool{}
	}
	f()
	notify(a.changed)
}

func (a *aware) engagements(name string) int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.engaged[name]
}

func (a *aware) waitEngagements(t *testing.T, name string, n int) {
	t.Helper()
	await(t, a.changed, name+" to be engaged", func() bool { return a.engagements(name) == n })
}

func (a *aware) waitObject(t *testing.T, cluster, name string) {
	t.Helper()
	await(t, a.changed, cluster+"/"+name, func() bool {
		a.mu.Lock()
		defer a.mu.Unlock()
		return a.objects[cluster+"/"+name]
	})
}

func notify(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// await waits for a condition that is looked at whenever changed receives.
func await(t *testing.T, changed <-chan struct{}, what string, condition func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for !condition() {
		select {
		case <-changed:
		case <-ctx.Done():
			t.Fatalf("timed out waiting for %s", what)
		}
	}
}

func dial(ctx context.Context, m clusters.Member) (net.Conn, error) {
	return new(net.Dialer).DialContext(ctx, "tcp", m.Addr.String())
}

// path is a way to a member that can be cut: what is sent then is lost, and nobody is told.
type path struct {
	mu     sync.Mutex
	healed chan struct{} // nil while whole
}

func (p *path) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.healed = make(chan struct{})
}

func (p *path) heal() {
	p.mu.Lock()
	defer p.mu.Unlock()
	close(p.healed)
	p.healed = nil
}

func (p *path) broken() chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.healed
}

func (p *path) dial(ctx context.Context, m clusters.Member) (net.Conn, error) {
	if healed := p.broken(); healed != nil {
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-healed:
		}
	}
	c, err := dial(ctx, m)
	if err != nil {
		return nil, err
	}
	return &pathConn{Conn: c, path: p}, nil
}

type pathConn struct {
	net.Conn
	path *path

	mu   sync.Mutex
	lost bool // for good, even when the path is healed: nobody answers with a reset
}

func (c *pathConn) dead() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lost = c.lost || c.path.broken() != nil
	return c.lost
}

func (c *pathConn) Write(b []byte) (int, error) {
	if c.dead() {
		return len(b), nil
	}
	return c.Conn.Write(b)
}

func (c *pathConn) Read(b []byte) (int, error) {
	for {
		n, err := c.Conn.Read(b)
		if err != nil || !c.dead() {
			return n, err
		}
	}
}

func newScheme(t *testing.T) *runtime.Scheme {
	t.Helper()
	s := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{
		clientgoscheme.AddToScheme, gatewayv1.Install, mcsv1alpha1.Install, mcsv1beta1.Install, v1alpha1.AddToScheme,
	} {
		if err := add(s); err != nil {
			t.Fatal(err)
		}
	}
	return s
}
