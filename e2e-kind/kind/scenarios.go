package kind

import (
	"context"
	"fmt"
	"strings"
	"time"
)

// scenario is something that happens to the federation while requests go through cluster1's gateway.
type scenario struct {
	name string
	// planned actions fail no request; of kills and cuts only what is under way may fail.
	planned bool
	path    string
	do      func(context.Context) error
	// lasts is how long it is left so, a few seconds by default; undo takes it back.
	lasts time.Duration
	undo  func(context.Context) error
}

const toCluster2 = "/cross-cluster/webapp-cluster2/"

func (s *Suite) scenarios() []scenario {
	cli := func(args ...string) func(context.Context) error {
		return func(ctx context.Context) error {
			return s.run(ctx, "tailgate", append([]string{"--context", "kind-" + Management}, args...)...)
		}
	}
	all := []scenario{
		{name: "drain cluster2", planned: true, path: toCluster2, do: cli("drain", "cluster2", "--ramp=5s"), undo: cli("undrain", "cluster2")},
		{
			name: "hub away", planned: true, path: toCluster2, lasts: 20 * time.Second,
			do:   s.scale(Management, "statefulset/tailgate-hub", 0),
			undo: s.scale(Management, "statefulset/tailgate-hub", 1),
		},
		{name: "cluster2 paused", path: toCluster2, do: s.docker("pause", "cluster2"), lasts: 10 * time.Second, undo: s.docker("unpause", "cluster2")},
		{
			name: "cluster1 and cluster2 cut from each other", path: toCluster2, lasts: 10 * time.Second,
			do:   s.cut("cluster1", "cluster2"),
			undo: s.mend("cluster1"),
		},
	}
	for _, w := range []string{"ingress-production-tailnet", "egress-production-tailnet", "spoke"} {
		all = append(all, scenario{name: "rolling update of " + w, planned: true, path: toCluster2, do: s.restart(w)})
	}
	for _, w := range []string{"ingress-production-tailnet-0", "egress-production-tailnet-0", "spoke-0"} {
		all = append(all, scenario{name: "SIGKILL of " + w, path: toCluster2, do: s.kill(w), lasts: 10 * time.Second})
	}
	return all
}

// scale changes how many pods there are, and waits until they are.
func (s *Suite) scale(cluster, what string, n int) func(context.Context) error {
	return func(ctx context.Context) error {
		if _, err := s.kubectl(ctx, cluster, "--namespace", "tailgate-system", "scale", what, fmt.Sprintf("--replicas=%d", n)); err != nil {
			return err
		}
		_, err := s.kubectl(ctx, cluster, "--namespace", "tailgate-system", "rollout", "status", what, "--timeout=120s")
		return err
	}
}

// restart replaces the pods of a StatefulSet in all members, one after the other.
func (s *Suite) restart(name string) func(context.Context) error {
	return func(ctx context.Context) error {
		for _, c := range s.Members {
			what := "statefulset/tailgate-" + name
			if _, err := s.kubectl(ctx, c, "--namespace", "tailgate-system", "rollout", "restart", what); err != nil {
				return err
			}
			if _, err := s.kubectl(ctx, c, "--namespace", "tailgate-system", "rollout", "status", what, "--timeout=300s"); err != nil {
				return err
			}
		}
		return nil
	}
}

// kill ends a pod's processes in cluster1 and cluster2 without a word. The kubelet starts them anew.
func (s *Suite) kill(pod string) func(context.Context) error {
	return func(ctx context.Context) error {
		for _, c := range []string{"cluster1", "cluster2"} {
			id, err := s.output(ctx, "docker", "exec", c+"-control-plane", "crictl", "ps", "--quiet", "--label", "io.kubernetes.pod.name=tailgate-"+pod)
			if err != nil {
				return err
			}
			for container := range strings.FieldsSeq(id) {
				pid, err := s.output(ctx, "docker", "exec", c+"-control-plane", "crictl", "inspect", "--output", "go-template", "--template", "{{.info.pid}}", container)
				if err != nil {
					return err
				}
				if err := s.run(ctx, "docker", "exec", c+"-control-plane", "kill", "-KILL", strings.TrimSpace(pid)); err != nil {
					return err
				}
			}
		}
		return nil
	}
}

// docker does something to a cluster's node.
func (s *Suite) docker(verb, cluster string) func(context.Context) error {
	return func(ctx context.Context) error { return s.run(ctx, "docker", verb, cluster+"-control-plane") }
}

// cut drops what goes between two clusters' nodes, in both directions.
func (s *Suite) cut(a, b string) func(context.Context) error {
	return func(ctx context.Context) error {
		other, err := s.output(ctx, "docker", "inspect", "--format", "{{range .NetworkSettings.Networks}}{{.IPAddress}} {{end}}", b+"-control-plane")
		if err != nil {
			return err
		}
		rules := fmt.Sprintf("table ip cut { chain in { type filter hook prerouting priority -300; ip saddr %[1]s drop; }; "+
			"chain out { type filter hook postrouting priority 300; ip daddr %[1]s drop; }; }", strings.Fields(other)[0])
		return s.run(ctx, "docker", "exec", a+"-control-plane", "nft", rules)
	}
}

// mend takes a cut back.
func (s *Suite) mend(a string) func(context.Context) error {
	return func(ctx context.Context) error {
		return s.run(ctx, "docker", "exec", a+"-control-plane", "nft", "delete table ip cut")
	}
}
