package tailgate_test

import (
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/tools/go/packages"
	"sigs.k8s.io/yaml"
)

// TestLayering holds the tree against its rules.
func TestLayering(t *testing.T) {
	tr := loadTree(t)
	for _, r := range rules {
		t.Run(r.name, func(t *testing.T) {
			for _, v := range r.check(tr) {
				t.Error(v)
			}
		})
	}
}

// TestRulesBite holds small trees against the rules, most of which break one of them.
func TestRulesBite(t *testing.T) {
	tests := map[string]struct {
		rule string
		// tree maps a file to its content; a directory of another module is written in full.
		tree map[string]string
		want []string
	}{
		"core-pure": {
			rule: "core imports",
			tree: map[string]string{"federation/vip/vip.go": `package vip; import ("net/netip"; "time"; "go4.org/netipx"; "github.com/tailgate-project/tailgate/federation")`},
		},
		"core-context": {
			rule: "core imports",
			tree: map[string]string{"federation/vip/vip.go": `package vip; import "context"`},
			want: []string{"federation/vip imports context: not allowed in the core"},
		},
		"core-net": {
			rule: "core imports",
			tree: map[string]string{"federation/vip/vip.go": `package vip; import ("net"; "net/http"; "sync/atomic"; "math/rand/v2")`},
			want: []string{
				"federation/vip imports math/rand/v2: not allowed in the core",
				"federation/vip imports net: not allowed in the core",
				"federation/vip imports net/http: not allowed in the core",
				"federation/vip imports sync/atomic: not allowed in the core",
			},
		},
		"core-api": {
			rule: "core imports",
			tree: map[string]string{"federation/federation.go": `package federation; import "github.com/tailgate-project/tailgate/api/link"`},
			want: []string{"federation imports github.com/tailgate-project/tailgate/api/link: not allowed in the core"},
		},
		"core-test-files-are-free": {
			rule: "core imports",
			tree: map[string]string{"federation/vip/vip_test.go": `package vip_test; import "os"`},
		},
		"simulation-draws-from-a-seed": {
			rule: "core imports",
			tree: map[string]string{"federation/sim/world.go": `package sim; import "math/rand/v2"`},
		},
		"simulation-is-core-otherwise": {
			rule: "core imports",
			tree: map[string]string{"federation/sim/world.go": `package sim; import ("math/rand"; "sync")`},
			want: []string{
				"federation/sim imports math/rand: not allowed in the core",
				"federation/sim imports sync: not allowed in the core",
			},
		},
		"simulation-command-is-not-core": {
			rule: "core imports",
			tree: map[string]string{"federation/sim/cmd/sim/main.go": `package main; import ("flag"; "os"; "sync")`},
		},
		"core-foreign-through-netipx": {
			rule: "core dependencies",
			tree: map[string]string{
				"federation/vip/vip.go":     `package vip; import "go4.org/netipx"`,
				"go4.org/netipx/set.go":     `package netipx; import "example.com/surprise"`,
				"example.com/surprise/x.go": `package surprise`,
			},
			want: []string{"federation/vip depends on example.com/surprise: the core depends on the standard library and go4.org/netipx alone"},
		},
		"core-clock": {
			rule: "core clock",
			tree: map[string]string{"federation/vip/vip.go": "package vip\nimport clock \"time\"\nvar t = clock.Now()\nvar d = clock.Second\nfunc f() { go f(); clock.Sleep(d) }"},
			want: []string{
				"federation/vip/vip.go:3: time.Now: the time is an argument in the core",
				"federation/vip/vip.go:5: go statement: the core starts nothing",
				"federation/vip/vip.go:5: time.Sleep: the time is an argument in the core",
			},
		},
		"core-clock-of-somebody-else": {
			rule: "core clock",
			tree: map[string]string{"federation/vip/vip.go": "package vip\nimport \"example.com/time\"\nvar t = time.Now()"},
		},
		"core-clock-dot-import": {
			rule: "core clock",
			tree: map[string]string{"federation/vip/vip.go": "package vip\nimport . \"time\"\nvar t = Now()"},
			want: []string{"federation/vip/vip.go:2: dot import of time: the time is an argument in the core"},
		},
		"hub-imports-spoke": {
			rule: "direction",
			tree: map[string]string{"hub/link/link.go": `package link; import "github.com/tailgate-project/tailgate/spoke/link"`},
			want: []string{"hub/link imports spoke/link: hub/** may import hub, api, federation"},
		},
		"spoke-cmd-joins-extension": {
			rule: "direction",
			tree: map[string]string{"spoke/cmd/spoke/main.go": `package main; import "github.com/tailgate-project/tailgate/extension"`},
		},
		"spoke-imports-extension": {
			rule: "direction",
			tree: map[string]string{"spoke/link/link.go": `package link; import "github.com/tailgate-project/tailgate/extension"`},
			want: []string{"spoke/link imports extension: spoke/** may import spoke, api, federation"},
		},
		"api-imports-up": {
			rule: "direction",
			tree: map[string]string{"api/link/link.go": `package link; import "github.com/tailgate-project/tailgate/hub"`},
			want: []string{"api/link imports hub: api/** may import api, federation"},
		},
		"product-imports-test-equipment": {
			rule: "direction",
			tree: map[string]string{"hub/hub.go": `package hub; import "github.com/tailgate-project/tailgate/e2e-kind/tailnet"`},
			want: []string{"hub imports e2e-kind/tailnet: hub/** may import hub, api, federation"},
		},
		"tests-import-test-equipment": {
			rule: "direction",
			tree: map[string]string{"hub/hub_test.go": `package hub_test; import "github.com/tailgate-project/tailgate/e2e-kind/tailnet"`},
		},
		"equipment-imports-anything": {
			rule: "direction",
			tree: map[string]string{"e2e-kind/all/all.go": `package all; import ("github.com/tailgate-project/tailgate/hub"; "github.com/tailgate-project/tailgate/spoke")`},
		},
		"directory-outside-the-layout": {
			rule: "direction",
			tree: map[string]string{"pkg/utils/utils.go": `package utils`},
			want: []string{"pkg/utils has no place in the layout"},
		},
		"similar-prefix-is-not-a-home": {
			rule: "homes",
			tree: map[string]string{"hub/store/boltextra/x.go": `package boltextra; import "go.etcd.io/bbolt"`},
			want: []string{"hub/store/boltextra imports go.etcd.io/bbolt, whose home is hub/store/bolt, hub/cmd/bench"},
		},
		"bbolt-at-home": {
			rule: "homes",
			tree: map[string]string{"hub/store/bolt/x.go": `package bolt; import "go.etcd.io/bbolt"`},
		},
		"tailscale-in-the-link": {
			rule: "homes",
			tree: map[string]string{"hub/link/x.go": `package link; import ("tailscale.com/tsnet"; "google.golang.org/grpc/codes")`},
			want: []string{"hub/link imports tailscale.com/tsnet, whose home is hub/tailnet, spoke/tailnet, spoke/proxy"},
		},
		"stranger": {
			rule: "homes",
			tree: map[string]string{"hub/x.go": `package hub; import "example.com/left-pad"`},
			want: []string{"hub imports example.com/left-pad, which has no home: give it one in the rules or do without"},
		},
		"equipment-uses-anything": {
			rule: "homes",
			tree: map[string]string{"e2e-kind/x/x.go": `package x; import "example.com/left-pad"`},
		},
		"doc-missing": {
			rule: "package docs",
			tree: map[string]string{"hub/hub.go": `package hub`},
			want: []string{"hub: no package comment"},
		},
		"doc-twice": {
			rule: "package docs",
			tree: map[string]string{"hub/a.go": "// Package hub is.\npackage hub", "hub/b.go": "// Package hub is, too.\npackage hub"},
			want: []string{"hub: package comments in a.go, b.go: keep one"},
		},
		"doc-names-another": {
			rule: "package docs",
			tree: map[string]string{"hub/a.go": "// Package hubs is.\npackage hub"},
			want: []string{`hub: the package comment in a.go does not begin with "Package hub "`},
		},
		"marker-lost": {
			rule: "rbac markers",
			tree: map[string]string{"hub/a.go": "package hub\n\n// +kubebuilder:rbac:groups=\"\",resources=pods,verbs=get\nfunc F() {}"},
			want: []string{"hub/a.go:3: rbac marker is lost: put a blank line below it"},
		},
		"marker-kept": {
			rule: "rbac markers",
			tree: map[string]string{"hub/a.go": "package hub\n\n// +kubebuilder:rbac:groups=\"\",resources=pods,verbs=get\n\n// F does.\nfunc F() {}"},
		},
		"doc-of-a-command": {
			rule: "package docs",
			tree: map[string]string{"hub/cmd/hub/main.go": "// Hub runs.\npackage main"},
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			i := slices.IndexFunc(rules, func(r rule) bool { return r.name == tt.rule })
			if i < 0 {
				t.Fatalf("no rule %q", tt.rule)
			}
			if diff := cmp.Diff(tt.want, rules[i].check(parseTree(t, tt.tree))); diff != "" {
				t.Errorf("violations (-want +got):\n%s", diff)
			}
		})
	}
}

