package pages

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// word is a string of the code that a user meets, with what the code says of it.
type word struct {
	// name is the constant's; a word that stands in the code as it is has none.
	name, value string
	// doc is the comment, without the constant's name at its beginning where it has one.
	doc string
}

// another is where a comment goes on about another constant.
var another = regexp.MustCompile(`(,|,? and)\s+Reason[A-Z]`)

// text is the comment as a text of its own: about the value, not about the constant.
func (w word) text() string {
	text, about := strings.CutPrefix(w.doc, w.name)
	text = strings.TrimSpace(strings.TrimPrefix(text, ":"))
	if at := another.FindStringIndex(text); at != nil {
		text = text[:at[0]] + "."
	}
	for _, opening := range []string{"says that ", "tells that ", "tells of ", "says ", "is ", "are "} {
		if rest, ok := strings.CutPrefix(text, opening); ok && about {
			text = rest
			break
		}
	}
	if rest, ok := strings.CutPrefix(text, "that "); ok && about {
		text = rest
	}
	first, size := utf8.DecodeRuneInString(text)
	if size == 0 {
		return ""
	}
	return string(unicode.ToUpper(first)) + text[size:]
}

// words are those of the whole module.
type words struct {
	conditions, annotations, labels, names []word
	groups                                 []group
}

// group are the reasons that one part of the code gives.
type group struct {
	heading, intro string
	words          []word
}

// constants are the string constants of a package whose names match.
type constants struct {
	dir   string
	names *regexp.Regexp
}

// readWords reads the module's source.
func readWords(root string) (words, error) {
	r := &reader{root: root, packages: map[string][]*ast.File{}}
	api := "api/v1alpha1"
	w := words{
		conditions:  slices.Concat(r.constants(api, `^Condition`), r.constants("hub/controllers/member", `^Condition`)),
		annotations: r.constants(api, `^Annotation`), labels: r.constants(api, `^Label`),
		names: r.constants(api, `^(LoadBalancerClass|Tag|SecretKey|DefaultFailoverPolicy)`),
	}
	w.groups = []group{
		{
			"Decisions", "Why a cluster or an export is in its state: in the journal, in endpoint sets and in the label `reason` of " +
				"`tailgate_hub_decisions_total`.",
			r.constants("federation/failover", `^(Serving|ServingStale|NoReadyEndpoints|Unreachable|ControlLost|Drain(ing|ed)|Cordoned|Pinned|Released|Recovering)`),
		},
		{"Endpoints", "What an endpoint says beside the reasons of decisions, in the endpoint set of one consumer.", r.constants("federation/endpoints", `^Reason`)},
		{
			"Notices", "What the hub tells a member about what it cannot do for it. They come back as Events on the Service or the Gateway, in the conditions " +
				"of a ServiceExport, and under `notices` in the spoke's `/status`.",
			r.notices("federation/coordinator", "hub", "hub/cmd/hub", "hub/link"),
		},
		{"Conditions", "Reasons of the conditions that [the API reference](api.md#conditions) lists.", r.constants(api, `^Reason`)},
		{
			"Link", "Why a spoke has no link to the hub: `link.reason` in its `/status`, and the condition HubConnected as far as a condition can say it.",
			r.constants("spoke", `^Reason`),
		},
		{"ServiceExports", "Reasons of the conditions Valid, Ready and Conflict of a ServiceExport. Those but NoPorts are KEP-1645's.", r.exports()},
		{
			"Events", "What stands in Events, `kubectl describe` shows them. Those of a TailscaleTailnet, a FailoverPolicy and a TailscaleGateway also carry " +
				"reasons of [conditions](#conditions), and those of exports of [notices](#notices).",
			slices.Concat(
				r.constants("spoke/controllers/exportevent", `^Reason`), r.constants("spoke/controllers/vipservice", `^Reason`),
				r.constants("spoke/controllers/proxyset", `^Reason`), r.constants("spoke/controllers/tailnetendpoints", `^Reason`),
				r.constants("spoke/controllers/route", `^Reason`),
			),
		},
		{
			"Probes", "What a probe or a health check found: in the spoke's `/status`, and in the messages of endpoints. An HTTP status that is not expected is " +
				"`status-` and its number.",
			r.constants("spoke/probe", `^(Refused|Reset|Closed|WrongHost|WrongProtocol|TLSHandshake|NotServing|UnknownService|NoHealthService|UnknownName|Timeout|NoRoute|Failed)$`),
		},
		{"Dials of proxies", "The label `reason` of `tailgate_proxy_dial_errors_total`.", r.returned("spoke/proxy", "dialReason")},
		{"VIPs", "The label `reason` of `tailgate_hub_vip_errors_total`.", slices.Concat(r.listed("hub/cmd/hub", "vipFailures"), r.returned("hub/cmd/hub", "vipFailure"))},
	}
	if r.err != nil {
		return words{}, r.err
	}
	for _, g := range w.groups {
		if len(g.words) == 0 {
			return words{}, fmt.Errorf("no reason was found for %q: has the code moved?", g.heading)
		}
	}
	return w, nil
}

