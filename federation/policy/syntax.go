package policy

import (
	"strings"

	"github.com/tailgate-project/tailgate/federation"
)

// maxSubdomain is the longest name of most Kubernetes objects, in bytes.
const maxSubdomain = 253

// isSubdomain reports whether s is an RFC 1123 subdomain, as the names of most Kubernetes objects are: labels between
// dots. Only the whole is bounded, not each label.
func isSubdomain(s string) bool {
	if len(s) > maxSubdomain {
		return false
	}
	for part := range strings.SplitSeq(s, ".") {
		if !endsWell(part) || strings.IndexFunc(part, func(r rune) bool { return r != '-' && !lower(r) && !digit(r) }) >= 0 {
			return false
		}
	}
	return true
}

// isLabelKey reports whether s can be the key of a label: a name, with at most a subdomain and a slash before it.
func isLabelKey(s string) bool {
	if prefix, name, ok := strings.Cut(s, "/"); ok {
		return isSubdomain(prefix) && isLabelValue(name)
	}
	return isLabelValue(s)
}

// isLabelValue reports whether s can be the value of a label and is not empty. It is also what a key's name must be, and
// the name of a region or zone, which nodes carry as labels.
func isLabelValue(s string) bool {
	return len(s) <= federation.MaxLabel && endsWell(s) && strings.IndexFunc(s, func(r rune) bool {
		return r != '-' && r != '_' && r != '.' && !letter(r) && !digit(r)
	}) < 0
}

// endsWell reports whether s begins and ends with a letter or digit.
func endsWell(s string) bool {
	if s == "" {
		return false
	}
	head, tail := rune(s[0]), rune(s[len(s)-1])
	return (letter(head) || digit(head)) && (letter(tail) || digit(tail))
}

func lower(r rune) bool  { return 'a' <= r && r <= 'z' }
func letter(r rune) bool { return lower(r) || 'A' <= r && r <= 'Z' }
func digit(r rune) bool  { return '0' <= r && r <= '9' }
