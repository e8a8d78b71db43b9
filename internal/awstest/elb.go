package awstest

import (
	"net/url"
	"slices"
)

// LoadBalancer is a load balancer of Elastic Load Balancing, version 2.
type LoadBalancer struct {
	Name string
	Type string // default "application"
	DNS  string // "" for type gateway
	Tags map[string]string
}

type loadBalancers struct {
	Balancers  []loadBalancerItem `xml:"LoadBalancers>member"`
	NextMarker string             `xml:"NextMarker,omitempty"`
}

type loadBalancerItem struct {
	ARN    string `xml:"LoadBalancerArn"`
	DNS    string `xml:"DNSName,omitempty"`
	Name   string `xml:"LoadBalancerName"`
	Scheme string `xml:"Scheme"`
	State  string `xml:"State>Code"`
	Type   string `xml:"Type"`
}

func (w World) loadBalancerARN(b LoadBalancer) string {
	kind := map[string]string{"network": "net", "gateway": "gwy"}[b.Type]
	return "arn:aws:elasticloadbalancing:" + w.region() + ":" + w.account() + ":loadbalancer/" + or(kind, "app") + "/" + b.Name + "/50dc6c495c0c9188"
}

func (w World) describeLoadBalancers(form url.Values) (any, *awsError) {
	page, next := markerPage(w, form, w.LoadBalancers, form.Get("PageSize"))
	out := loadBalancers{NextMarker: next}
	for _, b := range page {
		out.Balancers = append(out.Balancers, loadBalancerItem{
			ARN: w.loadBalancerARN(b), DNS: b.DNS, Name: b.Name, Scheme: "internal", State: "active", Type: or(b.Type, "application"),
		})
	}
	return out, nil
}

type tagDescriptions struct {
	Tags []tagDescription `xml:"TagDescriptions>member"`
}

type tagDescription struct {
	ARN  string   `xml:"ResourceArn"`
	Tags []rdsTag `xml:"Tags>member"`
}

// maxDescribedTags is the most resources of a call of DescribeTags.
const maxDescribedTags = 20

func (w World) describeLoadBalancerTags(form url.Values) (any, *awsError) {
	arns := numbered(form, "ResourceArns.member.%d")
	if len(arns) > maxDescribedTags {
		return nil, &awsError{Code: "ValidationError", Message: "At most 20 resources can be described at a time"}
	}
	var out tagDescriptions
	for _, arn := range arns {
		i := slices.IndexFunc(w.LoadBalancers, func(b LoadBalancer) bool { return w.loadBalancerARN(b) == arn })
		if i < 0 {
			return nil, &awsError{Code: "LoadBalancerNotFound", Message: "Load balancers '[" + arn + "]' not found"}
		}
		out.Tags = append(out.Tags, tagDescription{arn, rdsTags(w.LoadBalancers[i].Tags)})
	}
	return out, nil
}
