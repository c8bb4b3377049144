package translate

import (
	"cmp"
	"regexp"
	"slices"
	"strings"

	xdscorev3 "github.com/cncf/xds/go/xds/core/v3"
	xdsmatcherv3 "github.com/cncf/xds/go/xds/type/matcher/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	specifierv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/router/cluster_specifiers/matcher/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
)

// table is the name of the cluster specifier that leads paths to clusters.
const table = Prefix + "paths"

// maxNames bounds the names in one expression, in bytes. RE2 makes some instruction of each, and has room for several
// hundred thousand in what Envoy lets it have; an expression that did not fit would be refused with all else.
const maxNames = 32 << 10

// shape is what paths have in common that share their routes.
type shape struct {
	// root is the first segment with its slash, depth the number of segments. Of two paths with as many segments neither is
	// below the other, so that they need no order.
	root  string
	depth int
	// http2 is set where only HTTP/2 is spoken, which has other time limits.
	http2       bool
	family, hop string
}

// shapeOf returns the shape of a wish, and whether it has one: it stands at the same place in all virtual hosts and leads
// to another cluster's or the federated service.
func shapeOf(w wish) (shape, bool) {
	s := shape{root: root(w.path), depth: depth(w.path), http2: w.http2(), family: w.family, hop: w.hop}
	return s, s.depth > 1 && !w.local && w.made != fromIngress
}

// root returns the first segment of a path with its slash.
func root(path string) string {
	if path == "" {
		return ""
	}
	segment, _, _ := strings.Cut(path[1:], "/")
	return "/" + segment
}

// depth returns how many segments a path has. A last slash begins none.
func depth(path string) int { return strings.Count(strings.TrimRight(path, "/"), "/") }

// entry is what has routes of its own: a wish, or several of one shape, which share them.
type entry []wish

// shared reports whether the entry is one of several wishes.
func (e entry) shared() bool { return len(e) > 1 }

// path is for people where it is that of several wishes.
func (e entry) path() string {
	if !e.shared() {
		return e[0].path
	}
	return root(e[0].path) + strings.Repeat("/*", depth(e[0].path)-1)
}

// key tells entries apart.
func (e entry) key() string {
	if !e.shared() {
		return e[0].path + " " + e[0].target
	}
	var b strings.Builder
	for _, w := range e {
		b.WriteString(w.path + " " + w.target + "\n")
	}
	return b.String()
}

// match matches the paths, and what lies below them. Most requests are for none of them, which the prefix finds out
// without the expression. :path has the query, too.
func (e entry) match() *routev3.RouteMatch {
	if !e.shared() {
		return matchPath(e[0].path)
	}
	first := root(e[0].path)
	names := make([]string, 0, len(e))
	for _, w := range e {
		names = append(names, regexp.QuoteMeta(w.path[len(first):]))
	}
	m := matchPath(first)
	m.Headers = []*routev3.HeaderMatcher{headerMatch(":path", regexp.QuoteMeta(first)+"("+strings.Join(names, "|")+")([/?].*)?")}
	return m
}

// prefix is the expression for what is taken from the path.
func (e entry) prefix() string {
	if !e.shared() {
		return "^" + regexp.QuoteMeta(e[0].path) + "/*"
	}
	return "^" + regexp.QuoteMeta(root(e[0].path)) + strings.Repeat("/[^/]+", depth(e[0].path)-1) + "/*"
}

// gather puts wishes of one shape together, but for those among which a route of the user's may have its place: reach is
// how deep theirs go, by first segment. What is deeper comes first.
func gather(wishes []wish, reach map[string]int) []entry {
	type run struct{ entry, names int }
	var out []entry
	runs := map[shape]run{}
	for _, w := range wishes {
		s, ok := shapeOf(w)
		if !ok || reach[s.root] >= s.depth {
			out = append(out, entry{w})
			continue
		}
		r, ok := runs[s]
		if r.names += len(w.path); !ok || r.names > maxNames {
			r = run{entry: len(out), names: len(w.path)}
			out = append(out, nil)
		}
		out[r.entry] = append(out[r.entry], w)
		runs[s] = r
	}
	slices.SortStableFunc(out, func(a, b entry) int {
		return cmp.Or(cmp.Compare(depth(b[0].path), depth(a[0].path)), compareWishes(a[0], b[0]))
	})
	return out
}

// composer makes the routes of one route configuration. The virtual hosts share them.
type composer struct {
	routes map[string][]*routev3.Route
	guards map[string]*routev3.Route
	// targets are where the paths of shared entries lead.
	targets map[string]string
}

func newComposer() *composer {
	return &composer{routes: map[string][]*routev3.Route{}, guards: map[string]*routev3.Route{}, targets: map[string]string{}}
}

// routesOf returns the routes of an entry.
func (c *composer) routesOf(e entry) []*routev3.Route {
	key := e.key()
	if made, ok := c.routes[key]; ok {
		return made
	}
	if e.shared() {
		for _, w := range e {
			c.targets[w.path] = w.target
		}
	}
	c.routes[key] = routesOf(e)
	return c.routes[key]
}

// guardOf returns the loop guard of an entry, which others of its family share, and what it is told apart by.
func (c *composer) guardOf(e entry) (*routev3.Route, string) {
	path, match, key := e.path(), e.match, e.key()
	if family := e[0].family; family != "" {
		path, key, match = family, family, func() *routev3.RouteMatch { return matchPath(family) }
	}
	key += " " + e[0].hop
	if c.guards[key] == nil {
		c.guards[key] = guard(path, match(), e[0].hop)
	}
	return c.guards[key], key
}

// specifiers returns what the routes refer to. A request whose path the expression of a route has let through is led by the
// longest path that it begins with.
func (c *composer) specifiers() []*routev3.ClusterSpecifierPlugin {
	if len(c.targets) == 0 {
		return nil
	}
	paths := make(map[string]*xdsmatcherv3.Matcher_OnMatch, len(c.targets))
	for path, target := range c.targets {
		paths[path] = &xdsmatcherv3.Matcher_OnMatch{OnMatch: &xdsmatcherv3.Matcher_OnMatch_Action{
			Action: &xdscorev3.TypedExtensionConfig{Name: "cluster", TypedConfig: pack(&specifierv3.ClusterAction{Cluster: target})},
		}}
	}
	return []*routev3.ClusterSpecifierPlugin{{Extension: &corev3.TypedExtensionConfig{Name: table, TypedConfig: pack(&specifierv3.MatcherClusterSpecifier{
		ClusterMatcher: &xdsmatcherv3.Matcher{MatcherType: &xdsmatcherv3.Matcher_MatcherTree_{MatcherTree: &xdsmatcherv3.Matcher_MatcherTree{
			Input:    &xdscorev3.TypedExtensionConfig{Name: "envoy.matching.inputs.request_headers", TypedConfig: pack(&matcherv3.HttpRequestHeaderMatchInput{HeaderName: ":path"})},
			TreeType: &xdsmatcherv3.Matcher_MatcherTree_PrefixMatchMap{PrefixMatchMap: &xdsmatcherv3.Matcher_MatcherTree_MatchMap{Map: paths}},
		}}},
	})}}}
}
