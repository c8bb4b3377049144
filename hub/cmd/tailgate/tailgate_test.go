package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	"sigs.k8s.io/yaml"

	"github.com/tailgate-project/tailgate/api/operator"
	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/federation/failover"
	"github.com/tailgate-project/tailgate/hub/web"
)

var update = os.Getenv("UPDATE_GOLDEN") != ""

// noon is when all tests are.
var noon = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

func service(ns, name string) operator.ServiceID {
	return operator.ServiceID{ServiceID: federation.Service(ns, name)}
}

func addr(last byte) netip.Addr { return netip.AddrFrom4([4]byte{100, 100, 0, last}) }

var (
	web80   = []operator.Port{{Name: "http", Port: 80, Protocol: federation.TCP, App: "http"}}
	serving = operator.Verdict{Reason: failover.Serving, Share: 100}
	dead    = operator.Verdict{Health: federation.Unhealthy, Reason: failover.UnreachableByQuorum, Share: 100, Since: noon.Add(-90 * time.Second)}
	inputs  = failover.Inputs{Ready: 2, LinkLost: -1, APILost: -1}
)

// hub is a hub that answers from what a test gave it.
type hub struct {
	operator.API
	status   operator.Status
	services []operator.Service
	vips     []operator.VIP
	records  []operator.Record
	sets     map[federation.ClusterID]operator.EndpointSet
	wishes   []operator.Wish
	left     []federation.ClusterID
	// shares are what a drain has left, look by look.
	shares   []uint8
	forecast operator.Forecast
}

func (h *hub) Status(context.Context) (operator.Status, error)      { return h.status, nil }
func (h *hub) VIPs(context.Context) ([]operator.VIP, error)         { return h.vips, nil }
func (h *hub) Services(context.Context) ([]operator.Service, error) { return h.services, nil }
func (h *hub) Wait(context.Context, uint64) (uint64, error)         { return 1, nil }

func (h *hub) Service(_ context.Context, id federation.ServiceID) (operator.Service, error) {
	i := slices.IndexFunc(h.services, func(s operator.Service) bool { return s.ID.ServiceID == id })
	if i < 0 {
		return operator.Service{}, fmt.Errorf("%s is %w", id, operator.ErrNotFound)
	}
	return h.services[i], nil
}

func (h *hub) Endpoints(_ context.Context, _ federation.ServiceID, c federation.ClusterID) (operator.EndpointSet, error) {
	return h.sets[c], nil
}

func (h *hub) Journal(_ context.Context, q operator.JournalQuery) ([]operator.Record, error) {
	out := slices.DeleteFunc(slices.Clone(h.records), func(r operator.Record) bool {
		return r.Seq <= q.After || q.Before != 0 && r.Seq >= q.Before
	})
	limit := min(operator.MaxRecords, len(out))
	if q.Limit > 0 {
		limit = min(limit, q.Limit)
	}
	if q.Newest {
		return out[len(out)-limit:], nil
	}
	return out[:limit], nil
}

func (h *hub) Operate(_ context.Context, w operator.Wish) (operator.Operation, error) {
	h.wishes = append(h.wishes, w)
	return operator.Operation{Wish: w, Share: 100}, nil
}

func (h *hub) Operations(context.Context) ([]operator.Operation, error) {
	if len(h.shares) == 0 {
		return nil, nil
	}
	o := operator.Operation{Wish: h.wishes[len(h.wishes)-1], Share: h.shares[0], Done: h.shares[0] == 0}
	h.shares = h.shares[1:]
	return []operator.Operation{o}, nil
}

func (h *hub) Forecast(context.Context, operator.Wish, time.Duration) (operator.Forecast, error) {
	return h.forecast, nil
}

func (h *hub) Invite(_ context.Context, c federation.ClusterID) (operator.Invitation, error) {
	return operator.Invitation{
		Cluster: c, AuthKey: "key-of-" + string(c), Expires: noon.Add(time.Hour), Hub: "tailgate-hub:7443", HubTag: "tag:tailgate-hub",
		ControlURL: "http://control", Tailnet: "production-tailnet",
	}, nil
}

