package congestion

import "math"

// prr is proportional rate reduction (RFC 6937 and its revision, draft-ietf-tcpm-prr-rfc6937bis): in a recovery it
// reduces the volume in flight to the new threshold over a round trip, clocked by deliveries, and never stops
// sending meanwhile.
type prr struct {
	active    bool
	flight    int64 // in flight when the recovery began
	delivered int64 // since then
	out       int64 // sent since then
	window    int64
}

func (p *prr) begin(flight, inFlight, mss int64) {
	*p = prr{active: true, flight: max(flight, mss), window: inFlight + mss} // the first retransmission leaves at once
}

func (p *prr) ack(s *sample, inFlight, ssthresh, mss int64) {
	p.delivered += s.acked
	var send int64
	if inFlight > ssthresh {
		send = int64(math.Ceil(float64(p.delivered)*float64(ssthresh)/float64(p.flight))) - p.out
	} else {
		send = max(p.delivered-p.out, s.acked)
		if s.lost == 0 {
			send += mss // nothing more was lost: catch up, as slow start would
		}
		send = min(send, ssthresh-inFlight)
	}
	if p.out == 0 {
		send = max(send, mss)
	}
	p.window = min(inFlight+max(send, 0), maxVolume)
}
