// Command httpprobes is the reference of bench/http_probes.py: the load server that every client probes, a worker
// pool of net/http clients as a careful Go programmer would write it, and a driver for blackbox_exporter.
package main

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"flag"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

func main() {
	if len(os.Args) < 2 {
		log.Fatal("usage: httpprobes serve|client|drive")
	}
	flags := flag.NewFlagSet(os.Args[1], flag.ExitOnError)
	target := flags.String("url", "", "what to probe")
	count := flags.Int("n", 1000, "probes")
	workers := flags.Int("c", 50, "at the same time")
	ca := flags.String("ca", "", "PEM file to trust")
	keepAlive := flags.Bool("keep-alive", false, "reuse connections")
	classic := flags.Bool("x25519", false, "offer X25519 only, not Go's hybrid default")
	directory := flags.String("dir", ".", "where serve writes ca.pem")
	flags.Parse(os.Args[2:])
	switch os.Args[1] {
	case "serve":
		serve(*directory)
	case "client":
		client(*target, *count, *workers, *ca, *keepAlive, *classic)
	case "drive":
		drive(*target, *count, *workers)
	default:
		log.Fatalf("unknown command %q", os.Args[1])
	}
}

// serve answers on three ports (HTTP, HTTPS with a P-256 chain, and one that never answers) until its input ends.
func serve(directory string) {
	runtime.GOMAXPROCS(2)
	body := []byte(`{"status":"ok","version":"1.2.3","uptime_s":12345,"checks":["database","queue","disk"]}`)
	var answers atomic.Int64
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		if r.URL.Path == "/changing" { // no two answers are the same, and all are as long
			fmt.Fprintf(w, `{"status":"ok","version":"1.2.3","uptime_s":%d,"checks":["database","queue"]}`, 1e9+answers.Add(1))
			return
		}
		w.Write(body)
	})
	plain, secure, silent := listen(), listen(), listen()
	silence := log.New(io.Discard, "", 0)
	go (&http.Server{Handler: handler, ErrorLog: silence}).Serve(plain)
	config := &tls.Config{Certificates: []tls.Certificate{certificate(directory)}}
	go (&http.Server{Handler: handler, ErrorLog: silence}).Serve(tls.NewListener(secure, config))
	go func() {
		var kept []net.Conn
		for {
			connection, err := silent.Accept()
			if err != nil {
				return
			}
			kept = append(kept, connection)
		}
	}()
	json.NewEncoder(os.Stdout).Encode(map[string]int{
		"plain": port(plain), "tls": port(secure), "silent": port(silent),
	})
	io.Copy(io.Discard, bufio.NewReader(os.Stdin))
}

func listen() net.Listener {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(err)
	return listener
}

func port(listener net.Listener) int { return listener.Addr().(*net.TCPAddr).Port }

func must(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

func certificate(directory string) tls.Certificate {
	now := time.Now()
	authorityKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(err)
	authority := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "bench authority"}, NotBefore: now.Add(-time.Hour),
		NotAfter: now.Add(90 * 24 * time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	authorityDER, err := x509.CreateCertificate(rand.Reader, authority, authority, &authorityKey.PublicKey, authorityKey)
	must(err)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(err)
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "localhost"}, NotBefore: now.Add(-time.Hour),
		NotAfter: now.Add(60 * 24 * time.Hour), DNSNames: []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	leafDER, err := x509.CreateCertificate(rand.Reader, leaf, authority, &key.PublicKey, authorityKey)
	must(err)
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: authorityDER})
	must(os.WriteFile(filepath.Join(directory, "ca.pem"), text, 0o600))
	return tls.Certificate{Certificate: [][]byte{leafDER}, PrivateKey: key}
}

type record struct {
	at                                           time.Time
	resolve, connect, handshake, first, transfer time.Duration
	status                                       int
	ok                                           bool
	expiry                                       time.Time
	err                                          error
}

