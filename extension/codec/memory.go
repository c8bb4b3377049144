package codec

import (
	"fmt"

	"google.golang.org/protobuf/proto"
)

// message is a kind of messages that can be told apart by identity.
type message interface {
	comparable
	proto.Message
}

// memory holds messages by their encoding, and the encoding of each: the newest ones, and those that were used before
// them. What is in neither is forgotten.
type memory[M message] struct {
	limit      int
	young, old generation[M]
}

type generation[M message] struct {
	byText map[string]M
	texts  map[M]string
	bytes  int
}

func newMemory[M message](limit int) memory[M] {
	return memory[M]{limit: limit, young: newGeneration[M](), old: newGeneration[M]()}
}

func newGeneration[M message]() generation[M] {
	return generation[M]{byText: map[string]M{}, texts: map[M]string{}}
}

func (m *memory[M]) put(text string, x M) {
	if len(text) > m.limit {
		return
	}
	if m.young.bytes+len(text) > m.limit {
		m.old, m.young = m.young, newGeneration[M]()
	}
	m.young.byText[text], m.young.texts[x] = x, text
	m.young.bytes += len(text)
}

// recall returns the message of an encoding, decoding it if it is not remembered.
func recall[M interface {
	*T
	message
}, T any](m *memory[M], b []byte) (M, error) {
	if x, ok := m.young.byText[string(b)]; ok {
		return x, nil
	}
	if x, ok := m.old.byText[string(b)]; ok {
		m.put(m.old.texts[x], x)
		return x, nil
	}
	x := M(new(T))
	if err := proto.Unmarshal(b, x); err != nil {
		return nil, fmt.Errorf("decode %s: %w", x.ProtoReflect().Descriptor().FullName(), err)
	}
	m.put(string(b), x)
	return x, nil
}

// text returns the encoding of a message that is remembered.
func (m *memory[M]) text(x M) (string, bool) {
	if text, ok := m.young.texts[x]; ok {
		return text, true
	}
	text, ok := m.old.texts[x]
	return text, ok
}

// textOf returns the encoding of any message. One that was not recalled is not remembered.
func (m *memory[M]) textOf(x M) (string, error) {
	if text, ok := m.text(x); ok {
		return text, nil
	}
	b, err := deterministic.Marshal(x)
	if err != nil {
		return "", fmt.Errorf("encode %s: %w", x.ProtoReflect().Descriptor().FullName(), err)
	}
	return string(b), nil
}
