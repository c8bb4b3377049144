package kind

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"time"

	"github.com/tailgate-project/tailgate/hub/verify"
)

// spoiled is the member that is installed wrongly on purpose, other the one whose name it takes.
const (
	spoiled = "cluster3"
	other   = "cluster2"
)

// mistake is something that people do wrong when they install Tailgate.
type mistake struct {
	name string
	make func(context.Context) error
	undo func(context.Context) error
	// hop is the first one that has to fail where the member is looked at from its own side, with these words in what was seen.
	hop, detail string
}

func (s *Suite) mistakes() []mistake {
	spoke := func(values ...string) func(context.Context) error {
		return func(ctx context.Context) error {
			args := []string{
				"--kube-context", "kind-" + spoiled, "upgrade", "tailgate-spoke", "deploy/charts/tailgate-spoke", "-n", "tailgate-system",
				"-f", s.path(spoiled + ".yaml"), "-f", s.path("spoke.yaml"), "--wait",
			}
			return s.run(ctx, "helm", append(args, values...)...)
		}
	}
	label := func(version string) func(context.Context) error {
		return func(ctx context.Context) error {
			_, err := s.kubectl(ctx, spoiled, "-n", "envoy-gateway-system", "label", "deployment/envoy-gateway", "--overwrite", "app.kubernetes.io/version="+version)
			return err
		}
	}
	return []mistake{
		{
			name: "wrong hub address", make: spoke("--set", "hub.address=no-such-hub:7443"), undo: spoke(),
			hop: verify.HopLink, detail: `no peer "no-such-hub"`,
		},
		{
			name: "two spokes with one name", make: spoke("--set", "cluster.id="+other), undo: spoke(),
			hop: verify.HopLink, detail: "is taken by another node",
		},
		{
			name: "Envoy Gateway of another version", make: label("v1.8.2"), undo: label("v1.9.1"),
			hop: verify.HopEnvoyGateway, detail: "it is v1.8.2",
		},
		{
			name: "no Envoy Gateway",
			make: func(ctx context.Context) error {
				return s.run(ctx, "helm", "--kube-context", "kind-"+spoiled, "uninstall", "eg", "-n", "envoy-gateway-system", "--wait")
			},
			undo: func(ctx context.Context) error {
				return s.run(ctx, "helm", "--kube-context", "kind-"+spoiled, "install", "eg", s.envoyGatewayChart(), "--version", "v1.9.1",
					"-n", "envoy-gateway-system", "--create-namespace", "-f", "deploy/install/envoy-gateway-values.yaml", "--wait")
			},
			hop: verify.HopEnvoyGateway, detail: "there is no Envoy Gateway",
		},
		{name: "wrong key", make: s.rejoin("tskey-auth-wrong"), undo: s.rejoin(""), hop: verify.HopLink, detail: "the tailnet refuses the join key"},
	}
}

// rejoin has the member leave, and come again as one that has never joined, with a key of the hub's or another one.
func (s *Suite) rejoin(key string) func(context.Context) error {
	return func(ctx context.Context) error {
		on := []string{"-n", "tailgate-system"}
		if err := s.run(ctx, "tailgate", "--context", "kind-"+Management, "leave", "--cluster", spoiled, "--yes"); err != nil && key != "" {
			return err
		}
		secret, err := s.output(ctx, "tailgate", "--context", "kind-"+Management, "join", "--cluster", spoiled)
		if err != nil {
			return err
		}
		if err := s.pipe(ctx, secret, "kubectl", "--context", "kind-"+spoiled, "apply", "-f", "-"); err != nil {
			return err
		}
		if key != "" {
			patch := fmt.Sprintf(`{"stringData":{"authkey":%q}}`, key)
			if _, err := s.kubectl(ctx, spoiled, append(on, "patch", "secret", "tailgate-spoke-join-key", "--type=merge", "-p", patch)...); err != nil {
				return err
			}
		}
		// A spoke that has joined keeps its identity in its volume.
		for _, args := range [][]string{
			{"scale", "statefulset/tailgate-spoke", "--replicas=0"}, {"wait", "--for=delete", "pod/tailgate-spoke-0", "--timeout=120s"},
			{"delete", "pvc", "state-tailgate-spoke-0"}, {"scale", "statefulset/tailgate-spoke", "--replicas=1"},
			{"rollout", "status", "statefulset/tailgate-spoke", "--timeout=120s"},
		} {
			if _, err := s.kubectl(ctx, spoiled, append(on, args...)...); err != nil {
				return err
			}
		}
		return nil
	}
}

// Diagnose makes mistakes, one after the other, and demands that `tailgate verify` says what each is.
func (s *Suite) Diagnose(ctx context.Context) error {
	if err := s.sound(ctx); err != nil {
		return err
	}
	for _, m := range s.mistakes() {
		fmt.Fprintf(s.Log, "%s ...\n", m.name)
		err := m.make(ctx)
		if err == nil {
			err = s.diagnosed(ctx, m)
		}
		if err := errors.Join(err, m.undo(context.WithoutCancel(ctx))); err != nil {
			return fmt.Errorf("%s: %w", m.name, err)
		}
		if err := s.sound(ctx); err != nil {
			return fmt.Errorf("%s, taken back: %w", m.name, err)
		}
	}
	return nil
}

// patience is how long a part of an installation may take to notice what was done to it.
const patience = 3 * time.Minute

// verify returns what `tailgate verify` finds, with all members looked at from their own side, too.
func (s *Suite) verify(ctx context.Context) ([]verify.Finding, error) {
	args := []string{"--context", "kind-" + Management, "verify", "--output", "json"}
	for _, m := range s.Members {
		args = append(args, "--member", "kind-"+m)
	}
	out, err := s.command(ctx, "tailgate", args...).Output()
	if exit, failed := errors.AsType[*exec.ExitError](err); err != nil && (!failed || len(out) == 0) {
		if failed {
			err = fmt.Errorf("%w: %s", err, exit.Stderr)
		}
		return nil, fmt.Errorf("tailgate verify: %w", err)
	}
	var found []verify.Finding
	if err := json.Unmarshal(out, &found); err != nil {
		return nil, fmt.Errorf("tailgate verify: %w: %s", err, out)
	}
	return found, nil
}

// sound waits until no hop fails.
func (s *Suite) sound(ctx context.Context) error {
	return s.verified(ctx, func(all []verify.Finding) error {
		for _, f := range all {
			if f.Verdict == verify.Failed {
				return fmt.Errorf("%s, %s: %s", f.Where, f.Hop, f.Detail)
			}
		}
		return nil
	})
}

// diagnosed waits until the first hop that fails, seen from the member, is the one that a mistake breaks.
func (s *Suite) diagnosed(ctx context.Context, m mistake) error {
	return s.verified(ctx, func(all []verify.Finding) error {
		for _, f := range all {
			if f.Verdict != verify.Failed || f.SeenFrom != "kind-"+spoiled {
				continue
			}
			if f.Hop != m.hop || !strings.Contains(f.Detail, m.detail) {
				return fmt.Errorf("want %s with %q first, not %s: %s", m.hop, m.detail, f.Hop, f.Detail)
			}
			fmt.Fprintf(s.Log, "  %s, %s: %s\n  -> %s\n", f.Where, f.Hop, f.Detail, f.Fix)
			return nil
		}
		return fmt.Errorf("nothing of %s failed; want %s", spoiled, m.hop)
	})
}

func (s *Suite) verified(ctx context.Context, want func([]verify.Finding) error) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return s.until(ctx, "tailgate verify", func() error {
		all, err := s.verify(ctx)
		if err != nil {
			return err
		}
		return want(all)
	})
}
