package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/tailgate-project/tailgate/api/v1alpha1"
	"github.com/tailgate-project/tailgate/e2e-kind/lab"
	"github.com/tailgate-project/tailgate/e2e-kind/tailnet"
)

const (
	// alone is the one cluster, which is its own management cluster.
	alone = "cluster1"
	// adminLatency is what an answer of Tailscale's admin API may take.
	adminLatency = 50 * time.Millisecond
	scaleTimeout = 5 * time.Minute
	// quietFor is how long nothing may have been written before the federation counts as idle: what a member has reached is
	// written once a minute.
	quietFor = 70 * time.Second
	// syncInterval is the TailscaleGateway's default: how often the admin API may be read.
	syncInterval = 30 * time.Second
	askers       = 8
)

// exposed is what the benchmark says of a cluster with many exposed Services.
type exposed struct {
	Benchmark string `json:"benchmark"`
	Services  int    `json:"services"`
	// ColdMS is from the change of the TailscaleGateway to the moment when the tailnet routes all VIPs to a host. Its
	// baseline is BareMS: as many PUTs of services by a bare client with the same number of calls at a time.
	ColdMS int64 `json:"cold_ms"`
	BareMS int64 `json:"bare_ms"`
	// Reached counts the VIPs that answered a client in the tailnet.
	Reached int `json:"reached"`
	// OneMoreMS is from the creation of one more Service to its first answer.
	OneMoreMS      int64          `json:"one_more_ms"`
	AdminLatencyMS int64          `json:"admin_latency_ms"`
	AdminCalls     int            `json:"admin_calls"`
	ResidentMiB    map[string]int `json:"resident_mib"`
}

// quiet is what the benchmark says of a federation in which nothing happens.
type quiet struct {
	Benchmark string `json:"benchmark"`
	Services  int    `json:"services"`
	Seconds   int    `json:"seconds"`
	// Updates are the requests by which somebody changed an object of the API server, by verb and resource.
	Updates map[string]int `json:"updates"`
	// AdminReads are the requests to the admin API.
	AdminReads map[string]int `json:"admin_reads"`
}

// scaling measures a cluster that exposes many Services.
type scaling struct {
	lab      *lab.Lab
	printer  *printer
	services int
	idle     time.Duration
	dir      string

	client  *kubernetes.Clientset
	dynamic dynamic.Interface
	laptop  *http.Client
}

func (s *scaling) run(ctx context.Context) error {
	config, err := clientcmd.BuildConfigFromFlags("", s.lab.Kubeconfig(alone))
	if err != nil {
		return err
	}
	config.QPS = -1
	if s.client, err = kubernetes.NewForConfig(config); err != nil {
		return err
	}
	if s.dynamic, err = dynamic.NewForConfig(config); err != nil {
		return err
	}
	key, err := s.lab.MintKey("tag:other")
	if err != nil {
		return err
	}
	node, err := tailnet.Node(ctx, tailnet.NodeOptions{
		Hostname: "laptop", AuthKey: key, Dir: filepath.Join(s.dir, "laptop"), ControlURL: s.lab.ControlURL(), AcceptRoutes: true,
	})
	if err != nil {
		return err
	}
	s.laptop = &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DialContext: node.Dial, DisableKeepAlives: true}}
	return errors.Join(s.measure(ctx), node.Close())
}

func (s *scaling) measure(ctx context.Context) error {
	out := json.NewEncoder(os.Stdout)
	e := exposed{Benchmark: "exposed-services", Services: s.services, AdminLatencyMS: adminLatency.Milliseconds()}
	s.printer.head(fmt.Sprintf("%d Services", s.services))
	err := each(ctx, s.services, func(ctx context.Context, i int) error { return s.create(ctx, many(i)) })
	if err != nil {
		return err
	}
	if err := s.cold(ctx, &e); err != nil {
		return err
	}
	if e.Reached, err = s.reach(ctx); err != nil {
		return err
	}
	if err := s.oneMore(ctx, &e); err != nil {
		return err
	}
	if e.ResidentMiB, err = resident(s.dir); err != nil {
		return err
	}
	q, err := s.watchIdle(ctx)
	return errors.Join(err, out.Encode(e), out.Encode(q), verdictOfScale(e, q))
}

func verdictOfScale(e exposed, q quiet) error {
	var errs []error
	if e.Reached != e.Services {
		errs = append(errs, fmt.Errorf("%d of %d VIPs answered", e.Reached, e.Services))
	}
	if len(q.Updates) > 0 {
		errs = append(errs, fmt.Errorf("an idle federation wrote to the API server: %v", q.Updates))
	}
	reads := 0
	for _, n := range q.AdminReads {
		reads += n
	}
	if most := q.Seconds/int(syncInterval.Seconds()) + 1; reads > most {
		errs = append(errs, fmt.Errorf("an idle federation asked the admin API %d times, want %d at most: %v", reads, most, q.AdminReads))
	}
	return errors.Join(errs...)
}

