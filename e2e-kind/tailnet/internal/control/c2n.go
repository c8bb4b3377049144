package control

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"golang.org/x/sync/errgroup"
	"tailscale.com/tailcfg"
	"tailscale.com/types/key"
)

const (
	c2nTimeout = 5 * time.Second        // for a node to answer
	c2nRetry   = 250 * time.Millisecond // after it didn't
)

var errNotConnected = errors.New("node is not connected")

// addStream makes a node's stream available for requests to the node.
func (s *Server) addStream(nodeKey key.NodePublic, stream *mapStream) {
	s.mu.Lock()
	s.streams[nodeKey] = stream
	s.mu.Unlock()
	wake(s.fetch)
}

func (s *Server) dropStream(nodeKey key.NodePublic, stream *mapStream) {
	stream.close()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.streams[nodeKey] == stream {
		delete(s.streams, nodeKey)
	}
}

func (s *Server) stream(nodeKey key.NodePublic) *mapStream {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.streams[nodeKey]
}

// fetchServices keeps the lists of the services that nodes offer up to date.
// A node announces a change by a hash; the list has to be asked for. Each node
// gets one question at a time.
func (s *Server) fetchServices(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	done := make(chan key.NodePublic)
	asking := map[key.NodePublic]bool{}
	for {
		select {
		case <-ctx.Done():
			return g.Wait()
		case nodeKey := <-done:
			delete(asking, nodeKey)
		case <-s.fetch:
		}
		for nodeKey, announced := range s.cfg.State.NeedServices() {
			if asking[nodeKey] || s.stream(nodeKey) == nil {
				continue // it wakes this loop when that changes
			}
			asking[nodeKey] = true
			g.Go(func() error {
				s.fetchFrom(ctx, nodeKey, announced)
				select {
				case done <- nodeKey:
				case <-ctx.Done():
				}
				return nil
			})
		}
	}
}

func (s *Server) fetchFrom(ctx context.Context, nodeKey key.NodePublic, announced string) {
	list, err := s.askServices(ctx, nodeKey)
	if err != nil {
		if ctx.Err() == nil {
			s.cfg.Logger.Debug("list of services not fetched", "node", nodeKey.ShortString(), "error", err)
		}
		select {
		case <-time.After(c2nRetry):
		case <-ctx.Done():
		}
		return
	}
	var names []tailcfg.ServiceName
	for _, svc := range list.VIPServices {
		if svc.Active {
			names = append(names, svc.Name)
		}
	}
	s.cfg.State.SetServices(nodeKey, announced, names, list.ServicesHash)
}

func (s *Server) askServices(ctx context.Context, nodeKey key.NodePublic) (*tailcfg.C2NVIPServicesResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, c2nTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://node/vip-services", nil)
	if err != nil {
		return nil, err
	}
	res, err := s.askNode(ctx, nodeKey, req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("node answered %s", res.Status)
	}
	list := new(tailcfg.C2NVIPServicesResponse)
	if err := json.NewDecoder(res.Body).Decode(list); err != nil {
		return nil, fmt.Errorf("decode node's answer: %w", err)
	}
	return list, nil
}

// askNode sends a request to a node through its map stream.
func (s *Server) askNode(ctx context.Context, nodeKey key.NodePublic, req *http.Request) (*http.Response, error) {
	var payload bytes.Buffer
	if err := req.Write(&payload); err != nil {
		return nil, fmt.Errorf("encode request: %w", err)
	}
	stream := s.stream(nodeKey)
	if stream == nil {
		return nil, errNotConnected
	}
	token := rand.Text()
	reply := make(chan *http.Response, 1)
	s.mu.Lock()
	s.replies[token] = reply
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.replies, token)
	}()
	err := stream.send(&tailcfg.MapResponse{PingRequest: &tailcfg.PingRequest{
		URL:     "https://control/c2n/" + token,
		Types:   "c2n",
		Payload: payload.Bytes(),
	}})
	if err != nil {
		return nil, fmt.Errorf("send request: %w", err)
	}
	select {
	case res := <-reply:
		return res, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// serveReply takes a node's answer to a request.
func (s *Server) serveReply(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 16*maxRequest))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	res, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(body)), nil)
	if err != nil {
		http.Error(w, "body is not an HTTP response: "+err.Error(), http.StatusBadRequest)
		return
	}
	token := r.PathValue("token")
	s.mu.Lock()
	reply, ok := s.replies[token]
	delete(s.replies, token)
	s.mu.Unlock()
	if !ok {
		http.Error(w, "nobody waits for this answer", http.StatusNotFound)
		return
	}
	reply <- res
	w.WriteHeader(http.StatusNoContent)
}
