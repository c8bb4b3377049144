package dashboard_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/accessibility"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/chromedp"

	"github.com/tailgate-project/tailgate/hub/web/dashboard"
)

// patience is for machines that have other things to do; nothing here waits for it to pass.
const patience = 90 * time.Second

// hubHost is a name that only the test's browser knows. Unlike an address of this machine, a page from it over plain HTTP
// is not trusted, as on a tailnet: the browser sends no Sec-Fetch-Site.
const hubHost = "tailgate-hub.tailnet-name.ts.net"

// chromium is a browser that ends with its test.
func chromium(t *testing.T) context.Context {
	t.Helper()
	if os.Getenv("TAILGATE_NO_BROWSER") == "1" {
		t.Skip("TAILGATE_NO_BROWSER=1: the dashboard is not tried in a browser")
	}
	var path string
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "headless-shell"} {
		if found, err := exec.LookPath(name); err == nil {
			path = found
			break
		}
	}
	if path == "" {
		t.Fatal("no chromium in the PATH: install one (Debian: apt-get install chromium), or set TAILGATE_NO_BROWSER=1 to leave the browser's tests out")
	}
	options := append(slices.Clone(chromedp.DefaultExecAllocatorOptions[:]), chromedp.ExecPath(path), chromedp.NoSandbox, chromedp.DisableGPU,
		chromedp.Flag("disable-quic", true), chromedp.Flag("disable-component-update", true), chromedp.Flag("user-data-dir", t.TempDir()),
		chromedp.Flag("host-resolver-rules", "MAP "+hubHost+" 127.0.0.1, MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"))
	ctx, cancel := chromedp.NewExecAllocator(context.WithoutCancel(t.Context()), options...)
	t.Cleanup(cancel)
	ctx, cancel = chromedp.NewContext(ctx)
	t.Cleanup(func() {
		// Cancel, unlike the context's end, waits for the browser to be gone, and its directory can be removed.
		if err := chromedp.Cancel(ctx); err != nil {
			t.Logf("end the browser: %v", err)
		}
		cancel()
	})
	if err := chromedp.Do(ctx); err != nil {
		t.Fatalf("start %s: %v", path, err)
	}
	return ctx
}

// site is a dashboard on this machine.
type site struct {
	*httptest.Server
	hub   *hub
	url   string
	mu    sync.Mutex
	admin bool
	// refused is why nobody may look.
	refused error
	// gone makes the hub refuse connections and requests until it is back.
	gone bool
}

func newSite(t *testing.T, admin bool) *site {
	t.Helper()
	s := &site{hub: newHub(), admin: admin}
	h := dashboard.New(dashboard.Options{
		API: s.hub, Log: slog.New(slog.NewTextHandler(t.Output(), nil)), Version: "v0.9.3", Hosts: []string{hubHost},
		Viewer: func(*http.Request) (dashboard.Viewer, error) {
			return dashboard.Viewer{Name: "ada@example.com", Admin: s.admin}, s.refused
		},
		As: func(ctx context.Context, v dashboard.Viewer) context.Context {
			return context.WithValue(ctx, viewerKey{}, v.Name)
		},
	})
	// The streams of viewers end with the context of the server, as they do in a hub.
	ctx, end := context.WithCancel(context.WithoutCancel(t.Context()))
	s.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		gone := s.gone
		s.mu.Unlock()
		if gone {
			panic(http.ErrAbortHandler)
		}
		h.ServeHTTP(w, r)
	}))
	s.Config.BaseContext = func(net.Listener) context.Context { return ctx }
	s.Start()
	t.Cleanup(func() {
		end()
		s.Close()
	})
	s.url = strings.Replace(s.URL, "127.0.0.1", hubHost, 1)
	return s
}

// leave cuts the hub off, and comes back.
func (s *site) leave(gone bool) {
	s.mu.Lock()
	s.gone = gone
	s.mu.Unlock()
	if gone {
		s.CloseClientConnections()
	}
}

