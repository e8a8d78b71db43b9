package awstest

import (
	"bytes"
	"encoding/xml"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
)

// queryService is a service with the AWS query protocol.
type queryService struct {
	name      string // in actions: "rds"
	namespace string
	calls     map[string]queryCall
}

// queryCall makes a call. The answer is the content of the result.
type queryCall func(w World, form url.Values) (answer any, no *awsError)

// queryServices are the services by the version of their API. EC2 and STS, whose formats
// differ, are not among them.
var queryServices = map[string]queryService{
	"2014-10-31": {"rds", "http://rds.amazonaws.com/doc/2014-10-31/", map[string]queryCall{
		"DescribeDBClusters":       World.describeDBClusters,
		"DescribeDBInstances":      World.describeDBInstances,
		"DescribeDBProxies":        World.describeDBProxies,
		"DescribeDBProxyEndpoints": World.describeDBProxyEndpoints,
		"ListTagsForResource":      World.listTagsForResource,
	}},
	"2015-12-01": {"elasticloadbalancing", "http://elasticloadbalancing.amazonaws.com/doc/2015-12-01/", map[string]queryCall{
		"DescribeLoadBalancers": World.describeLoadBalancers,
		"DescribeTags":          World.describeLoadBalancerTags,
	}},
}

func (s *Server) serveQuery(w http.ResponseWriter, r *http.Request, service queryService, name string) {
	action := service.name + ":" + name
	s.record(action)
	fail := s.next(action)
	fail.wait(r.Context())
	region, signed := signedFor(r)
	call := service.calls[name]
	switch {
	case fail.Status != 0:
		queryError(w, service, fail.Status, &awsError{Code: fail.Code, Message: fail.Message})
		return
	case !signed:
		queryError(w, service, http.StatusForbidden, &awsError{Code: "MissingAuthenticationToken", Message: "Missing Authentication Token"})
		return
	case call == nil:
		queryError(w, service, http.StatusBadRequest, &awsError{Code: "InvalidAction", Message: "Could not find operation " + name + " for version " + r.Form.Get("Version")})
		return
	}
	answer, no := call(s.snapshot().in(region), r.Form)
	if no != nil {
		queryError(w, service, http.StatusBadRequest, no)
		return
	}
	result, err := xml.Marshal(answer)
	if err != nil {
		panic(err) // cannot fail: it has only strings and booleans
	}
	// The answer's type has no name of its own in the XML.
	start, end := bytes.IndexByte(result, '>')+1, bytes.LastIndexByte(result, '<')
	body := fmt.Sprintf(`%s<%[2]sResponse xmlns="%[3]s"><%[2]sResult>%[4]s</%[2]sResult><ResponseMetadata><RequestId>%[5]s</RequestId></ResponseMetadata></%[2]sResponse>`,
		xml.Header, name, service.namespace, result[start:end], requestID)
	fail.finish(r.Context())
	fail.send(w, "text/xml", []byte(body))
}

func queryError(w http.ResponseWriter, service queryService, status int, no *awsError) {
	body, err := xml.Marshal(struct {
		XMLName   xml.Name
		Type      string `xml:"Error>Type"`
		Code      string `xml:"Error>Code"`
		Message   string `xml:"Error>Message"`
		RequestID string `xml:"RequestId"`
	}{XMLName: xml.Name{Space: service.namespace, Local: "ErrorResponse"}, Type: "Sender", Code: no.Code, Message: no.Message, RequestID: requestID})
	if err != nil {
		panic(err) // cannot fail: it has only strings
	}
	w.Header().Set("Content-Type", "text/xml")
	w.WriteHeader(status)
	w.Write(body)
}

// markerPage returns the page of a list that begins at Marker, and the next Marker; most is the
// caller's limit, "" for none.
func markerPage[T any](w World, form url.Values, items []T, most string) (page []T, next string) {
	from, _ := strconv.Atoi(form.Get("Marker"))
	page = items[min(from, len(items)):]
	size := len(page)
	if limit, err := strconv.Atoi(most); err == nil {
		size = min(size, limit)
	}
	if w.PageSize > 0 {
		size = min(size, w.PageSize)
	}
	if size < len(page) {
		next = strconv.Itoa(from + size)
	}
	return page[:size], next
}
