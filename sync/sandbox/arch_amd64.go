package sandbox

import "golang.org/x/sys/unix"

const (
	auditArch = 0xC000003E // AUDIT_ARCH_X86_64
	x32Bit    = 0x40000000 // system calls of the x32 ABI have other numbers
)

// oldCalls are those that newer architectures no longer have.
var oldCalls = []uint32{unix.SYS_FORK, unix.SYS_VFORK, unix.SYS_MKNOD, unix.SYS_MODIFY_LDT} //nolint:gochecknoglobals // never written
