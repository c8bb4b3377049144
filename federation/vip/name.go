package vip

import (
	"crypto/sha256"
	"encoding/hex"
	"strconv"
	"strings"

	"github.com/tailgate-project/tailgate/federation"
)

// hashLen is how many hex digits of a name's hash stand at the end of a name that had to be changed.
const hashLen = 8

// names returns the registry name of a VIP and that of its Tailscale Service, which adds the cluster's id so that two
// clusters can never share one by accident (tailscale/tailscale#16752). A federated VIP is shared on purpose and has
// one name. With qualified, the namespace is part of both.
func names(v federation.VIP, qualified bool) (name, service string) {
	id := v.Owner.Service
	listener := id.Kind == federation.KindListener
	var parts []string
	switch {
	case v.Federated():
		parts = []string{"federated", v.Tailnet}
	case listener:
		parts = []string{"gateway"}
	default:
		parts = []string{"local", v.Tailnet}
	}
	if qualified {
		parts = append(parts, id.Namespace)
	}
	if listener {
		gateway, section := id.Gateway()
		parts = append(parts, gateway, section)
	} else {
		parts = append(parts, id.Name)
	}
	if v.Federated() {
		name = Label(parts...)
		return name, name
	}
	if listener {
		parts = append(parts, strconv.Itoa(int(v.Ports[0].Port)))
	}
	return Label(parts...), Label(append(parts, string(v.Owner.Cluster))...)
}

// Label joins the parts, the first of which is a label, with '-' to an RFC 1123 label. Capitals of ASCII become small. Each run of other characters
// that a label cannot have, such as dots, letters beyond ASCII and bytes that are no UTF-8, becomes one '-', none at the
// ends of a part; a part that has nothing else is left out. A label that is too long is cut. Whatever was changed in one
// of these ways ends in a hash of the parts, so that what differed goes on to differ.
func Label(parts ...string) string {
	whole := strings.Join(parts, "-")
	if federation.IsLabel(whole) {
		return whole
	}
	var clean []string
	for _, part := range parts {
		if part = labelPart(part); part != "" {
			clean = append(clean, part)
		}
	}
	stem := strings.Join(clean, "-")
	if keep := federation.MaxLabel - hashLen - 1; len(stem) > keep {
		stem = strings.TrimRight(stem[:keep], "-")
	}
	sum := sha256.Sum256([]byte(strings.Join(parts, "\x00")))
	return stem + "-" + hex.EncodeToString(sum[:])[:hashLen]
}

// labelPart returns what of a part can stand in a label.
func labelPart(part string) string {
	var b strings.Builder
	gap := false
	for _, r := range part {
		switch {
		case r >= 'A' && r <= 'Z':
			r += 'a' - 'A'
		case r == '-', r >= 'a' && r <= 'z', r >= '0' && r <= '9':
		default:
			gap = true
			continue
		}
		if gap {
			b.WriteByte('-')
			gap = false
		}
		b.WriteRune(r)
	}
	return strings.Trim(b.String(), "-")
}
