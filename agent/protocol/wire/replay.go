package wire

// A Window remembers which of the last numbers it saw. The zero value is ready; it is not safe side by side.
type Window struct {
	top  uint64
	seen [windowSize / 64]uint64
}

const windowSize = 1024

// Take reports whether seq is new: not seen, and not so old that this can no longer be told.
func (w *Window) Take(seq uint64) bool {
	if seq == 0 || seq+windowSize <= w.top {
		return false
	}
	if seq > w.top {
		if seq-w.top >= windowSize {
			clear(w.seen[:])
		} else {
			for n := w.top + 1; n <= seq; n++ {
				w.seen[n/64%uint64(len(w.seen))] &^= 1 << (n % 64)
			}
		}
		w.top = seq
	}
	word, bit := &w.seen[seq/64%uint64(len(w.seen))], uint64(1)<<(seq%64)
	if *word&bit != 0 {
		return false
	}
	*word |= bit
	return true
}
