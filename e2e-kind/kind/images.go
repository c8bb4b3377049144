package kind

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// image is what runs in a cluster.
type image struct {
	ref string
	// program is built from source; those of hub and spoke are built by `make images`.
	program, source string
	// clusters is where it is needed: "management", "members", or empty for none.
	clusters string
	// files are put beside the program.
	files map[string]string
}

func (i image) goesTo(cluster string) bool {
	return i.clusters == Management && cluster == Management || i.clusters == members && cluster != Management
}

const members = "members"

// registry is the one that no image can be pulled from: what is not loaded is missing at once.
const registry = "tailgate.test/"

// Envoy Gateway's own image. It is loaded where the machine has it, else the nodes pull it.
const envoyGatewayImage = "docker.io/envoyproxy/gateway:v1.9.1"

// Refs of the images that the charts and examples are told to use.
const (
	HubImage   = registry + "tailgate-hub"
	SpokeImage = registry + "tailgate-spoke"
	EnvoyImage = registry + "envoy-standin:dev"
	// WebappImage is the one of the examples. Test equipment stands in for it, which says the same in JSON.
	WebappImage = "docker.io/traefik/whoami:v1.11.0"
)

// The versions of hub and spoke: the one that is installed, and the one that it is upgraded to, which differs by its version
// only.
const (
	installedVersion = "0.0.1-kind"
	upgradedVersion  = "0.0.2-kind"
)

// images are those that are built from the tree.
func images() []image {
	var out []image
	for _, version := range []string{installedVersion, upgradedVersion} {
		out = append(out, image{ref: HubImage + ":" + version, clusters: Management}, image{ref: SpokeImage + ":" + version, clusters: members})
	}
	return append(out, []image{
		{ref: EnvoyImage, program: "envoy", source: "./e2e-kind/standin/cmd/envoy", clusters: members},
		{ref: WebappImage, program: "webapp", source: "./e2e-kind/webapp", clusters: members},
		{ref: tailnetImage, program: "tailnet", source: "./e2e-kind/tailnet/cmd/tailnet", files: tailnetFiles},
	}...)
}

// buildImages builds the images: those of hub and spoke as they are released, by make, and each of the others with a static
// program from scratch. It returns those that are to be loaded.
func (s *Suite) buildImages(ctx context.Context) ([]image, error) {
	for _, version := range []string{installedVersion, upgradedVersion} {
		if err := s.run(ctx, "make", "images", "IMAGES="+strings.TrimSuffix(registry, "/"), "VERSION="+version); err != nil {
			return nil, err
		}
	}
	all := images()
	for _, i := range all {
		if i.program == "" {
			continue
		}
		dir := s.path("images", i.program)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, err
		}
		if err := s.build(ctx, filepath.Join(dir, i.program), i.source); err != nil {
			return nil, err
		}
		// Envoy Gateway calls Envoy by its name, so the programs lie where the PATH of an image without one looks.
		dockerfile := fmt.Sprintf("FROM scratch\nCOPY . /usr/local/bin/\nUSER 65532:65532\nENTRYPOINT [\"%s\"]\n", i.program)
		for name, text := range i.files {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
				return nil, err
			}
		}
		if err := os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte(dockerfile), 0o644); err != nil {
			return nil, err
		}
		if err := s.run(ctx, "docker", "build", "--quiet", "--tag", i.ref, dir); err != nil {
			return nil, err
		}
	}
	if err := s.build(ctx, s.path("bin", "tailgate"), "./hub/cmd/tailgate"); err != nil {
		return nil, err
	}
	here, err := s.output(ctx, "docker", "images", "--format", "docker.io/{{.Repository}}:{{.Tag}}")
	if err != nil {
		return nil, err
	}
	if slices.Contains(strings.Fields(here), envoyGatewayImage) {
		all = append(all, image{ref: envoyGatewayImage, clusters: members})
	}
	return all, nil
}

// build builds a static program.
func (s *Suite) build(ctx context.Context, to, source string) error {
	cmd := s.command(ctx, "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", to, source)
	cmd.Env = append(cmd.Env, "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build %s: %w\n%s", source, err, out)
	}
	return nil
}
