// Package statestore keeps a tailnet node's identity in a Secret of Kubernetes, so that a pod's successor is the same node.
package statestore

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation"
	"tailscale.com/ipn"
)

const (
	// openTimeout is for reading the Secret, retryPause between two attempts.
	openTimeout = time.Minute
	retryPause  = time.Second
	// writeTimeout is for one change. The node waits for it, holding a lock.
	writeTimeout = 10 * time.Second
)

// Secrets are those of the Secret's namespace. They have to allow to get and to patch that one.
type Secrets interface {
	Get(ctx context.Context, name string, o metav1.GetOptions) (*corev1.Secret, error)
	Patch(ctx context.Context, name string, pt types.PatchType, data []byte, o metav1.PatchOptions, subresources ...string) (*corev1.Secret, error)
}

// Store keeps the state of one node. It implements [ipn.StateStore]. Nobody else may write to its Secret meanwhile.
type Store struct {
	secrets Secrets
	name    string
	log     *slog.Logger
	// ctx never ends: the calls of the interface bring none of their own.
	ctx context.Context

	mu   sync.Mutex
	data map[string][]byte
	// unsaved are the keys whose change did not reach the Secret. The next change takes them along.
	unsaved map[string]bool
}

// Open reads the Secret. One that does not exist, or may not be read, is an error; an API server that is away is asked again
// for a minute.
func Open(ctx context.Context, secrets Secrets, name string, log *slog.Logger) (*Store, error) {
	all := context.WithoutCancel(ctx)
	ctx, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	for {
		secret, err := secrets.Get(ctx, name, metav1.GetOptions{})
		switch {
		case err == nil:
			s := &Store{secrets: secrets, name: name, log: log, ctx: all, data: secret.Data, unsaved: map[string]bool{}}
			if s.data == nil {
				s.data = map[string][]byte{}
			}
			return s, nil
		case apierrors.IsNotFound(err), apierrors.IsForbidden(err), apierrors.IsUnauthorized(err):
			return nil, fmt.Errorf("read the node's identity: create the Secret, empty, and let this account get and patch it: %w", err)
		}
		log.Warn("cannot read the node's identity yet, trying again", "secret", name, "err", err)
		timer := time.NewTimer(retryPause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return nil, fmt.Errorf("read the node's identity: %w", errors.Join(err, ctx.Err()))
		}
	}
}

// ReadState implements [ipn.StateStore].
func (s *Store) ReadState(id ipn.StateKey) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	value, ok := s.data[key(id)]
	if !ok {
		return nil, ipn.ErrStateNotExist
	}
	return bytes.Clone(value), nil
}

// WriteState implements [ipn.StateStore]. A change that cannot be saved is an error, and yet known from then on: the node
// goes on with it, and the next change saves both.
func (s *Store) WriteState(id ipn.StateKey, value []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	k := key(id)
	old, there := s.data[k]
	if there == (value != nil) && bytes.Equal(old, value) && len(s.unsaved) == 0 {
		return nil
	}
	if value == nil {
		delete(s.data, k)
	} else {
		s.data[k] = bytes.Clone(value)
	}
	s.unsaved[k] = true
	if err := s.save(); err != nil {
		return fmt.Errorf("save the node's identity in Secret %s: %w", s.name, err)
	}
	clear(s.unsaved)
	return nil
}

// save writes what is unsaved. A merge patch leaves alone what others put there, and needs no version: the last one counts.
func (s *Store) save() error {
	changes := make(map[string]*[]byte, len(s.unsaved)) // nil takes a key away
	for k := range s.unsaved {
		changes[k] = nil
		if value, ok := s.data[k]; ok {
			changes[k] = &value
		}
	}
	patch, err := json.Marshal(map[string]any{"data": changes})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(s.ctx, writeTimeout)
	defer cancel()
	for {
		_, err := s.secrets.Patch(ctx, s.name, types.MergePatchType, patch, metav1.PatchOptions{FieldManager: "tailgate-proxy"})
		switch {
		case err == nil:
			return nil
		case apierrors.IsNotFound(err), apierrors.IsForbidden(err), apierrors.IsInvalid(err), apierrors.IsRequestEntityTooLargeError(err):
			return err
		}
		s.log.Warn("cannot save the node's identity yet, trying again", "secret", s.name, "err", err)
		timer := time.NewTimer(retryPause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return errors.Join(err, ctx.Err())
		}
	}
}

// key is the Secret's key for an id: what a key may not have becomes an underscore. The ids of a node's state differ in more
// than that.
func key(id ipn.StateKey) string {
	k := []byte(id)
	for i, c := range k {
		if len(validation.IsConfigMapKey(string(c))) > 0 && c != '.' {
			k[i] = '_'
		}
	}
	return string(k)
}
