package kind

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"sigs.k8s.io/yaml"

	"github.com/tailgate-project/tailgate/e2e-kind/lab"
)

const (
	example    = "deploy/examples/complete-workflow.yaml"
	quickstart = "deploy/examples/quickstart/member.yaml"
	printers   = "e2e-kind/kind/printers.yaml"

	// outsideContainer stands for what is neither in a cluster nor in the tailnet, under the name that the example has for it.
	outsideContainer = "tailgate-outside"
	outsideHost      = "httpbin.org"
	deviceContainer  = "tailgate-device"
	socksPort        = "1080"
)

// Workflow walks through the workflow that users were promised, in cluster1 as a member: what deploy/examples has for one
// is applied beside what the quickstart has made, and looked at with kubectl and by requests, from beside the cluster, through
// another cluster's gateway, and from a device of the tailnet. In the end it is as it was.
func (s *Suite) Workflow(ctx context.Context) (err error) {
	if err := s.reached(ctx); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.endWorkflow(context.WithoutCancel(ctx))) }()
	if err := s.startOutside(ctx); err != nil {
		return err
	}
	w := walk{Suite: s, inside: &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}}
	if w.device, err = s.startDevice(ctx); err != nil {
		return err
	}
	if err := s.applyExample(ctx); err != nil {
		return err
	}
	for _, step := range []struct {
		name string
		do   func(context.Context) error
	}{
		{"step 4: the Gateway joins", w.gatewayJoins}, {"step 5: endpoints, listed and found", w.endpoints}, {"step 6: VIPs", w.vips},
		{"steps 7 and 8: routes and backends", w.routes}, {"step 9: from the tailnet", w.fromTheTailnet},
	} {
		began := time.Now()
		patient, cancel := context.WithTimeout(ctx, patience)
		err := step.do(patient)
		cancel()
		if err != nil {
			return fmt.Errorf("%s: %w", step.name, err)
		}
		fmt.Fprintf(s.Log, "  %s: ok, after %s\n", step.name, time.Since(began).Round(100*time.Millisecond))
	}
	return nil
}

// startOutside starts the server outside, of webapp's image.
func (s *Suite) startOutside(ctx context.Context) error {
	if err := s.run(ctx, "docker", "rm", "--force", outsideContainer); err != nil {
		return err
	}
	return s.run(ctx, "docker", "run", "--detach", "--name", outsideContainer, "--network", "kind", "--network-alias", outsideHost, "--user", "0",
		WebappImage, "-port", "80", "-cluster", "outside")
}

// startDevice has a device join the tailnet, and returns a client that asks from there.
func (s *Suite) startDevice(ctx context.Context) (*http.Client, error) {
	if err := s.run(ctx, "docker", "rm", "--force", deviceContainer); err != nil {
		return nil, err
	}
	key, err := s.tailnet.mintKey(ctx, "tag:tailgate-endpoint")
	if err != nil {
		return nil, err
	}
	cmd := s.command(ctx, "docker", "run", "--detach", "--name", deviceContainer, "--network", "kind", "--user", "0", "--tmpfs", "/tmp", "--env", "TS_AUTHKEY",
		tailnetImage, "device", "-control-url", s.tailnet.url, "-hostname", "printer", "-socks-addr", ":"+socksPort)
	cmd.Env = append(cmd.Env, "TS_AUTHKEY="+key)
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("start the device: %w\n%s", err, out)
	}
	var ready struct{ SOCKS string }
	patient, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if err := s.until(patient, "the device joins the tailnet", func() error {
		out, err := s.output(ctx, "docker", "logs", deviceContainer)
		if err != nil {
			return err
		}
		return json.Unmarshal([]byte(out), &ready)
	}); err != nil {
		return nil, err
	}
	addr, err := s.containerIP(ctx, deviceContainer)
	if err != nil {
		return nil, err
	}
	return &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true, Proxy: http.ProxyURL(&url.URL{Scheme: "socks5", Host: addr + ":" + socksPort}),
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, // the Gateway's certificate is one that the suite has just signed itself
	}}, nil
}

