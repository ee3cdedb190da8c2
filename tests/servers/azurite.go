package servers

import (
	"context"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/container"
)

// The account that every Azurite has; it is in Microsoft's documentation.
const (
	azuriteAccount = "devstoreaccount1"
	azuriteKey     = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
)

// AzureServer is a running Azurite, Microsoft's server of the protocol of Azure
// Blob Storage. It loses what was stored in the last seconds when it is killed.
// Its methods are for the test's goroutine.
type AzureServer struct {
	Endpoint    string // such as http://127.0.0.1:21000/devstoreaccount1
	AccountName string
	AccountKey  string

	tb testing.TB
	p  *process
}

// Azurite starts an Azurite on an empty directory. The test is skipped where it
// is not installed, and in short mode.
func Azurite(tb testing.TB) *AzureServer {
	tb.Helper()
	if os.Getenv("LITESTREAM_TEST_AZURITE") == "off" {
		tb.Skip("switched off by LITESTREAM_TEST_AZURITE=off")
	}
	if testing.Short() {
		tb.Skip("Azurite is left out of short tests: it needs seconds to start")
	}
	path := filepath.Join(cacheDir(), "azurite", "node_modules", ".bin", "azurite-blob")
	for _, name := range []string{path, "node"} {
		if _, err := exec.LookPath(name); err != nil {
			missing(tb, "azurite", "servers")
		}
	}
	dir, addr := tb.TempDir(), freeAddr(tb)
	data := filepath.Join(dir, "data")
	mkdir(tb, data)
	host, port := splitAddr(tb, addr)
	p := &process{tb: tb, name: "azurite", path: path, dir: dir, addr: addr, args: []string{
		"--silent", "--disableTelemetry", "--blobHost", host, "--blobPort", port, "--location", data,
		// The SDK asks for a version of the protocol that is newer than it.
		"--skipApiVersionCheck",
	}}
	p.start()
	return &AzureServer{
		Endpoint: "http://" + addr + "/" + azuriteAccount, AccountName: azuriteAccount, AccountKey: azuriteKey, tb: tb, p: p,
	}
}

// Env returns the environment for a child process that uses the server.
func (s *AzureServer) Env() []string {
	return append(cleanEnv(), "LITESTREAM_AZURE_ACCOUNT_KEY="+s.AccountKey)
}

// Stop ends the server's process and waits for it.
func (s *AzureServer) Stop() {
	s.tb.Helper()
	s.p.stop()
}

// Restart starts the server again on the same port with the same data, and waits
// until it accepts connections.
func (s *AzureServer) Restart() {
	s.tb.Helper()
	s.p.stop()
	s.p.start()
}

// Container returns a plain client of a container, with which tests prepare and
// inspect blobs beside the code under test.
func (s *AzureServer) Container(name string) *container.Client {
	s.tb.Helper()
	cred, err := container.NewSharedKeyCredential(s.AccountName, s.AccountKey)
	if err != nil {
		s.tb.Fatal(err)
	}
	// No keep-alive: an idle connection would hold two goroutines.
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	c, err := container.NewClientWithSharedKeyCredential(s.Endpoint+"/"+name, cred, &container.ClientOptions{
		ClientOptions: azcore.ClientOptions{Transport: client},
	})
	if err != nil {
		s.tb.Fatal(err)
	}
	return c
}

// CreateContainer makes a container.
func (s *AzureServer) CreateContainer(name string) {
	s.tb.Helper()
	ctx, cancel := context.WithTimeout(s.tb.Context(), readyTimeout)
	defer cancel()
	if _, err := s.Container(name).Create(ctx, nil); err != nil {
		s.tb.Fatalf("create container %s on %s: %v", name, s.Endpoint, err)
	}
}
