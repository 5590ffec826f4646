//go:build tools

// Package clients pins the versions of the clients that the end-to-end tests speak through. Nothing imports it: it
// keeps the commands among the module's requirements.
package clients

import (
	_ "github.com/containerd/nerdctl/v2/cmd/nerdctl"
	_ "sigs.k8s.io/cri-tools/cmd/crictl"
)
