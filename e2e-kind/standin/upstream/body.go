package upstream

import (
	"errors"
	"io"
	"sync"
	"sync/atomic"
)

// Body is a request's body that several attempts may read from its beginning, as long as it fits the buffer. An
// attempt that was given up may still be reading when the next one begins; what it reads is not lost.
type Body struct {
	limit int
	done  func() // called once, when the whole body has been read

	mu       sync.Mutex
	src      io.Reader
	buf      []byte
	overflow bool
	err      error
}

// NewBody returns a body that can be replayed while it has at most limit bytes. done is called when it has been read
// to its end, and must not block.
func NewBody(src io.Reader, limit int, done func()) *Body {
	return &Body{src: src, limit: limit, done: done}
}

// replayable reports whether another attempt can have the whole body.
func (b *Body) replayable() bool {
	if b == nil {
		return true
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return !b.overflow && (b.err == nil || errors.Is(b.err, io.EOF))
}

type bodyReader struct {
	*Body
	off    int
	closed atomic.Bool
}

var errAttemptOver = errors.New("the attempt is over")

func (b *Body) reader() *bodyReader { return &bodyReader{Body: b} }

func (r *bodyReader) Read(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.closed.Load():
		return 0, errAttemptOver
	case r.off < len(r.buf):
		n := copy(p, r.buf[r.off:])
		r.off += n
		return n, nil
	case r.err != nil:
		return 0, r.err
	}
	n, err := r.src.Read(p)
	if !r.overflow { // once over the limit there is only this reader
		r.buf = append(r.buf, p[:n]...)
		r.off += n
		r.overflow = len(r.buf) > r.limit
	}
	if err != nil {
		r.err = err
		if errors.Is(err, io.EOF) {
			r.done()
		}
	}
	return n, err
}

// Close ends the attempt's right to read. It does not wait for a read that is under way.
func (r *bodyReader) Close() error {
	r.closed.Store(true)
	return nil
}

// emptyBody is the body of a request without one. It keeps http.Transport from sending the request again by itself
// when a kept connection turns out dead, which it does for requests whose body is nil or can be got again: a reset
// must be seen here, where the route's retry policy decides.
type emptyBody struct{}

func (emptyBody) Read([]byte) (int, error) { return 0, io.EOF }
func (emptyBody) Close() error             { return nil }
