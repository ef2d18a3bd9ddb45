package sandbox

const (
	auditArch = 0xC00000B7 // AUDIT_ARCH_AARCH64
	x32Bit    = 0x40000000 // there are none
)

var oldCalls []uint32 //nolint:gochecknoglobals // never written
