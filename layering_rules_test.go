package tailgate_test

import (
	"fmt"
	"go/ast"
	"go/token"
	"maps"
	"path"
	"slices"
	"strings"
)

// module is the path of this module.
const module = "github.com/tailgate-project/tailgate"

// tree is the import graph of this module and of all that it depends on, without test files.
type tree struct {
	fset     *token.FileSet
	packages map[string]*pkg
}

// pkg is a package. Only those of this module have files.
type pkg struct {
	path     string
	standard bool
	imports  []string
	files    []source
}

// source is a parsed file, with its path in the module.
type source struct {
	name string
	ast  *ast.File
}

// dir returns the package's directory in this module.
func (p *pkg) dir() (dir string, ours bool) {
	if p.path == module {
		return ".", true
	}
	return strings.CutPrefix(p.path, module+"/")
}

// ours returns the packages of this module that have files, by path.
func (t tree) ours() []*pkg {
	var out []*pkg
	for _, path := range slices.Sorted(maps.Keys(t.packages)) {
		if _, ours := t.packages[path].dir(); ours && len(t.packages[path].files) > 0 {
			out = append(out, t.packages[path])
		}
	}
	return out
}

// within reports whether dir is one of roots or lies below one.
func within(dir string, roots ...string) bool {
	return slices.ContainsFunc(roots, func(root string) bool {
		return dir == root || strings.HasPrefix(dir, root+"/")
	})
}

// rule is a rule of the tree. It returns what breaks it.
type rule struct {
	name  string
	check func(tree) []string
}

var rules = []rule{
	{"core imports", coreImports},
	{"core dependencies", coreDependencies},
	{"core clock", coreClock},
	{"direction", direction},
	{"homes", homesKept},
	{"package docs", packageDocs},
	{"rbac markers", rbacMarkers},
}

// coreStd is what the core may import of the standard library: values and functions of values.
var coreStd = []string{
	"bytes", "cmp", "container", "crypto/sha256", "encoding", "errors", "fmt", "hash", "iter", "maps", "math", "math/bits",
	"net/netip", "slices", "sort", "strconv", "strings", "time", "unicode",
}

// coreExact are those of coreStd whose subpackages are not meant.
var coreExact = []string{"math"}

// simulation draws its luck from a seed. Its command runs it from outside, and is no part of the core.
const (
	simulation        = "federation/sim"
	simulationCommand = "federation/sim/cmd"
)

// seeded is the source of that luck.
const seeded = "math/rand/v2"

func coreImports(t tree) []string {
	var out []string
	for _, p := range t.core() {
		dir, _ := p.dir()
		for _, imported := range p.imports {
			inner, ours := strings.CutPrefix(imported, module+"/")
			switch {
			case ours && within(inner, "federation"), imported == "go4.org/netipx":
			case dir == simulation && imported == seeded:
			case slices.Contains(coreStd, imported):
			case !ours && within(imported, coreStd...) && !within(imported, coreExact...):
			default:
				out = append(out, fmt.Sprintf("%s imports %s: not allowed in the core", dir, imported))
			}
		}
	}
	return out
}

func coreDependencies(t tree) []string {
	var out []string
	for _, p := range t.core() {
		dir, _ := p.dir()
		seen := map[string]bool{}
		var walk func(path string)
		walk = func(path string) {
			dep := t.packages[path]
			if seen[path] || dep == nil || dep.standard {
				return
			}
			seen[path] = true
			inner, ours := dep.dir()
			if path != "go4.org/netipx" && (!ours || !within(inner, "federation")) {
				out = append(out, fmt.Sprintf("%s depends on %s: the core depends on the standard library and go4.org/netipx alone", dir, path))
				return
			}
			for _, imported := range dep.imports {
				walk(imported)
			}
		}
		walk(p.path)
	}
	return out
}

// clockFuncs are the functions of package time that read the clock or wait for it.
var clockFuncs = []string{"Now", "Since", "Until", "After", "AfterFunc", "NewTimer", "NewTicker", "Tick", "Sleep"}

func coreClock(t tree) []string {
	var out []string
	for _, p := range t.core() {
		for _, file := range p.files {
			out = append(out, clockUses(t.fset, file)...)
		}
	}
	return out
}

