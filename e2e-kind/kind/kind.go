// Package kind runs a federation on kind clusters as a user gets it: a management cluster and members, Envoy Gateway and
// Tailgate's charts, installed by the commands of the README and by nothing else.
//
// In the place of Tailscale's control server and admin API stands the test tailnet of package tailnet, in a container beside
// the clusters. Where no image of Envoy can be had, the stand-in takes its place.
package kind

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
)

// Management is the cluster of the hub.
const Management = "management"

// Options say what to run. All but Only are required.
type Options struct {
	// Root is the tree of Tailgate, Dir a directory for what the run makes: kubeconfig, images, artifacts.
	Root, Dir string
	// Members are the names of the member clusters.
	Members []string
	// Only selects scenarios by their names, all if it is nil.
	Only *regexp.Regexp
	// HubAway is how long the federation has to go without its hub.
	HubAway time.Duration
	// Log hears what is done, and what the commands print.
	Log io.Writer
}

// Suite is a federation on kind.
type Suite struct {
	Options
	tailnet *tailnet
}

// New returns a suite that has nothing yet.
func New(o Options) *Suite { return &Suite{Options: o} }

func (s *Suite) path(elem ...string) string {
	return filepath.Join(append([]string{s.Dir}, elem...)...)
}

// Kubeconfig has a context for each cluster, kind-<name>.
func (s *Suite) Kubeconfig() string { return s.path("kubeconfig") }

// Clusters are the names of all clusters.
func (s *Suite) Clusters() []string { return append([]string{Management}, s.Members...) }

// Up makes images and clusters, and starts the tailnet. Clusters that are there already are kept.
func (s *Suite) Up(ctx context.Context) error {
	if err := os.MkdirAll(s.Dir, 0o755); err != nil {
		return fmt.Errorf("directory of the run: %w", err)
	}
	if err := s.preflight(ctx); err != nil {
		return err
	}
	images, err := s.buildImages(ctx)
	if err != nil {
		return err
	}
	if err := s.createClusters(ctx); err != nil {
		return err
	}
	g, loading := errgroup.WithContext(ctx)
	g.SetLimit(2) // each unpacks into containerd
	for _, c := range s.Clusters() {
		for _, image := range images {
			if image.goesTo(c) {
				g.Go(func() error { return s.run(loading, "kind", "load", "docker-image", image.ref, "--name", c) })
			}
		}
	}
	if err := g.Wait(); err != nil {
		return err
	}
	if err := s.openVolumes(ctx); err != nil {
		return err
	}
	s.tailnet, err = s.startTailnet(ctx)
	return err
}

// Attach takes over what an earlier run left running.
func (s *Suite) Attach(ctx context.Context) (err error) {
	s.tailnet, err = s.findTailnet(ctx)
	return err
}

// openVolumes has everybody write to the volumes of nodes whose provisioner is the controller manager's own, for tests: it
// makes directories of root's and knows no fsGroup. Those of kind's provisioner are open to everybody already.
func (s *Suite) openVolumes(ctx context.Context) error {
	for _, c := range s.Clusters() {
		provisioner, err := s.output(ctx, "kubectl", "--context", "kind-"+c, "get", "storageclass", "standard", "--output", "jsonpath={.provisioner}")
		if err != nil {
			return err
		}
		if provisioner != "kubernetes.io/host-path" {
			continue
		}
		const forever = "while sleep 0.2; do chmod -f 0777 /tmp/hostpath_pv/*; done"
		if err := s.run(ctx, "docker", "exec", "--detach", c+"-control-plane", "sh", "-c", forever); err != nil {
			return err
		}
	}
	return nil
}

// preflight says which tool is missing, before anything is made.
func (s *Suite) preflight(ctx context.Context) error {
	var missing []string
	for _, tool := range []string{"kind", "kubectl", "helm", "docker", "bash", "make", "go"} {
		if _, err := exec.LookPath(tool); err != nil {
			missing = append(missing, tool)
		}
	}
	if len(missing) > 0 {
		return fmt.Errorf("not in the PATH: %s; install them, or run this where they are", strings.Join(missing, ", "))
	}
	if err := s.run(ctx, "docker", "info", "--format", "{{.ServerVersion}}"); err != nil {
		return fmt.Errorf("no Docker daemon answers: %w", err)
	}
	return nil
}

