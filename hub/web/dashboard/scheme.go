package dashboard

import (
	"net/http"
)

// schemeCookie holds the colours that somebody chose.
const schemeCookie = "tailgate-scheme"

// schemeOf returns light, dark, or nothing for what the viewer's system says.
func schemeOf(r *http.Request) string {
	c, err := r.Cookie(schemeCookie)
	if err != nil || c.Value != "light" && c.Value != "dark" {
		return ""
	}
	return c.Value
}

// scheme keeps the colours that a viewer chose, and leads back to where they were.
func (d *dashboard) scheme(r *http.Request, _ Viewer) (answer, error) {
	if err := r.ParseForm(); err != nil {
		return answer{}, badForm(err)
	}
	c := &http.Cookie{Name: schemeCookie, Path: "/", MaxAge: 365 * 24 * 3600, HttpOnly: true, SameSite: http.SameSiteLaxMode}
	switch v := r.PostForm.Get("scheme"); v {
	case "light", "dark":
		c.Value = v
	default:
		c.MaxAge = -1
	}
	return answer{redirect: local(r.PostForm.Get("back")), cookies: []*http.Cookie{c}}, nil
}
