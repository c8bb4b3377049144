package vip

import (
	"slices"
	"strings"

	"github.com/tailgate-project/tailgate/federation"
)

// words holds the strings that many entries have in common once, with how many use them. Entries that were read from a
// store come with strings of their own.
type words map[string]*word

type word struct {
	text string
	uses int
}

// share makes an entry use the strings that are there already.
func (w words) share(e *Entry) {
	shared(e, func(s *string) {
		if *s == "" {
			return
		}
		known, ok := w[*s]
		if !ok {
			known = &word{text: *s}
			w[*s] = known
		}
		known.uses++
		*s = known.text
	})
	e.Name, e.Owner.Service.Name = part(e.ServiceName, e.Name), part(e.ServiceName, e.Owner.Service.Name)
}

// leave forgets what the entry shared.
func (w words) leave(e *Entry) {
	shared(e, func(s *string) {
		if known, ok := w[*s]; ok {
			if known.uses--; known.uses == 0 {
				delete(w, *s)
			}
		}
	})
}

// shared visits the strings of an entry that others are likely to have too.
func shared(e *Entry, visit func(*string)) {
	visit((*string)(&e.Owner.Cluster))
	visit((*string)(&e.Owner.Service.Kind))
	visit(&e.Owner.Service.Namespace)
	visit(&e.Tailnet)
	visit(&e.TailnetRef)
	if len(e.Ports) == 1 {
		return // shared as a whole: see single
	}
	for i := range e.Ports {
		visit(&e.Ports[i].Name)
		visit((*string)(&e.Ports[i].Protocol))
	}
}

// single holds the lists of one port, which most entries have, and which few are different of.
type single map[federation.Port][]federation.Port

// list returns the ports as a list that is not the caller's.
func (s single) list(ports []federation.Port) []federation.Port {
	if len(ports) != 1 {
		return slices.Clip(slices.Clone(ports))
	}
	known, ok := s[ports[0]]
	if !ok {
		known = slices.Clip(slices.Clone(ports))
		s[ports[0]] = known
	}
	return known
}

// part returns s as a part of whole, if it is one: a VIP's name mostly begins that of its Tailscale Service.
func part(whole, s string) string {
	if i := strings.Index(whole, s); i >= 0 {
		return whole[i : i+len(s)]
	}
	return s
}

// count returns how often the entries use each of the strings.
func count(entries []*record) map[string]int {
	uses := map[string]int{}
	for _, rec := range entries {
		e := rec.Entry
		e.Ports = append([]federation.Port(nil), e.Ports...)
		shared(&e, func(s *string) {
			if *s != "" {
				uses[*s]++
			}
		})
	}
	return uses
}