func (h *hub) Leave(_ context.Context, c federation.ClusterID) (operator.Departure, error) {
	if !slices.ContainsFunc(h.status.Clusters, func(o operator.Cluster) bool { return o.ID == c }) {
		return operator.Departure{}, fmt.Errorf("cluster %s is %w", c, operator.ErrNotFound)
	}
	h.left = append(h.left, c)
	d := operator.Departure{Cluster: c, VIPs: []string{"local-production-webapp-cluster3"}, Devices: 3}
	if c == "cluster2" {
		d.Resting, d.Left = true, []string{"device n7 of TailscaleTailnet lab: forbidden"}
	}
	return d, nil
}

// federationOfThree is one in which cluster3 has died.
func federationOfThree() *hub {
	member := func(id, zone string, v operator.Verdict) operator.Cluster {
		return operator.Cluster{
			ID: federation.ClusterID(id), Region: "eu", Zone: zone, Link: operator.Signal{Up: true}, API: operator.Signal{Up: true}, Exports: 2, Verdict: v,
			Applied: operator.Position{Epoch: 7, Version: 40}, Newest: operator.Position{Epoch: 7, Version: 40},
			Versions: operator.Versions{Spoke: "0.1.0", EnvoyGateway: "v1.9.1", Kubernetes: "v1.36.2"}, Ingress: []string{"n1", "n2"},
		}
	}
	third := member("cluster3", "", dead)
	third.Link, third.API = operator.Signal{Since: noon.Add(-91 * time.Second)}, operator.Signal{Since: noon.Add(-90 * time.Second)}
	third.Newest.Version = 45
	second := member("cluster2", "b", operator.Verdict{Reason: failover.Draining, Share: 60})
	second.Mode = failover.Drain
	up := func(a, b string, rtt time.Duration) operator.Probe {
		return operator.Probe{Observer: federation.ClusterID(a), Target: federation.ClusterID(b), Reachable: true, RTT: rtt, At: noon}
	}
	down := func(a string) operator.Probe {
		return operator.Probe{Observer: federation.ClusterID(a), Target: "cluster3", At: noon.Add(-time.Second), Error: "connection timed out"}
	}
	webapp := operator.Service{ID: service("default", "webapp")}
	for i, v := range []operator.Verdict{serving, serving, dead} {
		webapp.Exports = append(webapp.Exports, operator.Export{
			Cluster: federation.ClusterID(fmt.Sprintf("cluster%d", i+1)), Ready: 2, Desired: 3, Ports: web80, Addresses: []netip.Addr{addr(byte(i + 1))}, Verdict: v,
		})
	}
	webapp.Policy = map[federation.ClusterID]string{"cluster1": "near"}
	webapp.Exports[1].Weight, webapp.Exports[1].Federated = 5, true
	shop := operator.Service{ID: service("shop", "webapp"), Exports: []operator.Export{{Cluster: "cluster2", Ports: web80, Verdict: serving, Ready: 1, Desired: 1}}}
	endpoint := func(c string, last byte, priority uint32, h federation.Health, reason failover.Reason) operator.Endpoint {
		return operator.Endpoint{Cluster: federation.ClusterID(c), Address: addr(last), Ports: web80, Priority: priority, Weight: 50000, Health: h, Reason: string(reason)}
	}
	return &hub{
		status: operator.Status{
			Now: noon, Version: "0.1.0", Epoch: 7, VIPs: map[string]int{"assigned": 3, "pending": 1}, Tasks: 1,
			Clusters: []operator.Cluster{member("cluster1", "a", serving), second, third},
			Probes: []operator.Probe{
				up("cluster1", "cluster2", 3200*time.Microsecond), down("cluster1"), up("cluster2", "cluster1", 3400*time.Microsecond), down("cluster2"),
			},
		},
		services: []operator.Service{webapp, shop},
		vips: []operator.VIP{
			{ServiceName: "local-production-webapp-cluster1", Service: webapp.ID, Cluster: "cluster1", TailnetRef: "production-tailnet", Addresses: []netip.Addr{addr(1), netip.MustParseAddr("fd7a:115c:a1e0::1")}, Ports: web80, State: "assigned", Advertisers: []federation.ClusterID{"cluster1"}},
			{ServiceName: "local-production-webapp", Service: webapp.ID, Federated: true, TailnetRef: "production-tailnet", Ports: web80, State: "pending"},
		},
		records: []operator.Record{
			{Seq: 41, At: noon.Add(-3 * time.Hour), Cluster: "cluster3", Reason: failover.Serving, From: federation.Unhealthy, Because: "it is new; nobody observes it", Inputs: inputs},
			{Seq: 42, At: noon.Add(-90 * time.Second), Cluster: "cluster3", To: federation.Unhealthy, Reason: failover.UnreachableByQuorum, Because: "cluster1, cluster2 do not reach it", Inputs: inputs},
			{Seq: 43, At: noon.Add(-10 * time.Second), Cluster: "cluster3", Service: webapp.ID, Consumer: "cluster1", Reason: failover.UnreachableByObserver, To: federation.Unhealthy, Because: "cluster1 does not reach it", Inputs: inputs},
		},
		sets: map[federation.ClusterID]operator.EndpointSet{
			"cluster1": {Consumer: "cluster1", Service: webapp.ID, Policy: "near", Endpoints: []operator.Endpoint{
				endpoint("cluster1", 1, 0, federation.Healthy, failover.Serving), endpoint("cluster2", 2, 1, federation.Healthy, failover.Serving),
				endpoint("cluster3", 3, 1, federation.Unhealthy, failover.UnreachableByQuorum),
			}},
			"cluster2": {Consumer: "cluster2", Service: webapp.ID, Unreferenced: true},
			"cluster3": {Consumer: "cluster3", Service: webapp.ID, Endpoints: []operator.Endpoint{endpoint("cluster3", 3, 0, federation.Unhealthy, failover.UnreachableByQuorum)}},
		},
		forecast: operator.Forecast{
			Decisions: []operator.Record{
				{At: noon, Cluster: "cluster2", Reason: failover.Draining, Because: "an operator drains it over 10s"},
				{At: noon.Add(10 * time.Second), Cluster: "cluster2", To: federation.Unhealthy, Reason: failover.Drained, Because: "an operator drained it, 10s ago"},
			},
			Before:  []operator.EndpointSet{{Consumer: "cluster1", Service: shop.ID, Endpoints: []operator.Endpoint{endpoint("cluster2", 2, 0, federation.Healthy, failover.Serving)}}},
			After:   []operator.EndpointSet{{Consumer: "cluster1", Service: shop.ID, Endpoints: []operator.Endpoint{endpoint("cluster2", 2, 0, federation.Unhealthy, failover.Drained)}}},
			Orphans: []operator.ServiceID{shop.ID},
		},
	}
}

