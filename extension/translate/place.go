package translate

import (
	"regexp"
	"slices"
	"strings"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
)

// relation is how a route of the user's stands to a path of ours.
type relation int

const (
	// broader routes match more than the path, or something else; ours goes first.
	broader relation = iota
	// specific routes match only what lies at or below the path; they go first.
	specific
	// same routes match just what ours would; they win, and ours is not added.
	same
)

// place puts our routes into the user's without moving any of theirs: in front, but behind each route that matches
// the same path or one below it. It returns the paths that the user has taken.
func place(user []*routev3.Route, wishes []wish, built map[string][]*routev3.Route) (out []*routev3.Route, taken []string) {
	at := make([][]wish, len(user)+1)
	for _, w := range wishes {
		pos, lost := 0, false
		for i, r := range user {
			switch rel := relate(r.GetMatch(), w.path); {
			case rel == same && unconditional(r.GetMatch()):
				lost = true
			case rel != broader:
				pos = i + 1
			}
		}
		if lost {
			taken = append(taken, w.path)
			continue
		}
		at[pos] = append(at[pos], w)
	}
	guarded := map[string]bool{}
	for i, ws := range at {
		for _, w := range ws {
			root := w.path
			if w.family != "" {
				root = w.family
			}
			key := root + " " + w.hop
			if !guarded[key] {
				guarded[key] = true
				out = append(out, guard(root, w.hop))
			}
			out = append(out, built[w.path+" "+w.target]...)
		}
		if i < len(user) {
			out = append(out, user[i])
		}
	}
	return out, taken
}

// relate compares a match of the user's with our path.
func relate(m *routev3.RouteMatch, path string) relation {
	below := path + "/"
	inside := func(s string) bool { return s == path || strings.HasPrefix(s, below) }
	switch p := m.GetPathSpecifier().(type) {
	case *routev3.RouteMatch_Path:
		if inside(p.Path) {
			return specific
		}
	case *routev3.RouteMatch_PathSeparatedPrefix:
		if p.PathSeparatedPrefix == path {
			return same
		}
		if inside(p.PathSeparatedPrefix) {
			return specific
		}
	case *routev3.RouteMatch_Prefix:
		if strings.TrimSuffix(p.Prefix, "/") == path {
			return same
		}
		if inside(p.Prefix) {
			return specific
		}
	case *routev3.RouteMatch_SafeRegex:
		if path == "" || inside(literal(p.SafeRegex.GetRegex())) {
			return specific
		}
	default: // CONNECT and path templates are never met by our paths first where all paths are ours
		if path == "" {
			return specific
		}
	}
	return broader
}

// literal returns the text that all that a regular expression matches starts with.
func literal(regex string) string {
	re, err := regexp.Compile(strings.TrimPrefix(regex, "^"))
	if err != nil {
		return ""
	}
	prefix, _ := re.LiteralPrefix()
	return prefix
}

// unconditional reports whether a match depends on the path alone.
func unconditional(m *routev3.RouteMatch) bool {
	return len(m.GetHeaders()) == 0 && len(m.GetQueryParameters()) == 0 && len(m.GetCookies()) == 0 && len(m.GetDynamicMetadata()) == 0 &&
		len(m.GetFilterState()) == 0 && m.GetRuntimeFraction() == nil && m.GetGrpc() == nil && m.GetTlsContext() == nil
}

// ours reports whether a resource's name is of our making.
func ours(name string) bool { return strings.HasPrefix(name, Prefix) }

// near returns the user's routes that can stand in the way of our paths: those whose path starts as one of ours does.
// Most virtual hosts have none, and placing a thousand routes costs nothing then.
func near(user []*routev3.Route, wishes []wish) bool {
	roots := map[string]bool{}
	for _, w := range wishes {
		if w.path == "" {
			return true
		}
		roots[firstSegment(w.path)] = true
	}
	return slices.ContainsFunc(user, func(r *routev3.Route) bool {
		m := r.GetMatch()
		for _, text := range []string{m.GetPath(), m.GetPathSeparatedPrefix(), m.GetPrefix(), literal(m.GetSafeRegex().GetRegex())} {
			if text != "" && roots[firstSegment(text)] {
				return true
			}
		}
		return false
	})
}

func firstSegment(path string) string {
	segment, _, _ := strings.Cut(strings.TrimPrefix(path, "/"), "/")
	return segment
}
