//go:build !race

package congestion

const race = false