// run runs a command line against a hub, over HTTP, and returns what it printed.
func run(t *testing.T, h operator.API, args ...string) (out, errOut string, err error) {
	t.Helper()
	server := httptest.NewServer(web.API(h, slog.New(slog.DiscardHandler)))
	t.Cleanup(server.Close)
	base, err := url.Parse(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	tl := &tool{now: func() time.Time { return noon }}
	tl.hub = func(context.Context) (operator.API, error) { return &operator.Client{Base: base}, nil }
	var stdout, stderr bytes.Buffer
	root := tl.root("tailgate")
	root.SetArgs(args)
	root.SetOut(&stdout)
	root.SetErr(&stderr)
	err = root.ExecuteContext(t.Context())
	return stdout.String(), stderr.String(), err
}

func TestGoldenOutput(t *testing.T) {
	for name, args := range map[string][]string{
		"status": {"status"}, "vips": {"vips"}, "services": {"services"}, "journal": {"journal"}, "journal-last": {"journal", "--limit", "1"},
		"endpoints": {"endpoints", "default/webapp", "--from", "cluster1"}, "endpoints-unreferenced": {"endpoints", "default/webapp", "--from", "cluster2"},
		"explain": {"explain", "default/webapp"}, "explain-from": {"explain", "Service/default/webapp", "--from", "cluster1", "--last", "0"},
		"dry-run": {"drain", "cluster2", "--dry-run"}, "status-yaml": {"status", "-o", "yaml"}, "endpoints-json": {"endpoints", "default/webapp", "--from", "cluster1", "-o", "json"},
		"status-wide": {"status", "-o", "wide"}, "vips-wide": {"vips", "-o", "wide"}, "services-wide": {"services", "-o", "wide"},
		"endpoints-wide": {"endpoints", "default/webapp", "--from", "cluster1", "-o", "wide"}, "journal-wide": {"journal", "-o", "wide"},
		"status-color": {"status", "--color", "always"},
	} {
		t.Run(name, func(t *testing.T) {
			got, _, err := run(t, federationOfThree(), args...)
			if err != nil {
				t.Fatal(err)
			}
			file := filepath.Join("testdata", name+".golden")
			if update {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), got); diff != "" {
				t.Errorf("run with UPDATE_GOLDEN=1 after reading this diff (-want +got):\n%s", diff)
			}
		})
	}
}

