package envoygateway_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/tailgate-project/tailgate/extension"
	"github.com/tailgate-project/tailgate/federation"
)

// The size of the benchmark: routes of the user's, the hosts that they share, services of the federation, and how often
// a route is changed in each of the turns that Envoy Gateway takes with and without our hooks.
const (
	costRoutes   = 2000
	costHosts    = 20
	costServices = 20
	costChanges  = 8
	costTurns    = 5
)

// cost is a line of the benchmark's output.
type cost struct {
	Benchmark string `json:"benchmark"`
	Variant   string `json:"variant"`
	Routes    int    `json:"routes"`
	Hosts     int    `json:"hosts"`
	Services  int    `json:"services"`
	// Median and Max are of the time from the change of a route to the Envoy that has it, in milliseconds.
	Median float64 `json:"median_ms"`
	Max    float64 `json:"max_ms"`
	// CPU is the processor time of Envoy Gateway for a change, in milliseconds: it depends less on what else the machine does.
	CPU float64 `json:"gateway_cpu_ms"`
	// Ratio is of the medians, to that without hooks, and CPURatio likewise.
	Ratio    float64 `json:"ratio,omitempty"`
	CPURatio float64 `json:"gateway_cpu_ratio,omitempty"`
	// Request and Response are the hook's last messages, Limit what both sides allow, in bytes.
	Request  int `json:"request_bytes,omitempty"`
	Response int `json:"response_bytes,omitempty"`
	Limit    int `json:"limit_bytes,omitempty"`
}

// BenchmarkTranslation changes one of many HTTPRoutes and waits until an Envoy has been told: with our hooks and, in the
// same run and on the same objects, without. Hooks without services show what the calls cost alone, before there is a
// route of ours. It prints JSON lines.
//
// What is left of the cost is Envoy Gateway's own: it encodes all that it has for the hook, and decodes it again. How many
// services there are makes little difference, as their paths share their routes.
func BenchmarkTranslation(b *testing.B) {
	for range b.N {
		benchmarkTranslation(b)
	}
}

func benchmarkTranslation(b *testing.B) {
	w := newWorld(b)
	objects := gatewayObjects + service("svc", "10.0.0.1")
	for i := range costRoutes {
		objects += costRoute(i)
	}
	w.apply(objects)
	full := costSnapshot()
	settings := w.startHooks(full)
	variants := []struct {
		name     string
		settings map[string]any
		services int
	}{{"without hooks", nil, 0}, {"with hooks, no services", settings, 0}, {"with hooks", settings, costServices}}
	took := make([][]time.Duration, len(variants))
	used := make([]time.Duration, len(variants))
	lines := make([]cost, len(variants))
	for range costTurns {
		for i, v := range variants {
			snap := full
			snap.Services = full.Services[:v.services]
			w.hooks.SetSnapshot(snap)
			stop := w.startGateway(v.settings)
			more, cpu := w.change(costChanges)
			took[i] = append(took[i], more...)
			used[i] += cpu
			stop()
			lines[i] = line(v.name, v.services, took[i])
			lines[i].CPU = float64(used[i].Microseconds()) / 1000 / float64(len(took[i]))
			if v.settings != nil {
				h := w.hooks.Status().Hooks[extension.HookTranslation]
				lines[i].Request, lines[i].Response, lines[i].Limit = h.Request, h.Response, extension.MaxMessage
			}
		}
	}
	for i, c := range lines {
		if i > 0 {
			c.Ratio, c.CPURatio = c.Median/lines[0].Median, c.CPU/lines[0].CPU
			b.ReportMetric(c.Ratio, strings.ReplaceAll(c.Variant, " ", "-"))
		}
		w.must(json.NewEncoder(os.Stdout).Encode(c))
	}
	h := w.hooks.Status().Hooks[extension.HookTranslation]
	if h.Failures > 0 || h.Calls == 0 || len(w.hooks.Status().Notes) > 0 {
		b.Errorf("the hooks were called %d times and failed %d times: %s %v", h.Calls, h.Failures, h.LastError, w.hooks.Status().Notes)
	}
}

func line(variant string, services int, took []time.Duration) cost {
	slices.Sort(took)
	ms := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
	return cost{
		Benchmark: "envoy gateway translation", Variant: variant, Routes: costRoutes, Hosts: costHosts, Services: services,
		Median: ms(took[len(took)/2]), Max: ms(took[len(took)-1]),
	}
}

