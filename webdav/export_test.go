package webdav

// Parallel is parallel.
var Parallel = parallel
