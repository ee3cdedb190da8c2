package wal

// WithHook returns options whose reads call f between their steps.
func (opt Options) WithHook(f func(step string)) Options {
	opt.hook = f
	return opt
}

// SpoolFile reports whether the copy has moved pages to a temporary file.
func (f *Frames) SpoolFile() bool { return f.spool.file != nil }