// tab is a page of the browser.
type tab struct {
	*testing.T
	ctx context.Context
	// said is what the page wrote to the console.
	mu   sync.Mutex
	said []string
}

// look is how a page is looked at.
type look struct {
	scheme        string
	width, height int64
}

var looks = []look{{"light", 1280, 900}, {"dark", 1280, 900}, {"light", 390, 844}, {"dark", 390, 844}}

func (l look) String() string { return fmt.Sprintf("%s-%d", l.scheme, l.width) }

// open opens a tab, and fails the test if its console says anything.
func open(t *testing.T, browser context.Context, l look) *tab {
	t.Helper()
	ctx, cancel := chromedp.NewContext(browser, chromedp.WithNewBrowserContext()) // with cookies of its own
	ctx, stop := context.WithTimeout(ctx, patience)
	tb := &tab{T: t, ctx: ctx}
	var reading sync.WaitGroup
	messages := chromedp.Console(ctx)
	reading.Go(func() {
		for m, err := range messages {
			if err != nil {
				return
			}
			tb.mu.Lock()
			tb.said = append(tb.said, string(m.Type)+": "+m.Text+" ("+m.URL+")")
			tb.mu.Unlock()
		}
	})
	t.Cleanup(func() {
		stop()
		cancel()
		reading.Wait()
		for _, s := range tb.said {
			t.Error("the console says", s)
		}
	})
	tb.emulate(l)
	return tb
}

// emulate changes how the page is looked at.
func (tb *tab) emulate(l look) {
	tb.Helper()
	tb.do(chromedp.EmulateViewport(l.width, l.height))
	tb.call(func() error {
		_, err := chromedp.Call(tb.ctx, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{
			{Name: "prefers-color-scheme", Value: l.scheme}, {Name: "prefers-reduced-motion", Value: "reduce"},
		}})
		return err
	})
}

// quiet forgets what the console says of a connection that the test has cut.
func (tb *tab) quiet() {
	tb.mu.Lock()
	defer tb.mu.Unlock()
	tb.said = slices.DeleteFunc(tb.said, func(s string) bool { return strings.Contains(s, "net::ERR_") })
}

func (tb *tab) call(f func() error) {
	tb.Helper()
	if err := f(); err != nil {
		tb.Fatal(err)
	}
}

func (tb *tab) do(steps ...chromedp.Action[chromedp.Void]) {
	tb.Helper()
	tb.call(func() error { return chromedp.Do(tb.ctx, steps...) })
}

// eval returns what an expression is in the page.
func eval[T any](tb *tab, expression string) T {
	tb.Helper()
	v, err := chromedp.Run(tb.ctx, chromedp.Evaluate[T](expression))
	if err != nil {
		tb.Fatalf("%s: %v", expression, err)
	}
	return v
}

// until waits until an expression is true in the page, also one that the browser is still on its way to.
func (tb *tab) until(what, expression string) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.ctx, patience/2)
	defer cancel()
	look := time.NewTicker(30 * time.Millisecond)
	defer look.Stop()
	for {
		is, err := chromedp.Run(ctx, chromedp.Evaluate[bool](`(() => { try { return Boolean(`+expression+`) } catch { return false } })()`))
		if err == nil && is {
			return
		}
		select {
		case <-look.C:
		case <-ctx.Done():
			text := eval[string](tb, `location.href + ": " + document.body?.innerText.replace(/\s+/g, " ").slice(0, 700)`)
			tb.Fatalf("not seen: %s (%v)\nThe page is %s", what, err, text)
		}
	}
}

// visit opens a page and waits until it follows the hub.
func (tb *tab) visit(url string) {
	tb.Helper()
	tb.do(chromedp.Navigate(url))
	tb.until("the page is live", `document.querySelector("#live").classList.contains("on")`)
}

// keys types, the keys of package kb among it.
func (tb *tab) keys(text string) {
	tb.Helper()
	tb.do(chromedp.KeyEvent(text))
}

