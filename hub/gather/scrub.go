package gather

import "regexp"

// redacted stands where a credential was.
const redacted = "REDACTED"

// pattern is what a credential looks like. What its groups "before" and "after" match is kept.
type pattern struct {
	*regexp.Regexp
	before, after int
}

func look(expr string) pattern {
	r := regexp.MustCompile(expr)
	return pattern{r, r.SubexpIndex("before"), r.SubexpIndex("after")}
}

// named is a name whose value is taken for a credential, and assigned what stands between it and the value. Names of Secrets
// are none: nothing may follow the word, as it does in authKeySecret.
const (
	named    = `(?i:password|passwd|auth[_-]?key|api[_-]?key|private[_-]?key|client[_-]?secret|secret[_-]?key|token)`
	assigned = `["']?[ \t]*[:=][ \t]*`
)

// patterns are tried in this order.
var patterns = []pattern{
	// Whole private keys, whatever their lines are joined with. One that was cut off ends with the text.
	look(`-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----(?s:.*?)(?:-----END [A-Z0-9 ]*PRIVATE KEY-----|\z)`),
	// Keys of Tailscale and headscale (tskey-auth-…, tskey-client-…, hskey-…), and the private keys in a node's state.
	look(`(?P<before>(?:ts|hs)key-)[A-Za-z0-9_-]+`),
	look(`(?P<before>privkey:)[0-9a-fA-F]+`),
	// JSON Web Tokens, as those of ServiceAccounts.
	look(`eyJ[A-Za-z0-9_-]{5,}\.[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]*)?`),
	look(`(?P<before>\b(?i:bearer|basic)[ \t]+)[A-Za-z0-9+/=._~-]{8,}`),
	look(`(?P<before>[a-z][a-z0-9+.-]*://[^\s/:@"']*:)[^\s/@"']+(?P<after>@)`),
	// Values by their names: in JSON within JSON, in quotes, and bare up to the next blank.
	look(`(?P<before>` + named + `\\"[ \t]*:[ \t]*\\")(?s:.*?)(?P<after>\\")`),
	look(`(?P<before>` + named + assigned + `")(?:[^"\\]|\\.)*(?P<after>")`),
	look(`(?P<before>` + named + assigned + `')[^']*(?P<after>')`),
	look(`(?P<before>` + named + assigned + `)[^\s"'\\|>]\S*`),
}

// plain are values that no credential has, under names such as automountServiceAccountToken.
var plain = map[string]bool{"": true, "true": true, "false": true, "null": true, redacted: true}

// Scrubber takes credentials out of texts. The zero one is ready for use.
type Scrubber struct {
	// Redacted counts what was taken out.
	Redacted int
}

// Scrub returns a text without what looks like a credential.
func (s *Scrubber) Scrub(text string) string {
	for _, p := range patterns {
		text = p.ReplaceAllStringFunc(text, func(found string) string {
			groups := p.FindStringSubmatch(found)
			before, after := "", ""
			if p.before > 0 {
				before = groups[p.before]
			}
			if p.after > 0 {
				after = groups[p.after]
			}
			if plain[found[len(before):len(found)-len(after)]] {
				return found
			}
			s.Redacted++
			return before + redacted + after
		})
	}
	return text
}