// each does something for each number below n, some at a time.
func each(ctx context.Context, n int, do func(ctx context.Context, i int) error) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(askers)
	for i := range n {
		g.Go(func() error { return do(ctx, i) })
	}
	return g.Wait()
}

func many(i int) string { return fmt.Sprintf("many-%04d", i) }

// create makes a Service whose endpoint is the workload's one pod.
func (s *scaling) create(ctx context.Context, name string) error {
	svc := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Name: "http", Port: 80}}},
	}
	pod, err := s.client.DiscoveryV1().EndpointSlices("default").List(ctx, metav1.ListOptions{LabelSelector: discoveryv1.LabelServiceName + "=webapp"})
	if err != nil || len(pod.Items) != 1 {
		return fmt.Errorf("want one EndpointSlice of webapp, found %d: %w", len(pod.Items), err)
	}
	slice := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Name: name, Labels: map[string]string{discoveryv1.LabelServiceName: name}},
		AddressType: discoveryv1.AddressTypeIPv4, Endpoints: pod.Items[0].Endpoints,
		Ports: []discoveryv1.EndpointPort{{Name: new("http"), Port: pod.Items[0].Ports[0].Port, Protocol: new(corev1.ProtocolTCP)}},
	}
	if _, err := s.client.DiscoveryV1().EndpointSlices("default").Create(ctx, slice, metav1.CreateOptions{}); err != nil {
		return err
	}
	_, err = s.client.CoreV1().Services("default").Create(ctx, svc, metav1.CreateOptions{})
	return err
}

// cold exposes all Services at once.
func (s *scaling) cold(ctx context.Context, e *exposed) error {
	before := len(s.routed())
	calls := s.calls()
	patch := []byte(`[{"op":"replace","path":"/spec/tailnets/0/serviceDiscovery/patterns","value":["webapp*","many-*"]}]`)
	start := time.Now()
	_, err := s.dynamic.Resource(v1alpha1.GroupVersion.WithResource("tailscalegateways")).Namespace("default").
		Patch(ctx, "main-tailscale-gateway", types.JSONPatchType, patch, metav1.PatchOptions{})
	if err != nil {
		return err
	}
	if err := poll(ctx, scaleTimeout, func() (bool, error) { return len(s.routed()) >= before+s.services, nil }); err != nil {
		return fmt.Errorf("%d of %d VIPs have a host: %w", len(s.routed())-before, s.services, err)
	}
	e.ColdMS = time.Since(start).Milliseconds()
	e.AdminCalls = s.calls() - calls
	s.printer.line("all VIPs have a host after %v, with %d calls of the admin API", time.Since(start).Round(time.Millisecond), e.AdminCalls)
	e.BareMS, err = s.bare(ctx)
	return err
}

// bare asks the admin API as often, and as often at a time, as the hub at least has to, for things that cost it nothing.
func (s *scaling) bare(ctx context.Context) (int64, error) {
	start := time.Now()
	err := each(ctx, s.services, func(ctx context.Context, _ int) error {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.lab.ControlURL()+"/api/v2/tailnet/-/keys", nil)
		if err != nil {
			return err
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return err
		}
		return resp.Body.Close()
	})
	return time.Since(start).Milliseconds(), err
}

// routed are the VIPs that the tailnet routes to a host, by name.
func (s *scaling) routed() map[string]netip.Addr {
	out := map[string]netip.Addr{}
	for _, v := range s.lab.VIPs() {
		if v.Primary != "" {
			out[v.Name] = v.Addrs[0]
		}
	}
	return out
}

func (s *scaling) calls() int {
	n := 0
	for _, c := range s.lab.AdminRequests() {
		n += c
	}
	return n
}

// reach has a client in the tailnet ask each VIP, and counts those that answer.
func (s *scaling) reach(ctx context.Context) (int, error) {
	all := s.routed()
	answered := make([]bool, s.services)
	err := each(ctx, s.services, func(ctx context.Context, i int) error {
		answered[i] = s.ask(ctx, all[vipOf(many(i))])
		return ctx.Err()
	})
	n := 0
	for _, yes := range answered {
		if yes {
			n++
		}
	}
	s.printer.line("%d VIPs answer a client in the tailnet", n)
	return n, err
}

// vipOf is the name of a Service's VIP in the tailnet.
func vipOf(service string) string { return "svc:local-production-" + service + "-" + alone }

