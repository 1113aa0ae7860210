// Package k3sinstall holds the tests of scripts/k3s-install.
package k3sinstall
