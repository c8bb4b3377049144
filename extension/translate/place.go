package translate

import (
	"regexp"
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
func place(user []*routev3.Route, wishes []wish, c *composer) (out []*routev3.Route, taken []string) {
	reach := reach(user)
	at := make([][]entry, len(user)+1)
	for _, e := range gather(wishes, reach) {
		pos, lost := 0, false
		if path := e[0].path; path == "" || reach[root(path)] >= depth(path) { // else it stands in nobody's way, alone or not
			for i, r := range user {
				switch rel := relate(r.GetMatch(), path); {
				case rel == same && unconditional(r.GetMatch()):
					lost = true
				case rel != broader:
					pos = i + 1
				}
			}
		}
		if lost {
			taken = append(taken, e[0].path)
			continue
		}
		at[pos] = append(at[pos], e)
	}
	guarded := map[string]bool{}
	for i, entries := range at {
		for _, e := range entries {
			if g, key := c.guardOf(e); !guarded[key] {
				guarded[key] = true
				out = append(out, g)
			}
			out = append(out, c.routesOf(e)...)
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

// reach returns how many segments the user's routes go down, by their first one. A route of theirs can only be at or below
// a path of ours if it reaches as deep, and most virtual hosts have none that does: placing ours among a thousand costs
// nothing then.
func reach(user []*routev3.Route) map[string]int {
	out := map[string]int{}
	for _, r := range user {
		m := r.GetMatch()
		for _, text := range []string{m.GetPath(), m.GetPathSeparatedPrefix(), m.GetPrefix(), literal(m.GetSafeRegex().GetRegex())} {
			if text != "" {
				out[root(text)] = max(out[root(text)], depth(text))
			}
		}
	}
	return out
}
