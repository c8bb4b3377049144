package lab

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"sync"
	"time"
)

// requestTimeout is a patient client's: what takes longer has failed.
const requestTimeout = 10 * time.Second

// Outcome is what became of one request.
type Outcome struct {
	Start time.Time
	Took  time.Duration
	// Status is 0 where there was no answer.
	Status int
	// ServedBy is the cluster that answered.
	ServedBy string
	Err      string
}

// Failed tells that the client did not get what it asked for.
func (o Outcome) Failed() bool { return o.Status != http.StatusOK }

// End is when the client knew.
func (o Outcome) End() time.Time { return o.Start.Add(o.Took) }

// Answer is what webapp says of a request: who answers, and what the request was when it came there.
type Answer struct{ Cluster, Host, Path string }

// Get makes one request to a gateway and says what became of it.
func Get(ctx context.Context, c *http.Client, url string) Outcome {
	o := Outcome{Start: time.Now()}
	answer, status, err := request(ctx, c, url, "")
	if err != nil {
		o.Err = err.Error()
	} else {
		o.ServedBy = answer.Cluster
	}
	o.Status, o.Took = status, time.Since(o.Start)
	return o
}

// Ask makes one request, for a host if one is named, and returns webapp's answer. It is an error if there is none.
func Ask(ctx context.Context, c *http.Client, url, host string) (Answer, error) {
	a, _, err := request(ctx, c, url, host)
	return a, err
}

// request makes one request. The status is 0 where webapp did not answer, but somebody else or nobody.
func request(ctx context.Context, c *http.Client, url, host string) (a Answer, status int, err error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return a, 0, err
	}
	req.Host = host
	resp, err := c.Do(req)
	if err != nil {
		return a, 0, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return a, 0, fmt.Errorf("read the answer: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		return a, resp.StatusCode, fmt.Errorf("%s: %.200s", resp.Status, body)
	}
	if err := json.Unmarshal(body, &a); err != nil {
		return a, 0, fmt.Errorf("not webapp's answer: %w", err)
	}
	return a, resp.StatusCode, nil
}

// Load is a steady stream of GET requests. Each starts in time, however long the ones before take.
type Load struct {
	mu       sync.Mutex
	outcomes []Outcome
}

// Run sends rate requests per second until ctx ends, and returns when all of them have ended.
func (l *Load) Run(ctx context.Context, url string, rate int) {
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 256}}
	defer client.CloseIdleConnections()
	ticker := time.NewTicker(time.Second / time.Duration(rate))
	defer ticker.Stop()
	var requests sync.WaitGroup
	defer requests.Wait()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			requests.Go(func() { l.add(Get(context.WithoutCancel(ctx), client, url)) })
		}
	}
}

func (l *Load) add(o Outcome) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.outcomes = append(l.outcomes, o)
}

// Outcomes are those of the requests that have ended, by the time of their start.
func (l *Load) Outcomes() []Outcome {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := slices.Clone(l.outcomes)
	slices.SortFunc(out, func(a, b Outcome) int { return a.Start.Compare(b.Start) })
	return out
}

// FirstFrom is the first answer by a cluster, in the order of the answers, to a request that started after a time.
func (l *Load) FirstFrom(cluster string, after time.Time) (Outcome, bool) {
	var first Outcome
	for _, o := range l.Outcomes() {
		if o.ServedBy == cluster && o.Start.After(after) && (first.ServedBy == "" || o.End().Before(first.End())) {
			first = o
		}
	}
	return first, first.ServedBy != ""
}

// LastAre tells whether the last n requests were all answered by the cluster.
func (l *Load) LastAre(cluster string, n int) bool {
	all := l.Outcomes()
	if len(all) < n {
		return false
	}
	return !slices.ContainsFunc(all[len(all)-n:], func(o Outcome) bool { return o.ServedBy != cluster })
}
