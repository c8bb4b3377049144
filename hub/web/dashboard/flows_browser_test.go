package dashboard_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"

	"github.com/tailgate-project/tailgate/api/operator"
	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/federation/failover"
)

// TestFlows does what people do, in a browser.
func TestFlows(t *testing.T) {
	browser := chromium(t)
	for name, flow := range map[string]func(*testing.T, *tab, *site){
		"search-by-keyboard":          searchByKeyboard,
		"live-update-leaves-readers":  liveUpdate,
		"rows-move-under-the-focus":   rowsMove,
		"drain-to-the-end":            drainToTheEnd,
		"forecast-goes-out-of-date":   outdatedForecast,
		"connection-is-lost":          connectionLost,
		"changes-come-fast":           changesComeFast,
		"colours-are-chosen":          coloursAreChosen,
		"unreached-cell-says-why":     unreachedSaysWhy,
		"hub-is-upgraded-meanwhile":   upgraded,
		"refused-wish-stays-on-page":  refusedWish,
		"without-scripts":             withoutScripts,
		"skip-link-leads-to-content":  skipLink,
		"cluster-leaves-under-reader": clusterLeaves,
	} {
		t.Run(name, func(t *testing.T) {
			flow(t, open(t, browser, looks[0]), newSite(t, true))
		})
	}
}

func searchByKeyboard(_ *testing.T, tb *tab, s *site) {
	tb.visit(s.url + "/vips")
	tb.tabTo("#q")
	tb.keys("payouts us-west\r")
	tb.until("the search is done", `location.search.startsWith("?q=payouts+us-west") && document.querySelector("#live.on")`)
	if got := eval[string](tb, `document.querySelector("#matches").textContent`); !strings.HasPrefix(got, "1 VIP of ") {
		tb.Errorf("the page says %q", got)
	}
	tb.tabTo("#vips tbody td a[href^='/services/']")
	tb.keys("\r")
	tb.until("the service's page", `document.querySelector("h1")?.textContent.startsWith("payments/payouts")`)
}

// liveUpdate changes the federation while somebody types, reads and has scrolled.
func liveUpdate(_ *testing.T, tb *tab, s *site) {
	tb.visit(s.url + "/journal")
	eval[any](tb, `window.stayed = document.querySelector("#service")`) // a reload would forget it
	tb.tabTo("#service")
	tb.keys("Service/sho")
	eval[any](tb, `document.querySelector("#service").setSelectionRange(3, 5)`)
	eval[any](tb, `[...document.querySelectorAll("details")].at(-1).open = true`)
	eval[any](tb, `window.opened = [...document.querySelectorAll("details")].at(-1).id`)
	eval[any](tb, `window.scrollTo(0, 200)`)
	s.hub.edit(func() {
		s.hub.records = append(s.hub.records, operator.Record{Seq: uint64(len(s.hub.records)) + 1, At: s.hub.now, Cluster: "us-east-1",
			From: federation.Healthy, To: federation.Unhealthy, Reason: failover.UnreachableByQuorum, Because: "a thing that just happened"})
	})
	tb.until("the new decision", `document.querySelector(".timeline").textContent.includes("a thing that just happened")`)
	for what, is := range map[string]string{
		"the page was not reloaded":   `window.stayed === document.querySelector("#service")`,
		"the focus stayed":            `document.activeElement === window.stayed`,
		"the typed text stayed":       `window.stayed.value === "Service/sho"`,
		"the cursor stayed":           `window.stayed.selectionStart === 3 && window.stayed.selectionEnd === 5`,
		"what was open stayed open":   `document.getElementById(window.opened)?.open ?? true`,
		"only that is open":           `document.querySelectorAll("details[open]").length <= 1`,
		"the page did not jump up":    `window.scrollY >= 200`,
		"the newest one is the first": `document.querySelector(".entry").textContent.includes("a thing that just happened")`,
		"records stand there once":    `new Set([...document.querySelectorAll("[data-key]")].map((e) => e.dataset.key)).size === document.querySelectorAll("[data-key]").length`,
	} {
		if !eval[bool](tb, is) {
			tb.Errorf("not so: %s", what)
		}
	}
}

