package kind

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
)

// Uninstall takes everything away, in the order of deploy/README.md, and demands that nothing is left: no object of ours or of
// ours to clean, and in the tailnet no VIP and no device but the hub's own.
func (s *Suite) Uninstall(ctx context.Context) error {
	for _, m := range s.Members {
		on := []string{"--kube-context", "kind-" + m}
		if err := s.run(ctx, "tailgate", "--context", "kind-"+Management, "leave", "--cluster", m, "--member", "kind-"+m, "--yes"); err != nil {
			return err
		}
		if _, err := s.kubectl(ctx, m, "delete", "--filename", "deploy/examples/quickstart/member.yaml", "--ignore-not-found", "--timeout=2m"); err != nil {
			return err
		}
		for _, release := range [][2]string{{"tailgate-spoke", "tailgate-system"}, {"eg", "envoy-gateway-system"}} {
			if err := s.run(ctx, "helm", append(on, "uninstall", release[0], "-n", release[1], "--wait", "--ignore-not-found")...); err != nil {
				return err
			}
		}
	}
	if _, err := s.kubectl(ctx, Management, "delete", "tailscaletailnets,failoverpolicies", "--all", "--timeout=2m"); err != nil {
		return err
	}
	if err := s.run(ctx, "helm", "--kube-context", "kind-"+Management, "uninstall", "tailgate-hub", "-n", "tailgate-system", "--wait"); err != nil {
		return err
	}
	for _, c := range s.Clusters() {
		for _, args := range [][]string{
			{"delete", "crd", "--selector", "app.kubernetes.io/part-of=tailgate", "--timeout=1m"},
			{"--namespace", "tailgate-system", "delete", "pvc", "--all", "--timeout=1m"},
		} {
			if _, err := s.kubectl(ctx, c, args...); err != nil {
				return err
			}
		}
	}
	return s.nothingLeft(ctx)
}

// nothingLeft waits until nothing is left, and says what is if that takes too long.
func (s *Suite) nothingLeft(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return s.until(ctx, "nothing is left", func() error {
		var left []error
		for _, c := range s.Clusters() {
			left = append(left, s.leftIn(ctx, c))
		}
		return errors.Join(append(left, s.leftInTailnet(ctx))...)
	})
}

// Secrets that people made themselves, by the README's commands.
var ownSecrets = map[string]bool{"secret/tailgate-hub-join-key": true, "secret/tailscale-oauth": true, "secret/tailgate-spoke-join-key": true}

func (s *Suite) leftIn(ctx context.Context, cluster string) error {
	var left []string
	crds, err := s.kubectl(ctx, cluster, "get", "crd", "--output", "name")
	if err != nil {
		return err
	}
	for crd := range strings.FieldsSeq(crds) {
		if strings.HasSuffix(crd, ".gateway.tailscale.com") {
			left = append(left, crd)
		}
	}
	in, err := s.kubectl(ctx, cluster, "--namespace", "tailgate-system", "get",
		"pods,services,secrets,statefulsets,deployments,configmaps,serviceaccounts,roles,rolebindings,poddisruptionbudgets,networkpolicies,leases,pvc", "--output", "name")
	if err != nil {
		return err
	}
	for object := range strings.FieldsSeq(in) {
		if !ownSecrets[object] && object != "configmap/kube-root-ca.crt" && object != "serviceaccount/default" {
			left = append(left, object)
		}
	}
	clusterScoped, finalized := "clusterroles,clusterrolebindings,validatingadmissionpolicies", "services,namespaces"
	if cluster != Management { // which has nothing of the Gateway API
		clusterScoped, finalized = clusterScoped+",gatewayclasses", finalized+",gateways"
	}
	for _, args := range [][]string{
		{"get", "services", "--all-namespaces", "--selector", "gateway.tailscale.com/vip-service=true", "--output", "name"},
		{"get", clusterScoped, "--selector", "app.kubernetes.io/part-of=tailgate", "--output", "name", "--ignore-not-found"},
		{"get", "secrets,configmaps", "--all-namespaces", "--selector", "app.kubernetes.io/part-of=tailgate", "--output", "name"},
	} {
		out, err := s.kubectl(ctx, cluster, args...)
		if err != nil {
			return err
		}
		left = append(left, strings.Fields(out)...)
	}
	finalizers, err := s.kubectl(ctx, cluster, "get", finalized, "--all-namespaces",
		"--output", `jsonpath={range .items[*]}{.kind}/{.metadata.name}={.metadata.finalizers}{"\n"}{end}`)
	if err != nil {
		return err
	}
	for line := range strings.Lines(finalizers) {
		if strings.Contains(line, "gateway.tailscale.com") {
			left = append(left, "finalizer of "+strings.TrimSpace(line))
		}
	}
	if len(left) > 0 {
		return fmt.Errorf("left in %s: %s", cluster, strings.Join(left, ", "))
	}
	return nil
}

func (s *Suite) leftInTailnet(ctx context.Context) error {
	var nodes []struct{ Name, Hostname string }
	var services []json.RawMessage
	if err := s.tailnet.call(ctx, http.MethodGet, "/console/nodes", nil, &nodes); err != nil {
		return err
	}
	if err := s.tailnet.call(ctx, http.MethodGet, "/console/services", nil, &services); err != nil {
		return err
	}
	var left []string
	for _, n := range nodes {
		if !strings.HasPrefix(n.Name, "tailgate-hub") { // which joined by a key that somebody made in the admin console
			left = append(left, "device "+n.Name)
		}
	}
	for _, v := range services {
		left = append(left, "service "+string(v))
	}
	if len(left) > 0 {
		return fmt.Errorf("left in the tailnet: %s", strings.Join(left, ", "))
	}
	return nil
}
