package probe

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
)

// One call of grpc.health.v1 is an HTTP/2 request with a message of one field, and its answer another. This is all of
// gRPC that a check needs, and costs a fraction of a client connection.

const (
	healthMethod = "/grpc.health.v1.Health/Check"
	// serving is the ServingStatus of a service that is well.
	serving = 1
	// messageHeader is the length of what precedes a message: whether it is compressed, and its length.
	messageHeader = 5
)

// codes are the names of gRPC's statuses, by number.
var codes = []string{
	"ok", "canceled", "unknown", "invalid-argument", "deadline-exceeded", "not-found", "already-exists", "permission-denied",
	"resource-exhausted", "failed-precondition", "aborted", "out-of-range", "unimplemented", "internal", "unavailable",
	"data-loss", "unauthenticated",
}

const (
	codeNotFound      = 5
	codeUnimplemented = 12
)

// askGRPC wants a service that is serving.
func (c *Check) askGRPC(ctx context.Context, conn net.Conn, r Remote) error {
	message := healthRequest(c.Service)
	request := &http.Request{
		Method: http.MethodPost, URL: &url.URL{Path: healthMethod}, Host: c.host(r), ProtoMajor: 2,
		Header: http.Header{"Content-Type": {"application/grpc"}, "Te": {"trailers"}},
		Body:   io.NopCloser(bytes.NewReader(message)), ContentLength: int64(len(message)),
	}
	response, err := roundTrip(ctx, conn, request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if !strings.HasPrefix(response.Header.Get("Content-Type"), "application/grpc") {
		if response.StatusCode != http.StatusOK {
			return fail(statusReason(response.StatusCode), "the answer has status %s and is not of gRPC", response.Status)
		}
		return fail(WrongProtocol, "the answer is not of gRPC but %q", response.Header.Get("Content-Type"))
	}
	body, err := io.ReadAll(io.LimitReader(response.Body, maxBody))
	if err != nil {
		return answerError(ctx, "read the answer", err)
	}
	// Where there is no message, the status comes in place of the headers.
	status := response.Trailer.Get("Grpc-Status")
	if status == "" {
		status = response.Header.Get("Grpc-Status")
	}
	if err := grpcError(status); err != nil {
		return err
	}
	state, err := healthResponse(body)
	if err != nil {
		return fail(WrongProtocol, "read the answer: %w", err)
	}
	if state != serving {
		return fail(NotServing, "the service %q has serving status %d", c.Service, state)
	}
	return nil
}

// grpcError returns nil for the status of a call that succeeded.
func grpcError(status string) error {
	code, err := strconv.Atoi(status)
	switch {
	case err != nil:
		return fail(WrongProtocol, "the answer has no status of gRPC but %q", status)
	case code == 0:
		return nil
	case code == codeNotFound:
		return fail(UnknownService, "the server does not know the service")
	case code == codeUnimplemented:
		return fail(NoHealthService, "the server has no health service")
	case code < 0 || code >= len(codes):
		return fail("grpc-unknown", "the call failed with status %d", code)
	}
	return fail(Reason("grpc-"+codes[code]), "the call failed")
}

// healthRequest is a HealthCheckRequest with what precedes it: field 1 is the service.
func healthRequest(service string) []byte {
	var fields []byte
	if service != "" {
		fields = binary.AppendUvarint([]byte{1<<3 | wireBytes}, uint64(len(service)))
		fields = append(fields, service...)
	}
	return append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(fields))), fields...)
}

// The ways in which protobuf writes a field.
const (
	wireVarint  = 0
	wireFixed64 = 1
	wireBytes   = 2
	wireFixed32 = 5
)

// healthResponse returns field 1 of a HealthCheckResponse, which is 0 where it is not there.
func healthResponse(body []byte) (state int32, err error) {
	if len(body) < messageHeader || body[0] != 0 || uint64(binary.BigEndian.Uint32(body[1:])) != uint64(len(body)-messageHeader) {
		return 0, errors.New("not a message as it was asked for")
	}
	for fields := body[messageHeader:]; len(fields) > 0; {
		tag, n := binary.Uvarint(fields)
		if n <= 0 {
			return 0, errMessage
		}
		value, m := binary.Uvarint(fields[n:])
		size := 0
		switch tag & 7 {
		case wireVarint:
			size = m
		case wireFixed64:
			size, m = 8, 8
		case wireFixed32:
			size, m = 4, 4
		case wireBytes:
			if m > 0 && value <= uint64(len(fields)) {
				size = m + int(value)
			}
		}
		if m <= 0 || size == 0 || len(fields) < n+size {
			return 0, errMessage
		}
		if tag == 1<<3|wireVarint {
			state = int32(value)
		}
		fields = fields[n+size:]
	}
	return state, nil
}

// errMessage reports bytes that are not a message of protobuf.
var errMessage = errors.New("not a message of protobuf")
