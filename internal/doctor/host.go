package doctor

import (
	"context"
	"fmt"
	"runtime"
	"syscall"

	"subnetrouter/internal/forward"
	"subnetrouter/internal/tailnet"
)

func (e *exam) forwarding(context.Context) Result {
	mode, why, err := tailnet.ModeFor(tailnet.ParseMode(e.Config.Mode.String()))
	if err != nil {
		return failed(err, "set ROUTER_MODE=userspace")
	}
	return pass(fmt.Sprintf("%s: %s", mode, why))
}

// ping checks that the process may open ICMP sockets, which not every container allows.
func (e *exam) ping(context.Context) Result {
	err4, err6 := forward.CanPing()
	const fix = "add the process's group to net.ipv4.ping_group_range (systemControls on EC2), or grant CAP_NET_RAW; TCP and UDP work without it"
	switch {
	case err4 != nil:
		return warn(fmt.Sprintf("no ICMP socket: %v", err4), fix)
	case err6 != nil:
		return pass(fmt.Sprintf("IPv4 only: %v", err6))
	}
	return pass("ICMP sockets for IPv4 and IPv6")
}

// minMemory is the memory of the smallest Fargate task. A router with 8 streams at full
// speed peaks at some 75 MiB.
const (
	minMemory     = 256 << 20
	minFiles      = 4096
	filesFargate  = "65535"
	bytesPerMiB   = 1 << 20
	filesReserved = 256
)

func (e *exam) memory(ctx context.Context) Result {
	place, _ := e.place.Get(ctx)
	limit, source := e.Memory(place.Limits.MemoryMiB)
	cpus := fmt.Sprintf("%d CPUs seen", runtime.NumCPU())
	if place.Limits.CPU > 0 {
		cpus = fmt.Sprintf("%g vCPU", place.Limits.CPU)
	}
	if e.GoMemory != "" {
		cpus += ", GOMEMLIMIT=" + e.GoMemory
	}
	switch {
	case limit == 0 && e.GoMemory == "":
		return warn("no memory limit known, "+cpus, "give the task a memory limit, so that the router refuses new flows before the host runs out")
	case limit == 0:
		return pass("no memory limit known, " + cpus)
	case limit < minMemory:
		return warn(fmt.Sprintf("%d MiB by %s, %s", limit/bytesPerMiB, source, cpus), fmt.Sprintf("give the task %d MiB or more: 8 streams at full speed need some 100 MiB", minMemory/bytesPerMiB))
	}
	return pass(fmt.Sprintf("%d MiB by %s, %s", limit/bytesPerMiB, source, cpus))
}

// openFiles checks the limit of open files, which bounds the flows: each has a socket. The
// router raises the soft limit to the hard one.
func (e *exam) openFiles(context.Context) Result {
	var files syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files); err != nil {
		return skip("reading the limit: " + err.Error())
	}
	value := fmt.Sprintf("%d (now %d): at most %d flows", files.Max, files.Cur, max(1, int64(min(files.Max, 1<<30))-filesReserved))
	if files.Max < minFiles {
		return warn(value, "raise nofile in the container definition's ulimits, for example to "+filesFargate+": each flow has a socket")
	}
	return pass(value)
}
