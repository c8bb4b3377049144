package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/transport/spdy"
)

// podDialer opens connections to ports of pods' loopback interfaces, through the API server. Nothing listens on this machine.
func podDialer(config *rest.Config, clients kubernetes.Interface) func(ctx context.Context, namespace, pod string, port uint16) (net.Conn, error) {
	return func(_ context.Context, namespace, pod string, port uint16) (net.Conn, error) {
		f := &forward{config: config, pod: pod, port: port}
		f.url = clients.CoreV1().RESTClient().Post().Resource("pods").Namespace(namespace).Name(pod).SubResource("portforward").URL()
		return f.dial()
	}
}

// forward is a way to a port of a pod.
type forward struct {
	config *rest.Config
	url    *url.URL
	pod    string
	port   uint16
}

func (f *forward) dial() (net.Conn, error) {
	overWebsocket, err := portforward.NewSPDYOverWebsocketDialer(f.url, f.config)
	if err != nil {
		return nil, fmt.Errorf("forward a port of %s: %w", f.pod, err)
	}
	transport, upgrader, err := spdy.RoundTripperFor(f.config)
	if err != nil {
		return nil, fmt.Errorf("forward a port of %s: %w", f.pod, err)
	}
	overSPDY := spdy.NewDialer(upgrader, &http.Client{Transport: transport}, http.MethodPost, f.url)
	older := func(error) bool { return true } // an API server, or a proxy before it, that does not know the first way
	streams, _, err := portforward.NewFallbackDialer(overWebsocket, overSPDY, older).Dial(portforward.PortForwardProtocolV1Name)
	if err != nil {
		return nil, fmt.Errorf("forward a port of %s: %w; you need the right to create pods/portforward there", f.pod, err)
	}
	c, err := newStream(streams, f.port)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("forward a port of %s: %w", f.pod, err), streams.Close())
	}
	return c, nil
}

// stream is a connection made of the two streams of a forwarded port.
type stream struct {
	io.ReadWriteCloser
	all io.Closer

	mu     sync.Mutex
	reason error
	told   chan struct{}
}

func newStream[S io.ReadWriteCloser, C interface {
	CreateStream(headers http.Header) (S, error)
	io.Closer
}](all C, port uint16,
) (*stream, error) {
	h := http.Header{}
	h.Set(corev1.PortHeader, strconv.Itoa(int(port)))
	h.Set(corev1.PortForwardRequestIDHeader, "0")
	h.Set(corev1.StreamType, corev1.StreamTypeError)
	problems, err := all.CreateStream(h)
	if err != nil {
		return nil, err
	}
	if err := problems.Close(); err != nil { // nothing is to be said in this direction
		return nil, err
	}
	h.Set(corev1.StreamType, corev1.StreamTypeData)
	data, err := all.CreateStream(h)
	if err != nil {
		return nil, err
	}
	s := &stream{ReadWriteCloser: data, all: all, told: make(chan struct{})}
	go s.listen(problems)
	return s, nil
}

// listen waits for why the port cannot be reached. It ends with the connection.
func (s *stream) listen(problems io.Reader) {
	defer close(s.told)
	text, err := io.ReadAll(problems)
	if err == nil && len(text) == 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reason = cmp.Or(err, errors.New(string(text)))
}

// Read reads on, and says why it cannot where the kubelet told.
func (s *stream) Read(b []byte) (int, error) {
	n, err := s.ReadWriteCloser.Read(b)
	if err != nil && n == 0 {
		select {
		case <-s.told:
		case <-time.After(time.Second): // the reason, if there is one, comes at about the same time
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		err = cmp.Or(s.reason, err)
	}
	return n, err
}

// Close ends the connection, and what it is carried by.
func (s *stream) Close() error { return errors.Join(s.ReadWriteCloser.Close(), s.all.Close()) }

type nowhere struct{}

func (nowhere) Network() string { return "portforward" }
func (nowhere) String() string  { return "portforward" }

// LocalAddr and RemoteAddr are none of a network.
func (*stream) LocalAddr() net.Addr { return nowhere{} }

// RemoteAddr is none of a network.
func (*stream) RemoteAddr() net.Addr { return nowhere{} }

// SetDeadline does nothing: requests end with their contexts.
func (*stream) SetDeadline(time.Time) error { return nil }

// SetReadDeadline does nothing.
func (*stream) SetReadDeadline(time.Time) error { return nil }

// SetWriteDeadline does nothing.
func (*stream) SetWriteDeadline(time.Time) error { return nil }
