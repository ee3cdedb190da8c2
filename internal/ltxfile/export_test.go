package ltxfile

import "os"

// Exported for tests that inject faults.
type (
	FileSystem = fileSystem
	WriteFile  = writeFile
)

// WithFS returns d on another file system.
func (d Dir) WithFS(fs FileSystem) Dir {
	d.fs = fs
	return d
}

// SetIndexInMemory sets how many bytes of the page index are held in memory.
func (e *Encoder) SetIndexInMemory(n int) { e.inMemory = n }

// OSFS is the real file system.
var OSFS FileSystem = osFS{}

// FileMode is used by the fault injection.
type FileMode = os.FileMode
