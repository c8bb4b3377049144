package etcd

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"strings"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/tailgate-project/tailgate/hub/store"
	"github.com/tailgate-project/tailgate/hub/store/codec"
)

// keys is the prefix of a store. It ends in a slash.
type keys string

func toKeys(prefix string) (keys, error) {
	p := strings.TrimRight(prefix, "/")
	if p == "" {
		return "", errors.New("no prefix in etcd: name one for the federation, like /tailgate/production")
	}
	return keys(p + "/"), nil
}

func (k keys) head() string    { return string(k) + "head" }
func (k keys) leaders() string { return string(k) + "leader/" }
func (k keys) parts() string   { return string(k) + "wal/" }

func (k keys) leader(lease clientv3.LeaseID) string {
	return fmt.Sprintf("%s%016x", k.leaders(), uint64(lease))
}

func (k keys) kind(kind codec.Kind) string { return string(k) + kind.String() + "/" }

func (k keys) object(kind codec.Kind, key []byte) string { return k.kind(kind) + string(key) }

func (k keys) part(p pending, n uint64) string {
	return fmt.Sprintf("%s%016x-%016x/%08x", k.parts(), p.epoch, p.stamp, n)
}

// head is what the hub that leads knows of the store and every transaction of it proves to know.
type head struct {
	schema, epoch uint64
	// stamp makes the head differ from all others of its epoch.
	stamp uint64
	// first is the oldest number that the journal keeps, last the newest that it gave; first is last+1 if it is empty.
	first, last uint64
	pending     pending
}

// pending is a batch that is stored in parts and not everywhere it belongs. The zero value is none.
type pending struct {
	// epoch and stamp are in the names of its parts.
	epoch, stamp uint64
	// parts is how many there are, size their length in bytes, sum the checksum of all of it.
	parts, size, sum uint64
}

func newHead() head { return head{schema: codec.Schema, first: 1} }

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

const (
	headNumbers = 10
	headLength  = 8*headNumbers + crc32.Size
)

// encode returns the numbers one after another, and a checksum. Of every schema, a head begins with the schema's number
// and ends in a checksum, so that a newer store is told from a damaged one.
func (h head) encode() []byte {
	b := make([]byte, 0, headLength)
	p := h.pending
	for _, n := range [headNumbers]uint64{h.schema, h.epoch, h.stamp, h.first, h.last, p.epoch, p.stamp, p.parts, p.size, p.sum} {
		b = binary.BigEndian.AppendUint64(b, n)
	}
	return binary.BigEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

// decodeHead fails with [store.ErrSchema] for the head of another schema, which may look different.
func decodeHead(b []byte) (head, error) {
	end := len(b) - crc32.Size
	if end < 8 || crc32.Checksum(b[:end], castagnoli) != binary.BigEndian.Uint32(b[end:]) {
		return head{}, fmt.Errorf("%w: the checksum of its head is another one: %s", store.ErrCorrupt, cure)
	}
	if v := binary.BigEndian.Uint64(b); v != codec.Schema {
		return head{}, fmt.Errorf("%w %d, this version of Tailgate knows %d: use the version that wrote it", store.ErrSchema, v, codec.Schema)
	}
	if len(b) != headLength {
		return head{}, fmt.Errorf("%w: its head has %d bytes: %s", store.ErrCorrupt, len(b), cure)
	}
	next := func() (n uint64) {
		n, b = binary.BigEndian.Uint64(b), b[8:]
		return n
	}
	h := head{
		schema: next(), epoch: next(), stamp: next(), first: next(), last: next(),
		pending: pending{epoch: next(), stamp: next(), parts: next(), size: next(), sum: next()},
	}
	if h.first == 0 || h.first-1 > h.last {
		return head{}, fmt.Errorf("%w: its journal goes from %d to %d: %s", store.ErrCorrupt, h.first, h.last, cure)
	}
	return h, nil
}

// cure is what to do about a store that cannot be read.
const cure = "it was not changed; restore a backup under another prefix, or delete its keys to let the hub rebuild its registry from the members and the tailnet"
