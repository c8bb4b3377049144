// Package workflow_test walks through the workflow that users were promised, step by step, in one cluster that is its own
// management cluster: a real API server, the real Envoy Gateway, a real tailnet. What it applies is
// deploy/examples/complete-workflow.yaml, unchanged; what it looks at is what a user looks at, kubectl and curl. The
// kubelet, the tailnet's control server and, where there is no Envoy, Envoy are stand-ins.
package workflow_test

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tailgate-project/tailgate/e2e-kind/assets"
	"github.com/tailgate-project/tailgate/e2e-kind/lab"
	"github.com/tailgate-project/tailgate/e2e-kind/tailnet"
)

const (
	example = "../../deploy/examples/complete-workflow.yaml"
	// looks is how often somebody looks whether something is so, a fifth of a second apart. It is not a time, so that a
	// machine that stands still for a while costs one look.
	looks = 600
)

// user is somebody with kubectl and a device in the tailnet.
type user struct {
	*testing.T
	lab     *lab.Lab
	dir     string
	kubectl string
	// pods says that the proxies are pods.
	pods bool
	// client is the user's device.
	client *http.Client
}

func TestCompleteWorkflow(t *testing.T) { walk(t, &user{T: t, dir: t.TempDir()}) }

// TestWithProxiesAsPods is the same with the proxies as Kubernetes runs them: StatefulSets, whose pods reach the spoke over
// TLS and each other's clusters from addresses of their own.
func TestWithProxiesAsPods(t *testing.T) {
	walk(t, &user{T: t, dir: t.TempDir(), pods: true})
}

func walk(t *testing.T, u *user) {
	u.install()
	u.must(u.apply())
	t.Run("step-2-tailnet", func(t *testing.T) { u.as(t).tailnet() })
	t.Run("step-3-and-4-gateway", func(t *testing.T) { u.as(t).gateway() })
	t.Run("step-5-endpoints", func(t *testing.T) { u.as(t).endpoints() })
	t.Run("step-5-discovery", func(t *testing.T) { u.as(t).discovery() })
	t.Run("step-6-vips", func(t *testing.T) { u.as(t).vips() })
	t.Run("step-7-routes", func(t *testing.T) { u.as(t).routes() })
	t.Run("step-8-backends", func(t *testing.T) { u.as(t).backends() })
	t.Run("step-8-on-the-tailnet-and-mixed", func(t *testing.T) { u.as(t).otherBackends() })
	t.Run("step-9-from-the-tailnet", func(t *testing.T) { u.as(t).fromTheTailnet() })
	if u.pods {
		t.Run("rolling-update", func(t *testing.T) { u.as(t).rollingUpdate() })
	}
	t.Run("changes-apply-hot", func(t *testing.T) { u.as(t).hotChange() })
}

func (u *user) as(t *testing.T) *user {
	next := *u
	next.T = t
	return &next
}

func (u *user) must(err error) {
	u.Helper()
	if err != nil {
		u.Fatal(err)
	}
}

// install is step 1: Envoy Gateway, the hub and a spoke. And it gives the user a device.
func (u *user) install() {
	paths, err := assets.Find(u.Context())
	u.must(err)
	u.kubectl = paths.Kubectl
	bin := os.Getenv(binEnv)
	envoy, _ := lab.FindEnvoy(filepath.Join(bin, "envoy"))
	crds, err := filepath.Abs("../../deploy/crds")
	u.must(err)
	ctx, cancel := context.WithTimeout(u.Context(), 5*time.Minute)
	defer cancel()
	u.lab, err = lab.Start(ctx, lab.Options{
		Dir: u.dir, CRDs: crds, Members: []string{"cluster1"}, Workload: []string{"cluster1"}, Standalone: true, Bare: true, ProxyPods: u.pods,
		Programs: lab.Programs{Hub: filepath.Join(bin, "hub"), Spoke: filepath.Join(bin, "spoke"), Webapp: filepath.Join(bin, "webapp"), Envoy: envoy},
		// The placeholders of the example, and a host that it names.
		OAuth:    tailnet.OAuthClient{ID: "OAUTH-CLIENT-ID", Secret: "OAUTH-CLIENT-SECRET", Tags: []string{"tag:tailgate-proxy"}},
		Outside:  []string{"httpbin.org"},
		Progress: func(s lab.Step) { u.Logf("%s: %s (%v)", s.Machine, s.What, s.Took.Round(time.Millisecond)) },
		Log:      slog.New(slog.NewTextHandler(u.Output(), nil)), FailbackDelay: time.Second,
	})
	u.must(err)
	u.Cleanup(func() {
		if u.Failed() {
			u.keepLogs()
		}
		if err := u.lab.Close(); err != nil {
			u.Error(err)
		}
	})
	key, err := u.lab.MintKey("tag:other")
	u.must(err)
	node, err := tailnet.Node(ctx, tailnet.NodeOptions{Hostname: "laptop", AuthKey: key, Dir: u.TempDir(), ControlURL: u.lab.ControlURL(), AcceptRoutes: true})
	u.must(err)
	u.Cleanup(func() {
		if err := node.Close(); err != nil {
			u.Error(err)
		}
	})
	u.client = &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{
		DialContext: node.Dial, DisableKeepAlives: true,
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, // the user's own certificate, made for this test
	}}
}

