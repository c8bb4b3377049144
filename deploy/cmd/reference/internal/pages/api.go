package pages

import (
	"fmt"
	"slices"
	"strings"
)

// apiPage is the reference of the kinds.
func apiPage(kinds []definition, w words) string {
	p := &page{}
	p.WriteString(generated)
	p.paragraph("# API reference")
	p.paragraph("The kinds of `gateway.tailscale.com/v1alpha1`, from the CRDs in `deploy/crds`. `kubectl explain` shows the same words. " +
		"What a condition's reason asks you to do is in [reasons.md](reasons.md).")
	p.head("Kind", "Scope", "Short name", "What it is")
	for i := range kinds {
		d := &kinds[i]
		p.row(link(d.Spec.Names.Kind), d.Spec.Scope, codes(d.Spec.Names.ShortNames), prose(sentence(d.Spec.Versions[0].Schema.Root.Description)))
	}
	p.WriteByte('\n')
	p.paragraph("Also here: %s, %s and %s.", link("Conditions"), link("Annotations"), link("Labels"))
	for i := range kinds {
		p.kind(&kinds[i])
	}
	p.conditions(w)
	p.named("Annotations", w.annotations)
	p.named("Labels", w.labels)
	p.named("Other names", w.names)
	return p.String()
}

func link(heading string) string { return fmt.Sprintf("[%s](#%s)", heading, anchor(heading)) }

// sentence is the first of a text.
func sentence(text string) string {
	first := flow(text)[0]
	if i := strings.Index(first, ". "); i >= 0 {
		first = first[:i+1]
	}
	return first
}

func (p *page) kind(d *definition) {
	v := &d.Spec.Versions[0]
	names := d.Spec.Names
	p.paragraph("## %s", names.Kind)
	for _, text := range flow(v.Schema.Root.Description) {
		p.paragraph("%s", prose(text))
	}
	p.paragraph("%s; `kubectl get %s`, or in short %s; in the categories %s.", d.Spec.Scope, names.Plural, codes(names.ShortNames), codes(names.Categories))
	p.head("Column", "Says", "From")
	for _, c := range v.Columns {
		name := c.Name
		if c.Priority > 0 {
			name += " (`-o wide`)"
		}
		p.row(name, prose(c.Description), code(c.Path))
	}
	p.WriteByte('\n')
	p.rulesOf(v.Schema.Root.Rules)
	for _, field := range []string{"spec", "status"} {
		inner, ok := v.Schema.Root.Properties[field]
		if ok {
			p.object(names.Kind, field, &inner)
		}
	}
}

// object writes the section of an object, and those of the objects in it.
func (p *page) object(kind, path string, s *schema) {
	p.paragraph("### %s %s", kind, path)
	for _, text := range flow(s.Description) {
		p.paragraph("%s", prose(text))
	}
	if b := s.bounds(); len(b) > 0 {
		p.paragraph("Bounds: %s.", strings.Join(b, "; "))
	}
	p.rulesOf(s.Rules)
	p.head("Field", "Type", "Required, default", "Description and bounds")
	type deeper struct {
		path string
		s    *schema
	}
	var next []deeper
	for _, name := range s.fields() {
		field := s.Properties[name]
		suffix, inner := field.object()
		description, kindOf := fieldText(&field), field.typeOf()
		own, isOwn := kubernetesOwn[name]
		switch {
		case inner == nil:
		case isOwn:
			description += fmt.Sprintf("\nThe fields are Kubernetes' own: `kubectl explain %s`.", own)
		case name == conditionsField:
			description += fmt.Sprintf("\nSee %s.", link("Conditions"))
		default:
			next = append(next, deeper{path + "." + name + suffix, inner})
			kindOf = fmt.Sprintf("[%s](#%s)", strings.NewReplacer("[", `\[`, "]", `\]`).Replace(kindOf), anchor(kind+" "+path+"."+name+suffix))
		}
		p.row(code(name), kindOf, presence(s, name, &field), description)
	}
	p.WriteByte('\n')
	for _, d := range next {
		p.object(kind, d.path, d.s)
	}
}

// presence says whether a field has to be there, and what counts where it is not.
func presence(s *schema, name string, field *schema) string {
	switch {
	case len(field.Default) > 0:
		return "default " + code(value(field.Default))
	case slices.Contains(s.Required, name):
		return "required"
	}
	return "optional"
}

// fieldText is a field's description with what it must be like.
func fieldText(field *schema) string {
	var out []string
	for _, text := range flow(field.Description) {
		out = append(out, prose(text))
	}
	if _, inner := field.object(); inner == nil || inner != field {
		if b := field.bounds(); len(b) > 0 {
			out = append(out, "Bounds: "+strings.Join(b, "; ")+".")
		}
		for _, r := range field.rules() {
			out = append(out, ruleText(r))
		}
	}
	return strings.Join(out, "\n")
}

func ruleText(r rule) string {
	return fmt.Sprintf("Rule: %s: %s", prose(r.Message), code(strings.Join(strings.Fields(r.Rule), " ")))
}

func (p *page) rulesOf(rules []rule) {
	for _, r := range rules {
		p.line("* %s", ruleText(r))
	}
	if len(rules) > 0 {
		p.WriteByte('\n')
	}
}

// conditions writes the types of conditions, each with the reasons that it may have.
func (p *page) conditions(w words) {
	p.paragraph("## Conditions")
	p.paragraph("A condition has the fields of `metav1.Condition`: `type`, `status` (True, False or Unknown), `reason`, `message`, " +
		"`lastTransitionTime` (when the status last changed) and `observedGeneration`. One that is absent was not looked at yet.")
	for _, c := range w.conditions {
		p.paragraph("### Condition %s", c.value)
		for _, text := range flow(strings.ReplaceAll(c.doc, c.name, c.value)) {
			p.paragraph("%s", w.reasonLinks(text))
		}
	}
	p.paragraph("### Conditions of a ServiceExport")
	p.paragraph("A `ServiceExport` is a kind of multicluster.x-k8s.io, and its conditions `Valid`, `Ready` and `Conflict` are those of KEP-1645. " +
		"Their reasons are [here](reasons.md#serviceexports).")
}

// named writes a table of names.
func (p *page) named(heading string, words []word) {
	p.paragraph("## %s", heading)
	p.head("Name", "Says")
	for _, x := range words {
		p.row(code(x.value), prose(strings.Join(flow(x.text()), "\n")))
	}
	p.WriteByte('\n')
}
