package checks_test

import (
	"testing"
	"time"

	"github.com/tailgate-project/tailgate/federation/checks"
)

var epoch = time.Unix(1_800_000_000, 0)

func TestHealth(t *testing.T) {
	for name, tc := range map[string]struct {
		thresholds checks.Thresholds
		// results are good (+) and bad (-), one a second; want is the verdict after each.
		results, want string
	}{
		"never-checked":                  {checks.Thresholds{Healthy: 2, Unhealthy: 3}, "", ""},
		"healthy-after-two":              {checks.Thresholds{Healthy: 2, Unhealthy: 3}, "+++", "?HH"},
		"unhealthy-after-three":          {checks.Thresholds{Healthy: 2, Unhealthy: 3}, "----", "??UU"},
		"a-row-is-broken":                {checks.Thresholds{Healthy: 2, Unhealthy: 3}, "--+--+-", "???????"},
		"one-bad-one-does-not-matter":    {checks.Thresholds{Healthy: 2, Unhealthy: 3}, "++-+--+", "?HHHHHH"},
		"down-and-up-again":              {checks.Thresholds{Healthy: 2, Unhealthy: 2}, "++--+-++", "?HHUUUUH"},
		"thresholds-that-make-no-sense":  {checks.Thresholds{Healthy: 0, Unhealthy: -1}, "+-+", "HUH"},
		"the-last-row-is-not-forgotten":  {checks.Thresholds{Healthy: 3, Unhealthy: 1}, "+-++-+++", "?UUUUUUH"},
		"a-first-bad-one-begins-its-row": {checks.Thresholds{Healthy: 1, Unhealthy: 2}, "--", "?U"},
	} {
		t.Run(name, func(t *testing.T) {
			h := checks.New(tc.thresholds)
			got := ""
			for i, r := range tc.results {
				before := h.State()
				changed := h.Record(checks.Result{OK: r == '+', At: epoch.Add(time.Duration(i) * time.Second), Reason: "timeout"})
				if changed != (before != h.State()) {
					t.Errorf("result %d: changed %v, from %v to %v", i, changed, before, h.State())
				}
				got += map[checks.State]string{checks.Unknown: "?", checks.Healthy: "H", checks.Unhealthy: "U"}[h.State()]
			}
			if got != tc.want {
				t.Errorf("%s became %s, want %s", tc.results, got, tc.want)
			}
		})
	}
}

func TestWhatIsOldCountsForNothing(t *testing.T) {
	h := checks.New(checks.Thresholds{Healthy: 1, Unhealthy: 1})
	h.Record(checks.Result{OK: true, At: epoch})
	if h.Record(checks.Result{At: epoch.Add(-time.Second), Reason: "late"}) || h.State() != checks.Healthy {
		t.Errorf("an older result changed the verdict to %v", h.State())
	}
	if h.Failed() != (checks.Result{}) || !h.Last().OK {
		t.Errorf("last %+v, failed %+v", h.Last(), h.Failed())
	}
	h.Record(checks.Result{At: epoch.Add(time.Second), Reason: "refused"})
	h.Record(checks.Result{OK: true, At: epoch.Add(2 * time.Second)})
	if h.Failed().Reason != "refused" || !h.Last().OK || h.State().String() != "Healthy" {
		t.Errorf("last %+v, failed %+v, %v", h.Last(), h.Failed(), h.State())
	}
}

// FuzzHealth compares with one that keeps all results and looks at them anew each time.
func FuzzHealth(f *testing.F) {
	f.Add(2, 3, []byte{1, 1, 0, 0, 0, 1})
	f.Add(1, 1, []byte{0, 1})
	f.Add(-1, 0, []byte{1, 0, 1})
	f.Fuzz(func(t *testing.T, healthy, unhealthy int, results []byte) {
		h := checks.New(checks.Thresholds{Healthy: healthy, Unhealthy: unhealthy})
		want := checks.Unknown
		for i, r := range results {
			ok := r%2 == 1
			h.Record(checks.Result{OK: ok, At: epoch.Add(time.Duration(i))})
			row := 0
			for j := i; j >= 0 && results[j]%2 == r%2; j-- {
				row++
			}
			switch {
			case ok && row >= max(healthy, 1):
				want = checks.Healthy
			case !ok && row >= max(unhealthy, 1):
				want = checks.Unhealthy
			}
			if h.State() != want {
				t.Fatalf("after %v the verdict is %v, want %v", results[:i+1], h.State(), want)
			}
		}
		if len(results) == 0 && h.State().String() != "Unknown" {
			t.Errorf("an endpoint that was never checked is %v", h.State())
		}
	})
}

func TestAResultThatKnowsItsRowStandsForAllOfIt(t *testing.T) {
	h := checks.New(checks.Thresholds{Healthy: 2, Unhealthy: 3})
	if !h.Record(checks.Result{At: epoch, Reason: "timeout", Row: 3}) || h.State() != checks.Unhealthy {
		t.Errorf("after three bad ones of which one was recorded the verdict is %v", h.State())
	}
	for range 5 {
		if h.Record(checks.Result{OK: true, At: epoch.Add(time.Second), Row: 1}) {
			t.Error("one good result that is recorded again and again makes a verdict")
		}
	}
	if !h.Record(checks.Result{OK: true, At: epoch.Add(2 * time.Second), Row: 2}) || h.State() != checks.Healthy {
		t.Errorf("after two good ones the verdict is %v", h.State())
	}
}

// FuzzRows compares one that is told everything with one that is told the last of each row, and that twice.
func FuzzRows(f *testing.F) {
	f.Add(2, 3, []byte{1, 1, 0, 0, 0, 1})
	f.Add(1, 1, []byte{0, 1})
	f.Fuzz(func(t *testing.T, healthy, unhealthy int, results []byte) {
		thresholds := checks.Thresholds{Healthy: healthy, Unhealthy: unhealthy}
		all, some := checks.New(thresholds), checks.New(thresholds)
		row := 0
		for i, b := range results {
			r := checks.Result{OK: b%2 == 1, At: epoch.Add(time.Duration(i))}
			all.Record(r)
			if row++; i+1 < len(results) && results[i+1]%2 == b%2 {
				continue
			}
			r.Row, row = row, 0
			some.Record(r)
			some.Record(r)
			if all.State() != some.State() || all.Failed().At != some.Failed().At {
				t.Fatalf("after %v: %v, failed %v; told less: %v, failed %v", results[:i+1], all.State(), all.Failed(), some.State(), some.Failed())
			}
		}
	})
}

func TestStatesHaveTheNamesOfAStatus(t *testing.T) {
	for state, want := range map[checks.State]string{checks.Unknown: "Unknown", checks.Healthy: "Healthy", checks.Unhealthy: "Unhealthy"} {
		if got := state.String(); got != want {
			t.Errorf("%d is called %q, want %q", state, got, want)
		}
	}
}
