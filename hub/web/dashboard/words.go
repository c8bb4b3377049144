package dashboard

import (
	"fmt"
	"html/template"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/tailgate-project/tailgate/api/operator"
	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/federation/failover"
)

// stampFormat is how absolute times are written, in UTC: the hub's viewers are in many places.
const stampFormat = "2006-01-02 15:04:05 UTC"

func stamp(t time.Time) string { return t.UTC().Format(stampFormat) }

// when writes a time in relation to now, with the absolute one beside. A zero time is a dash.
func when(now, t time.Time) template.HTML {
	if t.IsZero() {
		return `<span class="none">–</span>`
	}
	return template.HTML(fmt.Sprintf(`<time datetime="%s" title="%s">%s</time>`, t.UTC().Format(time.RFC3339), stamp(t), ago(now.Sub(t))))
}

// lasts writes for how long something has been so, with the time since when beside.
func lasts(now, t time.Time) template.HTML {
	if t.IsZero() {
		return ""
	}
	return template.HTML(fmt.Sprintf(`<time data-for datetime="%s" title="since %s">for %s</time>`, t.UTC().Format(time.RFC3339), stamp(t), took(max(0, now.Sub(t)))))
}

// why writes why something is as it is, and for how long, as far as that is known: of what is stale since when it is, of
// what operators want since when they do, and else since when its health is what it is.
func why(now time.Time, v operator.Verdict, stale, wished time.Time) template.HTML {
	since := v.Since
	switch v.Reason {
	case failover.ServingStale:
		since = stale
	case failover.Draining, failover.Drained, failover.Cordoned, failover.Pinned, failover.Released:
		since = wished
	case failover.Serving, failover.NoReadyEndpoints, failover.UnreachableByQuorum, failover.UnreachableByObserver,
		failover.ControlLostUnreachable, failover.ControlLostUnobserved, failover.Recovering:
	}
	text := template.HTML(template.HTMLEscapeString(reasonWords(v.Reason)))
	if since.IsZero() {
		return text
	}
	return text + ", " + lasts(now, since)
}

// ago writes how long something is past. The script of the pages writes the same.
func ago(d time.Duration) string {
	s := int64(d / time.Second)
	switch {
	case s < 0:
		return "in " + took(-d)
	case s < 5:
		return "just now"
	}
	return took(d) + " ago"
}

// took writes a duration by its greatest unit.
func took(d time.Duration) string {
	s := int64(d / time.Second)
	switch {
	case s < 60:
		return strconv.FormatInt(s, 10) + " s"
	case s < 60*60:
		return strconv.FormatInt(s/60, 10) + " min"
	case s < 48*60*60:
		return strconv.FormatInt(s/60/60, 10) + " h"
	}
	return strconv.FormatInt(s/60/60/24, 10) + " days"
}

// rtt writes the time of a probe in milliseconds.
func rtt(d time.Duration) string {
	ms := float64(d) / float64(time.Millisecond)
	if ms < 10 {
		return strconv.FormatFloat(ms, 'f', 1, 64) + " ms"
	}
	return strconv.FormatFloat(ms, 'f', 0, 64) + " ms"
}

func percent(n uint8) string { return strconv.Itoa(int(n)) + " %" }

// count writes a number of things, the plural being the singular with an s.
func count(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return number(n) + " " + thing + "s"
}

// number writes a number with a comma for thousands.
func number(n int) string {
	s := strconv.Itoa(n)
	for i := len(s) - 3; i > 0 && s[i-1] != '-'; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// list joins names as a sentence does.
func list[S ~string](names []S) string {
	var b strings.Builder
	for i, n := range names {
		switch {
		case i > 0 && i == len(names)-1:
			b.WriteString(" and ")
		case i > 0:
			b.WriteString(", ")
		}
		b.WriteString(string(n))
	}
	return b.String()
}

// reasons are the reasons of decisions in words that end a sentence.
var reasons = map[failover.Reason]string{
	failover.Serving:                "serving",
	failover.ServingStale:           "serving, out of the hub's sight",
	failover.NoReadyEndpoints:       "no ready endpoints",
	failover.UnreachableByQuorum:    "most observers do not reach it",
	failover.UnreachableByObserver:  "this consumer does not reach it",
	failover.ControlLostUnreachable: "out of the hub's sight, and observers do not reach it",
	failover.ControlLostUnobserved:  "out of the hub's sight, and nobody observes it",
	failover.Draining:               "draining",
	failover.Drained:                "drained",
	failover.Cordoned:               "cordoned",
	failover.Pinned:                 "pinned",
	failover.Released:               "back to normal",
	failover.Recovering:             "recovering",
}

// reasonWords puts a reason into words. One that is newer than this page stays as it is.
func reasonWords(r any) string {
	s := fmt.Sprint(r)
	if words, ok := reasons[failover.Reason(s)]; ok {
		return words
	}
	return s
}

func kindWord(k federation.Kind) string {
	if k == federation.KindListener {
		return "listener"
	}
	return "service"
}

// portWords writes ports, each with what is spoken there if the number and the name do not say it.
func portWords(ports []operator.Port) string {
	out := make([]string, 0, len(ports))
	for _, p := range ports {
		s := p.String()
		if p.App != "" && p.App != p.Name {
			s += " (" + p.App + ")"
		}
		out = append(out, s)
	}
	return strings.Join(out, ", ")
}

// servicePath is the path of a service's page.
func servicePath(id operator.ServiceID) string {
	parts := []string{"/services", url.PathEscape(string(id.Kind)), url.PathEscape(id.Namespace)}
	for part := range strings.SplitSeq(id.Name, "/") {
		parts = append(parts, url.PathEscape(part))
	}
	return strings.Join(parts, "/")
}

// wishPath is the path of the form by which a wish begins.
func wishPath(cluster federation.ClusterID, service operator.ServiceID) string {
	v := url.Values{"cluster": {string(cluster)}}
	if !service.IsZero() {
		v.Set("service", service.String())
	}
	return "/forecast?" + v.Encode()
}
