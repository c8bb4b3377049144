package kind

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/tailgate-project/tailgate/e2e-kind/lab"
)

const (
	// rate is how many requests a second each scenario's load has.
	rate = 50
	// settle is how long the load goes on before and after what a scenario does.
	settle = 5 * time.Second
	// MaxGap is how long at most nobody may be answered when something dies without a word.
	MaxGap = 3 * time.Second
)

// Prove installs the federation by the README's commands, then runs the scenarios. It prints a table of them and fails if
// one of them did not keep what is promised.
func (s *Suite) Prove(ctx context.Context) error {
	began := time.Now()
	steps, err := s.Quickstart(ctx)
	if err != nil {
		return err
	}
	took := time.Since(began)
	fmt.Fprintf(s.Log, "\n%d commands, first cross-cluster answer after %s\n", len(steps), took.Round(time.Second))
	if len(steps) > MaxCommands || took > MaxDuration {
		return fmt.Errorf("the README promises %d commands and %s", MaxCommands, MaxDuration)
	}
	return s.Examine(ctx)
}

// Examine plays the scenarios, walks through the workflow, makes mistakes and has them diagnosed, and in the end uninstalls all
// of it, as far as that is selected.
func (s *Suite) Examine(ctx context.Context) error {
	if err := s.Play(ctx); err != nil {
		return err
	}
	for _, part := range []struct {
		name string
		do   func(context.Context) error
	}{{"workflow", s.Workflow}, {"diagnoses", s.Diagnose}, {"uninstall", s.Uninstall}} {
		if s.Only != nil && !s.Only.MatchString(part.name) {
			continue
		}
		began := time.Now()
		fmt.Fprintf(s.Log, "\n%s ...\n", part.name)
		if err := part.do(ctx); err != nil {
			return fmt.Errorf("%s: %w", part.name, err)
		}
		fmt.Fprintf(s.Log, "%s: ok, after %s\n", part.name, time.Since(began).Round(time.Second))
	}
	return nil
}

// Play runs the scenarios on a federation that is installed.
func (s *Suite) Play(ctx context.Context) error {
	selected := slices.DeleteFunc(s.scenarios(), func(sc scenario) bool { return s.Only != nil && !s.Only.MatchString(sc.name) })
	if len(selected) == 0 {
		return nil
	}
	if err := s.reached(ctx); err != nil {
		return err
	}
	var rows []row
	var errs []error
	for _, sc := range selected {
		fmt.Fprintf(s.Log, "%s ...\n", sc.name)
		r, err := s.play(ctx, sc)
		if err != nil {
			s.print(rows)
			return errors.Join(append(errs, fmt.Errorf("%s: %w", sc.name, err))...)
		}
		rows = append(rows, r)
		if problem := r.verdict(); problem != "" {
			errs = append(errs, fmt.Errorf("%s: %s", sc.name, problem))
		}
	}
	s.print(rows)
	return errors.Join(errs...)
}

// row is what came of a scenario.
type row struct {
	scenario
	sent, failed int
	gap          time.Duration
	// examples are the first failures.
	examples []string
}

// verdict says which promise was not kept.
func (r row) verdict() string {
	switch {
	case r.sent == 0:
		return "nothing was sent"
	case r.planned && r.failed > 0:
		return fmt.Sprintf("%d of %d requests failed, and none may when it is planned: %s", r.failed, r.sent, strings.Join(r.examples, "; "))
	case r.gap > MaxGap:
		return fmt.Sprintf("nobody was answered for %s", r.gap.Round(time.Millisecond))
	}
	return ""
}

func (s *Suite) print(rows []row) {
	w := tabwriter.NewWriter(s.Log, 0, 0, 3, ' ', 0)
	fmt.Fprintln(w, "\nSCENARIO\tKIND\tSENT\tFAILED\tLONGEST GAP\tVERDICT")
	for _, r := range rows {
		kind, verdict := "kill or cut", "ok"
		if r.planned {
			kind = "planned"
		}
		if r.verdict() != "" {
			verdict = "BROKEN"
		}
		fmt.Fprintf(w, "%s\t%s\t%d\t%d\t%s\t%s\n", r.name, kind, r.sent, r.failed, r.gap.Round(time.Millisecond), verdict)
	}
	_ = w.Flush()
}

