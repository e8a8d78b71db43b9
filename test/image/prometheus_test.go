package image

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
)

var prometheusImage = fmt.Sprintf("subnetrouter-prometheus:%d", os.Getpid())

// discover finds routers as a Prometheus in ECS does, by the labels that the module sets on
// containers, but asks the Docker engine for them.
const discover = `
global: {scrape_interval: 1s, scrape_timeout: 1s}
scrape_configs:
  - job_name: ecs
    docker_sd_configs:
      - host: unix:///docker.sock
        refresh_interval: 1s
        filters: [{name: label, values: [%[1]q]}]
    relabel_configs:
      - {source_labels: [__meta_docker_network_name], regex: %[2]s, action: keep}
      - source_labels: [__meta_docker_network_ip, __meta_docker_container_label_ECS_PROMETHEUS_EXPORTER_PORT]
        regex: (.+);(\d+)
        replacement: $1:$2
        target_label: __address__
      - {source_labels: [__meta_docker_container_label_ECS_PROMETHEUS_METRICS_PATH], target_label: __metrics_path__}
      - {source_labels: [__meta_docker_container_label_ECS_PROMETHEUS_JOB_NAME], target_label: job}
`

// prometheus is a Prometheus server in a container.
type prometheus struct{ url string }

// startPrometheus starts a Prometheus that discovers containers with the label and an
// address on the cloud network.
func (w *world) startPrometheus(t *testing.T, label string) prometheus {
	t.Helper()
	program, err := exec.LookPath("prometheus")
	if err != nil {
		skipOrFail(t, err.Error()+": scripts/tools installs it")
	}
	socket := engineSocket(t)
	config := filepath.Join(t.TempDir(), "prometheus.yml")
	if err := os.WriteFile(config, fmt.Appendf(nil, discover, label, w.cloudNet), 0o644); err != nil {
		t.Fatal(err)
	}
	files := withLibraries("prometheus", program)
	files["prometheus.yml"] = config
	if err := importImage(prometheusImage, "/prometheus", files); err != nil {
		t.Fatal(err)
	}
	c := start(t, []string{w.cloudNet}, "--volume", socket+":/docker.sock", prometheusImage,
		"--config.file=/prometheus.yml", "--storage.tsdb.path=/tmp/data")
	return prometheus{"http://" + c.ip(w.cloudNet) + ":9090"}
}

// value returns the only sample of the query's result.
func (p prometheus) value(via *http.Client, query string) (float64, error) {
	code, body, err := get(via, p.url+"/api/v1/query?query="+url.QueryEscape(query))
	if err != nil {
		return 0, err
	}
	var answer struct {
		Data struct{ Result []struct{ Value [2]any } }
	}
	if err := json.Unmarshal([]byte(body), &answer); err != nil {
		return 0, fmt.Errorf("HTTP %d: %s", code, body)
	}
	if len(answer.Data.Result) != 1 {
		return 0, fmt.Errorf("%s has %d results, want 1: %s", query, len(answer.Data.Result), body)
	}
	text, ok := answer.Data.Result[0].Value[1].(string)
	if !ok {
		return 0, errors.New(body)
	}
	return strconv.ParseFloat(text, 64)
}
