package dashboard_test

import (
	"context"
	"errors"
	"fmt"
	"html"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tailgate-project/tailgate/api/operator"
	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/federation/failover"
	"github.com/tailgate-project/tailgate/hub/web/dashboard"
)

// asker asks a dashboard as a browser does, without following where it is led.
type asker struct {
	*testing.T
	hub     *hub
	handler http.Handler
	refused error
	log     strings.Builder
}

func newAsker(t *testing.T, admin bool) *asker {
	t.Helper()
	a := &asker{T: t, hub: newHub()}
	a.handler = dashboard.New(dashboard.Options{
		API: a.hub, Log: slog.New(slog.NewTextHandler(&a.log, nil)), Version: "v0.9.3", Hosts: []string{"hub.example.ts.net"},
		Viewer: func(*http.Request) (dashboard.Viewer, error) {
			return dashboard.Viewer{Name: "ada@example.com", Admin: admin}, a.refused
		},
		As: func(ctx context.Context, v dashboard.Viewer) context.Context {
			return context.WithValue(ctx, viewerKey{}, v.Name)
		},
	})
	return a
}

func (a *asker) do(method, target string, form url.Values, change ...func(*http.Request)) *http.Response {
	a.Helper()
	var body io.Reader
	if form != nil {
		body = strings.NewReader(form.Encode())
	}
	r := httptest.NewRequestWithContext(a.Context(), method, target, body)
	r.Host = "tailgate-hub"
	if form != nil {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	for _, f := range change {
		f(r)
	}
	w := httptest.NewRecorder()
	a.handler.ServeHTTP(w, r)
	return w.Result()
}

func (a *asker) get(target string, change ...func(*http.Request)) (code int, body string) {
	a.Helper()
	resp := a.do(http.MethodGet, target, nil, change...)
	return resp.StatusCode, read(a.T, resp)
}

func read(t *testing.T, resp *http.Response) string {
	t.Helper()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func header(key, value string) func(*http.Request) {
	return func(r *http.Request) { r.Header.Set(key, value) }
}

// allPages are all that is shown to somebody who may look.
var allPages = []string{
	"/", "/clusters/eu-west-1", "/vips", "/vips?q=web&sort=-state&page=2", "/services", "/services/Service/shop/cart", "/services/Listener/infra/edge/https",
	"/journal", "/journal?before=700", "/operations",
}

func TestPagesAnswer(t *testing.T) {
	a := newAsker(t, false)
	for _, p := range allPages {
		resp := a.do(http.MethodGet, p, nil)
		body := read(t, resp)
		if resp.StatusCode != http.StatusOK || !strings.Contains(body, "ada@example.com, viewer") {
			t.Errorf("GET %s: %s", p, resp.Status)
		}
		want := map[string]string{
			"Content-Security-Policy": "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self' data:; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
			"X-Content-Type-Options":  "nosniff", "Cache-Control": "no-store", "Referrer-Policy": "same-origin", "Content-Type": "text/html; charset=utf-8",
		}
		for k, v := range want {
			if got := resp.Header.Get(k); got != v {
				t.Errorf("GET %s: %s is %q, want %q", p, k, got, v)
			}
		}
		for _, never := range []string{"/forecast", "action=\"/operations\"", "ZgotmplZ", " style=", "<script>", "onclick", "http://", "https://"} {
			if strings.Contains(body, never) {
				t.Errorf("GET %s as a viewer: the page has %q", p, never)
			}
		}
	}
}

func TestAssets(t *testing.T) {
	a := newAsker(t, false)
	_, body := a.get("/")
	paths := regexp.MustCompile(`"(/assets/[^"]+)"`).FindAllStringSubmatch(body, -1)
	if len(paths) != 3 {
		t.Fatalf("the page loads %v, want a sheet, a script and an icon", paths)
	}
	a.refused = errors.New("nobody") // what has no data of the federation is for everybody
	for _, p := range paths {
		resp := a.do(http.MethodGet, p[1], nil)
		if resp.StatusCode != http.StatusOK || len(read(t, resp)) < 100 {
			t.Errorf("GET %s: %s", p[1], resp.Status)
		}
		if got := resp.Header.Get("Cache-Control"); got != "public, max-age=31536000, immutable" {
			t.Errorf("GET %s: Cache-Control is %q", p[1], got)
		}
		if again := a.do(http.MethodGet, p[1], nil, header("If-None-Match", resp.Header.Get("ETag"))); again.StatusCode != http.StatusNotModified {
			t.Errorf("GET %s again: %s", p[1], again.Status)
		}
	}
	if code, _ := a.get("/assets/dashboard.css"); code != http.StatusNotFound {
		t.Errorf("a file without its hash is served for ever: %d", code)
	}
}

func TestWhoMayNotLook(t *testing.T) {
	a := newAsker(t, true)
	a.refused = errors.New("eve@example.com has no role here")
	for _, p := range append(slices.Clone(allPages), "/events", "/forecast?cluster=eu-west-1&mode=Drain", "/nothing") {
		code, body := a.get(p)
		if code != http.StatusForbidden {
			t.Errorf("GET %s: %d", p, code)
		}
		for _, want := range []string{"eve@example.com has no role here", "gateway.tailscale.com/cap/tailgate", `&#34;role&#34;: &#34;viewer&#34;`, "tag:tailgate-hub"} {
			if !strings.Contains(body, want) && !strings.Contains(body, strings.ReplaceAll(want, "&#34;", `"`)) {
				t.Errorf("GET %s: the page does not say %s", p, want)
			}
		}
		if strings.Contains(body, "eu-central-1") {
			t.Errorf("GET %s: the page tells of the federation", p)
		}
	}
	if code := a.do(http.MethodPost, "/operations", drain("eu-west-1")).StatusCode; code != http.StatusForbidden {
		t.Errorf("POST /operations: %d", code)
	}
	if n := len(a.hub.asked); n > 0 {
		t.Errorf("the hub was asked for somebody who may not look: %v", a.hub.asked)
	}
}

func drain(cluster string) url.Values {
	return url.Values{"cluster": {cluster}, "mode": {"Drain"}, "ramp": {"30s"}}
}

func TestViewersCannotAct(t *testing.T) {
	a := newAsker(t, false)
	for _, resp := range []*http.Response{a.do(http.MethodPost, "/operations", drain("eu-west-1")), a.do(http.MethodGet, "/forecast?cluster=eu-west-1&mode=Drain", nil)} {
		if body := read(t, resp); resp.StatusCode != http.StatusForbidden || !strings.Contains(body, "with the role admin") {
			t.Errorf("a viewer's action is answered with %s: %s", resp.Status, body)
		}
	}
	if a.hub.counted("Operate")+a.hub.counted("Forecast") > 0 {
		t.Error("the hub was asked to act for a viewer")
	}
}

// TestOtherSitesCannotAct sends what a page elsewhere could make an admin's browser send.
func TestOtherSitesCannotAct(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(*http.Request)
		want   int
	}{
		"other-site":       {header("Sec-Fetch-Site", "cross-site"), http.StatusForbidden},
		"sibling":          {header("Sec-Fetch-Site", "same-site"), http.StatusForbidden},
		"foreign-origin":   {header("Origin", "http://evil.example"), http.StatusForbidden},
		"sandboxed-frame":  {header("Origin", "null"), http.StatusForbidden},
		"rebound-name":     {func(r *http.Request) { r.Host = "evil.example" }, http.StatusMisdirectedRequest},
		"rebound-origin":   {func(r *http.Request) { r.Host = "evil.example:80"; r.Header.Set("Origin", "http://evil.example:80") }, http.StatusMisdirectedRequest},
		"own-page":         {header("Sec-Fetch-Site", "same-origin"), http.StatusSeeOther},
		"own-origin-plain": {header("Origin", "http://tailgate-hub"), http.StatusSeeOther},
		"full-name":        {func(r *http.Request) { r.Host = "Hub.Example.ts.net.:80" }, http.StatusSeeOther},
		"address":          {func(r *http.Request) { r.Host = "100.64.0.1:80" }, http.StatusSeeOther},
		"address-6":        {func(r *http.Request) { r.Host = "[fd7a:115c:a1e0::1]" }, http.StatusSeeOther},
	} {
		t.Run(name, func(t *testing.T) {
			a := newAsker(t, true)
			resp := a.do(http.MethodPost, "/operations", drain("eu-west-1"), tc.change)
			if resp.StatusCode != tc.want {
				t.Errorf("answered with %s, want %d", resp.Status, tc.want)
			}
			if acted := a.hub.counted("Operate") == 1; acted != (tc.want == http.StatusSeeOther) {
				t.Errorf("acted: %v", acted)
			}
		})
	}
}

func TestNobodyActsByAddress(t *testing.T) {
	a := newAsker(t, true)
	for _, p := range append(slices.Clone(allPages), "/operations?cluster=eu-west-1&mode=Drain", "/forecast?cluster=eu-west-1&mode=Drain&agreed=yes", "/scheme?scheme=dark") {
		for _, method := range []string{http.MethodGet, http.MethodHead} {
			if resp := a.do(method, p, nil); len(resp.Header.Values("Set-Cookie")) > 0 {
				t.Errorf("%s %s sets a cookie", method, p)
			}
		}
	}
	for _, method := range []string{http.MethodPost, http.MethodPut, http.MethodDelete} {
		if resp := a.do(method, "/vips", nil); resp.StatusCode != http.StatusMethodNotAllowed {
			t.Errorf("%s /vips: %s", method, resp.Status)
		}
	}
	if n := a.hub.counted("Operate"); n > 0 {
		t.Errorf("the hub acted %d times", n)
	}
}

func TestWishIsTaken(t *testing.T) {
	cart := federation.Service("shop", "cart")
	edge := federation.Listener("infra", "edge", "https")
	for name, tc := range map[string]struct {
		form url.Values
		want operator.Wish
		to   string
	}{
		"drain-cluster": {drain("eu-west-1"), operator.Wish{Cluster: "eu-west-1", Mode: failover.Drain, Ramp: 30 * time.Second}, "/operations#op-eu-west-1"},
		"drain-by-policy": {url.Values{"cluster": {"eu-west-1"}, "mode": {"Drain"}, "ramp": {"policy"}},
			operator.Wish{Cluster: "eu-west-1", Mode: failover.Drain, Ramp: -1}, "/operations#op-eu-west-1"},
		"pin-export": {url.Values{"cluster": {"us-east-1"}, "service": {cart.String()}, "mode": {"Pin"}},
			operator.Wish{Cluster: "us-east-1", Service: serviceID(cart), Mode: failover.Pin, Ramp: -1}, "/operations#op-us-east-1-Service%2Fshop%2Fcart"},
		"resume-listener": {url.Values{"cluster": {"us-east-1"}, "service": {edge.String()}, "mode": {"Resume"}},
			operator.Wish{Cluster: "us-east-1", Service: serviceID(edge), Ramp: -1}, "/services/Listener/infra/edge/https"},
	} {
		t.Run(name, func(t *testing.T) {
			a := newAsker(t, true)
			a.hub.wishes = nil
			resp := a.do(http.MethodPost, "/operations", tc.form)
			if got := resp.Header.Get("Location"); resp.StatusCode != http.StatusSeeOther || got != tc.to {
				t.Fatalf("answered with %s to %q, want %q", resp.Status, got, tc.to)
			}
			if len(a.hub.wishes) > 0 {
				if diff := cmp.Diff(tc.want, a.hub.wishes[0].Wish); diff != "" {
					t.Errorf("the wish (-want +got):\n%s", diff)
				}
			} else if tc.want.Mode != failover.Normal {
				t.Error("no wish stands")
			}
			if diff := cmp.Diff([]string{"ada@example.com"}, a.hub.who); diff != "" {
				t.Errorf("who wanted it (-want +got):\n%s", diff)
			}
			if !strings.Contains(a.log.String(), "ada@example.com") {
				t.Errorf("the log does not say who wanted it: %s", a.log.String())
			}
			said := resp.Cookies()[0]
			_, body := a.get("/operations", func(r *http.Request) { r.AddCookie(said) })
			if !strings.Contains(body, "the hub has taken this wish") || !strings.Contains(body, string(tc.want.Cluster)) {
				t.Error("the next page does not say that the wish was taken")
			}
		})
	}
}

func TestWishIsRefused(t *testing.T) {
	for name, tc := range map[string]struct {
		form     url.Values
		refusing error
		orphans  []operator.ServiceID
		code     int
		says     string
	}{
		"no-cluster":      {form: url.Values{"mode": {"Drain"}}, code: http.StatusBadRequest, says: "invalid cluster id"},
		"no-such-cluster": {form: drain("us-north-9"), refusing: fmt.Errorf("%w: no cluster us-north-9", operator.ErrNotFound), code: http.StatusNotFound, says: "there are ap-northeast-1"},
		"no-mode":         {form: url.Values{"cluster": {"eu-west-1"}}, code: http.StatusBadRequest, says: "want Drain, Cordon, Pin or Resume"},
		"odd-mode":        {form: url.Values{"cluster": {"eu-west-1"}, "mode": {"Explode"}}, code: http.StatusBadRequest, says: "Explode"},
		"odd-ramp":        {form: url.Values{"cluster": {"eu-west-1"}, "mode": {"Drain"}, "ramp": {"soon"}}, code: http.StatusBadRequest, says: "such as 90s"},
		"negative-ramp":   {form: url.Values{"cluster": {"eu-west-1"}, "mode": {"Drain"}, "ramp": {"-5s"}}, code: http.StatusBadRequest, says: "such as 90s"},
		"odd-service":     {form: url.Values{"cluster": {"eu-west-1"}, "mode": {"Pin"}, "service": {"cart"}}, code: http.StatusBadRequest, says: "Service/namespace/name"},
		"hub-says-no": {form: drain("eu-west-1"), refusing: fmt.Errorf("%w: a cluster that is not ready cannot be drained", operator.ErrInvalid),
			code: http.StatusBadRequest, says: "a cluster that is not ready cannot be drained"},
		"hub-is-away": {form: drain("eu-west-1"), refusing: errors.New("the store does not answer"), code: http.StatusServiceUnavailable, says: "the store does not answer"},
		"orphans-unseen": {form: drain("eu-west-1"), orphans: []operator.ServiceID{serviceID(federation.Service("shop", "cart"))},
			code: http.StatusBadRequest, says: "Nothing was done: look again"},
		"too-large": {form: url.Values{"cluster": {strings.Repeat("x", 1<<17)}}, code: http.StatusRequestEntityTooLarge, says: "try again with less"},
	} {
		t.Run(name, func(t *testing.T) {
			a := newAsker(t, true)
			a.hub.refusing, a.hub.orphans = tc.refusing, tc.orphans
			before := len(a.hub.wishes)
			resp := a.do(http.MethodPost, "/operations", tc.form)
			body := read(t, resp)
			if resp.StatusCode != tc.code || !strings.Contains(body, tc.says) {
				t.Errorf("answered with %s, want %d and %q in:\n%s", resp.Status, tc.code, tc.says, plainText(body))
			}
			if len(a.hub.wishes) != before {
				t.Error("a refused wish stands")
			}
		})
	}
}

var tags = regexp.MustCompile(`(?s)<[^>]*>`)

// plainText is what a page says, with single spaces.
func plainText(body string) string {
	return html.UnescapeString(strings.Join(strings.Fields(tags.ReplaceAllString(body, " ")), " "))
}

// TestOrphansAreAgreedTo follows the form of a forecast that leaves services without a healthy cluster.
func TestOrphansAreAgreedTo(t *testing.T) {
	a := newAsker(t, true)
	a.hub.orphans = []operator.ServiceID{serviceID(federation.Service("payments", "ledger"))}
	_, body := a.get("/forecast?cluster=eu-west-1&mode=Drain&ramp=1m0s")
	if !strings.Contains(body, "1 service would have no healthy cluster") {
		t.Fatalf("the forecast does not say what is orphaned:\n%s", plainText(body))
	}
	form := url.Values{}
	for _, in := range regexp.MustCompile(`<input type="hidden" name="(\w+)" value="([^"]*)">`).FindAllStringSubmatch(body[strings.Index(body, `action="/operations"`):], 4) {
		form.Set(in[1], in[2])
	}
	if resp := a.do(http.MethodPost, "/operations", form); resp.StatusCode != http.StatusBadRequest {
		t.Errorf("without the tick: %s", resp.Status)
	}
	form.Set("agreed", "yes")
	a.hub.orphans = append(a.hub.orphans, serviceID(federation.Service("shop", "cart")))
	if resp := a.do(http.MethodPost, "/operations", form); resp.StatusCode != http.StatusBadRequest || !strings.Contains(read(t, resp), "look again") {
		t.Errorf("with more orphans than were seen: %s", resp.Status)
	}
	a.hub.orphans = a.hub.orphans[:1]
	if resp := a.do(http.MethodPost, "/operations", form); resp.StatusCode != http.StatusSeeOther {
		t.Errorf("as seen and agreed: %s\n%s\n%v", resp.Status, plainText(read(t, resp)), form)
	}
}

func TestForecastShowsWhatWouldChange(t *testing.T) {
	a := newAsker(t, true)
	code, body := a.get("/forecast?cluster=ap-south-1&service=Service/shop/cart&mode=Drain&ramp=5m0s")
	text := plainText(body)
	for _, want := range []string{"Drain shop/cart in ap-south-1?", "over 5 min", "Traffic would move in 1 endpoint set of 3 clusters.", "an operator wants it"} {
		if code != http.StatusOK || !strings.Contains(text, want) {
			t.Errorf("%d, and the forecast does not say %q:\n%s", code, want, text)
		}
	}
	if a.hub.counted("Operate") > 0 {
		t.Error("a forecast acted")
	}
	_, body = a.get("/forecast?cluster=ap-south-1&service=Service/shop/cart")
	if !strings.Contains(body, `id="mode-Pin"`) || strings.Contains(body, `action="/operations"`) {
		t.Error("the form of an export's wish offers no pin, or confirms what nobody chose")
	}
	if a.hub.counted("Forecast") != 1 {
		t.Error("the hub was asked for a forecast of nothing")
	}
	if _, body = a.get("/forecast?cluster=ap-south-1"); strings.Contains(body, `id="mode-Pin"`) {
		t.Error("a whole cluster can be pinned")
	}
}

// TestHostileNames puts markup wherever the federation has text.
func TestHostileNames(t *testing.T) {
	const evil = `"><img src=x onerror=alert(1)><script>alert(2)</script>'` + "`{{.}}"
	a := newAsker(t, true)
	h := a.hub
	h.status.Version = evil
	c := &h.status.Clusters[3]
	c.Region, c.Zone, c.Link.Reason, c.API.Reason, c.Versions.Spoke, c.Versions.Kubernetes, c.Verdict.Reason, c.Mode = evil, evil, evil, evil, evil, evil, evil, evil
	c.Ingress = []string{evil}
	for i := range h.status.Probes {
		h.status.Probes[i].Reachable, h.status.Probes[i].Error = false, evil
	}
	for i := range h.vips {
		h.vips[i].ServiceName, h.vips[i].Name, h.vips[i].State, h.vips[i].Tailnet, h.vips[i].TailnetRef = evil, evil, evil, evil, evil
	}
	h.services[0].Policy["eu-west-1"] = evil
	h.services[0].ID = serviceID(federation.Service("javascript:alert(3)", evil))
	h.services[0].Exports[0].Ports = []operator.Port{{Name: evil, App: evil}}
	for i := range h.records {
		h.records[i].Because, h.records[i].Inputs.Policy, h.records[i].Service = evil, evil, h.services[0].ID
	}
	h.wishes[0].By, h.wishes[1].Service = evil, h.services[0].ID
	h.orphans = []operator.ServiceID{h.services[0].ID}
	q := url.QueryEscape(evil)
	for _, p := range append(slices.Clone(allPages), "/vips?q="+q+"&cluster="+q+"&sort="+q+"&page="+q, "/services?q="+q, "/journal?service="+q+"&cluster="+q, "/journal?before="+q,
		"/services/Service/"+url.PathEscape("javascript:alert(3)")+"/"+url.PathEscape(evil), "/forecast?cluster=eu-west-1&mode=Drain", "/forecast?cluster="+q, "/?from="+q, "/"+url.PathEscape(evil)) {
		code, body := a.get(p, func(r *http.Request) { r.AddCookie(&http.Cookie{Name: "tailgate-taken", Value: q}) })
		if code >= http.StatusInternalServerError {
			t.Errorf("GET %s: %d", p, code)
		}
		for _, never := range []string{"<img", "<script>", "onerror=alert(1)>", `href="javascript:`, "ZgotmplZ"} {
			if strings.Contains(body, never) {
				t.Errorf("GET %s: the page has %q", p, never)
			}
		}
	}
}

func TestSchemeIsKept(t *testing.T) {
	a := newAsker(t, false)
	for name, tc := range map[string]struct{ back, to string }{
		"page":          {"/vips?q=web", "/vips?q=web"},
		"other-site":    {"https://evil.example/", "/"},
		"other-host":    {"//evil.example/", "/"},
		"backslash":     {`/\evil.example`, "/"},
		"header-inject": {"/x\r\nSet-Cookie: a=b", "/"},
		"nothing":       {"", "/"},
	} {
		t.Run(name, func(t *testing.T) {
			resp := a.do(http.MethodPost, "/scheme", url.Values{"scheme": {"dark"}, "back": {tc.back}})
			if got := resp.Header.Get("Location"); resp.StatusCode != http.StatusSeeOther || got != tc.to {
				t.Errorf("led to %q by %s, want %q", got, resp.Status, tc.to)
			}
			c := resp.Cookies()[0]
			if c.Value != "dark" || !c.HttpOnly || c.SameSite != http.SameSiteLaxMode {
				t.Errorf("the cookie is %v", c)
			}
			if _, body := a.get("/", func(r *http.Request) { r.AddCookie(c) }); !strings.Contains(body, `data-scheme="dark"`) {
				t.Error("the page is not dark")
			}
		})
	}
	if _, body := a.get("/", header("Cookie", `tailgate-scheme="><script>`)); strings.Contains(body, "data-scheme") {
		t.Error("an odd cookie is taken for a scheme")
	}
}

func TestErrorsSayWhatToDo(t *testing.T) {
	a := newAsker(t, false)
	for _, p := range []string{"/clusters/us-north-9", "/services/Service/shop/nothing", "/services/Pod/shop/cart", "/nothing"} {
		if code, body := a.get(p); code != http.StatusNotFound || !strings.Contains(body, "Look for it in the lists") {
			t.Errorf("GET %s: %d", p, code)
		}
	}
	if code, body := a.get("/journal?service=cart"); code != http.StatusBadRequest || !strings.Contains(body, "want Service/namespace/name") || !strings.Contains(body, `value="cart"`) {
		t.Errorf("a service without a namespace: %d\n%s", code, plainText(body))
	}
	if code, _ := a.get("/journal?before=x"); code != http.StatusBadRequest {
		t.Errorf("before=x: %d", code)
	}
	a.hub.failing = errors.New("another hub leads")
	for _, p := range allPages {
		if code, body := a.get(p); code != http.StatusServiceUnavailable || !strings.Contains(body, "another hub leads") || !strings.Contains(body, "Traffic does not wait for it") {
			t.Errorf("GET %s while another hub leads: %d", p, code)
		}
	}
}
