//! Tells when the bytes under a connection have ended, whatever the protocol above makes of it.
//!
//! In TLS 1.3 a server judges the client's certificate after the client may speak already, so that the first request
//! and the refusal often cross. Where they do, an HTTP/2 client can wait for ever: a request that was taken when the
//! connection failed, and not yet written, is neither answered nor given up.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use rustls::AlertDescription;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::watch,
    time::sleep,
};

/// How long an exchange may go on over bytes that have ended.
const GRACE: Duration = Duration::from_secs(1);

/// What is under a connection, with an eye on its end.
#[derive(Debug)]
pub struct Watched<S> {
    io: S,
    ended: watch::Sender<Option<End>>,
}

/// When and by what the bytes under a connection ended.
#[derive(Debug, Clone)]
pub struct Ending(watch::Receiver<Option<End>>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct End {
    why: String,
    /// Whether the peer said by an alert that it does not let us in.
    is_refusal: bool,
}

impl<S> Watched<S> {
    /// `io`, and what tells its end.
    pub fn new(io: S) -> (Self, Ending) {
        let (ended, ending) = watch::channel(None);
        (Self { io, ended }, Ending(ending))
    }

    fn note(&self, error: &io::Error) {
        self.end(|| match refusal(error) {
            Some(why) => End { why, is_refusal: true },
            None => End { why: error.to_string(), is_refusal: false },
        });
    }

    /// The first end is the one that tells why.
    fn end(&self, end: impl FnOnce() -> End) {
        self.ended.send_if_modified(|ended| {
            let is_first = ended.is_none();
            ended.get_or_insert_with(end);
            is_first
        });
    }
}

impl<S: AsyncRead + Unpin> Watched<S> {
    /// An error of writing. Who refuses us says so and closes, and what we write into that breaks before we have read
    /// the reason: it may be there.
    fn note_written(&mut self, context: &mut Context<'_>, error: &io::Error) {
        let mut room = [0; 1];
        if let Poll::Ready(Err(read)) =
            Pin::new(&mut self.io).poll_read(context, &mut ReadBuf::new(&mut room))
            && refusal(&read).is_some()
        {
            self.note(&read);
        }
        self.note(error);
    }
}

/// In words, if the peer said by an alert that it does not let us in (RFC 8446 6.2).
fn refusal(error: &io::Error) -> Option<String> {
    let rustls::Error::AlertReceived(alert) = error.get_ref()?.downcast_ref()? else { return None };
    let why = match alert {
        AlertDescription::CertificateExpired => {
            "our certificate has expired, or has not begun by the server's clock"
        }
        AlertDescription::CertificateRevoked => {
            "our certificate is revoked, or of an authority that is not trusted any more"
        }
        AlertDescription::UnknownCA => "no authority of the server vouches for our certificate",
        AlertDescription::AccessDenied => "our identity is blocked, or not let in there",
        AlertDescription::BadCertificate
        | AlertDescription::CertificateUnknown
        | AlertDescription::UnsupportedCertificate
        | AlertDescription::CertificateRequired
        | AlertDescription::DecryptError => "our certificate is not accepted",
        _ => return None,
    };
    Some(format!("{why} (alert {alert:?})"))
}

impl Ending {
    /// Waits for the end: the words of the error that was read or met in writing, or that the peer closed.
    pub async fn reached(&mut self) -> String {
        let ended = self.0.wait_for(Option::is_some).await.ok().and_then(|ended| ended.clone());
        ended.map_or_else(|| "it was given up on this side".to_owned(), |end| end.why)
    }

    /// Whether it is reached.
    pub(crate) fn is_reached(&self) -> bool {
        self.0.borrow().is_some()
    }

    /// Why the peer does not let us in, where it ended by that.
    pub(crate) fn refusal(&self) -> Option<String> {
        self.0.borrow().as_ref().filter(|end| end.is_refusal).map(|end| end.why.clone())
    }

    /// What `exchange` comes to. It may go on for a second after the end, because what came before the end is the better
    /// answer.
    ///
    /// # Errors
    /// How the bytes ended, when it came to nothing until then.
    pub async fn cutting_off<F: Future>(mut self, exchange: F) -> Result<F::Output, String> {
        let cut_off = async {
            let why = self.reached().await;
            sleep(GRACE).await;
            why
        };
        tokio::select! {
            biased;
            outcome = exchange => Ok(outcome),
            why = cut_off => Err(why),
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let (before, room) = (buffer.filled().len(), buffer.remaining());
        let polled = Pin::new(&mut self.io).poll_read(context, buffer);
        match &polled {
            Poll::Ready(Ok(())) if room > 0 && buffer.filled().len() == before => {
                self.end(|| End { why: "the peer closed it".to_owned(), is_refusal: false });
            }
            Poll::Ready(Err(error)) => self.note(error),
            Poll::Ready(Ok(())) | Poll::Pending => {}
        }
        polled
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.io).poll_write(context, bytes);
        if let Poll::Ready(Err(error)) = &polled {
            self.note_written(context, error);
        }
        polled
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.io).poll_flush(context);
        if let Poll::Ready(Err(error)) = &polled {
            self.note_written(context, error);
        }
        polled
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.io).poll_write_vectored(context, slices);
        if let Poll::Ready(Err(error)) = &polled {
            self.note_written(context, error);
        }
        polled
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}

