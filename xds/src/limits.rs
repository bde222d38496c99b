//! The numbers that bound a stream.

use std::time::Duration;

/// The numbers that bound a stream. The defaults are the documented ones.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Names that one stream may want, over all types (xds.md 80, 148). So many may stand in one list of a request,
    /// and so many that were left may wait for their answer; known versions may be as many more as there are
    /// resources. Nothing is read while more changes of what is wanted of secrets wait for their source.
    pub names_per_stream: usize,
    /// Bytes of one name, type URL or known version.
    pub name_bytes: usize,
    /// Where a delta response is cut (xds.md 127).
    pub delta_bytes: usize,
    /// How long a type may stay without an ACK before newer content goes out all the same (xds.md 34).
    pub soft_gate: Duration,
    /// How long after the last ACK of what used it a resource is removed (xds.md 93).
    pub removal_linger: Duration,
    /// Within what time the first message must come (R10).
    pub first_message: Duration,
    /// How long a stream may take to finish what it is sending when the connection drains.
    pub drain: Duration,
    /// How long a message may wait for a peer that does not read (xds.md 134).
    pub write_stall: Duration,
    /// Bytes of one request (R10).
    pub message_bytes: usize,
    /// Streams of one node; the newest wins (R9).
    pub streams_per_node: usize,
    /// New streams per second for ever, over all nodes (R11).
    pub new_streams_per_second: u32,
    /// New streams at once after a quiet time.
    pub new_streams_at_once: u32,
    /// How long a new stream may wait for its place; past it the node is told to come again.
    pub admission_queue: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            names_per_stream: 10_000,
            name_bytes: 2048,
            delta_bytes: 1 << 20,
            soft_gate: Duration::from_secs(5),
            removal_linger: Duration::from_secs(2),
            first_message: Duration::from_secs(10),
            drain: Duration::from_secs(5),
            write_stall: Duration::from_secs(30),
            message_bytes: 4 << 20,
            streams_per_node: 16,
            new_streams_per_second: 100,
            new_streams_at_once: 1_000,
            admission_queue: Duration::from_secs(1),
        }
    }
}
