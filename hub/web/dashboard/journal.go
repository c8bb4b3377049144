package dashboard

import (
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/tailgate-project/tailgate/api/operator"
	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/federation/failover"
)

// journalPage is how many decisions a page has.
const journalPage = 50

// journalContent is the content of the journal's page.
type journalContent struct {
	Query    query
	Timeline []entry
	Clusters []option
	// Service is what was typed, Failure what is wrong with it.
	Service, Failure string
	// Older and Newest lead to other pages of the journal.
	Older, Newest string
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
	if text := q.Get("before"); text != "" {
		if jq.Before, err = strconv.ParseUint(text, 10, 64); err != nil {
			return answer{}, fmt.Errorf("%w: before: want the number of a record", operator.ErrInvalid)
		}
		p.Newest = q.with("before", "")
	}
	records, err := d.API.Journal(ctx, jq)
	if err != nil {
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
