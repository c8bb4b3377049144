package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tailgate-project/tailgate/deploy/cmd/reference/internal/pages"
)

const root = "../../.."

// TestPagesAreUpToDate makes the pages again and compares them with those in the tree.
func TestPagesAreUpToDate(t *testing.T) {
	all, err := pages.All(t.Context(), root)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range all {
		have, err := os.ReadFile(filepath.Join(root, "deploy", "docs", p.Name))
		if err != nil {
			t.Error(err)
			continue
		}
		if diff := cmp.Diff(string(have), p.Text); diff != "" {
			t.Errorf("deploy/docs/%s is out of date: go run ./deploy/cmd/reference (-is +should be)\n%s", p.Name, diff)
		}
	}
}

// TestRunWritesWhatIsMissing writes into an empty directory, and then finds nothing to write.
func TestRunWritesWhatIsMissing(t *testing.T) {
	out := filepath.Join(t.TempDir(), "docs")
	if err := run(t.Context(), root, out); err != nil {
		t.Fatal(err)
	}
	first := map[string]os.FileInfo{}
	for _, name := range []string{"api.md", "metrics.md", "reasons.md"} {
		info, err := os.Stat(filepath.Join(out, name))
		if err != nil {
			t.Fatal(err)
		}
		first[name] = info
	}
	if err := os.Remove(filepath.Join(out, "metrics.md")); err != nil {
		t.Fatal(err)
	}
	if err := run(t.Context(), root, out); err != nil {
		t.Fatal(err)
	}
	for name, before := range first {
		after, err := os.Stat(filepath.Join(out, name))
		if err != nil {
			t.Fatal(err)
		}
		if kept := os.SameFile(before, after) && before.ModTime().Equal(after.ModTime()); kept != (name != "metrics.md") {
			t.Errorf("%s: kept %v", name, kept)
		}
	}
}

// TestUnknownKeywordsAreRefused has a CRD with something that the reference does not show.
func TestUnknownKeywordsAreRefused(t *testing.T) {
	dir := t.TempDir()
	crds := filepath.Join(dir, "deploy", "crds")
	if err := os.MkdirAll(crds, 0o755); err != nil {
		t.Fatal(err)
	}
	text := "kind: CustomResourceDefinition\nspec: {versions: [{schema: {openAPIV3Schema: {type: object, multipleOf: 2}}}]}\n"
	if err := os.WriteFile(filepath.Join(crds, "new.yaml"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := pages.All(t.Context(), dir); err == nil || !strings.Contains(err.Error(), "new.yaml") || !strings.Contains(err.Error(), "multipleOf") {
		t.Errorf("error %v, want one that names the file and the keyword", err)
	}
}

// TestRunNeedsTheModule runs where no CRDs are.
func TestRunNeedsTheModule(t *testing.T) {
	if err := run(t.Context(), t.TempDir(), t.TempDir()); err == nil {
		t.Error("pages of nothing were written")
	}
}
