// Package archive is the form of a backup: the same for every store, so that what one has written another can take in.
//
// An archive is the line "tailgate-backup 1", and after it frames: the length as a varint, a message of api/store, and
// a checksum (CRC-32C) of everything up to there, 4 bytes, little endian. The first frame is the header, then come the
// objects in the order of their kinds and keys, the journal last, and an end that counts them. So whatever is cut off,
// changed, left out, or stands in another place than it should, is found where it is; and an archive without its end is
// never taken for a whole one.
package archive

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
	"iter"
	"math"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	pb "github.com/tailgate-project/tailgate/api/store"
	"github.com/tailgate-project/tailgate/hub/store"
	"github.com/tailgate-project/tailgate/hub/store/codec"
)

const (
	magic   = "tailgate-backup "
	version = "1\n"
	// maxFrame bounds what a damaged length makes a reader allocate. No object is as large.
	maxFrame = 64 << 20
)

// Header says what an archive is of.
type Header struct {
	// Epoch is that of the hub whose store it is. What is restored from it takes a greater one.
	Epoch uint64
	// Taken is when the backup began.
	Taken time.Time
	// Journal is the number of the last decision, also if it is no longer kept: the next one has the next number.
	Journal uint64
}

// Write writes an archive of the objects, which are in the order of [codec.Object.Compare].
func Write(w io.Writer, h Header, objects iter.Seq2[codec.Object, error]) error {
	out := &writer{w: bufio.NewWriterSize(w, 64<<10), sum: crc32.New(castagnoli)}
	if err := out.raw([]byte(magic + version)); err != nil {
		return err
	}
	taken := h.Taken.UnixNano()
	header := &pb.Header{Schema: codec.Schema, Epoch: h.Epoch, Taken: &taken, Journal: h.Journal}
	if err := out.frame(&pb.Frame{Part: &pb.Frame_Header{Header: header}}); err != nil {
		return err
	}
	var count uint64
	for o, err := range objects {
		if err != nil {
			return err
		}
		count++
		object := &pb.Object{Kind: uint32(o.Kind), Key: o.Key, Value: o.Value}
		if err := out.frame(&pb.Frame{Part: &pb.Frame_Object{Object: object}}); err != nil {
			return err
		}
	}
	if err := out.frame(&pb.Frame{Part: &pb.Frame_End{End: &pb.End{Objects: count}}}); err != nil {
		return err
	}
	if err := out.w.Flush(); err != nil {
		return fmt.Errorf("write backup: %w", err)
	}
	return nil
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// writer keeps the checksum of all that it has written.
type writer struct {
	w   *bufio.Writer
	sum hash.Hash32
	buf []byte
}

func (w *writer) raw(b []byte) error {
	w.sum.Write(b) // a hash never fails
	if _, err := w.w.Write(b); err != nil {
		return fmt.Errorf("write backup: %w", err)
	}
	return nil
}

func (w *writer) frame(f *pb.Frame) error {
	var opts proto.MarshalOptions
	b, err := opts.MarshalAppend(binary.AppendUvarint(w.buf[:0], uint64(opts.Size(f))), f)
	if err != nil {
		return fmt.Errorf("write backup: %w", err)
	}
	w.buf = b
	if err := w.raw(b); err != nil {
		return err
	}
	return w.raw(binary.LittleEndian.AppendUint32(nil, w.sum.Sum32()))
}

// Reader reads an archive.
type Reader struct {
	Header Header

	r     *bufio.Reader
	sum   uint32
	last  codec.Object
	count uint64
}

// NewReader reads up to the header. It fails with [store.ErrCorrupt] for what is no archive, and with [store.ErrSchema]
// for one that a newer version has written.
func NewReader(r io.Reader) (*Reader, error) {
	in := &Reader{r: bufio.NewReaderSize(r, 64<<10)}
	line, err := in.raw(len(magic) + len(version))
	if err != nil {
		return nil, err
	}
	if rest, ours := strings.CutPrefix(string(line), magic); !ours {
		return nil, fmt.Errorf("%w: this is no backup of a Tailgate store", store.ErrCorrupt)
	} else if rest != version {
		return nil, fmt.Errorf("%w: the backup has the form %q, this version of Tailgate knows %q: use the version that wrote it", store.ErrSchema, rest, version)
	}
	f, err := in.frame()
	if err != nil {
		return nil, err
	}
	h := f.GetHeader()
	switch {
	case h == nil:
		return nil, in.broken(errors.New("there is no header"))
	case h.GetSchema() > codec.Schema:
		return nil, fmt.Errorf("%w: the backup has schema %d, this version of Tailgate knows %d: use the version that wrote it", store.ErrSchema, h.GetSchema(), codec.Schema)
	}
	in.Header = Header{Epoch: h.GetEpoch(), Taken: time.Unix(0, h.GetTaken()).UTC(), Journal: h.GetJournal()}
	return in, nil
}

// Next returns the next object, which was decoded once to see that it makes sense. After the last one, and only if the
// archive is whole, it returns [io.EOF].
func (r *Reader) Next() (codec.Object, error) {
	f, err := r.frame()
	if err != nil {
		return codec.Object{}, err
	}
	switch {
	case f.GetObject() != nil:
		return r.object(f.GetObject())
	case f.GetEnd() == nil:
		return codec.Object{}, r.broken(errors.New("this version does not know what the frame is"))
	case f.GetEnd().GetObjects() != r.count:
		return codec.Object{}, r.broken(fmt.Errorf("the backup had %d objects", f.GetEnd().GetObjects()))
	case r.last.Kind == codec.Journal && codec.Sequence(r.last.Key) != r.Header.Journal:
		return codec.Object{}, r.broken(fmt.Errorf("the journal goes to %d", r.Header.Journal))
	}
	if _, err := r.r.ReadByte(); !errors.Is(err, io.EOF) {
		return codec.Object{}, r.broken(errors.Join(errors.New("there is something behind its end"), err))
	}
	return codec.Object{}, io.EOF
}

func (r *Reader) object(m *pb.Object) (codec.Object, error) {
	if m.GetKind() > math.MaxUint8 {
		return codec.Object{}, r.broken(fmt.Errorf("kind %d is unknown", m.GetKind()))
	}
	o := codec.Object{Kind: codec.Kind(m.GetKind()), Key: m.GetKey(), Value: m.GetValue()}
	if err := o.Check(); err != nil {
		return codec.Object{}, r.broken(err)
	}
	if r.count > 0 && r.last.Compare(o) >= 0 {
		return codec.Object{}, r.broken(fmt.Errorf("%s stands behind %s", o, r.last))
	}
	if seq := codec.Sequence(o.Key); o.Kind == codec.Journal {
		if first := r.last.Kind != codec.Journal; seq > r.Header.Journal || !first && seq != codec.Sequence(r.last.Key)+1 {
			return codec.Object{}, r.broken(fmt.Errorf("%s is not the next of %d", o, r.Header.Journal))
		}
	}
	r.last = o
	r.count++
	return o, nil
}

// frame reads one frame and compares its checksum.
func (r *Reader) frame() (*pb.Frame, error) {
	n, err := r.length()
	if err != nil {
		return nil, err
	}
	b, err := r.raw(n)
	if err != nil {
		return nil, err
	}
	want := r.sum
	sum, err := r.raw(crc32.Size)
	if err != nil {
		return nil, err
	}
	if binary.LittleEndian.Uint32(sum) != want {
		return nil, r.broken(errors.New("the checksum is another one"))
	}
	var f pb.Frame
	if err := (proto.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(b, &f); err != nil {
		return nil, r.broken(err)
	}
	return &f, nil
}

func (r *Reader) length() (int, error) {
	var n uint64
	for shift := 0; shift < 35; shift += 7 {
		b, err := r.raw(1)
		if err != nil {
			return 0, err
		}
		if n |= uint64(b[0]&0x7f) << shift; b[0] < 0x80 {
			if n > maxFrame {
				break
			}
			return int(n), nil
		}
	}
	return 0, r.broken(fmt.Errorf("a frame is said to have more than %d bytes", maxFrame))
}

// raw reads n bytes. It allocates no more than there are.
func (r *Reader) raw(n int) ([]byte, error) {
	b := make([]byte, 0, min(n, 64<<10))
	for len(b) < n {
		start := len(b)
		b = slices.Grow(b, min(n-start, max(start, 64<<10)))
		b = b[:min(n, cap(b))]
		if _, err := io.ReadFull(r.r, b[start:]); errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return nil, r.broken(errors.New("the rest is missing"))
		} else if err != nil {
			return nil, fmt.Errorf("read backup: %w", err)
		}
	}
	r.sum = crc32.Update(r.sum, castagnoli, b)
	return b, nil
}

// broken is the error of an archive that is not what was written.
func (r *Reader) broken(err error) error {
	return fmt.Errorf("%w: backup, behind %d objects: %w: nothing of it was restored, use another one", store.ErrCorrupt, r.count, err)
}

// Whole are the objects of an archive that was read to its end.
type Whole struct {
	Header
	// Objects are in the order of their kinds and keys, the journal last.
	Objects []codec.Object
}

// Read reads a whole archive. It returns nothing of one that is damaged.
func Read(r io.Reader) (Whole, error) {
	in, err := NewReader(r)
	if err != nil {
		return Whole{}, err
	}
	all := Whole{Header: in.Header}
	for {
		o, err := in.Next()
		if errors.Is(err, io.EOF) {
			return all, nil
		}
		if err != nil {
			return Whole{}, err
		}
		all.Objects = append(all.Objects, o)
	}
}
