package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/tailgate-project/tailgate/e2e-kind/controlplane"
	"github.com/tailgate-project/tailgate/e2e-kind/lab"
	"github.com/tailgate-project/tailgate/e2e-kind/standin/events"
)

const (
	changes = 100
	// changeTimeout is after how long a change counts as never seen.
	changeTimeout = 30 * time.Second
	// slow changes are named on standard error.
	slow    = 500 * time.Millisecond
	edsType = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"
)

// localObjects is a Service of cluster1 with a route of the user's own: Envoy Gateway translates its endpoints itself.
const localObjects = `
apiVersion: v1
kind: Service
metadata: {name: local, namespace: default, annotations: {gateway.tailscale.com/expose: "false"}}
spec: {ports: [{port: 80, targetPort: 9080}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: local-1, namespace: default, labels: {kubernetes.io/service-name: local}}
addressType: IPv4
ports: [{port: 9080, protocol: TCP}]
endpoints: [{addresses: ["10.50.11.9"], conditions: {ready: true}}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: local, namespace: default}
spec:
  parentRefs: [{name: main-gateway}]
  rules: [{matches: [{path: {type: PathPrefix, value: /local}}], backendRefs: [{name: local, port: 80}]}]
`

// measurement is one line of the benchmark's output.
type measurement struct {
	Benchmark string  `json:"benchmark"`
	Path      string  `json:"path"`
	Changes   int     `json:"changes"`
	P50MS     float64 `json:"p50_ms"`
	P99MS     float64 `json:"p99_ms"`
	MaxMS     float64 `json:"max_ms"`
	DataPlane string  `json:"data_plane"`
}

// bencher measures how long a change of an EndpointSlice takes to cluster1's Envoy.
type bencher struct {
	lab     *lab.Lab
	printer *printer
	events  string // the stand-in's
}

// bench compares Tailgate's way, from another cluster, with Envoy Gateway's own, in the same cluster. Both lines are
// of the same run, so that the machine's load is the same for both.
func bench(ctx context.Context, l *lab.Lab, p *printer, dir string) error {
	b := &bencher{lab: l, printer: p, events: eventsFile(dir)}
	s := &scenario{lab: l, printer: p}
	if err := s.first(ctx, &result{}); err != nil {
		return err
	}
	config, err := clientcmd.BuildConfigFromFlags("", l.Kubeconfig("cluster1"))
	if err != nil {
		return err
	}
	if err := controlplane.Apply(ctx, config, []byte(localObjects)); err != nil {
		return err
	}
	ours, err := b.measure(ctx, target{cluster: "cluster2", service: "webapp", assignment: "tsgw/cluster/cluster2/default/webapp"})
	if err != nil {
		return fmt.Errorf("through Tailgate: %w", err)
	}
	theirs, err := b.measure(ctx, target{cluster: "cluster1", service: "local", assignment: "httproute/default/local/rule/0"})
	if err != nil {
		return fmt.Errorf("through Envoy Gateway: %w", err)
	}
	out := json.NewEncoder(os.Stdout)
	return errors.Join(
		out.Encode(summarize("tailgate: EndpointSlice in cluster2 to EDS at cluster1's Envoy", ours)),
		out.Encode(summarize("baseline, envoy gateway: EndpointSlice in cluster1 to EDS at cluster1's Envoy", theirs)),
	)
}

// target is an EndpointSlice to change and the assignment that the change shows in.
type target struct{ cluster, service, assignment string }

func (b *bencher) measure(ctx context.Context, t target) ([]time.Duration, error) {
	config, err := clientcmd.BuildConfigFromFlags("", b.lab.Kubeconfig(t.cluster))
	if err != nil {
		return nil, err
	}
	config.QPS = -1 // the client's own rate limit would be what is measured
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	slices, err := client.DiscoveryV1().EndpointSlices("default").List(ctx, metav1.ListOptions{LabelSelector: discoveryv1.LabelServiceName + "=" + t.service})
	if err != nil || len(slices.Items) != 1 {
		return nil, fmt.Errorf("want one EndpointSlice of %s, found %d: %w", t.service, len(slices.Items), err)
	}
	var took []time.Duration
	for i := range changes {
		patch := fmt.Appendf(nil, `[{"op":"replace","path":"/endpoints/0/conditions/ready","value":%v}]`, i%2 == 1)
		start := time.Now()
		if _, err := client.DiscoveryV1().EndpointSlices("default").Patch(ctx, slices.Items[0].Name, types.JSONPatchType, patch, metav1.PatchOptions{}); err != nil {
			return nil, err
		}
		var at time.Time
		err := poll(ctx, changeTimeout, func() (bool, error) {
			at, err = b.received(t.assignment, start)
			return !at.IsZero(), err
		})
		if err != nil {
			return nil, fmt.Errorf("change %d of %s: %w", i, t.service, err)
		}
		took = append(took, at.Sub(start))
		if d := at.Sub(start); d > slow {
			b.printer.line("change %d of %s took %v", i, t.service, d)
		}
	}
	return took, nil
}

// received returns when the stand-in applied the assignment for the first time after a moment, zero if it has not.
func (b *bencher) received(assignment string, after time.Time) (time.Time, error) {
	f, err := os.Open(b.events)
	if err != nil {
		return time.Time{}, err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var e events.Event
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			break // the last line is being written
		}
		if e.Type == edsType && e.Outcome == events.Ack && e.Time.After(after) && slices.Contains(e.Names, assignment) {
			return e.Time, nil
		}
	}
	return time.Time{}, lines.Err()
}

func summarize(path string, took []time.Duration) measurement {
	slices.Sort(took)
	at := func(q float64) float64 { return ms(took[min(len(took)-1, int(q*float64(len(took))))]) }
	return measurement{
		Benchmark: "endpoint-change-to-eds", Path: path, Changes: len(took),
		P50MS: at(0.50), P99MS: at(0.99), MaxMS: at(1), DataPlane: "stand-in",
	}
}

// poll calls f every millisecond until it says that it is so, fails, or the time is over.
func poll(ctx context.Context, timeout time.Duration, f func() (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	ticker := time.NewTicker(time.Millisecond)
	defer ticker.Stop()
	for {
		if ok, err := f(); ok || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("not seen within %v", timeout)
		case <-ticker.C:
		}
	}
}

// eventsFile is where cluster1's stand-in writes what it received.
func eventsFile(dir string) string { return filepath.Join(dir, "run", "cluster1", "eds-events.json") }

// recording is a program that starts the stand-in so that it writes its events. The bench needs the stand-in: a real
// Envoy does not say when it applied an assignment.
func recording(dir, standin string) (string, error) {
	path := filepath.Join(dir, "run", "recording-standin")
	script := fmt.Sprintf("#!/bin/sh\nexec %q \"$@\" --standin-events %q/\"$(hostname)\"/eds-events.json\n", standin, filepath.Join(dir, "run"))
	return path, os.WriteFile(path, []byte(script), 0o755)
}
