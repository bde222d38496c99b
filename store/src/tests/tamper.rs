//! What somebody who writes the database behind our back cannot do unseen; and the contract of `ca`.

use async_trait::async_trait;
use audit::{AuditFilter, AuditLog};
use ca::{
    ports::{
        Authorities, AuthorityError, AuthorityRecord, AuthorityState, Journal, LeafStore, Place as CaPlace,
        Revocations, Transition,
    },
    testing::{StoreFixture, authorities_contract, journal_contract, leaves_contract, revocations_contract},
};
use certs::{KeyKind, Profile, SecretKey, Serial, SoftwareSigner, Template, Validity, sign};
use spiffe::AuthorityId;
use sqlx::{AssertSqlSafe, Connection, Executor};

use super::{
    issuers::{kept as kept_issuer, put as put_issuer},
    nodes::token,
    promises::meddle,
    *,
};

pub(crate) struct Fixture(pub(crate) World);

#[async_trait]
impl StoreFixture for Fixture {
    fn journal(&self) -> &dyn Journal {
        &self.0.store
    }

    fn authorities(&self) -> &dyn Authorities {
        &self.0.store
    }

    fn revocations(&self) -> &dyn Revocations {
        &self.0.store
    }

    fn leaves(&self) -> &dyn LeafStore {
        &self.0.store
    }

    async fn add_token(&self, id: &str, expires: Timestamp) {
        // Planted without an event, as the contract counts them.
        let mut connection = meddle(&self.0.place).await;
        let token = token(id, "web-1", expires);
        sqlx::query(
            "INSERT INTO tokens (id, tenant, mac, node, author, created, expires, failures)
             VALUES (?, 'default', zeroblob(32), 'web-1', 'a', 0, ?, 0)",
        )
        .bind(token.id)
        .bind(token.expires.unix_millis())
        .execute(&mut connection)
        .await
        .unwrap();
        connection.close().await.unwrap();
    }

    async fn open_recovery(&self, until: Timestamp) -> u64 {
        let mut connection = meddle(&self.0.place).await;
        let made = sqlx::query(
            "INSERT INTO recovery_windows (reason, by, opened, until, reach) VALUES ('', '', 0, ?, 0)",
        )
        .bind(until.unix_millis())
        .execute(&mut connection)
        .await
        .unwrap();
        connection.close().await.unwrap();
        u64::try_from(made.last_insert_rowid()).unwrap()
    }

    async fn close_recovery(&self) {
        let mut connection = meddle(&self.0.place).await;
        connection.execute("UPDATE recovery_windows SET closed = 0").await.unwrap();
        connection.close().await.unwrap();
    }

    async fn bind(&self, created: Timestamp) {
        let mut connection = meddle(&self.0.place).await;
        sqlx::query(
            "INSERT INTO bindings (node, tenant, namespace, labels, identities, state, created)
             VALUES ('web-1', 'default', 'default', '{}', '[]', 'enabled', ?)",
        )
        .bind(created.unix_millis())
        .execute(&mut connection)
        .await
        .unwrap();
        connection.close().await.unwrap();
    }

    async fn unbind(&self) {
        let mut connection = meddle(&self.0.place).await;
        connection.execute("DELETE FROM bindings").await.unwrap();
        connection.close().await.unwrap();
    }

    async fn revoke_token(&self, id: &str) {
        let mut connection = meddle(&self.0.place).await;
        sqlx::query("UPDATE tokens SET revoked = 0 WHERE id = ?")
            .bind(id)
            .execute(&mut connection)
            .await
            .unwrap();
        connection.close().await.unwrap();
    }

    async fn events(&self) -> Vec<Event> {
        let rows = self.0.store.list(&AuditFilter::default()).await.unwrap();
        // The contract counts the events of its changes, not those of the records that they seal and of issuers that
        // were there before.
        let sealing = [Action::RecordSeal, Action::RecordDestroy, Action::IssuerSet];
        rows.into_iter().rev().map(|row| row.event).filter(|event| !sealing.contains(&event.action)).collect()
    }
}

#[tokio::test]
async fn keeps_the_contract_of_the_journal() {
    journal_contract(|| async { Fixture(World::new().await) }).await;
}

#[tokio::test]
async fn keeps_the_contract_of_the_authorities() {
    authorities_contract(|| async { Fixture(World::new().await) }).await;
}

#[tokio::test]
async fn keeps_the_contract_of_leaves_of_other_issuers() {
    leaves_contract(|| async {
        let world = World::new().await;
        // Leaves move to issuers that there are.
        put_issuer(&world.store, kept_issuer("corp", ""), 0).await.unwrap();
        Fixture(world)
    })
    .await;
}

#[tokio::test]
async fn keeps_the_contract_of_revocations() {
    revocations_contract(|| async { Fixture(World::new().await) }).await;
}

