//! Bodies that nobody reads to their end. Whoever is refused may be writing still: were the stream ended under him, he
//! would see a broken pipe or a reset in the place of the reason. So what is left is read and dropped, within bounds.

use std::{
    future::poll_fn,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    body::{Body, Bytes, HttpBody},
    extract::Request,
};
use http::header;
use http_body::{Frame, SizeHint};
use tokio::time::timeout;

/// The most octets that are read and dropped. Of a body that says that it is longer nothing is.
const MAX_DROPPED_BYTES: u64 = 8 << 20;
/// How long that may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// The body of a request that is somebody else's to read.
pub(super) struct Unread {
    lent: Lent,
    /// Its sender asked whether to send it (RFC 9110 10.1.1): nothing comes before somebody reads.
    is_asked_for: bool,
}

/// The same body, as whoever answers the request reads it.
#[derive(Clone)]
struct Lent(Arc<Mutex<Held>>);

struct Held {
    body: Body,
    is_begun: bool,
}

impl Unread {
    /// Keeps a hold of the body.
    pub(super) fn lend(request: Request) -> (Request, Self) {
        let (parts, body) = request.into_parts();
        let lent = Lent(Arc::new(Mutex::new(Held { body, is_begun: false })));
        let is_asked_for = parts.headers.contains_key(header::EXPECT);
        (Request::from_parts(parts, Body::new(lent.clone())), Self { lent, is_asked_for })
    }

    /// Reads and drops what is left.
    pub(super) async fn drop_rest(self) {
        let Self { mut lent, is_asked_for } = self;
        let is_held_back = is_asked_for && !lent.held(|held| held.is_begun);
        if is_held_back || lent.size_hint().lower() > MAX_DROPPED_BYTES {
            return;
        }
        let drop_all = async {
            let mut dropped = 0;
            while let Some(Ok(frame)) = poll_fn(|context| Pin::new(&mut lent).poll_frame(context)).await {
                dropped += frame.data_ref().map_or(0, |data| data.len() as u64);
                if dropped > MAX_DROPPED_BYTES {
                    return;
                }
            }
        };
        // Who is slower than this has to do without the reason.
        let _ = timeout(PATIENCE, drop_all).await;
    }
}

impl Lent {
    fn held<T>(&self, look: impl FnOnce(&mut Held) -> T) -> T {
        look(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl HttpBody for Lent {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        self.held(|held| {
            held.is_begun = true;
            Pin::new(&mut held.body).poll_frame(context)
        })
    }

    fn is_end_stream(&self) -> bool {
        self.held(|held| held.body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        self.held(|held| held.body.size_hint())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    const PIECE: u64 = 1 << 16;

    /// `pieces` of a body, and how many of them were read; it says its length where `is_sized`.
    struct Pieces(u64, Arc<AtomicU64>, bool);

    impl HttpBody for Pieces {
        type Data = Bytes;
        type Error = axum::Error;

        fn poll_frame(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
            let read = self.1.load(Ordering::Relaxed);
            if read == self.0 {
                return Poll::Ready(None);
            }
            self.1.store(read + 1, Ordering::Relaxed);
            Poll::Ready(Some(Ok(Frame::data(vec![0; PIECE as usize].into()))))
        }

        fn size_hint(&self) -> SizeHint {
            let left = self.0 - self.1.load(Ordering::Relaxed);
            if self.2 { SizeHint::with_exact(left * PIECE) } else { SizeHint::new() }
        }
    }

    /// A body of which nothing comes.
    struct Silent;

    impl HttpBody for Silent {
        type Data = Bytes;
        type Error = axum::Error;

        fn poll_frame(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
            Poll::Pending
        }
    }

    /// How many pieces are read of a body of which whoever answers reads `used`.
    async fn read(pieces: u64, is_sized: bool, expects: bool, used: u64) -> u64 {
        let count = Arc::new(AtomicU64::new(0));
        let mut request = Request::new(Body::new(Pieces(pieces, Arc::clone(&count), is_sized)));
        if expects {
            request.headers_mut().insert(header::EXPECT, "100-continue".parse().unwrap());
        }
        let (request, unread) = Unread::lend(request);
        let mut body = request.into_body();
        for _ in 0..used {
            poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await.unwrap().unwrap();
        }
        drop(body);
        unread.drop_rest().await;
        count.load(Ordering::Relaxed)
    }

    #[tokio::test]
    async fn what_is_left_of_a_body_is_read_within_bounds() {
        for (pieces, is_sized, expects, used, expected) in [
            (16, true, false, 0, 16),
            (16, true, false, 3, 16),
            (16, false, false, 0, 16),
            (16, true, false, 16, 16),
            // Nobody asked for it, and nothing is under way.
            (16, true, true, 0, 0),
            (16, true, true, 1, 16),
            // Too long for that: known from the start, or only when it was read.
            (1000, true, false, 0, 0),
            (1000, true, false, 2, 2),
            (1000, false, false, 0, 129),
            (130, true, false, 2, 130),
        ] {
            let found = read(pieces, is_sized, expects, used).await;
            assert_eq!(found, expected, "{pieces} {is_sized} {expects} {used}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_is_waited_for_who_sends_no_end() {
        let (_, unread) = Unread::lend(Request::new(Body::new(Silent)));
        unread.drop_rest().await;
    }
}
