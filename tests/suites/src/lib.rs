//! Whole-system suites: real Envoys, real TLS, real processes. The kit that they share is `credence-kit`.