/// An active authority with a real certificate and key.
pub(crate) fn authority(place: CaPlace) -> (AuthorityRecord, SecretKey) {
    let key = SecretKey::generate(KeyKind::P384);
    let template = Template {
        profile: Profile::Root,
        serial: Serial::random(),
        validity: Validity::starting(now(), Profile::Root.default_lifetime(), None),
        public_key: key.public().clone(),
        subject: Some(("Credence".to_owned(), "test".to_owned())),
        uri: "spiffe://td".to_owned(),
        dns_names: Vec::new(),
        ip_addresses: Vec::new(),
    };
    let certificate = sign(&template, None, &SoftwareSigner::try_new(&key).unwrap()).unwrap();
    let record = AuthorityRecord {
        id: AuthorityId::of(key.public().hash()),
        place,
        state: AuthorityState::Active,
        certificate,
        parent: None,
        created: now(),
        activated: Some(now()),
        retired: None,
        removed: None,
        automatic: true,
        tainted: None,
        stolen: None,
        cross: None,
        offline: None,
        between: Vec::new(),
        arrivals: 1,
    };
    (record, key)
}

async fn two_authorities(store: &Store) -> (AuthorityId, AuthorityId) {
    let (root, issuing) = (authority(CaPlace::Root), authority(CaPlace::Issuing));
    let ids = (root.0.id, issuing.0.id);
    store.insert(vec![root, issuing], vec![event(Action::AuthorityPrepare, "two")]).await.unwrap();
    ids
}

/// Each of these statements is one way to move or alter a sealed key.
#[tokio::test]
async fn sealed_key_does_not_open_anywhere_else() {
    for statement in [
        "UPDATE sealed SET record = (SELECT record FROM sealed WHERE id = '{other}') WHERE id = '{id}'",
        "UPDATE sealed SET record = (SELECT record FROM sealed WHERE kind = 'token-key') WHERE id = '{id}'",
        "UPDATE sealed SET record = substr(record, 1, length(record) - 1) WHERE id = '{id}'",
        "UPDATE sealed SET record = substr(record, 1, 40) WHERE id = '{id}'",
        "UPDATE sealed SET record = CAST(record || x'00' AS BLOB) WHERE id = '{id}'",
        "UPDATE sealed SET record = CAST(substr(record, 1, 5) || x'02' || substr(record, 7) AS BLOB) WHERE id = '{id}'",
        "UPDATE sealed SET record = CAST(substr(record, 1, 4) || x'02' || substr(record, 6) AS BLOB) WHERE id = '{id}'",
        "UPDATE sealed SET record = CAST(substr(record, 1, 90) || x'0000' || substr(record, 93) AS BLOB) WHERE id = '{id}'",
        "UPDATE sealed SET record = CAST(substr(record, 1, 6) || (SELECT id FROM data_keys WHERE class = 'tls')
            || substr(record, 23) AS BLOB) WHERE id = '{id}'",
        "UPDATE sealed SET version = 2 WHERE id = '{id}'",
        "UPDATE sealed SET tenant = 'other' WHERE id = '{id}'",
        "UPDATE sealed SET kind = 'other' WHERE id = '{id}'",
        "UPDATE sealed SET class = 'tls' WHERE id = '{id}'",
        "DELETE FROM sealed WHERE id = '{id}'",
    ] {
        let world = World::new().await;
        let (id, other) = two_authorities(&world.store).await;
        world.store.load_key(id).await.unwrap();
        let place = world.close().await;
        let mut connection = meddle(&place).await;
        let text = statement.replace("{id}", &id.to_string()).replace("{other}", &other.to_string());
        connection.execute(AssertSqlSafe(text)).await.unwrap();
        connection.close().await.unwrap();
        let world = World::open(place).await;
        let integrity = world.store.integrity().await.unwrap();
        if statement.starts_with("UPDATE") {
            assert_eq!(integrity.unsealable.len(), 1, "{statement}");
        }
        if !statement.contains("version = 2") {
            world.store.load_key(id).await.expect_err(statement);
        }
        world.store.load_key(other).await.unwrap();
    }
}

#[tokio::test]
async fn altered_slots_and_data_keys_do_not_open_the_store() {
    for statement in [
        // Another octet, whatever stands there.
        "UPDATE key_slots SET wrapped = CAST(substr(wrapped, 1, 95)
             || CASE substr(wrapped, 96, 1) WHEN x'00' THEN x'01' ELSE x'00' END || substr(wrapped, 97) AS BLOB)",
        "UPDATE data_keys SET wrapped = (SELECT wrapped FROM data_keys WHERE class = 'tls') WHERE class = 'ca'",
        "UPDATE data_keys SET class = CASE class WHEN 'ca' THEN 'tls' WHEN 'tls' THEN 'ca' ELSE class END, version = 2",
        "UPDATE data_keys SET tenant = 'other' WHERE class = 'ca'",
        "UPDATE store SET id = zeroblob(16)",
    ] {
        let place = Place::made().await;
        let mut connection = meddle(&place).await;
        connection.execute(statement).await.unwrap();
        connection.close().await.unwrap();
        let error = open(place.open_options()).await.expect_err(statement);
        assert!(matches!(error, OpenError::Unlock(UnlockError::Damaged { .. })), "{statement}: {error}");
    }
}

