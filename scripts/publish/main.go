// Command publish combines images saved by Docker into one multi-platform image, and
// pushes it, writes it to a folder, or both:
//
//	publish [-epoch T] [-layout DIR] [-repository NAME -tags A,B] saved.tar …
//
// It sets the time of files and configurations to T, so that the digest does not depend
// on the build time, and prints NAME@DIGEST, which task definitions take, or the digest
// alone without a repository.
//
// It is a separate module, so that the router's go.mod does not have its requirements.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// timeout bounds a push.
const timeout = 15 * time.Minute

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "publish:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("publish", flag.ExitOnError)
	dir := flags.String("layout", "", "write an OCI image layout to this new `folder`")
	repository := flags.String("repository", "", "push to this `repository`: registry and name")
	tags := flags.String("tags", "", "tag what is pushed with these, a comma `list`")
	epoch := flags.Int64("epoch", 0, "`time` of all files and configurations, in seconds since 1970")
	flags.Parse(args)
	if flags.NArg() == 0 || *repository != "" && *tags == "" || *dir == "" && *repository == "" {
		flags.Usage()
		return errors.New("missing arguments: pass saved images, and -layout, or -repository with -tags")
	}

	index, err := assemble(flags.Args(), time.Unix(*epoch, 0).UTC())
	if err != nil {
		return err
	}
	digest, err := index.Digest()
	if err != nil {
		return fmt.Errorf("computing the digest: %w", err)
	}
	if *dir != "" {
		if err := write(*dir, index, *tags); err != nil {
			return err
		}
	}
	if *repository != "" {
		ctx, cancel := context.WithTimeout(ctx, timeout)
		defer cancel()
		if err := push(ctx, *repository, strings.Split(*tags, ","), index); err != nil {
			return err
		}
	}
	if *repository != "" {
		fmt.Print(*repository, "@")
	}
	fmt.Println(digest)
	return nil
}

// assemble returns an index of the saved images, sorted by platform.
func assemble(files []string, created time.Time) (v1.ImageIndex, error) {
	var images []mutate.IndexAddendum
	for _, file := range files {
		image, err := read(file, created)
		if err != nil {
			return nil, fmt.Errorf("reading %s: %w", file, err)
		}
		config, err := image.ConfigFile()
		if err != nil {
			return nil, fmt.Errorf("reading %s: %w", file, err)
		}
		images = append(images, mutate.IndexAddendum{Add: image, Descriptor: v1.Descriptor{Platform: config.Platform()}})
	}
	slices.SortFunc(images, func(a, b mutate.IndexAddendum) int {
		return cmp.Compare(a.Platform.String(), b.Platform.String())
	})
	for i := range images[1:] {
		if images[i].Platform.Equals(*images[i+1].Platform) {
			return nil, fmt.Errorf("two images are for %s; pass one per platform", images[i].Platform)
		}
	}
	return mutate.AppendManifests(mutate.IndexMediaType(empty.Index, types.OCIImageIndex), images...), nil
}

func read(file string, created time.Time) (v1.Image, error) {
	saved, err := tarball.ImageFromPath(file, nil)
	if err != nil {
		return nil, err
	}
	image, err := mutate.Time(saved, created, tarball.WithMediaType(types.OCILayer))
	if err != nil {
		return nil, err
	}
	return mutate.ConfigMediaType(mutate.MediaType(image, types.OCIManifestSchema1), types.OCIConfigJSON), nil
}

func write(dir string, index v1.ImageIndex, tags string) error {
	if _, err := os.Stat(dir); err == nil {
		return fmt.Errorf("%s already exists; remove it", dir)
	}
	path, err := layout.Write(dir, empty.Index)
	if err == nil {
		tag, _, _ := strings.Cut(tags, ",")
		err = path.AppendIndex(index, layout.WithAnnotations(map[string]string{"org.opencontainers.image.ref.name": tag}))
	}
	if err != nil {
		return fmt.Errorf("writing %s: %w", dir, err)
	}
	return nil
}

// push uploads the images and the index once, and sets each tag.
func push(ctx context.Context, repository string, tags []string, index v1.ImageIndex) error {
	repo, err := name.NewRepository(repository, name.WithDefaultRegistry(""))
	if err != nil {
		return fmt.Errorf("reading the repository's name (registry/name): %w", err)
	}
	if repo.RegistryStr() == "" {
		return fmt.Errorf("%q has no registry; for Docker Hub, write docker.io/%s", repository, repository)
	}
	pusher, err := remote.NewPusher(remote.WithContext(ctx), remote.WithAuthFromKeychain(authn.DefaultKeychain),
		remote.WithUserAgent("subnetrouter-publish"))
	if err != nil {
		return fmt.Errorf("preparing to push: %w", err)
	}
	for _, tag := range tags {
		if err := pusher.Push(ctx, repo.Tag(tag), index); err != nil {
			return fmt.Errorf("pushing to %s: %w%s", repo.Tag(tag), err, hint(repo.RegistryStr(), err))
		}
	}
	return nil
}

var ecr = regexp.MustCompile(`^\d+\.dkr[.-]ecr(-fips)?\.([a-z0-9-]+)\.`)

// hint returns the command that fixes err: a login, or the creation of an ECR repository,
// which a push does not create.
func hint(registry string, err error) string {
	var refused *transport.Error
	if !errors.As(err, &refused) {
		return ""
	}
	region := ""
	if m := ecr.FindStringSubmatch(registry); m != nil {
		region = m[2]
	}
	switch {
	case refused.StatusCode == http.StatusNotFound && region != "":
		return "\nThe repository does not exist in ECR. Create it: aws ecr create-repository --region " + region + " --repository-name NAME"
	case refused.StatusCode != http.StatusUnauthorized && refused.StatusCode != http.StatusForbidden:
		return ""
	case region != "":
		return "\nLog in (for 12 hours): aws ecr get-login-password --region " + region +
			" | docker login --username AWS --password-stdin " + registry
	default:
		return "\nLog in: docker login " + registry
	}
}
