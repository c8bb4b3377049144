package bolt

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"math"
	"slices"
)

// image is a bbolt file that is read page by page and believed in nothing. bbolt itself trusts what it maps: of a
// damaged page it takes what stands there, or panics, or runs off the end of the mapping. So a file is looked through
// here before bbolt may have it.
//
// It has two meta pages at its beginning, of which the one with the greater transaction counts, then pages of three
// sorts, each with a header of 16 bytes: branches and leaves of trees, and a list of the free pages. A bucket is a tree
// of its own; a small one stands, as a page without a number, in the leaf of the root where its name is.
type image struct {
	r    io.ReaderAt
	size int64
	// pageSize is in bytes, pages is how many pages are used or were once.
	pageSize int
	pages    uint64
	root     uint64
	freelist uint64
	// seen are the pages that were visited or are free: in the end, all.
	seen []bool
	// leaf is called with each key and value of a bucket, sorted. They are valid until it returns.
	leaf func(bucket string, key, value []byte) error
	// bufs are the pages above the one that is read, by depth.
	bufs [][]byte
}

const (
	pageHeader    = 16
	elementHeader = 16
	metaLength    = 64

	branchFlag   = 0x01
	leafFlag     = 0x02
	freelistFlag = 0x10

	// firstPage is the first page behind the meta pages.
	firstPage = 2
	// maxDepth is more than a tree of any size has.
	maxDepth = 64
)

// bucket is a bucket's name, and the page where its tree begins, or its only page if it is a small one.
type bucket struct {
	name   string
	root   uint64
	inline []byte
}

// newImage reads the meta pages.
func newImage(r io.ReaderAt, size int64) (*image, error) {
	m := &image{r: r, size: size}
	head := make([]byte, pageHeader+metaLength)
	if _, err := r.ReadAt(head, 0); err != nil {
		return nil, fmt.Errorf("first page: %w", err)
	}
	m.pageSize = int(binary.NativeEndian.Uint32(head[pageHeader+8:]))
	if m.pageSize < 512 || m.pageSize > 1<<20 || m.pageSize&(m.pageSize-1) != 0 {
		return nil, errors.New("first page: it is no bbolt database")
	}
	var transactions [firstPage]uint64
	for i := range transactions {
		if _, err := r.ReadAt(head, int64(i*m.pageSize)); err != nil {
			return nil, fmt.Errorf("page %d: %w", i, err)
		}
		// Both must be right: if the newer one is damaged, the older one is the state before the last commit.
		tx, err := checkMeta(head, uint64(i))
		if err != nil {
			return nil, fmt.Errorf("page %d: %w", i, err)
		}
		if transactions[i] = tx; tx >= transactions[0] {
			m.root = binary.NativeEndian.Uint64(head[pageHeader+16:])
			m.freelist = binary.NativeEndian.Uint64(head[pageHeader+32:])
			m.pages = binary.NativeEndian.Uint64(head[pageHeader+40:])
		}
	}
	if a, b := transactions[0], transactions[1]; max(a, b)-min(a, b) != 1 {
		return nil, fmt.Errorf("the first two pages are of transactions %d and %d, which do not follow each other", a, b)
	}
	if m.pages < firstPage || m.pages > uint64(size/int64(m.pageSize)) {
		return nil, fmt.Errorf("the file has %d bytes, %d pages of %d are missing", size, m.pages-uint64(size/int64(m.pageSize)), m.pageSize)
	}
	m.seen = make([]bool, m.pages)
	m.seen[0], m.seen[1] = true, true
	return m, nil
}

// checkMeta returns the transaction of a meta page, which decides which of the two pages it is written to.
func checkMeta(page []byte, id uint64) (tx uint64, err error) {
	const magic, version = 0xED0CDAED, 2
	b := page[pageHeader:]
	if binary.NativeEndian.Uint32(b) != magic || binary.NativeEndian.Uint32(b[4:]) != version {
		return 0, errors.New("it is no page of a bbolt database")
	}
	h := fnv.New64a()
	h.Write(b[:metaLength-8]) // a hash never fails
	if h.Sum64() != binary.NativeEndian.Uint64(b[metaLength-8:]) {
		return 0, errors.New("its checksum is another one")
	}
	tx = binary.NativeEndian.Uint64(b[48:])
	if binary.NativeEndian.Uint64(page) != id || tx%firstPage != id {
		return 0, errors.New("it belongs in the place of the other one")
	}
	return tx, nil
}

