package control

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"

	"golang.org/x/net/http2"
	"tailscale.com/control/controlbase"
	"tailscale.com/control/controlhttp/controlhttpcommon"
	"tailscale.com/control/controlhttp/controlhttpserver"
	"tailscale.com/net/netutil"
	"tailscale.com/tailcfg"
	"tailscale.com/types/key"
)

// maxRequest bounds what a node may send in one request.
const maxRequest = 1 << 20

// session is one Noise connection of a client, and the one to the test server
// that belongs to it.
type session struct {
	server   *Server
	machine  key.MachinePublic
	upstream http.RoundTripper
}

// serveNoise ends a client's Noise connection and serves the requests in it.
func (s *Server) serveNoise(w http.ResponseWriter, r *http.Request) {
	if !s.beginSession() {
		http.Error(w, "control server is stopping", http.StatusServiceUnavailable)
		return
	}
	defer s.sessions.Done()
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	conn, err := controlhttpserver.AcceptHTTP(ctx, w, r, s.noiseKey, nil)
	if err != nil {
		s.cfg.Logger.Debug("Noise handshake failed", "from", r.RemoteAddr, "error", err)
		return
	}
	// http2 ends with the connection, not with the context.
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	defer conn.Close()

	machine := s.upstreamMachine(conn.Peer())
	upstream := &http2.Transport{
		AllowHTTP: true, // Noise encrypts
		DialTLSContext: func(dialCtx context.Context, _, _ string, _ *tls.Config) (net.Conn, error) {
			up, err := s.dialUpstream(dialCtx, machine)
			if err != nil {
				return nil, err
			}
			context.AfterFunc(ctx, func() { up.Close() })
			return up, nil
		},
	}
	session := &session{server: s, machine: conn.Peer(), upstream: upstream}
	new(http2.Server).ServeConn(conn, &http2.ServeConnOpts{Context: ctx, Handler: session.handler()})
}

func (s *Server) beginSession() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.sessions.Add(1)
	return true
}

// endSessions waits for the sessions, whose contexts have ended.
func (s *Server) endSessions() {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.sessions.Wait()
}

// upstreamMachine returns the key that stands for a client's machine at the
// test server, which takes the machine key of a connection for its owner.
func (s *Server) upstreamMachine(client key.MachinePublic) key.MachinePrivate {
	s.mu.Lock()
	defer s.mu.Unlock()
	private, ok := s.machines[client]
	if !ok {
		private = key.NewMachine()
		s.machines[client] = private
	}
	return private
}

// dialUpstream opens a Noise connection to the test server.
func (s *Server) dialUpstream(ctx context.Context, machine key.MachinePrivate) (_ net.Conn, err error) {
	const version = uint16(tailcfg.CurrentCapabilityVersion)
	hello, finish, err := controlbase.ClientDeferred(machine, s.upstreamKey, version)
	if err != nil {
		return nil, fmt.Errorf("begin handshake: %w", err)
	}
	conn, err := s.inner.Dial(ctx, "tcp", s.inner.Addr().String())
	if err != nil {
		return nil, fmt.Errorf("dial test control server: %w", err)
	}
	defer func() {
		if err != nil {
			conn.Close()
		}
	}()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://testcontrol/ts2021", nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Upgrade", controlhttpcommon.UpgradeHeaderValue)
	req.Header.Set("Connection", "upgrade")
	req.Header.Set(controlhttpcommon.HandshakeHeaderName, base64.StdEncoding.EncodeToString(hello))
	if err := req.Write(conn); err != nil {
		return nil, fmt.Errorf("ask for upgrade: %w", err)
	}
	buffered := bufio.NewReader(conn)
	res, err := http.ReadResponse(buffered, req)
	if err != nil {
		return nil, fmt.Errorf("read upgrade: %w", err)
	}
	if res.StatusCode != http.StatusSwitchingProtocols {
		return nil, fmt.Errorf("test control server refused upgrade: %s", res.Status)
	}
	up, err := finish(ctx, netutil.NewDrainBufConn(conn, buffered))
	if err != nil {
		return nil, fmt.Errorf("finish handshake: %w", err)
	}
	return up, nil
}

// handler serves the requests inside the Noise connection. Those that the test
// server doesn't know are not passed on: it would panic.
func (c *session) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /machine/register", c.register)
	mux.HandleFunc("POST /machine/map", c.serveMap)
	mux.HandleFunc("POST /machine/update-health", func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusNoContent)
	})
	mux.HandleFunc("POST /c2n/{token}", c.server.serveReply)
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		c.server.cfg.Logger.Debug("request not supported", "path", r.URL.Path)
		http.Error(w, "not supported by this test control server", http.StatusNotFound)
	})
	return mux
}

// readRequest decodes the body of r into v, or answers with an error.
func readRequest(w http.ResponseWriter, r *http.Request, v any) bool {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxRequest))
	if err == nil {
		err = json.Unmarshal(body, v)
	}
	if err != nil {
		http.Error(w, "bad request: "+err.Error(), http.StatusBadRequest)
		return false
	}
	return true
}

// forward sends body to the test server. The caller closes the response.
func (c *session) forward(ctx context.Context, path string, body any) (*http.Response, error) {
	encoded, err := json.Marshal(body)
	if err != nil {
		return nil, fmt.Errorf("encode request: %w", err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://testcontrol"+path, bytes.NewReader(encoded))
	if err != nil {
		return nil, err
	}
	res, err := c.upstream.RoundTrip(req)
	if err != nil {
		return nil, fmt.Errorf("forward to test control server: %w", err)
	}
	if res.StatusCode != http.StatusOK {
		message, _ := io.ReadAll(io.LimitReader(res.Body, 1<<10))
		return nil, errors.Join(fmt.Errorf("test control server: %s: %s", res.Status, message), res.Body.Close())
	}
	return res, nil
}
