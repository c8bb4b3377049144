package vip

import (
	"crypto/sha256"
	"encoding/hex"
	"strconv"
	"strings"

	"github.com/tailgate-project/tailgate/federation"
)

// hashLen is how many hex digits of a name's hash stand at the end of a name that had to be cut.
const hashLen = 8

// names returns the registry name of an export and of its Tailscale Service, which adds the cluster's id so that two
// clusters can never share one by accident (tailscale/tailscale#16752). With qualified, the namespace is part of both.
func names(e federation.Export, qualified bool) (name, service string) {
	parts := []string{"local", e.Tailnet}
	if e.Key.Service.Kind == federation.KindListener {
		parts = []string{"gateway"}
	}
	if qualified {
		parts = append(parts, e.Key.Service.Namespace)
	}
	if e.Key.Service.Kind == federation.KindListener {
		gateway, listener := e.Key.Service.Gateway()
		parts = append(parts, gateway, listener, strconv.Itoa(int(e.Ports[0].Port)))
	} else {
		parts = append(parts, e.Key.Service.Name)
	}
	return label(parts...), label(append(parts, string(e.Key.Cluster))...)
}

// label joins the parts to an RFC 1123 label. What is not a letter, digit or '-' becomes '-'; a label that is too
// long, or that had to be changed, ends in a hash of the parts, so that different parts stay different labels.
func label(parts ...string) string {
	whole := strings.Join(parts, "-")
	clean := strings.Trim(strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9', r == '-':
			return r
		case r >= 'A' && r <= 'Z':
			return r - 'A' + 'a'
		}
		return '-'
	}, whole), "-")
	if clean == whole && len(clean) <= federation.MaxLabel {
		return clean
	}
	sum := sha256.Sum256([]byte(strings.Join(parts, "\x00")))
	if keep := federation.MaxLabel - hashLen - 1; len(clean) > keep {
		clean = strings.TrimRight(clean[:keep], "-")
	}
	return strings.TrimLeft(clean+"-"+hex.EncodeToString(sum[:])[:hashLen], "-")
}
