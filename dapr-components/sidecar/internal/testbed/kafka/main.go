// Command kafka speaks Kafka's protocol as franz-go's kfake does. It stands in for a broker in the tests, because none is to be had as a
// Debian package; it is not one, keeps nothing, and what runs over it says so. A module of its own, so that it lifts nobody's versions.
package main

import (
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/twmb/franz-go/pkg/kfake"
)

func main() {
	port := flag.Int("port", 9092, "port of 127.0.0.1")
	flag.Parse()
	c, err := kfake.NewCluster(
		kfake.NumBrokers(1), kfake.Ports(*port), kfake.AllowAutoTopicCreation(), kfake.DefaultNumPartitions(2),
	)
	if err != nil {
		fmt.Fprintln(os.Stderr, "kafka:", err)
		os.Exit(1)
	}
	defer c.Close()
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, os.Interrupt, syscall.SIGTERM)
	<-stop
}
