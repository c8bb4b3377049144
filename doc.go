// Package tailgate joins Kubernetes clusters into one federation over a Tailscale tailnet: a request to any cluster's
// gateway reaches a healthy copy of the service in any cluster.
//
// This package holds nothing but the tests of the tree itself. In reading order:
//
//   - federation: the words of the domain; federation/vip, federation/failover and federation/endpoints decide, as
//     pure functions of what is known and the time
//   - api/v1alpha1: the objects that users write; api/link: the protocol between hub and spoke
//   - hub: watches every member cluster, keeps the registry of VIPs and the decisions, and pushes endpoint sets
//   - spoke: one in each member cluster; takes the hub's state, probes, configures the proxies
//   - extension: what Envoy Gateway and Envoy ask in each member cluster
//   - e2e-kind: the scenarios, and the equipment that they run on
//
// Imports point down that list's layering only; a test enforces it.
package tailgate