// rowsMove takes away rows above the one that has the focus, and adds some.
func rowsMove(_ *testing.T, tb *tab, s *site) {
	tb.visit(s.url + "/vips?q=cart")
	eval[any](tb, `(window.link = document.querySelector("[data-key$='cart-us-east-1'] a")).focus()`)
	s.hub.edit(func() {
		kept := s.hub.vips[:0]
		for _, v := range s.hub.vips {
			if v.ServiceName == "local-production-cart-eu-west-1" {
				continue
			}
			if v.ServiceName == "local-production-cart-eu-central-1" {
				v.ServiceName = "zz-cart" // to the end
			}
			kept = append(kept, v)
		}
		added := kept[0]
		added.ServiceName = "aa-cart-new"
		s.hub.vips = append(kept, added)
	})
	tb.until("the rows as they are now", `[...document.querySelectorAll("#vips tbody tr th")].map((e) => e.textContent.trim()).join() ===
		"aa-cart-new,local-production-cart-ap-northeast-1,local-production-cart-ap-south-1,local-production-cart-us-east-1,local-production-cart-us-west-2,zz-cart"`)
	if !eval[bool](tb, `document.activeElement === window.link && window.link.closest("tr").dataset.key.endsWith("cart-us-east-1")`) {
		tb.Error("the focus was lost")
	}
}

// drainToTheEnd goes by keyboard from a cluster's page to its drain's end.
func drainToTheEnd(_ *testing.T, tb *tab, s *site) {
	tb.visit(s.url + "/clusters/us-east-1")
	tb.tabTo("#ramp")
	tb.do(chromedp.SetValue(chromedp.ID("ramp"), "5m0s"))
	tb.tabTo("#act button[value=Drain]")
	tb.keys("\r")
	tb.until("the forecast", `document.querySelector("h1")?.textContent === "Drain us-east-1?" && document.querySelector("#live.on")`)
	if n := s.hub.counted("Operate"); n != 0 {
		tb.Fatalf("a forecast acted")
	}
	tb.shoot("flow-1-forecast")
	tb.tabTo("#confirm")
	tb.keys("\r")
	tb.until("the operation", `location.pathname === "/operations" && document.querySelector("#op-us-east-1")?.textContent.includes("100 % left") && document.querySelector("#live.on")`)
	if !eval[bool](tb, `document.querySelector("#taken").textContent.includes("Drain us-east-1")`) {
		tb.Error("the page does not say that the wish was taken")
	}
	tb.shoot("flow-2-taken")
	eval[any](tb, `window.row = document.querySelector("#op-us-east-1")`)
	for _, share := range []uint8{70, 30} {
		s.hub.progress("us-east-1", share)
		tb.until("the drain's progress", fmt.Sprintf(`document.querySelector("#op-us-east-1 progress").value === %d`, 100-int(share)))
	}
	tb.shoot("flow-3-progress")
	s.hub.progress("us-east-1", 0)
	tb.until("the end", `document.querySelector("#op-us-east-1").textContent.includes("drained") && window.row === document.querySelector("#op-us-east-1")`)
	tb.tabTo("#op-us-east-1 .button")
	tb.keys("\r")
	tb.until("the forecast of the return", `document.querySelector("h1")?.textContent === "Resume us-east-1?" && document.querySelector("#live.on")`)
	tb.tabTo("#confirm")
	tb.keys("\r")
	tb.until("the cluster without a wish", `location.pathname === "/clusters/us-east-1" && document.querySelector("#wish + p")?.textContent.startsWith("Nothing")`)
}

// outdatedForecast changes the federation under a forecast, which must not change under its reader.
func outdatedForecast(_ *testing.T, tb *tab, s *site) {
	tb.visit(s.url + "/forecast?cluster=ap-south-1&mode=Drain")
	before := eval[string](tb, `document.querySelector("#changes").textContent`)
	s.hub.edit(func() { s.hub.services = s.hub.services[:5] })
	tb.until("the note", `document.querySelector("#outdated").checkVisibility()`)
	if after := eval[string](tb, `document.querySelector("#changes").textContent`); after != before {
		tb.Errorf("the forecast changed from %q to %q while it was read", before, after)
	}
	tb.shoot("forecast-outdated")
	tb.do(chromedp.Click(chromedp.CSS("#outdated a")))
	tb.until("the new forecast", `document.querySelector("#changes")?.textContent !== `+quote(before)+` && document.querySelector("#live.on")`)
	if eval[bool](tb, `document.querySelector("#outdated").checkVisibility()`) {
		tb.Error("a new forecast is called outdated")
	}
}

