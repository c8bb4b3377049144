package dashboard

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/tailgate-project/tailgate/api/operator"
	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/federation/failover"
	"github.com/tailgate-project/tailgate/federation/policy"
)

const (
	// resume is how a form calls the mode that takes a wish back.
	resume = "Resume"
	// policyRamp is how it calls the ramp of the policy.
	policyRamp = "policy"
	// takenCookie holds the wish that was just taken, until a page has said so.
	takenCookie = "tailgate-taken"
	// horizon is how far a forecast looks: whatever begins with a wish has ended once the longest of all times is over. A hub
	// looks no further.
	horizon = policy.MaxTime
	// maxChanges is how many endpoint sets a forecast shows at first, and maxRest how many more where one asks for them.
	maxChanges = 12
	maxRest    = 500
)

// forecastPage is the content of the page that asks for a wish, tells what it would do, and asks whether to do it.
type forecastPage struct {
	Subject  string
	Back     string
	Wish     operator.Wish
	Cluster  federation.ClusterID
	Service  operator.ServiceID
	Mode     string
	Modes    []modeOption
	Ramps    []option
	RampText string
	Ramp     string
	// Asked is set once a mode is chosen; the rest is what it would do.
	Asked     bool
	Title     string
	Verb      string
	At        time.Time
	Headline  string
	Orphans   []operator.ServiceID
	Digest    string
	Changes   []change
	Rest      []change
	More      int
	Decisions []entry
	// Failure says why a wish was not taken, Do what to do then.
	Failure, Do string
}

// modeOption is a mode to choose.
type modeOption struct {
	Value, Label, Help string
	Selected           bool
}

// change is an endpoint set that would be another.
type change struct {
	Consumer      federation.ClusterID
	Service       operator.ServiceID
	Before, After chain
	// Moves is set if traffic would go elsewhere, and not only stand-ins change.
	Moves bool
}

// wishForm is what a form says.
type wishForm struct {
	operator.Wish
	// mode and ramp are as the form has them; the mode is empty if none is chosen yet.
	mode, ramp string
}

// readWish reads a form. Its errors wrap operator.ErrInvalid.
func readWish(v url.Values) (wishForm, error) {
	f := wishForm{mode: v.Get("mode"), ramp: cmp.Or(v.Get("ramp"), policyRamp)}
	f.Cluster = federation.ClusterID(v.Get("cluster"))
	if err := f.Cluster.Validate(); err != nil {
		return f, fmt.Errorf("%w: cluster: %w", operator.ErrInvalid, err)
	}
	if err := f.Service.UnmarshalText([]byte(v.Get("service"))); err != nil {
		return f, fmt.Errorf("%w: service: %w", operator.ErrInvalid, err)
	}
	f.Mode = failover.Mode(f.mode)
	if f.mode == resume {
		f.Mode = failover.Normal
	}
	if !slices.Contains([]failover.Mode{failover.Normal, failover.Drain, failover.Cordon, failover.Pin}, f.Mode) {
		return f, fmt.Errorf("%w: mode %q: want Drain, Cordon, Pin or Resume", operator.ErrInvalid, f.mode)
	}
	f.Ramp = -1
	if f.ramp != policyRamp {
		ramp, err := time.ParseDuration(f.ramp)
		if err != nil || ramp < 0 || ramp > policy.MaxTime {
			return f, fmt.Errorf("%w: ramp %q: want a duration of at most %s, such as 90s, or %s", operator.ErrInvalid, f.ramp, policy.MaxTime, policyRamp)
		}
		f.Ramp = ramp
	}
	return f, nil
}

// forecast shows what a wish would do, or asks for the wish.
func (d *dashboard) forecast(r *http.Request, v Viewer) (answer, error) {
	if !v.Admin {
		return answer{}, errNotAdmin
	}
	f, err := readWish(r.URL.Query())
	if err != nil {
		return answer{}, err
	}
	return d.ask(r, f, nil)
}

// ask answers with the page of a wish. An error is why it was not taken when it was confirmed.
func (d *dashboard) ask(r *http.Request, f wishForm, refused error) (answer, error) {
	_, cancel, s, err := d.status(r)
	defer cancel()
	if err != nil {
		return answer{}, err
	}
	if _, err := clusterIn(s, f.Cluster); err != nil {
		return answer{}, err
	}
	p := forecastPage{Subject: subject(f.Wish), Back: subjectPath(f.Wish), Wish: f.Wish, Cluster: f.Cluster, Service: f.Service, Mode: f.mode,
		Ramp: f.ramp, Modes: modes(f), Ramps: ramps(f.ramp), Title: "What should happen to " + subject(f.Wish) + "?"}
	a := answer{template: "forecast", title: "Forecast", section: "operations", status: &s, frozen: true}
	if refused != nil {
		fail := d.failure(r, refused)
		content := fail.content.(failure)
		p.Failure, p.Do, a.code = content.Message, content.Do, fail.code
	}
	if f.mode != "" {
		ctx, cancel := context.WithTimeout(r.Context(), forecastPatience)
		defer cancel()
		out, err := d.API.Forecast(ctx, f.Wish, horizon)
		if err != nil {
			if refused == nil {
				refused = err
			}
			fail := d.failure(r, refused)
			content := fail.content.(failure)
			p.Failure, p.Do, a.code = content.Message, content.Do, fail.code
		} else {
			p.foresee(f, out, s.Now)
		}
	}
	a.content = p
	return a, nil
}

