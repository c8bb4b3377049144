package proxyapi

import "time"

// MaxConfigSize is the largest configuration that a spoke sends and a proxy accepts, in bytes. gRPC's own limit of 4 MiB is
// reached by some 30,000 ports of remote VIPs, and one port with many backends is larger than that of a VIP; this leaves
// room for 2,000 VIPs with dozens of ports and backends each.
const MaxConfigSize = 64 << 20

// MaxStatusSize is the largest status that a proxy sends and a spoke accepts, in bytes: a result and an error for each of
// tens of thousands of ports.
const MaxStatusSize = 16 << 20

// BeatInterval is how often a spoke says something over TCP where it has nothing to say. QuietLimit is how long a proxy
// hears nothing before it takes the connection for dead.
const (
	BeatInterval = time.Second
	QuietLimit   = 3 * time.Second
)