const clusterConfig = `kind: Cluster
apiVersion: kind.x-k8s.io/v1alpha4
networking: {podSubnet: 10.%d.0.0/16, serviceSubnet: 10.%d.0.0/16}
`

// createClusters makes the clusters that are not there, two at a time.
func (s *Suite) createClusters(ctx context.Context) error {
	out, err := s.output(ctx, "kind", "get", "clusters")
	if err != nil {
		return err
	}
	there := strings.Fields(out)
	g, creating := errgroup.WithContext(ctx)
	g.SetLimit(2)
	for i, c := range s.Clusters() {
		g.Go(func() error {
			own := s.path(c + ".kubeconfig")
			if slices.Contains(there, c) {
				return s.run(creating, "kind", "export", "kubeconfig", "--name", c, "--kubeconfig", own)
			}
			config := s.path(c + ".kind.yaml")
			if err := os.WriteFile(config, fmt.Appendf(nil, clusterConfig, 20+i, 120+i), 0o644); err != nil {
				return err
			}
			args := []string{"create", "cluster", "--name", c, "--config", config, "--kubeconfig", own, "--wait", "180s"}
			if image := os.Getenv("KIND_NODE_IMAGE"); image != "" {
				args = append(args, "--image", image)
			}
			return s.run(creating, "kind", args...)
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	return s.mergeKubeconfigs(ctx)
}

func (s *Suite) mergeKubeconfigs(ctx context.Context) error {
	var files []string
	for _, c := range s.Clusters() {
		files = append(files, s.path(c+".kubeconfig"))
	}
	cmd := s.command(ctx, "kubectl", "config", "view", "--flatten")
	cmd.Env = append(cmd.Env, "KUBECONFIG="+strings.Join(files, string(os.PathListSeparator)))
	merged, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("join the clusters' kubeconfigs: %w", err)
	}
	return os.WriteFile(s.Kubeconfig(), merged, 0o600)
}

// Down deletes the clusters and ends the tailnet.
func (s *Suite) Down(ctx context.Context) error {
	var errs []error
	for _, c := range s.Clusters() {
		errs = append(errs, s.run(ctx, "kind", "delete", "cluster", "--name", c, "--kubeconfig", s.path(c+".kubeconfig")))
	}
	return errors.Join(append(errs, s.run(ctx, "docker", "rm", "--force", "--volumes", tailnetContainer, deviceContainer, outsideContainer))...)
}

// command is a command in the tree, with the suite's kubeconfig and programs.
func (s *Suite) command(ctx context.Context, name string, args ...string) *exec.Cmd {
	if own := s.path("bin", name); isFile(own) { // a command is looked for in our PATH, not in its own
		name = own
	}
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = s.Root
	cmd.Env = append(os.Environ(), "KUBECONFIG="+s.Kubeconfig(), "PATH="+s.path("bin")+string(os.PathListSeparator)+os.Getenv("PATH"))
	return cmd
}

func isFile(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular()
}

// run runs a command. What it prints is told to the log, and is part of its error.
func (s *Suite) run(ctx context.Context, name string, args ...string) error {
	_, err := s.output(ctx, name, args...)
	return err
}

// pipe runs a command with an input, which is not told.
func (s *Suite) pipe(ctx context.Context, input, name string, args ...string) error {
	cmd := s.command(ctx, name, args...)
	cmd.Stdin = strings.NewReader(input)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w\n%s", name, strings.Join(args, " "), err, bytes.TrimSpace(out))
	}
	return nil
}

func (s *Suite) output(ctx context.Context, name string, args ...string) (string, error) {
	var out, all bytes.Buffer
	cmd := s.command(ctx, name, args...)
	cmd.Stdout, cmd.Stderr = io.MultiWriter(&out, &all), &all
	err := cmd.Run()
	if err != nil {
		return "", fmt.Errorf("%s %s: %w\n%s", name, strings.Join(args, " "), err, bytes.TrimSpace(all.Bytes()))
	}
	return out.String(), nil
}
