// Package pages makes the pages of the references. The same tree gives the same bytes.
package pages

import (
	"context"
	"fmt"
	"strings"
)

// Page is a page of Markdown.
type Page struct {
	// Name is the file's.
	Name string
	Text string
}

// All returns the pages for the module in the directory root.
func All(ctx context.Context, root string) ([]Page, error) {
	kinds, err := readKinds(root)
	if err != nil {
		return nil, err
	}
	words, err := readWords(root)
	if err != nil {
		return nil, err
	}
	families, err := readMetrics(ctx)
	if err != nil {
		return nil, err
	}
	reasons, err := reasonsPage(words)
	if err != nil {
		return nil, err
	}
	metrics, err := metricsPage(families)
	if err != nil {
		return nil, err
	}
	return []Page{
		{"api.md", apiPage(kinds, words)},
		{"metrics.md", metrics},
		{"reasons.md", reasons},
	}, nil
}

// generated stands at the head of every page.
const generated = "<!-- Written by `go run ./deploy/cmd/reference`. Change what it is made from, not this file. -->\n\n"

// page is Markdown that grows.
type page struct{ strings.Builder }

// line writes a line.
func (p *page) line(format string, args ...any) {
	fmt.Fprintf(p, format, args...)
	p.WriteByte('\n')
}

// paragraph writes lines that an empty one follows.
func (p *page) paragraph(format string, args ...any) {
	p.line(format, args...)
	p.WriteByte('\n')
}

// row writes a row of a table. A line break in a cell becomes one in the table.
func (p *page) row(cells ...string) {
	for i, c := range cells {
		cells[i] = strings.ReplaceAll(strings.TrimSpace(c), "\n", "<br>")
	}
	p.line("| %s |", strings.Join(cells, " | "))
}

// head writes the head of a table.
func (p *page) head(cells ...string) {
	p.row(cells...)
	rules := make([]string, len(cells))
	for i := range rules {
		rules[i] = "---"
	}
	p.line("|%s|", strings.Join(rules, "|"))
}

// special are the characters that mean something in Markdown or in a table.
var special = strings.NewReplacer(`\`, `\\`, "*", `\*`, "_", `\_`, "<", "&lt;", ">", "&gt;", "|", `\|`, "[", `\[`, "]", `\]`)

// prose writes text for a reader. What stands between backquotes stays code.
func prose(text string) string {
	parts := strings.Split(text, "`")
	for i, part := range parts {
		if i%2 == 0 {
			parts[i] = special.Replace(part)
		} else {
			parts[i] = strings.ReplaceAll(part, "|", `\|`)
		}
	}
	return strings.Join(parts, "`")
}

// code writes a word as code. It may have backquotes of its own.
func code(word string) string {
	word = strings.ReplaceAll(word, "|", `\|`)
	if strings.Contains(word, "`") {
		return "`` " + word + " ``"
	}
	return "`" + word + "`"
}

// codes writes words as code.
func codes(words []string) string {
	out := make([]string, 0, len(words))
	for _, w := range words {
		out = append(out, code(w))
	}
	return strings.Join(out, ", ")
}

// anchor is the name that a heading gets where Markdown is shown.
func anchor(heading string) string {
	var b strings.Builder
	for _, r := range strings.ToLower(heading) {
		switch {
		case r == ' ':
			b.WriteByte('-')
		case r == '-' || r == '_' || r >= 'a' && r <= 'z' || r >= '0' && r <= '9':
			b.WriteRune(r)
		}
	}
	return b.String()
}

// flow joins the lines of each paragraph of a comment or a description, and keeps the paragraphs.
func flow(text string) []string {
	var out []string
	for paragraph := range strings.SplitSeq(strings.TrimSpace(text), "\n\n") {
		out = append(out, strings.Join(strings.Fields(paragraph), " "))
	}
	return out
}
