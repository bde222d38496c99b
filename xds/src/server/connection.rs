//! What a stream and its connection tell each other.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use futures::{StreamExt, stream::FuturesUnordered};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// One stream's work.
pub(super) type Driver = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Streams that may wait to be taken over by their connection.
const MAX_WAITING: usize = 64;

/// The connection as its streams see it: a request extension, put there by the accept loop.
#[derive(Clone)]
pub struct ConnectionDrain {
    going_away: CancellationToken,
    stalled: CancellationToken,
    drivers: Option<mpsc::Sender<Driver>>,
}

impl ConnectionDrain {
    /// A connection whose streams end gracefully once `going_away` is cancelled. Cancel it after the connection
    /// has sent its GOAWAY: Envoy reopens ended streams at once, and must do so on a new connection.
    ///
    /// Poll [`Driving`] beside the connection, in the same task: streams then keep watching time, blocks and
    /// bindings while their peer does not read.
    #[must_use]
    pub fn new(going_away: CancellationToken) -> (Self, Driving) {
        let (drivers, waiting) = mpsc::channel(MAX_WAITING);
        let connection = Self { going_away, stalled: CancellationToken::new(), drivers: Some(drivers) };
        (connection, Driving { waiting, is_open: true, running: FuturesUnordered::new() })
    }

    /// Cancelled when a stream could not write for too long. Close the connection: what is queued inside HTTP/2
    /// goes in no other way.
    #[must_use]
    pub fn stalled(&self) -> &CancellationToken {
        &self.stalled
    }

    /// Cancelled when the connection has sent its GOAWAY: what is held open on it ends.
    #[must_use]
    pub fn going_away(&self) -> &CancellationToken {
        &self.going_away
    }

    /// Hands over a stream, or hands it back.
    pub(super) fn drive(&self, driver: Driver) -> Result<(), Driver> {
        match &self.drivers {
            Some(drivers) => drivers.try_send(driver).map_err(mpsc::error::TrySendError::into_inner),
            None => Err(driver),
        }
    }
}

impl fmt::Debug for ConnectionDrain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ConnectionDrain {{ going_away: {} }}", self.going_away.is_cancelled())
    }
}

/// The work of all streams of one connection. Ends when the last [`ConnectionDrain`] is dropped and the last stream
/// is over.
pub struct Driving {
    waiting: mpsc::Receiver<Driver>,
    is_open: bool,
    running: FuturesUnordered<Driver>,
}

impl fmt::Debug for Driving {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Driving {{ {} streams }}", self.running.len())
    }
}

impl Future for Driving {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        while self.is_open {
            match self.waiting.poll_recv(context) {
                Poll::Ready(Some(driver)) => self.running.push(driver),
                Poll::Ready(None) => self.is_open = false,
                Poll::Pending => break,
            }
        }
        while let Poll::Ready(Some(())) = self.running.poll_next_unpin(context) {}
        if !self.is_open && self.running.is_empty() { Poll::Ready(()) } else { Poll::Pending }
    }
}
