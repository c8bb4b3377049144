// Package store is what a hub's store and its backups keep of each object, generated from store.proto. It lies on
// users' disks: package hub/store/codec, which alone speaks it, says what every version must be able to read.
package store