// applyExample gives the Gateway the certificate that the example asks for, and applies what of the example is a member's. The
// rest, the tailnet with its credentials, the quickstart has put into the management cluster.
func (s *Suite) applyExample(ctx context.Context) error {
	cert, key, err := lab.WriteCertificate(s.Dir, "*.production.gateway.local")
	if err != nil {
		return err
	}
	if _, err := s.kubectl(ctx, "cluster1", "create", "secret", "tls", "main-gateway-tls", "--cert="+cert, "--key="+key); err != nil {
		return err
	}
	data, err := os.ReadFile(filepath.Join(s.Root, example))
	if err != nil {
		return err
	}
	var own []string
	for document := range strings.SplitSeq(string(data), "\n---\n") {
		var object struct{ Kind string }
		if err := yaml.Unmarshal([]byte(document), &object); err != nil {
			return fmt.Errorf("%s: %w", example, err)
		}
		if !slices.Contains([]string{"Namespace", "Secret", "TailscaleTailnet"}, object.Kind) {
			own = append(own, document)
		}
	}
	if err := s.pipe(ctx, strings.Join(own, "\n---\n"), "kubectl", "--context", "kind-cluster1", "apply", "-f", "-"); err != nil {
		return err
	}
	for _, args := range [][]string{
		{"apply", "-f", printers},
		{"rollout", "status", "deployment/webapp", "--timeout=120s"},
	} {
		if _, err := s.kubectl(ctx, "cluster1", args...); err != nil {
			return err
		}
	}
	return nil
}

// endWorkflow takes away what the workflow has added.
func (s *Suite) endWorkflow(ctx context.Context) error {
	var errs []error
	for _, args := range [][]string{
		{"delete", "-f", printers, "--ignore-not-found", "--timeout=1m"},
		{"delete", "httproutes/webapp", "httproutes/external", "tailscaleendpoints/external-services", "secrets/main-gateway-tls", "--ignore-not-found", "--timeout=1m"},
		{"apply", "-f", quickstart},
		{"rollout", "status", "deployment/webapp", "--timeout=120s"},
	} {
		_, err := s.kubectl(ctx, "cluster1", args...)
		errs = append(errs, err)
	}
	errs = append(errs, s.run(ctx, "docker", "stop", deviceContainer), s.run(ctx, "docker", "rm", "--force", deviceContainer, outsideContainer))
	return errors.Join(append(errs, s.reached(ctx))...)
}

// walk is the workflow under way.
type walk struct {
	*Suite
	// inside asks from beside the clusters, device from the tailnet.
	inside, device *http.Client
}

// prints waits until kubectl prints a line with all of these words, in their order.
func (w *walk) prints(ctx context.Context, args []string, words ...string) error {
	return w.until(ctx, "kubectl "+strings.Join(args, " "), func() error {
		out, err := w.kubectl(ctx, "cluster1", args...)
		if err != nil {
			return err
		}
		for line := range strings.Lines(out) {
			rest, found := line, true
			for _, word := range words {
				var here bool
				_, rest, here = strings.Cut(rest, word)
				found = found && here
			}
			if found {
				return nil
			}
		}
		return fmt.Errorf("no line with %q in\n%s", words, out)
	})
}

// request is one of the walk, and who should answer it: somebody by name, or webapp in some clusters. Path is what they see.
type request struct {
	url, host string
	webapp    []string
	somebody  string
	path      string
}

// reaches waits until a request is answered by whom it should be.
func (w *walk) reaches(ctx context.Context, c *http.Client, r request) error {
	return w.until(ctx, "GET "+r.url+" "+r.host, func() error {
		by := []string{r.somebody}
		if r.somebody == "" {
			var err error
			if by, err = w.webapps(ctx, r.webapp...); err != nil {
				return err
			}
		}
		a, err := lab.Ask(ctx, c, r.url, r.host)
		if err == nil && (!slices.Contains(by, a.Cluster) || a.Path != r.path) {
			err = fmt.Errorf("answered by %s at %s, want one of %s at %s", a.Cluster, a.Path, by, r.path)
		}
		return err
	})
}

func (w *walk) gatewayJoins(ctx context.Context) error {
	return w.prints(ctx, []string{"get", "tailscalegateway", "main-tailscale-gateway"}, "main-tailscale-gateway", "main-gateway", "True", "Ready")
}

