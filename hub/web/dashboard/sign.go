package dashboard

import (
	"html/template"

	"github.com/tailgate-project/tailgate/api/operator"
	"github.com/tailgate-project/tailgate/federation"
	"github.com/tailgate-project/tailgate/federation/failover"
)

// sign is a state as it is shown: by a symbol, a word and a colour, of which any one would do.
type sign struct {
	// Icon is one of icons, Tone a colour: ok, warn, bad, op for what operators want, or mute.
	Icon, Tone, Word string
}

// icons are drawn on a square of 16, each of another shape.
var icons = map[string]template.HTML{
	"ok":     `<circle cx="8" cy="8" r="5.5" fill="currentColor"/>`,
	"warn":   `<path d="M8 2 14.5 13.5h-13Z" fill="currentColor"/>`,
	"bad":    `<path d="m3.5 3.5 9 9m0-9-9 9" stroke="currentColor" stroke-width="2.6" stroke-linecap="round"/>`,
	"stale":  `<circle cx="8" cy="8" r="5.6" fill="none" stroke="currentColor" stroke-width="1.8" stroke-dasharray="2.6 1.8"/><path d="M8 5v3.2l2 1.4" fill="none" stroke="currentColor" stroke-width="1.6" stroke-linecap="round"/>`,
	"drain":  `<path d="M8 2v8m-3.5-3L8 10.5 11.5 7M3 14h10" fill="none" stroke="currentColor" stroke-width="2" stroke-linecap="round" stroke-linejoin="round"/>`,
	"cordon": `<circle cx="8" cy="8" r="5.6" fill="none" stroke="currentColor" stroke-width="2"/><path d="M4.8 8h6.4" stroke="currentColor" stroke-width="2.2"/>`,
	"pin":    `<path d="M5.5 2h5l-.7 5 2.2 2.5H4L6.2 7ZM8 9.5V14.5" fill="currentColor" stroke="currentColor" stroke-width="1.4" stroke-linejoin="round"/>`,
	"none":   `<circle cx="8" cy="8" r="5" fill="none" stroke="currentColor" stroke-width="1.8"/>`,
	"wait":   `<circle cx="3" cy="8" r="1.7" fill="currentColor"/><circle cx="8" cy="8" r="1.7" fill="currentColor"/><circle cx="13" cy="8" r="1.7" fill="currentColor"/>`,
	"arrow":  `<path d="M2.5 8h10M9 4.5 12.5 8 9 11.5" fill="none" stroke="currentColor" stroke-width="1.8" stroke-linecap="round" stroke-linejoin="round"/>`,
}

// icon draws a symbol, which the word beside it names.
func icon(name string) template.HTML {
	return `<svg class="icon" viewBox="0 0 16 16" width="12" height="12" aria-hidden="true" focusable="false">` + icons[name] + `</svg>`
}

func healthSign(h federation.Health) sign {
	switch h {
	case federation.Healthy:
		return sign{"ok", "ok", h.String()}
	case federation.Degraded:
		return sign{"warn", "warn", h.String()}
	case federation.Unhealthy:
		return sign{"bad", "bad", h.String()}
	}
	return sign{"none", "mute", h.String()}
}

// verdictSigns are the signs of a verdict: its health, and what dampens it.
func verdictSigns(v operator.Verdict) []sign {
	out := []sign{healthSign(v.Health)}
	if v.Stale {
		out = append(out, sign{"stale", "warn", "stale"})
	}
	return out
}

// modeSign is the sign of what an operator wants.
func modeSign(m failover.Mode) sign {
	switch m {
	case failover.Drain:
		return sign{"drain", "op", "drain"}
	case failover.Cordon:
		return sign{"cordon", "op", "cordon"}
	case failover.Pin:
		return sign{"pin", "op", "pin"}
	case failover.Normal:
		return sign{"none", "mute", "normal"}
	}
	return sign{"none", "op", string(m)}
}

// signalSign is the sign of a way by which the hub hears of a member.
func signalSign(s operator.Signal) sign {
	switch {
	case s.Up:
		return sign{"ok", "ok", "up"}
	case s.Since.IsZero():
		return sign{"none", "bad", "never up"}
	}
	return sign{"bad", "bad", "down"}
}
