// Package dashboard shows the federation to people in a browser and takes what they want of it: pages rendered by the
// hub from an [operator.API], which follow its changes where scripts run and work without.
package dashboard

import (
	"context"
	"log/slog"
	"net/http"
	"time"

	"github.com/tailgate-project/tailgate/api/operator"
	"github.com/tailgate-project/tailgate/hub/web"
)

// Capability is the app capability by which a tailnet's policy file lets people see the dashboard, with the role viewer,
// or act, with the role admin.
const Capability = "gateway.tailscale.com/cap/tailgate"

const (
	// patience is how long the hub may take to answer for a page; forecasts are long sums.
	patience         = 10 * time.Second
	forecastPatience = 30 * time.Second
	// maxForm bounds the body of a form, in bytes.
	maxForm = 1 << 16
)

// Viewer is who looks at the dashboard.
type Viewer struct {
	// Name is shown to them, and with what they do.
	Name string
	// Admin says that they may act, and not only look.
	Admin bool
}

// Options are a dashboard's parts. API, Viewer and Log are required.
type Options struct {
	API operator.API
	// Viewer says who asks. Its error tells them why they may not even look.
	Viewer func(*http.Request) (Viewer, error)
	// As returns the context in which the API is asked for a viewer, so that it can tell who wants something; by default
	// that of the request.
	As func(context.Context, Viewer) context.Context
	// Hosts are names with a dot by which browsers ask for the hub, such as its name in the tailnet. Its addresses and names
	// without a dot need not be there. Who asks for another host gets nothing: a site could else point a name of its own at
	// the hub and act as its viewers (DNS rebinding).
	Hosts []string
	Log   *slog.Logger
	// Version is the hub's build.
	Version string
	// HubTag is the tag of the hub's node, as the example for the policy file has it; by default tag:tailgate-hub.
	HubTag string
}

// dashboard is the handler of all pages.
type dashboard struct {
	Options
	assets assets
	pages  pages
}

// handler answers a viewer.
type handler func(r *http.Request, v Viewer) (answer, error)

// New returns the handler of all paths: pages, events and assets.
func New(o Options) http.Handler {
	if o.As == nil {
		o.As = func(ctx context.Context, _ Viewer) context.Context { return ctx }
	}
	if o.HubTag == "" {
		o.HubTag = "tag:tailgate-hub"
	}
	d := &dashboard{Options: o, assets: newAssets()}
	d.pages = newPages(d.assets)
	mux := http.NewServeMux()
	mux.Handle("GET /assets/{name}", d.assets)
	for pattern, h := range map[string]handler{
		"GET /{$}":           d.overview,
		"GET /clusters/{id}": d.cluster,
		"GET /vips":          d.vips,
		"GET /services":      d.services,
		"GET /services/{kind}/{namespace}/{name...}": d.service,
		"GET /journal":     d.journal,
		"GET /operations":  d.operations,
		"GET /forecast":    d.forecast,
		"POST /operations": d.operate,
		"POST /scheme":     d.scheme,
		"/":                d.unknown,
	} {
		mux.Handle(pattern, d.serve(h))
	}
	mux.HandleFunc("GET /events", d.events)
	sameOrigin := http.NewCrossOriginProtection()
	sameOrigin.SetDenyHandler(http.HandlerFunc(d.foreign))
	return d.guard(sameOrigin.Handler(mux))
}

// contentPolicy is what a page may load and who may frame it: itself, and nobody.
const contentPolicy = "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self' data:; form-action 'self'; " +
	"base-uri 'none'; frame-ancestors 'none'"

// guard sets what all answers have, and refuses hosts that the hub is not.
func (d *dashboard) guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", contentPolicy)
		h.Set("X-Content-Type-Options", "nosniff")
		// Not no-referrer: a form's request would say Origin: null, and be taken for another site's.
		h.Set("Referrer-Policy", "same-origin")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("Cache-Control", "no-store")
		if !web.KnownHost(r.Host, d.Hosts) {
			d.refuse(w, r, http.StatusMisdirectedRequest, refusal{
				Title: "Not a name of this hub",
				Why:   "This hub was asked for as " + r.Host + ", which is not a name that it goes by.",
				Do:    "Ask for it by its address or its name in the tailnet.",
			})
			return
		}
		next.ServeHTTP(w, r)
	})
}

// serve answers viewers by a handler.
func (d *dashboard) serve(h handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		v, ok := d.viewer(w, r)
		if !ok {
			return
		}
		r.Body = http.MaxBytesReader(w, r.Body, maxForm)
		a, err := h(r.WithContext(d.As(r.Context(), v)), v)
		if err != nil {
			a = d.failure(r, err)
		}
		d.write(w, r, v, a)
	})
}

// viewer finds out who asks. Who may not look is told what to do.
func (d *dashboard) viewer(w http.ResponseWriter, r *http.Request) (Viewer, bool) {
	v, err := d.Viewer(r)
	if err != nil {
		d.refuse(w, r, http.StatusForbidden, refusal{
			Title: "You may not look here yet",
			Why:   err.Error(),
			Do:    "Ask who keeps the tailnet's policy file to grant you the app capability " + Capability + ", with one of the two roles.",
			Grant: true,
		})
		return Viewer{}, false
	}
	return v, true
}

// foreign answers a form that another site sent.
func (d *dashboard) foreign(w http.ResponseWriter, r *http.Request) {
	d.refuse(w, r, http.StatusForbidden, refusal{
		Title: "Sent from another site",
		Why:   "This request changes something and comes from a page that is not the dashboard's. Nothing was done.",
		Do:    "Open the dashboard and do it there.",
	})
}