// TestColorsOnlyPaint compares what each table says with colours and without.
func TestColorsOnlyPaint(t *testing.T) {
	escapes := regexp.MustCompile("\x1b\\[[0-9]+m")
	for _, args := range [][]string{{"status"}, {"vips"}, {"services"}, {"journal"}, {"endpoints", "default/webapp", "--from", "cluster1"}, {"explain", "default/webapp"}} {
		painted, _, err := run(t, federationOfThree(), append(args, "--color", "always")...)
		if err != nil {
			t.Fatal(err)
		}
		bare, _, err := run(t, federationOfThree(), append(args, "--color", "never")...)
		if err != nil {
			t.Fatal(err)
		}
		if !escapes.MatchString(painted) {
			t.Errorf("%s: no colours in %q", args, painted)
		}
		if diff := cmp.Diff(bare, escapes.ReplaceAllString(painted, "")); diff != "" {
			t.Errorf("%s: without colours (-never +always)\n%s", args, diff)
		}
	}
	for _, format := range []string{"json", "yaml"} {
		out, _, err := run(t, federationOfThree(), "status", "-o", format, "--color", "always")
		if err != nil || escapes.MatchString(out) {
			t.Errorf("%s for programs has colours: %v %q", format, err, out)
		}
	}
}

// TestColorsAreForTerminals opens a pseudo-terminal, which is what a person's shell gives to a program.
func TestColorsAreForTerminals(t *testing.T) {
	terminal, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = terminal.Close() })
	file, err := os.Create(filepath.Join(t.TempDir(), "out"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = file.Close() })
	for _, tc := range []struct {
		name, noColor, term string
		out                 io.Writer
		want                bool
	}{
		{"terminal", "", "xterm", terminal, true},
		{"no-color", "1", "xterm", terminal, false},
		{"dumb", "", "dumb", terminal, false},
		{"file", "", "xterm", file, false},
		{"pipe", "", "xterm", new(bytes.Buffer), false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Setenv("NO_COLOR", tc.noColor)
			t.Setenv("TERM", tc.term)
			if got := (&tool{color: colorAuto}).paints(tc.out); got != tc.want {
				t.Errorf("colours: %v, want %v", got, tc.want)
			}
		})
	}
}