// foresee fills in what a wish would do.
func (p *forecastPage) foresee(f wishForm, out operator.Forecast, now time.Time) {
	p.Asked, p.At, p.Orphans, p.Digest = true, now, out.Orphans, digest(out.Orphans)
	p.Verb = modeVerb(f)
	p.Title = p.Verb + " " + p.Subject + "?"
	if f.Mode == failover.Drain {
		p.RampText = rampWords(f.Ramp)
	}
	p.Decisions = timeline(out.Decisions)
	consumers := map[federation.ClusterID]bool{}
	moves := 0
	for i := range min(len(out.Before), len(out.After)) {
		c := changeOf(out.Before[i], out.After[i])
		consumers[c.Consumer] = true
		if c.Moves {
			moves++
		}
		p.Changes = append(p.Changes, c)
	}
	slices.SortStableFunc(p.Changes, func(a, b change) int {
		return cmp.Or(compareBool(b.Moves, a.Moves), a.Service.Compare(b.Service.ServiceID), cmp.Compare(a.Consumer, b.Consumer))
	})
	if n := len(p.Changes); n > maxChanges {
		p.Changes, p.Rest = p.Changes[:maxChanges], p.Changes[maxChanges:]
		if n := len(p.Rest); n > maxRest {
			p.Rest, p.More = p.Rest[:maxRest], n-maxRest
		}
	}
	switch {
	case len(consumers) == 0:
		p.Headline = "No endpoint set would change."
	case moves == 0:
		p.Headline = fmt.Sprintf("No traffic would move. %s of %s would get another order.",
			count(len(p.Changes)+len(p.Rest)+p.More, "endpoint set"), count(len(consumers), "cluster"))
	default:
		p.Headline = fmt.Sprintf("Traffic would move in %s of %s.", count(moves, "endpoint set"), count(len(consumers), "cluster"))
	}
}

func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return 1
	}
	return -1
}

func changeOf(before, after operator.EndpointSet) change {
	c := change{Consumer: before.Consumer, Service: before.Service, Before: chainOf(before), After: chainOf(after)}
	c.Moves = !slices.Equal(c.Before.takers(), c.After.takers())
	return c
}

// takers are the clusters that take traffic, with their share.
func (c chain) takers() []string {
	var out []string
	for _, g := range c.Groups {
		for _, l := range g.Links {
			if l.Percent > 0 {
				out = append(out, string(l.Cluster)+percent(l.Percent))
			}
		}
	}
	slices.Sort(out)
	return out
}

// operate takes a confirmed wish.
func (d *dashboard) operate(r *http.Request, v Viewer) (answer, error) {
	if !v.Admin {
		return answer{}, errNotAdmin
	}
	if err := r.ParseForm(); err != nil {
		return answer{}, badForm(err)
	}
	f, err := readWish(r.PostForm)
	if err != nil {
		return answer{}, err
	}
	if f.mode == "" {
		return answer{}, fmt.Errorf("%w: mode: want Drain, Cordon, Pin or Resume", operator.ErrInvalid)
	}
	ctx, cancel := context.WithTimeout(r.Context(), forecastPatience)
	defer cancel()
	if err := d.stillAsSeen(ctx, f, r.PostForm); err != nil {
		return d.ask(r, f, err)
	}
	if _, err := d.API.Operate(ctx, f.Wish); err != nil {
		return d.ask(r, f, err)
	}
	d.Log.Info("wish taken", "viewer", v.Name, "cluster", string(f.Cluster), "service", f.Service.String(), "mode", f.mode, "ramp", f.ramp)
	a := answer{redirect: "/operations#" + url.PathEscape(operationKey(f.Wish)), cookies: []*http.Cookie{rememberTaken(f)}}
	if f.Mode == failover.Normal {
		a.redirect = subjectPath(f.Wish)
	}
	return a, nil
}

// errMeanwhile reports that a wish would do another harm than its wisher was shown.
var errMeanwhile = fmt.Errorf("%w: other services would be left without a healthy cluster than you were shown. Nothing was done: look again", operator.ErrInvalid)