// play runs a scenario under load: what it does, and what takes it back.
func (s *Suite) play(ctx context.Context, sc scenario) (row, error) {
	url, err := s.gateway(ctx, "cluster1")
	if err != nil {
		return row{}, err
	}
	sending, stop := context.WithCancel(ctx)
	defer stop()
	var load lab.Load
	done := make(chan struct{})
	go func() {
		defer close(done)
		load.Run(sending, url+sc.path, rate)
	}()
	err = errors.Join(
		pause(ctx, settle), sc.do(ctx), pause(ctx, cmpOr(sc.lasts, settle)),
	)
	if sc.undo != nil {
		err = errors.Join(err, sc.undo(context.WithoutCancel(ctx)), pause(ctx, settle))
	}
	stop()
	<-done
	if err != nil {
		return row{}, err
	}
	return judge(sc, load.Outcomes()), s.reached(ctx)
}

func cmpOr(a, b time.Duration) time.Duration {
	if a > 0 {
		return a
	}
	return b
}

// judge counts what failed, and finds the longest time in which nobody was answered.
func judge(sc scenario, all []lab.Outcome) row {
	r := row{scenario: sc, sent: len(all)}
	var answered []time.Time
	for _, o := range all {
		if !o.Failed() {
			answered = append(answered, o.End())
			continue
		}
		if r.failed++; r.failed <= 3 {
			r.examples = append(r.examples, o.Err)
		}
	}
	slices.SortFunc(answered, time.Time.Compare)
	for i := 1; i < len(answered); i++ {
		r.gap = max(r.gap, answered[i].Sub(answered[i-1]))
	}
	return r
}

// gateway returns the URL of a cluster's gateway, at the node's port.
func (s *Suite) gateway(ctx context.Context, cluster string) (string, error) {
	node, err := s.containerIP(ctx, cluster+"-control-plane")
	if err != nil {
		return "", err
	}
	port, err := s.kubectl(ctx, cluster, "--namespace", "envoy-gateway-system", "get", "service", "envoy", "--output", "jsonpath={.spec.ports[?(@.port==80)].nodePort}")
	if err != nil {
		return "", err
	}
	return "http://" + node + ":" + port, nil
}

// containerIP is the address of a container beside the clusters, or of a node.
func (s *Suite) containerIP(ctx context.Context, name string) (string, error) {
	out, err := s.output(ctx, "docker", "inspect", "--format", "{{range .NetworkSettings.Networks}}{{.IPAddress}} {{end}}", name)
	if err != nil {
		return "", err
	}
	addr, _, _ := strings.Cut(out, " ")
	return addr, nil
}

func (s *Suite) kubectl(ctx context.Context, cluster string, args ...string) (string, error) {
	return s.output(ctx, "kubectl", append([]string{"--context", "kind-" + cluster}, args...)...)
}

// reached waits until every gateway reaches the service in every cluster, there and not elsewhere.
func (s *Suite) reached(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	for _, from := range s.Members {
		url, err := s.gateway(ctx, from)
		if err != nil {
			return err
		}
		for _, to := range s.Members {
			pods, err := s.webapps(ctx, to)
			if err != nil {
				return err
			}
			if err := s.until(ctx, from+" reaches webapp in "+to, func() error {
				a, err := lab.Ask(ctx, client, url+"/cross-cluster/webapp-"+to+"/", "")
				if err == nil && !slices.Contains(pods, a.Cluster) {
					err = fmt.Errorf("served by %q", a.Cluster)
				}
				return err
			}); err != nil {
				return err
			}
		}
	}
	return nil
}

// webapps are the names of webapp's pods in some clusters, by which they answer.
func (s *Suite) webapps(ctx context.Context, clusters ...string) ([]string, error) {
	var names []string
	for _, c := range clusters {
		out, err := s.kubectl(ctx, c, "get", "pods", "--selector", "app=webapp", "--output", "jsonpath={.items[*].metadata.name}")
		if err != nil {
			return nil, err
		}
		names = append(names, strings.Fields(out)...)
	}
	return names, nil
}

// until looks again and again whether something is so, until ctx ends.
func (*Suite) until(ctx context.Context, what string, look func() error) error {
	for {
		err := look()
		if err == nil {
			return nil
		}
		if pause(ctx, 500*time.Millisecond) != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
	}
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