// TestPlugin is for a user of kubectl, who has the program in the PATH as kubectl-tailgate.
func TestPlugin(t *testing.T) {
	var out bytes.Buffer
	root := (&tool{now: time.Now}).root("kubectl-tailgate")
	root.SetArgs([]string{"drain", "--help"})
	root.SetOut(&out)
	if err := root.ExecuteContext(t.Context()); err != nil {
		t.Fatal(err)
	}
	if want := "kubectl tailgate drain CLUSTER|SERVICE"; !strings.Contains(out.String(), want) {
		t.Errorf("the help does not say %q:\n%s", want, out.String())
	}
}

func TestEmptyFederationSaysWhatToDo(t *testing.T) {
	for _, tc := range []struct{ command, want string }{
		{"status", "tailgate join"}, {"vips", "TailscaleGateway"}, {"services", "No cluster exports anything"}, {"journal", "Nothing was decided"},
	} {
		out, _, err := run(t, &hub{}, tc.command)
		if err != nil || !strings.Contains(out, tc.want) {
			t.Errorf("%s: %v\n%s", tc.command, err, out)
		}
	}
}

func TestMistakesSayWhatToDo(t *testing.T) {
	for name, tc := range map[string]struct {
		args  []string
		want  []string
		usage bool
	}{
		"ambiguous":        {[]string{"explain", "webapp"}, []string{"Service/default/webapp", "Service/shop/webapp", "in full"}, true},
		"nearly":           {[]string{"explain", "weba"}, []string{"did you mean Service/default/webapp"}, false},
		"nowhere":          {[]string{"explain", "zzz"}, []string{"not found", "tailgate services"}, false},
		"no-member":        {[]string{"drain", "cluster9"}, []string{"cluster9", "cluster1, cluster2, cluster3"}, false},
		"service-alone":    {[]string{"drain", "default/webapp"}, []string{"--cluster"}, true},
		"missing-argument": {[]string{"drain"}, []string{"accepts 1 arg", "--help"}, true},
		"missing-flag":     {[]string{"endpoints", "default/webapp"}, []string{`"from" not set`}, false},
		"unknown-flag":     {[]string{"status", "--loud"}, []string{"--loud"}, true},
		"format":           {[]string{"status", "-o", "xml"}, []string{"table, wide, json or yaml"}, true},
		"no-decisions":     {[]string{"journal", "--limit", "0"}, []string{"--limit 0", "at least 1"}, true},
		"color":            {[]string{"status", "--color", "pink"}, []string{"auto, always or never"}, true},
		"unwell":           {[]string{"status", "--check"}, []string{"cluster3 is unhealthy (UnreachableByQuorum)", "cluster1 does not reach cluster3"}, false},
		"bad-id":           {[]string{"join", "--cluster", "No_Label"}, []string{"--cluster", "No_Label"}, true},
		"no-file":          {[]string{"store", "check", filepath.Join(t.TempDir(), "hub.db")}, []string{"no such file"}, false},
	} {
		t.Run(name, func(t *testing.T) {
			_, _, err := run(t, federationOfThree(), tc.args...)
			if err == nil {
				t.Fatal("no error")
			}
			for _, want := range tc.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q does not say %q", err, want)
				}
			}
			if _, usage := errors.AsType[usageError](err); usage != tc.usage {
				t.Errorf("usage error: %v, want %v", usage, tc.usage)
			}
		})
	}
}

// TestTheJournalIsAsLongAsAsked asks for more decisions than the hub returns at once.
func TestTheJournalIsAsLongAsAsked(t *testing.T) {
	h := federationOfThree()
	last := h.records[len(h.records)-1]
	for range 2_500 {
		last.Seq++
		h.records = append(h.records, last)
	}
	for _, limit := range []int{1, operator.MaxRecords, operator.MaxRecords + 1, 2_200, len(h.records), len(h.records) + 1} {
		out, _, err := run(t, h, "journal", "-o", "json", "--limit", strconv.Itoa(limit))
		if err != nil {
			t.Fatal(err)
		}
		var got []operator.Record
		if err := json.Unmarshal([]byte(out), &got); err != nil {
			t.Fatal(err)
		}
		if want := h.records[max(0, len(h.records)-limit):]; len(got) != len(want) || got[0].Seq != want[0].Seq || got[len(got)-1].Seq != last.Seq {
			t.Errorf("--limit %d: %d decisions from %d to %d, want %d from %d to %d",
				limit, len(got), got[0].Seq, got[len(got)-1].Seq, len(want), want[0].Seq, last.Seq)
		}
	}
}