func connectionLost(_ *testing.T, tb *tab, s *site) {
	tb.visit(s.url + "/")
	s.leave(true)
	tb.until("the loss", `/^Not live since \d\d:\d\d:\d\d UTC/.test(document.querySelector("#live .said").textContent)`)
	if !eval[bool](tb, `document.querySelector("#live").getAttribute("role") === "status" && document.querySelector("h1").textContent === "5 of 6 clusters are healthy"`) {
		tb.Error("the loss is not told to who cannot see it, or the page is gone")
	}
	tb.shoot("not-live")
	s.leave(false)
	s.hub.edit(func() { s.hub.status.Clusters[5].Verdict.Health = federation.Healthy })
	tb.until("the return", `document.querySelector("#live").className === "live on" && document.querySelector("h1").textContent === "All 6 clusters are healthy"`)
	tb.quiet()
}

// changesComeFast announces hundreds of changes, each after the page was asked for.
func changesComeFast(_ *testing.T, tb *tab, s *site) {
	tb.visit(s.url + "/vips")
	begun, before := time.Now(), s.hub.counted("VIPs")
	for i := range 300 {
		s.hub.edit(func() { s.hub.vips = s.hub.vips[:190-i/3] })
	}
	s.hub.edit(func() { s.hub.vips = s.hub.vips[:17] })
	tb.until("the last change", `document.querySelector("#matches").textContent.startsWith("17 VIPs")`)
	asked, seconds := s.hub.counted("VIPs")-before, time.Since(begun).Seconds()
	if float64(asked) > seconds+3 {
		tb.Errorf("the page was asked for %d times in %.1f s", asked, seconds)
	}
}

func coloursAreChosen(_ *testing.T, tb *tab, s *site) {
	tb.visit(s.url + "/vips?q=cart")
	light := eval[string](tb, `getComputedStyle(document.body).backgroundColor`)
	tb.tabTo(".schemes button[value=dark]")
	tb.keys("\r")
	tb.until("the dark page", `document.documentElement.dataset.scheme === "dark" && location.search === "?q=cart" && document.querySelector("#live.on")`)
	if dark := eval[string](tb, `getComputedStyle(document.body).backgroundColor`); dark == light {
		tb.Errorf("dark is as light: %s", dark)
	}
	if !eval[bool](tb, `document.querySelector(".schemes button[value=dark]").getAttribute("aria-pressed") === "true"`) {
		tb.Error("the choice is not told")
	}
	tb.audit()
	tb.tabTo(".schemes button[value=system]")
	tb.keys("\r")
	tb.until("the system's page", `!document.documentElement.dataset.scheme && document.querySelector("#live.on")`)
}

func unreachedSaysWhy(_ *testing.T, tb *tab, s *site) {
	tb.visit(s.url + "/")
	tb.tabTo(".probe.fail a")
	tb.keys("\r")
	tb.until("the errors", `document.querySelector("#unreached-us-west-2").open`)
	tb.until("each of them", `document.querySelectorAll("#unreached-us-west-2 li code").length === 5 && document.querySelector("#unreached-us-west-2 li code").checkVisibility()`)
	s.hub.edit(func() { s.hub.status.Probes[0].RTT = 4321 * time.Millisecond })
	tb.until("a live update", `document.querySelector(".matrix").textContent.includes("4321 ms")`)
	if !eval[bool](tb, `document.querySelector("#unreached-us-west-2").open`) {
		tb.Error("a live update closed what was open")
	}
}

// upgraded is a hub whose pages need another script and sheet than the open page has.
func upgraded(_ *testing.T, tb *tab, s *site) {
	tb.visit(s.url + "/")
	eval[any](tb, `window.old = true; document.documentElement.dataset.build = "older"`)
	s.hub.edit(func() {})
	tb.until("the reload", `!window.old && document.querySelector("#live.on")`)
}

