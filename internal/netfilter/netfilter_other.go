//go:build !linux

package netfilter

import "errors"

// Set is for Linux only.
func Set(Forward) error { return errors.ErrUnsupported }

// Clear is for Linux only.
func Clear() error { return errors.ErrUnsupported }