func TestADrainIsFollowedToItsEnd(t *testing.T) {
	h := federationOfThree()
	h.shares = []uint8{100, 60, 60, 20, 0}
	out, _, err := run(t, h, "drain", "cluster2", "--ramp", "30s")
	if err != nil {
		t.Fatal(err)
	}
	want := "cluster2: takes 100% of its share\ncluster2: takes 60% of its share\ncluster2: takes 20% of its share\ncluster2: takes 0% of its share\ncluster2: drained\n"
	if diff := cmp.Diff(want, out); diff != "" {
		t.Errorf("output (-want +got)\n%s", diff)
	}
	if diff := cmp.Diff([]operator.Wish{{Cluster: "cluster2", Mode: failover.Drain, Ramp: 30 * time.Second}}, h.wishes); diff != "" {
		t.Errorf("wishes (-want +got)\n%s", diff)
	}
}

func TestADrainThatSomebodyTookBackEnds(t *testing.T) {
	h := federationOfThree()
	h.shares = []uint8{100, 80}
	_, _, err := run(t, h, "drain", "cluster2")
	if err == nil || !strings.Contains(err.Error(), "somebody took the drain back") {
		t.Errorf("error %v", err)
	}
}

func TestWishes(t *testing.T) {
	for name, tc := range map[string]struct {
		args []string
		want operator.Wish
	}{
		"cordon-a-cluster": {[]string{"cordon", "cluster1"}, operator.Wish{Cluster: "cluster1", Mode: failover.Cordon, Ramp: -1}},
		"uncordon":         {[]string{"uncordon", "cluster1"}, operator.Wish{Cluster: "cluster1", Ramp: -1}},
		"drain-an-export": {
			[]string{"drain", "shop/webapp", "--cluster", "cluster2", "--wait=false"},
			operator.Wish{Cluster: "cluster2", Service: service("shop", "webapp"), Mode: failover.Drain, Ramp: -1},
		},
		"pin": {
			[]string{"pin", "shop/webapp", "--cluster", "cluster2"},
			operator.Wish{Cluster: "cluster2", Service: service("shop", "webapp"), Mode: failover.Pin, Ramp: -1},
		},
	} {
		t.Run(name, func(t *testing.T) {
			h := federationOfThree()
			if _, _, err := run(t, h, tc.args...); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff([]operator.Wish{tc.want}, h.wishes); diff != "" {
				t.Errorf("wishes (-want +got)\n%s", diff)
			}
		})
	}
}

// TestADryRunChangesNothing: there is no wish.
func TestADryRunChangesNothing(t *testing.T) {
	h := federationOfThree()
	if _, _, err := run(t, h, "drain", "cluster2", "--dry-run"); err != nil || len(h.wishes) > 0 {
		t.Errorf("%v, %v", h.wishes, err)
	}
}

