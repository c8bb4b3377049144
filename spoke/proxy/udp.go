package proxy

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// sessionIdle is how long a UDP session without a datagram in either direction is remembered.
	sessionIdle = time.Minute
	// maxSessions bounds the sessions of one UDP port, and with them the memory for their buffers. Datagrams of further
	// clients are dropped.
	maxSessions = 1024
	// maxDatagram is the largest payload that UDP can carry, in bytes.
	maxDatagram = 65535
)

// relay passes datagrams between the clients of a packet connection and a connection of each client's own.
type relay struct {
	local net.PacketConn
	// dial opens the connection for a new client. It must not block.
	dial    func(ctx context.Context) (net.Conn, error)
	idle    time.Duration
	flow    flow
	tracker *tracker
	logger  *slog.Logger
}

// session is one client's.
type session struct {
	remote net.Conn
	// used is when the last datagram passed, in Unix nanoseconds.
	used atomic.Int64
}

// run serves until ctx ends. It closes the local connection then and drops all sessions: unlike those of TCP they have
// no end of their own to wait for.
func (r *relay) run(ctx context.Context) {
	context.AfterFunc(ctx, func() { r.local.Close() })
	var mu sync.Mutex
	sessions := map[string]*session{}
	var wg sync.WaitGroup
	defer wg.Wait()
	defer func() {
		mu.Lock()
		defer mu.Unlock()
		for _, s := range sessions {
			s.remote.Close()
		}
	}()

	buffer := make([]byte, maxDatagram)
	for {
		n, client, err := r.local.ReadFrom(buffer)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			r.logger.Warn("cannot receive datagrams", "listen", r.local.LocalAddr().String(), "error", err)
			pause(ctx)
			continue
		}
		key := client.String()
		mu.Lock()
		s, known := sessions[key]
		open := len(sessions)
		mu.Unlock()
		if !known {
			if s, err = r.open(ctx, open); err != nil {
				r.flow.dialFailed(err)
				continue
			}
			mu.Lock()
			sessions[key] = s
			mu.Unlock()
			end, endFlow := r.tracker.begin(), r.flow.begin()
			wg.Go(func() {
				defer end()
				defer endFlow()
				r.answer(s, client)
				mu.Lock()
				defer mu.Unlock()
				delete(sessions, key)
			})
		}
		s.used.Store(time.Now().UnixNano())
		if _, err := s.remote.Write(buffer[:n]); err == nil {
			r.flow.received.Add(float64(n))
		}
	}
}

// open begins a session where there are as many already.
func (r *relay) open(ctx context.Context, already int) (*session, error) {
	if already >= maxSessions {
		return nil, errFull
	}
	remote, err := r.dial(ctx)
	if err != nil {
		return nil, err
	}
	s := &session{remote: remote}
	s.used.Store(time.Now().UnixNano())
	return s, nil
}

// answer passes what comes back on to the client, until the session has been idle for its time or is closed.
func (r *relay) answer(s *session, client net.Addr) {
	defer s.remote.Close()
	buffer := make([]byte, maxDatagram)
	for {
		end := time.Unix(0, s.used.Load()).Add(r.idle)
		if err := s.remote.SetReadDeadline(end); err != nil {
			return
		}
		n, err := s.remote.Read(buffer)
		if isTimeout(err) {
			if time.Now().Before(time.Unix(0, s.used.Load()).Add(r.idle)) {
				continue
			}
			return
		}
		if err != nil {
			return
		}
		s.used.Store(time.Now().UnixNano())
		if _, err := r.local.WriteTo(buffer[:n], client); err == nil {
			r.flow.sent.Add(float64(n))
		}
	}
}

func isTimeout(err error) bool {
	timeout, ok := errors.AsType[net.Error](err)
	return ok && timeout.Timeout()
}
