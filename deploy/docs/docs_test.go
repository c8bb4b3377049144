// Package docs_test holds the documents of the repository against the code that they are about.
package docs_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const root = "../.."

// document is a document as a reader gets it.
type document struct {
	// path is relative to the module.
	path, text string
	// lines are those outside of code blocks.
	lines  []string
	blocks []block
}

// block is a block of code.
type block struct{ language, text string }

func read(t *testing.T, path string) document {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(root, filepath.FromSlash(path)))
	if err != nil {
		t.Fatal(err)
	}
	d := document{path: path, text: string(data)}
	open := false
	for line := range strings.Lines(d.text) {
		line = strings.TrimSuffix(line, "\n")
		language, fence := strings.CutPrefix(strings.TrimSpace(line), "```")
		switch {
		case fence && !open:
			open = true
			d.blocks = append(d.blocks, block{language: language})
		case fence:
			open = false
		case open:
			last := &d.blocks[len(d.blocks)-1]
			last.text += line + "\n"
		default:
			d.lines = append(d.lines, line)
		}
	}
	if open {
		t.Errorf("%s: a block of code has no end", path)
	}
	return d
}

// documents are those that are looked at.
func documents(t *testing.T) []document {
	t.Helper()
	out := []document{read(t, "README.md"), read(t, "deploy/README.md")}
	pages, err := fs.Glob(os.DirFS(root), "deploy/docs/*.md")
	if err != nil || len(pages) == 0 {
		t.Fatalf("no pages in deploy/docs: %v", err)
	}
	for _, p := range pages {
		out = append(out, read(t, p))
	}
	return out
}

// span is code in a line.
var span = regexp.MustCompile("``([^`].*?)``|`([^`]+)`")

// spans are the pieces of code in the lines.
func (d document) spans() []string {
	var out []string
	for _, m := range span.FindAllStringSubmatch(strings.Join(d.lines, "\n"), -1) {
		out = append(out, strings.Join(strings.Fields(m[1]+m[2]), " "))
	}
	return out
}

var (
	heading  = regexp.MustCompile(`^#{1,6} +(.*?)\s*$`)
	linked   = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	noAnchor = regexp.MustCompile(`[^\pL\pN\- _]`)
)

// anchors are what links may lead to within a document, as GitHub makes them.
func (d document) anchors() map[string]bool {
	out := map[string]bool{}
	for _, line := range d.lines {
		if m := heading.FindStringSubmatch(line); m != nil {
			out[strings.ReplaceAll(noAnchor.ReplaceAllString(strings.ToLower(m[1]), ""), " ", "-")] = true
		}
	}
	return out
}

// brokenLinks are the relative links of a document that lead nowhere.
func brokenLinks(t *testing.T, d document) []string {
	t.Helper()
	var out []string
	for _, m := range linked.FindAllStringSubmatch(span.ReplaceAllString(strings.Join(d.lines, "\n"), "code"), -1) {
		link := m[1]
		if strings.Contains(link, "://") {
			continue
		}
		file, anchor, _ := strings.Cut(link, "#")
		target := d
		if file != "" {
			path := filepath.ToSlash(filepath.Join(filepath.Dir(d.path), file))
			if _, err := os.Stat(filepath.Join(root, path)); err != nil {
				out = append(out, link+": there is no such file")
				continue
			}
			if anchor != "" {
				target = read(t, path)
			}
		}
		if anchor != "" && !target.anchors()[anchor] {
			out = append(out, link+": there is no such heading")
		}
	}
	return out
}

func TestLinksResolve(t *testing.T) {
	for _, d := range documents(t) {
		for _, broken := range brokenLinks(t, d) {
			t.Errorf("%s: %s", d.path, broken)
		}
	}
}

func TestBrokenLinksAreFound(t *testing.T) {
	d := document{path: "deploy/README.md", lines: []string{
		"# Top", "## A heading: two", "[a](#a-heading-two) [b](#gone) [c](gone.md) [d](../README.md) [e](../README.md#gone) [f](https://example.com/#x)", "`[g](gone)`",
	}}
	want := []string{"#gone: there is no such heading", "gone.md: there is no such file", "../README.md#gone: there is no such heading"}
	if got := brokenLinks(t, d); !slices.Equal(want, got) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// metricName is a metric of Tailgate's. A name that ends with _ stands for several.
var metricName = regexp.MustCompile(`tailgate_(hub|spoke|proxy)_[a-z0-9_]+`)

func TestMetricsExist(t *testing.T) {
	// The page of metrics is what the registries said, as its own test sees to.
	known := map[string]bool{}
	for _, s := range read(t, "deploy/docs/metrics.md").spans() {
		if metricName.MatchString(s) {
			known[s] = true
		}
	}
	if len(known) < 30 {
		t.Fatalf("the page of metrics has only %d", len(known))
	}
	for _, d := range documents(t) {
		for _, name := range metricName.FindAllString(d.text, -1) {
			base := name
			for _, suffix := range []string{"_bucket", "_sum", "_count"} {
				base = strings.TrimSuffix(base, suffix)
			}
			if !known[name] && !known[base] {
				t.Errorf("%s: there is no metric %s", d.path, name)
			}
		}
	}
}
