package downstream

import (
	"net/http"
	"net/http/httptest"
	"testing"

	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
)

func TestNormalizePath(t *testing.T) {
	for _, tt := range []struct {
		name, in string
		action   hcmv3.HttpConnectionManager_PathWithEscapedSlashesAction
		status   int
		want     string // path, or location for a redirect
	}{
		{name: "plain", in: "/a/b?q=1", want: "/a/b?q=1"},
		{name: "dots", in: "/a/./b/../c", want: "/a/c"},
		{name: "dots-above-the-root", in: "/../../a", want: "/a"},
		{name: "trailing-dots", in: "/a/b/..", want: "/a/"},
		{name: "escaped-dots", in: "/a/%2e%2E/b", want: "/b"},
		{name: "doubled-slashes", in: "/a//b///c", want: "/a/b/c"},
		{name: "unreserved", in: "/%61%7e%20", want: "/a~%20"},
		{name: "escaped-slash-kept", in: "/a%2Fb", want: "/a%2Fb"},
		{name: "escaped-slash-rejected", in: "/a%2Fb", action: hcmv3.HttpConnectionManager_REJECT_REQUEST, status: http.StatusBadRequest},
		{name: "escaped-slash-redirected", in: "/a%2fb%5c?q=1", action: hcmv3.HttpConnectionManager_UNESCAPE_AND_REDIRECT,
			status: http.StatusTemporaryRedirect, want: "/a/b/?q=1"},
		{name: "escaped-slash-forwarded", in: "/a%2F%2Fb", action: hcmv3.HttpConnectionManager_UNESCAPE_AND_FORWARD, want: "/a/b"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := &hcm{normalize: true, mergeSlashes: true, escapedSlashes: tt.action}
			r := httptest.NewRequest(http.MethodGet, tt.in, nil)
			status, location := h.normalizePath(r)
			got := r.URL.RequestURI()
			if status != 0 {
				got = location
			}
			if status != tt.status || got != tt.want {
				t.Errorf("%s: %d %q, want %d %q", tt.in, status, got, tt.status, tt.want)
			}
		})
	}
}

func TestCleanHost(t *testing.T) {
	for _, tt := range []struct {
		h        hcm
		in, want string
	}{
		{h: hcm{}, in: "a.:80", want: "a.:80"},
		{h: hcm{stripAnyPort: true}, in: "a:81", want: "a"},
		{h: hcm{stripMatchingPort: true, port: "80"}, in: "a:80", want: "a"},
		{h: hcm{stripMatchingPort: true, port: "80"}, in: "a:81", want: "a:81"},
		{h: hcm{stripDot: true}, in: "a.:81", want: "a:81"},
		{h: hcm{stripAnyPort: true}, in: "[::1]:81", want: "[::1]"},
		{h: hcm{stripAnyPort: true}, in: "[::1]", want: "[::1]"},
	} {
		if got := tt.h.cleanHost(tt.in); got != tt.want {
			t.Errorf("cleanHost(%q) = %q, want %q", tt.in, got, tt.want)
		}
	}
}
