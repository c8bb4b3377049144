package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/federation/ledger"
	"github.com/tailgate-project/tailgate/spoke"

	"github.com/tailgate-project/tailgate/e2e-kind/lab"
)

// milestones are the moments that a failover must show.
var milestones = []string{"killed", "first_probe_failure", "decision", "endpoint_set_pushed", "eds_received", "first_answer"}

// assignment is the endpoint assignment behind the path that the demo requests, by Envoy's name for it.
const assignment = "tsgw/cluster/cluster2/default/webapp"

// moment is something that one of the parties did or saw.
type moment struct {
	key  string
	at   time.Time
	what string
}

type timeline []moment

// table lists the moments in their order, counted from a start.
func (t timeline) table(start time.Time) string {
	sorted := slices.SortedFunc(slices.Values(t), func(a, b moment) int { return a.at.Compare(b.at) })
	var b strings.Builder
	for _, m := range sorted {
		fmt.Fprintf(&b, "  %+7d ms   %-20s %s\n", m.at.Sub(start).Milliseconds(), strings.ReplaceAll(m.key, "_", " "), m.what)
	}
	return b.String()
}

// timeline asks the parties what they saw after the kill. It fails while one of the moments is missing.
func (s *scenario) timeline(ctx context.Context) (timeline, error) {
	var t timeline
	one, err := spokeStatus(ctx, s.lab, "cluster1")
	if err != nil {
		return nil, err
	}
	three, err := spokeStatus(ctx, s.lab, "cluster3")
	if err != nil {
		return nil, err
	}
	t.add(s.firstProbeFailure("cluster1", one), s.firstProbeFailure("cluster3", three))
	for _, d := range one.Decisions {
		if d.At.After(s.killed) && d.Cluster == "cluster2" && d.To == federation.Unhealthy {
			t.add(moment{"spoke_decision", d.At, "cluster1's spoke: " + d.Reason})
		}
	}
	decision, err := s.decision(ctx)
	if err != nil {
		return nil, err
	}
	t.add(decision)
	for _, p := range one.Pushes {
		switch {
		case p.At.Before(s.killed) || !strings.Contains(p.Assignment, assignment):
		case p.Event == "Sent":
			t.add(moment{"endpoint_set_pushed", p.At, "cluster1's EDS server sends " + assignment})
		case p.Event == "Acked":
			t.add(moment{"eds_received", p.At, "cluster1's Envoy acknowledges it"})
		}
	}
	for _, key := range milestones[1 : len(milestones)-1] {
		if !slices.ContainsFunc(t, func(m moment) bool { return m.key == key }) {
			return nil, fmt.Errorf("nobody has seen %s yet", key)
		}
	}
	return t, nil
}

// add adds moments that were seen; of each key only the first one stays.
func (t *timeline) add(seen ...moment) {
	for _, m := range seen {
		if m.at.IsZero() {
			continue
		}
		i := slices.IndexFunc(*t, func(o moment) bool { return o.key == m.key })
		switch {
		case i < 0:
			*t = append(*t, m)
		case m.at.Before((*t)[i].at):
			(*t)[i] = m
		}
	}
}

func (s *scenario) firstProbeFailure(observer string, st spoke.Status) moment {
	for _, p := range st.Probes {
		if p.Target == "cluster2" && p.FirstFailure.After(s.killed) {
			return moment{"first_probe_failure", p.FirstFailure, fmt.Sprintf("%s probes cluster2: %s", observer, p.Error)}
		}
	}
	return moment{}
}

// decision is the hub's first one that took cluster2, or its webapp alone, away from everybody.
func (s *scenario) decision(ctx context.Context) (moment, error) {
	var journal struct{ Records []ledger.Record }
	if err := getJSON(ctx, s.lab.Status(lab.Management)+"/api/v1/journal?service=Service/default/webapp", &journal); err != nil {
		return moment{}, err
	}
	for _, r := range journal.Records {
		if r.At.After(s.killed) && r.Subject.Cluster == "cluster2" && r.Consumer == "" && r.To == federation.Unhealthy {
			return moment{"decision", r.At, fmt.Sprintf("hub, no. %d: %s, %s", r.Seq, r.Reason, votes(r))}, nil
		}
	}
	return moment{}, nil
}

func votes(r ledger.Record) string {
	v := r.Inputs.Votes
	var failed []string
	for _, c := range v.Failing {
		failed = append(failed, string(c))
	}
	return fmt.Sprintf("%d of %d observers fail (%s)", v.Fail, v.Reach+v.Fail, strings.Join(failed, ", "))
}

// hops says which way a request took, as cluster1's spoke knows it.
func (s *scenario) hops(ctx context.Context) (string, error) {
	st, err := spokeStatus(ctx, s.lab, "cluster1")
	if err != nil {
		return "", err
	}
	for _, e := range st.Egress {
		if e.Cluster == "cluster2" && e.Service == "Service/default/webapp" {
			return fmt.Sprintf("Envoy → egress proxy %v → WireGuard → VIP %v → ingress proxy of cluster2 → webapp", e.Listen, e.Remote), nil
		}
	}
	return "", errors.New("cluster1's spoke has no egress port for cluster2's webapp, so the answer came some other way")
}

// ready is nil when webapp is healthy in both clusters for cluster1 and cluster3, and all that they probe answers.
// Otherwise it says what is missing.
func (s *scenario) ready(ctx context.Context) error {
	for _, observer := range []string{"cluster1", "cluster3"} {
		st, err := spokeStatus(ctx, s.lab, observer)
		if err != nil {
			return err
		}
		if len(st.Probes) == 0 {
			return fmt.Errorf("%s probes nothing yet", observer)
		}
		for _, p := range st.Probes { // the clusters' ingress hosts, and the VIPs
			if !p.Reachable {
				return fmt.Errorf("%s does not reach %s: %s", observer, p.Target, p.Error)
			}
		}
		for _, set := range st.Sets {
			for _, e := range set.Endpoints {
				if set.Service == "Service/default/webapp" && e.Health != federation.Healthy {
					return fmt.Errorf("for %s, webapp in %s is %v: %s", observer, e.Cluster, e.Health, e.Reason)
				}
			}
			if set.Service == "Service/default/webapp" && len(set.Endpoints) != 2 {
				return fmt.Errorf("%s knows webapp in %d clusters", observer, len(set.Endpoints))
			}
		}
	}
	return nil
}

func spokeStatus(ctx context.Context, l *lab.Lab, member string) (spoke.Status, error) {
	var st spoke.Status
	err := getJSON(ctx, l.Status(member)+"/status", &st)
	return st, err
}

func getJSON(ctx context.Context, url string, into any) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("GET %s: %s", url, resp.Status)
	}
	return json.NewDecoder(resp.Body).Decode(into)
}
