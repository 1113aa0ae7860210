// Command check-images looks into image archives and says whether they are what the manifests and the README promise: small, static, for the
// processor that they claim, without a shell, with a user that is not root, and the same when they were built twice.
package main

import (
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
)

const about = `usage: scripts/check-images [options] ARCHIVE...

An archive is a docker or OCI archive, or a folder with an OCI layout, as docker buildx bake writes them (type=docker, type=oci). An image that
is there twice, under one name and for one platform, must have one digest: build it twice to see that a build can be repeated.

options:
  --attested KINDS   every image must have these attestations, as they are printed, with commas between
  --twice            every image must be there at least twice
`

// wants is what is asked of the images besides.
type wants struct {
	attested []string
	twice    bool
}

func main() {
	var w wants
	flag.Usage = func() { fmt.Fprint(flag.CommandLine.Output(), about) }
	flag.Func("attested", "", func(s string) error { w.attested = strings.Split(s, ","); return nil })
	flag.BoolVar(&w.twice, "twice", false, "")
	flag.Parse()
	if flag.NArg() == 0 {
		flag.Usage()
		os.Exit(2)
	}
	faults, err := run(os.Stdout, w, flag.Args())
	if err != nil {
		fmt.Fprintln(os.Stderr, "check-images:", err)
		os.Exit(2)
	}
	if faults > 0 {
		os.Exit(1)
	}
}

// run prints a line for each image and one for each fault, and returns how many faults there are.
func run(out io.Writer, w wants, archives []string) (faults int, err error) {
	fault := func(format string, args ...any) {
		faults++
		fmt.Fprintf(out, "  FAIL  "+format+"\n", args...)
	}
	digests, count := map[string]string{}, map[string]int{}
	for _, name := range archives {
		images, err := open(name)
		if err != nil {
			return faults, fmt.Errorf("%s: %w", name, err)
		}
		for _, i := range images {
			key := i.name + " " + i.platform()
			first := digests[key]
			digests[key] = i.digest
			count[key]++
			again := ""
			if first == i.digest {
				again = "  built again: the same"
			}
			fmt.Fprintf(out, "%-12s %-12s %5.1f MB, %4.1f compressed  %s  %s%s%s\n",
				i.program(), i.platform(), float64(i.size)/1e6, float64(i.compressed)/1e6, i.digest, i.version, i.attested(), again)
			for _, f := range i.faults {
				fault("%s", f)
			}
			if first != "" && first != i.digest {
				fault("built again it has another digest than %s", first)
			}
			for _, kind := range w.attested {
				if !slices.ContainsFunc(i.attestations, func(have string) bool { return strings.HasPrefix(have, kind) }) {
					fault("no attestation %s", kind)
				}
			}
		}
	}
	for _, key := range slices.Sorted(maps.Keys(count)) {
		if w.twice && count[key] < 2 {
			fault("%s is there once only", key)
		}
	}
	return faults, nil
}

// program is the last part of an image's name, without its tag.
func (i image) program() string {
	name := i.name[strings.LastIndexByte(i.name, '/')+1:]
	name, _, _ = strings.Cut(name, ":")
	return name
}

func (i image) attested() string {
	if len(i.attestations) == 0 {
		return ""
	}
	return "  with " + strings.Join(i.attestations, " and ")
}
