package downstream

import (
	"net/http"
	"net/url"
	"regexp"
	"strings"

	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
)

var (
	slashes        = regexp.MustCompile(`//+`)
	escapedSlashes = regexp.MustCompile(`(?i)%2f|%5c`)
)

// normalize brings a request's path into the form that routes match. It returns a status to answer with if the path
// is refused, or a location to redirect to.
func (h *hcm) normalizePath(r *http.Request) (status int, location string) {
	escaped := r.URL.EscapedPath()
	redirect := false
	if escapedSlashes.MatchString(escaped) {
		switch h.escapedSlashes {
		case hcmv3.HttpConnectionManager_REJECT_REQUEST:
			return http.StatusBadRequest, ""
		case hcmv3.HttpConnectionManager_UNESCAPE_AND_REDIRECT:
			redirect = true
			fallthrough
		case hcmv3.HttpConnectionManager_UNESCAPE_AND_FORWARD:
			escaped = escapedSlashes.ReplaceAllString(escaped, "/")
		}
	}
	if h.normalize {
		escaped = cleanDots(unescapeUnreserved(escaped))
	}
	if h.mergeSlashes {
		escaped = slashes.ReplaceAllString(escaped, "/")
	}
	if escaped != r.URL.EscapedPath() {
		plain, err := url.PathUnescape(escaped)
		if err != nil {
			return http.StatusBadRequest, ""
		}
		r.URL.Path, r.URL.RawPath = plain, escaped
	}
	if redirect {
		return http.StatusTemporaryRedirect, r.URL.RequestURI()
	}
	return 0, ""
}

// cleanDots resolves . and .. as RFC 3986 says, keeping slashes that are doubled or trail.
func cleanDots(p string) string {
	if !strings.Contains(p, "/.") {
		return p
	}
	var out []string
	segments := strings.Split(strings.TrimPrefix(p, "/"), "/")
	for i, s := range segments {
		last := i == len(segments)-1
		switch s {
		case ".", "..":
			if s == ".." && len(out) > 0 {
				out = out[:len(out)-1]
			}
			if last {
				out = append(out, "")
			}
		default:
			out = append(out, s)
		}
	}
	return "/" + strings.Join(out, "/")
}

// unescapeUnreserved decodes what need not be escaped, so that one path has one form.
func unescapeUnreserved(p string) string {
	var b strings.Builder
	for i := 0; i < len(p); i++ {
		if p[i] == '%' && i+2 < len(p) {
			if c, err := url.PathUnescape(p[i : i+3]); err == nil && unreserved(c[0]) {
				b.WriteString(c)
				i += 2
				continue
			}
		}
		b.WriteByte(p[i])
	}
	return b.String()
}

func unreserved(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("-._~", c) >= 0
}

// cleanHost applies the host options.
func (h *hcm) cleanHost(host string) string {
	name, port, hasPort := host, "", false
	if i := strings.LastIndexByte(host, ':'); i > strings.LastIndexByte(host, ']') {
		name, port, hasPort = host[:i], host[i+1:], true
	}
	if h.stripAnyPort || (h.stripMatchingPort && port == h.port) {
		hasPort = false
	}
	if h.stripDot {
		name = strings.TrimSuffix(name, ".")
	}
	if hasPort {
		return name + ":" + port
	}
	return name
}