// keepLogs prints the ends of the logs of what ran.
func (u *user) keepLogs() {
	names := []string{"hub.log", "spoke.log", "machine.log", "envoy-gateway/envoy-gateway.log"}
	containers, err := filepath.Glob(filepath.Join(u.dir, "cluster1", "pods", "*", "container.log"))
	if err != nil {
		u.Error(err)
	}
	for _, path := range containers {
		names = append(names, strings.TrimPrefix(path, filepath.Join(u.dir, "cluster1")))
	}
	for _, name := range names {
		data, err := os.ReadFile(filepath.Join(u.dir, "cluster1", name))
		if err == nil {
			u.Logf("the end of %s:\n%s", name, data[max(0, len(data)-2500):])
		}
	}
}

// run runs kubectl as the user would, and returns what it prints.
func (u *user) run(args ...string) (string, error) {
	cmd := exec.CommandContext(u.Context(), u.kubectl, append([]string{"--kubeconfig", u.lab.Kubeconfig("cluster1")}, args...)...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return string(out), fmt.Errorf("kubectl %s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out)), nil
}

// apply makes the certificate that the example asks for, and applies the example.
func (u *user) apply() error {
	cert, key, err := lab.WriteCertificate(u.dir, "*.production.gateway.local")
	if err != nil {
		return err
	}
	out, err := u.run("create", "secret", "tls", "main-gateway-tls", "--cert="+cert, "--key="+key)
	if err != nil {
		return err
	}
	u.Log(out)
	out, err = u.run("apply", "-f", example)
	u.Log(out)
	return err
}

// eventually waits until check returns nil.
func (u *user) eventually(what string, check func() error) {
	u.Helper()
	ticker := time.NewTicker(200 * time.Millisecond)
	defer ticker.Stop()
	var err error
	for range looks {
		if err = check(); err == nil {
			return
		}
		<-ticker.C
	}
	u.Fatalf("%s: %v", what, err)
}

// prints waits until kubectl prints a line with all of these words in their order.
func (u *user) prints(args []string, words ...string) string {
	u.Helper()
	var line string
	u.eventually("kubectl "+strings.Join(args, " "), func() error {
		out, err := u.run(args...)
		if err != nil {
			return err
		}
		for line = range strings.Lines(out) {
			rest, all := line, true
			for _, w := range words {
				_, after, found := strings.Cut(rest, w)
				rest, all = after, all && found
			}
			if all {
				return nil
			}
		}
		return fmt.Errorf("no line with %q in\n%s", words, out)
	})
	return line
}

// reaches waits until a request is answered by whom it should be, at the path that it should see.
func (u *user) reaches(c *http.Client, url, host, cluster, path string) {
	u.Helper()
	u.eventually("curl "+url+" "+host, func() error {
		a, err := lab.Ask(u.Context(), c, url, host)
		if err == nil && (a.Cluster != cluster || a.Path != path) {
			err = fmt.Errorf("answered by %s at %s, want %s at %s", a.Cluster, a.Path, cluster, path)
		}
		return err
	})
}

// inside is a client in the cluster's network.
var inside = &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}

func (u *user) tailnet() {
	u.prints([]string{"get", "tailscaletailnets"}, "production-tailnet", "True", "Ready")
}

func (u *user) gateway() {
	u.prints([]string{"get", "tailscalegateway", "main-tailscale-gateway"}, "main-tailscale-gateway", "main-gateway", "True", "Ready")
	u.prints([]string{"get", "memberclusters"}, "cluster1", "True")
}

func (u *user) endpoints() {
	u.prints([]string{"get", "tailscaleendpoints", "external-services"}, "external-services", "production-tailnet", "1", "True", "Ready")
}

// byTag finds a device by its tag, and routes to it.
const byTag = `
apiVersion: gateway.tailscale.com/v1alpha1
kind: TailscaleEndpoints
metadata: {name: printers, namespace: default}
spec:
  tailnet: production-tailnet
  ports: [{port: 80}]
  autoDiscovery:
    syncInterval: 10s
    tagSelectors:
    - {tag: "tag:tailgate-endpoint", operator: Exists}
    - {tag: "tag:other", operator: DoesNotExist}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: printers, namespace: default}
spec:
  parentRefs: [{name: main-gateway}]
  rules:
  - matches: [{path: {type: PathPrefix, value: /print}}]
    backendRefs: [{group: gateway.tailscale.com, kind: TailscaleEndpoints, name: printers, port: 80}]
`

// discovery has a device with a tag appear in the tailnet, which nobody lists anywhere.
func (u *user) discovery() {
	u.prints([]string{"get", "tailscaleendpoints", "main-tailscale-gateway-production", "-o", "wide"}, "main-tailscale-gateway-production", "production-tailnet")
	key, err := u.lab.MintKey("tag:tailgate-endpoint")
	u.must(err)
	device, err := tailnet.Node(u.Context(), tailnet.NodeOptions{Hostname: "printer", AuthKey: key, Dir: u.TempDir(), ControlURL: u.lab.ControlURL()})
	u.must(err)
	u.Cleanup(func() { _ = device.Close() })
	ln, err := device.Listen("tcp", ":80")
	u.must(err)
	go func() {
		_ = http.Serve(ln, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_ = json.NewEncoder(w).Encode(lab.Answer{Cluster: "printer", Path: r.URL.Path})
		}))
	}()
	file := filepath.Join(u.dir, "printers.yaml")
	u.must(os.WriteFile(file, []byte(byTag), 0o600))
	out, err := u.run("apply", "-f", file)
	u.Log(out)
	u.must(err)
	u.prints([]string{"get", "tailscaleendpoints", "printers"}, "printers", "production-tailnet", "1", "True", "Ready")
	u.reaches(inside, u.lab.Gateway("cluster1")+"/print/a-page", "", "printer", "/print/a-page")
}

