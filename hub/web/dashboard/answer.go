package dashboard

import (
	"bytes"
	"context"
	"embed"
	"errors"
	"fmt"
	"html/template"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/tailgate-project/tailgate/api/operator"
	"github.com/tailgate-project/tailgate/federation"
)

//go:embed templates
var templateFiles embed.FS

// pages are the templates, by the name of their file.
type pages map[string]*template.Template

// newPages parses what is embedded, which cannot fail but at the author's desk.
func newPages(a assets) pages {
	funcs := template.FuncMap{
		"asset": a.path, "icon": icon, "when": when, "lasts": lasts, "why": why, "stamp": stamp, "path": servicePath, "reason": reasonWords, "rtt": rtt, "took": took,
		"health": healthSign, "verdict": verdictSigns, "mode": modeSign, "wishPath": wishPath, "list": list[federation.ClusterID], "count": count, "ports": portWords,
		"percent": percent, "kind": kindWord, "entries": func(now time.Time, all []entry) entries { return entries{now, all} },
	}
	layout := template.Must(template.New("layout.html").Funcs(funcs).ParseFS(templateFiles, "templates/layout.html", "templates/parts.html"))
	out := pages{}
	for _, name := range []string{"overview", "cluster", "vips", "services", "service", "journal", "operations", "forecast", "failure"} {
		t := template.Must(layout.Clone())
		out[name] = template.Must(t.ParseFS(templateFiles, "templates/"+name+".html"))
	}
	out["refused"] = template.Must(template.New("refused.html").Funcs(funcs).ParseFS(templateFiles, "templates/refused.html"))
	return out
}

// answer is what a handler answers: a page, or where to go on.
type answer struct {
	// template is the page's, content what it shows.
	template string
	content  any
	title    string
	// section is the entry of the navigation that the page belongs to.
	section string
	// status is the hub at the time of the page; nil where it did not answer.
	status *operator.Status
	// code is the status of HTTP, 200 if it is zero.
	code int
	// every is after how many seconds the page wants to be asked for again though nothing was announced; 0 for the pace of
	// the heartbeats.
	every int
	// frozen pages do not follow changes: they say that there are some.
	frozen bool
	// redirect is a path to go on at. All else but the cookies does not matter then.
	redirect string
	cookies  []*http.Cookie
}

// page is what the layout shows.
type page struct {
	Title, Section string
	Viewer         Viewer
	// Scheme is light, dark, or empty for what the viewer's system says. Here is the page's own path, to come back to.
	Scheme, Here string
	Now          time.Time
	Version      string
	Build        string
	Epoch        uint64
	Rebuilding   bool
	Every        int
	Frozen       bool
	// Taken is the wish that was just taken from this viewer.
	Taken   string
	Content any
}

// write writes an answer.
func (d *dashboard) write(w http.ResponseWriter, r *http.Request, v Viewer, a answer) {
	for _, c := range a.cookies {
		http.SetCookie(w, c)
	}
	if a.redirect != "" {
		// Not http.Redirect, which rewrites what it takes for a relative path.
		w.Header().Set("Location", a.redirect)
		w.WriteHeader(http.StatusSeeOther)
		return
	}
	p := page{
		Title: a.title, Section: a.section, Viewer: v, Scheme: schemeOf(r), Here: here(r), Version: d.Version, Build: d.assets.build,
		Every: a.every, Content: a.content, Now: time.Now(),
		// What a form led to cannot be asked for again.
		Frozen: a.frozen || r.Method != http.MethodGet,
	}
	if a.status != nil {
		p.Now, p.Epoch, p.Rebuilding = a.status.Now, a.status.Epoch, a.status.Rebuilding
		if a.status.Version != "" {
			p.Version = a.status.Version
		}
	}
	if p.Taken = taken(r); p.Taken != "" {
		http.SetCookie(w, forgetTaken())
	}
	d.render(w, a, p)
}

