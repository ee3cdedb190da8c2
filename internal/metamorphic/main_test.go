package metamorphic

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// The environment that makes this test binary one of the other processes.
const (
	roleEnv = "LITESTREAM_METAMORPHIC_ROLE"
	argEnv  = "LITESTREAM_METAMORPHIC_ARG"
)

var (
	soakFor  = flag.Duration("soak", 0, "how long TestSoak runs; 0 skips it")
	seedFlag = flag.Uint64("seed", 0, "seed of the schedules; 0 chooses one")
)

// writerConfig are the settings of a writer in another process.
type writerConfig struct {
	DB           string
	Seed, Stream uint64
}

func TestMain(m *testing.M) {
	role := os.Getenv(roleEnv)
	if role == "" {
		// The tests wait for other processes most of the time.
		if err := flag.Set("test.parallel", "4"); err != nil {
			panic(err)
		}
		goleak.VerifyTestMain(m)
	}
	if err := runRole(role, []byte(os.Getenv(argEnv))); err != nil {
		fmt.Fprintln(os.Stderr, role+":", err)
		os.Exit(1)
	}
}

func runRole(role string, arg []byte) error {
	switch role {
	case "replicator":
		var cfg replicatorConfig
		if err := json.Unmarshal(arg, &cfg); err != nil {
			return err
		}
		return runReplicator(cfg)
	case "shell":
		return runShell(string(arg))
	case "writer":
		var cfg writerConfig
		if err := json.Unmarshal(arg, &cfg); err != nil {
			return err
		}
		return runWriter(cfg.DB, cfg.Seed, cfg.Stream)
	case "manager":
		var cfg managerConfig
		if err := json.Unmarshal(arg, &cfg); err != nil {
			return err
		}
		return runManager(cfg)
	case "fleet-writer":
		var cfg fleetWriterConfig
		if err := json.Unmarshal(arg, &cfg); err != nil {
			return err
		}
		return runFleetWriter(cfg)
	default:
		return fmt.Errorf("unknown role %q", role)
	}
}

// chosenSeed is the flag's, or a new one.
func chosenSeed() uint64 {
	if *seedFlag != 0 {
		return *seedFlag
	}
	return uint64(time.Now().UnixNano())
}
