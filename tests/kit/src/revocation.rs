//! What the suite of revocation needs: a thief, and a store that keeps no lists.

use base64::{Engine, engine::general_purpose::STANDARD};
use certs::{Csr, KeyKind, SecretKey};
use serde_json::json;
use sqlx::{AssertSqlSafe, Connection, Executor, SqliteConnection, sqlite::SqliteConnectOptions};

use crate::{Identity, Node, SDS, TestWorld, XdsClient, enrolment::rustls_key, secret_of};

impl TestWorld {
    /// The certificate and key that the proxy of `node` shows as `name`, as whoever can read the node's files gets
    /// them: by a stream of its own with the node's certificate.
    ///
    /// # Panics
    /// When it is not answered.
    pub async fn copy_of(&self, node: &str, name: &str) -> Identity {
        let current = self.sandbox().path(node).join("certs/current");
        let identity = Identity::from_files(&current.join("chain.pem"), &current.join("key.pem"));
        let mut stream = XdsClient::new(self.ports().xds, &identity).delta(node, "default");
        stream.subscribe(SDS, &[name]).await;
        let response = stream.next().await.unwrap_or_else(|status| panic!("{node}: {name}: {status}"));
        let (chain, key) = secret_of(&response);
        Identity::from_pem(&chain, &key)
    }

    /// A workload certificate of ten minutes that no proxy speaks for, however short leaves live.
    ///
    /// # Panics
    /// When it is not issued.
    pub async fn probe_identity(&self) -> Identity {
        let key = SecretKey::generate(KeyKind::P256);
        let body = json!({ "csr": STANDARD.encode(Csr::build(&key)) });
        let answer = self.rest().post("/api/v1/certificates/probe", &body).await;
        let pem = answer["pem"].as_str().unwrap_or_else(|| panic!("no certificate: {answer}"));
        let chain = certs::certificates_from_pem(pem.as_bytes());
        let chain = chain.unwrap_or_else(|error| panic!("probe: {error}"));
        Identity { chain, key: rustls_key(&key) }
    }

    /// Lets the store of the running server refuse every further revocation list, or take them again.
    ///
    /// # Panics
    /// When the database cannot be changed.
    pub async fn keep_lists(&self, keeps: bool) {
        let statement = if keeps {
            "DROP TRIGGER no_lists"
        } else {
            "CREATE TRIGGER no_lists BEFORE INSERT ON revocation_lists BEGIN SELECT RAISE(ABORT, 'told to fail'); END"
        };
        let file = self.sandbox().path("credence-data").join("credence.db");
        let changed = async {
            let options = SqliteConnectOptions::new().filename(file);
            let mut store = SqliteConnection::connect_with(&options).await?;
            store.execute(sqlx::raw_sql(AssertSqlSafe(statement.to_owned()))).await?;
            store.close().await
        };
        changed.await.unwrap_or_else(|error| panic!("store: {error}"));
    }

    /// A node without Envoy that holds its context and never acknowledges another.
    ///
    /// # Panics
    /// When it gets none.
    pub async fn mute_node(&self, id: &str) -> (Node, crate::DeltaStream) {
        let node = self.node(id, &[id]).await;
        let mut stream = self.xds(&node).delta(&node.id, &node.namespace);
        stream.subscribe(SDS, &["ROOTCA"]).await;
        let response = stream.next().await.unwrap_or_else(|status| panic!("{id}: {status}"));
        stream.ack(&response).await;
        (node, stream)
    }
}