// TestFieldsDescribed holds the CRDs against the promise that kubectl explain says something about every field.
func TestFieldsDescribed(t *testing.T) {
	files, err := filepath.Glob("deploy/crds/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no CRDs in deploy/crds (run make generate): %v", err)
	}
	for _, file := range files {
		raw, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, field := range undescribed(t, raw) {
			t.Errorf("%s: %s has no description", file, field)
		}
	}
}

func TestUndescribedBites(t *testing.T) {
	crd := `
spec:
  versions:
  - name: v1
    schema:
      openAPIV3Schema:
        properties:
          kind: {type: string, description: Kind.}
          spec:
            type: object
            description: Spec.
            properties:
              list:
                type: array
                description: List.
                items:
                  properties:
                    bare: {type: string}
              map:
                description: Map.
                additionalProperties:
                  properties:
                    blank: {type: string, description: "  "}
          status: {type: object}
`
	want := []string{"v1.spec.list[].bare", "v1.spec.map{}.blank", "v1.status"}
	if diff := cmp.Diff(want, undescribed(t, []byte(crd))); diff != "" {
		t.Errorf("fields (-want +got):\n%s", diff)
	}
}

// schema is as much of a CRD's schema as tells whether its fields are described.
type schema struct {
	Description          string            `json:"description"`
	Properties           map[string]schema `json:"properties"`
	Items                *schema           `json:"items"`
	AdditionalProperties *schema           `json:"additionalProperties"`
}

