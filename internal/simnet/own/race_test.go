//go:build race

package own_test

const race = true
