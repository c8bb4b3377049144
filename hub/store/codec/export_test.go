package codec

import "encoding/binary"

// Sealed returns the object with a message as its value and the checksum that belongs to it.
func (o Object) Sealed(message []byte) Object {
	o.Value = binary.LittleEndian.AppendUint32(append([]byte{}, message...), o.sum(message))
	return o
}

// Message returns the value without its checksum.
func (o Object) Message() []byte { return o.Value[:len(o.Value)-sumLen] }
