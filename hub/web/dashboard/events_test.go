package dashboard_test

import (
	"bufio"
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tailgate-project/tailgate/hub/web/dashboard"
)

// viewing is a viewer of a stream of events, in a bubble of time of its own.
type viewing struct {
	hub     *hub
	refused error
	lines   *bufio.Scanner
	leave   context.CancelFunc
	ended   chan struct{}
}

// piped is what a viewer reads as it is written.
type piped struct {
	*io.PipeWriter
	head http.Header
}

func (p piped) Header() http.Header { return p.head }
func (piped) WriteHeader(int)       {}
func (piped) Flush()                {}

func view(t *testing.T) *viewing {
	t.Helper()
	v := &viewing{hub: newHub(), ended: make(chan struct{})}
	h := dashboard.New(dashboard.Options{
		API: v.hub, Log: slog.New(slog.DiscardHandler),
		Viewer: func(*http.Request) (dashboard.Viewer, error) { return dashboard.Viewer{Name: "ada"}, v.refused },
	})
	ctx, leave := context.WithCancel(t.Context())
	v.leave = leave
	r, w := io.Pipe()
	v.lines = bufio.NewScanner(r)
	go func() {
		defer close(v.ended)
		defer w.Close()
		h.ServeHTTP(piped{w, http.Header{}}, httptest.NewRequestWithContext(ctx, http.MethodGet, "http://hub/events", nil))
	}()
	return v
}

// next returns the next event, and when it came.
func (v *viewing) next(t *testing.T) (name string, at time.Time) {
	t.Helper()
	for v.lines.Scan() {
		line := v.lines.Text()
		if n, ok := strings.CutPrefix(line, "event: "); ok {
			name = n
		}
		if line == "" && name != "" {
			return name, time.Now()
		}
	}
	return "end", time.Now()
}

func TestEventsAreAtMostOneASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := view(t)
		if name, _ := v.next(t); name != "change" {
			t.Fatalf("the stream begins with %s", name)
		}
		// Ten changes a second for ten seconds.
		go func() {
			for range 100 {
				time.Sleep(100 * time.Millisecond)
				v.hub.edit(func() {})
			}
		}()
		begun, last := time.Now(), time.Now()
		changes := 0
		for {
			name, at := v.next(t)
			if at.Sub(last) < time.Second {
				t.Errorf("%s came %s after the one before", name, at.Sub(last))
			}
			if name == "beat" {
				break
			}
			last = at
			changes++
		}
		if changes < 9 || changes > 12 {
			t.Errorf("100 changes in 10 s were announced %d times", changes)
		}
		if d := last.Sub(begun); d > 12*time.Second {
			t.Errorf("the last change was announced %s after the first", d)
		}
		v.leave()
		<-v.ended
	})
}

func TestEventsBeatWhereNothingHappens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := view(t)
		v.next(t)
		last := time.Now()
		for range 5 {
			name, at := v.next(t)
			if name != "beat" || at.Sub(last) != 10*time.Second {
				t.Errorf("after %s came %s", at.Sub(last), name)
			}
			last = at
		}
		// A change does not wait for the next one.
		go v.hub.edit(func() {})
		if name, at := v.next(t); name != "change" || at.Sub(last) > time.Second {
			t.Errorf("%s came after %s", name, at.Sub(last))
		}
		v.leave()
		<-v.ended
	})
}

// TestEventsEnd leaves nothing behind: synctest fails on a goroutine that stays.
func TestEventsEnd(t *testing.T) {
	for name, end := range map[string]func(*viewing){
		"viewer-leaves":     func(v *viewing) { v.leave() },
		"viewer-is-refused": func(v *viewing) { v.refused = errors.New("no longer"); v.hub.edit(func() {}) },
		"hub-ends":          func(v *viewing) { v.hub.edit(func() { v.hub.failing = errors.New("the hub ends") }) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				v := view(t)
				v.next(t)
				synctest.Wait()
				end(v)
				if name, _ := v.next(t); name != "end" {
					t.Errorf("the stream goes on with %s", name)
				}
				<-v.ended
				v.leave()
				if v.hub.waiting != 0 {
					t.Errorf("%d wait for the hub that nobody waits for", v.hub.waiting)
				}
			})
		})
	}
}