#[tokio::test]
async fn another_stores_records_do_not_open() {
    let (one, two) = (World::new().await, World::new().await);
    let (id, _) = two_authorities(&one.store).await;
    let (one, two) = (one.close().await, two.close().await);
    // The same key-encryption key does not help.
    fs::remove_file(two.kek()).unwrap();
    fs::copy(one.kek(), two.kek()).unwrap();
    let mut connection = meddle(&two).await;
    let attach = format!(
        "ATTACH '{}' AS one; DELETE FROM key_slots; DELETE FROM data_keys;
         INSERT INTO key_slots SELECT * FROM one.key_slots; INSERT INTO data_keys SELECT * FROM one.data_keys;
         INSERT INTO sealed SELECT * FROM one.sealed WHERE id = '{id}'",
        one.database().display()
    );
    sqlx::raw_sql(AssertSqlSafe(attach)).execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
    let error = open(two.open_options()).await.unwrap_err();
    assert!(matches!(error, OpenError::Unlock(UnlockError::Damaged { .. })), "{error}");
}

#[tokio::test]
async fn edits_of_the_audit_chain_show() {
    let check = async |statement: &'static str, broken: u64| {
        let world = World::new().await;
        // Row 1 tells of the key of the tokens, which is made with the store.
        for number in 2..=6 {
            world.store.append(vec![event(Action::CallRefuse, &format!("o{number}"))]).await.unwrap();
        }
        let place = world.close().await;
        let mut connection = meddle(&place).await;
        sqlx::raw_sql(statement).execute(&mut connection).await.unwrap();
        connection.close().await.unwrap();
        let world = World::open(place).await;
        let integrity = world.store.integrity().await.unwrap();
        assert_eq!(integrity.audit_broken, Some(broken), "{statement}");
        assert!(integrity.problems()[0].contains(&format!("broken at row {broken}")));
    };
    check("UPDATE audit SET event = replace(event, 'o3', 'o9'), object = 'o9' WHERE sequence = 3", 3).await;
    check("UPDATE audit SET object = 'o9' WHERE sequence = 3", 3).await;
    check("UPDATE audit SET hash = zeroblob(32) WHERE sequence = 6", 6).await;
    check("UPDATE audit SET event = 'x' WHERE sequence = 2", 2).await;
    check("DELETE FROM audit WHERE sequence = 3", 4).await;
    check("DELETE FROM audit WHERE sequence = 1", 2).await;
    check(
        "DELETE FROM audit WHERE sequence = 3;
         UPDATE audit SET sequence = 3 WHERE sequence = 4;
         UPDATE audit SET sequence = 4 WHERE sequence = 5;
         UPDATE audit SET sequence = 5 WHERE sequence = 6",
        3,
    )
    .await;
    check("INSERT INTO audit SELECT 7, at, tenant, actor, action, object, event, hash FROM audit WHERE sequence = 6", 7)
        .await;
    check(
        "UPDATE audit SET sequence = 99 WHERE sequence = 3;
         UPDATE audit SET sequence = 3 WHERE sequence = 4;
         UPDATE audit SET sequence = 4 WHERE sequence = 99",
        3,
    )
    .await;
}

#[tokio::test]
async fn removed_authority_takes_its_key_from_the_files() {
    let world = World::new().await;
    let (root, issuing) = two_authorities(&world.store).await;
    let mut connection = meddle(&world.place).await;
    let record: Vec<u8> = sqlx::query_scalar("SELECT record FROM sealed WHERE id = ?")
        .bind(issuing.to_string())
        .fetch_one(&mut connection)
        .await
        .unwrap();
    connection.close().await.unwrap();
    let holds = |place: &Place| {
        place.bytes().values().any(|bytes| bytes.windows(64).any(|window| window == &record[54..118]))
    };
    assert!(holds(&world.place));
    let step = |from, to| Transition { id: issuing, from, to, at: now() };
    let steps = vec![
        step(AuthorityState::Active, AuthorityState::Retired),
        step(AuthorityState::Retired, AuthorityState::Removed),
    ];
    world.store.transition(steps, vec![event(Action::AuthorityRemove, "issuing")]).await.unwrap();
    assert!(!holds(&world.place), "neither in the database nor in its log");
    assert_eq!(world.store.load_key(issuing).await.unwrap_err(), AuthorityError::NotFound(issuing));
    world.store.load_key(root).await.unwrap();
    assert!(world.store.integrity().await.unwrap().is_sound());
}
