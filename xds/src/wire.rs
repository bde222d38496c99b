//! gRPC framing, and responses as chains of shared segments.
//!
//! A response is its five-byte header, the fields that its resources carry ready-made, and a tail of its own with
//! nonce, version and type (the order of protobuf fields is free). A large resource is never copied; small ones are
//! gathered, a few KiB at a time and only when the peer can take them, because a frame for each would cost more.

use std::{collections::VecDeque, sync::Arc};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use prost::Message;
use proto::envoy::{
    config::core::v3::ControlPlane,
    service::discovery::v3::{DeltaDiscoveryResponse, DiscoveryResponse},
};

use crate::{Refusal, Response};

/// Segments shorter than this are gathered.
const SMALL: usize = 4096;
/// How much is gathered.
const GATHERED: usize = 16 * 1024;
const HEADER: usize = 5;

/// Cuts what arrives into messages.
#[derive(Debug)]
pub(crate) struct Deframer {
    buffer: BytesMut,
    limit: usize,
}

impl Deframer {
    pub(crate) fn new(limit: usize) -> Self {
        Self { buffer: BytesMut::new(), limit }
    }

    pub(crate) fn push(&mut self, bytes: &Bytes) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole message, if it is there.
    pub(crate) fn next(&mut self) -> Result<Option<Bytes>, Refusal> {
        if self.buffer.len() < HEADER {
            return Ok(None);
        }
        match self.buffer[0] {
            0 => {}
            1 => return Err(Refusal::Compressed),
            flag => return Err(Refusal::Undecodable(format!("frame flag {flag}"))),
        }
        let mut length = &self.buffer[1..HEADER];
        let bytes = usize::try_from(length.get_u32()).unwrap_or(usize::MAX);
        if bytes > self.limit {
            return Err(Refusal::LongMessage { bytes, limit: self.limit });
        }
        if self.buffer.len() < HEADER + bytes {
            return Ok(None);
        }
        self.buffer.advance(HEADER);
        let message = self.buffer.split_to(bytes).freeze();
        if self.buffer.is_empty() {
            // A long first request must not keep its buffer for as long as the stream lives.
            self.buffer = BytesMut::new();
        }
        Ok(Some(message))
    }
}

/// Reads one request message.
pub(crate) fn decode<M: Message + Default>(message: Bytes) -> Result<Box<M>, Refusal> {
    M::decode(message).map(Box::new).map_err(|error| Refusal::Undecodable(error.to_string()))
}

/// Bytes to be written, in shared segments.
#[derive(Debug, Default)]
pub(crate) struct Rope {
    segments: VecDeque<Bytes>,
}

impl Rope {
    /// The frame of `response`. `identifier` names this control plane (xds.md 122).
    pub(crate) fn of(response: &Response, delta: bool, identifier: &Arc<str>) -> Self {
        let tail: Bytes = tail(response, delta, identifier).into();
        let fields = response.resources.iter().map(|resource| {
            let field = if delta { resource.delta_field() } else { resource.sotw_field() };
            field.clone()
        });
        let mut segments: VecDeque<Bytes> = std::iter::once(Bytes::new()).chain(fields).collect();
        segments.push_back(tail);
        let length: usize = segments.iter().map(Bytes::len).sum();
        let mut header = BytesMut::with_capacity(HEADER);
        header.put_u8(0);
        header.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
        segments[0] = header.freeze();
        Self { segments }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.segments.is_empty()
    }

    /// The next piece to write.
    pub(crate) fn next(&mut self) -> Option<Bytes> {
        let first = self.segments.pop_front()?;
        let alone = self.segments.front().is_none_or(|next| next.len() >= SMALL);
        if first.len() >= SMALL || alone {
            return Some(first);
        }
        let mut gathered = BytesMut::with_capacity(GATHERED.min(first.len() + self.front_len() + SMALL));
        gathered.extend_from_slice(&first);
        while let Some(next) = self.segments.pop_front() {
            if next.len() >= SMALL || gathered.len() + next.len() > GATHERED {
                self.segments.push_front(next);
                break;
            }
            gathered.extend_from_slice(&next);
        }
        Some(gathered.freeze())
    }

    fn front_len(&self) -> usize {
        self.segments.front().map_or(0, Bytes::len)
    }
}

fn tail(response: &Response, delta: bool, identifier: &Arc<str>) -> Vec<u8> {
    let control_plane = Some(ControlPlane { identifier: identifier.to_string() });
    let (type_url, nonce) = (response.type_url.to_string(), response.nonce.to_string());
    if delta {
        let removed_resources = response.removed.iter().map(ToString::to_string).collect();
        let tail = DeltaDiscoveryResponse {
            type_url,
            nonce,
            control_plane,
            removed_resources,
            ..DeltaDiscoveryResponse::default()
        };
        return tail.encode_to_vec();
    }
    let version_info = response.version.as_ref().map(ToString::to_string).unwrap_or_default();
    let tail =
        DiscoveryResponse { type_url, nonce, control_plane, version_info, ..DiscoveryResponse::default() };
    tail.encode_to_vec()
}

#[cfg(test)]
mod tests;
