//! A node's first identity (security reference 3.3): the key is made here and stays here; a token, a certificate
//! request and a proof that binds both to this TLS connection travel.
//!
//! A lost answer burns nothing: the key is on disk before the first call, and the same token with the same key
//! gets the same certificate, in this run or the next. So it is when a node comes back with a certificate that has
//! ended: its old key signs too, and stands for the token.

use std::{fmt, sync::Arc, time::Duration};

use certs::{
    Certificate, CertificateError, Chain, ChainError, Clock, Csr, SecretKey, SoftwareSigner, Timestamp, Usage,
};
use proto::credence::v1::{
    BeginRequest, BeginResponse, FinishRequest, FinishResponse,
    enrolment_service_client::EnrolmentServiceClient,
};
use sds::schedule::{Jitter, retry_in};
use spiffe::{
    Class, Namespace, NodeId, SpiffeId, SvidError, Tenant, Trust, TrustBundle, TrustDomain,
    attestation::{COOKIE_LIFE, Claim, JoinToken, METHOD_EXPIRED, METHOD_JOIN_TOKEN, OldKeyClaim},
    verify_svid,
};
use thiserror::Error;
use tokio::time::timeout;
use tonic::{Code, Status};

use crate::{
    Pin, ServerAddress,
    connect::{Channel, ConnectError, Connection, Expected, MAX_ANSWER_BYTES, is_broken_connection},
    files::{Credentials, EnvoyOptions, KeyOrigin, Membership, StateDir, StateError},
};

/// The most roots that a bundle may have.
const MAX_ROOTS: usize = 32;
/// Beyond this, a clock that differs from the server's is worth a word.
const SKEW_WORTH_A_WORD: Duration = Duration::from_secs(30);

/// What one joins with: the line that `proxy enroll` printed.
#[derive(Debug)]
pub struct JoinRequest {
    /// The token.
    pub token: JoinToken,
    /// Where enrolment is served.
    pub server: ServerAddress,
    /// By what the server is known.
    pub pin: Pin,
    /// What goes into the bootstrap.
    pub envoy: EnvoyOptions,
    /// How long to keep trying when the server cannot be reached or its answer is lost.
    pub patience: Duration,
}

/// What happens while a node joins, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// The key is on disk.
    Key(KeyOrigin),
    /// The server is being dialled.
    Connecting(ServerAddress),
    /// The server is who it should be.
    ServerProven(SpiffeId),
    /// This machine's clock differs from the server's; certificates may seem expired or not yet valid.
    ClockDiffers {
        /// By how much.
        by: Duration,
        /// Whether this machine is ahead.
        is_ahead: bool,
    },
    /// Token, request and proof have been sent.
    Asked,
    /// It did not work, and will be tried again with the same key.
    Waiting {
        /// What went wrong.
        reason: String,
        /// How long until the next try.
        pause: Duration,
    },
    /// The certificate is here and good.
    Certified {
        /// Whose it is.
        id: SpiffeId,
        /// When it ends, if it is not renewed.
        expires: Timestamp,
    },
    /// Everything is on disk.
    Written(std::path::PathBuf),
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Key(KeyOrigin::New) => f.write_str("made a key; it stays on this machine"),
            Self::Key(KeyOrigin::EarlierTry) => f.write_str("goes on with the key of an earlier try"),
            Self::Connecting(server) => write!(f, "connecting to {server}"),
            Self::ServerProven(id) => write!(f, "server is {id}, its root has the pinned key"),
            Self::ClockDiffers { by, is_ahead } => {
                let (by, way) = (certs::format_duration(*by), if *is_ahead { "ahead of" } else { "behind" });
                write!(f, "this machine's clock is about {by} {way} the server's")
            }
            Self::Asked => f.write_str("token, request and proof sent"),
            Self::Waiting { reason, pause } => {
                write!(f, "{reason}; trying again in {}", certs::format_duration(*pause))
            }
            Self::Certified { id, expires } => write!(f, "certificate of {id} until {expires}"),
            Self::Written(directory) => write!(f, "wrote {}", directory.display()),
        }
    }
}

/// Who is told what happens.
pub trait Progress: Send + Sync {
    /// One more step was taken.
    fn say(&self, step: Step);
}

