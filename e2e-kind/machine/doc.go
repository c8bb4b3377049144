// Package machine makes machines out of namespaces: each has a network, process ids, mounts and a host name of its own and
// one address on a bridge, and any of them can lose its power at any moment. It is test equipment, needs neither root nor a
// container engine, and runs on Linux only.
//
// A program that uses it calls [RunIsolated] first thing in main (or TestMain). That starts the program again in namespaces
// of its own, where nothing it does can reach the host's network and where the death of the outer process ends every inner
// one. In there a [Fabric] is the bridge, [Fabric.Boot] starts a machine, and a machine's own program runs its processes
// under a [Supervisor].
//
// /proc stays that of the host: a new one may not be mounted everywhere. In it only /proc/self and what hangs on it
// (/proc/net, /proc/sys/net) speak of the reader; process ids found elsewhere under /proc are not those of the machine.
package machine
