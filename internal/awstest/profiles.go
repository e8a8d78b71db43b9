package awstest

import (
	"encoding/json"
	"encoding/xml"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// Profile is a Route 53 Profile.
type Profile struct {
	ID        string
	VPCs      []string
	Resources []string // their ARNs
	Deleting  bool     // its associations are
}

// The paths of Route 53 Profiles: https://docs.aws.amazon.com/Route53/latest/APIReference/API_Operations_Route_53_Profiles.html.
const (
	profileAssociations = "/profileassociations"
	profileResources    = "/profileresourceassociations/profileid/"
)

// hostedZonePath begins the path of Route 53's GetHostedZone.
const hostedZonePath = "/2013-04-01/hostedzone/"

type profileAssociation struct {
	ID         string `json:"Id"`
	ProfileID  string `json:"ProfileId"`
	ResourceID string `json:"ResourceId"`
	Status     string
}

type profileResource struct {
	ID        string `json:"Id"`
	ProfileID string `json:"ProfileId"`
	Resource  string `json:"ResourceArn"`
	Status    string
}

// serveProfiles answers the two calls of Route 53 Profiles, which are REST with JSON.
func (s *Server) serveProfiles(w http.ResponseWriter, r *http.Request) {
	const kind = "application/json"
	action, known := "route53profiles:ListProfileAssociations", []string{"resourceId", "nextToken"}
	profile, ofResources := strings.CutPrefix(r.URL.Path, profileResources)
	if ofResources {
		action, known = "route53profiles:ListProfileResourceAssociations", []string{"nextToken"}
	}
	s.record(action)
	fail := s.next(action)
	fail.wait(r.Context())
	region, signed := signedFor(r)
	query := r.URL.Query()
	switch {
	case fail.Status != 0:
		jsonError(w, kind, fail.Status, &awsError{Code: fail.Code, Message: fail.Message})
		return
	case !signed || !strings.Contains(r.Header.Get("Authorization"), "/route53profiles/aws4_request"):
		jsonError(w, kind, http.StatusForbidden, &awsError{Code: "MissingAuthenticationTokenException", Message: "Missing Authentication Token"})
		return
	case r.Method != http.MethodGet || unknown(query, known):
		jsonError(w, kind, http.StatusBadRequest, &awsError{Code: "ValidationException", Message: "the double does not know " + r.Method + " " + r.URL.RawQuery})
		return
	}
	world := s.snapshot().in(region)
	var out any
	if ofResources {
		i := slices.IndexFunc(world.Profiles, func(p Profile) bool { return p.ID == profile })
		if i < 0 {
			jsonError(w, kind, http.StatusNotFound, &awsError{Code: "ResourceNotFoundException", Message: "The profile " + profile + " does not exist"})
			return
		}
		var all []profileResource
		for n, arn := range world.Profiles[i].Resources {
			all = append(all, profileResource{fmt.Sprint("rpr-", n), profile, arn, "COMPLETE"})
		}
		page, next := pageOf(all, world.PageSize, query.Get("nextToken"))
		out = map[string]any{"ProfileResourceAssociations": page, "NextToken": next}
	} else {
		var all []profileAssociation
		for _, p := range world.Profiles {
			for _, vpc := range p.VPCs {
				status := "COMPLETE"
				if p.Deleting {
					status = "DELETING"
				}
				if want := query.Get("resourceId"); want == "" || want == vpc {
					all = append(all, profileAssociation{"rpassoc-" + p.ID, p.ID, vpc, status})
				}
			}
		}
		page, next := pageOf(all, world.PageSize, query.Get("nextToken"))
		out = map[string]any{"ProfileAssociations": page, "NextToken": next}
	}
	body, err := json.Marshal(out)
	if err != nil {
		panic(err) // cannot fail: it has only strings
	}
	fail.finish(r.Context())
	fail.send(w, kind, body)
}

// unknown reports whether a query has other parameters than these.
func unknown(query url.Values, known []string) bool {
	for name := range query {
		if !slices.Contains(known, name) {
			return true
		}
	}
	return false
}

// pageOf returns the page of a list that begins at a token, and the next token, which is nil
// after the last page.
func pageOf[T any](all []T, size int, token string) (page []T, next *string) {
	from, _ := strconv.Atoi(token)
	page = all[min(max(from, 0), len(all)):]
	if size > 0 && size < len(page) {
		t := strconv.Itoa(from + size)
		page, next = page[:size], &t
	}
	return page, next
}

type getHostedZone struct {
	XMLName   xml.Name `xml:"https://route53.amazonaws.com/doc/2013-04-01/ GetHostedZoneResponse"`
	ID        string   `xml:"HostedZone>Id"`
	Name      string   `xml:"HostedZone>Name"`
	Reference string   `xml:"HostedZone>CallerReference"`
}

// serveHostedZone answers Route 53's GetHostedZone, which only the account of a zone may call.
func (s *Server) serveHostedZone(w http.ResponseWriter, r *http.Request, id string) {
	const action = "route53:GetHostedZone"
	s.record(action)
	fail := s.next(action)
	fail.wait(r.Context())
	_, signed := signedFor(r)
	route53 := queryService{namespace: "https://route53.amazonaws.com/doc/2013-04-01/"}
	zones := s.snapshot().HostedZones
	i := slices.IndexFunc(zones, func(z HostedZone) bool { return z.ID == id })
	switch {
	case fail.Status != 0:
		queryError(w, route53, fail.Status, &awsError{Code: fail.Code, Message: fail.Message})
	case !signed:
		queryError(w, route53, http.StatusForbidden, &awsError{Code: "MissingAuthenticationToken", Message: "Missing Authentication Token"})
	case i < 0:
		queryError(w, route53, http.StatusNotFound, &awsError{Code: "NoSuchHostedZone", Message: "No hosted zone found with ID: " + id})
	case zones[i].Foreign:
		queryError(w, route53, http.StatusForbidden, &awsError{Code: "AccessDenied", Message: "User is not authorized to access this resource"})
	default:
		body, err := xml.Marshal(getHostedZone{ID: "/hostedzone/" + id, Name: zones[i].Name, Reference: "seed"})
		if err != nil {
			panic(err) // cannot fail: it has only strings
		}
		fail.finish(r.Context())
		fail.send(w, "text/xml", append([]byte(xml.Header), body...))
	}
}
