package awsapi

import (
	"regexp"
	"strings"
)

// tagPattern compiles the value of a tag in which * and ? are wildcards unless \ precedes
// them, as in the filters of EC2. RDS and Elastic Load Balancing have no filter for tags.
func tagPattern(value string) *regexp.Regexp {
	wildcards := strings.NewReplacer(`\\\*`, `\*`, `\\\?`, `\?`, `\*`, `.*`, `\?`, `.`)
	return regexp.MustCompile(`(?s)^` + wildcards.Replace(regexp.QuoteMeta(value)) + `$`)
}

// Endpoint is the DNS name of a resource.
type Endpoint struct {
	Name     string
	Resource string // "database orders", "load balancer web"
}
