//! The connection that the agent keeps open for its calls: one, made when it is needed, with the certificate in hand.

use std::{sync::Arc, time::Duration};

use certs::Clock;
use proto::credence::v1::{
    RenewRequest, RenewResponse, SyncRequest, SyncResponse, renewal_service_client::RenewalServiceClient,
};
use spiffe::{NodeId, Trust};
use thiserror::Error;
use tokio::time::timeout;
use tonic::{Code, Status};

use crate::{
    connect::{
        Channel, ClientIdentity, ConnectError, Connection, Expected, MAX_ANSWER_BYTES, is_broken_connection,
    },
    ending::Ending,
    files::{Credentials, Membership},
    join::{chain_text, status_text},
    outage::Reason,
};

const RENEW_TIMEOUT: Duration = Duration::from_secs(30);
/// Longer than the server holds a call.
const SYNC_TIMEOUT: Duration = Duration::from_secs(75);
/// A server that refuses does so sooner: one that is silent for this long over an open connection holds the call.
const HELD: Duration = Duration::from_secs(1);

/// Why a call brought nothing.
#[derive(Debug, Error)]
pub(crate) enum CallError {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("server refused: {0}")]
    Refused(String),
    #[error("server did not answer: {0}")]
    Unanswered(String),
    #[error("server does not know this call")]
    Unsupported,
}

impl CallError {
    /// What kind of outage it tells of. `None` from a server that answers and does not know the call.
    pub(crate) fn reason(&self) -> Option<Reason> {
        match self {
            Self::Connect(ConnectError::Refused { .. }) => Some(Reason::Disbelieved),
            Self::Connect(ConnectError::NotLetIn { .. }) | Self::Refused(_) => Some(Reason::Refused),
            Self::Connect(_) | Self::Unanswered(_) => Some(Reason::Away),
            Self::Unsupported => None,
        }
    }

    /// What to do about it, if more can be said than the error says.
    pub(crate) fn hint(&self, node: &NodeId) -> Option<String> {
        match self {
            Self::Connect(error) => error.hint_of_member(node),
            Self::Refused(_) | Self::Unanswered(_) | Self::Unsupported => None,
        }
    }
}

impl CallError {
    /// Of a call that ended by `status`, on a connection that the server may have refused.
    fn of(status: Status, refusal: Option<String>) -> Self {
        if is_broken_connection(&status) {
            refusal.map_or_else(|| Self::Unanswered(chain_text(&status)), Self::Refused)
        } else if status.code() == Code::Unimplemented {
            Self::Unsupported
        } else {
            Self::Refused(status_text(&status))
        }
    }
}

/// Who calls whom.
#[derive(Clone, Copy)]
pub(crate) struct Ends<'a> {
    pub(crate) membership: &'a Membership,
    pub(crate) credentials: &'a Credentials,
    pub(crate) clock: &'a Arc<dyn Clock>,
}

/// The connection, if one is open.
#[derive(Debug, Default)]
pub(crate) struct Link {
    open: Option<Connection>,
}

impl Link {
    /// Lets go of the connection: the next call makes one with what is in hand then.
    pub(crate) fn close(&mut self) {
        self.open = None;
    }

    /// Exchanges a request for the next certificate. Over the open connection if there is one: a certificate that
    /// a tainted authority signed may open no other.
    pub(crate) async fn renew(
        &mut self,
        ends: Ends<'_>,
        request: RenewRequest,
    ) -> Result<RenewResponse, CallError> {
        let (mut connection, _) = self.take(ends).await?;
        let mut client = client(&connection);
        let call = Box::pin(async move { client.renew(request).await });
        let answer = connection.call_within(RENEW_TIMEOUT, call).await;
        let refusal = connection.ending().refusal();
        self.keep(connection, answer.as_ref().err());
        Ok(answer.map_err(|status| CallError::of(status, refusal))?.into_inner())
    }

    /// Says what is held and waits for news; tells `held` once the server has let us in anew, has taken the call and has
    /// none. Silence on a connection of before proves nothing. Given up half-way, the connection is given up with it.
    pub(crate) async fn sync(
        &mut self,
        ends: Ends<'_>,
        request: SyncRequest,
        held: impl FnOnce(),
    ) -> Result<SyncResponse, CallError> {
        let (mut connection, is_new) = self.take(ends).await?;
        let mut client = client(&connection);
        let ending = connection.ending().clone();
        let call = Box::pin(async move { client.sync(request).await });
        let call = Box::pin(connection.call_within(SYNC_TIMEOUT, call));
        let answer = holding(call, &ending, || {
            if is_new {
                held()
            }
        })
        .await;
        self.keep(connection, answer.as_ref().err());
        Ok(answer.map_err(|status| CallError::of(status, ending.refusal()))?.into_inner())
    }

