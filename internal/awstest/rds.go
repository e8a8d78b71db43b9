package awstest

import (
	"maps"
	"net/url"
	"slices"
)

// Database is an RDS instance, or a member of a cluster.
type Database struct {
	ID       string
	Cluster  string // the ID of its cluster; "" is none
	Endpoint string // "" while it is being created
	Tags     map[string]string
}

// DatabaseCluster is an Aurora or Multi-AZ cluster.
type DatabaseCluster struct {
	ID, Endpoint, Reader string
	Custom               []string // custom endpoints
	Tags                 map[string]string
}

// DatabaseProxy is an RDS proxy. Its ARN has the ID, not the name.
type DatabaseProxy struct {
	ID, Name, Endpoint string
	More               []string // endpoints other than the default one
	Tags               map[string]string
}

// rdsTag is a tag in an answer of RDS or Elastic Load Balancing.
type rdsTag struct {
	Key   string `xml:"Key"`
	Value string `xml:"Value"`
}

func rdsTags(tags map[string]string) (list []rdsTag) {
	for _, key := range slices.Sorted(maps.Keys(tags)) {
		list = append(list, rdsTag{key, tags[key]})
	}
	return list
}

type dbClusters struct {
	Marker   string          `xml:"Marker,omitempty"`
	Clusters []dbClusterItem `xml:"DBClusters>DBCluster"`
}

type dbClusterItem struct {
	ID       string   `xml:"DBClusterIdentifier"`
	ARN      string   `xml:"DBClusterArn"`
	Status   string   `xml:"Status"`
	Endpoint string   `xml:"Endpoint,omitempty"`
	Reader   string   `xml:"ReaderEndpoint,omitempty"`
	Custom   []string `xml:"CustomEndpoints>member,omitempty"`
	Tags     []rdsTag `xml:"TagList>Tag"`
}

func (w World) rdsARN(resource string) string {
	return "arn:aws:rds:" + w.region() + ":" + w.account() + ":" + resource
}

func (w World) describeDBClusters(form url.Values) (any, *awsError) {
	page, next := markerPage(w, form, w.DBClusters, form.Get("MaxRecords"))
	out := dbClusters{Marker: next}
	for _, c := range page {
		out.Clusters = append(out.Clusters, dbClusterItem{
			ID: c.ID, ARN: w.rdsARN("cluster:" + c.ID), Status: "available",
			Endpoint: c.Endpoint, Reader: c.Reader, Custom: c.Custom, Tags: rdsTags(c.Tags),
		})
	}
	return out, nil
}

type dbInstances struct {
	Marker    string           `xml:"Marker,omitempty"`
	Instances []dbInstanceItem `xml:"DBInstances>DBInstance"`
}

type dbInstanceItem struct {
	ID       string      `xml:"DBInstanceIdentifier"`
	ARN      string      `xml:"DBInstanceArn"`
	Status   string      `xml:"DBInstanceStatus"`
	Endpoint *dbEndpoint `xml:"Endpoint,omitempty"`
	Cluster  string      `xml:"DBClusterIdentifier,omitempty"`
	Tags     []rdsTag    `xml:"TagList>Tag"`
}

type dbEndpoint struct {
	Address string `xml:"Address"`
	Port    int    `xml:"Port"`
}

func (w World) describeDBInstances(form url.Values) (any, *awsError) {
	page, next := markerPage(w, form, w.Databases, form.Get("MaxRecords"))
	out := dbInstances{Marker: next}
	for _, d := range page {
		item := dbInstanceItem{ID: d.ID, ARN: w.rdsARN("db:" + d.ID), Status: "creating", Cluster: d.Cluster, Tags: rdsTags(d.Tags)}
		if d.Endpoint != "" {
			item.Status, item.Endpoint = "available", &dbEndpoint{d.Endpoint, 5432}
		}
		out.Instances = append(out.Instances, item)
	}
	return out, nil
}

type dbProxies struct {
	Marker  string        `xml:"Marker,omitempty"`
	Proxies []dbProxyItem `xml:"DBProxies>member"`
}

// dbProxyItem has no tags, as AWS's.
type dbProxyItem struct {
	Name     string `xml:"DBProxyName"`
	ARN      string `xml:"DBProxyArn"`
	Status   string `xml:"Status"`
	Endpoint string `xml:"Endpoint"`
}

func (w World) describeDBProxies(form url.Values) (any, *awsError) {
	page, next := markerPage(w, form, w.Proxies, form.Get("MaxRecords"))
	out := dbProxies{Marker: next}
	for _, p := range page {
		out.Proxies = append(out.Proxies, dbProxyItem{p.Name, w.rdsARN("db-proxy:" + p.ID), "available", p.Endpoint})
	}
	return out, nil
}

type dbProxyEndpoints struct {
	Marker    string                `xml:"Marker,omitempty"`
	Endpoints []dbProxyEndpointItem `xml:"DBProxyEndpoints>member"`
}

type dbProxyEndpointItem struct {
	Name     string `xml:"DBProxyEndpointName"`
	Proxy    string `xml:"DBProxyName"`
	Status   string `xml:"Status"`
	Endpoint string `xml:"Endpoint"`
	Default  bool   `xml:"IsDefault"`
}

func (w World) describeDBProxyEndpoints(form url.Values) (any, *awsError) {
	name := form.Get("DBProxyName")
	i := slices.IndexFunc(w.Proxies, func(p DatabaseProxy) bool { return p.Name == name })
	if i < 0 {
		return nil, &awsError{Code: "DBProxyNotFoundFault", Message: "Proxy " + name + " not found"}
	}
	all := []dbProxyEndpointItem{{"default", name, "available", w.Proxies[i].Endpoint, true}}
	for _, e := range w.Proxies[i].More {
		all = append(all, dbProxyEndpointItem{"more", name, "available", e, false})
	}
	page, next := markerPage(w, form, all, form.Get("MaxRecords"))
	return dbProxyEndpoints{next, page}, nil
}

type resourceTags struct {
	Tags []rdsTag `xml:"TagList>Tag"`
}

func (w World) listTagsForResource(form url.Values) (any, *awsError) {
	arn := form.Get("ResourceName")
	for _, p := range w.Proxies {
		if w.rdsARN("db-proxy:"+p.ID) == arn {
			return resourceTags{rdsTags(p.Tags)}, nil
		}
	}
	return nil, &awsError{Code: "DBProxyNotFoundFault", Message: "Proxy " + arn + " not found"}
}
