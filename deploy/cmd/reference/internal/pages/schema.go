package pages

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"
)

// definition is what is read of a CustomResourceDefinition. It names all that ours have: a keyword that is new fails the
// reading, so that none is left out of the reference in silence.
type definition struct {
	APIVersion string         `json:"apiVersion"`
	Kind       string         `json:"kind"`
	Metadata   map[string]any `json:"metadata"`
	Spec       struct {
		Group string `json:"group"`
		Names struct {
			Categories []string `json:"categories"`
			Kind       string   `json:"kind"`
			ListKind   string   `json:"listKind"`
			Plural     string   `json:"plural"`
			ShortNames []string `json:"shortNames"`
			Singular   string   `json:"singular"`
		} `json:"names"`
		Scope    string    `json:"scope"`
		Versions []version `json:"versions"`
	} `json:"spec"`
}

type version struct {
	Name         string         `json:"name"`
	Served       bool           `json:"served"`
	Storage      bool           `json:"storage"`
	Subresources map[string]any `json:"subresources"`
	Columns      []column       `json:"additionalPrinterColumns"`
	Schema       struct {
		Root schema `json:"openAPIV3Schema"`
	} `json:"schema"`
}

type column struct {
	Name        string `json:"name"`
	Type        string `json:"type"`
	Path        string `json:"jsonPath"`
	Description string `json:"description"`
	Priority    int    `json:"priority"`
}

type schema struct {
	Description string            `json:"description"`
	Type        string            `json:"type"`
	Format      string            `json:"format"`
	Default     json.RawMessage   `json:"default"`
	Enum        []json.RawMessage `json:"enum"`
	Properties  map[string]schema `json:"properties"`
	Required    []string          `json:"required"`
	Items       *schema           `json:"items"`
	Values      *schema           `json:"additionalProperties"`
	AnyOf       []schema          `json:"anyOf"`
	OneOf       []schema          `json:"oneOf"`
	AllOf       []schema          `json:"allOf"`
	Not         *schema           `json:"not"`
	Nullable    bool              `json:"nullable"`

	Pattern       string       `json:"pattern"`
	MinLength     *int64       `json:"minLength"`
	MaxLength     *int64       `json:"maxLength"`
	MinItems      *int64       `json:"minItems"`
	MaxItems      *int64       `json:"maxItems"`
	MinProperties *int64       `json:"minProperties"`
	MaxProperties *int64       `json:"maxProperties"`
	Minimum       *json.Number `json:"minimum"`
	Maximum       *json.Number `json:"maximum"`

	IntOrString bool     `json:"x-kubernetes-int-or-string"`
	ListType    string   `json:"x-kubernetes-list-type"`
	ListKeys    []string `json:"x-kubernetes-list-map-keys"`
	MapType     string   `json:"x-kubernetes-map-type"`
	Rules       []rule   `json:"x-kubernetes-validations"`
}

// rule is a rule of CEL.
type rule struct {
	Rule      string `json:"rule"`
	Message   string `json:"message"`
	Reason    string `json:"reason"`
	FieldPath string `json:"fieldPath"`
}

// readKinds reads the CRDs of the module, sorted by kind.
func readKinds(root string) ([]definition, error) {
	names, err := filepath.Glob(filepath.Join(root, "deploy", "crds", "*.yaml"))
	if err != nil {
		return nil, fmt.Errorf("find the CRDs: %w", err)
	}
	if len(names) == 0 {
		return nil, fmt.Errorf("there is no CRD in %s: is this the directory of the module?", filepath.Join(root, "deploy", "crds"))
	}
	out := make([]definition, 0, len(names))
	for _, name := range names {
		data, err := os.ReadFile(name)
		if err != nil {
			return nil, fmt.Errorf("read a CRD: %w", err)
		}
		var d definition
		if err := yaml.UnmarshalStrict(data, &d); err != nil {
			return nil, fmt.Errorf("read %s: %w; teach the reference what is new there", filepath.Base(name), err)
		}
		if len(d.Spec.Versions) != 1 {
			return nil, fmt.Errorf("read %s: it has %d versions, and the reference shows one", filepath.Base(name), len(d.Spec.Versions))
		}
		out = append(out, d)
	}
	slices.SortFunc(out, func(a, b definition) int { return strings.Compare(a.Spec.Names.Kind, b.Spec.Names.Kind) })
	return out, nil
}

