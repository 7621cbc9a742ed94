// A worker pool over golang.org/x/crypto/ssh: one command on many addresses, as one would write it in an afternoon.
package main

import (
	"bufio"
	"flag"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"
)

func main() {
	keyFile := flag.String("key", "", "private key")
	known := flag.String("known-hosts", "", "known_hosts")
	hosts := flag.String("hosts", "", "file of addresses")
	port := flag.String("port", "22", "port")
	user := flag.String("user", "root", "user")
	workers := flag.Int("workers", 50, "at once")
	command := flag.String("command", "uptime", "command")
	flag.Parse()
	pem, err := os.ReadFile(*keyFile)
	if err != nil {
		panic(err)
	}
	signer, err := ssh.ParsePrivateKey(pem)
	if err != nil {
		panic(err)
	}
	check, err := knownhosts.New(*known)
	if err != nil {
		panic(err)
	}
	config := &ssh.ClientConfig{
		User:              *user,
		Auth:              []ssh.AuthMethod{ssh.PublicKeys(signer)},
		HostKeyCallback:   check,
		HostKeyAlgorithms: []string{ssh.KeyAlgoED25519},
		Timeout:           10 * time.Second,
	}
	file, err := os.Open(*hosts)
	if err != nil {
		panic(err)
	}
	jobs := make(chan string)
	var wait sync.WaitGroup
	var lock sync.Mutex
	well, bad := 0, 0
	out := bufio.NewWriter(os.Stdout)
	for range *workers {
		wait.Add(1)
		go func() {
			defer wait.Done()
			for host := range jobs {
				said, err := run(net.JoinHostPort(host, *port), config, *command)
				lock.Lock()
				if err != nil {
					bad++
					fmt.Fprintf(os.Stderr, "%s: %v\n", host, err)
				} else {
					well++
					fmt.Fprintf(out, "%s: %s", host, said)
				}
				lock.Unlock()
			}
		}()
	}
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		jobs <- lines.Text()
	}
	close(jobs)
	wait.Wait()
	out.Flush()
	if bad > 0 {
		os.Exit(1)
	}
}

func run(address string, config *ssh.ClientConfig, command string) ([]byte, error) {
	client, err := ssh.Dial("tcp", address, config)
	if err != nil {
		return nil, err
	}
	defer client.Close()
	session, err := client.NewSession()
	if err != nil {
		return nil, err
	}
	defer session.Close()
	return session.Output(command)
}