// reader reads packages and keeps the first error.
type reader struct {
	root     string
	packages map[string][]*ast.File
	err      error
}

// files are those of a package, without tests, in order.
func (r *reader) files(dir string) []*ast.File {
	if files, ok := r.packages[dir]; ok || r.err != nil {
		return files
	}
	full := filepath.Join(r.root, filepath.FromSlash(dir))
	set := token.NewFileSet()
	names, err := filepath.Glob(filepath.Join(full, "*.go"))
	if err == nil && len(names) == 0 {
		err = fs.ErrNotExist
	}
	var files []*ast.File
	for _, name := range names {
		if err != nil || strings.HasSuffix(name, "_test.go") {
			continue
		}
		var f *ast.File
		if f, err = parser.ParseFile(set, name, nil, parser.ParseComments|parser.SkipObjectResolution); err == nil {
			files = append(files, f)
		}
	}
	if err != nil {
		r.err = fmt.Errorf("read the code in %s: %w", dir, err)
	}
	r.packages[dir] = files
	return files
}

// constants returns the string constants of a package whose names match, in the order of the code.
func (r *reader) constants(dir, pattern string) []word {
	c := constants{dir, regexp.MustCompile(pattern)}
	var out []word
	known := map[string]string{}
	for _, f := range r.files(dir) {
		for _, d := range f.Decls {
			decl, ok := d.(*ast.GenDecl)
			if !ok || decl.Tok != token.CONST {
				continue
			}
			for _, s := range decl.Specs {
				out = append(out, c.spec(decl, s.(*ast.ValueSpec), known)...)
			}
		}
	}
	return out
}

// groupName is what begins the values of constants that are built from another constant.
const groupName = "gateway.tailscale.com"

func (c constants) spec(decl *ast.GenDecl, spec *ast.ValueSpec, known map[string]string) []word {
	var out []word
	for i, name := range spec.Names {
		if i >= len(spec.Values) {
			continue
		}
		value, ok := literal(spec.Values[i], known)
		if !ok {
			continue
		}
		known[name.Name] = value
		if !name.IsExported() || !c.names.MatchString(name.Name) {
			continue
		}
		out = append(out, word{name.Name, value, comment(decl, spec, name.Name)})
	}
	return out
}

// comment is what the code says of a constant. One without a comment of its own shares that of the constant before, where
// it names both.
func comment(decl *ast.GenDecl, spec *ast.ValueSpec, name string) string {
	if spec.Doc != nil {
		return spec.Doc.Text()
	}
	if !decl.Lparen.IsValid() {
		return decl.Doc.Text()
	}
	before := ""
	for _, s := range decl.Specs {
		if s == spec {
			break
		}
		if doc := s.(*ast.ValueSpec).Doc; doc != nil {
			before = doc.Text()
		}
	}
	if _, after, ok := strings.Cut(before, name); ok {
		return name + after
	}
	return ""
}

// literal is the value of a string, of a constant that is known, or of both together.
func literal(e ast.Expr, known map[string]string) (string, bool) {
	switch e := e.(type) {
	case *ast.BasicLit:
		s, err := strconv.Unquote(e.Value)
		return s, err == nil && e.Kind == token.STRING
	case *ast.Ident:
		if e.Name == "GroupName" {
			return groupName, true
		}
		s, ok := known[e.Name]
		return s, ok
	case *ast.BinaryExpr:
		x, okX := literal(e.X, known)
		y, okY := literal(e.Y, known)
		return x + y, okX && okY && e.Op == token.ADD
	}
	return "", false
}

