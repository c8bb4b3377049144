package bolt

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"

	"go.etcd.io/bbolt"

	"github.com/tailgate-project/tailgate/hub/store"
	"github.com/tailgate-project/tailgate/hub/store/codec"
)

var (
	metaBucket = []byte("meta")
	// headKey is where the head stands, since schema 2. Of every schema, it begins with the schema's number and ends in
	// a checksum, so that a newer store is told from a damaged one.
	headKey = []byte("head")
)

// head is what a store knows of all that is in it. It is written with each commit, so that an object that vanished
// whole, or came back from a page that was given up, is missed.
type head struct {
	schema, epoch uint64
	// first is the oldest number that the journal keeps, last the newest that it gave; first is last+1 if it is empty.
	first, last uint64
	// totals are those of the objects of each kind.
	totals [codec.Journal]total
}

// total sums up the objects of a kind: how many there are, their checksums, and the length of their keys and values in
// bytes. The sum wraps around.
type total struct{ count, sum, bytes uint64 }

// of returns the total of a kind.
func (h *head) of(k codec.Kind) *total { return &h.totals[k-1] }

// add counts an object in.
func (t *total) add(key, value []byte) {
	t.count++
	t.sum += checksum(value)
	t.bytes += uint64(len(key) + len(value))
}

// drop counts an object out.
func (t *total) drop(key, value []byte) {
	t.count--
	t.sum -= checksum(value)
	t.bytes -= uint64(len(key) + len(value))
}

