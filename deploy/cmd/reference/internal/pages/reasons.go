package pages

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
)

// reasonsPage is the reference of the reasons. It fails for a reason without advice, and for advice without a reason.
func reasonsPage(w words) (string, error) {
	p := &page{}
	p.WriteString(generated)
	p.paragraph("# Reasons")
	p.paragraph("Why something is as Tailgate says that it is, and what to do about it. What it means is said by the code itself. A condition's message, an Event and " +
		"`tailgate explain SERVICE` name the objects that are meant.")
	for _, g := range w.groups {
		p.line("* %s", link(g.heading))
	}
	p.WriteByte('\n')
	used := map[string]bool{}
	for _, g := range w.groups {
		p.paragraph("## %s", g.heading)
		p.paragraph("%s", g.intro)
		told := slices.ContainsFunc(g.words, func(x word) bool { return g.means(x) != "" })
		if told {
			p.head("Reason", "Means", "What to do")
		} else {
			p.head("Reason", "What to do")
		}
		for _, x := range g.words {
			key := g.heading + "/" + x.value
			text, ok := advice[key]
			if !ok {
				return "", fmt.Errorf("nobody says what to do about %s: add it to advice", key)
			}
			used[key] = true
			if told {
				p.row(code(x.value), prose(g.means(x)), text)
			} else {
				p.row(code(x.value), text)
			}
		}
		p.WriteByte('\n')
	}
	for _, key := range slices.Sorted(maps.Keys(advice)) {
		if !used[key] {
			return "", fmt.Errorf("there is advice for %s, which there is not", key)
		}
	}
	return p.String(), nil
}

// means is what a reason says: by its comment, or by ours where it has none.
func (g group) means(x word) string {
	if text := x.text(); text != "" {
		return strings.Join(flow(text), "\n")
	}
	return meanings[g.heading+"/"+x.value]
}

// camel is a word that may be a reason.
var camel = regexp.MustCompile(`[A-Z][A-Za-z]+`)

// reasonLinks writes text in which each reason of a condition leads to its explanation, in the sentences that list them.
func (w words) reasonLinks(text string) string {
	before, list, ok := strings.Cut(text, "Reason: ")
	if !ok {
		return prose(text)
	}
	known := map[string]bool{}
	for _, g := range w.groups {
		if g.heading == "Conditions" {
			for _, x := range g.words {
				known[x.value] = true
			}
		}
	}
	return prose(before) + "Reason: " + camel.ReplaceAllStringFunc(prose(list), func(s string) string {
		if !known[s] {
			return s
		}
		return fmt.Sprintf("[%s](reasons.md#conditions)", s)
	})
}