func clockUses(fset *token.FileSet, file source) []string {
	var out []string
	report := func(pos token.Pos, what string) {
		out = append(out, fmt.Sprintf("%s:%d: %s", file.name, fset.Position(pos).Line, what))
	}
	clock := ""
	for _, spec := range file.ast.Imports {
		if spec.Path.Value != `"time"` {
			continue
		}
		clock = "time"
		if spec.Name != nil {
			clock = spec.Name.Name
		}
		if clock == "." {
			report(spec.Pos(), "dot import of time: the time is an argument in the core")
		}
	}
	ast.Inspect(file.ast, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.GoStmt:
			report(n.Pos(), "go statement: the core starts nothing")
		case *ast.SelectorExpr:
			x, ok := n.X.(*ast.Ident)
			if ok && clock != "" && x.Name == clock && slices.Contains(clockFuncs, n.Sel.Name) {
				report(n.Pos(), "time."+n.Sel.Name+": the time is an argument in the core")
			}
		}
		return true
	})
	return out
}

// core returns the packages below federation, without the simulation's command.
func (t tree) core() []*pkg {
	return slices.DeleteFunc(t.ours(), func(p *pkg) bool {
		dir, _ := p.dir()
		return !within(dir, "federation") || within(dir, simulationCommand)
	})
}

// layer says what the packages below a directory may import of this module.
type layer struct {
	dir string
	may []string // nil: anything
}

// layers are looked up in order, so the narrower directory comes first.
var layers = []layer{
	{dir: "e2e-kind"},
	{dir: "federation", may: []string{"federation"}},
	{dir: "api", may: []string{"api", "federation"}},
	{dir: "hub", may: []string{"hub", "api", "federation"}},
	{dir: "spoke/cmd", may: []string{"spoke", "extension", "api", "federation"}}, // the extension runs in the spoke's process
	{dir: "spoke", may: []string{"spoke", "api", "federation"}},
	{dir: "deploy"}, // what is installed is checked against all of it
	{dir: "extension", may: []string{"extension", "api", "federation"}},
}

func direction(t tree) []string {
	var out []string
	for _, p := range t.ours() {
		dir, _ := p.dir()
		i := slices.IndexFunc(layers, func(l layer) bool { return within(dir, l.dir) })
		if i < 0 {
			if dir != "." {
				out = append(out, dir+" has no place in the layout")
			}
			continue
		}
		for _, imported := range p.imports {
			inner, ours := strings.CutPrefix(imported, module+"/")
			if ours && layers[i].may != nil && !within(inner, layers[i].may...) {
				out = append(out, fmt.Sprintf("%s imports %s: %s/** may import %s", dir, inner, layers[i].dir, strings.Join(layers[i].may, ", ")))
			}
		}
	}
	return out
}

// home says which packages may import a foreign dependency.
type home struct {
	dependency string
	dirs       []string
}

// homes are looked up in order, so the narrower dependency comes first. e2e-kind may import anything.
var homes = []home{
	{"go.etcd.io/bbolt", []string{"hub/store/bolt", "hub/cmd/bench"}}, // the bench is measured beside bbolt itself
	{"go.etcd.io/etcd", []string{"hub/store/etcd"}},
	{"tailscale.com/client/tailscale", []string{"hub/tailnet"}},
	{"golang.org/x/oauth2", []string{"hub/tailnet"}},
	{"tailscale.com", []string{"hub/tailnet", "spoke/tailnet", "spoke/proxy"}},
	{"gvisor.dev/gvisor", []string{"hub/tailnet", "spoke/tailnet", "spoke/proxy"}},
	{"github.com/envoyproxy", []string{"extension"}},
	{"github.com/cncf/xds", []string{"extension"}}, // the matchers of Envoy's filter chains
	{"google.golang.org/grpc", []string{"api/link", "hub/link", "spoke/link", "spoke/proxy", "spoke/proxyserver", "extension"}},
	{"google.golang.org/protobuf", []string{"api/link", "api/store", "hub/store/codec", "hub/store/archive", "hub/link", "spoke/link", "spoke/proxy", "spoke/proxyserver", "extension"}},
	{"github.com/klauspost/compress", []string{"api/link", "hub/link", "spoke/link"}},
	{"sigs.k8s.io/multicluster-runtime", []string{"hub/clusters", "hub/controllers", "hub/cmd"}},
	{"k8s.io/apimachinery", []string{"api/v1alpha1", "hub/clusters", "hub/controllers", "hub/cmd", "hub/verify", "hub/gather", "hub/departure", "spoke/controllers", "spoke/proxy/statestore", "spoke/cmd"}},
	{"k8s.io/api", []string{"api/v1alpha1", "hub/clusters", "hub/controllers", "hub/cmd", "hub/verify", "hub/gather", "hub/departure", "spoke/controllers", "spoke/proxy/statestore", "spoke/cmd"}},
	{"sigs.k8s.io/gateway-api", []string{"api/v1alpha1", "hub/clusters", "hub/controllers", "hub/cmd", "hub/verify", "hub/gather", "hub/departure", "spoke/controllers", "spoke/cmd"}},
	{"sigs.k8s.io/mcs-api", []string{"hub/clusters", "hub/controllers", "hub/cmd", "spoke/controllers"}},
	{"k8s.io", []string{"hub/clusters", "hub/controllers", "hub/cmd", "hub/verify", "hub/gather", "hub/departure", "spoke/apiproxy", "spoke/controllers", "spoke/cmd"}},
	{"sigs.k8s.io/yaml", []string{"extension", "hub/cmd", "hub/gather", "spoke/cmd", "deploy"}}, // what Envoy Gateway is configured with, output, support bundles, CRDs and charts
	{"sigs.k8s.io/controller-runtime", []string{"hub/clusters", "hub/controllers", "hub/cmd", "hub/verify", "hub/gather", "hub/departure", "spoke/controllers", "spoke/cmd"}},
	{"github.com/go-logr/logr", []string{"hub/clusters", "hub/controllers", "hub/cmd", "spoke/controllers", "spoke/cmd"}},
	{"github.com/spf13/cobra", []string{"hub/cmd", "spoke/cmd"}},
	{"github.com/spf13/pflag", []string{"hub/cmd", "spoke/cmd"}},
	{"github.com/prometheus/client_golang", []string{"hub", "spoke", "extension", "deploy/cmd/reference"}},
	{"github.com/prometheus/common", []string{"deploy/cmd/reference"}},
	{"helm.sh/helm/v3", []string{"deploy"}},
	{"golang.org/x/sync", []string{"hub", "spoke", "extension"}},
	{"golang.org/x/term", []string{"hub/cmd/tailgate"}},
	{"golang.org/x/mod", []string{"api/envoygateway"}},
	{"golang.org/x/time", []string{"hub", "spoke", "extension"}},
	{"golang.org/x/net", []string{"hub", "spoke", "extension"}},
	{"golang.org/x/sys", []string{"hub", "spoke", "extension"}},
	{"go4.org/netipx", []string{"federation"}},
	{"github.com/google/go-cmp", []string{"hub/store/storetest"}}, // a suite of tests that other packages' tests run
}

