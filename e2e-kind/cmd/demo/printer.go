package main

import (
	"fmt"
	"io"
	"os/exec"
	"regexp"
	"sync"
	"time"

	"context"

	"github.com/tailgate-project/tailgate/e2e-kind/lab"
)

// stillInterval is how often a long wait says that it goes on.
const stillInterval = 5 * time.Second

// printer writes lines with the time since the start.
type printer struct {
	out   io.Writer
	start time.Time
	mu    sync.Mutex
}

func newPrinter(out io.Writer) *printer { return &printer{out: out, start: time.Now()} }

// text writes as it is.
func (p *printer) text(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	fmt.Fprintf(p.out, format, args...)
}

func (p *printer) line(format string, args ...any) {
	p.text("%6.1fs  %s\n", time.Since(p.start).Seconds(), fmt.Sprintf(format, args...))
}

func (p *printer) head(text string) { p.text("\n%s\n", text) }

func (p *printer) note(text string) { p.line("note: %s", text) }

func (p *printer) step(s lab.Step) {
	who := s.Machine
	if who == "" {
		who = "fabric"
	}
	if s.Ready {
		p.line("%-10s  ready", who)
		return
	}
	p.line("%-10s  %s (%.1f s)", who, s.What, s.Took.Seconds())
}

// wait polls until f says that it is so, and says every now and then that it still waits.
func (p *printer) wait(ctx context.Context, what string, timeout time.Duration, f func() bool) error {
	start := time.Now()
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	poll := time.NewTicker(20 * time.Millisecond)
	defer poll.Stop()
	still := time.NewTicker(stillInterval)
	defer still.Stop()
	for {
		if f() {
			p.line("%s (%.1f s)", what, time.Since(start).Seconds())
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waited %.0f s in vain: %s", time.Since(start).Seconds(), what)
		case <-still.C:
			p.line("... waiting for %.0f s: %s", time.Since(start).Seconds(), what)
		case <-poll.C:
		}
	}
}

var envoyVersion = regexp.MustCompile(`/(\d+\.\d+\.\d+)/`)

// dataPlane names what stands in Envoy's place.
func dataPlane(ctx context.Context, envoy string, isReal bool) string {
	if !isReal {
		return "stand-in"
	}
	out, err := exec.CommandContext(ctx, envoy, "--version").Output()
	if m := envoyVersion.FindSubmatch(out); err == nil && m != nil {
		return "envoy " + string(m[1])
	}
	return "envoy (version unknown)"
}
