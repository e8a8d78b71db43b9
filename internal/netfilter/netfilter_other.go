//go:build !linux

package netfilter

import (
	"errors"
	"net/netip"
)

// Set is for Linux only.
func Set(Forward) error { return errors.ErrUnsupported }

// Present is for Linux only.
func Present(netip.Addr) (bool, error) { return false, errors.ErrUnsupported }

// Clear is for Linux only.
func Clear() error { return errors.ErrUnsupported }
