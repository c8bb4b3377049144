package etcd

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"

	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sync/errgroup"

	"github.com/tailgate-project/tailgate/hub/store"
	"github.com/tailgate-project/tailgate/hub/store/codec"
)

const (
	// partBytes is the length of a part.
	partBytes = maxBytes
	// abreast is how many requests of a big batch are under way at once.
	abreast = 4
)

// commitParts stores a batch that is too big for one transaction. Once the head names its parts it is stored: from there
// on nothing fails, what could not be done yet is done before the next commit or reader.
func (d *DB) commitParts(ctx context.Context, next head, objects []codec.Object) error {
	d.litter = true
	var err error
	if next.pending, err = d.putParts(ctx, objects); err != nil {
		return fmt.Errorf("store a big batch in parts: %w", err)
	}
	if err := d.step(ctx, next); err != nil {
		return fmt.Errorf("store a big batch: %w", err)
	}
	d.litter = false
	if err := d.apply(ctx, objects); err != nil {
		d.opts.Log.Warn("a batch is stored but not at its place: that is made up for before the next", "store", string(d.keys), "err", err)
	}
	return nil
}

// putParts writes the objects in parts that nothing names yet.
func (d *DB) putParts(ctx context.Context, objects []codec.Object) (pending, error) {
	d.stamp++
	p := pending{epoch: d.head.epoch, stamp: d.stamp}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(abreast)
	sum := uint32(0)
	put := func(part []byte) {
		sum = crc32.Update(sum, castagnoli, part)
		key := d.keys.part(p, p.parts)
		p.parts, p.size = p.parts+1, p.size+uint64(len(part))
		g.Go(func() error { return d.write(ctx, clientv3.OpPut(key, string(part))) })
	}
	var part []byte
	for _, o := range objects {
		part = appendObject(part, o)
		for len(part) >= partBytes {
			put(part[:partBytes:partBytes])
			part = append([]byte(nil), part[partBytes:]...)
		}
	}
	if len(part) > 0 {
		put(part)
	}
	p.sum = uint64(sum)
	return p, g.Wait()
}

// finish puts the objects of the batch that the head names where they belong, if it names one.
func (d *DB) finish(ctx context.Context, objects []codec.Object) error {
	if d.head.pending.parts == 0 {
		return nil
	}
	if err := d.apply(ctx, objects); err != nil {
		return fmt.Errorf("finish a big batch: %w", err)
	}
	return nil
}

// apply puts the objects of the batch that the head names where they belong, and lets go of its parts.
func (d *DB) apply(ctx context.Context, objects []codec.Object) error {
	g, writes := errgroup.WithContext(ctx)
	g.SetLimit(abreast)
	for chunk := range d.chunks(objects) {
		g.Go(func() error { return d.write(writes, d.ops(chunk)...) })
	}
	if err := g.Wait(); err != nil {
		return err
	}
	next := d.head
	next.pending = pending{}
	ops := []clientv3.Op{clientv3.OpDelete(d.keys.parts(), clientv3.WithPrefix())}
	// The head says already which records are kept, so all older ones go.
	return d.step(ctx, next, append(ops, d.trimmed(head{}, next)...)...)
}

// readParts reads the batch that the head names. Without one it returns nothing.
func (d *DB) readParts(ctx context.Context) ([]codec.Object, error) {
	p := d.head.pending
	if p.parts == 0 {
		return nil, nil
	}
	var all []byte
	for n := range p.parts {
		resp, err := d.get(ctx, clientv3.OpGet(d.keys.part(p, n)))
		if err != nil {
			return nil, fmt.Errorf("read part %d of a big batch: %w", n+1, err)
		}
		for _, kv := range resp.Kvs {
			all = append(all, kv.Value...)
		}
		if len(resp.Kvs) == 0 {
			if err := d.moved(ctx); err != nil {
				return nil, err
			}
			return nil, fmt.Errorf("%w: part %d of %d is missing: %s", store.ErrCorrupt, n+1, p.parts, cure)
		}
	}
	if uint64(len(all)) != p.size || uint64(crc32.Checksum(all, castagnoli)) != p.sum {
		return nil, fmt.Errorf("%w: the checksum of the parts is another one: %s", store.ErrCorrupt, cure)
	}
	return splitObjects(all)
}

// moved fails with a refusal if the head is no longer as we know it.
func (d *DB) moved(ctx context.Context) error { return d.write(ctx, d.identify()...) }

// appendObject appends kind, length of the key, key, length of the value plus one, value. An object that is deleted has
// no value, and a length of 0.
func appendObject(b []byte, o codec.Object) []byte {
	b = append(b, byte(o.Kind))
	b = append(binary.AppendUvarint(b, uint64(len(o.Key))), o.Key...)
	if o.Value == nil {
		return binary.AppendUvarint(b, 0)
	}
	return append(binary.AppendUvarint(b, uint64(len(o.Value))+1), o.Value...)
}

var errCutShort = errors.New("it is cut short")

// splitObjects is the reverse of appendObject. It keeps the memory.
func splitObjects(b []byte) ([]codec.Object, error) {
	var out []codec.Object
	for len(b) > 0 {
		o, rest, err := splitObject(b)
		if err != nil {
			return nil, fmt.Errorf("%w: object %d of a big batch: %w: %s", store.ErrCorrupt, len(out)+1, err, cure)
		}
		out, b = append(out, o), rest
	}
	return out, nil
}

func splitObject(b []byte) (o codec.Object, rest []byte, err error) {
	o.Kind, b = codec.Kind(b[0]), b[1:]
	if o.Key, b, err = splitBytes(b, 0); err != nil {
		return o, nil, err
	}
	if o.Value, b, err = splitBytes(b, 1); err != nil {
		return o, nil, err
	}
	switch {
	case len(o.Key) == 0:
		return o, nil, errors.New("it has no key")
	case o.Value == nil && (o.Kind < codec.VIP || o.Kind > codec.Policy):
		return o, nil, fmt.Errorf("%s is deleted", o)
	case o.Value != nil:
		return o, b, o.Check()
	}
	return o, b, nil
}

// splitBytes takes a length, from which more is subtracted, and as many bytes. Of a length below that it returns nil.
func splitBytes(b []byte, more uint64) (taken, rest []byte, err error) {
	n, used := binary.Uvarint(b)
	if used <= 0 {
		return nil, nil, errCutShort
	}
	b = b[used:]
	if n < more {
		return nil, b, nil
	}
	if n -= more; n > uint64(len(b)) {
		return nil, nil, errCutShort
	}
	return b[:n:n], b[n:], nil
}
