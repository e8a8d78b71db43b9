//go:build !linux

package privilege

// Begin does nothing: only Linux has capabilities.
func Begin() {}

// Drop does nothing.
func Drop() error { return nil }

// Settle does nothing.
func Settle(Need, string) (Outcome, error) { return Outcome{Owner: -1}, nil }

// Granted returns false.
func Granted(Set) bool { return false }

// FolderTakeable returns false.
func FolderTakeable() bool { return false }

// FirstUnprivilegedPort returns 0: the system decides.
func FirstUnprivilegedPort() int { return 0 }
