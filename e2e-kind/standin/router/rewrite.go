package router

import (
	"fmt"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"

	"github.com/tailgate-project/tailgate/e2e-kind/standin/tlsctx"
)

// PathRewrite replaces the matched prefix, or all matches of a regular expression, of an escaped path.
type PathRewrite struct {
	prefix string
	regex  *regexp.Regexp
	with   string
}

func compilePathRewrite(prefix string, in *matcherv3.RegexMatchAndSubstitute) (PathRewrite, error) {
	p := PathRewrite{prefix: prefix}
	if in == nil {
		return p, nil
	}
	re, err := regexp.Compile(in.GetPattern().GetRegex())
	if err != nil {
		return p, fmt.Errorf("regex_rewrite: %w", err)
	}
	p.regex, p.with = re, substitution(in.GetSubstitution())
	return p, nil
}

// substitution turns RE2's \1 into Go's ${1}.
func substitution(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] == '\\' && i+1 < len(s) && s[i+1] >= '0' && s[i+1] <= '9':
			b.WriteString("${" + string(s[i+1]) + "}")
			i++
		case s[i] == '\\' && i+1 < len(s) && s[i+1] == '\\':
			b.WriteByte('\\')
			i++
		case s[i] == '$':
			b.WriteString("$$")
		default:
			b.WriteByte(s[i])
		}
	}
	return b.String()
}

// apply rewrites a path that a route with that matched prefix took.
func (p PathRewrite) apply(path, matched string) string {
	switch {
	case p.regex != nil:
		return p.regex.ReplaceAllString(path, p.with)
	case p.prefix != "" && len(matched) <= len(path):
		return p.prefix + path[len(matched):]
	default:
		return path
	}
}

// Rewrite changes the URL, Host and forwarding headers of out, the request that goes upstream for in. It reports
// whether the path changed.
func (ch *Choice) Rewrite(out, in *http.Request) (changed bool) {
	f := ch.Route.Forward
	host := in.Host
	switch {
	case ch.target.hostLiteral != "":
		host = ch.target.hostLiteral
	case f.hostLiteral != "":
		host = f.hostLiteral
	case f.hostHeader != "":
		if v, ok := Header(in, f.hostHeader); ok {
			host = v
		}
	}
	if f.appendOriginalHost && (host != in.Host || f.AutoHost) {
		out.Header.Add("X-Forwarded-Host", in.Host)
	}
	out.Host = host
	path := in.URL.EscapedPath()
	rewritten := f.Rewrite.apply(path, ch.Route.prefix)
	if rewritten == path {
		return false
	}
	setPath(out.URL, rewritten)
	return true
}

// setPath sets an escaped path, which may bring a query of its own.
func setPath(u *url.URL, escaped string) {
	escaped, query, found := strings.Cut(escaped, "?")
	if found {
		u.RawQuery = query
	}
	path, err := url.PathUnescape(escaped)
	if err != nil {
		path = escaped
	}
	u.Path, u.RawPath = path, escaped
}

// Redirect is a redirection of the client.
type Redirect struct {
	Status     int
	scheme     string
	host       string
	port       uint32
	path       string
	rewrite    PathRewrite
	stripQuery bool
}

func compileRedirect(in *routev3.RedirectAction) (*Redirect, error) {
	status := map[routev3.RedirectAction_RedirectResponseCode]int{
		routev3.RedirectAction_MOVED_PERMANENTLY: 301, routev3.RedirectAction_FOUND: 302, routev3.RedirectAction_SEE_OTHER: 303,
		routev3.RedirectAction_TEMPORARY_REDIRECT: 307, routev3.RedirectAction_PERMANENT_REDIRECT: 308,
	}
	r := &Redirect{
		Status: status[in.GetResponseCode()], scheme: in.GetSchemeRedirect(), host: in.GetHostRedirect(),
		port: in.GetPortRedirect(), path: in.GetPathRedirect(), stripQuery: in.GetStripQuery(),
	}
	if in.GetHttpsRedirect() {
		r.scheme = "https"
	}
	var err error
	r.rewrite, err = compilePathRewrite(in.GetPrefixRewrite(), in.GetRegexRewrite())
	return r, err
}

// Location returns where the client of a request is sent.
func (ch *Choice) Location(r *http.Request) string {
	d := ch.Route.Redirect
	scheme, _ := Header(r, ":scheme")
	host := r.Host
	if d.scheme != "" && d.scheme != scheme {
		scheme = d.scheme
		// The well-known port of the old scheme would be wrong under the new one.
		if p := portOf(host); p == "80" || p == "443" {
			host = stripPort(host)
		}
	}
	if d.host != "" {
		host = d.host
	}
	if d.port != 0 {
		host = net.JoinHostPort(strings.Trim(stripPort(host), "[]"), strconv.Itoa(int(d.port)))
	}
	query := r.URL.RawQuery
	path := d.rewrite.apply(r.URL.EscapedPath(), ch.Route.prefix)
	if d.path != "" {
		var q string
		var found bool
		if path, q, found = strings.Cut(d.path, "?"); found {
			query = q
		}
	}
	if query != "" && !d.stripQuery {
		path += "?" + query
	}
	return scheme + "://" + host + path
}

func portOf(host string) string { return strings.TrimPrefix(host[len(stripPort(host)):], ":") }

func compileDirect(in *routev3.DirectResponseAction) (*Direct, error) {
	d := &Direct{Status: int(in.GetStatus()), ContentType: "text/plain"}
	if in.GetBody() != nil {
		b, err := tlsctx.Read(in.GetBody())
		if err != nil {
			return nil, fmt.Errorf("direct_response: %w", err)
		}
		d.body = template{func(*http.Request) string { return string(b) }}
	}
	if f := in.GetBodyFormat(); f != nil {
		text := f.GetTextFormat() //nolint:staticcheck // deprecated, and still accepted by Envoy
		if src := f.GetTextFormatSource(); src != nil {
			b, err := tlsctx.Read(src)
			if err != nil {
				return nil, fmt.Errorf("direct_response: %w", err)
			}
			text = string(b)
		}
		var err error
		if d.body, err = compileTemplate(text); err != nil {
			return nil, fmt.Errorf("direct_response: %w", err)
		}
		if f.GetContentType() != "" {
			d.ContentType = f.GetContentType()
		}
	}
	return d, nil
}
