package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/tailgate-project/tailgate/e2e-kind/lab"
)

const (
	rate = 50 // requests per second
	path = "/cross-cluster/webapp-cluster2/"
	// steady is how long the load runs undisturbed before and after each change.
	steady = 3 * time.Second
	// settled is how many answers in a row make a change of clusters complete: a second's.
	settled = rate
)

// scenario is the demo's story. What it saw goes to the result.
type scenario struct {
	lab       *lab.Lab
	printer   *printer
	dataPlane string
	result    string

	load                   lab.Load
	killed, booted, failed time.Time
}

// result is what .demo/result.json says. Milliseconds are rounded down.
type result struct {
	CrossClusterStatus     int              `json:"cross_cluster_status"`
	ServedBy               string           `json:"served_by"`
	FailoverMS             int64            `json:"failover_ms"`
	FailbackMS             int64            `json:"failback_ms"`
	FailbackFailedRequests int              `json:"failback_failed_requests"`
	FailedRequests         int              `json:"failed_requests"`
	FailedOutsideWindow    int              `json:"failed_requests_outside_failover"`
	TotalRequests          int              `json:"total_requests"`
	LongestRequestMS       int64            `json:"longest_request_ms"`
	DataPlane              string           `json:"data_plane"`
	TimelineMS             map[string]int64 `json:"timeline_ms"`
}

func (s *scenario) run(ctx context.Context) error {
	r := result{DataPlane: s.dataPlane, TimelineMS: map[string]int64{}}
	if err := s.first(ctx, &r); err != nil {
		return err
	}
	ctx, stop := context.WithCancel(ctx)
	var running sync.WaitGroup
	defer running.Wait()
	defer stop()
	s.printer.head(fmt.Sprintf("Steady load of %d requests/s on it", rate))
	running.Go(func() { s.load.Run(ctx, s.lab.Gateway("cluster1")+path, rate) })
	if err := s.pause(ctx, "steady"); err != nil {
		return err
	}
	t, err := s.failover(ctx, &r)
	if err != nil {
		return err
	}
	if err := s.failback(ctx, &r); err != nil {
		return err
	}
	stop()
	running.Wait()
	s.count(&r)
	s.report(t, r)
	if err := s.write(r); err != nil {
		return err
	}
	return verdict(r)
}

// first makes the one request that everything is there for.
func (s *scenario) first(ctx context.Context, r *result) error {
	s.printer.head("A request across clusters: GET " + path + " at the gateway of cluster1")
	var got lab.Outcome
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	err := s.printer.wait(ctx, "cluster2 answers at cluster1's gateway", time.Minute, func() bool {
		got = lab.Get(ctx, client, s.lab.Gateway("cluster1")+path)
		return !got.Failed() && got.ServedBy == "cluster2"
	})
	if err != nil {
		return fmt.Errorf("%w; the last answer: %d %s %s", err, got.Status, got.ServedBy, got.Err)
	}
	r.CrossClusterStatus, r.ServedBy = got.Status, got.ServedBy
	hops, err := s.hops(ctx)
	if err != nil {
		return err
	}
	s.printer.line("200, served by %s in %.1f ms: %s", got.ServedBy, ms(got.Took), hops)
	// The story needs a second cluster to turn to, and two observers that have seen the first one well.
	var missing error
	err = s.printer.wait(ctx, "cluster1's Envoy knows webapp in cluster2 and cluster3, both healthy", time.Minute, func() bool {
		missing = s.ready(ctx)
		return missing == nil
	})
	if err != nil {
		return fmt.Errorf("%w: %w", err, missing)
	}
	return nil
}

