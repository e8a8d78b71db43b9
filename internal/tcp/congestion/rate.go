package congestion

import "time"

// sampler measures the rate at which the path delivers (draft-ietf-ccwg-bbr, "Delivery Rate Samples"). Each sample is
// the volume delivered between the transmission of a record and its delivery, divided by the longer of two intervals:
// that in which the data was sent, and that in which it was acknowledged. The longer one, so that neither compressed
// ACKs nor a burst of transmissions can make the path look faster than it is.
type sampler struct {
	delivered   int64         // bytes delivered since the connection began
	lost        int64         // bytes taken for lost since the connection began, less those that arrived late
	deliveredAt time.Duration // of the newest delivery, or of the first transmission after an idle time
	firstSentAt time.Duration // transmission of the newest delivered record, or of the first after an idle time
	appLimited  int64         // value of delivered at which the data sent while app-limited has left the path; 0: none

	// Since the last call of finish, hence for one ACK.
	acked     int64
	newlyLost int64
	newest    Packet // of the delivered records, the one sent last; valid if newest.sent
}

// sample describes one ACK.
type sample struct {
	acked int64 // bytes that this ACK delivered; 0: the other fields are zero, except lost
	lost  int64 // bytes taken for lost since the previous ACK

	// Of the newest record that this ACK delivered.
	rate           float64 // bytes per second; 0: no reliable sample
	delivered      int64   // bytes delivered since it was sent
	priorDelivered int64   // bytes delivered when it was sent
	inFlight       int64   // bytes in flight when it was sent
	lostSince      int64   // bytes taken for lost since it was sent
	appLimited     bool
}

func (s *sampler) send(now time.Duration, p *Packet, size, inFlight int) {
	if inFlight <= 0 {
		s.firstSentAt, s.deliveredAt = now, now
	}
	*p = Packet{
		sentAt:      now,
		firstSentAt: s.firstSentAt,
		deliveredAt: s.deliveredAt,
		delivered:   s.delivered,
		lost:        s.lost,
		inFlight:    int64(max(inFlight, 0)) + int64(size),
		appLimited:  s.appLimited != 0,
		sent:        true,
	}
}

func (s *sampler) ack(now time.Duration, p *Packet, size int) {
	s.delivered += int64(size)
	s.acked += int64(size)
	s.deliveredAt = now
	if p.takenForLost {
		s.lost = max(s.lost-int64(size), 0) // late, not lost
	}
	if p.sent && (!s.newest.sent || p.sentAt >= s.newest.sentAt) {
		s.newest = *p
	}
}

func (s *sampler) lose(p *Packet, size int) {
	s.lost += int64(size)
	s.newlyLost += int64(size)
	p.takenForLost = true
}

// finish returns the sample of the ACK that ends now. minRTT is the shortest round-trip time seen, 0 if there is none:
// a record that seems to have been delivered in less is a retransmission whose original arrived.
func (s *sampler) finish(minRTT time.Duration) sample {
	r := sample{acked: s.acked, lost: s.newlyLost}
	p := s.newest
	s.acked, s.newlyLost, s.newest = 0, 0, Packet{}
	if s.appLimited != 0 && s.delivered > s.appLimited {
		s.appLimited = 0
	}
	if !p.sent {
		return r
	}
	if p.sentAt > s.firstSentAt {
		s.firstSentAt = p.sentAt
	}
	r.delivered = s.delivered - p.delivered
	r.priorDelivered = p.delivered
	r.inFlight = p.inFlight
	r.lostSince = max(s.lost-p.lost, 0)
	r.appLimited = p.appLimited
	if interval := max(p.sentAt-p.firstSentAt, s.deliveredAt-p.deliveredAt); interval > 0 && interval >= minRTT {
		r.rate = min(float64(r.delivered)/interval.Seconds(), maxRate)
	}
	return r
}

func (s *sampler) limit(inFlight int) {
	s.appLimited = max(s.delivered+int64(max(inFlight, 0)), 1)
}
