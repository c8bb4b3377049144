package probe_test

import (
	"encoding/binary"
	"strings"
	"testing"

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