// buckets returns the buckets at the root, sorted.
func (m *image) buckets() ([]bucket, error) {
	var out []bucket
	err := m.tree(m.root, nil, nil, 0, func(flags uint32, key, value []byte) error {
		if flags != 1 || len(value) < pageHeader {
			return fmt.Errorf("%q is no bucket", key)
		}
		b := bucket{name: string(key), root: binary.NativeEndian.Uint64(value)}
		if b.root == 0 {
			b.inline = bytes.Clone(value[pageHeader:])
		}
		out = append(out, b)
		return nil
	})
	return out, err
}

// walk reads all keys and values of a bucket.
func (m *image) walk(b bucket) error {
	each := func(flags uint32, key, value []byte) error {
		if flags != 0 {
			return fmt.Errorf("%q is no value", key)
		}
		return m.leaf(b.name, key, value)
	}
	if b.root == 0 {
		return m.inline(b, each)
	}
	return m.tree(b.root, nil, nil, 0, each)
}

func (m *image) inline(b bucket, each func(flags uint32, key, value []byte) error) error {
	p, err := parse(b.inline)
	if err == nil && p.flags != leafFlag {
		err = errors.New("it is no leaf")
	}
	if err != nil {
		return fmt.Errorf("bucket %q: %w", b.name, err)
	}
	return p.leaves(nil, nil, each)
}

// tree reads the tree below a page, whose keys are at least low and below high; a nil high is above all keys.
func (m *image) tree(id uint64, low, high []byte, depth int, each func(flags uint32, key, value []byte) error) error {
	if depth >= maxDepth {
		return fmt.Errorf("page %d: the tree is too deep", id)
	}
	p, err := m.page(id, depth)
	if err != nil {
		return fmt.Errorf("page %d: %w", id, err)
	}
	switch p.flags {
	case leafFlag:
		if err := p.leaves(low, high, each); err != nil {
			return fmt.Errorf("page %d: %w", id, err)
		}
		return nil
	case branchFlag:
		return m.branch(id, p, low, high, depth, each)
	}
	return fmt.Errorf("page %d: it is neither branch nor leaf", id)
}

func (m *image) branch(id uint64, p page, low, high []byte, depth int, each func(flags uint32, key, value []byte) error) error {
	if p.count == 0 {
		return fmt.Errorf("page %d: the branch is bare", id)
	}
	for i := range p.count {
		key, err := p.branchKey(i)
		if err != nil {
			return fmt.Errorf("page %d: %w", id, err)
		}
		next := high
		if i+1 < p.count {
			if next, err = p.branchKey(i + 1); err != nil {
				return fmt.Errorf("page %d: %w", id, err)
			}
		}
		if bytes.Compare(key, low) < 0 || next != nil && bytes.Compare(key, next) >= 0 {
			return fmt.Errorf("page %d: key %q stands in the wrong place", id, key)
		}
		if err := m.tree(p.child(i), key, next, depth+1, each); err != nil {
			return err
		}
	}
	return nil
}

// page reads a page and those that it runs over into, once.
func (m *image) page(id uint64, depth int) (page, error) {
	if id < firstPage || id >= m.pages {
		return page{}, errors.New("there is no such page")
	}
	for len(m.bufs) <= depth {
		m.bufs = append(m.bufs, make([]byte, m.pageSize))
	}
	buf := m.bufs[depth][:m.pageSize]
	if _, err := m.r.ReadAt(buf, int64(id)*int64(m.pageSize)); err != nil {
		return page{}, err
	}
	overflow := uint64(binary.NativeEndian.Uint32(buf[12:]))
	if binary.NativeEndian.Uint64(buf) != id || id+overflow >= m.pages {
		return page{}, errors.New("its header is not its own")
	}
	for i := id; i <= id+overflow; i++ {
		if m.seen[i] {
			return page{}, fmt.Errorf("page %d is used twice", i)
		}
		m.seen[i] = true
	}
	if overflow > 0 {
		length := m.pageSize * int(1+overflow)
		buf = slices.Grow(buf[:0], length)[:length]
		m.bufs[depth] = buf
		if _, err := m.r.ReadAt(buf, int64(id)*int64(m.pageSize)); err != nil {
			return page{}, err
		}
	}
	return parse(buf)
}

