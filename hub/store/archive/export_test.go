package archive

import (
	"encoding/binary"
	"hash/crc32"
)

// Framed returns an archive of the messages, each with its right length and checksum, whatever is in them.
func Framed(messages ...[]byte) []byte {
	out := []byte(magic + version)
	for _, m := range messages {
		out = append(binary.AppendUvarint(out, uint64(len(m))), m...)
		out = binary.LittleEndian.AppendUint32(out, crc32.Checksum(out, castagnoli))
	}
	return out
}