// vipNames are the VIPs that the example leads to, and what they stand for.
var vipNames = []string{"gateway-main-gateway-http-80", "gateway-main-gateway-https-443", "local-production-webapp", "local-production-httpbin"}

func (u *user) vips() {
	for _, name := range vipNames {
		if u.vip(name) == "" {
			u.Errorf("%s has no VIP", name)
		}
	}
	for name, target := range map[string]string{
		"gateway-main-gateway-http-80": ".envoy-gateway-system", "local-production-webapp": "webapp.default",
	} {
		u.prints([]string{"get", "services", "-l", "gateway.tailscale.com/vip-service=true", "-L", "gateway.tailscale.com/target"},
			name, "LoadBalancer", u.vip(name), "80/TCP", target)
	}
}

// vip returns the address of a VIP, as the status of the TailscaleGateway tells it.
func (u *user) vip(name string) string {
	u.Helper()
	var addr string
	u.eventually("the VIP of "+name, func() error {
		out, err := u.run("get", "tailscalegateway", "main-tailscale-gateway", "-o",
			`jsonpath={.status.services[?(@.name=="`+name+`")].vipAddresses[0]}`)
		if addr = out; err == nil && addr == "" {
			err = fmt.Errorf("the status of the TailscaleGateway has no address of it")
		}
		return err
	})
	return addr
}

func (u *user) routes() {
	gateway := u.lab.Gateway("cluster1")
	u.reaches(inside, gateway+"/cross-cluster/webapp-cluster1/a/b", "", "cluster1", "/a/b")
	u.reaches(inside, gateway+"/cross-cluster/webapp/", "", "cluster1", "/")
	u.reaches(inside, gateway+"/gateway/main-gateway-http/cross-cluster/webapp/x", "", "cluster1", "/x")
	u.reaches(inside, gateway+"/api/webapp/y", "", "cluster1", "/y")
	u.reaches(inside, gateway+"/z", "webapp.production.gateway.local", "cluster1", "/z")
	u.reaches(inside, gateway+"/api/httpbin/status/200", "", "outside", "/status/200")
	u.reaches(inside, gateway+"/cross-cluster/httpbin-cluster1/get", "", "outside", "/get")
}