func homesKept(t tree) []string {
	var out []string
	for _, p := range t.ours() {
		dir, _ := p.dir()
		if within(dir, "e2e-kind") {
			continue
		}
		for _, imported := range p.imports {
			dep := t.packages[imported]
			if dep == nil || dep.standard {
				continue
			}
			if _, ours := dep.dir(); ours {
				continue
			}
			i := slices.IndexFunc(homes, func(h home) bool { return within(imported, h.dependency) })
			switch {
			case i < 0:
				out = append(out, fmt.Sprintf("%s imports %s, which has no home: give it one in the rules or do without", dir, imported))
			case !within(dir, homes[i].dirs...):
				out = append(out, fmt.Sprintf("%s imports %s, whose home is %s", dir, imported, strings.Join(homes[i].dirs, ", ")))
			}
		}
	}
	return out
}

func packageDocs(t tree) []string {
	var out []string
	for _, p := range t.ours() {
		dir, _ := p.dir()
		var documented []string
		for _, file := range p.files {
			if file.ast.Doc == nil || strings.TrimSpace(file.ast.Doc.Text()) == "" {
				continue
			}
			documented = append(documented, path.Base(file.name))
			name := file.ast.Name.Name
			if name != "main" && !strings.HasPrefix(file.ast.Doc.Text(), "Package "+name+" ") {
				out = append(out, fmt.Sprintf("%s: the package comment in %s does not begin with %q", dir, path.Base(file.name), "Package "+name+" "))
			}
		}
		switch {
		case len(documented) == 0:
			out = append(out, dir+": no package comment")
		case len(documented) > 1:
			out = append(out, fmt.Sprintf("%s: package comments in %s: keep one", dir, strings.Join(documented, ", ")))
		}
	}
	return out
}

// rbacMarkers finds markers that controller-gen passes over in silence: it takes one for the package's only where no
// declaration follows on the next line.
func rbacMarkers(t tree) []string {
	var out []string
	for _, p := range t.ours() {
		for _, file := range p.files {
			for _, decl := range file.ast.Decls {
				var doc *ast.CommentGroup
				switch decl := decl.(type) {
				case *ast.FuncDecl:
					doc = decl.Doc
				case *ast.GenDecl:
					doc = decl.Doc
				}
				if doc != nil && slices.ContainsFunc(doc.List, func(c *ast.Comment) bool { return strings.HasPrefix(c.Text, "// +kubebuilder:rbac:") }) {
					out = append(out, fmt.Sprintf("%s:%d: rbac marker is lost: put a blank line below it", file.name, t.fset.Position(doc.Pos()).Line))
				}
			}
		}
	}
	return out
}