// TestJoinPrintsWhatTheMemberNeeds: the key stands in the Secret and nowhere else.
func TestJoinPrintsWhatTheMemberNeeds(t *testing.T) {
	values := filepath.Join(t.TempDir(), "values.yaml")
	out, errOut, err := run(t, &hub{}, "join", "--cluster", "cluster4", "--values", values)
	if err != nil {
		t.Fatal(err)
	}
	var secret corev1.Secret
	documents := strings.Split(out, "---\n")
	if err := yaml.UnmarshalStrict([]byte(documents[len(documents)-1]), &secret); err != nil {
		t.Fatal(err)
	}
	if secret.Name != joinKeySecret || secret.Namespace != spokeNamespace || secret.StringData[joinKeyField] != "key-of-cluster4" {
		t.Errorf("got %+v", secret)
	}
	written, err := os.ReadFile(values)
	if err != nil {
		t.Fatal(err)
	}
	want := "cluster:\n  id: cluster4\ncontrolURL: http://control\nhub:\n  address: tailgate-hub:7443\n  tag: tag:tailgate-hub\n"
	if diff := cmp.Diff(want, string(written)); diff != "" {
		t.Errorf("values (-want +got)\n%s", diff)
	}
	if strings.Contains(errOut+string(written), "key-of-cluster4") || !strings.Contains(errOut, "13:00 UTC") {
		t.Errorf("said %q", errOut)
	}
}

func TestTheHubsPodIsFound(t *testing.T) {
	pod := func(name string, ready corev1.ConditionStatus, reason string) *corev1.Pod {
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "tailgate-system", Labels: map[string]string{"app.kubernetes.io/name": "tailgate-hub"}}}
		p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: ready}}
		if reason != "" {
			p.Status.ContainerStatuses = []corev1.ContainerStatus{{State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason}}}}
		}
		return p
	}
	for name, tc := range map[string]struct {
		pods []*corev1.Pod
		want string
		err  string
	}{
		"the-one-that-leads": {[]*corev1.Pod{pod("tailgate-hub-0", corev1.ConditionFalse, ""), pod("tailgate-hub-1", corev1.ConditionTrue, "")}, "tailgate-hub-1", ""},
		"none":               {nil, "", "is this the management cluster?"},
		"crashing":           {[]*corev1.Pod{pod("tailgate-hub-0", corev1.ConditionFalse, "CrashLoopBackOff")}, "", "CrashLoopBackOff; see: kubectl --namespace tailgate-system logs tailgate-hub-0"},
	} {
		t.Run(name, func(t *testing.T) {
			var objects []runtime.Object
			for _, p := range tc.pods {
				objects = append(objects, p)
			}
			got, err := findHub(t.Context(), fake.NewClientset(objects...), "tailgate-system")
			if got != tc.want || (tc.err == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), tc.err) {
				t.Errorf("got %q, %v, want %q, %q", got, err, tc.want, tc.err)
			}
		})
	}
}

func TestTheStoreIsCheckedBackedUpAndRestored(t *testing.T) {
	dir := t.TempDir()
	file, backup, again := filepath.Join(dir, "hub.db"), filepath.Join(dir, "backup"), filepath.Join(dir, "again.db")
	makeStore(t, file)
	for _, args := range [][]string{{"check", file}, {"backup", file, backup}, {"restore", backup, again}, {"check", again}} {
		if out, _, err := run(t, &hub{}, append([]string{"store"}, args...)...); err != nil {
			t.Fatalf("%v: %v\n%s", args, err, out)
		}
	}
	if _, _, err := run(t, &hub{}, "store", "restore", backup, again); err == nil || !strings.Contains(err.Error(), "move it away first") {
		t.Errorf("restored over a file that was there: %v", err)
	}
	if _, _, err := run(t, &hub{}, "store", "backup", file, backup); err == nil {
		t.Error("a backup was overwritten")
	}
}

func TestCompletionAsksTheHub(t *testing.T) {
	for _, tc := range []struct{ args, want []string }{
		{[]string{"__complete", "drain", ""}, []string{"cluster1", "cluster2", "cluster3"}},
		{[]string{"__complete", "explain", ""}, []string{"default/webapp", "shop/webapp"}},
		{[]string{"__complete", "endpoints", "default/webapp", "--from", ""}, []string{"cluster1", "cluster2", "cluster3"}},
	} {
		out, _, err := run(t, federationOfThree(), tc.args...)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(tc.want, strings.Fields(strings.Split(out, "\n:")[0])); diff != "" {
			t.Errorf("%v (-want +got)\n%s", tc.args, diff)
		}
	}
}
