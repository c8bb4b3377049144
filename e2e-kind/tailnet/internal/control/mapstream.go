package control

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	"tailscale.com/tailcfg"
	"tailscale.com/util/zstdframe"

	"github.com/tailgate-project/tailgate/e2e-kind/tailnet/internal/state"
)

// maxMessage bounds a message of the test server.
const maxMessage = 64 << 20

// unavailable is what a node reads that [state.State.SetOffline] cut off.
const unavailable = "control server is made unavailable to this node"

// mapStream writes network maps to a node.
type mapStream struct {
	compress bool

	mu    sync.Mutex
	w     http.ResponseWriter
	last  []byte           // the newest map sent, as JSON
	peers []tailcfg.NodeID // in it
}

// serveMap serves a map request: a node reporting about itself, or a stream
// of network maps, or both.
func (c *session) serveMap(w http.ResponseWriter, r *http.Request) {
	var req tailcfg.MapRequest
	if !readRequest(w, r, &req) {
		return
	}
	st := c.server.cfg.State
	switch admitted := st.Admit(req.NodeKey, c.machine); {
	case !admitted.Known:
		http.Error(w, "node not found", http.StatusNotFound)
		return
	case admitted.Blocked:
		http.Error(w, unavailable, http.StatusServiceUnavailable)
		return
	}
	// Clients report in requests of their own; what is in those for a stream
	// doesn't count.
	if !req.Stream || req.Version < 68 {
		st.Update(state.Report{NodeKey: req.NodeKey, Hostinfo: req.Hostinfo, Endpoints: req.Endpoints})
		wake(c.server.fetch)
	}
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	stream := &mapStream{w: w, compress: req.Compress == "zstd"}
	req.Compress = ""
	streaming := req.Stream
	if streaming {
		log := c.server.cfg.Logger.With("node", req.NodeKey.ShortString())
		log.Debug("node connected")
		defer log.Debug("node disconnected")
		defer st.Connect(req.NodeKey, cancel)()
		defer c.server.dropStream(req.NodeKey, stream)
	}
	res, err := c.forward(ctx, r.URL.Path, req)
	if err != nil {
		if ctx.Err() == nil {
			c.server.cfg.Logger.Error("map request failed", "error", err)
		}
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	defer res.Body.Close()
	if !req.Stream && req.OmitPeers {
		return // a report only: the client doesn't read an answer
	}
	if err := c.copyMaps(ctx, stream, res.Body, &req); err != nil && ctx.Err() == nil {
		c.server.cfg.Logger.Debug("map stream ended", "error", err)
	}
}

// copyMaps passes the test server's maps on until one of both ends hangs up.
func (c *session) copyMaps(ctx context.Context, stream *mapStream, from io.Reader, req *tailcfg.MapRequest) error {
	for first := true; ; first = false {
		message, err := readMessage(from)
		if err != nil {
			return err
		}
		start := time.Now()
		var res tailcfg.MapResponse
		if err := json.Unmarshal(message, &res); err != nil {
			return fmt.Errorf("decode map: %w", err)
		}
		if res.Node == nil { // a keep-alive
			if err := stream.send(&res); err != nil {
				return err
			}
			continue
		}
		known := amend(&res, req.NodeKey, c.server.cfg.State.View())
		if err := stream.sendMap(&res); err != nil {
			return err
		}
		c.server.mapping.Add(int64(time.Since(start)))
		if !known || !req.Stream || ctx.Err() != nil {
			return nil
		}
		if first {
			c.server.addStream(req.NodeKey, stream)
		}
	}
}

func readMessage(r io.Reader) ([]byte, error) {
	var size [4]byte
	if _, err := io.ReadFull(r, size[:]); err != nil {
		return nil, err
	}
	n := binary.LittleEndian.Uint32(size[:])
	if n > maxMessage {
		return nil, fmt.Errorf("message of %d bytes is too long", n)
	}
	message := make([]byte, n)
	_, err := io.ReadFull(r, message)
	return message, err
}

// sendMap sends a full network map, or only a sign of life if the node has
// just the same one.
func (m *mapStream) sendMap(res *tailcfg.MapResponse) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	encoded, err := json.Marshal(res)
	if err != nil {
		return fmt.Errorf("encode map: %w", err)
	}
	if bytes.Equal(encoded, m.last) {
		return m.writeLocked([]byte(`{"KeepAlive":true}`))
	}
	m.last = encoded
	before := m.peers
	m.peers = nil
	for _, p := range res.Peers {
		m.peers = append(m.peers, p.ID)
	}
	if len(m.peers) == 0 && len(before) > 0 {
		// On the wire, no peers means as before.
		res.PeersRemoved = before
		if encoded, err = json.Marshal(res); err != nil {
			return fmt.Errorf("encode map: %w", err)
		}
	}
	return m.writeLocked(encoded)
}

// send sends a message that is not a network map.
func (m *mapStream) send(res *tailcfg.MapResponse) error {
	encoded, err := json.Marshal(res)
	if err != nil {
		return fmt.Errorf("encode message: %w", err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.writeLocked(encoded)
}

func (m *mapStream) writeLocked(message []byte) error {
	if m.w == nil {
		return io.ErrClosedPipe
	}
	if m.compress {
		message = zstdframe.AppendEncode(nil, message, zstdframe.FastestCompression)
	}
	framed := binary.LittleEndian.AppendUint32(make([]byte, 0, 4+len(message)), uint32(len(message)))
	if _, err := m.w.Write(append(framed, message...)); err != nil {
		return err
	}
	return http.NewResponseController(m.w).Flush()
}

// close keeps others from writing after the request has been served.
func (m *mapStream) close() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.w = nil
}