func (w *walk) endpoints(ctx context.Context) error {
	for _, name := range []string{"external-services", "printers"} {
		if err := w.prints(ctx, []string{"get", "tailscaleendpoints", name}, name, "production-tailnet", "1", "True", "Ready"); err != nil {
			return err
		}
	}
	return nil
}

// vip waits for the address of a VIP of cluster1, as the status of its TailscaleGateway tells it.
func (w *walk) vip(ctx context.Context, name string) (addr string, err error) {
	err = w.until(ctx, "the VIP of "+name, func() error {
		path := `jsonpath={.status.services[?(@.name=="` + name + `")].vipAddresses[0]}`
		if addr, err = w.kubectl(ctx, "cluster1", "get", "tailscalegateway", "main-tailscale-gateway", "-o", path); err == nil && addr == "" {
			err = errors.New("the status of the TailscaleGateway has no address of it")
		}
		return err
	})
	return addr, err
}

func (w *walk) vips(ctx context.Context) error {
	for name, target := range map[string]string{
		"gateway-main-gateway-http-80": ".envoy-gateway-system", "gateway-main-gateway-https-443": ".envoy-gateway-system",
		"local-production-webapp": "webapp.default", "local-production-httpbin": "httpbin",
	} {
		addr, err := w.vip(ctx, name)
		if err != nil {
			return err
		}
		services := []string{"get", "services", "--selector", "gateway.tailscale.com/vip-service=true", "--label-columns", "gateway.tailscale.com/target"}
		if err := w.prints(ctx, services, name, "LoadBalancer", addr, "/TCP", target); err != nil {
			return err
		}
	}
	return nil
}

func (w *walk) routes(ctx context.Context) error {
	own, err := w.gateway(ctx, "cluster1")
	if err != nil {
		return err
	}
	other, err := w.gateway(ctx, "cluster2")
	if err != nil {
		return err
	}
	here, all := []string{"cluster1"}, w.Members
	for _, r := range []request{
		{url: own + "/cross-cluster/webapp-cluster1/a/b", webapp: here, path: "/a/b"},
		{url: own + "/cross-cluster/webapp/", webapp: all, path: "/"},
		{url: own + "/gateway/main-gateway-http/cross-cluster/webapp-cluster1/x", webapp: here, path: "/x"},
		{url: own + "/api/webapp/y", webapp: all, path: "/y"},
		{url: own + "/z", host: "webapp.production.gateway.local", webapp: all, path: "/z"},
		{url: own + "/api/httpbin/status/200", somebody: "outside", path: "/status/200"},
		{url: own + "/webapp/", webapp: here, path: "/"},
		{url: own + "/httpbin/status/200", somebody: "outside", path: "/status/200"},
		{url: own + "/print/a-page", somebody: "printer", path: "/print/a-page"},
		{url: other + "/cross-cluster/httpbin-cluster1/get", somebody: "outside", path: "/get"},
		{url: other + "/cross-cluster/webapp-cluster1/", webapp: here, path: "/"},
	} {
		if err := w.reaches(ctx, w.inside, r); err != nil {
			return err
		}
	}
	return nil
}

func (w *walk) fromTheTailnet(ctx context.Context) error {
	for vip, requests := range map[string][]request{
		"gateway-main-gateway-http-80": {
			{url: "http://%s/webapp/", webapp: []string{"cluster1"}, path: "/"},
			{url: "http://%s/api/httpbin/status/200", somebody: "outside", path: "/status/200"},
		},
		"gateway-main-gateway-https-443": {{url: "https://%s/webapp/", webapp: []string{"cluster1"}, path: "/"}},
		"local-production-webapp":        {{url: "http://%s/", webapp: []string{"cluster1"}, path: "/"}},
		"local-production-httpbin":       {{url: "http://%s/get", somebody: "outside", path: "/get"}},
	} {
		addr, err := w.vip(ctx, vip)
		if err != nil {
			return err
		}
		for _, r := range requests {
			r.url = fmt.Sprintf(r.url, addr)
			if err := w.reaches(ctx, w.device, r); err != nil {
				return err
			}
		}
	}
	return nil
}
