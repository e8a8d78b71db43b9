package egress

import (
	"cmp"
	"slices"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

// Status describes the flows into the tailnet.
type Status struct {
	// Connections are the TCP connections of programs that are open, and Limit their bound.
	Connections, Limit int
	// Targets has at most [maxTargets] targets and their rest, named "other": those with the most open flows first, then
	// by bytes.
	Targets []Target
}

// Target describes the flows to one target.
type Target struct {
	Name           string // as programs ask for it, host:port
	Open, Opened   int64  // flows
	ToTailnetBytes int64
	ToVPCBytes     int64
}

// Status returns the current status.
func (s *Server) Status() Status {
	return Status{Connections: s.admitted.open(), Limit: s.admitted.limit, Targets: s.metrics.describe()}
}

func (m *metrics) describe() (list []Target) {
	m.mu.Lock()
	for _, t := range m.targets {
		if d := t.describe(); d.Opened > 0 || d.Name != otherTargets {
			list = append(list, d)
		}
	}
	m.mu.Unlock()
	slices.SortFunc(list, func(a, b Target) int {
		return cmp.Or(cmp.Compare(b.Open, a.Open), cmp.Compare(b.bytes(), a.bytes()), cmp.Compare(a.Name, b.Name))
	})
	return list
}

func (t Target) bytes() int64 { return t.ToTailnetBytes + t.ToVPCBytes }

func (t *target) describe() Target {
	return Target{Name: t.label, Open: t.open.Load(), Opened: t.opened.Load(), ToTailnetBytes: valueOf(t.toTailnet), ToVPCBytes: valueOf(t.toVPC)}
}

func valueOf(c prometheus.Counter) int64 {
	var m dto.Metric
	if c.Write(&m) != nil {
		return 0
	}
	return int64(m.GetCounter().GetValue())
}
