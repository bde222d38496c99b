//! Another address of the same server (SHELL): asked for there, believed by what the node holds, and kept only then.

use std::{sync::Arc, time::Duration};

use certs::Clock;
use proto::credence::v1::BeginRequest;
use sds::schedule::{Jitter, retry_in};
use spiffe::{Tenant, Trust, attestation::METHOD_JOIN_TOKEN};
use thiserror::Error;
use tokio::time::timeout;

use crate::{
    AnswerError, ServerAddress,
    connect::{ClientIdentity, ConnectError, Connection, Expected},
    files::{Credentials, Membership, StateError},
    join::{JoinError, Progress, Step, challenge, with_causes},
};

/// Why a node stays where it is.
#[derive(Debug, Error)]
pub enum MoveError {
    /// Nobody there, or nobody who is believed.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The server at that address did not say where discovery is served.
    #[error(transparent)]
    Asked(JoinError),
    /// The state directory fails.
    #[error(transparent)]
    State(#[from] StateError),
}

impl MoveError {
    /// What to do about it, if more can be said than the error says.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Asked(JoinError::Busy(_)) => Some(
                "other nodes behind this address ask too: wait a minute and give the same command again"
                    .to_owned(),
            ),
            Self::Connect(error) | Self::Asked(JoinError::Connect(error)) => error.hint(),
            Self::Asked(JoinError::Refused(_)) => None,
            Self::Asked(error) => error.hint(),
            Self::State(error) => error.hint(),
        }
    }
}

/// A node that asks where its server is.
#[derive(Debug)]
pub struct Question {
    /// Who the node is, and where it took its server to be.
    pub membership: Membership,
    /// By what it knows the server, and the server the node.
    pub credentials: Credentials,
    /// Where it asks: where enrolment is served.
    pub server: ServerAddress,
    /// How long it goes on asking a server that has too many such calls just now.
    pub patience: Duration,
}

impl Question {
    /// Who the node is with its server at the address where it asked; where discovery is, the server says. Both must
    /// prove to be the server that the node knows, by the roots that it holds. Nothing is written.
    ///
    /// # Errors
    /// See [`MoveError`].
    pub async fn ask(
        &self,
        clock: &Arc<dyn Clock>,
        progress: &dyn Progress,
    ) -> Result<Membership, MoveError> {
        let give_up = clock.now() + self.patience;
        let mut failures = 0;
        loop {
            let error = match Box::pin(self.ask_once(clock)).await {
                Err(MoveError::Asked(error @ JoinError::Busy(_))) => error,
                answer => return answer,
            };
            failures += 1;
            let pause = retry_in(failures, None, Jitter::random());
            if clock.now() + pause > give_up {
                return Err(MoveError::Asked(error));
            }
            progress.say(Step::Waiting { reason: with_causes(&error), pause });
            // By the other clock too: this one may be put back.
            let _ = timeout(pause, clock.sleep_until(clock.now() + pause)).await;
        }
    }

    async fn ask_once(&self, clock: &Arc<dyn Clock>) -> Result<Membership, MoveError> {
        let (membership, credentials) = (&self.membership, &self.credentials);
        let xds_server = Box::pin(discovery_of(&self.server, membership, credentials, clock)).await?;
        let identity = ClientIdentity::new(&credentials.chain, &credentials.key);
        let expected = expected(membership, credentials);
        Box::pin(Connection::open(&xds_server, expected, Some(identity), clock)).await?;
        Ok(Membership { xds_server, enrolment_server: Some(self.server.clone()), ..membership.clone() })
    }
}

fn expected(membership: &Membership, credentials: &Credentials) -> Expected {
    let trust = Trust::new(credentials.bundle.clone());
    Expected::Trusted { trust, server: membership.server_id.clone() }
}