func costRoute(i int) string {
	return fmt.Sprintf(`
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: r%d, namespace: default}
spec:
  parentRefs: [{name: eg}]
  hostnames: [h%d.example.com]
  rules: [{matches: [{path: {type: PathPrefix, value: /r%d}}], backendRefs: [{name: svc, port: 80}]}]`, i, i%costHosts, i)
}

func costSnapshot() extension.Snapshot {
	s := extension.Snapshot{Cluster: "c1", Gateways: []extension.Gateway{{
		Namespace: "default", Name: "eg", Policy: "p", Listeners: []extension.Listener{{Name: "http", Port: 80}},
		Tailnets: []extension.Tailnet{{Egress: extension.RouteTemplate{PathPrefix: "/api/{service}/"}, Ingress: extension.RouteTemplate{HostPattern: "{service}.production.gateway.local"}}},
	}}}
	for i := range costServices {
		s.Services = append(s.Services, extension.Service{
			ID: federation.Service("default", fmt.Sprintf("service%d", i)), Port: 80, Clusters: []federation.ClusterID{"c1", "c2", "c3"},
		})
	}
	return s
}

// change changes a route n times and returns how long each change took to reach an Envoy, and the processor time of Envoy
// Gateway for all of them. The first translation after the start of Envoy Gateway does not count.
func (w *world) change(n int) ([]time.Duration, time.Duration) {
	w.Helper()
	e := w.connect("default/eg", "default/eg/http")
	w.eventually("all routes", func() string {
		if have := len(e.leads("httproute/default/")); have < costRoutes {
			return fmt.Sprintf("%d routes", have)
		}
		return ""
	})
	out := make([]time.Duration, 0, n)
	before := w.gatewayCPU()
	for range n {
		w.generation++
		path := fmt.Sprintf("/changed-%d", w.generation)
		route := &gatewayv1.HTTPRoute{}
		route.Namespace, route.Name = "default", "r7"
		patch := fmt.Sprintf(`{"spec":{"rules":[{"matches":[{"path":{"type":"PathPrefix","value":%q}}],"backendRefs":[{"name":"svc","port":80}]}]}}`, path)
		start := time.Now()
		w.must(w.kube.Patch(w.Context(), route, client.RawPatch("application/merge-patch+json", []byte(patch))))
		select {
		case at := <-e.saw(path):
			out = append(out, at.Sub(start))
		case <-time.After(patience):
			w.Fatalf("%s never came", path)
		}
	}
	return out, w.gatewayCPU() - before
}

// gatewayCPU is the processor time that Envoy Gateway has used since its start.
func (w *world) gatewayCPU() time.Duration {
	w.Helper()
	// The ids of processes are others in /proc than here, but a process is also known by its arguments.
	all, err := filepath.Glob("/proc/[0-9]*/cmdline")
	w.must(err)
	i := slices.IndexFunc(all, func(file string) bool {
		args, err := os.ReadFile(file)
		return err == nil && strings.Contains(string(args), filepath.Join(w.gateway, "envoy-gateway.yaml"))
	})
	if i < 0 {
		w.Fatal("Envoy Gateway does not run")
	}
	text, err := os.ReadFile(filepath.Join(filepath.Dir(all[i]), "stat"))
	w.must(err)
	// The name of the program, which may hold spaces, ends at the last bracket; utime and stime are the 12th and 13th after.
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	var ticks int64
	for _, f := range fields[11:13] {
		n, err := strconv.ParseInt(f, 10, 64)
		w.must(err)
		ticks += n
	}
	const tick = 10 * time.Millisecond // USER_HZ, which is 100 wherever Go runs
	return time.Duration(ticks) * tick
}

// saw returns a channel that gets the time at which a route with the path arrives.
func (e *envoy) saw(path string) <-chan time.Time {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.awaited, e.arrived = path, make(chan time.Time, 1)
	e.lookLocked()
	return e.arrived
}

// lookLocked looks for the awaited path. It needs mu.
func (e *envoy) lookLocked() {
	if e.awaited == "" {
		return
	}
	for _, rc := range e.routes {
		for _, vh := range rc.GetVirtualHosts() {
			if !strings.HasPrefix(vh.GetName(), "default/eg/http/h7_") {
				continue
			}
			for _, r := range vh.GetRoutes() {
				if r.GetMatch().GetPathSeparatedPrefix() == e.awaited {
					e.arrived <- e.now
					e.awaited = ""
					return
				}
			}
		}
	}
}