// refusedWish confirms what the hub does not take.
func refusedWish(_ *testing.T, tb *tab, s *site) {
	tb.visit(s.url + "/forecast?cluster=eu-west-1&mode=Drain&ramp=0s")
	s.hub.edit(func() {
		s.hub.refusing = fmt.Errorf("%w: eu-west-1 is the last one; drain another", operator.ErrInvalid)
	})
	tb.do(chromedp.Click(chromedp.ID("confirm")))
	tb.until("the error", `document.querySelector("[role=alert]")?.textContent.includes("eu-west-1 is the last one; drain another") && document.querySelector("#live.on")`)
	// Whatever comes, the page of a form that was sent is not replaced by another one of the same path.
	s.hub.edit(func() {})
	s.hub.edit(func() {})
	tb.until("the note", `document.querySelector("#outdated")?.checkVisibility() || document.querySelector("#live.on")`)
	if got := eval[string](tb, `document.querySelector("h1").textContent`); got != "Drain eu-west-1?" {
		tb.Errorf("the page is now %q", got)
	}
	tb.audit()
	tb.shoot("wish-refused")
	tb.forget()
}

func withoutScripts(t *testing.T, tb *tab, s *site) {
	tb.call(func() error {
		_, err := chromedp.Call(tb.ctx, emulation.SetScriptExecutionDisabled, emulation.SetScriptExecutionDisabledParams{Value: true})
		return err
	})
	text := func(selector string) string {
		t.Helper()
		got, err := chromedp.Run(tb.ctx, chromedp.OuterHTML(chromedp.CSS(selector)))
		if err != nil {
			t.Fatal(err)
		}
		return plainText(got)
	}
	press := func(selector string) {
		t.Helper()
		if _, err := chromedp.RunResponse(tb.ctx, chromedp.Click(chromedp.CSS(selector))); err != nil {
			t.Fatal(err)
		}
	}
	tb.do(chromedp.Navigate(s.url + "/clusters/us-east-1"))
	if got := text("#live"); !strings.Contains(got, "As of 14:07:30 UTC. Reload") {
		t.Errorf("the page says %q and not of when it is", got)
	}
	press("#act button[value=Cordon]")
	if got := text("h1"); got != "Cordon us-east-1?" {
		t.Fatalf("the forecast is %q", got)
	}
	press("#confirm")
	if got := text("#op-us-east-1"); !strings.Contains(got, "cordon in force") {
		t.Errorf("the operation is %q", got)
	}
	tb.do(chromedp.Navigate(s.url+"/services"), chromedp.SendKeys(chromedp.ID("q"), "checkout"))
	press(".search button")
	if got := text("#services tbody"); !strings.HasPrefix(got, "shop/ checkout") || strings.Contains(got, "cart") {
		t.Errorf("the search found %q", got)
	}
	press(".schemes button[value=dark]")
	if got, err := chromedp.Run(tb.ctx, chromedp.AttributeValue(chromedp.CSS("html"), "data-scheme")); err != nil || got.Value != "dark" {
		t.Errorf("the scheme is %v, %v", got, err)
	}
}

func skipLink(_ *testing.T, tb *tab, s *site) {
	tb.visit(s.url + "/services")
	tb.keys("\t")
	if !eval[bool](tb, `document.activeElement.matches(".skip") && document.activeElement.getBoundingClientRect().top >= 0`) {
		tb.Fatal("the first stop is not the skip link, or nobody sees it")
	}
	tb.keys("\r")
	tb.until("the content has the focus", `document.activeElement.id === "main"`)
	tb.keys("\t")
	if !eval[bool](tb, `document.activeElement.id === "q"`) {
		tb.Error("the next stop is not the search")
	}
}

// clusterLeaves takes away the cluster whose page is open.
func clusterLeaves(_ *testing.T, tb *tab, s *site) {
	tb.visit(s.url + "/clusters/us-west-2")
	s.hub.edit(func() { s.hub.status.Clusters = s.hub.status.Clusters[:5] })
	tb.until("the page says so", `document.querySelector("h1").textContent === "Not there" && document.querySelector("main").textContent.includes("us-west-2")`)
	tb.forget()
}