/// Why an answer of the server was not accepted. Each is a bug or a lie of the other end.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum AnswerError {
    /// A field is missing or malformed.
    #[error("{0} is missing or malformed")]
    Field(&'static str),
    /// The chain does not parse.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// A root does not parse.
    #[error("root: {0}")]
    Root(#[from] CertificateError),
    /// The certificate is for another key.
    #[error("certificate is for another key")]
    Key,
    /// The certificate is not what a node must have.
    #[error("certificate: {0}")]
    Svid(#[from] SvidError),
    /// The certificate or a name is another's.
    #[error("{what} is {got}, not {wanted}")]
    Name {
        /// Which name.
        what: &'static str,
        /// What it is.
        got: String,
        /// What it must be.
        wanted: String,
    },
    /// The bundle lacks the root that vouched for the server.
    #[error("bundle does not hold the pinned root")]
    Bundle,
}

/// Why a node did not join.
#[derive(Debug, Error)]
pub enum JoinError {
    /// No believed connection, for as long as was asked.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The server says no. It does not say why: the reason stands in its log and audit.
    #[error("server did not let this node in: {0}")]
    Refused(String),
    /// The server could not answer, or its answer was lost, for as long as was asked.
    #[error("server did not answer: {0}")]
    Unanswered(String),
    /// The server takes no more such calls from this address now, for as long as was asked.
    #[error("server has too many such calls from this address just now: {0}")]
    Busy(String),
    /// The answer is not what was asked for.
    #[error("server gave a bad answer: {0}")]
    Answer(#[from] AnswerError),
    /// The state directory fails.
    #[error(transparent)]
    State(#[from] StateError),
}

impl JoinError {
    /// What to do about it, if more can be said than the error says.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Connect(error) => error.hint(),
            Self::State(error) => error.hint(),
            Self::Refused(_) => Some(
                "a token works once, for one node, and 10 minutes unless told otherwise; `credence audit \
                 list` on the server tells the reason under this id; `credence proxy enroll NODE` makes a new token"
                    .to_owned(),
            ),
            Self::Unanswered(_) => Some("run the same line again: it goes on with the same key".to_owned()),
            Self::Busy(_) => Some(
                "other nodes behind this address ask too: wait a minute and run the same line again, it goes on with \
                 the same key"
                    .to_owned(),
            ),
            Self::Answer(_) => Some("server and agent may be of versions that do not fit".to_owned()),
        }
    }

    /// What helps a node that asks by itself, again and again, to come back with an expired certificate.
    pub(crate) fn hint_to_come_back(&self, node: &NodeId) -> Option<String> {
        match self {
            Self::Refused(_) => Some(format!(
                "unless a recovery window is open, `credence recover --window 1h` on the server lets it come back by \
                 itself; while one is, `credence audit list` there says why it may not: stop this agent, and join again \
                 with the line that `credence proxy enroll {node} --replace` prints"
            )),
            // Time helps.
            Self::Unanswered(_) | Self::Busy(_) => None,
            Self::Connect(error) => error.hint_of_member(node),
            Self::Answer(_) | Self::State(_) => self.hint(),
        }
    }

    /// Whether the next try may work without anybody doing anything.
    fn is_passing(&self) -> bool {
        match self {
            Self::Connect(error) => {
                matches!(error, ConnectError::Unreachable { .. } | ConnectError::Http { .. })
            }
            Self::Unanswered(_) | Self::Busy(_) => true,
            Self::Refused(_) | Self::Answer(_) | Self::State(_) => false,
        }
    }
}

/// Makes the key, proves it, and writes what the server answers into `state`.
///
/// # Errors
/// See [`JoinError`]. Unless refused, the same request may be made again.
pub async fn join(
    request: &JoinRequest,
    state: &StateDir,
    clock: &Arc<dyn Clock>,
    progress: &dyn Progress,
) -> Result<Membership, JoinError> {
    let (key, origin) = state.joining_key(request.token.id())?;
    progress.say(Step::Key(origin));
    let give_up = clock.now() + request.patience;
    let mut failures = 0;
    let (membership, chain, bundle) = loop {
        let error = match Box::pin(attempt(request, &key, clock, progress)).await {
            Ok(answer) => break answer,
            Err(error) => error,
        };
        failures += 1;
        let pause = retry_in(failures, None, Jitter::random());
        if !error.is_passing() || clock.now() + pause > give_up {
            return Err(error);
        }
        progress.say(Step::Waiting { reason: with_causes(&error), pause });
        // By the other clock too: this one may be put back.
        let _ = timeout(pause, clock.sleep_until(clock.now() + pause)).await;
    };
    let credentials = Credentials { chain, key, bundle };
    let expires = credentials.chain.leaf().not_after();
    progress.say(Step::Certified { id: membership.spiffe_id.clone(), expires });
    state.join(&membership, &credentials, request.envoy)?;
    state.forget_joining_keys()?;
    progress.say(Step::Written(state.path().to_owned()));
    Ok(membership)
}

/// An error with its causes.
#[must_use]
pub fn with_causes(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        text.push_str(": ");
        text.push_str(&next.to_string());
        cause = next.source();
    }
    text
}

type Answer = (Membership, Chain, TrustBundle);

async fn attempt(
    request: &JoinRequest,
    key: &SecretKey,
    clock: &Arc<dyn Clock>,
    progress: &dyn Progress,
) -> Result<Answer, JoinError> {
    progress.say(Step::Connecting(request.server.clone()));
    let mut connection =
        Box::pin(Connection::open(&request.server, Expected::Pinned(request.pin), None, clock)).await?;
    progress.say(Step::ServerProven(connection.server().clone()));
    let evidence = Evidence::Token(&request.token);
    let challenged = |challenge: &BeginResponse| {
        compare_clocks(challenge, clock.now(), progress);
        progress.say(Step::Asked);
    };
    let answer = Box::pin(exchange(&mut connection, key, evidence, challenged)).await?;
    Ok(accept(&answer, request, key, connection.server(), clock.now())?)
}

/// Comes back with a certificate that has ended, while operators let it: the new chain for `key`, and the bundle.
///
/// # Errors
/// See [`JoinError`]. It may be tried again with the same key.
pub(crate) async fn come_back(
    membership: &Membership,
    held: &Credentials,
    key: &SecretKey,
    clock: &Arc<dyn Clock>,
) -> Result<(Chain, TrustBundle), JoinError> {
    let trust = Trust::new(held.bundle.clone());
    let expected = Expected::Trusted { trust, server: membership.server_id.clone() };
    let mut connection = Box::pin(Connection::open(&membership.enrolment(), expected, None, clock)).await?;
    let answer = Box::pin(exchange(&mut connection, key, Evidence::Expired(held), |_| {})).await?;
    let bundle = read_bundle(membership.trust_domain.clone(), &answer.bundle_der)?;
    let chain = accept_chain(&answer.chain_der, key, &membership.spiffe_id, &bundle, clock.now())?;
    Ok((chain, bundle))
}

/// By what a node proves itself, beside the key that it wants certified.
enum Evidence<'a> {
    Token(&'a JoinToken),
    Expired(&'a Credentials),
}

/// Takes a challenge, proves what it asks for, and has `key` certified.
async fn exchange(
    connection: &mut Connection,
    key: &SecretKey,
    evidence: Evidence<'_>,
    challenged: impl FnOnce(&BeginResponse),
) -> Result<FinishResponse, JoinError> {
    let (method, tenant) = match evidence {
        Evidence::Token(token) => (METHOD_JOIN_TOKEN, token.tenant().clone()),
        // The server goes by the node's binding.
        Evidence::Expired(_) => (METHOD_EXPIRED, Tenant::default()),
    };
    let spki = key.public().hash();
    let begin =
        BeginRequest { method: method.to_owned(), tenant: tenant.to_string(), spki_sha256: spki.0.to_vec() };
    let challenge = challenge(connection, begin).await?;
    challenged(&challenge);
    let (nonce, exporter) = (&challenge.nonce, connection.exporter());
    let claim = Claim { nonce, exporter, spki, method, tenant: &tenant };
    let mut finish = FinishRequest {
        method: method.to_owned(),
        tenant: tenant.to_string(),
        csr_der: Csr::build(key),
        proof: claim.prove(&signer(key)).expect("a key in memory signs"),
        ..FinishRequest::default()
    };
    match evidence {
        Evidence::Token(token) => finish.join_token = token.to_clear_text(),
        Evidence::Expired(held) => {
            let certificate = held.chain.leaf().der();
            let claim = OldKeyClaim { nonce, exporter, spki, certificate, tenant: &tenant };
            finish.old_proof = claim.prove(&signer(&held.key)).expect("a key in memory signs");
            finish.expired_certificate_der = certificate.to_vec();
        }
    }
    finish.cookie = challenge.cookie;
    let mut client = client(connection);
    Ok(connection.call(Box::pin(client.finish(finish))).await.map_err(judge)?.into_inner())
}

/// Asks for a challenge, with which the server says where discovery is.
pub(crate) async fn challenge(
    connection: &mut Connection,
    begin: BeginRequest,
) -> Result<BeginResponse, JoinError> {
    let mut client = client(connection);
    Ok(connection.call(Box::pin(client.begin(begin))).await.map_err(judge)?.into_inner())
}

fn client(connection: &Connection) -> EnrolmentServiceClient<Channel> {
    let (channel, origin) = connection.channel();
    EnrolmentServiceClient::with_origin(channel, origin).max_decoding_message_size(MAX_ANSWER_BYTES)
}

fn signer(key: &SecretKey) -> SoftwareSigner {
    SoftwareSigner::try_new(key).expect("a SecretKey holds a key the provider takes")
}

/// The server's nonce ends a known time after the server made it: that tells its time, roughly.
fn compare_clocks(challenge: &BeginResponse, now: Timestamp, progress: &dyn Progress) {
    let theirs = Timestamp::from_unix_millis(challenge.expires_unix_ms) - COOKIE_LIFE;
    let by = now.since(theirs).max(theirs.since(now));
    if by > SKEW_WORTH_A_WORD {
        progress.say(Step::ClockDiffers { by, is_ahead: now > theirs });
    }
}

fn judge(status: Status) -> JoinError {
    if is_broken_connection(&status) {
        return JoinError::Unanswered(chain_text(&status));
    }
    let words = status_text(&status);
    match status.code() {
        Code::ResourceExhausted => JoinError::Busy(words),
        Code::Unavailable | Code::DeadlineExceeded | Code::Aborted => JoinError::Unanswered(words),
        _ => JoinError::Refused(words),
    }
}

/// A status as people may read it: bounded, and without anything that moves a terminal's cursor.
pub(crate) fn status_text(status: &Status) -> String {
    let words: String = status.message().chars().filter(|c| !c.is_control()).take(256).collect();
    if words.is_empty() { format!("{:?}", status.code()) } else { words }
}

/// The innermost cause of a status that was made here.
pub(crate) fn chain_text(status: &Status) -> String {
    let mut cause = std::error::Error::source(status);
    let mut text = String::from("connection broke");
    while let Some(error) = cause {
        text = error.to_string();
        cause = error.source();
    }
    text
}

fn accept(
    answer: &FinishResponse,
    request: &JoinRequest,
    key: &SecretKey,
    server: &SpiffeId,
    now: Timestamp,
) -> Result<Answer, AnswerError> {
    let domain = TrustDomain::parse(&answer.trust_domain).map_err(|_| AnswerError::Field("trust_domain"))?;
    same("trust domain", &domain, server.trust_domain())?;
    let bundle = read_bundle(domain.clone(), &answer.bundle_der)?;
    if !bundle.authorities().iter().any(|root| root.spki_hash() == request.pin.0) {
        return Err(AnswerError::Bundle);
    }
    let node_id = NodeId::parse(&answer.node_id).map_err(|_| AnswerError::Field("node_id"))?;
    let chain = accept_chain(&answer.chain_der, key, &domain.node_id(&node_id), &bundle, now)?;
    same("identity", &answer.spiffe_id.as_str(), &domain.node_id(&node_id).as_str())?;
    same("server identity", &answer.server_id.as_str(), &server.as_str())?;
    let namespace = match answer.namespace.as_str() {
        "" => Namespace::default(),
        text => Namespace::parse(text).map_err(|_| AnswerError::Field("namespace"))?,
    };
    let membership = Membership {
        spiffe_id: domain.node_id(&node_id),
        node_id,
        trust_domain: domain,
        namespace,
        xds_server: ServerAddress::parse(&answer.xds_server).map_err(|_| AnswerError::Field("xds_server"))?,
        server_id: server.clone(),
        pin: request.pin,
        enrolment_server: Some(request.server.clone()),
    };
    Ok((membership, chain, bundle))
}

/// Reads a bundle that the server sent.
pub(crate) fn read_bundle(domain: TrustDomain, ders: &[Vec<u8>]) -> Result<TrustBundle, AnswerError> {
    if ders.is_empty() || ders.len() > MAX_ROOTS {
        return Err(AnswerError::Field("bundle_der"));
    }
    let roots = ders.iter().map(|der| Certificate::from_der(der)).collect::<Result<Vec<_>, _>>()?;
    Ok(TrustBundle::new(domain, roots, 0))
}

/// Reads a chain that the server sent: it must be this node's, for this key, and hold under the bundle.
pub(crate) fn accept_chain(
    ders: &[Vec<u8>],
    key: &SecretKey,
    wanted: &SpiffeId,
    bundle: &TrustBundle,
    now: Timestamp,
) -> Result<Chain, AnswerError> {
    let chain = Chain::from_ders(ders.iter().map(Vec::as_slice))?;
    if chain.leaf().spki_der() != key.public().spki_der() {
        return Err(AnswerError::Key);
    }
    let svid = verify_svid(&chain, &Trust::new(bundle.clone()), now, Usage::Client)?;
    same("certificate's identity", svid.id(), wanted)?;
    if !matches!(svid.class(), Class::Node(_)) {
        return Err(AnswerError::Field("chain_der"));
    }
    Ok(chain)
}

fn same<T: PartialEq + fmt::Display>(what: &'static str, got: &T, wanted: &T) -> Result<(), AnswerError> {
    if got == wanted {
        Ok(())
    } else {
        Err(AnswerError::Name { what, got: got.to_string(), wanted: wanted.to_string() })
    }
}

#[cfg(test)]
mod tests;
