package servers

import (
	"crypto/rand"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// Ceph starts a Ceph object gateway with a monitor and one storage daemon that
// keeps its data in memory. Debian's version stands for the older S3 servers:
// over TLS it refuses uploads with trailing checksums. Stop and Restart concern
// the gateway; the data lives in the other two. The test is skipped where Ceph
// is not installed, and in short mode.
func Ceph(tb testing.TB, overTLS bool) *S3Server {
	tb.Helper()
	if os.Getenv("LITESTREAM_TEST_CEPH") == "off" {
		tb.Skip("switched off by LITESTREAM_TEST_CEPH=off")
	}
	if testing.Short() {
		tb.Skip("Ceph is left out of short tests")
	}
	for _, name := range []string{"radosgw", "radosgw-admin", "ceph-mon", "ceph-osd", "ceph-authtool", "monmaptool", "osdmaptool"} {
		if _, err := exec.LookPath(name); err != nil {
			missing(tb, name, "servers")
		}
	}

	dir, monAddr, gatewayAddr := tb.TempDir(), freeAddr(tb), freeAddr(tb)
	frontend := "beast endpoint=" + gatewayAddr + " tcp_nodelay=1"
	var caFile string
	if overTLS {
		cert, key := newCertificate(tb, dir)
		frontend = fmt.Sprintf("beast ssl_endpoint=%s tcp_nodelay=1 ssl_certificate=%s ssl_private_key=%s", gatewayAddr, cert, key)
		caFile = cert
	}
	conf := filepath.Join(dir, "ceph.conf")
	fsid := newUUID()
	if err := os.WriteFile(conf, []byte(cephConfig(dir, fsid, monAddr, frontend)), 0o644); err != nil {
		tb.Fatal(err)
	}

	startCephCluster(tb, dir, conf, fsid, monAddr)
	run(tb, "radosgw-admin", "-c", conf, "user", "create", "--uid=test", "--display-name=test",
		"--access-key="+accessKey, "--secret="+secretKey)
	p := &process{
		tb: tb, name: "radosgw", path: "radosgw", dir: dir, addr: gatewayAddr,
		args: []string{"-c", conf, "-n", "client.admin", "-f"},
	}
	p.start()
	return newS3Server(p, caFile)
}

// startCephCluster starts the monitor and the storage daemon. The keys and the
// map with one daemon in it are the monitor's from the beginning, so that no
// command has to add them to a running cluster.
func startCephCluster(tb testing.TB, dir, conf, fsid, monAddr string) {
	tb.Helper()
	mkdir(tb, filepath.Join(dir, "mon"))
	mkdir(tb, filepath.Join(dir, "osd"))
	keyring := filepath.Join(dir, "keyring")
	run(tb, "ceph-authtool", "--create-keyring", keyring, "--gen-key", "-n", "mon.", "--cap", "mon", "allow *")
	run(tb, "ceph-authtool", keyring, "--gen-key", "-n", "client.admin", "--cap", "mon", "allow *", "--cap", "osd", "allow *")
	run(tb, "ceph-authtool", keyring, "--gen-key", "-n", "osd.0", "--cap", "mon", "allow profile osd", "--cap", "osd", "allow *")

	monMap, osdMap := filepath.Join(dir, "monmap"), filepath.Join(dir, "osdmap")
	run(tb, "monmaptool", "--create", "--addv", "a", "[v2:"+monAddr+"]", "--fsid", fsid, monMap)
	run(tb, "osdmaptool", "-c", conf, "--createsimple", "1", osdMap)
	run(tb, "ceph-mon", "-c", conf, "-i", "a", "--mkfs", "--monmap", monMap, "--osdmap", osdMap, "--keyring", keyring)

	mon := &process{
		tb: tb, name: "ceph-mon", path: "ceph-mon", dir: dir, addr: monAddr,
		args: []string{"-c", conf, "-i", "a", "-f"},
	}
	mon.start()
	run(tb, "ceph-osd", "-c", conf, "-i", "0", "--mkfs", "--osd-uuid", newUUID())
	// The storage daemon picks its own ports. It is ready when the monitor
	// says so, which radosgw-admin waits for; for start its address is the
	// monitor's.
	osd := &process{
		tb: tb, name: "ceph-osd", path: "ceph-osd", dir: dir, addr: monAddr,
		args: []string{"-c", conf, "-i", "0", "-f"},
	}
	osd.start()
}

// cephConfig returns the configuration of a cluster on loopback. The short Paxos
// interval makes it ready in a second, not in fifteen. There are no admin
// sockets because their paths would be too long below a test's directory.
func cephConfig(dir, fsid, monAddr, frontend string) string {
	return fmt.Sprintf(`[global]
fsid = %[2]s
mon initial members = a
mon host = [v2:%[3]s]
public network = 127.0.0.0/8
ms bind ipv6 = false
auth cluster required = cephx
auth service required = cephx
auth client required = cephx
auth allow insecure global id reclaim = true
keyring = %[1]s/keyring
mon data = %[1]s/mon
mon data avail crit = 0
osd data = %[1]s/osd
run dir = %[1]s
admin socket =
log file = %[1]s/$name.internal.log
paxos propose interval = 0.05
paxos min wait = 0.01
mon allow pool size one = true
mon max pg per osd = 1000
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 8
osd pool default pgp num = 8
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
osd objectstore = memstore
memstore device bytes = 4294967296
rgw frontends = %[4]s
rgw dns name = localhost
rgw crypt require ssl = false
rgw enable usage log = false
rgw enable ops log = false
`, dir, fsid, monAddr, frontend)
}

func newUUID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails (crypto/rand)
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}