func (u *user) backends() {
	gateway := u.lab.Gateway("cluster1")
	u.reaches(inside, gateway+"/webapp/", "", "cluster1", "/")
	u.reaches(inside, gateway+"/httpbin/status/200", "", "outside", "/status/200")
}

// onTheTailnet sends to an endpoint by its address on the tailnet, alone and beside a Service: what has that address is the
// VIP of webapp, so that a request goes out by the egress proxy, and comes back by the ingress proxy.
const onTheTailnet = `
apiVersion: gateway.tailscale.com/v1alpha1
kind: TailscaleEndpoints
metadata: {name: by-address, namespace: default}
spec:
  tailnet: production-tailnet
  endpoints:
  - name: webapp-vip
    tailscaleIP: %s
    port: 80
    healthCheck: {path: /healthz, interval: 1s, timeout: 1s, healthyThreshold: 1}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: by-address, namespace: default}
spec:
  parentRefs: [{name: main-gateway}]
  rules:
  - matches: [{path: {type: PathPrefix, value: /by-address}}]
    backendRefs: [{group: gateway.tailscale.com, kind: TailscaleEndpoints, name: by-address, port: 80}]
  - matches: [{path: {type: PathPrefix, value: /mixed}}]
    backendRefs:
    - {name: webapp, port: 80, weight: 1}
    - {group: gateway.tailscale.com, kind: TailscaleEndpoints, name: external-services, port: 80, weight: 3}
  - matches: [{path: {type: PathPrefix, value: /none}}]
    backendRefs:
    - {name: webapp, port: 80, weight: 0}
    - {group: gateway.tailscale.com, kind: TailscaleEndpoints, name: external-services, port: 80, weight: 1}
`

func (u *user) otherBackends() {
	file := filepath.Join(u.dir, "on-the-tailnet.yaml")
	u.must(os.WriteFile(file, fmt.Appendf(nil, onTheTailnet, u.vip("local-production-webapp")), 0o600))
	out, err := u.run("apply", "-f", file)
	u.Log(out)
	u.must(err)
	gateway := u.lab.Gateway("cluster1")
	u.reaches(inside, gateway+"/by-address/x", "", "cluster1", "/by-address/x")
	u.prints([]string{"get", "tailscaleendpoints", "by-address"}, "by-address", "production-tailnet", "1", "1", "True", "Ready")
	u.reaches(inside, gateway+"/mixed/x", "", "outside", "/mixed/x")
	u.shares(gateway+"/mixed/x", 3, 1)
	u.shares(gateway+"/none/x", 1, 0)
}

// shares counts who answers requests, and compares with the weights of what is outside and of webapp.
func (u *user) shares(url string, outside, webapp int) {
	u.Helper()
	const requests = 200
	seen := map[string]int{}
	for range requests {
		a, err := lab.Ask(u.Context(), inside, url, "")
		u.must(err)
		seen[a.Cluster]++
	}
	want := requests * outside / (outside + webapp)
	if got := seen["outside"]; got < want-requests/8 || got > want+requests/8 || webapp == 0 && got != requests || seen["cluster1"] != requests-got {
		u.Errorf("%s: %v of %d requests, want weights %d to %d", url, seen, requests, outside, webapp)
	}
}

func (u *user) fromTheTailnet() {
	http80, https443 := u.vip("gateway-main-gateway-http-80"), u.vip("gateway-main-gateway-https-443")
	u.reaches(u.client, "http://"+http80+"/webapp/", "", "cluster1", "/")
	u.reaches(u.client, "http://"+http80+"/api/httpbin/status/200", "", "outside", "/status/200")
	u.reaches(u.client, "https://"+https443+"/webapp/", "", "cluster1", "/")
	u.reaches(u.client, "http://"+u.vip("local-production-webapp")+"/", "", "cluster1", "/")
	u.reaches(u.client, "http://"+u.vip("local-production-httpbin")+"/get", "", "outside", "/get")
}

// hotChange changes where the egress routes are, and takes a Service out of the tailnet, while all goes on.
func (u *user) hotChange() {
	_, err := u.run("patch", "tailscalegateway", "main-tailscale-gateway", "--type=json", "-p",
		`[{"op":"replace","path":"/spec/tailnets/0/routeGeneration/egress/pathPrefix","value":"/svc/{service}/"}]`)
	u.must(err)
	u.reaches(inside, u.lab.Gateway("cluster1")+"/svc/webapp/y", "", "cluster1", "/y")
	_, err = u.run("annotate", "service", "webapp", "gateway.tailscale.com/expose=false")
	u.must(err)
	u.eventually("the VIP of webapp goes", func() error {
		out, err := u.run("get", "tailscalegateway", "main-tailscale-gateway", "-o", "jsonpath={.status.services[*].name}")
		if err == nil && strings.Contains(out, "local-production-webapp") {
			err = fmt.Errorf("still there: %s", out)
		}
		return err
	})
}

