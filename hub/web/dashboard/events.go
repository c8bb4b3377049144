package dashboard

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"
)

const (
	// heartbeat is how often a page that nothing changes on is told that it is live.
	heartbeat = 10 * time.Second
	// least is the time between two announcements, however much happens.
	least = time.Second
	// retry is after how many milliseconds a browser opens a stream again that ended.
	retry = 2000
	// writing is how long a viewer may take to read an announcement.
	writing = 10 * time.Second
)

// events tells a viewer that something changed, until they go, may no longer look, or the hub ends. The stream has no
// data of the federation: pages are asked for again.
func (d *dashboard) events(w http.ResponseWriter, r *http.Request) {
	v, ok := d.viewer(w, r)
	if !ok {
		return
	}
	w.Header().Set("Content-Type", "text/event-stream")
	s := stream{w: w, control: http.NewResponseController(w)}
	ctx := d.As(r.Context(), v)
	err := d.follow(ctx, r, s)
	if err != nil && ctx.Err() == nil {
		d.Log.Info("live updates ended", "viewer", v.Name, "err", err)
	}
}

// follow announces changes. It begins with the number of the newest one, which the page may have seen or not.
func (d *dashboard) follow(ctx context.Context, r *http.Request, s stream) error {
	if err := s.send("retry: %d\n\n", retry); err != nil {
		return err
	}
	var (
		seen uint64
		told time.Time
	)
	for first := true; ; first = false {
		n, err := d.await(ctx, seen, first)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			return fmt.Errorf("wait for a change: %w", err)
		}
		if _, err := d.Viewer(r); err != nil {
			return fmt.Errorf("ask again who looks: %w", err)
		}
		if err := pause(ctx, least-time.Since(told)); err != nil {
			return err
		}
		told = time.Now()
		name := "beat"
		if n > seen {
			name, seen = "change", n
		}
		if err := s.send("event: %s\nid: %d\ndata: %d\n\n", name, seen, seen); err != nil {
			return err
		}
	}
}

// await returns the newest change once there is one after seen, or seen itself when a heartbeat is due. The first answer
// comes at once.
func (d *dashboard) await(ctx context.Context, seen uint64, first bool) (uint64, error) {
	patience := heartbeat
	if first {
		patience = least
	}
	waiting, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		n, err := d.API.Wait(waiting, seen)
		switch {
		case errors.Is(waiting.Err(), context.DeadlineExceeded):
			return max(n, seen), nil
		case err != nil:
			return 0, err
		case n > seen || first:
			return n, nil
		}
		// It returned early. What always does must not keep a processor busy.
		if err := pause(waiting, least); err != nil {
			return seen, nil // the heartbeat is due
		}
	}
}

// pause waits, or returns why not.
func pause(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// stream writes events to a viewer.
type stream struct {
	w       http.ResponseWriter
	control *http.ResponseController
}

// send writes an event. A viewer that does not read does not keep it waiting for ever, where the connection can say so.
func (s stream) send(format string, args ...any) error {
	if err := s.control.SetWriteDeadline(time.Now().Add(writing)); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return err
	}
	if _, err := fmt.Fprintf(s.w, format, args...); err != nil {
		return err
	}
	return s.control.Flush()
}
