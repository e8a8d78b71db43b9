package router

import (
	"context"
	"log/slog"
	"net/netip"
	"time"

	"subnetrouter/internal/forward"
	"subnetrouter/internal/tailnet"

	"github.com/prometheus/client_golang/prometheus"
)

// flowLogQueue bounds the finished flows that wait to be written. When the log is slower,
// records are dropped and counted: the data path never waits.
const flowLogQueue = 4096

// flowLog writes one line for each finished flow, with the node and user of its client.
type flowLog struct {
	flows   chan forward.Flow
	log     slog.Handler
	whoIs   func(netip.Addr) tailnet.Peer
	dropped prometheus.Counter
}

func newFlowLog(log slog.Handler, reg prometheus.Registerer, whoIs func(netip.Addr) tailnet.Peer) *flowLog {
	l := &flowLog{
		flows: make(chan forward.Flow, flowLogQueue), log: log, whoIs: whoIs,
		dropped: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "router_flow_log_dropped_total",
			Help: "Finished flows missing in the flow log, because its output was too slow.",
		}),
	}
	reg.MustRegister(l.dropped)
	return l
}

// finished queues f to be written. The data path calls it; it does not block.
func (l *flowLog) finished(f forward.Flow) {
	select {
	case l.flows <- f:
	default:
		l.dropped.Inc()
	}
}

// run writes the queued flows until ctx ends and the queue is empty.
func (l *flowLog) run(ctx context.Context) error {
	for {
		select {
		case f := <-l.flows:
			l.write(f)
		case <-ctx.Done():
			for {
				select {
				case f := <-l.flows:
					l.write(f)
				default:
					return nil
				}
			}
		}
	}
}

func (l *flowLog) write(f forward.Flow) {
	who := l.whoIs(f.Client.Addr())
	line := slog.NewRecord(time.Now(), slog.LevelInfo, "flow", 0)
	line.Add("protocol", f.Protocol.String(), "client", f.Client.String(), "node", who.Node, "user", who.User, "tags", who.Tags,
		"target", f.Target.String(), "started", f.Opened, "duration_seconds", f.Duration.Seconds(),
		"to_vpc_bytes", f.ToVPCBytes, "to_tailnet_bytes", f.ToTailnetBytes,
		"to_vpc_packets", f.ToVPCPackets, "to_tailnet_packets", f.ToTailnetPackets, "reason", f.End)
	if f.Dial > 0 {
		line.Add("dial_seconds", f.Dial.Seconds())
	}
	if f.Address != f.Target {
		line.Add("via", f.Address.String())
	}
	if l.log.Handle(context.Background(), line) != nil {
		l.dropped.Inc()
	}
}
