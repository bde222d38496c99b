//! Another address of the same server (SHELL): asked for there, believed by what the node holds, and kept only then.

use std::sync::Arc;

use certs::Clock;
use proto::credence::v1::BeginRequest;
use spiffe::{Tenant, Trust, attestation::METHOD_JOIN_TOKEN};
use thiserror::Error;

use crate::{
    AnswerError, ServerAddress,
    connect::{ClientIdentity, ConnectError, Connection, Expected},
    files::{Credentials, EnvoyOptions, Membership, StateDir, StateError},
    join::{JoinError, challenge},
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
            Self::Connect(error) | Self::Asked(JoinError::Connect(error)) => error.hint(),
            Self::Asked(JoinError::Refused(_)) => None,
            Self::Asked(error) => error.hint(),
            Self::State(error) => error.hint(),
        }
    }
}

/// Has the node go on with its server at `server`, where enrolment is served; where discovery is, the server says. Both
/// must prove to be the server that the node knows, by the roots that it holds. Says who the node is if anything changed.
///
/// # Errors
/// See [`MoveError`]. Unless a file could not be written, nothing was changed.
pub async fn move_to(
    server: &ServerAddress,
    state: &StateDir,
    envoy: EnvoyOptions,
    clock: &Arc<dyn Clock>,
) -> Result<Option<Membership>, MoveError> {
    let (membership, credentials) = state.load()?;
    let xds_server = Box::pin(discovery_of(server, &membership, &credentials, clock)).await?;
    let identity = ClientIdentity::new(&credentials.chain, &credentials.key);
    let expected = expected(&membership, &credentials);
    Box::pin(Connection::open(&xds_server, expected, Some(identity), clock)).await?;
    let next = Membership { xds_server, enrolment_server: Some(server.clone()), ..membership };
    Ok(state.relocate(&next, envoy)?.then_some(next))
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
    use std::{fs, path::Path};

    use super::*;
    use crate::testing::{DAY, FakeServer, NOW};

    const ADMIN_PORT: u16 = 9901;

    /// A node of `of` that joined where nobody listens any more.
    fn joined(of: &FakeServer, folder: &Path) -> StateDir {
        let state = StateDir::open(folder).unwrap();
        let credentials = of.authority.credentials("/credence/node/web-1", NOW, DAY);
        let options = EnvoyOptions { admin_port: ADMIN_PORT, ..EnvoyOptions::default() };
        state.join(&of.authority.membership("web-1", "old.example:1"), &credentials, options).unwrap();
        state
    }

    fn kept(state: &StateDir) -> [String; 2] {
        [state.path().join("node.json"), state.envoy_config()].map(|path| fs::read_to_string(path).unwrap())
    }

    async fn moved(server: &Arc<FakeServer>, state: &StateDir) -> Result<Option<Membership>, MoveError> {
        let (address, options) = (server.address(), EnvoyOptions::default());
        server.during(move_to(&address, state, options, &server.clock)).await
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
}
