// Package deploy renders the charts of hub and spoke, and the manifests for those who install without Helm.
//
// CRDs and RBAC are generated from the code into the folders crds and rbac, copied into the charts, and rendered from
// there: nothing is written by hand twice.
package deploy

import (
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/chart/loader"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/engine"
	"helm.sh/helm/v3/pkg/releaseutil"
)

// Namespace is where hub and spoke are installed where nobody says otherwise, EnvoyGatewayNamespace where Envoy Gateway is.
const (
	Namespace             = "tailgate-system"
	EnvoyGatewayNamespace = "envoy-gateway-system"
)

// The charts, by the names that they and all that they install have.
const (
	Hub   = "tailgate-hub"
	Spoke = "tailgate-spoke"
)

// notes is the template that is for people.
const notes = "NOTES.txt"

// source says what is copied into a chart.
type source struct {
	chart, role string
	// crds are the plural names of the kinds.
	crds []string
}

var sources = []source{
	{Hub, "hub-role.yaml", []string{"failoverpolicies", "memberclusters", "tailscaletailnets"}},
	{Spoke, "spoke-role.yaml", []string{"tailscaleendpoints", "tailscalegateways", "tailscaleroutepolicies"}},
}

// group is that of all CRDs.
const group = "gateway.tailscale.com"

// Files are texts by their paths below the folder of this package, with slashes.
type Files map[string]string

// Copies returns what the charts have from the folders crds and rbac of dir, the folder of this package. It fails on a CRD
// that is in no chart.
func Copies(dir string) (Files, error) {
	out, used := Files{}, map[string]bool{}
	for _, s := range sources {
		copies := map[string]string{"rbac/" + s.role: "role.yaml"}
		for _, name := range s.crds {
			file := group + "_" + name + ".yaml"
			copies["crds/"+file] = "crds/" + file
			used[file] = true
		}
		for from, to := range copies {
			text, err := os.ReadFile(filepath.Join(dir, filepath.FromSlash(from)))
			if err != nil {
				return nil, fmt.Errorf("read what %s is made of: %w", s.chart, err)
			}
			out[path.Join("charts", s.chart, "files", to)] = string(text)
		}
	}
	all, err := fs.Glob(os.DirFS(dir), "crds/*.yaml")
	if err != nil {
		return nil, fmt.Errorf("list CRDs: %w", err)
	}
	for _, name := range all {
		if !used[path.Base(name)] {
			return nil, fmt.Errorf("%s is in no chart: name it in the sources", name)
		}
	}
	return out, nil
}

// Generate returns all that is generated below dir, the folder of this package: the copies in the charts, and the manifests
// in the folder install that are rendered from the charts with their default values.
func Generate(dir string) (Files, error) {
	out, err := Copies(dir)
	if err != nil {
		return nil, err
	}
	for _, name := range []string{Hub, Spoke} {
		c, err := load(dir, name, out)
		if err != nil {
			return nil, err
		}
		all, err := Render(c, Options{})
		if err != nil {
			return nil, err
		}
		out["install/"+strings.TrimPrefix(name, "tailgate-")+".yaml"] = installation(name, all)
		if name != Spoke {
			continue
		}
		if out["install/spoke-crds.yaml"], err = kinds(name, all); err != nil {
			return nil, err
		}
		if out["install/envoy-gateway-values.yaml"], err = gatewayValues(all); err != nil {
			return nil, err
		}
		if out["install/envoyproxy.gotemplate"], err = proxyTemplate(c); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// Load reads a chart below dir, the folder of this package.
func Load(dir, name string) (*chart.Chart, error) { return load(dir, name, nil) }

// load reads a chart, with other files in place of its own.
func load(dir, name string, instead Files) (*chart.Chart, error) {
	c, err := loader.LoadDir(filepath.Join(dir, "charts", name))
	if err != nil {
		return nil, fmt.Errorf("load the chart %s: %w", name, err)
	}
	prefix := path.Join("charts", name) + "/"
	for file, text := range instead {
		inner, ours := strings.CutPrefix(file, prefix)
		if !ours {
			continue
		}
		c.Files = slices.DeleteFunc(c.Files, func(f *chart.File) bool { return f.Name == inner })
		c.Files = append(c.Files, &chart.File{Name: inner, Data: []byte(text)})
	}
	return c, nil
}

// Options say how a chart is rendered. The zero value stands for a release of the chart's name in [Namespace], with the chart's
// values.
type Options struct {
	Release, Namespace string
	Values             map[string]any
	// APIVersions are those that the cluster has beside Kubernetes' own, such as group/version/Kind.
	APIVersions []string
}

// Manifest is one object that a chart installs.
type Manifest struct {
	// Template is the path of what it was rendered from.
	Template string
	// Text is YAML.
	Text string
}

// Render renders a chart as `helm template` does, without a cluster at hand, and returns the objects in the order in which
// Helm installs them. It fails on values that the chart's schema refuses.
func Render(c *chart.Chart, o Options) ([]Manifest, error) {
	files, err := render(c, o)
	if err != nil {
		return nil, err
	}
	for name := range files {
		if path.Base(name) == notes {
			delete(files, name)
		}
	}
	hooks, sorted, err := releaseutil.SortManifests(files, nil, releaseutil.InstallOrder)
	if err != nil {
		return nil, fmt.Errorf("sort the objects of the chart %s: %w", c.Name(), err)
	}
	if len(hooks) > 0 {
		return nil, fmt.Errorf("the chart %s has a hook, %s: nobody runs it who installs without Helm", c.Name(), hooks[0].Path)
	}
	out := make([]Manifest, 0, len(sorted))
	for _, m := range sorted {
		out = append(out, Manifest{Template: m.Name, Text: strings.TrimSpace(m.Content) + "\n"})
	}
	return out, nil
}

// Notes returns what Helm says after it has installed the chart.
func Notes(c *chart.Chart, o Options) (string, error) {
	files, err := render(c, o)
	if err != nil {
		return "", err
	}
	return files[path.Join(c.Name(), "templates", notes)], nil
}

func render(c *chart.Chart, o Options) (map[string]string, error) {
	if o.Release == "" {
		o.Release = c.Name()
	}
	if o.Namespace == "" {
		o.Namespace = Namespace
	}
	capabilities := chartutil.DefaultCapabilities.Copy()
	capabilities.APIVersions = append(capabilities.APIVersions, o.APIVersions...)
	values, err := chartutil.ToRenderValues(c, o.Values, chartutil.ReleaseOptions{
		Name: o.Release, Namespace: o.Namespace, Revision: 1, IsInstall: true,
	}, capabilities)
	if err != nil {
		return nil, fmt.Errorf("values of the chart %s: %w", c.Name(), err)
	}
	files, err := engine.Render(c, values)
	if err != nil {
		return nil, fmt.Errorf("render the chart %s: %w", c.Name(), err)
	}
	return files, nil
}

// Stale returns the files below dir that lie where generated ones do, and are none of them.
func Stale(dir string, all Files) ([]string, error) {
	var out []string
	for _, pattern := range []string{"install/*", "charts/*/files/crds/*", "charts/*/files/*.yaml"} {
		found, err := fs.Glob(os.DirFS(dir), pattern)
		if err != nil {
			return nil, fmt.Errorf("list generated files: %w", err)
		}
		for _, name := range found {
			if _, ok := all[name]; !ok {
				out = append(out, name)
			}
		}
	}
	return out, nil
}