// notices finds the reasons of all federation.Notice that packages make, with their messages.
func (r *reader) notices(dirs ...string) []word {
	found := map[string]word{}
	for _, dir := range dirs {
		known := map[string]string{}
		for _, c := range r.constants(dir, ``) {
			known[c.name] = c.value
		}
		docs := r.constants(dir, `^Reason`)
		for _, f := range r.files(dir) {
			ast.Inspect(f, func(n ast.Node) bool {
				c, ok := n.(*ast.CompositeLit)
				if !ok || !isNotice(c.Type) {
					return true
				}
				fields := keyed(c)
				reason, ok := literal(fields["Reason"], known)
				if !ok {
					return true
				}
				next := word{value: reason, doc: message(fields["Message"])}
				for _, d := range docs {
					if d.value == reason {
						next.name, next.doc = d.name, d.doc
					}
				}
				found[reason] = next
				return true
			})
		}
	}
	return slices.SortedFunc(maps.Values(found), func(a, b word) int { return strings.Compare(a.value, b.value) })
}

func isNotice(e ast.Expr) bool {
	sel, ok := e.(*ast.SelectorExpr)
	return ok && sel.Sel.Name == "Notice"
}

// keyed are the values of a composite literal by their keys.
func keyed(c *ast.CompositeLit) map[string]ast.Expr {
	out := map[string]ast.Expr{}
	for _, e := range c.Elts {
		if kv, ok := e.(*ast.KeyValueExpr); ok {
			if key, ok := kv.Key.(*ast.Ident); ok {
				out[key.Name] = kv.Value
			}
		}
	}
	return out
}

// verb is a verb of fmt.
var verb = regexp.MustCompile(`"?%[a-z]"?`)

// message is the text that a literal or a call of fmt.Sprintf makes, with … for what is filled in.
func message(e ast.Expr) string {
	if call, ok := e.(*ast.CallExpr); ok && len(call.Args) > 0 {
		e = call.Args[0]
	}
	text, ok := literal(e, nil)
	if !ok {
		return ""
	}
	return "“" + verb.ReplaceAllString(text, "…") + "”"
}

// returned finds the strings that a function returns.
func (r *reader) returned(dir, function string) []word {
	return r.within(dir, func(d ast.Decl) bool {
		f, ok := d.(*ast.FuncDecl)
		return ok && f.Name.Name == function
	})
}

// listed finds the strings in a variable.
func (r *reader) listed(dir, variable string) []word {
	return r.within(dir, func(d ast.Decl) bool {
		g, ok := d.(*ast.GenDecl)
		if !ok || g.Tok != token.VAR {
			return false
		}
		return slices.ContainsFunc(g.Specs, func(s ast.Spec) bool { return s.(*ast.ValueSpec).Names[0].Name == variable })
	})
}

// within finds the strings of the declarations that are wanted, each once.
func (r *reader) within(dir string, wanted func(ast.Decl) bool) []word {
	var out []word
	for _, f := range r.files(dir) {
		for _, d := range f.Decls {
			if !wanted(d) {
				continue
			}
			ast.Inspect(d, func(n ast.Node) bool {
				if e, ok := n.(*ast.BasicLit); ok {
					s, is := literal(e, nil)
					if is && !slices.ContainsFunc(out, func(w word) bool { return w.value == s }) {
						out = append(out, word{value: s})
					}
				}
				return true
			})
		}
	}
	return out
}

// exportReason begins the names of KEP-1645's reasons; the rest is the reason.
const exportReason = "ServiceExportReason"

// exports finds the reasons that a ServiceExport is given.
func (r *reader) exports() []word {
	const dir = "spoke/controllers/serviceexport"
	out := r.constants(dir, `^Reason`)
	seen := map[string]bool{}
	for _, f := range r.files(dir) {
		ast.Inspect(f, func(n ast.Node) bool {
			if sel, ok := n.(*ast.SelectorExpr); ok {
				if reason, is := strings.CutPrefix(sel.Sel.Name, exportReason); is {
					seen[reason] = true
				}
			}
			return true
		})
	}
	for _, reason := range slices.Sorted(maps.Keys(seen)) {
		out = append(out, word{value: reason})
	}
	return out
}
