package ops

import (
	"bytes"
	"fmt"
	"net/http"
	"net/url"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

// engineGatherer parses the engine's text format into metric families, so that both
// registries share one response, content negotiation and order, and no second listener
// has to be scraped.
func engineGatherer(serve http.HandlerFunc) prometheus.GathererFunc {
	request := &http.Request{
		Method: http.MethodGet, URL: &url.URL{Path: "/metrics"}, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: http.Header{}, Body: http.NoBody,
	}
	return func() ([]*dto.MetricFamily, error) {
		answer := bufferedAnswer{header: http.Header{}}
		serve(&answer, request.Clone(request.Context()))
		parser := expfmt.NewTextParser(model.LegacyValidation)
		byName, err := parser.TextToMetricFamilies(&answer.body)
		if err != nil {
			return nil, fmt.Errorf("parsing engine metrics: %w", err)
		}
		families := make([]*dto.MetricFamily, 0, len(byName))
		for _, f := range byName {
			families = append(families, f)
		}
		return families, nil
	}
}

// bufferedAnswer is a [http.ResponseWriter] that keeps the body.
type bufferedAnswer struct {
	header http.Header
	body   bytes.Buffer
}

func (a *bufferedAnswer) Header() http.Header         { return a.header }
func (a *bufferedAnswer) Write(p []byte) (int, error) { return a.body.Write(p) }
func (a *bufferedAnswer) WriteHeader(int)             {}
