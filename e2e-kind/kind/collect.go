package kind

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Collect writes what helps to find out what went wrong into the directory's artifacts: the clusters' objects and logs, the
// hub's journal and status, and what each Envoy was given.
func (s *Suite) Collect(ctx context.Context) error {
	dir := s.path("artifacts")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	var errs []error
	write := func(name, text string, err error) {
		if err != nil {
			text = err.Error() // what cannot be had is told in its place
		}
		errs = append(errs, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644))
	}
	keep := func(name string, command ...string) {
		out, err := s.output(ctx, command[0], command[1:]...)
		write(name, out, err)
	}
	for _, c := range s.Clusters() {
		on := "--context=kind-" + c
		keep(c+".pods", "kubectl", on, "get", "pods", "--all-namespaces", "--output", "wide")
		keep(c+".events", "kubectl", on, "get", "events", "--all-namespaces", "--sort-by", ".lastTimestamp")
		keep(c+".objects.yaml", "kubectl", on, "get", "memberclusters,tailscaletailnets,failoverpolicies,tailscalegateways,tailscaleendpoints,gateways,httproutes,services",
			"--all-namespaces", "--ignore-not-found", "--output", "yaml")
		for _, part := range []string{"tailgate-hub", "tailgate-spoke", "tailgate-proxy"} {
			keep(c+"."+part+".log", "kubectl", on, "--namespace", "tailgate-system", "logs", "--selector", "app.kubernetes.io/name="+part, "--prefix", "--tail=-1")
		}
		keep(c+".envoy.log", "kubectl", on, "--namespace", "envoy-gateway-system", "logs", "--selector", "app.kubernetes.io/component=proxy", "--all-containers", "--prefix", "--tail=2000")
	}
	for _, m := range s.Members {
		dump, err := s.configDump(ctx, m)
		write(m+".config_dump.json", dump, err)
	}
	keep("status.json", "tailgate", "--context", "kind-"+Management, "status", "--output", "json")
	keep("journal.json", "tailgate", "--context", "kind-"+Management, "journal", "--limit", "5000", "--output", "json")
	keep("tailnet.log", "docker", "logs", tailnetContainer)
	fmt.Fprintln(s.Log, "what there is to look at:", dir)
	return errors.Join(errs...)
}

// configDump asks an Envoy of a member for what it was given by xDS, at its admin port, to which only its pod has a way.
func (s *Suite) configDump(ctx context.Context, cluster string) (dump string, err error) {
	on := []string{"--namespace", "envoy-gateway-system"}
	pods, err := s.kubectl(ctx, cluster, append(on, "get", "pods", "--selector", "app.kubernetes.io/component=proxy", "--output", "name")...)
	if err != nil {
		return "", err
	}
	pod, _, _ := strings.Cut(pods, "\n")
	if pod == "" {
		return "", fmt.Errorf("%s has no Envoy", cluster)
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	forward := s.command(ctx, "kubectl", append(on, "--context", "kind-"+cluster, "port-forward", pod, ":19000")...)
	out, err := forward.StdoutPipe()
	if err != nil {
		return "", err
	}
	if err := forward.Start(); err != nil {
		return "", fmt.Errorf("forward the admin port of %s: %w", pod, err)
	}
	defer func() {
		cancel()
		_ = forward.Wait() // it was told to end
	}()
	line, err := bufio.NewReader(out).ReadString('\n')
	var port int
	if _, scanErr := fmt.Sscanf(line, "Forwarding from 127.0.0.1:%d", &port); err != nil || scanErr != nil {
		return "", fmt.Errorf("forward the admin port of %s: kubectl says %q", pod, line)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("http://127.0.0.1:%d/config_dump?include_eds", port), nil)
	if err != nil {
		return "", err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", fmt.Errorf("ask %s for its configuration: %w", pod, err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	return string(data), err
}
