package docs_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// source is a file of Go in a directory of the module.
type source struct {
	*ast.File
	dir string
}

// parse parses the Go files of the module below some directories, without tests.
func parse(t *testing.T, dirs ...string) map[string][]source {
	t.Helper()
	out := map[string][]source{}
	set := token.NewFileSet()
	for _, dir := range dirs {
		err := filepath.WalkDir(filepath.Join(root, dir), func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return err
			}
			f, err := parser.ParseFile(set, path, nil, parser.SkipObjectResolution)
			if err != nil {
				return err
			}
			in, err := filepath.Rel(root, filepath.Dir(path))
			out[dir] = append(out[dir], source{f, filepath.ToSlash(in)})
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return out
}

// text is the value of a string that is written in the code, also in parts.
func text(e ast.Expr) (string, bool) {
	switch e := e.(type) {
	case *ast.BasicLit:
		s, err := strconv.Unquote(e.Value)
		return s, err == nil && e.Kind == token.STRING
	case *ast.BinaryExpr:
		x, okX := text(e.X)
		y, okY := text(e.Y)
		if !okX && !okY || e.Op != token.ADD {
			return "", false
		}
		if !okX {
			x = "…"
		}
		if !okY {
			y = "…"
		}
		return x + y, true
	}
	return "", false
}

// flagsOf are the flags that a program defines, of all its commands.
func flagsOf(files []source) map[string]bool {
	out := map[string]bool{"help": true, "version": true}
	for _, f := range files {
		ast.Inspect(f.File, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok || len(call.Args) < 4 {
				return true
			}
			method, ok := call.Fun.(*ast.SelectorExpr)
			if !ok || !strings.HasSuffix(strings.TrimSuffix(method.Sel.Name, "P"), "Var") {
				return true
			}
			if name, ok := text(call.Args[1]); ok {
				out[name] = true
			}
			return true
		})
	}
	return out
}

// flagName is a flag where one may begin.
var flagName = regexp.MustCompile(`(?:^|[\s(])--([a-z][a-z0-9-]*)`)

// TestFlagsExist looks at each flag that a document names by itself or with a command of hub or spoke.
func TestFlagsExist(t *testing.T) {
	programs := map[string]map[string]bool{}
	both := map[string]bool{}
	for dir, files := range parse(t, "hub/cmd/hub", "spoke/cmd/spoke") {
		flags := flagsOf(files)
		if len(flags) < 15 {
			t.Fatalf("%s: only %d flags found", dir, len(flags))
		}
		programs[filepath.Base(dir)] = flags
		for f := range flags {
			both[f] = true
		}
	}
	// This is an option of tailgate that stands alone in a sentence.
	others := map[string]bool{"dry-run": true}
	checked := 0
	for _, d := range documents(t) {
		pieces := d.spans()
		for _, b := range d.blocks {
			if b.language == "sh" {
				pieces = append(pieces, strings.Split(strings.ReplaceAll(b.text, "\\\n", " "), "\n")...)
			}
		}
		for _, piece := range pieces {
			program, _, _ := strings.Cut(strings.TrimSpace(piece), " ")
			known := programs[program]
			switch {
			case known != nil:
			case strings.HasPrefix(program, "--"):
				known = both
			default:
				continue // another program's
			}
			for _, m := range flagName.FindAllStringSubmatch(piece, -1) {
				checked++
				if !known[m[1]] && !others[m[1]] {
					t.Errorf("%s: %q: there is no flag --%s", d.path, piece, m[1])
				}
			}
		}
	}
	if checked < 15 {
		t.Errorf("only %d flags were found in the documents", checked)
	}
}

var (
	verb  = regexp.MustCompile(`\[?"?%[+#]?(?:\[\d+\])?[a-z]"?\]?`)
	quote = regexp.MustCompile(`“([^”]+)”`)
)

// messages are all strings of the programs, with … where something is filled in.
func messages(t *testing.T) []string {
	t.Helper()
	var out []string
	for _, files := range parse(t, "hub", "spoke", "extension", "federation") {
		for _, f := range files {
			ast.Inspect(f.File, func(n ast.Node) bool {
				if e, ok := n.(ast.Expr); ok {
					if s, ok := text(e); ok {
						out = append(out, verb.ReplaceAllString(s, "…"))
					}
				}
				return true
			})
		}
	}
	return out
}

