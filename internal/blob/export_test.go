package blob

// GrowEvery is the number of parts after which those of a stream grow.
const GrowEvery = growEvery
