package router

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"

	"github.com/tailgate-project/tailgate/e2e-kind/standin/strict"
)

// Mutations are the header changes of one level: route configuration, virtual host, route or weighted cluster.
type Mutations struct {
	request, response changes
}

type changes struct {
	remove []string
	add    []addition
}

type addition struct {
	name      string
	value     template
	action    corev3.HeaderValueOption_HeaderAppendAction
	keepEmpty bool
}

type mutationSource interface {
	GetRequestHeadersToAdd() []*corev3.HeaderValueOption
	GetRequestHeadersToRemove() []string
	GetResponseHeadersToAdd() []*corev3.HeaderValueOption
	GetResponseHeadersToRemove() []string
}

func compileMutations(in mutationSource) (Mutations, error) {
	request, err := compileChanges(in.GetRequestHeadersToAdd(), in.GetRequestHeadersToRemove())
	if err != nil {
		return Mutations{}, fmt.Errorf("request headers: %w", err)
	}
	response, err := compileChanges(in.GetResponseHeadersToAdd(), in.GetResponseHeadersToRemove())
	if err != nil {
		return Mutations{}, fmt.Errorf("response headers: %w", err)
	}
	return Mutations{request: request, response: response}, nil
}

func compileChanges(add []*corev3.HeaderValueOption, remove []string) (changes, error) {
	c := changes{remove: remove}
	if slices.ContainsFunc(remove, reserved) {
		return c, errors.New(":-prefixed or host headers may not be removed")
	}
	for _, o := range add {
		h := o.GetHeader()
		if reserved(h.GetKey()) {
			return c, errors.New(":-prefixed or host headers may not be modified")
		}
		text := h.GetValue()
		if len(h.GetRawValue()) > 0 {
			text = string(h.GetRawValue())
		}
		value, err := compileTemplate(text)
		if err != nil {
			return c, fmt.Errorf("header %s: %w", h.GetKey(), err)
		}
		action := o.GetAppendAction()
		if o.GetAppend() != nil && !o.GetAppend().GetValue() { //nolint:staticcheck // deprecated, and still accepted by Envoy
			action = corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD
		}
		c.add = append(c.add, addition{name: h.GetKey(), value: value, action: action, keepEmpty: o.GetKeepEmptyValue()})
	}
	return c, nil
}

func reserved(name string) bool {
	return strings.HasPrefix(name, ":") || strings.EqualFold(name, "host")
}

// apply changes h. Values are expanded for the request r.
func (c changes) apply(h http.Header, r *http.Request) {
	for _, name := range c.remove {
		h.Del(name)
	}
	for _, a := range c.add {
		value := a.value.expand(r)
		if value == "" && !a.keepEmpty {
			continue
		}
		_, exists := h[http.CanonicalHeaderKey(a.name)]
		switch a.action {
		case corev3.HeaderValueOption_APPEND_IF_EXISTS_OR_ADD:
			h.Add(a.name, value)
		case corev3.HeaderValueOption_ADD_IF_ABSENT:
			if !exists {
				h.Set(a.name, value)
			}
		case corev3.HeaderValueOption_OVERWRITE_IF_EXISTS:
			if exists {
				h.Set(a.name, value)
			}
		default:
			h.Set(a.name, value)
		}
	}
}

// levels returns the mutations that apply, in the order in which they are applied.
func (ch *Choice) levels() []Mutations {
	var all []Mutations
	if ch.target != nil {
		all = append(all, ch.target.mutations)
	}
	all = append(all, ch.Route.mutations, ch.VHost.mutations, ch.Config.mutations)
	if ch.Config.mostSpecificFirst {
		for i, j := 0, len(all)-1; i < j; i, j = i+1, j-1 {
			all[i], all[j] = all[j], all[i]
		}
	}
	return all
}

// MutateRequest applies the request header changes to h, the headers of the request that goes upstream for r.
func (ch *Choice) MutateRequest(h http.Header, r *http.Request) {
	for _, m := range ch.levels() {
		m.request.apply(h, r)
	}
}

// MutateResponse applies the response header changes to h.
func (ch *Choice) MutateResponse(h http.Header, r *http.Request) {
	for _, m := range ch.levels() {
		m.response.apply(h, r)
	}
}

// template is text with %REQ(name?other):max% operators.
type template []func(*http.Request) string

func (t template) expand(r *http.Request) string {
	var b strings.Builder
	for _, part := range t {
		b.WriteString(part(r))
	}
	return b.String()
}

// compileTemplate compiles Envoy's command operators. REQ is supported; any other is refused by its name.
func compileTemplate(text string) (template, error) {
	var t template
	literal := func(s string) {
		if s != "" {
			t = append(t, func(*http.Request) string { return s })
		}
	}
	for {
		before, rest, found := strings.Cut(text, "%")
		literal(before)
		if !found {
			return t, nil
		}
		if strings.HasPrefix(rest, "%") {
			literal("%")
			text = rest[1:]
			continue
		}
		operator, after, found := strings.Cut(rest, "%")
		if !found {
			return nil, fmt.Errorf("command operator %q has no end", rest)
		}
		op, err := compileOperator(operator)
		if err != nil {
			return nil, err
		}
		t, text = append(t, op), after
	}
}

func compileOperator(operator string) (func(*http.Request) string, error) {
	name, rest, _ := strings.Cut(operator, "(")
	args, limit, closed := strings.Cut(rest, ")")
	if name != "REQ" || !closed {
		return nil, strict.Unsupported("command operator %" + name + "%")
	}
	maxLen := -1
	if limit != "" {
		n, err := strconv.Atoi(strings.TrimPrefix(limit, ":"))
		if err != nil {
			return nil, fmt.Errorf("command operator %%%s%%: %w", operator, err)
		}
		maxLen = n
	}
	first, second, _ := strings.Cut(args, "?")
	return func(r *http.Request) string {
		v, ok := Header(r, first)
		if !ok && second != "" {
			v, _ = Header(r, second)
		}
		if maxLen >= 0 && len(v) > maxLen {
			v = v[:maxLen]
		}
		return v
	}, nil
}
