package dashboard_test

import (
	"errors"
	"testing"

	"github.com/chromedp/chromedp"

	"github.com/tailgate-project/tailgate/api/operator"
	"github.com/tailgate-project/tailgate/federation"
)

// TestPages shows every page in both schemes, wide and narrow, and demands of each what its readers may.
func TestPages(t *testing.T) {
	browser := chromium(t)
	s := newSite(t, true)
	doomed := newSite(t, true)
	doomed.hub.orphans = []operator.ServiceID{serviceID(federation.Service("payments", "ledger")), serviceID(federation.Listener("infra", "edge", "grpc"))}
	rebuilding := newSite(t, false)
	rebuilding.hub.status.Rebuilding = true
	empty := newSite(t, false)
	empty.hub.status.Clusters, empty.hub.status.Probes, empty.hub.vips, empty.hub.services, empty.hub.records, empty.hub.wishes = nil, nil, nil, nil, nil, nil
	large := newSite(t, false)
	large.hub.grow(60)
	closed := newSite(t, false)
	closed.refused = errors.New("eve@example.com has no role here")
	for _, p := range []struct{ name, url string }{
		{"overview", s.url + "/"},
		{"overview-rebuilding", rebuilding.url + "/"},
		{"overview-empty", empty.url + "/"},
		{"overview-large", large.url + "/"},
		{"cluster", s.url + "/clusters/us-west-2"},
		{"cluster-draining", s.url + "/clusters/eu-central-1"},
		{"vips", s.url + "/vips"},
		{"vips-search", s.url + "/vips?q=pay+eu-central&state=pending"},
		{"services", s.url + "/services"},
		{"service", s.url + "/services/Service/shop/cart"},
		{"service-listener", s.url + "/services/Listener/infra/edge/https"},
		{"service-large", large.url + "/services/Service/shop/cart?from=cluster-07"},
		{"journal", s.url + "/journal"},
		{"operations", s.url + "/operations"},
		{"operations-empty", empty.url + "/operations"},
		{"wish", s.url + "/forecast?cluster=eu-west-1&service=Service/shop/cart"},
		{"forecast", s.url + "/forecast?cluster=ap-south-1&mode=Drain&ramp=5m0s"},
		{"forecast-orphans", doomed.url + "/forecast?cluster=ap-south-1&mode=Cordon"},
		{"not-there", s.url + "/clusters/us-north-9"},
		{"refused", closed.url + "/vips"},
	} {
		t.Run(p.name, func(t *testing.T) {
			tb := open(t, browser, looks[0])
			switch p.name {
			case "not-there":
				tb.visit(p.url)
				tb.forget()
			case "refused":
				tb.do(chromedp.Navigate(p.url))
				tb.forget()
			default:
				tb.visit(p.url)
			}
			for _, l := range looks {
				tb.emulate(l)
				tb.shoot(p.name + "-" + l.String())
			}
			eval[any](tb, `document.querySelectorAll("details").forEach((d) => { d.open = true })`)
			for _, l := range looks {
				t.Run(l.String(), func(t *testing.T) {
					tb := &tab{T: t, ctx: tb.ctx}
					tb.emulate(l)
					tb.audit()
				})
			}
			tb.emulate(look{"light", 360, 740})
			if wide := eval[int](tb, `document.documentElement.scrollWidth`); wide > 360 {
				t.Errorf("the page scrolls sideways on the narrowest of screens: %d", wide)
			}
		})
	}
}

// forget forgets what the browser said of an answer that is an error.
func (tb *tab) forget() {
	tb.mu.Lock()
	defer tb.mu.Unlock()
	tb.said = nil
}