// undescribed returns the fields of a CRD that have no description, sorted.
func undescribed(t *testing.T, crd []byte) []string {
	t.Helper()
	var doc struct {
		Spec struct {
			Versions []struct {
				Name   string `json:"name"`
				Schema struct {
					Root schema `json:"openAPIV3Schema"`
				} `json:"schema"`
			} `json:"versions"`
		} `json:"spec"`
	}
	if err := yaml.Unmarshal(crd, &doc); err != nil {
		t.Fatal(err)
	}
	if len(doc.Spec.Versions) == 0 {
		t.Fatal("not a CRD: no versions")
	}
	var missing []string
	var walk func(path string, s schema)
	walk = func(path string, s schema) {
		for name, field := range s.Properties {
			if strings.TrimSpace(field.Description) == "" {
				missing = append(missing, path+"."+name)
			}
			walk(path+"."+name, field)
		}
		if s.Items != nil {
			walk(path+"[]", *s.Items)
		}
		if s.AdditionalProperties != nil {
			walk(path+"{}", *s.AdditionalProperties)
		}
	}
	for _, v := range doc.Spec.Versions {
		delete(v.Schema.Root.Properties, "metadata") // the API server describes it
		walk(v.Name, v.Schema.Root)
	}
	slices.Sort(missing)
	return missing
}

// loadTree reads the packages of this module and the import graph of everything that they depend on.
func loadTree(t *testing.T) tree {
	t.Helper()
	fset := token.NewFileSet()
	roots, err := packages.Load(&packages.Config{
		Context: t.Context(),
		Mode:    packages.NeedName | packages.NeedFiles | packages.NeedImports | packages.NeedDeps | packages.NeedModule,
	}, "./...")
	if err != nil {
		t.Fatal(err)
	}
	root, err := filepath.Abs(".")
	if err != nil {
		t.Fatal(err)
	}
	tr := tree{fset: fset, packages: map[string]*pkg{}}
	packages.Visit(roots, nil, func(p *packages.Package) {
		n := &pkg{path: p.PkgPath, standard: p.Module == nil && !strings.Contains(strings.Split(p.PkgPath, "/")[0], ".")}
		for path := range p.Imports {
			n.imports = append(n.imports, path)
		}
		slices.Sort(n.imports)
		if _, ours := n.dir(); ours {
			for _, file := range p.GoFiles {
				f, err := parser.ParseFile(fset, file, nil, parser.ParseComments|parser.SkipObjectResolution)
				if err != nil {
					t.Fatal(err)
				}
				name, err := filepath.Rel(root, file)
				if err != nil {
					t.Fatal(err)
				}
				n.files = append(n.files, source{name: filepath.ToSlash(name), ast: f})
			}
		}
		tr.packages[n.path] = n
	})
	if len(tr.ours()) < 2 {
		t.Fatalf("found only %d packages of this module", len(tr.ours()))
	}
	return tr
}

// parseTree makes a tree of file contents. An imported package that has no file in it is taken for an empty one.
func parseTree(t *testing.T, files map[string]string) tree {
	t.Helper()
	tr := tree{fset: token.NewFileSet(), packages: map[string]*pkg{}}
	at := func(path string) *pkg {
		if tr.packages[path] == nil {
			tr.packages[path] = &pkg{path: path, standard: !strings.Contains(strings.Split(path, "/")[0], ".")}
		}
		return tr.packages[path]
	}
	for name, content := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue // as packages.Load does
		}
		f, err := parser.ParseFile(tr.fset, name, content, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.ToSlash(filepath.Dir(name))
		if !strings.Contains(strings.Split(path, "/")[0], ".") {
			path = module + "/" + path
		}
		p := at(path)
		p.files = append(p.files, source{name: name, ast: f})
		for _, spec := range f.Imports {
			imported := strings.Trim(spec.Path.Value, `"`)
			p.imports = append(p.imports, imported)
			at(imported)
		}
	}
	for _, p := range tr.packages {
		slices.Sort(p.imports)
		slices.SortFunc(p.files, func(a, b source) int { return strings.Compare(a.name, b.name) })
	}
	return tr
}
