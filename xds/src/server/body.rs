//! The response body: frames as the session gives them.

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame};
use thiserror::Error;
use tokio::sync::mpsc;

use super::connection::Driver;

/// A stream that ended without a status, since its peer could not be told one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the stream was aborted")]
pub struct Aborted;

/// The body of an answer: empty, or a stream.
#[derive(Default)]
pub struct XdsBody {
    frames: Option<mpsc::Receiver<Frame<Bytes>>>,
    /// The session, where no connection took it over.
    driver: Option<Driver>,
    is_over: bool,
}

impl XdsBody {
    pub(super) fn empty() -> Self {
        Self { is_over: true, ..Self::default() }
    }

    /// A body, and where its frames go. One frame waits at most: the rest waits, shared, in the session.
    pub(super) fn channel() -> (mpsc::Sender<Frame<Bytes>>, Self) {
        let (sender, frames) = mpsc::channel(1);
        (sender, Self { frames: Some(frames), ..Self::default() })
    }

    pub(super) fn driven_by(self, driver: Driver) -> Self {
        Self { driver: Some(driver), ..self }
    }
}

impl fmt::Debug for XdsBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "XdsBody {{ is_over: {} }}", self.is_over)
    }
}

impl Body for XdsBody {
    type Data = Bytes;
    type Error = Aborted;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Aborted>>> {
        let this = &mut *self;
        let Some(frames) = this.frames.as_mut().filter(|_| !this.is_over) else { return Poll::Ready(None) };
        let mut frame = frames.poll_recv(context);
        if frame.is_pending()
            && let Some(driver) = &mut this.driver
        {
            if driver.as_mut().poll(context).is_ready() {
                this.driver = None;
            }
            frame = frames.poll_recv(context);
        }
        match frame {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Some(frame)) => {
                this.is_over = frame.is_trailers();
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(None) => {
                this.is_over = true;
                Poll::Ready(Some(Err(Aborted)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.is_over
    }
}
