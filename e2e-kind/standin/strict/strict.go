// Package strict decides which xDS fields the Envoy stand-in honours. Test equipment, never part of the product.
//
// Every message type that the stand-in reads has a rule: the fields it honours, and the fields it accepts although
// they have no effect here, each with the reason. Anything else that is set is refused by its full proto name, so
// that a test never passes because a setting was quietly ignored.
package strict

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/known/anypb"
)

// UnsupportedError names the fields that the stand-in does not honour, as "<message>.<field>" or as the name of a
// message type.
type UnsupportedError struct{ Fields []string }

// Error lists the refused fields.
func (e *UnsupportedError) Error() string { return "unsupported: " + strings.Join(e.Fields, ", ") }

// Unsupported is the error for one field or one value of it.
func Unsupported(field string) error { return &UnsupportedError{Fields: []string{field}} }

// Check walks m and all messages in it, also those packed in Any, and returns an UnsupportedError for what is set
// but not honoured, and the error of the message's own validation rules where it has them.
func Check(m proto.Message) error {
	w := walker{seen: map[string]bool{}}
	w.message(m.ProtoReflect())
	if len(w.fields) > 0 {
		slices.Sort(w.fields)
		return &UnsupportedError{Fields: w.fields}
	}
	return errors.Join(append(w.errs, validate(m))...)
}

type walker struct {
	fields []string
	seen   map[string]bool
	errs   []error
}

func (w *walker) refuse(field string) {
	if !w.seen[field] {
		w.seen[field] = true
		w.fields = append(w.fields, field)
	}
}

func (w *walker) message(m protoreflect.Message) {
	name := m.Descriptor().FullName()
	if leaf(name) {
		return
	}
	if name == "google.protobuf.Any" {
		w.packed(m.Interface().(*anypb.Any))
		return
	}
	rule, ok := rules[name]
	if !ok {
		w.refuse(string(name))
		return
	}
	if len(m.GetUnknown()) > 0 {
		w.refuse(string(name) + " has fields that this version of the API does not know")
	}
	m.Range(func(fd protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		field := string(fd.Name())
		switch {
		case rule.inert[field] != "":
		case slices.Contains(rule.honoured, field):
			w.value(fd, v)
		default:
			w.refuse(string(name) + "." + field)
		}
		return true
	})
}

func (w *walker) value(fd protoreflect.FieldDescriptor, v protoreflect.Value) {
	switch {
	case fd.IsMap():
		if fd.MapValue().Message() == nil {
			return
		}
		v.Map().Range(func(_ protoreflect.MapKey, v protoreflect.Value) bool {
			w.message(v.Message())
			return true
		})
	case fd.Message() == nil:
	case fd.IsList():
		for i := range v.List().Len() {
			w.message(v.List().Get(i).Message())
		}
	default:
		w.message(v.Message())
	}
}

func (w *walker) packed(a *anypb.Any) {
	name := a.MessageName()
	if _, known := rules[name]; !known {
		w.refuse(string(name))
		return
	}
	m, err := a.UnmarshalNew()
	if errors.Is(err, protoregistry.NotFound) {
		w.refuse(string(name))
		return
	}
	if err == nil {
		err = validate(m)
	}
	if err != nil {
		w.errs = append(w.errs, fmt.Errorf("%s: %w", name, err))
		return
	}
	w.message(m.ProtoReflect())
}

func validate(m proto.Message) error {
	if v, ok := m.(interface{ ValidateAll() error }); ok {
		return v.ValidateAll()
	}
	return nil
}

// leaf reports whether values of the type are read as a whole.
func leaf(name protoreflect.FullName) bool {
	return name != "google.protobuf.Any" && name.Parent() == "google.protobuf"
}