#[cfg(test)]
pub(crate) mod testing {
    use super::*;

    /// Refuses by an alert that nobody has read when writing breaks.
    pub(crate) struct Refuses(pub(crate) AlertDescription);

    impl AsyncRead for Refuses {
        fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Err(io::Error::other(rustls::Error::AlertReceived(self.0))))
        }
    }

    impl AsyncWrite for Refuses {
        fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, _: &[u8]) -> Poll<io::Result<usize>> {
            Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }
}

#[cfg(test)]
mod tests {
    use rustls::CertificateError;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    use super::{testing::Refuses, *};

    /// Fails whatever is done with it.
    struct Broken;

    impl AsyncRead for Broken {
        fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Err(io::Error::other("read an alert")))
        }
    }

    impl AsyncWrite for Broken {
        fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, _: &[u8]) -> Poll<io::Result<usize>> {
            Poll::Ready(Err(io::Error::other("wrote to nobody")))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Err(io::Error::other("flushed to nobody")))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test]
    async fn the_first_end_is_told_and_nothing_before_it_is_one() {
        let (near, mut far) = duplex(64);
        let (mut near, mut ending) = Watched::new(near);
        far.write_all(b"news").await.unwrap();
        let mut read = [0; 4];
        near.read_exact(&mut read).await.unwrap();
        assert_eq!(near.read(&mut []).await.unwrap(), 0, "no room to read into is no end");
        assert!(ending.0.borrow_and_update().is_none());
        drop(far);
        assert_eq!(near.read(&mut read).await.unwrap(), 0);
        assert_eq!(ending.reached().await, "the peer closed it");
        near.write_all(b"more").await.unwrap_err();
        assert_eq!(ending.reached().await, "the peer closed it");
    }

    #[tokio::test]
    async fn who_was_refused_is_told_so_whether_he_read_or_wrote() {
        let told = "our identity is blocked, or not let in there (alert AccessDenied)";
        let (mut io, mut ending) = Watched::new(Refuses(AlertDescription::AccessDenied));
        assert!(!ending.is_reached() && ending.refusal().is_none());
        io.write(b"x").await.unwrap_err();
        assert!(ending.is_reached());
        assert_eq!((ending.reached().await, ending.refusal()), (told.into(), Some(told.into())));
        let (mut io, ending) = Watched::new(Refuses(AlertDescription::AccessDenied));
        io.flush().await.unwrap_err();
        assert_eq!(ending.refusal().as_deref(), Some(told));
        let (mut io, ending) = Watched::new(Refuses(AlertDescription::CertificateRevoked));
        io.read(&mut [0; 8]).await.unwrap_err();
        assert!(ending.refusal().unwrap().ends_with("(alert CertificateRevoked)"));
        // A fault of the peer is no verdict of his.
        let (mut io, ending) = Watched::new(Refuses(AlertDescription::InternalError));
        io.write(b"x").await.unwrap_err();
        assert!(ending.is_reached() && ending.refusal().is_none());
    }

    /// One alert may mean several things, and nobody is sent to look for the one that it is not.
    #[test]
    fn a_refusal_says_all_that_the_server_may_mean_by_it() {
        let check = |error: CertificateError, words: &str| {
            let alert = AlertDescription::from(error);
            let told = refusal(&io::Error::other(rustls::Error::AlertReceived(alert))).unwrap();
            assert!(told.contains(words), "{told}");
        };
        check(CertificateError::Expired, "has expired");
        check(CertificateError::NotValidYet, "has not begun by the server's clock");
        check(CertificateError::Revoked, "of an authority that is not trusted any more");
        check(CertificateError::BadSignature, "is not accepted");
        check(CertificateError::UnknownIssuer, "no authority");
        check(CertificateError::ApplicationVerificationFailure, "blocked");
    }

    #[tokio::test]
    async fn the_words_of_an_error_are_kept() {
        let (mut io, mut ending) = Watched::new(Broken);
        io.read(&mut [0; 8]).await.unwrap_err();
        assert_eq!(ending.reached().await, "read an alert");
        let (mut io, mut ending) = Watched::new(Broken);
        io.write(b"x").await.unwrap_err();
        assert_eq!(ending.reached().await, "wrote to nobody");
        let (mut io, mut ending) = Watched::new(Broken);
        io.flush().await.unwrap_err();
        assert_eq!(ending.reached().await, "flushed to nobody");
        let (io, mut ending) = Watched::new(Broken);
        drop(io);
        assert_eq!(ending.reached().await, "it was given up on this side");
    }

    #[tokio::test(start_paused = true)]
    async fn an_exchange_is_cut_off_after_the_end_unless_it_had_its_answer() {
        let ended = || {
            let (io, ending) = Watched::new(Broken);
            io.note(&io::Error::other("an alert"));
            ending
        };
        assert_eq!(ended().cutting_off(std::future::pending::<()>()).await, Err("an alert".into()));
        assert_eq!(ended().cutting_off(sleep(GRACE / 2)).await, Ok(()));
        let (_open, ending) = Watched::new(Broken);
        assert_eq!(ending.cutting_off(sleep(GRACE * 60)).await, Ok(()), "without an end there is no bound");
    }
}
