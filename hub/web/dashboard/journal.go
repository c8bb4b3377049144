package dashboard

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/tailgate-project/tailgate/api/operator"
	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/federation/failover"
)

const (
	// journalPage is how many decisions a page has.
	journalPage = 50
	// window is how many records are looked through at a time for older ones, and windows how often before the viewer is
	// asked whether to look on.
	window  = 1000
	windows = 20
)

// journalContent is the content of the journal's page.
type journalContent struct {
	Query    query
	Timeline []entry
	Clusters []option
	// Service is what was typed, Failure what is wrong with it.
	Service, Failure string
	// Older and Newest lead to other pages of the journal; Looked is set if the search for older ones ended early.
	Older, Newest string
	Looked        bool
}

// entries is a timeline as it stands on a page.
type entries struct {
	Now     time.Time
	Entries []entry
}

// entry is a decision on the timeline.
type entry struct {
	operator.Record
	// Day is set on the first one of a day, counted from the newest.
	Day  string
	Sign sign
	// Same are the decisions taken in the same moment for the same reason, of which this one is the first.
	Same  []operator.Record
	Facts []fact
}

func (d *dashboard) journal(r *http.Request, _ Viewer) (answer, error) {
	ctx, cancel, s, err := d.status(r)
	defer cancel()
	if err != nil {
		return answer{}, err
	}
	q := queryOf(r)
	p := journalContent{Query: q, Service: q.Get("service"), Clusters: optionsOf("any cluster", q.Get("cluster"), clusterIDs(s))}
	a := answer{template: "journal", title: "Journal", section: "journal", status: &s}
	jq := operator.JournalQuery{Cluster: federation.ClusterID(q.Get("cluster")), Newest: true, Limit: journalPage + 1}
	if p.Service != "" {
		if jq.Service, err = federation.ParseServiceID(p.Service); err != nil {
			p.Failure = err.Error()
			a.content, a.code = p, http.StatusBadRequest
			return a, nil
		}
	}
	var records []operator.Record
	if text := q.Get("before"); text != "" {
		before, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			return answer{}, fmt.Errorf("%w: before: want the number of a record", operator.ErrInvalid)
		}
		p.Newest = q.with("before", "")
		var reached uint64
		if records, reached, err = d.older(ctx, jq, before); err != nil {
			return answer{}, err
		}
		if reached > 0 && len(records) <= journalPage {
			p.Looked, p.Older = true, q.with("before", strconv.FormatUint(reached+1, 10))
		}
	} else if records, err = d.API.Journal(ctx, jq); err != nil {
		return answer{}, err
	}
	if len(records) > journalPage {
		records = records[len(records)-journalPage:]
		p.Older = q.with("before", strconv.FormatUint(records[0].Seq, 10))
	}
	p.Timeline = timeline(records)
	a.content = p
	return a, nil
}

// older returns the last records before one, more than a page of them if there are. It looks back through the journal in
// windows, since only what follows a record can be asked for; reached is the record up to which it has looked, 0 if that
// is the beginning.
func (d *dashboard) older(ctx context.Context, q operator.JournalQuery, before uint64) (found []operator.Record, reached uint64, err error) {
	q.Newest, q.Limit = false, window
	end := before
	for range windows {
		q.After = max(end, window+1) - window - 1
		records, err := d.API.Journal(ctx, q)
		if err != nil {
			return nil, 0, err
		}
		records = slices.DeleteFunc(slices.Clone(records), func(r operator.Record) bool { return r.Seq >= end })
		found = append(records, found...)
		end = q.After + 1
		if len(found) > journalPage || q.After == 0 {
			break
		}
	}
	return found, end - 1, nil
}

// timeline makes entries of decisions, the newest first, those together that are one event.
func timeline(records []operator.Record) []entry {
	var out []entry
	day := ""
	for _, r := range slices.Backward(records) {
		if n := len(out); n > 0 && together(out[n-1].Record, r) {
			out[n-1].Same = append(out[n-1].Same, r)
			continue
		}
		e := entry{Record: r, Sign: decisionSign(r), Facts: inputFacts(r.Inputs)}
		if text := r.At.UTC().Format("Monday 2 January 2006"); text != day {
			day, e.Day = text, text
		}
		out = append(out, e)
	}
	return out
}

// together reports whether two decisions are the same of several services of a cluster.
func together(a, b operator.Record) bool {
	return a.Cluster == b.Cluster && a.Reason == b.Reason && a.From == b.From && a.To == b.To && a.Consumer == b.Consumer && a.Because == b.Because &&
		!a.Service.IsZero() && !b.Service.IsZero() && a.At.Truncate(time.Second).Equal(b.At.Truncate(time.Second))
}

// decisionSign is the sign of what a decision led to.
func decisionSign(r operator.Record) sign {
	switch r.Reason {
	case failover.Draining, failover.Drained:
		return modeSign(failover.Drain)
	case failover.Cordoned:
		return modeSign(failover.Cordon)
	case failover.Pinned:
		return modeSign(failover.Pin)
	case failover.ServingStale:
		return sign{"stale", "warn", "stale"}
	}
	return healthSign(r.To)
}

// inputFacts are what a decision was taken on, as far as it says something.
func inputFacts(in failover.Inputs) []fact {
	var out []fact
	add := func(name, value string, is bool) {
		if is {
			out = append(out, fact{name, value})
		}
	}
	votes := in.Votes
	add("ready endpoints", strconv.Itoa(in.Ready), in.Ready >= 0)
	add("link lost for", took(in.LinkLost), in.LinkLost >= 0)
	add("API server lost for", took(in.APILost), in.APILost >= 0)
	add("observers that reach it", strconv.Itoa(votes.Reach), votes.Reach+votes.Fail+votes.Doubted > 0)
	add("observers that do not", strconv.Itoa(votes.Fail), votes.Reach+votes.Fail+votes.Doubted > 0)
	add("observers that are doubted", strconv.Itoa(votes.Doubted), votes.Doubted > 0)
	add("not reached by", list(votes.Failing), len(votes.Failing) > 0)
	add("wish", modeSign(in.Mode).Word+", for "+took(in.ModeFor), in.Mode != "")
	add("ramp", took(in.Ramp), in.Mode == failover.Drain && in.Ramp >= 0)
	add("policy", in.Policy, in.Policy != "")
	add("grace", took(in.Times.Grace), in.Times.Grace > 0)
	add("failback delay", took(in.Times.FailbackDelay), in.Times.FailbackDelay > 0)
	return out
}
