package awstest

import (
	"encoding/json"
	"io"
	"net/http"
	"strings"
)

// jsonService is a service with an AWS JSON protocol.
type jsonService struct {
	name    string // in actions: "dynamodb"
	version string // of the protocol
	calls   map[string]jsonCall
}

// jsonCall makes a call in a region. body is the request.
type jsonCall func(s *Server, region string, body []byte) (any, *awsError)

// awsError is an error answer of AWS.
type awsError struct {
	Code    string `json:"__type"`
	Message string `json:"message"`
	Item    any    `json:",omitempty"` // of ConditionalCheckFailedException
}

// jsonServices are the services by the prefix of X-Amz-Target.
var jsonServices = map[string]jsonService{
	"secretsmanager": {"secretsmanager", "1.1", map[string]jsonCall{
		"GetSecretValue": callOf((*Server).getSecretValue),
	}},
	"DynamoDB_20120810": {"dynamodb", "1.0", map[string]jsonCall{
		"Query":      callOf((*Server).query),
		"UpdateItem": callOf((*Server).updateItem),
	}},
	"TrentService": {"kms", "1.1", map[string]jsonCall{
		"GenerateDataKey": callOf((*Server).generateDataKey),
		"Decrypt":         callOf((*Server).decryptDataKey),
	}},
	"AmazonSSM": {"ssm", "1.1", map[string]jsonCall{
		"GetParameter": callOf((*Server).getParameter),
		"PutParameter": callOf((*Server).putParameter),
	}},
	"Route53Resolver": {"route53resolver", "1.1", map[string]jsonCall{
		"ListResolverRuleAssociations": callOf((*Server).listResolverRuleAssociations),
		"ListResolverRules":            callOf((*Server).listResolverRules),
	}},
	"AmazonEC2ContainerServiceV20141113": {"ecs", "1.1", map[string]jsonCall{
		"DescribeTasks":    callOf((*Server).describeTasks),
		"DescribeServices": callOf((*Server).describeServices),
	}},
}

// jsonServiceNames has the names of jsonServices, and of Route 53 Profiles, whose errors look the
// same.
var jsonServiceNames = map[string]bool{"secretsmanager": true, "dynamodb": true, "kms": true, "ssm": true, "ecs": true, "route53resolver": true, "route53profiles": true}

// callOf returns a jsonCall that decodes the request. A field that the server does not know
// is an error, so that no request means more to AWS than to this server.
func callOf[In, Out any](call func(*Server, string, In) (Out, *awsError)) jsonCall {
	return func(s *Server, region string, body []byte) (any, *awsError) {
		var in In
		d := json.NewDecoder(strings.NewReader(string(body)))
		d.DisallowUnknownFields()
		if err := d.Decode(&in); err != nil {
			return nil, &awsError{Code: "SerializationException", Message: err.Error()}
		}
		out, no := call(s, region, in)
		return out, no
	}
}

func (s *Server) serveJSON(w http.ResponseWriter, r *http.Request, target string) {
	prefix, operation, _ := strings.Cut(target, ".")
	service := jsonServices[prefix]
	action := service.name + ":" + operation
	s.record(action)
	fail := s.next(action)
	body, err := io.ReadAll(r.Body) // before the wait: net/http notices that a client has gone only after the body
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	fail.wait(r.Context())
	region, signed := signedFor(r)
	call := service.calls[operation]
	kind := "application/x-amz-json-" + or(service.version, "1.1")
	switch {
	case fail.Status != 0:
		jsonError(w, kind, fail.Status, &awsError{Code: fail.Code, Message: fail.Message})
		return
	case !signed:
		jsonError(w, kind, http.StatusBadRequest, &awsError{Code: "MissingAuthenticationTokenException", Message: "Missing Authentication Token"})
		return
	case call == nil:
		jsonError(w, kind, http.StatusBadRequest, &awsError{Code: "UnknownOperationException"})
		return
	}
	out, no := call(s, region, body)
	fail.finish(r.Context())
	if no != nil {
		jsonError(w, kind, http.StatusBadRequest, no)
		return
	}
	answer, err := json.Marshal(out)
	if err != nil {
		panic(err) // cannot fail: it has only strings, numbers and bytes
	}
	fail.send(w, kind, answer)
}

func jsonError(w http.ResponseWriter, kind string, status int, no *awsError) {
	w.Header().Set("Content-Type", kind)
	w.Header().Set("X-Amzn-Requestid", requestID)
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(no)
}
