package kind

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// Collect writes what helps to find out what went wrong into the directory's artifacts: the clusters' objects and logs, the
// hub's journal and status, and what each Envoy was given.
func (s *Suite) Collect(ctx context.Context) error {
	dir := s.path("artifacts")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	var errs []error
	keep := func(name string, command ...string) {
		out, err := s.output(ctx, command[0], command[1:]...)
		if err != nil {
			out = err.Error() // what cannot be had is told in its place
		}
		errs = append(errs, os.WriteFile(filepath.Join(dir, name), []byte(out), 0o644))
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
	keep("status.json", "tailgate", "--context", "kind-"+Management, "status", "--output", "json")
	keep("journal.json", "tailgate", "--context", "kind-"+Management, "journal", "--output", "json")
	keep("tailnet.log", "docker", "logs", tailnetContainer)
	fmt.Fprintln(s.Log, "what there is to look at:", dir)
	return errors.Join(errs...)
}
