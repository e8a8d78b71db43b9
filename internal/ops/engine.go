package ops

import (
	"fmt"
	"net/http"
	"net/http/httptest"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

// engineGatherer parses the engine's text format into metric families, so that both
// registries share one response, content negotiation and order, and no second listener
// has to be scraped.
func engineGatherer(serve http.HandlerFunc) prometheus.GathererFunc {
	request := httptest.NewRequest(http.MethodGet, "/metrics", nil)
	return func() ([]*dto.MetricFamily, error) {
		rec := httptest.NewRecorder()
		serve(rec, request)
		parser := expfmt.NewTextParser(model.LegacyValidation)
		byName, err := parser.TextToMetricFamilies(rec.Body)
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