// rollingUpdate changes what the proxies are like, and has somebody ask all the while: from the tailnet by the ingress
// proxies, and from the cluster by the egress proxies, too. Nobody may be left without an answer.
func (u *user) rollingUpdate() {
	loads := map[string]*load{
		"from the tailnet": {client: u.client, url: "http://" + u.vip("gateway-main-gateway-http-80") + "/webapp/"},
		"to the tailnet":   {client: inside, url: u.lab.Gateway("cluster1") + "/by-address/x"},
	}
	ctx, stop := context.WithCancel(u.Context())
	var all sync.WaitGroup
	defer all.Wait()
	defer stop()
	for _, l := range loads {
		all.Go(func() { l.run(ctx) })
	}
	_, err := u.run("patch", "tailscalegateway", "main-tailscale-gateway", "--type=json",
		`-p=[{"op":"add","path":"/spec/tailnets/0/proxy","value":{"nodeSelector":{"pool":"proxies"}}}]`)
	u.must(err)
	for _, role := range []string{"ingress", "egress"} {
		set := "tailgate-" + role + "-production-tailnet"
		u.eventually("the StatefulSet's new template", func() error {
			pool, err := u.run("get", "-n", "tailgate-system", "statefulset", set, "-o", "jsonpath={.spec.template.spec.nodeSelector.pool}")
			if err == nil && pool != "proxies" {
				err = fmt.Errorf("node selector %q", pool)
			}
			return err
		})
		out, err := u.run("rollout", "status", "-n", "tailgate-system", "statefulset", set, "--timeout=3m")
		u.must(err)
		u.Log(out)
	}
	stop()
	all.Wait()
	for name, l := range loads {
		l.report(u, name)
	}
	for _, replica := range []string{"0", "1"} {
		u.prints([]string{"get", "-n", "tailgate-system", "pod", "tailgate-ingress-production-tailnet-" + replica}, "1/1", "Running")
	}
}

// repeats is how often a request is sent again that was cut: as often as by the routes that Tailgate makes.
const repeats = 3

// load is somebody who asks again and again, each time on a new connection. What is under way when a VIP moves to another
// host is cut, as the tailnet routes packets and no connections; so what is idempotent is asked for again. Once is not always
// enough: each of the egress proxies hears of the move for itself, and a request that one cuts may go out by the other and be
// cut there a moment later.
type load struct {
	client *http.Client
	url    string

	outcomes []lab.Outcome
	repeated int
}

func (l *load) run(ctx context.Context) {
	ticker := time.NewTicker(50 * time.Millisecond)
	defer ticker.Stop()
	for ctx.Err() == nil {
		o := lab.Get(context.WithoutCancel(ctx), l.client, l.url)
		for n := 0; o.Failed() && n < repeats; n++ {
			l.repeated++
			o = lab.Get(context.WithoutCancel(ctx), l.client, l.url)
		}
		l.outcomes = append(l.outcomes, o)
		select {
		case <-ticker.C:
		case <-ctx.Done():
		}
	}
}

// report says how many requests had no answer, and the longest time without one.
func (l *load) report(u *user, name string) {
	u.Helper()
	var failed []string
	var gap time.Duration
	last := l.outcomes[0].Start
	for _, o := range l.outcomes {
		if o.Failed() {
			failed = append(failed, fmt.Sprintf("after %v: %s", o.Start.Sub(l.outcomes[0].Start).Round(time.Millisecond), o.Err))
			continue
		}
		gap, last = max(gap, o.End().Sub(last)), o.End()
	}
	u.Logf("%s: %d requests, %d repetitions, %d failed, longest gap %v", name, len(l.outcomes), l.repeated, len(failed), gap.Round(time.Millisecond))
	if l.repeated > 1+len(l.outcomes)/50 {
		u.Errorf("%s: %d repetitions of %d requests", name, l.repeated, len(l.outcomes))
	}
	if len(failed) > 0 {
		u.Errorf("%s: %d of %d requests failed: %s", name, len(failed), len(l.outcomes), strings.Join(failed[:min(len(failed), 10)], "; "))
	}
}
