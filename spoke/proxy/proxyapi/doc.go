// Package proxyapi is the protocol between a spoke and its proxies, generated from proxy.proto.
package proxyapi