// stillAsSeen refuses a wish that leaves services without a healthy cluster, unless these are the ones that its wisher has
// seen and agreed to.
func (d *dashboard) stillAsSeen(ctx context.Context, f wishForm, form url.Values) error {
	out, err := d.API.Forecast(ctx, f.Wish, horizon)
	switch {
	case err != nil:
		return err
	case len(out.Orphans) == 0:
		return nil
	case form.Get("seen") != digest(out.Orphans):
		return errMeanwhile
	case form.Get("agreed") != "yes":
		return fmt.Errorf("%w: tick that services may be left without a healthy cluster, or keep things as they are", operator.ErrInvalid)
	}
	return nil
}

// digest stands for a set of services in a form.
func digest(ids []operator.ServiceID) string {
	h := sha256.New()
	for _, id := range ids {
		h.Write([]byte(id.String() + "\n"))
	}
	return hex.EncodeToString(h.Sum(nil)[:8])
}

// subject names what a wish is about.
func subject(w operator.Wish) string {
	if w.Service.IsZero() {
		return string(w.Cluster)
	}
	return w.Service.Namespace + "/" + w.Service.Name + " in " + string(w.Cluster)
}

func subjectPath(w operator.Wish) string {
	if w.Service.IsZero() {
		return "/clusters/" + url.PathEscape(string(w.Cluster))
	}
	return servicePath(w.Service)
}

func modeVerb(f wishForm) string {
	switch f.Mode {
	case failover.Drain:
		return "Drain"
	case failover.Cordon:
		return "Cordon"
	case failover.Pin:
		return "Pin"
	case failover.Normal:
	}
	return resume
}

// modes are the modes to choose from.
func modes(f wishForm) []modeOption {
	out := []modeOption{
		{Value: "Drain", Label: "Drain", Help: "Its share of the traffic falls to nothing; connections end by themselves."},
		{Value: "Cordon", Label: "Cordon", Help: "It serves those whose first choice it is, ranks behind all others, and stays out once it is down."},
	}
	if !f.Service.IsZero() {
		out = append(out, modeOption{Value: "Pin", Label: "Pin", Help: "It serves everybody, and health does not move the traffic away."})
	}
	out = append(out, modeOption{Value: resume, Label: resume, Help: "Take back whatever is wanted of it: policy and health decide again."})
	for i := range out {
		out[i].Selected = out[i].Value == f.mode || f.mode == "" && i == 0
	}
	return out
}

// ramps are the ramps to choose from, and the one that is asked for if it is another.
func ramps(chosen string) []option {
	out := []option{{Value: policyRamp, Label: "as the policy says"}}
	for _, d := range []time.Duration{0, 30 * time.Second, time.Minute, 5 * time.Minute, 15 * time.Minute, time.Hour} {
		out = append(out, option{Value: d.String(), Label: rampWords(d)})
	}
	i := slices.IndexFunc(out, func(o option) bool { return o.Value == chosen })
	if i < 0 && chosen != "" {
		i = len(out)
		out = append(out, option{Value: chosen, Label: chosen})
	}
	out[max(i, 0)].Selected = true
	return out
}

func rampWords(d time.Duration) string {
	switch {
	case d < 0:
		return "as the policy says"
	case d == 0:
		return "at once"
	case d%time.Minute != 0 && d > time.Minute:
		return "over " + strings.TrimSuffix(d.String(), "0s")
	}
	return "over " + took(d)
}

// rememberTaken lets the next page say that a wish was taken.
func rememberTaken(f wishForm) *http.Cookie {
	text := modeVerb(f) + " " + subject(f.Wish)
	return &http.Cookie{Name: takenCookie, Value: url.QueryEscape(text), Path: "/", MaxAge: 60, HttpOnly: true, SameSite: http.SameSiteStrictMode}
}

func forgetTaken() *http.Cookie {
	return &http.Cookie{Name: takenCookie, Path: "/", MaxAge: -1, HttpOnly: true, SameSite: http.SameSiteStrictMode}
}

// taken returns the wish that was just taken from a viewer.
func taken(r *http.Request) string {
	c, err := r.Cookie(takenCookie)
	if err != nil {
		return ""
	}
	text, err := url.QueryUnescape(c.Value)
	if err != nil {
		return ""
	}
	return text
}

// badForm says of a form that it cannot be read.
func badForm(err error) error {
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return fmt.Errorf("read the form: %w", err)
	}
	return fmt.Errorf("%w: the form cannot be read: %w", operator.ErrInvalid, err)
}

// notFound says that something is not there, and what is.
func notFound(kind, name string, there []string) error {
	err := fmt.Errorf("%w: no %s %q", operator.ErrNotFound, kind, name)
	if len(there) == 0 || len(there) > maxMatrix {
		return err
	}
	return fmt.Errorf("%w; there are %s", err, list(there))
}
