// Command sim runs the simulation of package sim for many seeds, and shrinks and prints what fails.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"sync"
	"time"

	"github.com/tailgate-project/tailgate/federation/sim"
)

// options are the flags.
type options struct {
	seed0, seeds  uint64
	workers       int
	verbose       bool
	panics        bool
	replay, write string
	tries         int
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	var o options
	flag.Uint64Var(&o.seed0, "seed0", 1, "the first `seed`")
	flag.Uint64Var(&o.seeds, "seeds", 100, "how many seeds to run, from the first one on")
	flag.IntVar(&o.workers, "workers", runtime.GOMAXPROCS(0), "how many seeds to run at once")
	flag.BoolVar(&o.verbose, "v", false, "print the trace of each run")
	flag.BoolVar(&o.panics, "panics", false, "with -replay: let the product panic, to see its stack")
	flag.StringVar(&o.replay, "replay", "", "play the schedule in this `file`, as a failing seed wrote it, instead")
	flag.StringVar(&o.write, "write", os.TempDir(), "`directory` for the schedules of failing seeds")
	flag.IntVar(&o.tries, "tries", 400, "how many runs shrinking a schedule may take")
	flag.Parse()
	failed, err := run(ctx, o, os.Stdout)
	switch {
	case err != nil:
		fmt.Fprintln(os.Stderr, "sim:", err)
		os.Exit(2)
	case failed > 0:
		os.Exit(1)
	}
}

func run(ctx context.Context, o options, out io.Writer) (failed int, err error) {
	if o.replay != "" {
		return replay(o, out)
	}
	if o.workers < 1 || o.seeds < 1 {
		return 0, errors.New("-workers and -seeds must be at least 1")
	}
	p := &progress{options: o, out: out, began: time.Now(), coverage: sim.Coverage{}}
	return p.all(ctx)
}

// schedule is a seed with the faults that are left of its own.
type schedule struct {
	Seed      uint64      `json:"seed"`
	Invariant string      `json:"invariant"`
	Faults    []sim.Fault `json:"faults"`
}

// replay plays the schedule of a file and prints its trace.
func replay(o options, out io.Writer) (failed int, err error) {
	data, err := os.ReadFile(o.replay)
	if err != nil {
		return 0, fmt.Errorf("read the schedule: %w", err)
	}
	var s schedule
	if err := json.Unmarshal(data, &s); err != nil {
		return 0, fmt.Errorf("read the schedule %s: %w", o.replay, err)
	}
	r := sim.Run(sim.NewScenario(s.Seed), s.Faults, sim.Options{Trace: true, Panics: o.panics})
	show(out, r)
	if r.Failure != nil {
		fmt.Fprintln(out, r.Failure)
		return 1, nil
	}
	fmt.Fprintln(out, "passed")
	return 0, nil
}

func show(out io.Writer, r sim.Result) {
	for _, line := range r.Trace {
		fmt.Fprintln(out, line)
	}
}

// progress is what is known of all seeds.
type progress struct {
	options
	out   io.Writer
	began time.Time

	mu           sync.Mutex
	next         uint64
	done, failed int
	events       int
	virtual      time.Duration
	told         time.Time
	coverage     sim.Coverage
}

// all runs the seeds, and ends early, without a verdict, if ctx does.
func (p *progress) all(ctx context.Context) (failed int, err error) {
	var wg sync.WaitGroup
	for range p.workers {
		wg.Go(func() {
			for ctx.Err() == nil {
				seed, ok := p.take()
				if !ok {
					return
				}
				p.one(seed)
			}
		})
	}
	wg.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	fmt.Fprint(p.out, p.coverage.Text(p.done))
	took := time.Since(p.began)
	fmt.Fprintf(p.out, "%d seeds from %d on, %v of virtual time and %d events in %v\n", p.done, p.seed0, p.virtual.Round(time.Minute), p.events, took.Round(time.Second))
	fmt.Fprintf(p.out, "%d passed, %d failed\n", p.done-p.failed, p.failed)
	if err := ctx.Err(); err != nil {
		return p.failed, fmt.Errorf("interrupted after %d of %d seeds", p.done, p.seeds)
	}
	return p.failed, nil
}

func (p *progress) take() (seed uint64, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.next == p.seeds {
		return 0, false
	}
	p.next++
	return p.seed0 + p.next - 1, true
}

// one runs a seed, and shrinks it if it fails.
func (p *progress) one(seed uint64) {
	scenario := sim.NewScenario(seed)
	faults := sim.NewFaults(scenario)
	r := sim.Run(scenario, faults, sim.Options{Trace: p.verbose})
	var small []sim.Fault
	if r.Failure != nil {
		small = shrink(scenario, faults, r.Failure.Invariant, p.tries)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.done++
	p.events += r.Events
	p.virtual += r.Virtual
	p.coverage.Merge(r.Coverage)
	if p.verbose {
		show(p.out, r)
	}
	if r.Failure != nil {
		p.failed++
		p.explain(seed, r.Failure, len(faults), small)
	}
	if time.Since(p.told) > 5*time.Second {
		p.told = time.Now()
		fmt.Fprintf(p.out, "%d of %d seeds, %d failed, %v\n", p.done, p.seeds, p.failed, time.Since(p.began).Round(time.Second))
	}
}

func shrink(s sim.Scenario, faults []sim.Fault, invariant string, tries int) []sim.Fault {
	return sim.Shrink(faults, tries, func(part []sim.Fault) bool {
		r := sim.Run(s, part, sim.Options{})
		return r.Failure != nil && r.Failure.Invariant == invariant
	})
}

// explain prints a failed seed with its shrunk schedule and the end of that one's trace, and keeps the schedule in a
// file.
func (p *progress) explain(seed uint64, f *sim.Failure, before int, small []sim.Fault) {
	r := sim.Run(sim.NewScenario(seed), small, sim.Options{Trace: true})
	fmt.Fprintf(p.out, "\nseed %d: %v\n", seed, f)
	fmt.Fprintf(p.out, "of its %d faults it takes %d:\n", before, len(small))
	for _, x := range small {
		fmt.Fprintln(p.out, " ", x)
	}
	if r.Failure != nil {
		fmt.Fprintf(p.out, "with them: %v\n", r.Failure)
	}
	const last = 60
	fmt.Fprintln(p.out, "the end of the trace:")
	for _, line := range r.Trace[max(0, len(r.Trace)-last):] {
		fmt.Fprintln(p.out, " ", line)
	}
	file := fmt.Sprintf("%s/sim-%d.json", p.write, seed)
	data, err := json.MarshalIndent(schedule{Seed: seed, Invariant: f.Invariant, Faults: small}, "", "  ")
	if err == nil {
		err = os.WriteFile(file, data, 0o644)
	}
	if err != nil {
		fmt.Fprintf(p.out, "its schedule cannot be kept: %v\n\n", err)
		return
	}
	fmt.Fprintf(p.out, "again: go run ./federation/sim/cmd/sim -replay %s\n\n", file)
}
