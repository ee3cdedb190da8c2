package litestream

// FailDirWatch has the watcher of folders report an error.
func (s *Store) FailDirWatch(err error) { s.dirs.watch.watcher.Errors <- err }
