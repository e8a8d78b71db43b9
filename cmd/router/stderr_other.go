//go:build !linux

package main

// unblockStandardError does nothing: no scheduler runs the router here.
func unblockStandardError() {}
