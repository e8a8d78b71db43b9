package main

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os/exec"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// credentialsIP is the address at which ECS serves the credentials of a task's role.
const credentialsIP = "169.254.170.2"

// rest is the part of a held answer that follows the pause.
var rest = strings.Repeat("0123456789abcdef", 4<<20/16)

// app is an application in the task of a router. It serves HTTP on ports 8080 and 8081 of the
// loopback address, and on port 80 of the address of the task's credentials, which it adds:
//
//	GET /                a greeting
//	GET /held            the beginning of an answer, and the rest after SIGTERM
//	POST /download?arg=  runs curl with the arguments, and announces the number of bytes
//
// After SIGTERM it finishes its downloads first, then the answers.
func app(ctx context.Context) error {
	if err := addAddress("lo:1", credentialsIP); err != nil {
		return err
	}
	var downloads sync.WaitGroup
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "hello from the application") })
	mux.HandleFunc("GET /held", func(w http.ResponseWriter, _ *http.Request) {
		hold(w, func() {
			<-ctx.Done()
			downloads.Wait()
		})
	})
	mux.HandleFunc("POST /download", func(_ http.ResponseWriter, r *http.Request) {
		args := r.URL.Query()["arg"]
		downloads.Go(func() {
			out, err := exec.Command("/curl", args...).Output()
			announce(map[string]any{"downloaded": len(out), "err": err})
		})
	})
	srv := &http.Server{Handler: mux}
	for _, at := range []string{"127.0.0.1:8080", "127.0.0.1:8081", credentialsIP + ":80"} {
		ln, err := net.Listen("tcp", at)
		if err != nil {
			return err
		}
		go srv.Serve(ln)
	}
	if err := announce("ready"); err != nil {
		return err
	}
	<-ctx.Done()
	announce("stopping")
	return srv.Shutdown(context.Background())
}

// hold writes the beginning of an answer, waits, and writes the rest.
func hold(w http.ResponseWriter, wait func()) {
	io.WriteString(w, "held ")
	w.(http.Flusher).Flush()
	announce("holding")
	wait()
	io.WriteString(w, rest)
}

// addAddress adds an IPv4 address to an interface of the container, under a label such as "lo:1".
func addAddress(label, addr string) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	request, err := unix.NewIfreq(label)
	if err != nil {
		return err
	}
	return errors.Join(request.SetInet4Addr(net.ParseIP(addr).To4()), unix.IoctlIfreq(fd, unix.SIOCSIFADDR, request))
}
