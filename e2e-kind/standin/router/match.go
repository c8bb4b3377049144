package router

import (
	"fmt"
	"net/http"
	"regexp"
	"strconv"
	"strings"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
)

// compileMatch returns the predicate of a route and the part of the path that a prefix rewrite replaces.
func compileMatch(in *routev3.RouteMatch) (match func(*http.Request) bool, prefix string, err error) {
	path, prefix, err := compilePathMatch(in)
	if err != nil {
		return nil, "", err
	}
	all := []func(*http.Request) bool{func(r *http.Request) bool { return path(r.URL.EscapedPath()) }}
	for _, h := range in.GetHeaders() {
		m, err := CompileHeader(h)
		if err != nil {
			return nil, "", err
		}
		all = append(all, m)
	}
	for _, q := range in.GetQueryParameters() {
		value, err := compileString(q.GetStringMatch())
		if err != nil {
			return nil, "", err
		}
		all = append(all, func(r *http.Request) bool {
			got, ok := r.URL.Query()[q.GetName()]
			if q.GetStringMatch() == nil {
				return ok == (q.GetPresentMatch() || q.GetQueryParameterMatchSpecifier() == nil)
			}
			return ok && value(got[0])
		})
	}
	for _, c := range in.GetCookies() {
		value, err := compileString(c.GetStringMatch())
		if err != nil {
			return nil, "", err
		}
		all = append(all, func(r *http.Request) bool {
			got, err := r.Cookie(c.GetName())
			return (err == nil && value(got.Value)) != c.GetInvertMatch()
		})
	}
	return func(r *http.Request) bool {
		for _, m := range all {
			if !m(r) {
				return false
			}
		}
		return true
	}, prefix, nil
}

func compilePathMatch(in *routev3.RouteMatch) (match func(string) bool, prefix string, err error) {
	fold := in.GetCaseSensitive() != nil && !in.GetCaseSensitive().GetValue()
	norm := func(s string) string {
		if fold {
			return strings.ToLower(s)
		}
		return s
	}
	switch p := in.GetPathSpecifier().(type) {
	case *routev3.RouteMatch_Prefix:
		want := norm(p.Prefix)
		return func(path string) bool { return strings.HasPrefix(norm(path), want) }, p.Prefix, nil
	case *routev3.RouteMatch_PathSeparatedPrefix:
		want := norm(p.PathSeparatedPrefix)
		return func(path string) bool {
			rest, ok := strings.CutPrefix(norm(path), want)
			return ok && (rest == "" || rest[0] == '/')
		}, p.PathSeparatedPrefix, nil
	case *routev3.RouteMatch_Path:
		want := norm(p.Path)
		return func(path string) bool { return norm(path) == want }, p.Path, nil
	case *routev3.RouteMatch_SafeRegex:
		re, err := fullRegex(p.SafeRegex)
		if err != nil {
			return nil, "", err
		}
		return re.MatchString, "", nil
	default:
		return nil, "", fmt.Errorf("the route's match has no path specifier that is supported: %T", p)
	}
}

// CompileHeader returns the predicate of a header matcher. The names :path, :method, :authority and :scheme are
// taken from the request line and the Host.
func CompileHeader(in *routev3.HeaderMatcher) (func(*http.Request) bool, error) {
	value, err := headerValue(in)
	if err != nil {
		return nil, err
	}
	return func(r *http.Request) bool {
		got, ok := Header(r, in.GetName())
		if p, isPresent := in.GetHeaderMatchSpecifier().(*routev3.HeaderMatcher_PresentMatch); isPresent {
			return (ok == p.PresentMatch) != in.GetInvertMatch()
		}
		if !ok && !in.GetTreatMissingHeaderAsEmpty() {
			// A missing header never matches; only presence may be inverted without it.
			return in.GetHeaderMatchSpecifier() == nil && in.GetInvertMatch()
		}
		return value(got) != in.GetInvertMatch()
	}, nil
}

func headerValue(in *routev3.HeaderMatcher) (func(string) bool, error) {
	switch m := in.GetHeaderMatchSpecifier().(type) {
	case *routev3.HeaderMatcher_RangeMatch:
		return func(s string) bool {
			n, err := strconv.ParseInt(s, 10, 64)
			return err == nil && n >= m.RangeMatch.GetStart() && n < m.RangeMatch.GetEnd()
		}, nil
	default: // string_match, present_match, or nothing, which means present
		return compileString(in.GetStringMatch())
	}
}

// compileString returns the predicate of a string matcher; nil matches everything.
func compileString(in *matcherv3.StringMatcher) (func(string) bool, error) {
	norm := func(s string) string {
		if in.GetIgnoreCase() {
			return strings.ToLower(s)
		}
		return s
	}
	switch m := in.GetMatchPattern().(type) {
	case nil:
		return func(string) bool { return true }, nil
	case *matcherv3.StringMatcher_Exact:
		return func(s string) bool { return norm(s) == norm(m.Exact) }, nil
	case *matcherv3.StringMatcher_Prefix:
		return func(s string) bool { return strings.HasPrefix(norm(s), norm(m.Prefix)) }, nil
	case *matcherv3.StringMatcher_Suffix:
		return func(s string) bool { return strings.HasSuffix(norm(s), norm(m.Suffix)) }, nil
	case *matcherv3.StringMatcher_Contains:
		return func(s string) bool { return strings.Contains(norm(s), norm(m.Contains)) }, nil
	case *matcherv3.StringMatcher_SafeRegex:
		re, err := fullRegex(m.SafeRegex)
		if err != nil {
			return nil, err
		}
		return re.MatchString, nil
	default:
		return nil, fmt.Errorf("string matcher %T is not supported", m)
	}
}

// fullRegex compiles a regular expression that must match the whole of its subject.
func fullRegex(in *matcherv3.RegexMatcher) (*regexp.Regexp, error) {
	re, err := regexp.Compile(`^(?:` + in.GetRegex() + `)$`)
	if err != nil {
		return nil, fmt.Errorf("regex: %w", err)
	}
	return re, nil
}

// Header returns a request's header as Envoy sees it: values joined by commas, pseudo headers by their names.
func Header(r *http.Request, name string) (string, bool) {
	switch strings.ToLower(name) {
	case ":path":
		return r.URL.RequestURI(), true
	case ":method":
		return r.Method, true
	case ":authority", "host":
		return r.Host, r.Host != ""
	case ":scheme":
		if r.TLS != nil {
			return "https", true
		}
		return "http", true
	}
	values := r.Header.Values(name)
	return strings.Join(values, ","), len(values) > 0
}
