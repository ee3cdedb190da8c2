package blob

import (
	"maps"
	"slices"
	"sync"
)

// Shared holds what clients share, one for each key, for as long as it lives
// itself. The zero value is ready.
type Shared[K comparable, V any] struct {
	mu   sync.Mutex // guards made; never held across I/O
	made map[K]V
}

// Get returns what a key has, and creates it if there is none yet. An error is
// not remembered. To create makes no request.
func (s *Shared[K, V]) Get(key K, create func(K) (V, error)) (V, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if v, ok := s.made[key]; ok {
		return v, nil
	}
	v, err := create(key)
	if err != nil {
		return v, err
	}
	if s.made == nil {
		s.made = make(map[K]V)
	}
	s.made[key] = v
	return v, nil
}

// Of is Get for what can always be created.
func (s *Shared[K, V]) Of(key K, create func(K) V) V {
	v, _ := s.Get(key, func(key K) (V, error) { return create(key), nil })
	return v
}

// All returns what was created.
func (s *Shared[K, V]) All() []V {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Collect(maps.Values(s.made))
}
