package probe_test

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/tailgate-project/tailgate/spoke/probe"
)

// framed is a message as gRPC sends it.
func framed(message []byte) []byte {
	return append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(message))), message...)
}

func TestHealthRequestIsOne(t *testing.T) {
	for _, service := range []string{"", "grpc.health.v1.Health", strings.Repeat("long", 100)} {
		want, err := proto.MarshalOptions{Deterministic: true}.Marshal(&grpc_health_v1.HealthCheckRequest{Service: service})
		if err != nil {
			t.Fatal(err)
		}
		if got := probe.HealthRequest(service); string(got) != string(framed(want)) {
			t.Errorf("service %q: got %x, want %x", service, got, framed(want))
		}
	}
}

// FuzzHealthResponse compares with protobuf's own reading of the same bytes.
func FuzzHealthResponse(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte{1 << 3, 1})
	f.Add([]byte{1 << 3, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1})
	f.Add(protowire.AppendString(protowire.AppendTag([]byte{1 << 3, 2}, 7, protowire.BytesType), "from a later version"))
	f.Add(protowire.AppendFixed64(protowire.AppendTag(nil, 3, protowire.Fixed64Type), 9))
	f.Add(protowire.AppendFixed32(protowire.AppendTag(nil, 1, protowire.Fixed32Type), 9))
	f.Add([]byte{2<<3 | 2, 0xff, 0xff, 0xff, 0xff, 0x0f})
	f.Add([]byte{3<<3 | 3, 3<<3 | 4})
	f.Fuzz(func(t *testing.T, message []byte) {
		got, err := probe.HealthResponse(framed(message))
		var want grpc_health_v1.HealthCheckResponse
		wantErr := proto.Unmarshal(message, &want)
		switch {
		case err == nil && wantErr == nil && got != int32(want.GetStatus()):
			t.Errorf("%x: got %d, want %d", message, got, want.GetStatus())
		case err != nil && wantErr == nil && !hasGroup(message):
			t.Errorf("%x: %v, but it is a message", message, err)
		}
		if _, err := probe.HealthResponse(message); err == nil && (len(message) < 5 || message[0] != 0) {
			t.Errorf("%x is taken for a framed message", message)
		}
	})
}

// hasGroup reports whether a message has a group, which nobody has written since protobuf's second version.
func hasGroup(message []byte) bool {
	for len(message) > 0 {
		_, kind, n := protowire.ConsumeField(message)
		if n < 0 || kind == protowire.StartGroupType {
			return true
		}
		message = message[n:]
	}
	return false
}

// hungUp is a connection whose peer has said something and hung up.
type hungUp struct {
	net.Conn
	said   io.Reader
	unread error
	unsent error
}

func (c *hungUp) Read(p []byte) (int, error) {
	n, err := c.said.Read(p)
	if errors.Is(err, io.EOF) {
		err = c.unread
	}
	return n, err
}

func (c *hungUp) Write(p []byte) (int, error) {
	if c.unsent != nil {
		return 0, c.unsent
	}
	return len(p), nil
}

// TestWhatAPeerSaidBeforeItHungUp is about the moment in which the first write fails and the answer is there already.
func TestWhatAPeerSaidBeforeItHungUp(t *testing.T) {
	const rejection = "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"
	for name, tc := range map[string]struct {
		said           string
		unread, unsent error
		want           probe.Reason
	}{
		"rejects-and-resets":      {rejection, syscall.ECONNRESET, syscall.EPIPE, probe.WrongProtocol},
		"rejects-and-closes":      {rejection, io.EOF, syscall.EPIPE, probe.WrongProtocol},
		"rejects-what-was-sent":   {rejection, io.EOF, nil, probe.WrongProtocol},
		"resets":                  {"", syscall.ECONNRESET, syscall.EPIPE, probe.Reset},
		"resets-in-the-middle":    {rejection[:4], syscall.ECONNRESET, nil, probe.Reset},
		"closes":                  {"", io.EOF, nil, probe.Closed},
		"says-something-and-goes": {"SSH-2.0-OpenSSH_10.0\r\n", io.EOF, syscall.EPIPE, probe.WrongProtocol},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				target := fast("target", hostA)
				target.Check = &probe.Check{Kind: probe.GRPC}
				n, _ := start(t, map[netip.AddrPort]behaviour{hostA: func(context.Context) (net.Conn, error) {
					ours, theirs := net.Pipe()
					return &hungUp{Conn: ours, said: strings.NewReader(tc.said), unread: tc.unread, unsent: tc.unsent}, theirs.Close()
				}}, target)
				wait(2 * time.Second)
				_, results := n.take()
				if len(results) == 0 || results[0].Reason != tc.want {
					t.Errorf("got %+v, want reason %q", results, tc.want)
				}
			})
		})
	}
}