// failover kills cluster2 and waits until cluster3 answers everything.
func (s *scenario) failover(ctx context.Context, r *result) (timeline, error) {
	s.printer.head("Killing every process of cluster2, without a goodbye")
	s.killed = time.Now()
	if err := s.lab.Kill("cluster2"); err != nil {
		return nil, err
	}
	err := s.printer.wait(ctx, "cluster3 answers everything", time.Minute, func() bool { return s.load.LastAre("cluster3", settled) })
	if err != nil {
		return nil, err
	}
	first, ok := s.load.FirstFrom("cluster3", time.Time{})
	if !ok {
		return nil, errors.New("no answer by cluster3 was recorded")
	}
	s.failed = first.End()
	r.FailoverMS = s.failed.Sub(s.killed).Milliseconds()
	var t timeline
	err = s.printer.wait(ctx, "all parties have told what they saw when", 30*time.Second, func() bool {
		t, err = s.timeline(ctx)
		return err == nil
	})
	if err != nil {
		return nil, err
	}
	t = append(t, moment{"killed", s.killed, "SIGKILL to all of cluster2"}, moment{"first_answer", s.failed, "by cluster3"})
	for _, m := range t {
		r.TimelineMS[m.key] = m.at.Sub(s.killed).Milliseconds()
	}
	return t, s.pause(ctx, "steady on cluster3")
}

// failback boots cluster2 again and waits until it answers everything.
func (s *scenario) failback(ctx context.Context, r *result) error {
	s.printer.head("Booting cluster2 again")
	s.booted = time.Now()
	if err := s.lab.Boot(ctx, "cluster2"); err != nil {
		return err
	}
	ready := time.Now()
	err := s.printer.wait(ctx, fmt.Sprintf("cluster2 answers everything again (failback delay %v)", failbackDelay), 2*time.Minute, func() bool {
		return s.load.LastAre("cluster2", settled)
	})
	if err != nil {
		return err
	}
	if first, ok := s.load.FirstFrom("cluster2", s.booted); ok {
		r.FailbackMS = first.End().Sub(ready).Milliseconds()
	}
	return s.pause(ctx, "steady on cluster2")
}

// count sums the requests up. The failover window is from the kill to the first answer by cluster3.
func (s *scenario) count(r *result) {
	for _, o := range s.load.Outcomes() {
		r.TotalRequests++
		r.LongestRequestMS = max(r.LongestRequestMS, o.Took.Milliseconds())
		if !o.Failed() {
			continue
		}
		r.FailedRequests++
		s.printer.line("failed: started %+d ms after the kill, took %d ms: %s", o.Start.Sub(s.killed).Milliseconds(), o.Took.Milliseconds(), o.Err)
		if o.End().Before(s.killed) || o.Start.After(s.failed) {
			r.FailedOutsideWindow++
		}
		if o.Start.After(s.booted) {
			r.FailbackFailedRequests++
		}
	}
}

// verdict is nil if all that the demo promises was observed.
func verdict(r result) error {
	var errs []error
	for _, key := range milestones {
		if _, ok := r.TimelineMS[key]; !ok {
			errs = append(errs, fmt.Errorf("not observed: %s", key))
		}
	}
	if r.FailedOutsideWindow > 0 {
		errs = append(errs, fmt.Errorf("%d requests failed outside the failover window", r.FailedOutsideWindow))
	}
	if r.FailbackFailedRequests > 0 {
		errs = append(errs, fmt.Errorf("%d requests failed during the failback", r.FailbackFailedRequests))
	}
	return errors.Join(errs...)
}

// pause lets the load run for a while.
func (s *scenario) pause(ctx context.Context, what string) error {
	end := time.Now().Add(steady)
	return s.printer.wait(ctx, what, steady+time.Minute, func() bool { return time.Now().After(end) })
}

func (s *scenario) write(r result) error {
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(s.result, append(text, '\n'), 0o644)
}

// report prints the end's tables.
func (s *scenario) report(t timeline, r result) {
	s.printer.head("What happened when cluster2 died")
	s.printer.text("%s", t.table(s.killed))
	s.printer.head("Result")
	s.printer.text("  failover   %6d ms   killed → first answer by cluster3\n", r.FailoverMS)
	s.printer.text("  failback   %6d ms   cluster2 ready → first answer by it, %d requests failed\n", r.FailbackMS, r.FailbackFailedRequests)
	s.printer.text("  requests   %6d      %d failed, %d of them outside the failover window; the longest took %d ms\n",
		r.TotalRequests, r.FailedRequests, r.FailedOutsideWindow, r.LongestRequestMS)
	s.printer.text("  data plane %s\n  %s\n", r.DataPlane, s.result)
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