// tabTo presses the tabulator until a selector has the focus, and demands that each stop can be seen.
func (tb *tab) tabTo(selector string) {
	tb.Helper()
	for range 200 {
		tb.keys("\t")
		if eval[bool](tb, `document.activeElement.matches(`+quote(selector)+`)`) {
			return
		}
		if lost := eval[string](tb, `(() => { const el = document.activeElement; if (el === document.body) return ""; const s = getComputedStyle(el), b = el.getBoundingClientRect();
			return s.outlineStyle === "none" || parseFloat(s.outlineWidth) < 2 || b.width === 0 || b.bottom < 0 ? el.outerHTML.slice(0, 120) : "" })()`); lost != "" {
			tb.Errorf("the focus cannot be seen on %s", lost)
		}
	}
	tb.Fatalf("the tabulator does not come to %s", selector)
}

func quote(s string) string {
	b, err := json.Marshal(s)
	if err != nil {
		panic(err)
	}
	return string(b)
}

// audit demands of a page what a reader may, with eyes, ears or a thumb.
func (tb *tab) audit() {
	tb.Helper()
	script, err := os.ReadFile("testdata/audit.js")
	if err != nil {
		tb.Fatal(err)
	}
	for _, wrong := range eval[[]string](tb, string(script)) {
		tb.Error(wrong)
	}
	tb.hear()
}

// hear demands of the accessibility tree what ears and keyboards need.
func (tb *tab) hear() {
	tb.Helper()
	tree, err := chromedp.Call(tb.ctx, accessibility.GetFullAXTree, accessibility.GetFullAXTreeParams{})
	if err != nil {
		tb.Fatal(err)
	}
	roles := map[string]int{}
	for _, n := range tree.Nodes {
		if n.Ignored || n.Role == nil {
			continue
		}
		role, name := text(n.Role), text(n.Name)
		roles[role]++
		switch role {
		case "button", "link", "textbox", "searchbox", "combobox", "checkbox", "radio", "table", "navigation", "region", "progressbar", "heading", "form", "search":
			// A form without a name is no landmark, and a search may have none as it is the only one.
			if strings.TrimSpace(name) == "" && role != "form" && role != "search" {
				tb.Errorf("a %s has no name in the accessibility tree", role)
			}
		}
	}
	tables := eval[int](tb, `[...document.querySelectorAll("table")].filter((e) => e.checkVisibility()).length`)
	if roles["table"] < tables || tables > 0 && (roles["columnheader"] == 0 || roles["rowheader"] == 0) {
		tb.Errorf("of %d tables the accessibility tree has %d, with %d heads of columns and %d of rows", tables, roles["table"], roles["columnheader"], roles["rowheader"])
	}
	if roles["main"] != 1 {
		tb.Errorf("the accessibility tree has %d mains", roles["main"])
	}
}

func text(v *accessibility.Value) string {
	if v == nil {
		return ""
	}
	var s string
	if json.Unmarshal(v.Value, &s) != nil {
		return ""
	}
	return s
}

// shoot keeps a picture of the whole page.
func (tb *tab) shoot(name string) {
	tb.Helper()
	dir := os.Getenv("TAILGATE_ARTIFACTS")
	if dir == "" {
		dir = tb.TempDir()
	}
	tb.call(func() error { return os.MkdirAll(dir, 0o755) })
	picture, err := chromedp.Call(tb.ctx, page.CaptureScreenshot, page.CaptureScreenshotParams{CaptureBeyondViewport: new(true), Clip: &page.Viewport{
		Width: eval[float64](tb, `document.documentElement.clientWidth`), Height: eval[float64](tb, `document.documentElement.scrollHeight`), Scale: 1,
	}})
	if err != nil {
		tb.Fatal(err)
	}
	if len(picture.Data) < 1000 {
		tb.Errorf("the picture %s has %d bytes", name, len(picture.Data))
	}
	tb.call(func() error { return os.WriteFile(filepath.Join(dir, "dashboard-"+name+".png"), picture.Data, 0o644) })
}
