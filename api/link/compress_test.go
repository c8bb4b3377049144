package link_test

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"testing"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc/encoding"

	"github.com/tailgate-project/tailgate/api/link"
)

func compress(data []byte) ([]byte, error) {
	var out bytes.Buffer
	w, err := encoding.GetCompressor(link.Compression).Compress(&out)
	if err != nil {
		return nil, err
	}
	_, err = w.Write(data)
	err = errors.Join(err, w.Close()) // what Close writes is part of it
	return out.Bytes(), err
}

// decompress reads as gRPC does: up to a limit, and then it closes the reader.
func decompress(data []byte, limit int64) ([]byte, error) {
	// Not a bytes.Buffer: gRPC's reader is none either, and zstd treats those apart.
	r, err := encoding.GetCompressor(link.Compression).Decompress(io.LimitReader(bytes.NewReader(data), int64(len(data))))
	if err != nil {
		return nil, err
	}
	out, err := io.ReadAll(io.LimitReader(r, limit))
	return out, errors.Join(err, r.(io.Closer).Close())
}

func FuzzCompression(f *testing.F) {
	f.Add([]byte(nil), uint32(0))
	f.Add([]byte("heartbeat"), uint32(1))
	f.Add([]byte("service-1 service-2 "), uint32(100_000)) // longer than the window
	f.Fuzz(func(t *testing.T, data []byte, times uint32) {
		want := bytes.Repeat(data, int(times%200_000)/max(len(data), 1)*10)
		packed, err := compress(want)
		if err != nil {
			t.Fatal(err)
		}
		got, err := decompress(packed, int64(len(want))+1)
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%d bytes became %d, %v", len(want), len(got), err)
		}
	})
}

// FuzzDecompress reads whatever comes. It may fail, and must leave nothing behind: the next frame is read as ever.
func FuzzDecompress(f *testing.F) {
	good, err := compress(bytes.Repeat([]byte("endpoints"), 1000))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add(good[:len(good)/2])
	f.Add([]byte{0x28, 0xb5, 0x2f, 0xfd, 0x00, 0xff})
	f.Fuzz(func(t *testing.T, data []byte) {
		// What is wrong with it is gRPC's to tell; here it must only end.
		if out, err := decompress(data, 1<<20); err == nil && len(out) > 1<<20 {
			t.Errorf("%d bytes were read", len(out))
		}
		out, err := decompress(good, 1<<20)
		if err != nil || len(out) != 9000 {
			t.Errorf("the frame after it: %d bytes, %v", len(out), err)
		}
	})
}

func TestCompressionOfManyStreams(t *testing.T) {
	var g errgroup.Group
	for i := range 8 {
		g.Go(func() error {
			r := rand.New(rand.NewPCG(uint64(i), 1))
			for range 50 {
				want := make([]byte, r.IntN(600_000))
				for j := range want {
					want[j] = byte(r.IntN(1 + i*30))
				}
				packed, err := compress(want)
				if err != nil {
					return err
				}
				if got, err := decompress(packed, 1<<20); err != nil || !bytes.Equal(want, got) {
					return errors.Join(err, errors.New("what was read is not what was written"))
				}
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		t.Error(err)
	}
}
