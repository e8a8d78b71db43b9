# The Go version of go.mod, in its newest patch release.
ARG GO_IMAGE=golang:1.27

# The compiler runs on the machine's platform and cross-compiles.
FROM --platform=$BUILDPLATFORM ${GO_IMAGE} AS build
ARG GOPROXY
ENV GOMODCACHE=/cache/mod GOCACHE=/cache/build
WORKDIR /src
COPY go.mod go.sum ./
RUN --mount=type=cache,target=/cache/mod \
    go mod download

COPY build/tags build/tags
COPY scripts/publish/go.mod scripts/publish/go.sum scripts/publish/
COPY scripts/build scripts/sbom scripts/
COPY scripts/filecaps scripts/filecaps
COPY cmd/router cmd/router
COPY internal internal
ARG TARGETOS=linux TARGETARCH VERSION=dev REVISION=unknown
RUN --mount=type=cache,target=/cache/mod \
    --mount=type=cache,target=/cache/build \
    GOOS=$TARGETOS GOARCH=$TARGETARCH scripts/build /image/router \
 && scripts/sbom /image/router /image/licenses/sbom.cdx.json \
 && CGO_ENABLED=0 go run ./scripts/filecaps /image/router

# The image's other files, with their owners and modes.
COPY LICENSE THIRD_PARTY_NOTICES /image/licenses/
RUN cd /image && ln -s router tailscale \
 && mkdir -p etc/ssl/certs usr/local/bin var/run/tailscale && mkdir -m 1777 tmp \
 && ln -s /router usr/local/bin/router && ln -s /router usr/local/bin/tailscale \
 && mkdir -p -m 700 var/lib/tailscale \
 && cp /etc/ssl/certs/ca-certificates.crt etc/ssl/certs/ \
 && echo 'nonroot:x:65532:65532::/:/router' >etc/passwd \
 && chown 65532:65532 var/run/tailscale var/lib/tailscale && chmod 755 router && chmod 644 licenses/*

FROM scratch
COPY --from=build /image /
# Numeric, so that Kubernetes and ECS can verify that it is not root.
USER 65532:65532
EXPOSE 9002/tcp 41641/udp
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 CMD ["/router", "healthcheck"]
ENTRYPOINT ["/router"]

ARG VERSION=dev REVISION=unknown TAILSCALE_VERSION=unknown HOME_URL=unknown
LABEL org.opencontainers.image.title="subnetrouter" \
      org.opencontainers.image.description="Tailscale subnet router for an AWS VPC, as one ECS task" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.vendor="subnetrouter" \
      org.opencontainers.image.url="$HOME_URL" \
      org.opencontainers.image.source="$HOME_URL" \
      org.opencontainers.image.documentation="$HOME_URL/blob/main/docs/README.md" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION" \
      com.tailscale.version="$TAILSCALE_VERSION"
