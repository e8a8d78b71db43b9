//go:build !race

package simnet_test

const race = false
