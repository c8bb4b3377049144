package console

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/tailgate-project/tailgate/api/operator"
	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/federation/failover"
	"github.com/tailgate-project/tailgate/federation/ledger"
)

// Journal returns decisions.
func (c *Console) Journal(ctx context.Context, q operator.JournalQuery) ([]operator.Record, error) {
	if q.Limit <= 0 || q.Limit > operator.MaxRecords {
		q.Limit = operator.MaxRecords
	}
	read := c.forward
	if q.Newest {
		read = c.backward
	}
	records, err := read(ctx, q)
	if err != nil {
		return nil, fmt.Errorf("read the journal: %w", err)
	}
	out := make([]operator.Record, 0, len(records))
	for _, r := range records {
		out = append(out, record(r.Seq, r.Decision))
	}
	return out, nil
}

// wanted reports whether a record is one that was asked for. Of a service, the store has chosen already.
func wanted(q operator.JournalQuery, r ledger.Record) bool {
	return q.Cluster == "" || r.Subject.Cluster == q.Cluster
}

// forward reads on from q.After, up to q.Before.
func (c *Console) forward(ctx context.Context, q operator.JournalQuery) ([]ledger.Record, error) {
	var out []ledger.Record
	for after := q.After; ; {
		page, err := c.Options.Journal.Journal(ctx, after, operator.MaxRecords, q.Service)
		if err != nil {
			return nil, err
		}
		for _, r := range page {
			if q.Before != 0 && r.Seq >= q.Before {
				return out, nil
			}
			if wanted(q, r) {
				out = append(out, r)
			}
			if len(out) == q.Limit {
				return out, nil
			}
		}
		if len(page) < operator.MaxRecords {
			return out, nil
		}
		after = page[len(page)-1].Seq
	}
}

// backward reads back from q.Before or the end, as far as it has to, but not to what is not after q.After. What comes in
// meanwhile is left for the next question.
func (c *Console) backward(ctx context.Context, q operator.JournalQuery) ([]ledger.Record, error) {
	end, err := c.Options.Journal.Last(ctx)
	if err != nil {
		return nil, err
	}
	if q.Before != 0 {
		end = min(end, q.Before-1)
	}
	var out []ledger.Record // newest first
	for end > q.After {
		start := end - min(operator.MaxRecords, end-q.After)
		page, err := c.Options.Journal.Journal(ctx, start, int(end-start), federation.ServiceID{})
		if err != nil {
			return nil, err
		}
		for _, r := range slices.Backward(page) {
			if r.Seq <= end && wanted(q, r) && about(r, q.Service) {
				out = append(out, r)
			}
			if len(out) == q.Limit {
				slices.Reverse(out)
				return out, nil
			}
		}
		if len(page) == 0 || page[0].Seq > start+1 {
			break // what is older is no longer kept
		}
		end = start
	}
	slices.Reverse(out)
	return out, nil
}

// about reports whether a record tells of a service: of an export of it, or of a whole cluster.
func about(r ledger.Record, id federation.ServiceID) bool {
	none := federation.ServiceID{}
	return id == none || r.Subject.Service == none || r.Subject.Service == id
}

func record(seq uint64, d failover.Decision) operator.Record {
	return operator.Record{
		Seq: seq, At: d.At, Cluster: d.Subject.Cluster, Service: operator.ServiceID{ServiceID: d.Subject.Service}, Consumer: d.Consumer,
		From: d.From, To: d.To, Reason: d.Reason, Because: Because(d), Inputs: d.Inputs,
	}
}

// Because says in a sentence what a decision was taken on.
func Because(d failover.Decision) string {
	in := d.Inputs
	switch d.Reason {
	case failover.NoReadyEndpoints:
		return "its API server calls none of its endpoints ready"
	case failover.UnreachableByQuorum, failover.UnreachableByObserver:
		return observers(in)
	case failover.ControlLostUnreachable, failover.ControlLostUnobserved, failover.ServingStale:
		return lost(in) + "; " + observers(in)
	case failover.Draining:
		if in.Ramp > 0 {
			return fmt.Sprintf("an operator drains it over %s", in.Ramp)
		}
		return "an operator drains it"
	case failover.Drained:
		return fmt.Sprintf("an operator drained it, %s ago", in.ModeFor.Round(time.Second))
	case failover.Cordoned:
		return "an operator cordoned it"
	case failover.Pinned:
		return "an operator pinned the service to it"
	case failover.Released:
		return "an operator took back what he wanted of it"
	case failover.Recovering:
		return "its cluster is back, but its policy waits longer"
	}
	return serving(in)
}

// serving says what speaks for a subject.
func serving(in failover.Inputs) string {
	var says []string
	if in.New {
		says = append(says, "it is new")
	}
	switch {
	case in.Ready == 1:
		says = append(says, "1 ready endpoint")
	case in.Ready >= 0:
		says = append(says, fmt.Sprintf("%d ready endpoints", in.Ready))
	}
	if !in.Before.GoodSince.IsZero() {
		says = append(says, fmt.Sprintf("good since %s", in.Before.GoodSince.UTC().Format(time.TimeOnly)))
	}
	return strings.Join(append(says, observers(in)), "; ")
}

// observers says who reaches a subject and who does not.
func observers(in failover.Inputs) string {
	v := in.Votes
	if v.Reach+v.Fail+v.Doubted == 0 {
		return "nobody observes it"
	}
	var says []string
	if v.Reach > 0 {
		says = append(says, fmt.Sprintf("%d of %d observers reach it", v.Reach, v.Reach+v.Fail+v.Doubted))
	}
	if len(v.Failing) > 0 {
		var names []string
		for _, c := range v.Failing {
			names = append(names, string(c))
		}
		verb := "do not"
		if len(names) == 1 {
			verb = "does not"
		}
		says = append(says, fmt.Sprintf("%s %s", strings.Join(names, ", "), verb))
	}
	if v.Doubted > 0 {
		says = append(says, fmt.Sprintf("%d of them reach hardly anybody and do not count", v.Doubted))
	}
	out := strings.Join(says, ", ")
	if v.Reach == 0 {
		out += " reach it"
	}
	return out
}

// lost says which part of the control view is lost, and for how long.
func lost(in failover.Inputs) string {
	switch {
	case in.LinkLost >= 0 && in.APILost >= 0:
		return fmt.Sprintf("link lost for %s, API server for %s", in.LinkLost.Round(time.Millisecond), in.APILost.Round(time.Millisecond))
	case in.LinkLost >= 0:
		return fmt.Sprintf("link lost for %s", in.LinkLost.Round(time.Millisecond))
	case in.APILost >= 0:
		return fmt.Sprintf("API server lost for %s", in.APILost.Round(time.Millisecond))
	}
	return "the control view is there"
}
