//go:build !linux

package tailnet

import "log/slog"

func missingForKernel() []string { return []string{"kernel mode needs Linux"} }

func enableForwarding(*slog.Logger) error { return nil }
