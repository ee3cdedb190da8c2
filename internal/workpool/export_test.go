package workpool

const GrowAfter = growAfter
