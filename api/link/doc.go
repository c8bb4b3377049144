// Package link is the protocol between hub and spoke, generated from link.proto, with its conversion to and from the
// words of package federation.
package link
