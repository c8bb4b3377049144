package state

import (
	"cmp"
	"crypto/rand"
	"maps"
	"slices"
	"time"
)

// MaxKeyExpiry is the longest life of an auth key, and the default, as in
// production.
const MaxKeyExpiry = 90 * 24 * time.Hour

// KeySpec is what an auth key allows.
type KeySpec struct {
	Description   string
	Tags          []string
	Ephemeral     bool
	Reusable      bool
	Preauthorized bool
	Expiry        time.Duration // 0 means MaxKeyExpiry
}

// Key is an auth key.
type Key struct {
	KeySpec
	ID      string
	Secret  string // only what CreateKey returned; later "" for everybody
	Created time.Time
	Expires time.Time
	Revoked time.Time // zero unless deleted
	Used    bool
}

// Usable reports whether a new node can still register with k.
func (k Key) Usable(now time.Time) bool {
	return k.Revoked.IsZero() && now.Before(k.Expires) && (k.Reusable || !k.Used)
}

// CreateKey mints an auth key.
func (s *State) CreateKey(spec KeySpec) (Key, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.checkTagsLocked(spec.Tags); err != nil {
		return Key{}, err
	}
	if spec.Expiry < 0 || spec.Expiry > MaxKeyExpiry {
		return Key{}, refuse(Invalid, "key expiry %v is out of range: want 0 (the default) to %v", spec.Expiry, MaxKeyExpiry)
	}
	spec.Tags = normalTags(spec.Tags)
	id := "k" + rand.Text()[:11] + "CNTRL"
	now := s.cfg.Now()
	k := &Key{
		KeySpec: spec,
		ID:      id,
		Secret:  "tskey-auth-" + id + "-" + rand.Text(),
		Created: now,
		Expires: now.Add(cmp.Or(spec.Expiry, MaxKeyExpiry)),
	}
	s.keys[id] = k
	return *k, nil
}

// Key returns the auth key with that id, without its secret. A deleted key is
// still known, as revoked.
func (s *State) Key(id string) (Key, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	k, ok := s.keys[id]
	if !ok {
		return Key{}, refuse(NotFound, "key %q not found", id)
	}
	return k.public(), nil
}

// Keys returns the auth keys that can still be used, by id.
func (s *State) Keys() []Key {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.cfg.Now()
	keys := []Key{}
	for _, id := range slices.Sorted(maps.Keys(s.keys)) {
		if k := s.keys[id]; k.Usable(now) {
			keys = append(keys, k.public())
		}
	}
	return keys
}

// RevokeKey ends an auth key. Devices that registered with it stay.
func (s *State) RevokeKey(id string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	k, ok := s.keys[id]
	if !ok || !k.Revoked.IsZero() {
		return refuse(NotFound, "key %q not found", id)
	}
	k.Revoked = s.cfg.Now()
	return nil
}

func (k *Key) public() Key {
	p := *k
	p.Secret = ""
	p.Tags = slices.Clone(k.Tags)
	return p
}

// spendLocked uses the key with that secret for one registration. The refusal,
// if not empty, is what the node's user gets to read.
func (s *State) spendLocked(secret string) (k *Key, refusal string) {
	for _, candidate := range s.keys {
		if candidate.Secret == secret {
			k = candidate
			break
		}
	}
	switch now := s.cfg.Now(); {
	case k == nil:
		return nil, "invalid key: API key does not exist"
	case !k.Revoked.IsZero():
		return nil, "invalid key: auth key " + k.ID + " was revoked"
	case !now.Before(k.Expires):
		return nil, "invalid key: auth key " + k.ID + " expired at " + k.Expires.UTC().Format(time.RFC3339)
	case k.Used && !k.Reusable:
		return nil, "invalid key: auth key " + k.ID + " was already used and is not reusable"
	}
	k.Used = true
	return k, ""
}
