// Package metamorphic is the random test of the whole system: applications
// write, replicators run and are killed, storage fails, and what is restored
// meanwhile is compared with a ledger that the applications keep outside their
// database. It has no code of its own but tests.
package metamorphic