// probe asks once with every phase measured, a deadline of 5 s, and the body matched.
func probe(transport *http.Transport, target string, expect *regexp.Regexp) (found record) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	var dnsStart, dnsDone, connectStart, connectDone, tlsStart, tlsDone, wrote, first time.Time
	trace := &httptrace.ClientTrace{
		DNSStart:             func(httptrace.DNSStartInfo) { dnsStart = time.Now() },
		DNSDone:              func(httptrace.DNSDoneInfo) { dnsDone = time.Now() },
		ConnectStart:         func(string, string) { connectStart = time.Now() },
		ConnectDone:          func(string, string, error) { connectDone = time.Now() },
		TLSHandshakeStart:    func() { tlsStart = time.Now() },
		TLSHandshakeDone:     func(tls.ConnectionState, error) { tlsDone = time.Now() },
		WroteRequest:         func(httptrace.WroteRequestInfo) { wrote = time.Now() },
		GotFirstResponseByte: func() { first = time.Now() },
	}
	found.at = time.Now()
	request, err := http.NewRequestWithContext(httptrace.WithClientTrace(ctx, trace), http.MethodGet, target, nil)
	if err != nil {
		found.err = err
		return found
	}
	client := &http.Client{Transport: transport}
	response, err := client.Do(request)
	if err != nil {
		found.err = err
		return found
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, 1<<20))
	end := time.Now()
	found.err = err
	found.status = response.StatusCode
	found.ok = err == nil && response.StatusCode == http.StatusOK && expect.Match(body)
	found.resolve, found.connect, found.handshake = dnsDone.Sub(dnsStart), connectDone.Sub(connectStart), tlsDone.Sub(tlsStart)
	found.first, found.transfer = first.Sub(wrote), end.Sub(first)
	if response.TLS != nil && len(response.TLS.PeerCertificates) > 0 {
		found.expiry = response.TLS.PeerCertificates[0].NotAfter
	}
	return found
}

func client(target string, count, workers int, ca string, keepAlive, classic bool) {
	config := &tls.Config{}
	if ca != "" {
		text, err := os.ReadFile(ca)
		must(err)
		config.RootCAs = x509.NewCertPool()
		config.RootCAs.AppendCertsFromPEM(text)
	}
	if classic {
		config.CurvePreferences = []tls.CurveID{tls.X25519}
	}
	transport := &http.Transport{
		TLSClientConfig: config, DisableKeepAlives: !keepAlive, MaxIdleConns: workers, MaxIdleConnsPerHost: workers,
		DialContext: (&net.Dialer{Timeout: 5 * time.Second}).DialContext,
	}
	expect := regexp.MustCompile(`"status":\s*"ok"`)
	pool(workers*2, workers, func() bool { return probe(transport, target, expect).ok })
	var lock sync.Mutex
	records := make([]record, 0, 4096)
	var before, after syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &before)
	start := time.Now()
	bad := pool(count, workers, func() bool {
		found := probe(transport, target, expect)
		lock.Lock()
		if len(records) == cap(records) {
			records = records[:0]
		}
		records = append(records, found)
		lock.Unlock()
		return found.ok
	})
	wall := time.Since(start)
	syscall.Getrusage(syscall.RUSAGE_SELF, &after)
	used := after.Utime.Nano() + after.Stime.Nano() - before.Utime.Nano() - before.Stime.Nano()
	json.NewEncoder(os.Stdout).Encode(map[string]any{
		"cpu_us": float64(used) / 1000 / float64(count), "wall_s": wall.Seconds(), "failed": bad,
		"rss_mib": float64(after.Maxrss) / 1024, "go": runtime.Version(),
	})
}

// pool runs count jobs on so many workers and returns how many failed.
func pool(count, workers int, job func() bool) int {
	jobs := make(chan struct{})
	var group sync.WaitGroup
	var lock sync.Mutex
	failed := 0
	for range make([]struct{}, workers) {
		group.Add(1)
		go func() {
			defer group.Done()
			for range jobs {
				if !job() {
					lock.Lock()
					failed++
					lock.Unlock()
				}
			}
		}()
	}
	for i := 0; i < count; i++ {
		jobs <- struct{}{}
	}
	close(jobs)
	group.Wait()
	return failed
}

// drive asks a blackbox_exporter's /probe so often; its own CPU is read by whoever started it.
func drive(target string, count, workers int) {
	transport := &http.Transport{MaxIdleConns: workers, MaxIdleConnsPerHost: workers}
	_, err := url.Parse(target)
	must(err)
	expect := regexp.MustCompile(`(?m)^probe_success 1$`)
	client := &http.Client{Transport: transport, Timeout: 10 * time.Second}
	start := time.Now()
	failed := pool(count, workers, func() bool {
		response, err := client.Get(target)
		if err != nil {
			return false
		}
		defer response.Body.Close()
		body, err := io.ReadAll(response.Body)
		return err == nil && expect.Match(body)
	})
	json.NewEncoder(os.Stdout).Encode(map[string]any{"failed": failed, "wall_s": time.Since(start).Seconds()})
	fmt.Fprintln(os.Stderr, "driven")
}