    /// The connection, and whether it was made just now.
    async fn take(&mut self, ends: Ends<'_>) -> Result<(Connection, bool), ConnectError> {
        if let Some(mut held) = self.open.take()
            && held.is_usable().await
        {
            return Ok((held, false));
        }
        let expected = Expected::Trusted {
            trust: Trust::new(ends.credentials.bundle.clone()),
            server: ends.membership.server_id.clone(),
        };
        let identity = ClientIdentity::new(&ends.credentials.chain, &ends.credentials.key);
        let open = Connection::open(&ends.membership.xds_server, expected, Some(identity), ends.clock);
        Ok((Box::pin(open).await?, true))
    }

    fn keep(&mut self, connection: Connection, failed: Option<&Status>) {
        if !failed.is_some_and(is_broken_connection) {
            self.open = Some(connection);
        }
    }
}

/// What `call` comes to; tells `held` if it is silent for a while over a connection that is open.
async fn holding<F: Future + Unpin>(mut call: F, ending: &Ending, held: impl FnOnce()) -> F::Output {
    if let Ok(answer) = timeout(HELD, &mut call).await {
        return answer;
    }
    // A call may go on for a while over bytes that have ended.
    if !ending.is_reached() {
        held();
    }
    call.await
}

fn client(connection: &Connection) -> RenewalServiceClient<Channel> {
    let (channel, origin) = connection.channel();
    RenewalServiceClient::with_origin(channel, origin).max_decoding_message_size(MAX_ANSWER_BYTES)
}

#[cfg(test)]
mod tests {
    use rustls::CertificateError;
    use tokio::time::sleep;

    use super::*;
    use crate::{
        ending::Watched,
        testing::{DAY, FakeServer, NOW},
    };

    /// What a call for news comes to at a server that takes the connection and then says that it lets nobody in.
    async fn refused(why: CertificateError) -> CallError {
        let mut server = FakeServer::start(NOW).await;
        server.refuses = Some(why);
        let server = Arc::new(server);
        let membership = server.authority.membership("web-1", &server.address().to_string());
        let credentials = server.authority.credentials("/credence/node/web-1", NOW, DAY);
        let ends = Ends { membership: &membership, credentials: &credentials, clock: &server.clock };
        let mut link = Link::default();
        let asked = link.sync(ends, SyncRequest::default(), || panic!("nobody holds the call"));
        let error = server.during(asked).await.unwrap_err();
        let asked = link.renew(ends, RenewRequest::default());
        let renewal = server.during(asked).await.unwrap_err();
        assert_eq!((renewal.to_string(), renewal.reason()), (error.to_string(), error.reason()));
        error
    }

    #[tokio::test]
    async fn a_node_that_is_not_let_in_is_told_so_and_why() {
        for (why, told) in [
            (
                CertificateError::Revoked,
                "our certificate is revoked, or of an authority that is not trusted any more (alert CertificateRevoked)",
            ),
            (
                CertificateError::ApplicationVerificationFailure,
                "our identity is blocked, or not let in there (alert AccessDenied)",
            ),
        ] {
            let error = refused(why).await;
            assert_eq!(error.reason(), Some(Reason::Refused), "{error}");
            assert!(error.to_string().ends_with(told), "{error}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_is_held_over_a_connection_that_is_open_and_over_no_other() {
        let long = || Box::pin(sleep(SYNC_TIMEOUT));
        let (open, ending) = Watched::new(tokio::io::empty());
        let mut held = false;
        holding(long(), &ending, || held = true).await;
        assert!(held);
        holding(Box::pin(sleep(HELD / 2)), &ending, || panic!("it was answered")).await;
        drop(open);
        let (mut closed, ending) = Watched::new(tokio::io::empty());
        tokio::io::AsyncReadExt::read(&mut closed, &mut [0; 8]).await.unwrap();
        holding(long(), &ending, || panic!("the connection has ended")).await;
    }
}
