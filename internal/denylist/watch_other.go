//go:build !linux

package denylist

import (
	"context"
	"errors"
)

// watch reports no changes: the list is polled.
func watch(context.Context, func()) error { return errors.New("not implemented on this system") }