func (d *dashboard) render(w http.ResponseWriter, a answer, p any) {
	var out bytes.Buffer
	if err := d.pages[a.template].Execute(&out, p); err != nil {
		d.Log.Error("page not rendered", "page", a.template, "err", err)
		http.Error(w, "This page cannot be shown; the hub's log says why.", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Content-Length", strconv.Itoa(out.Len()))
	if a.code != 0 {
		w.WriteHeader(a.code)
	}
	if _, err := io.Copy(w, &out); err != nil {
		d.Log.Debug("page not written", "err", err)
	}
}

// refusal is a page for who is not let in.
type refusal struct {
	Title, Why, Do string
	// Grant says to show what the policy file needs.
	Grant bool
	// Tag, Port and Scheme are filled in.
	Tag, Port, Scheme string
}

// refuse answers who is not let in. The page shows nothing of the federation.
func (d *dashboard) refuse(w http.ResponseWriter, r *http.Request, code int, f refusal) {
	d.Log.Info("refused", "why", f.Why, "path", r.URL.Path, "from", r.RemoteAddr)
	f.Tag, f.Port, f.Scheme = d.HubTag, portOf(r), schemeOf(r)
	d.render(w, answer{template: "refused", code: code}, f)
}

// portOf is the port that somebody asked at.
func portOf(r *http.Request) string {
	if _, port, err := net.SplitHostPort(r.Host); err == nil && port != "" {
		return port
	}
	if r.TLS != nil {
		return "443"
	}
	return "80"
}

// failure is the page for what the hub could not, or would not, answer.
type failure struct {
	Title, Message, Do string
}

// errNotAdmin is what who may only look is told of actions.
var errNotAdmin = fmt.Errorf("%w: you may look, but not act. Who keeps the tailnet's policy file can grant you %s with the role admin",
	operator.ErrForbidden, Capability)

// failure answers an error of the API, or of a request that makes no sense.
func (d *dashboard) failure(r *http.Request, err error) answer {
	f := failure{Message: err.Error()}
	code := operator.StatusOf(err)
	_, tooLarge := errors.AsType[*http.MaxBytesError](err)
	switch {
	case tooLarge:
		code, f.Title, f.Do = http.StatusRequestEntityTooLarge, "Too much", "Go back and try again with less."
	case errors.Is(err, operator.ErrNotFound):
		f.Title, f.Do = "Not there", "It may have left the federation, or have another name. Look for it in the lists."
	case errors.Is(err, operator.ErrInvalid):
		f.Title, f.Do = "That makes no sense to the hub", "Go back, change what the message names, and try again."
	case errors.Is(err, operator.ErrForbidden):
		f.Title, f.Do = "You may not do this", "Nothing was done."
	case errors.Is(err, context.DeadlineExceeded):
		f.Title, f.Do = "The hub did not answer in time", "What it is busy with is in its log. Traffic does not wait for it. Reload this page in a moment."
	default:
		f.Title, f.Do = "The hub cannot answer now",
			"It may be starting, ending, or not be the one that leads. Traffic does not wait for it. Reload this page in a moment; if this stays, look into the hub's log."
	}
	if code >= http.StatusInternalServerError && r.Context().Err() == nil {
		d.Log.Error("no answer for a page", "path", r.URL.Path, "err", err)
	}
	return answer{template: "failure", title: f.Title, content: f, code: code}
}

// unknown answers paths and methods that are nothing.
func (d *dashboard) unknown(r *http.Request, _ Viewer) (answer, error) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		return answer{template: "failure", title: "Not so", code: http.StatusMethodNotAllowed, content: failure{
			Title: "Not so", Message: r.Method + " is not for " + r.URL.Path + ".", Do: "Nothing was done. Open the page, and use its buttons.",
		}}, nil
	}
	return answer{}, fmt.Errorf("%w: there is no page %s", operator.ErrNotFound, r.URL.Path)
}

// status asks for what every page shows.
func (d *dashboard) status(r *http.Request) (context.Context, context.CancelFunc, operator.Status, error) {
	ctx, cancel := context.WithTimeout(r.Context(), patience)
	s, err := d.API.Status(ctx)
	return ctx, cancel, s, err
}

// here is the path of a request, to come back to.
func here(r *http.Request) string {
	if r.Method != http.MethodGet {
		return "/"
	}
	return r.URL.RequestURI()
}

// local returns a path of this server, or the overview for what may be elsewhere.
func local(path string) string {
	if !strings.HasPrefix(path, "/") || strings.HasPrefix(path, "//") || strings.ContainsAny(path, "\\\r\n\t") {
		return "/"
	}
	return path
}
