package docs_test

import (
	"go/ast"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/tailgate-project/tailgate/api/v1alpha1"
	"github.com/tailgate-project/tailgate/e2e-kind/controlplane"
)

// defaultOf is the default of a flag that is a number, "" if the file does not define it.
func defaultOf(f *ast.File, flag string) (value string) {
	ast.Inspect(f, func(n ast.Node) bool {
		call, ok := n.(*ast.CallExpr)
		if !ok || len(call.Args) < 4 {
			return true
		}
		name, ok := text(call.Args[1])
		if number, is := call.Args[2].(*ast.BasicLit); ok && is && name == flag {
			value = number.Value
		}
		return true
	})
	return value
}

func decimal(n int) string { return strconv.Itoa(n) }

// TestExamplesAreTaken gives every object of our group in the documents to a real API server, which checks it and stores
// nothing.
func TestExamplesAreTaken(t *testing.T) {
	plane := controlplane.ForTest(t)
	crds, err := filepath.Glob(filepath.Join(root, "deploy", "crds", "*.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	if err := plane.ApplyFiles(t.Context(), crds...); err != nil {
		t.Fatal(err)
	}
	c, err := client.New(plane.RESTConfig(), client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	for _, d := range documents(t) {
		for _, b := range d.blocks {
			for text := range strings.SplitSeq(b.text, "\n---\n") {
				o := &unstructured.Unstructured{}
				if err := yaml.Unmarshal([]byte(text), &o.Object); err != nil || !strings.HasPrefix(o.GetAPIVersion(), v1alpha1.GroupName+"/") {
					if b.language == "yaml" && err != nil {
						t.Errorf("%s: %v", d.path, err)
					}
					continue
				}
				seen++
				if err := c.Create(t.Context(), o, client.DryRunAll, client.FieldValidation(metav1.FieldValidationStrict)); err != nil {
					t.Errorf("%s: %s %s: %v", d.path, o.GetKind(), o.GetName(), err)
				}
			}
		}
	}
	if seen < 5 {
		t.Errorf("only %d examples were found", seen)
	}
}