func (s *scaling) ask(ctx context.Context, vip netip.Addr) bool {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+netip.AddrPortFrom(vip, 80).String()+"/", nil)
	if err != nil {
		return false
	}
	resp, err := s.laptop.Do(req)
	if err != nil {
		return false
	}
	_ = resp.Body.Close() // the status is enough
	return resp.StatusCode == http.StatusOK
}

func (s *scaling) oneMore(ctx context.Context, e *exposed) error {
	const name = "many-and-one"
	start := time.Now()
	if err := s.create(ctx, name); err != nil {
		return err
	}
	err := poll(ctx, scaleTimeout, func() (bool, error) {
		addr, ok := s.routed()[vipOf(name)]
		return ok && s.ask(ctx, addr), nil
	})
	e.OneMoreMS = time.Since(start).Milliseconds()
	s.printer.line("one more Service answers after %v", time.Since(start).Round(time.Millisecond))
	return err
}

// watchIdle waits until nothing is written for a while, and then counts what is written and asked while nothing happens.
func (s *scaling) watchIdle(ctx context.Context) (quiet, error) {
	q := quiet{Benchmark: "idle", Services: s.services, Seconds: int(s.idle.Seconds())}
	before, err := s.updates(ctx)
	if err != nil {
		return q, err
	}
	last := time.Now()
	err = poll(ctx, scaleTimeout, func() (bool, error) {
		now, err := s.updates(ctx)
		if len(since(before, now)) > 0 {
			before, last = now, time.Now()
		}
		return time.Since(last) >= quietFor, err
	})
	if err != nil {
		return q, fmt.Errorf("the federation does not come to rest: %w", err)
	}
	asked := s.lab.AdminRequests()
	s.printer.line("nothing happens for %v", s.idle)
	select {
	case <-ctx.Done():
		return q, ctx.Err()
	case <-time.After(s.idle):
	}
	after, err := s.updates(ctx)
	q.Updates, q.AdminReads = since(before, after), since(asked, s.lab.AdminRequests())
	return q, err
}

// since returns what was added.
func since(before, after map[string]int) map[string]int {
	out := map[string]int{}
	for k, n := range after {
		if n > before[k] {
			out[k] = n - before[k]
		}
	}
	return out
}

// updates counts the requests by which objects of the API server were changed, by verb and resource. Leases are left out:
// the API server keeps one of its own.
func (s *scaling) updates(ctx context.Context) (map[string]int, error) {
	text, err := s.client.CoreV1().RESTClient().Get().AbsPath("/metrics").DoRaw(ctx)
	if err != nil {
		return nil, err
	}
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(strings.NewReader(string(text)))
	if err != nil {
		return nil, err
	}
	out := map[string]int{}
	for _, m := range families["apiserver_request_total"].GetMetric() {
		labels := map[string]string{}
		for _, l := range m.GetLabel() {
			labels[l.GetName()] = l.GetValue()
		}
		verb, resource := labels["verb"], labels["resource"]
		if slices.Contains([]string{"POST", "PUT", "PATCH", "APPLY", "DELETE"}, verb) && resource != "leases" {
			out[strings.TrimSuffix(verb+" "+resource+"/"+labels["subresource"], "/")] += int(m.GetCounter().GetValue())
		}
	}
	return out, nil
}

// resident returns what the programs of the lab in a directory occupy, in MiB, by what they are.
func resident(dir string) (map[string]int, error) {
	out := map[string]int{}
	processes, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		return nil, err
	}
	for _, p := range processes {
		line, err := os.ReadFile(p)
		if err != nil {
			continue // it has ended
		}
		args := strings.Split(string(line), "\x00")
		name := programOf(args)
		if name == "" || !strings.Contains(string(line), dir) {
			continue
		}
		status, err := os.ReadFile(filepath.Join(filepath.Dir(p), "status"))
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(status)) {
			if kib, ok := strings.CutPrefix(line, "VmRSS:"); ok {
				n, err := strconv.Atoi(strings.Fields(kib)[0])
				if err != nil {
					return nil, err
				}
				out[name] += n / 1024
			}
		}
	}
	return out, nil
}

// programOf says which of Tailgate's programs a command line is: hub, spoke, ingress or egress.
func programOf(args []string) string {
	if len(args) < 2 {
		return ""
	}
	switch program := filepath.Base(args[0]); {
	case args[1] == "run" && (program == "hub" || program == "spoke"):
		return program
	case args[1] == "proxy" && program == "spoke":
		if i := slices.Index(args, "--role"); i > 0 && i+1 < len(args) {
			return args[i+1]
		}
	}
	return ""
}
