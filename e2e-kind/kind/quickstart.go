package kind

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Maximum of what the README promises: this many commands, and no longer than that until the first answer.
const (
	MaxCommands = 12
	MaxDuration = 10 * time.Minute
)

// begin and end stand around the README's commands.
const (
	begin = "<!-- quickstart -->"
	end   = "<!-- /quickstart -->"
)

// Commands returns the commands by which the README installs a federation, as they stand there: each line of its block that
// is no comment, with those that it is continued on.
func Commands(root string) ([]string, error) {
	data, err := os.ReadFile(filepath.Join(root, "README.md"))
	if err != nil {
		return nil, fmt.Errorf("read the commands: %w", err)
	}
	_, rest, ok := strings.Cut(string(data), begin)
	block, _, closed := strings.Cut(rest, end)
	if !ok || !closed {
		return nil, fmt.Errorf("README.md has no commands between %s and %s", begin, end)
	}
	var out []string
	for line := range strings.Lines(block) {
		line = strings.TrimSpace(line)
		switch n := len(out); {
		case line == "" || strings.HasPrefix(line, "#") || strings.HasPrefix(line, "```"):
		case n > 0 && strings.HasSuffix(out[n-1], "\\"):
			out[n-1] = strings.TrimSuffix(out[n-1], "\\") + line
		default:
			out = append(out, line)
		}
	}
	if len(out) == 0 {
		return nil, errors.New("README.md has no commands")
	}
	return out, nil
}

// Step is a command that was run.
type Step struct {
	Command string
	Took    time.Duration
	Output  string
}

// Quickstart runs the README's commands, one after the other, each in a shell of its own, and returns what each printed.
// What a user would have to fill in comes from the environment, under the names that the README uses.
func (s *Suite) Quickstart(ctx context.Context) ([]Step, error) {
	commands, err := Commands(s.Root)
	if err != nil {
		return nil, err
	}
	env, err := s.environment(ctx)
	if err != nil {
		return nil, err
	}
	var steps []Step
	for i, c := range commands {
		fmt.Fprintf(s.Log, "\n[%d/%d] %s\n", i+1, len(commands), c)
		var out bytes.Buffer
		cmd := s.command(ctx, "bash", "-euo", "pipefail", "-c", c)
		cmd.Env = append(cmd.Env, env...)
		cmd.Stdout = io.MultiWriter(&out, s.Log)
		cmd.Stderr = cmd.Stdout
		began := time.Now()
		err := cmd.Run()
		steps = append(steps, Step{Command: c, Took: time.Since(began), Output: out.String()})
		if err != nil {
			return steps, fmt.Errorf("command %d of the README: %w", i+1, err)
		}
	}
	return steps, nil
}

// spokeValues give the Gateways' Envoys ports on the nodes, where there is nothing to balance load, and their image.
const spokeValues = `image: {repository: %s, tag: %s}
envoyGateway:
  envoyProxy:
    spec:
      provider:
        type: Kubernetes
        kubernetes:
          envoyService: {name: envoy, type: NodePort}
          envoyDeployment: {container: %s}
`

// publishedEnvoy is the image that Envoy Gateway's release names.
const publishedEnvoy = "docker.io/envoyproxy/envoy:distroless-v1.39.1"

// envoyContainer is what is said of Envoy's container: nothing where the published image can be had, else the stand-in's image.
func (s *Suite) envoyContainer(ctx context.Context) string {
	if s.run(ctx, "docker", "manifest", "inspect", publishedEnvoy) == nil {
		fmt.Fprintln(s.Log, "data plane: Envoy, as Envoy Gateway takes it")
		return "{}"
	}
	fmt.Fprintln(s.Log, "data plane: the stand-in of e2e-kind/standin, because", publishedEnvoy, "cannot be had here")
	return fmt.Sprintf("{image: %q}", EnvoyImage)
}

// environment is what a user fills in: the tailnet's credentials, and, because nothing here comes from a registry and the
// tailnet is none of Tailscale's, where images and tailnet are.
func (s *Suite) environment(ctx context.Context) ([]string, error) {
	key, err := s.tailnet.mintKey(ctx, "tag:tailgate-hub")
	if err != nil {
		return nil, err
	}
	values := map[string]string{
		"hub.yaml":   fmt.Sprintf("image: {repository: %s, tag: %s}\ncontrolURL: %q\napiURL: %[3]q\n", HubImage, installedVersion, s.tailnet.url),
		"spoke.yaml": fmt.Sprintf(spokeValues, SpokeImage, installedVersion, s.envoyContainer(ctx)),
	}
	for name, text := range values {
		if err := os.WriteFile(s.path(name), []byte(text), 0o644); err != nil {
			return nil, err
		}
	}
	return []string{
		"TMPDIR=" + s.Dir, "TS_HUB_AUTHKEY=" + key, "TS_CLIENT_ID=" + oauthID, "TS_CLIENT_SECRET=" + oauthSecret,
		"HUB_VALUES=" + s.path("hub.yaml"), "SPOKE_VALUES=" + s.path("spoke.yaml"), "ENVOY_GATEWAY_CHART=" + s.envoyGatewayChart(),
	}, nil
}

// envoyGatewayChart is Envoy Gateway's own chart: a directory where there is one, else the published one.
func (*Suite) envoyGatewayChart() string {
	return cmp.Or(os.Getenv("ENVOY_GATEWAY_CHART"), "oci://docker.io/envoyproxy/gateway-helm")
}