// free marks the pages on the list of the free ones. Then all pages must have been seen.
func (m *image) free() error {
	p, err := m.page(m.freelist, 0)
	if err == nil && p.flags != freelistFlag {
		err = errors.New("it is no list of free pages")
	}
	if err != nil {
		return fmt.Errorf("page %d: %w", m.freelist, err)
	}
	ids, count := p.b[pageHeader:], uint64(p.count)
	if p.count == math.MaxUint16 { // then the list begins with its length
		if len(ids) < 8 {
			return fmt.Errorf("page %d: it is cut short", m.freelist)
		}
		count, ids = binary.NativeEndian.Uint64(ids), ids[8:]
	}
	if count > uint64(len(ids)/8) {
		return fmt.Errorf("page %d: it is cut short", m.freelist)
	}
	for i := range count {
		id := binary.NativeEndian.Uint64(ids[8*i:])
		if id < firstPage || id >= m.pages || m.seen[id] {
			return fmt.Errorf("page %d is said to be free", id)
		}
		m.seen[id] = true
	}
	if lost := slices.Index(m.seen, false); lost >= 0 {
		return fmt.Errorf("page %d is neither used nor free", lost)
	}
	return nil
}

// page is a page with those that it runs over into.
type page struct {
	b     []byte
	flags uint16
	count int
}

func parse(b []byte) (page, error) {
	if len(b) < pageHeader {
		return page{}, errors.New("it is cut short")
	}
	p := page{b: b, flags: binary.NativeEndian.Uint16(b[8:]), count: int(binary.NativeEndian.Uint16(b[10:]))}
	if p.flags != freelistFlag && pageHeader+p.count*elementHeader > len(b) {
		return page{}, errors.New("it is cut short")
	}
	return p, nil
}

// element returns the header of an element and what stands that far from the header's beginning.
func (p page) element(i int) []byte { return p.b[pageHeader+i*elementHeader:] }

// cut returns size bytes at an offset of an element.
func cut(element []byte, offset, size uint64) ([]byte, error) {
	if offset+size > uint64(len(element)) {
		return nil, errors.New("an element is cut short")
	}
	return element[offset : offset+size : offset+size], nil
}

func (p page) branchKey(i int) ([]byte, error) {
	e := p.element(i)
	return cut(e, uint64(binary.NativeEndian.Uint32(e)), uint64(binary.NativeEndian.Uint32(e[4:])))
}

func (p page) child(i int) uint64 { return binary.NativeEndian.Uint64(p.element(i)[8:]) }

// leaves calls each with the elements of a leaf, whose keys must rise, from low on and up to below high.
func (p page) leaves(low, high []byte, each func(flags uint32, key, value []byte) error) error {
	for i := range p.count {
		e := p.element(i)
		flags, pos := binary.NativeEndian.Uint32(e), uint64(binary.NativeEndian.Uint32(e[4:]))
		ksize, vsize := uint64(binary.NativeEndian.Uint32(e[8:])), uint64(binary.NativeEndian.Uint32(e[12:]))
		both, err := cut(e, pos, ksize+vsize)
		if err != nil {
			return err
		}
		key := both[:ksize:ksize]
		if c := bytes.Compare(key, low); c < 0 || c == 0 && i > 0 || high != nil && bytes.Compare(key, high) >= 0 {
			return fmt.Errorf("key %q stands in the wrong place", key)
		}
		if err := each(flags, key, both[ksize:]); err != nil {
			return err
		}
		low = key
	}
	return nil
}
