package endpoints

import (
	"slices"

	"github.com/tailgate-project/tailgate/federation"
)

// blockSize is how many services a block of a shelf has at most: what a change has to move.
const blockSize = 256

// shelf holds services in the order of their ids, in blocks, so that a change among very many moves a few only. The
// blocks are sorted, none is empty, and no two neighbours would fit into half a block.
type shelf struct {
	blocks [][]*service
	size   int
}

// find returns the block in which a service of the id stands or would stand, and where there.
func (s *shelf) find(id federation.ServiceID) (block, at int) {
	// The last block that begins at or before the id.
	block, found := slices.BinarySearchFunc(s.blocks, id, func(b []*service, id federation.ServiceID) int { return b[0].id.Compare(id) })
	if !found {
		block = max(block-1, 0)
	}
	if block < len(s.blocks) {
		at, _ = slices.BinarySearchFunc(s.blocks[block], id, func(x *service, id federation.ServiceID) int { return x.id.Compare(id) })
	}
	return block, at
}

// insert puts a service in its place. It must not be there.
func (s *shelf) insert(x *service) {
	s.size++
	i, at := s.find(x.id)
	if i == len(s.blocks) {
		s.blocks = append(s.blocks, []*service{x})
		return
	}
	b := slices.Insert(s.blocks[i], at, x)
	s.blocks[i] = b
	if len(b) <= blockSize {
		return
	}
	// Services that come in their order would leave half blocks behind them: cut off only what is new.
	cut := len(b) / 2
	if i == len(s.blocks)-1 && at == len(b)-1 {
		cut = at
	}
	s.blocks = slices.Insert(s.blocks, i+1, slices.Clone(b[cut:]))
	clear(b[cut:])
	s.blocks[i] = b[:cut]
}

// remove takes a service out. It must be there.
func (s *shelf) remove(x *service) {
	s.size--
	i, at := s.find(x.id)
	if s.blocks[i] = slices.Delete(s.blocks[i], at, at+1); len(s.blocks[i]) == 0 {
		s.blocks = slices.Delete(s.blocks, i, i+1)
	}
	// What is left must not become many small blocks: among these, too, a change would have to move.
	for _, j := range []int{i, i - 1} {
		if j >= 0 && j+1 < len(s.blocks) && len(s.blocks[j])+len(s.blocks[j+1]) <= blockSize/2 {
			s.blocks[j] = append(s.blocks[j], s.blocks[j+1]...)
			s.blocks = slices.Delete(s.blocks, j+1, j+2)
		}
	}
}

// each calls visit with the services in their order until it says that it wants no more.
func (s *shelf) each(visit func(*service) bool) {
	for _, b := range s.blocks {
		for _, x := range b {
			if !visit(x) {
				return
			}
		}
	}
}
