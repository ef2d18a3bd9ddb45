package wire

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/nats-io/nkeys"
)

func endpoint(t testing.TB) *Endpoint {
	t.Helper()
	key, err := nkeys.CreateUser()
	if err != nil {
		t.Fatal(err)
	}
	curve, err := nkeys.CreateCurveKeys()
	if err != nil {
		t.Fatal(err)
	}
	e := &Endpoint{Key: key, Curve: curve, Accept: func(*Manifest) error { return nil }, open: map[string]*assembly{}}
	e.public, _ = key.PublicKey()
	e.curve, _ = curve.PublicKey()
	return e
}

// frames is body as it goes over the wire from one end to another.
func frames(t testing.TB, from, to *Endpoint, body []byte) [][]byte {
	t.Helper()
	m := Manifest{Kind: Submit, Agent: to.public, To: to.curve}
	first, sealed, err := from.prepare(&m, body)
	if err != nil {
		t.Fatal(err)
	}
	all := [][]byte{first}
	for i := 1; i < m.Chunks; i++ {
		all = append(all, encodeChunk(m.ID, i, sealed[i*ChunkSize:min(len(sealed), (i+1)*ChunkSize)]))
	}
	return all
}

func TestFrames(t *testing.T) {
	a, b := endpoint(t), endpoint(t)
	for _, size := range []int{0, 1, ChunkSize - 60, ChunkSize, 3*ChunkSize + 7} {
		body := bytes.Repeat([]byte{7}, size)
		var got *Message
		for i, f := range frames(t, a, b, body) {
			m, err := b.take(f)
			if err != nil {
				t.Fatalf("%d bytes, frame %d: %v", size, i, err)
			}
			got = m
		}
		if got == nil {
			t.Fatalf("%d bytes: not whole", size)
		}
		if open, err := b.Open(got); err != nil || !bytes.Equal(open, body) {
			t.Errorf("%d bytes: %v", size, err)
		}
		if len(b.open) > 0 || b.held != 0 {
			t.Errorf("%d bytes: %d open, %d held", size, len(b.open), b.held)
		}
	}
}

func TestFramesOutOfTurn(t *testing.T) {
	a, b := endpoint(t), endpoint(t)
	f := frames(t, a, b, bytes.Repeat([]byte{7}, 4*ChunkSize))
	for _, order := range [][]int{{1}, {0, 2}, {0, 1, 1}, {0, 1, 3}} {
		var err error
		for _, i := range order {
			_, err = b.take(f[i])
		}
		if err == nil || len(b.open) > 0 || b.held != 0 {
			t.Errorf("%v: %v, %d open", order, err, len(b.open))
		}
	}
	_, _ = b.take(f[0])
	bad := bytes.Clone(f[1])
	bad[len(bad)-1] ^= 1
	_, _ = b.take(bad)
	_, _ = b.take(f[2])
	_, _ = b.take(f[3])
	if m, err := b.take(f[4]); err == nil || m != nil {
		t.Error("an altered chunk passed")
	}
}

func TestHeldIsBounded(t *testing.T) {
	a, b := endpoint(t), endpoint(t)
	var refused error
	for range 5 {
		m := Manifest{Version: Version, Kind: Submit, ID: NewID(), From: a.public, Size: MaxMessage, Chunks: chunks(MaxMessage)}
		f, err := encodeFirst(&m, a.Key, make([]byte, ChunkSize))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := b.take(f); err != nil {
			refused = err
		}
	}
	if refused == nil || b.held > maxHeld {
		t.Errorf("%d bytes held, %v", b.held, refused)
	}
	for _, m := range []Manifest{
		{Version: Version, ID: NewID(), Size: MaxMessage + 1, Chunks: chunks(MaxMessage + 1)},
		{Version: Version, ID: NewID(), Size: -1, Chunks: 1},
		{Version: Version, ID: NewID(), Size: 1, Chunks: 2},
		{Version: Version + 2, ID: NewID(), Chunks: 1},
		{Version: Version, ID: "x", Chunks: 1},
	} {
		if m.check() == nil {
			t.Errorf("%+v passed", m)
		}
	}
}

func TestWindow(t *testing.T) {
	var w Window
	rnd := rand.New(rand.NewPCG(1, 2))
	seen := map[uint64]bool{}
	var top uint64
	for range 200_000 {
		seq := top + uint64(rnd.IntN(40))
		if seq < 20 {
			seq = 20
		}
		seq -= uint64(rnd.IntN(20))
		if rnd.IntN(500) == 0 {
			seq += uint64(rnd.IntN(3000))
		}
		want := seq != 0 && !seen[seq] && seq+windowSize > top
		if got := w.Take(seq); got != want {
			t.Fatalf("Take(%d) = %v with top %d", seq, got, top)
		}
		if want {
			seen[seq] = true
			top = max(top, seq)
		}
	}
}

func FuzzDecodeFrame(f *testing.F) {
	a, b := endpoint(f), endpoint(f)
	for _, size := range []int{0, 10, ChunkSize + 5} {
		for _, frame := range frames(f, a, b, make([]byte, size)) {
			if len(frame) > 4096 {
				frame = frame[:4096]
			}
			f.Add(frame)
		}
	}
	f.Add([]byte("M\xff\xff"))
	f.Add([]byte("C"))
	f.Add([]byte(fmt.Sprintf("M\x00\x02{}%064d", 0)))
	f.Fuzz(func(t *testing.T, data []byte) {
		frame, err := decodeFrame(data)
		if err == nil && frame.manifest != nil && frame.manifest.check() != nil {
			t.Error("a bad manifest passed")
		}
		// Whatever comes, an endpoint keeps no more than was announced, and does not break.
		_, _ = b.take(data)
		if b.held < 0 || b.held > maxHeld {
			t.Errorf("%d bytes held", b.held)
		}
	})
}
