package downstream

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/tailgate-project/tailgate/e2e-kind/standin/upstream"
)

// watch cancels a request when its route's timeout, which begins at the request's end, or its idle timeout is over.
type watch struct {
	cancel  context.CancelCauseFunc
	limit   time.Duration // of the route; 0: none
	idleFor time.Duration // 0: none

	mu    sync.Mutex
	total *time.Timer
	idle  *time.Timer
	over  bool
}

func newWatch(cancel context.CancelCauseFunc, idle, limit time.Duration) *watch {
	w := &watch{cancel: cancel, limit: limit, idleFor: idle}
	if idle > 0 {
		w.idle = time.AfterFunc(idle, func() { cancel(fmt.Errorf("%w: %w", upstream.ErrTimeout, errIdle)) })
	}
	return w
}

// requestDone starts the route's timeout.
func (w *watch) requestDone() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.limit > 0 && w.total == nil && !w.over {
		w.total = time.AfterFunc(w.limit, func() { w.cancel(upstream.ErrTimeout) })
	}
}

// touch notes that something moved.
func (w *watch) touch() {
	if w.idle != nil {
		w.idle.Reset(w.idleFor)
	}
}

func (w *watch) stop() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.over = true
	if w.total != nil {
		w.total.Stop()
	}
	if w.idle != nil {
		w.idle.Stop()
	}
}

// touched notes each read of a request's body.
type touched struct {
	io.Reader
	watch *watch
}

func (t *touched) Read(p []byte) (int, error) {
	n, err := t.Reader.Read(p)
	t.watch.touch()
	return n, err
}

// upgradeType returns the protocol, in lower case, that a request asks to switch to, or nothing.
func upgradeType(h http.Header) string {
	for _, v := range h.Values("Connection") {
		for token := range strings.SplitSeq(v, ",") {
			if strings.EqualFold(strings.TrimSpace(token), "upgrade") {
				return strings.ToLower(h.Get("Upgrade"))
			}
		}
	}
	return ""
}

// tunnel joins client and upstream after both switched protocols, until one side ends.
func (e *exchange) tunnel(ctx context.Context, resp *upstream.Response, watch *watch) {
	up, ok := resp.Body.(io.ReadWriter)
	if !ok {
		e.reply(http.StatusBadGateway, "the upstream's connection cannot be written after its switch of protocols")
		return
	}
	upgrade := resp.Header.Get("Upgrade")
	e.copyHeaders(resp)
	h := e.w.Header()
	h.Set("Connection", "Upgrade")
	h.Set("Upgrade", upgrade)
	e.finishHeaders(false)
	h.Set("Connection", "Upgrade") // draining does not apply
	delete(h, "Content-Type")
	e.count(resp.StatusCode)
	conn, brw, err := http.NewResponseController(e.w).Hijack()
	if err != nil {
		panic(http.ErrAbortHandler) // HTTP/2 has no such switch
	}
	defer conn.Close()
	if err := writeSwitch(brw, h); err != nil {
		return // the client is gone
	}
	done := make(chan struct{}, 2)
	pump := func(dst io.Writer, src io.Reader) {
		_, _ = io.Copy(dst, &touched{src, watch}) // either side's end is the tunnel's end
		done <- struct{}{}
	}
	go pump(up, brw)
	go pump(conn, up)
	select {
	case <-done:
	case <-ctx.Done():
	}
	// Closing both ends the other direction.
	_ = conn.Close()
	_ = resp.Body.Close()
	<-done
}

func writeSwitch(brw *bufio.ReadWriter, h http.Header) error {
	if _, err := brw.WriteString("HTTP/1.1 101 Switching Protocols\r\n"); err != nil {
		return err
	}
	if err := h.Write(brw); err != nil {
		return err
	}
	if _, err := brw.WriteString("\r\n"); err != nil {
		return err
	}
	return brw.Flush()
}
