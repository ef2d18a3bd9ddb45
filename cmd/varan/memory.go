package main

import (
	"context"
	"debug/elf"
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"time"

	"golang.org/x/sys/unix"

	"github.com/varanhq/varan/apply"
	"github.com/varanhq/varan/sync"
)

// restAfter is how long nothing must have gone on before memory is given back.
const restAfter = 3 * time.Second

// keepSmall gives memory back once the daemon has come to rest after its start and after every run: it rests
// nearly always, and shares its machine with what it deploys.
func keepSmall(ctx context.Context, daemon *sync.Daemon) error {
	busy := make(chan struct{}, 1)
	go func() {
		_ = daemon.Events(ctx, func(apply.Event) {
			select {
			case busy <- struct{}{}:
			default:
			}
		})
	}()
	rest := time.NewTimer(restAfter)
	defer rest.Stop()
	for given := uint64(0); ; {
		select {
		case <-ctx.Done():
			return nil
		case <-busy:
			rest.Reset(restAfter)
			given = 0
		case <-rest.C:
			// A thousand agents that connect, or looks that find nothing to do, are no run and leave garbage too.
			if now := allocated(); given == 0 || now-given > littered {
				giveBack()
				given = allocated()
			}
			rest.Reset(restAgain)
		}
	}
}

const (
	// littered is how much must have been allocated, and restAgain how long it must have been, before memory is given
	// back again while no run goes on.
	littered  = 8 << 20
	restAgain = 20 * time.Second
)

// allocated is how many bytes of heap this process has ever allocated.
func allocated() uint64 {
	s := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}}
	metrics.Read(s)
	if s[0].Value.Kind() != metrics.KindUint64 {
		return 0
	}
	return s[0].Value.Uint64()
}

// giveBack returns unused heap to the system, and unmaps the pages of the program itself, most of which only the
// start has used: what is needed again is mapped again from the page cache, without reading the disk.
func giveBack() {
	debug.FreeOSMemory()
	if runtime.GOOS != "linux" {
		return
	}
	f, err := elf.Open("/proc/self/exe")
	if err != nil {
		return
	}
	defer f.Close()
	if f.Type != elf.ET_EXEC {
		return // not mapped where it was linked
	}
	page := uint64(os.Getpagesize())
	for _, p := range f.Progs {
		// Only what is never written: a dropped page is then the file's again.
		if p.Type != elf.PT_LOAD || p.Flags&elf.PF_W != 0 {
			continue
		}
		from, to := (p.Vaddr+page-1)/page*page, (p.Vaddr+p.Filesz)/page*page
		if from < to {
			_, _, _ = unix.Syscall(unix.SYS_MADVISE, uintptr(from), uintptr(to-from), unix.MADV_DONTNEED)
		}
	}
}
