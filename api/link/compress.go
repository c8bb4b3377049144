package link

import (
	"fmt"
	"io"
	"sync"

	"github.com/klauspost/compress/zstd"
	"google.golang.org/grpc/encoding"
)

// Compression is the name of the encoding that both ends of the link know besides none, from importing this package.
const Compression = "zstd"

const (
	// window is how far back an encoder looks, in bytes. The resources of a state repeat each other within less, and
	// each encoder keeps as much.
	window = 256 << 10
	// maxWindow is the largest window that is decoded, in bytes: what RFC 8878 asks of every decoder.
	maxWindow = 8 << 20
)

func init() { encoding.RegisterCompressor(&compressor{}) }

// compressor is zstd for gRPC. It starts no goroutines.
type compressor struct{ encoders, decoders sync.Pool }

// Name returns the name of the encoding.
func (*compressor) Name() string { return Compression }

// Compress returns a writer that writes one frame to w and ends it when it is closed.
func (c *compressor) Compress(w io.Writer) (io.WriteCloser, error) {
	if e, ok := c.encoders.Get().(*zstd.Encoder); ok {
		e.Reset(w)
		return &frameWriter{e, &c.encoders}, nil
	}
	e, err := zstd.NewWriter(w, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1),
		zstd.WithWindowSize(window), zstd.WithLowerEncoderMem(true))
	if err != nil {
		return nil, fmt.Errorf("make an encoder of zstd: %w", err)
	}
	return &frameWriter{e, &c.encoders}, nil
}

// Decompress returns a reader of what Compress wrote. It bounds the window only; gRPC bounds what is read.
func (c *compressor) Decompress(r io.Reader) (io.Reader, error) {
	if d, ok := c.decoders.Get().(*zstd.Decoder); ok {
		return &frameReader{d, &c.decoders}, d.Reset(r)
	}
	d, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(maxWindow))
	if err != nil {
		return nil, fmt.Errorf("make a decoder of zstd: %w", err)
	}
	return &frameReader{d, &c.decoders}, nil
}

// frameWriter lends an encoder for one frame.
type frameWriter struct {
	encoder *zstd.Encoder
	home    *sync.Pool
}

// Write adds to the frame.
func (f *frameWriter) Write(b []byte) (int, error) { return f.encoder.Write(b) }

// Close ends the frame. gRPC calls it once.
func (f *frameWriter) Close() error {
	err := f.encoder.Close()
	f.encoder.Reset(nil) // it must not keep what it wrote to
	f.home.Put(f.encoder)
	return err
}

// frameReader lends a decoder for one frame.
type frameReader struct {
	decoder *zstd.Decoder
	home    *sync.Pool
}

// Read reads what is in the frame.
func (f *frameReader) Read(b []byte) (int, error) { return f.decoder.Read(b) }

// Close gives the decoder back, whether or not all was read. gRPC calls it once.
func (f *frameReader) Close() error {
	err := f.decoder.Reset(nil) // it must not keep what it read from
	f.home.Put(f.decoder)
	return err
}
