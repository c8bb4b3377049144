package main

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"

	"github.com/spf13/pflag"

	"github.com/tailgate-project/tailgate/hub/store"
	"github.com/tailgate-project/tailgate/hub/store/bolt"
	"github.com/tailgate-project/tailgate/hub/store/etcd"
)

// etcdOptions are the flags of a store that several hubs share.
type etcdOptions struct {
	endpoints              []string
	prefix                 string
	ca, cert, key          string
	username, passwordFile string
}

func (e *etcdOptions) addTo(f *pflag.FlagSet) {
	f.StringSliceVar(&e.endpoints, "store-etcd", nil, "`URLs` of an etcd that keeps the state of several hubs, of which one leads (default: a file in --state-dir, for one hub)")
	f.StringVar(&e.prefix, "store-etcd-prefix", "/tailgate", "`prefix` of this federation's keys in etcd")
	f.StringVar(&e.ca, "store-etcd-ca", "", "`file` with the authority of etcd's certificates (default: the system's)")
	f.StringVar(&e.cert, "store-etcd-cert", "", "`file` with the certificate that the hub shows to etcd")
	f.StringVar(&e.key, "store-etcd-key", "", "`file` with the key of --store-etcd-cert")
	f.StringVar(&e.username, "store-etcd-user", "", "`name` of the hub's user in etcd, where it asks for one")
	f.StringVar(&e.passwordFile, "store-etcd-password-file", "", "`file` with the password of --store-etcd-user")
}

// storeFile is where a hub alone keeps its state.
func (o options) storeFile() string { return filepath.Join(o.stateDir, "hub.db") }

// openStore opens the store that the flags name. Of several hubs on one etcd, it waits until this one leads.
func (o options) openStore(ctx context.Context, log *slog.Logger, ready *readiness) (store.Store, error) {
	if len(o.etcd.endpoints) == 0 {
		return bolt.Open(o.storeFile(), bolt.Options{})
	}
	tls, err := etcd.LoadTLS(o.etcd.ca, o.etcd.cert, o.etcd.key)
	if err != nil {
		return nil, fmt.Errorf("--store-etcd: %w", err)
	}
	return etcd.Open(ctx, etcd.Options{
		Endpoints: o.etcd.endpoints, Prefix: o.etcd.prefix, TLS: tls, Username: o.etcd.username, PasswordFile: o.etcd.passwordFile, Log: log,
		Waiting: func(leader string) {
			log.Info("another hub leads, this one waits", "leader", leader)
			ready.wait("another hub leads: %s; this one waits", leader)
		},
	})
}
