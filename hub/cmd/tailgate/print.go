package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"golang.org/x/term"
	"sigs.k8s.io/yaml"

	"github.com/tailgate-project/tailgate/api/operator"
	"github.com/tailgate-project/tailgate/federation"
)

// The formats of --output, and when --color paints.
const (
	asTable, asWide, asJSON, asYAML    = "table", "wide", "json", "yaml"
	colorAuto, colorAlways, colorNever = "auto", "always", "never"
)

// checkOutput refuses a format that there is not before anything is done.
func (t *tool) checkOutput() error {
	if !slices.Contains([]string{asTable, asWide, asJSON, asYAML}, t.format) {
		return usagef("--output %q: want table, wide, json or yaml", t.format)
	}
	if !slices.Contains([]string{colorAuto, colorAlways, colorNever}, t.color) {
		return usagef("--color %q: want auto, always or never", t.color)
	}
	return nil
}

// print writes a value in the format that was asked for. A table is written by the function.
func (t *tool) print(cmd *cobra.Command, v any, table func(*page)) error {
	out := cmd.OutOrStdout()
	switch t.format {
	case asJSON:
		data, err := json.MarshalIndent(v, "", "  ")
		if err != nil {
			return fmt.Errorf("print: %w", err)
		}
		_, err = fmt.Fprintln(out, string(data))
		return err
	case asYAML:
		data, err := yaml.Marshal(v)
		if err != nil {
			return fmt.Errorf("print: %w", err)
		}
		_, err = out.Write(data)
		return err
	default:
		table(&page{Writer: out, wide: t.format == asWide, colored: t.paints(out)})
		return nil
	}
}

// paints says whether colours are for this output: a terminal that can and may, by https://no-color.org.
func (t *tool) paints(out io.Writer) bool {
	if t.color != colorAuto {
		return t.color == colorAlways
	}
	f, ok := out.(*os.File)
	return ok && term.IsTerminal(int(f.Fd())) && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
}

// page is what tables for people are written to. That it takes what it is given, nobody checks: as with all writes to the
// terminal, there is nobody to tell.
type page struct {
	io.Writer
	// wide is set for the columns that few ask for, colored for a terminal that shows colours.
	wide, colored bool
}

// tone is how a word is to be taken. Its value is the SGR parameter of ECMA-48 that shows it.
type tone int

const (
	plain tone = 0
	bad   tone = 31
	fine  tone = 32
	warn  tone = 33
)

// cell is a word of a table with its tone. The table has the word alone too: nothing is said by colour only.
type cell struct {
	text string
	tone tone
}

// paint is the text as the page shows it.
func (p *page) paint(c cell) string {
	if !p.colored || c.tone == plain || c.text == "" {
		return c.text
	}
	return fmt.Sprintf("\x1b[%dm%s\x1b[0m", c.tone, c.text)
}

// columns writes rows of strings and cells under a head, aligned. Of each row, what goes beyond the head is for wide pages,
// under the head of that name. An empty cell is a dash, so that columns can be told apart.
func (p *page) columns(head, wide []string, rows [][]any) {
	if p.wide {
		head = slices.Concat(head, wide)
	}
	lines := make([][]cell, 1, 1+len(rows))
	for _, h := range head {
		lines[0] = append(lines[0], cell{text: h})
	}
	for _, r := range rows {
		var line []cell
		for _, v := range r[:len(head)] {
			c, ok := v.(cell)
			if !ok {
				c.text = v.(string)
			}
			c.text = cmp.Or(c.text, "-")
			line = append(line, c)
		}
		lines = append(lines, line)
	}
	widths := make([]int, len(head))
	for _, l := range lines {
		for i, c := range l {
			widths[i] = max(widths[i], utf8.RuneCountInString(c.text))
		}
	}
	for _, l := range lines {
		for i, c := range l {
			gap := ""
			if i < len(l)-1 {
				gap = strings.Repeat(" ", widths[i]-utf8.RuneCountInString(c.text)+3)
			}
			fmt.Fprint(p, p.paint(c), gap)
		}
		fmt.Fprintln(p)
	}
}

// age says how long ago a time was, in one unit; nothing if it never was.
func age(now, at time.Time) string {
	if at.IsZero() {
		return ""
	}
	switch d := now.Sub(at); {
	case d < 0:
		return "0s"
	case d < 2*time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < 2*time.Hour:
		return fmt.Sprintf("%dm", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh", int(d.Hours()))
	default:
		return fmt.Sprintf("%dd", int(d.Hours()/24))
	}
}

// since says how long ago a time was, nothing if it never was.
func since(now, at time.Time) string {
	if at.IsZero() {
		return ""
	}
	return age(now, at) + " ago"
}

// yes is the word for a thing that few have.
func yes(v bool) string {
	if v {
		return "yes"
	}
	return ""
}

// health says in a word how a subject is.
func health(v operator.Verdict) cell {
	c := toned(v.Health, v.Health.String())
	switch {
	case v.Stale:
		return cell{c.text + " (stale)", warn}
	case v.Health == federation.Healthy && v.Share < 100:
		return cell{c.text + fmt.Sprintf(" (%d%%)", v.Share), warn}
	}
	return c
}

// toned is a text in the tone of a health.
func toned(h federation.Health, text string) cell {
	switch h {
	case federation.Healthy:
		return cell{text, fine}
	case federation.Unhealthy:
		return cell{text, bad}
	default:
		return cell{text, warn}
	}
}

func addresses(all []netip.Addr) string {
	var out []string
	for _, a := range all {
		if a.Is4() {
			out = append(out, a.String())
		}
	}
	if len(out) == 0 && len(all) > 0 {
		out = append(out, all[0].String())
	}
	return strings.Join(out, ",")
}

// sixes are the addresses that [addresses] leaves out.
func sixes(all []netip.Addr) string {
	var out []string
	for _, a := range all {
		if !a.Is4() {
			out = append(out, a.String())
		}
	}
	return strings.Join(out, ",")
}

func ports(all []operator.Port) string {
	var out []string
	for _, p := range all {
		out = append(out, fmt.Sprintf("%d/%s", p.Port, p.Protocol))
	}
	return strings.Join(out, ",")
}
