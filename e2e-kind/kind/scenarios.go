package kind

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/tailgate-project/tailgate/api/operator"
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

// awhile is how long most things are left as they are.
const awhile = 10 * time.Second

func (s *Suite) scenarios() []scenario {
	all := s.planned()
	all = append(all,
		scenario{name: "cluster2 paused", do: s.docker("pause", "cluster2"), lasts: awhile, undo: s.docker("unpause", "cluster2")},
		scenario{name: "cluster1 and cluster2 cut from each other", do: s.cut("cluster1", "cluster2"), lasts: awhile, undo: s.mend("cluster1")},
		scenario{name: "SIGKILL of hub-0", do: s.kill("hub-0", Management), lasts: awhile},
		scenario{name: "deletion of hub-0", do: s.delete("hub-0", Management), lasts: awhile},
	)
	for _, pod := range []string{"spoke-0", "ingress-production-tailnet-0", "egress-production-tailnet-0"} {
		all = append(all,
			scenario{name: "SIGKILL of " + pod, do: s.kill(pod, "cluster1", "cluster2"), lasts: awhile},
			scenario{name: "deletion of " + pod, do: s.delete(pod, "cluster1", "cluster2"), lasts: awhile},
		)
	}
	for i := range all {
		all[i].path = toCluster2
	}
	return all
}

// planned are the actions that fail no request.
func (s *Suite) planned() []scenario {
	operate := func(args ...string) func(context.Context) error {
		return func(ctx context.Context) error {
			return s.run(ctx, "tailgate", append([]string{"--context", "kind-" + Management}, args...)...)
		}
	}
	all := []scenario{
		{name: "drain of cluster2", do: operate("drain", "cluster2", "--ramp=5s"), undo: operate("undrain", "cluster2")},
		{name: "cordon of cluster2", do: operate("cordon", "cluster2"), undo: operate("uncordon", "cluster2")},
		{name: "hub away", lasts: s.HubAway, do: s.scale(Management, "statefulset/tailgate-hub", 0), undo: s.scale(Management, "statefulset/tailgate-hub", 1)},
		{name: "rolling update of hub", do: s.restart("statefulset/tailgate-hub", "tailgate-system", Management)},
		{name: "rolling update of envoy-gateway", do: s.restart("deployment/envoy-gateway", "envoy-gateway-system", s.Members...)},
	}
	for _, part := range []string{"spoke", "ingress-production-tailnet", "egress-production-tailnet"} {
		all = append(all, scenario{name: "rolling update of " + part, do: s.restart("statefulset/tailgate-"+part, "tailgate-system", s.Members...)})
	}
	all = append(all, scenario{name: "helm upgrade of hub and spokes", do: s.upgrade})
	for i := range all {
		all[i].planned = true
	}
	return all
}

// upgrade brings hub and spokes to the next version, one after the other, and demands that every VIP is as it was.
func (s *Suite) upgrade(ctx context.Context) error {
	before, err := s.vips(ctx)
	if err != nil {
		return err
	}
	part := func(cluster, name string, values ...string) error {
		args := []string{"--kube-context", "kind-" + cluster, "upgrade", name, "deploy/charts/" + name, "-n", "tailgate-system", "--wait", "--timeout=5m"}
		for _, v := range values {
			args = append(args, "-f", v)
		}
		return s.run(ctx, "helm", append(args, "--set", "image.tag="+upgradedVersion)...)
	}
	if err := part(Management, "tailgate-hub", s.path("hub.yaml")); err != nil {
		return err
	}
	for _, c := range s.Members {
		if err := part(c, "tailgate-spoke", s.path(c+".yaml"), s.path("spoke.yaml")); err != nil {
			return err
		}
		for _, set := range []string{"ingress", "egress"} { // the spoke gives the proxies its own image
			if _, err := s.kubectl(ctx, c, "-n", "tailgate-system", "rollout", "status", "statefulset/tailgate-"+set+"-production-tailnet", "--timeout=300s"); err != nil {
				return err
			}
		}
	}
	after, err := s.vips(ctx)
	if err != nil {
		return err
	}
	if before != after {
		return fmt.Errorf("the VIPs were\n%s\nand are after the upgrade\n%s", before, after)
	}
	out, err := s.output(ctx, "tailgate", "--context", "kind-"+Management, "status")
	if err != nil {
		return err
	}
	if n := strings.Count(out, upgradedVersion); n != 1+len(s.Members) {
		return fmt.Errorf("the hub and %d spokes were upgraded to %s, and the hub says\n%s", len(s.Members), upgradedVersion, out)
	}
	return nil
}

// vips are the names and addresses of all VIPs, one in a line.
func (s *Suite) vips(ctx context.Context) (string, error) {
	out, err := s.output(ctx, "tailgate", "--context", "kind-"+Management, "vips", "--output", "json")
	if err != nil {
		return "", err
	}
	var all []operator.VIP
	if err := json.Unmarshal([]byte(out), &all); err != nil {
		return "", fmt.Errorf("tailgate vips: %w", err)
	}
	var lines []string
	for _, v := range all {
		lines = append(lines, fmt.Sprint(v.ServiceName, " ", v.Addresses, " ", v.State))
	}
	return strings.Join(lines, "\n"), nil
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

// restart replaces the pods of a workload in some clusters, one cluster after the other.
func (s *Suite) restart(what, namespace string, clusters ...string) func(context.Context) error {
	return func(ctx context.Context) error {
		for _, c := range clusters {
			if _, err := s.kubectl(ctx, c, "--namespace", namespace, "rollout", "restart", what); err != nil {
				return err
			}
			if _, err := s.kubectl(ctx, c, "--namespace", namespace, "rollout", "status", what, "--timeout=300s"); err != nil {
				return err
			}
		}
		return nil
	}
}

// delete deletes a pod in some clusters at once. Its StatefulSet makes another.
func (s *Suite) delete(pod string, clusters ...string) func(context.Context) error {
	return func(ctx context.Context) error {
		for _, c := range clusters {
			if _, err := s.kubectl(ctx, c, "--namespace", "tailgate-system", "delete", "pod", "tailgate-"+pod, "--wait=false"); err != nil {
				return err
			}
		}
		return nil
	}
}

// kill ends a pod's processes in some clusters without a word. The kubelet starts them anew.
func (s *Suite) kill(pod string, clusters ...string) func(context.Context) error {
	return func(ctx context.Context) error {
		for _, c := range clusters {
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
		other, err := s.containerIP(ctx, b+"-control-plane")
		if err != nil {
			return err
		}
		rules := fmt.Sprintf("table ip cut { chain in { type filter hook prerouting priority -300; ip saddr %[1]s drop; }; "+
			"chain out { type filter hook postrouting priority 300; ip daddr %[1]s drop; }; }", other)
		return s.run(ctx, "docker", "exec", a+"-control-plane", "nft", rules)
	}
}

// mend takes a cut back.
func (s *Suite) mend(a string) func(context.Context) error {
	return func(ctx context.Context) error {
		return s.run(ctx, "docker", "exec", a+"-control-plane", "nft", "delete table ip cut")
	}
}