/// Where the server at `server` says that discovery is. One that is too old to say so serves it where it did, beside.
async fn discovery_of(
    server: &ServerAddress,
    membership: &Membership,
    credentials: &Credentials,
    clock: &Arc<dyn Clock>,
) -> Result<ServerAddress, MoveError> {
    let expected = expected(membership, credentials);
    let mut connection = Box::pin(Connection::open(server, expected, None, clock)).await?;
    let begin = BeginRequest {
        method: METHOD_JOIN_TOKEN.to_owned(),
        tenant: Tenant::default().to_string(),
        spki_sha256: credentials.key.public().hash().0.to_vec(),
    };
    let said = Box::pin(challenge(&mut connection, begin)).await.map_err(MoveError::Asked)?.xds_server;
    if said.is_empty() {
        return Ok(server.with_port(membership.xds_server.port()));
    }
    let field = |_| MoveError::Asked(AnswerError::Field("xds_server").into());
    ServerAddress::parse(&said).map_err(field)
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path, sync::Mutex};

    use tonic::Status;

    use super::*;
    use crate::{
        EnvoyOptions, StateDir,
        testing::{DAY, FakeServer, NOW},
    };

    const ADMIN_PORT: u16 = 9901;

    /// A node of `of` that joined where nobody listens any more.
    fn joined(of: &FakeServer, folder: &Path) -> StateDir {
        let state = StateDir::open(folder).unwrap();
        let credentials = of.authority.credentials("/credence/node/web-1", NOW, DAY);
        let options = EnvoyOptions { admin_port: Some(ADMIN_PORT), ..EnvoyOptions::default() };
        state.join(&of.authority.membership("web-1", "old.example:1"), &credentials, options).unwrap();
        state
    }

    fn kept(state: &StateDir) -> [String; 2] {
        [state.path().join("node.json"), state.envoy_config()].map(|path| fs::read_to_string(path).unwrap())
    }

    /// What is said while it asks.
    #[derive(Default)]
    struct Heard(Mutex<Vec<Step>>);

    impl Progress for Heard {
        fn say(&self, step: Step) {
            self.0.lock().unwrap().push(step);
        }
    }

    async fn ask(
        server: &Arc<FakeServer>,
        state: &StateDir,
        patience: Duration,
        heard: &Heard,
    ) -> Result<Membership, MoveError> {
        let (membership, credentials) = state.load()?;
        let question = Question { membership, credentials, server: server.address(), patience };
        server.during(question.ask(&server.clock, heard)).await
    }

    async fn moved(server: &Arc<FakeServer>, state: &StateDir) -> Result<Option<Membership>, MoveError> {
        let next = ask(server, state, Duration::ZERO, &Heard::default()).await?;
        Ok(state.envoy_files(&next, EnvoyOptions::default()).relocate()?.then_some(next))
    }

    #[tokio::test]
    async fn the_new_address_stands_in_both_files_and_all_else_stays() {
        let server = Arc::new(FakeServer::start(NOW).await);
        let folder = tempfile::tempdir().unwrap();
        let state = joined(&server, folder.path());
        let next = moved(&server, &state).await.unwrap().unwrap();
        assert_eq!((&next.xds_server, next.enrolment()), (&server.address(), server.address()));
        assert_eq!(state.load().unwrap().0, next);
        let [_, envoy] = kept(&state);
        assert!(!envoy.contains("old.example") && envoy.contains("\"STATIC\""), "{envoy}");
        assert!(envoy.contains(&format!("\"port_value\": {}", server.address().port())), "{envoy}");
        assert!(envoy.contains(&format!("\"port_value\": {ADMIN_PORT}")), "{envoy}");

        // Again, nothing is left to change; but what was left half-way is finished.
        assert_eq!(moved(&server, &state).await.unwrap(), None);
        fs::write(state.envoy_config(), envoy.replace("STATIC", "STRICT_DNS")).unwrap();
        assert_eq!(moved(&server, &state).await.unwrap(), Some(next));
        assert_eq!(kept(&state)[1], envoy);
    }

    #[tokio::test]
    async fn nothing_changes_where_somebody_else_answers() {
        let (mut server, other) = (FakeServer::start(NOW).await, Arc::new(FakeServer::start(NOW).await));
        let folder = tempfile::tempdir().unwrap();
        let state = joined(&server, folder.path());
        let before = kept(&state);
        let is_refused = |moved: Result<Option<Membership>, MoveError>| {
            assert!(matches!(moved, Err(MoveError::Connect(ConnectError::Refused { .. }))), "{moved:?}");
            assert_eq!(kept(&state), before);
        };
        is_refused(moved(&other, &state).await);
        // The server itself, which names another for discovery.
        server.discovery = Some(other.address().to_string());
        let server = Arc::new(server);
        is_refused(other.during(moved(&server, &state)).await);
    }

    #[tokio::test]
    async fn an_older_server_is_looked_for_on_the_port_of_before() {
        let mut server = FakeServer::start(NOW).await;
        server.discovery = Some(String::new());
        let server = Arc::new(server);
        let folder = tempfile::tempdir().unwrap();
        let state = joined(&server, folder.path());
        let error = moved(&server, &state).await.unwrap_err();
        assert!(error.to_string().ends_with("127.0.0.1:1"), "{error}");
    }

    #[tokio::test]
    async fn a_server_that_has_too_many_calls_is_asked_again_and_not_for_ever() {
        let server = Arc::new(FakeServer::start(NOW).await);
        let folder = tempfile::tempdir().unwrap();
        let state = joined(&server, folder.path());
        let before = kept(&state);
        let busy = |times: usize| {
            let status = Status::resource_exhausted("refused, id 0123456789abcdef");
            server.seen.lock().unwrap().begins.extend(vec![status; times]);
        };
        busy(3);
        let heard = Heard::default();
        let next = ask(&server, &state, Duration::from_secs(60), &heard).await.unwrap();
        assert_eq!(next.xds_server, server.address());
        let pauses: Vec<u64> = heard.0.into_inner().unwrap().iter().map(secs).collect();
        assert_eq!(pauses, [1, 2, 4]);

        busy(10);
        let asked = server.clock.now();
        let error = ask(&server, &state, Duration::from_secs(60), &Heard::default()).await.unwrap_err();
        assert!(matches!(error, MoveError::Asked(JoinError::Busy(_))), "{error}");
        assert!(error.hint().unwrap().contains("the same command again"));
        assert!(server.clock.now().since(asked) <= Duration::from_secs(60));
        assert_eq!(kept(&state), before, "to ask changes nothing");
    }

    /// How long it waits, without what jitter took off.
    fn secs(step: &Step) -> u64 {
        let Step::Waiting { pause, .. } = step else { panic!("{step}") };
        pause.as_secs_f64().log2().ceil().exp2() as u64
    }
}
