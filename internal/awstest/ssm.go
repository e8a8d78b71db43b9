package awstest

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Parameter is a parameter of Systems Manager's Parameter Store.
type Parameter struct {
	Values   []string       // of the versions 1, 2, ...; the last one is current
	Labels   map[string]int // versions by label
	Type     string         // default "SecureString"
	KMSKey   string         // as it was set; default "alias/aws/ssm"
	Modified time.Time      // default: some time
}

// Sizes of Parameter Store in bytes. Source:
// https://docs.aws.amazon.com/systems-manager/latest/userguide/parameter-store-advanced-parameters.html.
const (
	maxStandardParameter = 4096
	maxAdvancedParameter = 8192
)

// ParameterARN returns the ARN of the parameter with this name in a [Server].
func (w World) ParameterARN(name string) string {
	return fmt.Sprintf("arn:aws:ssm:%s:%s:parameter/%s", w.region(), w.account(), strings.TrimPrefix(name, "/"))
}

type getParameter struct {
	Name           string
	WithDecryption bool
}

type parameterResult struct{ Parameter parameterItem }

type parameterItem struct {
	ARN, Name, Type, Value, DataType string
	Selector                         string `json:",omitempty"`
	Version                          int
	LastModifiedDate                 float64
}

func (s *Server) getParameter(region string, in getParameter) (out parameterResult, no *awsError) {
	w := s.snapshot().in(region)
	id, selector := in.Name, ""
	if colons := strings.Count(id, ":"); colons == 1 || colons == 6 { // an ARN has five
		i := strings.LastIndex(id, ":")
		id, selector = id[:i], id[i+1:]
	}
	for name, p := range w.Parameters {
		if id != name && id != w.ParameterARN(name) {
			continue
		}
		version := len(p.Values)
		if selector != "" {
			if n, err := strconv.Atoi(selector); err == nil {
				version = n
			} else {
				version = p.Labels[selector]
			}
			if version < 1 || version > len(p.Values) {
				return out, &awsError{Code: "ParameterVersionNotFound", Message: fmt.Sprintf("Systems Manager could not find version %s of %s. Verify the version and try again.", selector, name)}
			}
			selector = ":" + selector
		}
		out.Parameter = parameterItem{
			ARN: w.ParameterARN(name), Name: name, Type: or(p.Type, "SecureString"), Value: p.Values[version-1], DataType: "text",
			Selector: selector, Version: version, LastModifiedDate: 1795424764.25,
		}
		if !p.Modified.IsZero() {
			out.Parameter.LastModifiedDate = float64(p.Modified.UnixMilli()) / 1000
		}
		if out.Parameter.Type == "SecureString" && !in.WithDecryption {
			out.Parameter.Value = "AQICAHg-encrypted"
		}
		return out, nil
	}
	return out, &awsError{Code: "ParameterNotFound"}
}

type putParameter struct {
	Name, Value, Type, KeyId, Tier string
	Overwrite                      bool
}

type putResult struct {
	Tier    string
	Version int
}

func (s *Server) putParameter(region string, in putParameter) (out putResult, no *awsError) {
	w := s.snapshot()
	name := in.Name
	root := strings.Count(name, "/") == 0 || strings.LastIndex(name, "/") == 0
	switch {
	case region != w.region():
		return out, &awsError{Code: "InternalServerError", Message: "this server has parameters in one region"}
	case strings.HasPrefix(name, "arn:"):
		// https://docs.aws.amazon.com/systems-manager/latest/APIReference/API_PutParameter.html
		return out, &awsError{Code: "ValidationException", Message: "Parameter name must not be an ARN."}
	case !root && !strings.HasPrefix(name, "/"):
		return out, &awsError{Code: "ValidationException", Message: "Parameter name must be a fully qualified name."}
	case in.Value == "":
		return out, &awsError{Code: "ValidationException", Message: "1 validation error detected: Value '' at 'value' failed to satisfy constraint: Member must have length greater than or equal to 1."}
	case len(in.Value) > maxAdvancedParameter, len(in.Value) > maxStandardParameter && in.Tier == "Standard":
		return out, &awsError{Code: "ValidationException", Message: fmt.Sprintf("Parameter values can have up to %d characters.", maxAdvancedParameter)}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for other := range s.world.Parameters {
		// At the root, /name and name are not unique:
		// https://docs.aws.amazon.com/systems-manager/latest/userguide/sysman-parameter-name-constraints.html
		if other != name && w.ParameterARN(other) == w.ParameterARN(name) {
			return out, &awsError{Code: "ParameterAlreadyExists", Message: "The parameter already exists. To overwrite this value, set the overwrite option in the request to true."}
		}
	}
	p, exists := s.world.Parameters[name]
	switch {
	case exists && !in.Overwrite:
		return out, &awsError{Code: "ParameterAlreadyExists", Message: "The parameter already exists. To overwrite this value, set the overwrite option in the request to true."}
	case exists && or(p.Type, "SecureString") != in.Type:
		return out, &awsError{Code: "HierarchyTypeMismatchException", Message: "Parameter Store does not support changing a parameter type in a hierarchy."}
	}
	p.Values, p.Type, p.Modified = append(slices.Clone(p.Values), in.Value), in.Type, time.Now()
	if in.KeyId != "" {
		p.KMSKey = in.KeyId
	}
	parameters := maps.Clone(s.world.Parameters)
	if parameters == nil {
		parameters = map[string]Parameter{}
	}
	parameters[name] = p
	s.world.Parameters = parameters
	out = putResult{"Standard", len(p.Values)}
	if len(in.Value) > maxStandardParameter {
		out.Tier = "Advanced"
	}
	return out, nil
}