// kubernetesOwn are fields of Kubernetes' own types, and where those are explained.
var kubernetesOwn = map[string]string{
	"affinity": "pod.spec.affinity", "resources": "pod.spec.containers.resources", "tolerations": "pod.spec.tolerations",
	"topologySpreadConstraints": "pod.spec.topologySpreadConstraints",
}

// conditionsField is the field whose items every kind shares.
const conditionsField = "conditions"

// typeOf names a schema's type as a reader would.
func (s *schema) typeOf() string {
	switch {
	case s.IntOrString:
		return "integer or string"
	case s.Type == "array" && s.Items != nil:
		return "[]" + s.Items.typeOf()
	case s.Type == "object" && s.Values != nil:
		return "map of " + s.Values.typeOf()
	case s.Type == "string" && s.Format == "date-time":
		return "time"
	case s.Format != "":
		return s.Format
	}
	return s.Type
}

// object is the schema of the object that a field holds, lists or maps, if it does.
func (s *schema) object() (path string, inner *schema) {
	switch {
	case s.Type == "array" && s.Items != nil:
		path, inner = s.Items.object()
		return "[]" + path, inner
	case s.Values != nil:
		path, inner = s.Values.object()
		return "{}" + path, inner
	case len(s.Properties) > 0:
		return "", s
	}
	return "", nil
}

// fields are the names of an object's properties in order.
func (s *schema) fields() []string { return slices.Sorted(maps.Keys(s.Properties)) }

// bounds says what a value must be like, each in a few words.
func (s *schema) bounds() []string {
	var out []string
	between := func(low, high *int64, one, many string) {
		word := func(n int64) string {
			if n == 1 {
				return fmt.Sprintf("%d %s", n, one)
			}
			return fmt.Sprintf("%d %s", n, many)
		}
		switch {
		case low != nil && high != nil && *low == *high:
			out = append(out, "exactly "+word(*low))
		case low != nil && high != nil:
			out = append(out, fmt.Sprintf("%d to %s", *low, word(*high)))
		case low != nil:
			out = append(out, "at least "+word(*low))
		case high != nil:
			out = append(out, "at most "+word(*high))
		}
	}
	if len(s.Enum) > 0 {
		words := make([]string, 0, len(s.Enum))
		for _, e := range s.Enum {
			words = append(words, value(e))
		}
		out = append(out, "one of "+codes(words))
	}
	switch {
	case s.Minimum != nil && s.Maximum != nil:
		out = append(out, fmt.Sprintf("%s to %s", *s.Minimum, *s.Maximum))
	case s.Minimum != nil:
		out = append(out, fmt.Sprintf("at least %s", *s.Minimum))
	case s.Maximum != nil:
		out = append(out, fmt.Sprintf("at most %s", *s.Maximum))
	}
	between(s.MinLength, s.MaxLength, "character", "characters")
	between(s.MinItems, s.MaxItems, "item", "items")
	between(s.MinProperties, s.MaxProperties, "field", "fields")
	if s.Pattern != "" {
		out = append(out, "matches "+code(s.Pattern))
	}
	switch s.ListType {
	case "set":
		out = append(out, "no item twice")
	case "map":
		out = append(out, "one item for each "+strings.Join(s.ListKeys, " and "))
	}
	if s.Items != nil {
		for _, b := range s.Items.bounds() {
			out = append(out, "each item: "+b)
		}
	}
	if s.Values != nil {
		for _, b := range s.Values.bounds() {
			out = append(out, "each value: "+b)
		}
	}
	return out
}

// rules are those of a field's value, and of its items where they are no objects of their own.
func (s *schema) rules() []rule {
	out := slices.Clone(s.Rules)
	for _, inner := range []*schema{s.Items, s.Values} {
		if inner != nil && len(inner.Properties) == 0 {
			out = append(out, inner.rules()...)
		}
	}
	return out
}

// value is a value of JSON as a reader would write it.
func value(raw json.RawMessage) string {
	var s string
	if json.Unmarshal(raw, &s) == nil && s != "" {
		return s
	}
	return string(raw)
}
