// Package extension makes Envoy Gateway part of the federation: a server for Envoy Gateway's extension hooks, which
// inject routes and clusters, and an endpoint discovery server, which Envoy asks directly where those clusters lead.
//
// Structure goes through hooks and endpoints never do: a failover is one push of an endpoint assignment, with no
// translation by Envoy Gateway. Package translate decides what the structure is; package certs makes the
// certificates by which the parties know one another.
package extension