// says reports whether a message has all parts of a quotation, in their order.
func says(message, quotation string) bool {
	for part := range strings.SplitSeq(quotation, "…") {
		_, rest, ok := strings.Cut(message, part)
		if !ok {
			return false
		}
		message = rest
	}
	return true
}

// TestQuotationsAreOfTheCode holds what a document puts between “ and ” against the strings of the programs.
func TestQuotationsAreOfTheCode(t *testing.T) {
	all := messages(t)
	for _, path := range []string{"deploy/README.md", "deploy/docs/reasons.md"} {
		quotes := quote.FindAllStringSubmatch(strings.ReplaceAll(read(t, path).text, "\n", " "), -1)
		if len(quotes) == 0 {
			t.Errorf("%s: no quotation was found", path)
		}
		for _, q := range quotes {
			if q[1] == "…" { // where the document says what quotations are
				continue
			}
			if !slices.ContainsFunc(all, func(m string) bool { return says(m, q[1]) }) {
				t.Errorf("%s: no program says “%s”", path, q[1])
			}
		}
	}
}

// TestLogLinesOfTheAdviceExist holds the lines of logs that the advice on reasons quotes as code against the programs.
func TestLogLinesOfTheAdviceExist(t *testing.T) {
	all := map[string]bool{}
	for _, m := range messages(t) {
		all[m] = true
	}
	lines := regexp.MustCompile("log (?:for|says) `([^`]+)`").FindAllStringSubmatch(read(t, "deploy/docs/reasons.md").text, -1)
	if len(lines) == 0 {
		t.Error("no line of a log was found")
	}
	for _, m := range lines {
		if !all[m[1]] {
			t.Errorf("nobody logs %q", m[1])
		}
	}
}

// TestPathsExist looks at each path of the repository that a document names as code.
func TestPathsExist(t *testing.T) {
	path := regexp.MustCompile(`^(deploy|hub|spoke|extension|federation|api|e2e-kind)/[\w./-]+$`)
	for _, d := range documents(t) {
		for _, s := range d.spans() {
			if !path.MatchString(s) || strings.Contains(s, "...") {
				continue
			}
			if _, err := os.Stat(filepath.Join(root, s)); err != nil {
				t.Errorf("%s: there is no %s", d.path, s)
			}
		}
	}
}

// TestEveryMetricIsThere finds the metrics in the code that makes them: what the reference did not bring to have a value
// would be missing there in silence.
func TestEveryMetricIsThere(t *testing.T) {
	page := read(t, "deploy/docs/metrics.md").text
	makers := map[string]string{"hub/web": "tailgate_hub_", "spoke/web": "tailgate_spoke_", "spoke/proxy": ""}
	found := 0
	want := func(name string) {
		found++
		if !strings.Contains(page, "| `"+name+"` |") {
			t.Errorf("deploy/docs/metrics.md lacks %s: let readMetrics of the reference give it a value", name)
		}
	}
	for _, files := range parse(t, "hub", "spoke", "extension") {
		for _, f := range files {
			ast.Inspect(f.File, func(n ast.Node) bool {
				switch n := n.(type) {
				case *ast.CallExpr:
					name, ok := n.Fun.(*ast.Ident)
					if !ok || len(n.Args) < 2 && (len(n.Args) < 1 || name.Name != "gauge") || makers[f.dir] == "" || !slices.Contains([]string{"desc", "opts", "gauge", "seconds"}, name.Name) {
						return true
					}
					if s, ok := text(n.Args[0]); ok {
						want(makers[f.dir] + s)
					}
				case *ast.KeyValueExpr:
					if s, ok := text(n.Value); ok && strings.HasPrefix(s, "tailgate_") {
						want(s)
					}
				case *ast.SelectorExpr:
					x, ok := n.X.(*ast.Ident)
					_, known := makers[f.dir]
					if ok && x.Name == "prometheus" && strings.HasPrefix(n.Sel.Name, "New") && n.Sel.Name != "NewRegistry" && !known {
						t.Errorf("%s makes metrics (prometheus.%s) that the reference does not know", f.dir, n.Sel.Name)
					}
				}
				return true
			})
		}
	}
	if found < 30 {
		t.Errorf("only %d metrics were found in the code", found)
	}
}
