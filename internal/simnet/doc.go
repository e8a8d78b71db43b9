// Package simnet simulates a network between two TCP implementations, on a virtual clock and
// from a seed, and judges both. Only tests import it.
//
// A [Scenario] is all that a run depends on: two subjects, the path in each direction over
// time, and a [Script] for each connection. [Scenario.Run] is one goroutine with a heap of
// events. It never reads the wall clock or a random number that the seed does not determine,
// so two runs of a scenario are equal, packet for packet, and hours take milliseconds.
//
//	        script                                                 script
//	          │                                                      │
//	          ▼                                                      ▼
//	┌───── application A ─────┐                          ┌───── application B ─────┐
//	│ write, read, close,     │                          │ likewise, with its own  │
//	│ abort; verifies bytes   │                          │ part of the script      │
//	└──┬───────────────────▲──┘                          └──▲───────────────────┬──┘
//	 bytes          notifications                    notifications            bytes
//	┌──▼───────────────────┴──┐   ┌─────────────────┐    ┌──┴───────────────────▼──┐
//	│ Endpoint of subject A   ├──▶│ link: loss,     ├───▶│ Endpoint of subject B   │
//	│ (deadline, usage)       │   │ delay, rate, …  │    │ (deadline, usage)       │
//	│                         │◀──┤ one a direction │◀───┤                         │
//	└─────────────────────────┘   └────────┬────────┘    └─────────────────────────┘
//	                                       ▼
//	                 wire check: bytes sent, delivered, acknowledged, permitted
//
// Each run checks that
//
//   - every byte arrives once and in order, or the connection is reset, which needs a cause;
//   - nothing is stuck: once the faults of the network are over ([Scenario.Heal]), a
//     connection with work to do progresses within [Scenario.MaxStall], and an endpoint does
//     not ask for a call again and again without any time passing;
//   - no endpoint buffers more than [Config.Budget] or has anything left after the end;
//   - every packet is consistent with those before it: the sender's bytes are those of the
//     application and within the window, acknowledgements and SACK blocks cover only bytes
//     that arrived, checksums are correct.
//
// The last check finds errors that the other side of a connection repairs or tolerates.
//
// [Check] runs scenarios for many seeds in a test. For the first that fails it prints the
// failure, the command that replays the seed, and the packets of the connection:
//
//	simnet.Check(t, 0, 1000, func(seed uint64) simnet.Scenario {
//		return simnet.Random(seed, own, gvisor.Subject(gvisor.Options{}))
//	})
package simnet
