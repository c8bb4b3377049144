package archive

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"hash/crc32"
)

// Framed returns an archive of the messages, each with its right length and checksum, whatever is in them.
func Framed(messages ...[]byte) []byte {
	var b bytes.Buffer
	w := &writer{w: bufio.NewWriter(&b), sum: crc32.New(castagnoli)}
	parts := [][]byte{[]byte(magic + version)}
	for _, m := range messages {
		parts = append(parts, append(binary.AppendUvarint(nil, uint64(len(m))), m...))
	}
	for i, p := range parts {
		w.sum.Write(p)
		w.w.Write(p) // to a buffer
		if i > 0 {
			sum := binary.LittleEndian.AppendUint32(nil, w.sum.Sum32())
			w.sum.Write(sum)
			w.w.Write(sum)
		}
	}
	w.w.Flush()
	return b.Bytes()
}