// checksum returns the checksum at the end of an object's value.
func checksum(value []byte) uint64 {
	return uint64(binary.LittleEndian.Uint32(value[len(value)-crc32.Size:]))
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func (h head) encode() []byte {
	b := make([]byte, 0, 8*(4+3*len(h.totals))+crc32.Size)
	for _, n := range []uint64{h.schema, h.epoch, h.first, h.last} {
		b = binary.BigEndian.AppendUint64(b, n)
	}
	for _, t := range h.totals {
		for _, n := range []uint64{t.count, t.sum, t.bytes} {
			b = binary.BigEndian.AppendUint64(b, n)
		}
	}
	return binary.BigEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

// decodeHead fails with [store.ErrSchema] for the head of a newer schema, which may look different.
func decodeHead(b []byte) (head, error) {
	var h head
	end := len(b) - crc32.Size
	if end < 8 || crc32.Checksum(b[:end], castagnoli) != binary.BigEndian.Uint32(b[end:]) {
		return h, fmt.Errorf("%w: the checksum of its head is another one", store.ErrCorrupt)
	}
	if v := binary.BigEndian.Uint64(b); v != codec.Schema {
		return h, unknownSchema(v)
	}
	if end != 8*(4+3*len(h.totals)) {
		return h, fmt.Errorf("%w: its head has %d bytes", store.ErrCorrupt, len(b))
	}
	next := func() (n uint64) {
		n, b = binary.BigEndian.Uint64(b), b[8:]
		return n
	}
	h.schema, h.epoch, h.first, h.last = next(), next(), next(), next()
	for i := range h.totals {
		h.totals[i] = total{count: next(), sum: next(), bytes: next()}
	}
	if h.first == 0 || h.first > h.last+1 || h.of(codec.Journal).count != h.last+1-h.first {
		return h, fmt.Errorf("%w: its journal of %d records goes from %d to %d", store.ErrCorrupt, h.of(codec.Journal).count, h.first, h.last)
	}
	return h, nil
}

func unknownSchema(v uint64) error {
	return fmt.Errorf("%w %d, this version of Tailgate knows %d: use the version that wrote it", store.ErrSchema, v, codec.Schema)
}

// readHead returns the head as the transaction sees it.
func readHead(tx *bbolt.Tx) (head, error) {
	meta := tx.Bucket(metaBucket)
	if meta == nil {
		return head{}, fmt.Errorf("%w: it is no Tailgate store", store.ErrCorrupt)
	}
	return decodeHead(meta.Get(headKey))
}

func writeHead(tx *bbolt.Tx, h head) error { return tx.Bucket(metaBucket).Put(headKey, h.encode()) }

// bucketOf returns the bucket of a kind.
func bucketOf(tx *bbolt.Tx, k codec.Kind) *bbolt.Bucket { return tx.Bucket([]byte(k.String())) }

// layOut makes the buckets of an empty store, whose journal goes on after a number.
func layOut(tx *bbolt.Tx, epoch, journal uint64) (head, error) {
	h := head{schema: codec.Schema, epoch: epoch, first: journal + 1, last: journal}
	if _, err := tx.CreateBucket(metaBucket); err != nil {
		return h, fmt.Errorf("create bucket %s: %w", metaBucket, err)
	}
	for _, k := range codec.Kinds() {
		if _, err := tx.CreateBucket([]byte(k.String())); err != nil {
			return h, fmt.Errorf("create bucket %s: %w", k, err)
		}
	}
	return h, writeHead(tx, h)
}

// put stores an object that was just encoded, or deletes it if it has no value.
func (h *head) put(b *bbolt.Bucket, o codec.Object) error {
	t := h.of(o.Kind)
	if old := b.Get(o.Key); old != nil {
		t.drop(o.Key, old)
	}
	if o.Value == nil {
		return b.Delete(o.Key)
	}
	t.add(o.Key, o.Value)
	return b.Put(o.Key, o.Value)
}

// inventory compares what a file holds with its head.
type inventory struct {
	// old is the schema of a store that has no head.
	old    uint64
	head   head
	found  head
	kinds  map[string]codec.Kind
	record uint64
}

// inspect looks through a whole file: its pages, the checksum of every object, and that none is missing. It returns the
// schema, and fails with [store.ErrCorrupt] or [store.ErrSchema].
func inspect(m *image) (schema uint64, err error) {
	inv := inventory{kinds: map[string]codec.Kind{}}
	for _, k := range codec.Kinds() {
		inv.kinds[k.String()] = k
	}
	buckets, err := m.buckets()
	if err != nil {
		return 0, err
	}
	m.leaf = inv.meta
	for i, b := range buckets {
		if b.name == string(metaBucket) {
			if err := m.walk(b); err != nil {
				return 0, err
			}
			buckets = append(buckets[:i], buckets[i+1:]...)
			break
		}
	}
	if inv.old == 0 && inv.head.schema == 0 {
		return 0, errors.New("it is no Tailgate store")
	}
	m.leaf = inv.object
	for _, b := range buckets {
		if err := m.walk(b); err != nil {
			return 0, err
		}
	}
	if err := m.free(); err != nil {
		return 0, err
	}
	return inv.head.schema + inv.old, inv.compare(len(buckets))
}

// meta takes what the meta bucket says of the store.
func (inv *inventory) meta(_ string, key, value []byte) (err error) {
	switch {
	case string(key) == string(headKey):
		inv.head, err = decodeHead(value)
	case string(key) == "schema" && codec.Sequence(value) == schemaJSON:
		inv.old = schemaJSON
	}
	return err
}

// object counts an object of the present schema.
func (inv *inventory) object(bucket string, key, value []byte) error {
	if inv.old != 0 {
		return nil // has no checksums; the migration decodes it
	}
	o := codec.Object{Kind: inv.kinds[bucket], Key: key, Value: value}
	if o.Kind == 0 {
		return fmt.Errorf("bucket %q is unknown", bucket)
	}
	if _, err := o.Sum(); err != nil {
		return err
	}
	inv.found.of(o.Kind).add(key, value)
	if o.Kind == codec.Journal {
		if inv.record == 0 {
			inv.record = inv.head.first
		}
		if codec.Sequence(key) != inv.record {
			return fmt.Errorf("journal %d stands where %d should", codec.Sequence(key), inv.record)
		}
		inv.record++
	}
	return nil
}

// compare fails if anything is missing or too much.
func (inv *inventory) compare(buckets int) error {
	if inv.old != 0 {
		return nil
	}
	if buckets != len(codec.Kinds()) {
		return fmt.Errorf("it has %d buckets, want %d", buckets, len(codec.Kinds()))
	}
	for _, k := range codec.Kinds() {
		if want, got := *inv.head.of(k), *inv.found.of(k); want != got {
			return fmt.Errorf("of %d %s there are %d, or others", want.count, k, got.count)
		}
	}
	return nil
}
