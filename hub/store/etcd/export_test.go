package etcd

import (
	"context"
	"encoding/binary"
	"hash/crc32"
	"slices"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// Requests is what stands between a store and etcd.
type Requests = requests

// MaxBatch is more objects than one transaction takes.
const MaxBatch = maxOps

// PartBytes is the length of a part of a big batch.
const PartBytes = partBytes

// Through returns options of a store whose requests go through what wrap makes.
func (o Options) Through(wrap func(Requests) Requests) Options {
	o.wrap = wrap
	return o
}

// Die ends the store as the death of its process would: nothing is given back, its lease runs on.
func (d *DB) Die() error { return d.client.Close() }

// Lease is the lease under which the store leads.
func (d *DB) Lease() clientv3.LeaseID { return d.seat.session.Lease() }

// Do sends a request.
type Do func(ctx context.Context, op clientv3.Op) (clientv3.OpResponse, error)

// Do implements Requests.
func (f Do) Do(ctx context.Context, op clientv3.Op) (clientv3.OpResponse, error) { return f(ctx, op) }

// SplitObjects and AppendObject are how a big batch is written.
var (
	SplitObjects = splitObjects
	AppendObject = appendObject
)

// DecodeHead decodes a head and encodes it again.
func DecodeHead(b []byte) ([]byte, error) {
	h, err := decodeHead(b)
	return h.encode(), err
}

// NewHead returns the head of an empty store with a schema.
func NewHead(schema uint64) []byte {
	h := newHead()
	h.schema = schema
	return h.encode()
}

// SealHead returns a head with the checksum that belongs to it in the place of its last bytes.
func SealHead(b []byte) []byte {
	b = b[:max(0, len(b)-crc32.Size)]
	return binary.BigEndian.AppendUint32(slices.Clip(b), crc32.Checksum(b, castagnoli))
}
