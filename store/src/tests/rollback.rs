//! Row S1 of the reliability programme, and the whole store put back: whoever writes the database behind our back is
//! found out.

use audit::{AuditFilter, AuditLog};
use ca::ports::{
    Authorities, AuthorityState, Intent, IssueOutcome, Journal, Place as CaPlace, ResultRecord, Taint,
};
use certs::{Profile, Serial, SpkiHash};
use spiffe::{AuthorityId, Purpose, RequestId, SpiffeId};
use sqlx::{AssertSqlSafe, Connection, SqliteConnection};

use super::{
    promises::{crash, meddle},
    tamper::authority,
    *,
};

/// A store with records of two tenants and several kinds, some of which have had older versions, and a second store
/// beside it. Kept as files, so that each case begins from the same.
struct Case {
    place: Place,
    /// The database when each record had its first version.
    old: PathBuf,
    other: Place,
}

const TENANTS: [&str; 2] = ["default", "other"];

async fn fill(world: &World) -> Vec<AuthorityId> {
    let mut ids = Vec::new();
    for place in [CaPlace::Root, CaPlace::Issuing, CaPlace::Issuing] {
        let (mut record, key) = authority(place);
        record.state = AuthorityState::Prepared;
        ids.push(record.id);
        world.store.insert(vec![(record, key)], vec![event(Action::AuthorityPrepare, "one")]).await.unwrap();
    }
    // Records of another class, tenant and kind, of equal ids.
    world.store.plant(&TENANTS, "first value").await;
    ids
}

/// A copy of the database file as it is now.
async fn copy_of(world: &World) -> PathBuf {
    let mut connection = meddle(&world.place).await;
    let path = world.place.folder.path().join("old.db");
    run(&mut connection, &format!("VACUUM INTO '{}'", path.display())).await;
    connection.close().await.unwrap();
    path
}

impl Store {
    /// Writes records of class `tls` and `backend` for each tenant, as imported secrets and credentials are.
    pub(crate) async fn plant(&self, tenants: &'static [&'static str], value: &str) {
        self.write(Plant(tenants, value.to_owned())).await.unwrap();
    }
}

struct Plant(&'static [&'static str], String);

#[async_trait::async_trait]
impl writer::Change for Plant {
    type Answer = ();
    type Refusal = api::ports::StoreError;

    async fn carry_out(self, tx: &mut writer::Tx<'_>) -> Result<(), writer::Fault<Self::Refusal>> {
        use crate::{
            keyring::{Keyring, RowName},
            sealed::{Cause, Content},
        };
        let cause = Cause { at: now(), actor: Actor::Host };
        for tenant in self.0 {
            for class in [Class::Tls, Class::Backend] {
                let mut keyring = Keyring::clone(&tx.keyring());
                if !keyring.data_keys().iter().any(|key| key.tenant == *tenant && key.class == class) {
                    keyring.make_data_key(tenant, class).insert(tx.sql(), now()).await?;
                    tx.set_keyring(keyring);
                }
                for kind in ["secret", "credential"] {
                    for id in ["default/a", "default/b"] {
                        let row = RowName { tenant, kind, id, version: 0 };
                        let text = format!("{tenant} {kind} {id} {}", self.1);
                        let secret = certs::SecretBytes::new(Zeroizing::new(text.into_bytes()));
                        tx.put_sealed(class, row, Content::Secret { header: b"{}", secret: &secret }, &cause)
                            .await?;
                    }
                }
            }
        }
        Ok(())
    }
}

impl Case {
    async fn new() -> Self {
        let world = World::new().await;
        fill(&world).await;
        let old = copy_of(&world).await;
        world.store.plant(&TENANTS, "second value").await;
        let place = world.close().await;
        let world = World::new().await;
        fill(&world).await;
        Self { place, old, other: world.close().await }
    }

    /// A copy to meddle with.
    fn copy(&self) -> Place {
        copy_of_place(&self.place)
    }
}

fn copy_of_place(place: &Place) -> Place {
    let copy = Place::empty();
    fs::create_dir(copy.data()).unwrap();
    fs::set_permissions(copy.data(), std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    for path in place.bytes().keys() {
        fs::copy(path, copy.data().join(path.file_name().unwrap())).unwrap();
    }
    fs::copy(place.kek(), copy.kek()).unwrap();
    copy
}

/// One way to meddle: a name, and SQL. `old` is an attached copy of the store as it was a version earlier, `two`
/// another store.
fn cases() -> Vec<(String, String)> {
    let a = "tenant = 'default' AND class = 'tls' AND kind = 'secret' AND id = 'default/a'";
    let take = |from: &str| {
        format!("UPDATE sealed SET record = (SELECT record FROM {from} WHERE {{from}}) WHERE {a}")
    };
    let mut all: Vec<(String, String)> = Vec::new();
    let mut add = |name: String, sql: String| all.push((name, sql));
    // Swapped with every other row of this store: other ids, kinds, classes, tenants.
    for tenant in TENANTS {
        for class in ["tls", "backend"] {
            for kind in ["secret", "credential"] {
                for id in ["default/a", "default/b"] {
                    let row = format!(
                        "tenant = '{tenant}' AND class = '{class}' AND kind = '{kind}' AND id = '{id}'"
                    );
                    if row == a {
                        continue;
                    }
                    let copied = take("sealed").replace("{from}", &row);
                    add(format!("copied from {tenant}/{class}/{kind}/{id}"), copied.clone());
                    add(
                        format!("swapped with {tenant}/{class}/{kind}/{id}"),
                        format!(
                            "CREATE TEMP TABLE held AS SELECT record FROM sealed WHERE {a}; {copied};
                             UPDATE sealed SET record = (SELECT record FROM held) WHERE {row}"
                        ),
                    );
                    add(
                        format!("swapped with its version, {tenant}/{class}/{kind}/{id}"),
                        format!(
                            "{copied}; UPDATE sealed SET version = (SELECT version FROM sealed WHERE {row}) WHERE {a}"
                        ),
                    );
                }
            }
        }
    }
    // Renamed into another place.
    for (column, value) in
        [("tenant", "third"), ("class", "audit-mac"), ("kind", "other"), ("id", "default/c"), ("id", "")]
    {
        add(
            format!("{column} becomes {value:?}"),
            format!("UPDATE sealed SET {column} = '{value}' WHERE {a}"),
        );
    }
    for version in [0, 1, 3, 4, i64::MAX] {
        add(format!("version becomes {version}"), format!("UPDATE sealed SET version = {version} WHERE {a}"));
    }
    // Truncated and extended.
    for length in [0, 1, 4, 5, 6, 21, 22, 53, 54, 85, 86, 87, 100, 101] {
        add(
            format!("cut to {length}"),
            format!("UPDATE sealed SET record = substr(record, 1, {length}) WHERE {a}"),
        );
    }
    for cut in [1, 2, 15, 16] {
        add(
            format!("{cut} cut off"),
            format!("UPDATE sealed SET record = substr(record, 1, length(record) - {cut}) WHERE {a}"),
        );
    }
    add("extended".into(), format!("UPDATE sealed SET record = CAST(record || x'00' AS BLOB) WHERE {a}"));
    // Flipped in every field.
    for at in [1, 2, 4, 5, 6, 7, 15, 22, 23, 40, 54, 55, 70, 86, 87, 90, 100, 102] {
        let flipped = format!(
            "CAST(substr(record, 1, {at} - 1) ||
                  CASE WHEN substr(record, {at}, 1) = x'5a' THEN x'5b' ELSE x'5a' END ||
                  substr(record, {at} + 1) AS BLOB)"
        );
        add(format!("octet {at} flipped"), format!("UPDATE sealed SET record = {flipped} WHERE {a}"));
    }
    // The id of another key.
    for class in ["tls", "ca", "backend", "audit-mac"] {
        for tenant in TENANTS {
            let key = format!("SELECT id FROM data_keys WHERE class = '{class}' AND tenant = '{tenant}'");
            if (class, tenant) == ("tls", "default")
                || tenant == "other" && matches!(class, "ca" | "audit-mac")
            {
                continue;
            }
            add(
                format!("names the key {tenant}/{class}"),
                format!(
                    "UPDATE sealed SET record = CAST(substr(record, 1, 6) || ({key}) || substr(record, 23) AS BLOB)
                      WHERE {a}"
                ),
            );
        }
    }
    // Old rows replayed, with and without their version.
    for id in ["default/a", "default/b"] {
        for class in ["tls", "backend"] {
            for tenant in TENANTS {
                let row =
                    format!("tenant = '{tenant}' AND class = '{class}' AND kind = 'secret' AND id = '{id}'");
                let put = |columns: &str| {
                    format!(
                        "UPDATE sealed SET ({columns}) = (SELECT {columns} FROM old.sealed WHERE {row}) WHERE {row}"
                    )
                };
                add(format!("replayed {tenant}/{class}/{id}"), put("record, version"));
                add(
                    format!("replayed without its version {tenant}/{class}/{id}"),
                    put("version, record") + "; " + &format!("UPDATE sealed SET version = 2 WHERE {row}"),
                );
            }
        }
    }
    // Rows of another store.
    for id in ["default/a", "default/b"] {
        for kind in ["secret", "credential"] {
            let row = format!("tenant = 'default' AND class = 'tls' AND kind = '{kind}' AND id = '{id}'");
            add(format!("from another store {kind}/{id}"), take("two.sealed").replace("{from}", &row));
        }
    }
    // Gone, twice there.
    add("deleted".into(), format!("DELETE FROM sealed WHERE {a}"));
    add("all deleted".into(), "DELETE FROM sealed WHERE kind = 'secret'".into());
    add(
        "doubled under another id".into(),
        format!(
            "INSERT INTO sealed SELECT tenant, class, kind, 'default/z', version, record FROM sealed WHERE {a}"
        ),
    );
    add(
        "doubled for another tenant".into(),
        format!("INSERT INTO sealed SELECT 'third', class, kind, id, version, record FROM sealed WHERE {a}"),
    );
    all
}

async fn run(connection: &mut SqliteConnection, sql: &str) {
    sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(connection).await.unwrap();
}

/// 120 cases and a few more: each is found by the comparison, stops signing, and leaves serving alone.
#[tokio::test]
async fn swapped_truncated_replayed_and_renamed_rows_are_all_found() {
    let case = Case::new().await;
    let cases = cases();
    assert!(cases.len() >= 120, "{} cases", cases.len());
    for (name, sql) in &cases {
        let place = case.copy();
        let mut connection = meddle(&place).await;
        let attach = format!(
            "ATTACH '{}' AS old; ATTACH '{}' AS two;",
            case.old.display(),
            case.other.database().display()
        );
        run(&mut connection, &(attach + sql)).await;
        connection.close().await.unwrap();
        let (store, writer) = open(place.open_options()).await.unwrap();
        let world = World::run(place, (store, writer));
        let found = world.store.check_rollback().await.unwrap();
        assert!(!found.is_empty(), "{name}: not found");
        assert!(found.iter().all(|one| matches!(one, Finding::Row { .. })), "{name}: {found:?}");
        let (record, key) = authority(CaPlace::Issuing);
        let refused = world.store.insert(vec![(record, key)], vec![]).await.unwrap_err();
        assert!(refused.to_string().contains("STORE_ROLLBACK"), "{name}: {refused}");
        assert!(world.store.load().await.is_ok(), "{name}: reading goes on");
    }
    println!("S1: {} cases, all found", cases.len());
}

/// What the database's own log of events cannot know: the whole of it is older, and valid in itself.
#[tokio::test]
async fn older_copy_of_the_whole_store_is_found_by_its_anchor_only() {
    let world = World::new().await;
    fill(&world).await;
    let older = crash(&world).await;
    let anchor = world.place.folder.path().join("anchor");
    world.store.plant(&TENANTS, "newer").await;
    let place = world.close().await;
    let with_anchor = |place: &Place| OpenOptions { anchor: Some(anchor.clone()), ..place.open_options() };

    // The anchor follows the store.
    let (store, writer) = open(with_anchor(&place)).await.unwrap();
    assert!(store.findings().borrow().is_empty());
    let world = World::run(place, (store.clone(), writer));
    let shutdown = CancellationToken::new();
    shutdown.cancel();
    store.clone().keep_anchor(shutdown).await;
    assert!(store.anchor().unwrap().problem.is_none());
    drop(store);
    let _anchored = world.close().await;

    // Without it nobody notices; with it everybody does.
    let (store, writer) = open(older.open_options()).await.unwrap();
    assert_eq!(store.anchor(), None);
    let world = World::run(older, (store, writer));
    assert!(world.store.check_rollback().await.unwrap().is_empty());
    let older = world.close().await;
    let (store, writer) = open(with_anchor(&older)).await.unwrap();
    let found = store.findings().borrow().clone();
    assert!(matches!(found[..], [Finding::BehindAnchor { .. }]), "{found:?}");
    let world = World::run(older, (store, writer));
    world.store.note_findings().await.unwrap();
    let filter = AuditFilter { action: Some(Action::StoreRollback), ..Default::default() };
    assert_eq!(world.store.list(&filter).await.unwrap().len(), 1);
    // The row that says so has made the log longer: it is the same matter.
    assert_eq!(world.store.check_rollback().await.unwrap().len(), 1);
    assert_eq!(world.store.list(&filter).await.unwrap().len(), 1);

    // The anchor is not written over by what it accuses; an operator's word is needed.
    let before = fs::read(&anchor).unwrap();
    let shutdown = CancellationToken::new();
    shutdown.cancel();
    world.store.clone().keep_anchor(shutdown).await;
    assert_eq!(fs::read(&anchor).unwrap(), before);
    world.store.accept(event(Action::StoreAccept, "store")).await.unwrap();
    assert!(world.store.check_rollback().await.unwrap().is_empty());
    let (record, key) = authority(CaPlace::Issuing);
    world.store.insert(vec![(record, key)], vec![]).await.unwrap();
    let place = world.close().await;
    let (store, _) = open(with_anchor(&place)).await.unwrap();
    assert!(store.findings().borrow().is_empty(), "accepted once is accepted");
}

#[tokio::test]
async fn broken_chain_and_cut_log_are_found_and_accepted_by_name() {
    let world = World::new().await;
    let ids = fill(&world).await;
    let mut connection = meddle(&world.place).await;
    run(&mut connection, "UPDATE audit SET object = 'x' WHERE sequence = 3; DELETE FROM audit WHERE sequence = (SELECT max(sequence) FROM audit)").await;
    connection.close().await.unwrap();
    let found = world.store.check_rollback().await.unwrap();
    assert!(found.contains(&Finding::AuditBroken { sequence: 3 }), "{found:?}");
    assert!(found.iter().any(|one| matches!(one, Finding::AuditEnd { .. })), "{found:?}");
    assert!(!world.store.integrity().await.unwrap().is_sound());
    world.store.accept(event(Action::StoreAccept, "store")).await.unwrap();
    assert_eq!(world.store.check_rollback().await.unwrap().to_vec(), []);
    let place = world.close().await;
    let world = World::open(place).await;
    assert_eq!(world.store.check_rollback().await.unwrap().to_vec(), []);
    assert_eq!(world.store.integrity().await.unwrap().problems(), Vec::<String>::new());
    world.store.load_key(ids[0]).await.unwrap();
}

#[tokio::test]
async fn however_many_rows_do_not_hold_are_accepted_at_once() {
    let world = World::new().await;
    let rows = (0..600).map(|number| event(Action::SecretSet, &number.to_string())).collect();
    world.store.append(rows).await.unwrap();
    let mut connection = meddle(&world.place).await;
    run(&mut connection, "UPDATE audit SET object = 'x' WHERE action = 'secret-set' AND sequence % 2 = 0")
        .await;
    connection.close().await.unwrap();
    let found = world.store.check_rollback().await.unwrap();
    assert!(found.iter().any(|one| matches!(one, Finding::AuditBroken { .. })), "{found:?}");
    world.store.accept(event(Action::StoreAccept, "store")).await.unwrap();
    assert_eq!(world.store.check_rollback().await.unwrap().to_vec(), []);
    let world = World::open(world.close().await).await;
    assert_eq!(world.store.check_rollback().await.unwrap().to_vec(), []);
}

/// Whoever can edit one row can edit two; what the second says of the first counts for nothing.
#[tokio::test]
async fn acceptance_that_was_written_over_another_row_accepts_nothing() {
    let world = World::new().await;
    fill(&world).await;
    let place = world.close().await;
    let check = async |edited: u64, (over, says): (u64, &str), is_chained: bool, expected: u64| {
        let copy = copy_of_place(&place);
        let mut connection = meddle(&copy).await;
        let edit = format!("UPDATE audit SET event = replace(event, '1', '2') WHERE sequence = {edited}");
        run(&mut connection, &edit).await;
        let forged = event(Action::StoreAccept, "store").with("broken_rows", says);
        let stands = async |connection: &mut SqliteConnection, sequence: u64| -> [u8; 32] {
            let hash = sqlx::query_scalar("SELECT hash FROM audit WHERE sequence = ?");
            let hash: Vec<u8> =
                hash.bind(i64::try_from(sequence).unwrap()).fetch_one(connection).await.unwrap();
            hash.try_into().unwrap()
        };
        let before = stands(&mut connection, over - 1).await;
        let mut row = audit::Head { sequence: over - 1, hash: before }.next(forged);
        if !is_chained {
            row.hash = stands(&mut connection, over).await;
        }
        run(&mut connection, &format!("DELETE FROM audit WHERE sequence = {over}")).await;
        audit_log::insert(&mut connection, &[row]).await.unwrap();
        connection.close().await.unwrap();
        let world = World::open(copy).await;
        let found = world.store.check_rollback().await.unwrap();
        assert!(found.contains(&Finding::AuditBroken { sequence: expected }), "{over} {says}: {found:?}");
        assert!(!world.store.integrity().await.unwrap().is_sound());
    };
    // All hashes as they were: the end of the log is the one that an anchor holds.
    check(9, (5, "5 9"), false, 5).await;
    check(5, (9, "5 9"), false, 5).await;
    // With a hash of its own it is the next row that does not follow, and it cannot speak for that.
    check(9, (5, "5 6 9"), true, 6).await;
    check(5, (9, "5 9 10"), true, 10).await;
}

/// Who had the old key would wait under it for what is sealed next.
#[tokio::test]
async fn root_key_and_slots_that_are_put_back_are_found_and_accepted_by_name() {
    let world = World::new().await;
    fill(&world).await;
    let other = || KekSource::File(world.place.folder.path().join("other.kek"));
    let both = || [KekSource::File(world.place.kek()).into(), other().into()];
    let done = |action| event(action, "x");
    world.store.add_slot("other", other(), done(Action::KekSlotAdd)).await.unwrap();
    let with_slot = copy_of(&world).await;
    let refused = OnlyTransit::Refused;
    world.store.remove_slot("other", &both(), refused, done(Action::KekSlotRemove)).await.unwrap();
    let put_back = async |columns: &str, tables: &[&str], old: &Path| {
        let mut connection = meddle(&world.place).await;
        let mut sql = format!("ATTACH '{}' AS old; {columns}", old.display());
        for table in tables {
            sql += &format!("DELETE FROM {table}; INSERT INTO {table} SELECT * FROM old.{table};");
        }
        run(&mut connection, &sql).await;
        connection.close().await.unwrap();
    };
    let accept = async || world.store.accept(event(Action::StoreAccept, "store")).await.unwrap();
    assert_eq!(world.store.check_rollback().await.unwrap().to_vec(), []);
    put_back("", &["key_slots"], &with_slot).await;
    let back = Finding::Slot { name: "other".into() };
    assert_eq!(world.store.check_rollback().await.unwrap().to_vec(), [back]);
    accept().await;
    assert_eq!(world.store.check_rollback().await.unwrap().to_vec(), []);
    fs::remove_file(&with_slot).unwrap();

    let old = copy_of(&world).await;
    world.store.rotate_root(&both(), &[], refused, done(Action::RootKeyRotate)).await.unwrap();
    assert_eq!(world.store.check_rollback().await.unwrap().to_vec(), []);
    let root = "UPDATE store SET root_key = (SELECT root_key FROM old.store);";
    put_back(root, &["key_slots", "data_keys"], &old).await;
    let found = world.store.check_rollback().await.unwrap();
    assert!(matches!(found[..], [Finding::RootKey { .. }]), "{found:?}");
    let refused = world.store.accept(event(Action::StoreAccept, "store")).await.unwrap_err();
    assert!(refused.to_string().contains("restart the server"), "{refused}");
    // Found at the next start as well, and there it can be taken as it is.
    let world = World::open(world.close().await).await;
    let found = world.store.findings().borrow().clone();
    assert!(matches!(found[..], [Finding::RootKey { .. }]), "{found:?}");
    world.store.accept(event(Action::StoreAccept, "store")).await.unwrap();
    let world = World::open(world.close().await).await;
    assert_eq!(world.store.check_rollback().await.unwrap().to_vec(), []);
}

/// Whoever else writes to the log is in the way of the next row of ours: that is found at once, and not at the next
/// look.
#[tokio::test]
async fn a_row_that_somebody_else_has_put_at_the_end_of_the_log_is_found_by_the_next_write() {
    let world = World::new().await;
    fill(&world).await;
    let mut connection = meddle(&world.place).await;
    let planted = "INSERT INTO audit SELECT sequence + 1, at, tenant, actor, action, object, event, hash
                     FROM audit ORDER BY sequence DESC LIMIT 1";
    run(&mut connection, planted).await;
    connection.close().await.unwrap();
    let append = || world.store.append(vec![event(Action::StreamRefuse, "x")]);
    append().await.unwrap_err();
    let found = world.store.findings().borrow().clone();
    assert!(matches!(found[..], [Finding::AuditEnd { found, known }] if found == known + 1), "{found:?}");
    append().await.unwrap_err();
    assert_eq!(world.store.findings().borrow().len(), 1, "it is one finding");
    world.store.accept(event(Action::StoreAccept, "store")).await.unwrap();
    append().await.unwrap();
    // What does not read hides nothing else.
    let rows = world.store.list(&AuditFilter::default()).await.unwrap();
    assert_eq!(rows[0].event.action, Action::StreamRefuse);
    assert_eq!(world.store.check_rollback().await.unwrap().to_vec(), []);
}

/// Writer, readers and the hourly comparison all find things, each by itself.
#[tokio::test]
async fn what_several_find_at_once_is_kept_and_new_once_up_to_a_bound() {
    let world = World::new().await;
    let of = |sequences: std::ops::Range<u64>| {
        sequences.map(|sequence| Finding::AuditBroken { sequence }).collect::<Vec<_>>()
    };
    let live = world.store.live();
    let new: usize = std::thread::scope(|scope| {
        let find =
            |from: u64| move || (from..from + 40).map(|at| live.add(of(at..at + 2)).len()).sum::<usize>();
        let threads: Vec<_> = [0, 20, 20, 40].map(|from| scope.spawn(find(from))).into_iter().collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    let found = |expected: Vec<Finding>| {
        let found = world.store.findings().borrow().clone();
        assert_eq!(found.len(), expected.len());
        assert!(expected.iter().all(|one| found.contains(one)), "{found:?}");
    };
    assert_eq!(new, 81);
    found(of(0..81));
    assert_eq!(live.add(of(0..200)), of(81..100));
    found(of(0..100));
    assert_eq!(live.add(of(200..201)), []);
}

#[tokio::test]
async fn what_is_found_while_an_operator_accepts_is_not_accepted_unseen() {
    let place = Place::made().await;
    let (store, writer) = open(place.open_options()).await.unwrap();
    let [seen, unseen] = [1, 2].map(|sequence| Finding::AuditBroken { sequence });
    store.live().add(vec![seen]);
    let accepts = store.clone();
    let mut accepting = tokio::task::JoinSet::new();
    accepting.spawn(async move { accepts.accept(event(Action::StoreAccept, "store")).await });
    tokio::task::yield_now().await;
    store.live().add(vec![unseen.clone()]);
    // Nobody has written so far.
    let world = World::run(place, (store, writer));
    accepting.join_next().await.unwrap().unwrap().unwrap();
    assert_eq!(world.store.findings().borrow()[..], [unseen]);
}

/// A comparison shares its transaction with whatever was waiting before it, and that is no rollback.
#[tokio::test]
async fn what_others_write_in_the_same_group_is_no_finding() {
    let world = World::new().await;
    fill(&world).await;
    for _ in 0..3 {
        let (_, found) =
            tokio::join!(world.store.plant(&TENANTS, "second value"), world.store.check_rollback());
        assert_eq!(found.unwrap().to_vec(), []);
    }
    assert_eq!(world.store.check_rollback().await.unwrap().to_vec(), []);
}

fn intent(number: u8, authority: AuthorityId, profile: Profile) -> Intent {
    Intent {
        serial: Serial::from_random([number; 20]),
        authority,
        epoch: 1,
        tbs_sha256: [number; 32],
        id: SpiffeId::parse("spiffe://td/x").unwrap(),
        profile,
        tenant: spiffe::Tenant::default(),
        node: None,
        purpose: Purpose::Delivery,
        spki: SpkiHash([number; 32]),
        not_before: now(),
        not_after: now(),
        at: now(),
        request_id: RequestId::from_random([number; 8]),
    }
}

/// What was in flight when its authority's key was said to be stolen never gets out.
#[tokio::test]
async fn a_stolen_authority_begins_and_ends_no_certificate() {
    let world = World::new().await;
    let (record, key) = authority(CaPlace::Issuing);
    let id = record.id;
    world.store.insert(vec![(record, key)], vec![event(Action::AuthorityPrepare, "one")]).await.unwrap();
    let begun = async |number: u8| {
        let intent = intent(number, id, Profile::Workload);
        world.store.record_intent(intent, None, event(Action::CertificateIntent, "x")).await
    };
    let ended = async |number: u8, outcome: IssueOutcome| {
        let serial = Serial::from_random([number; 20]);
        let result = ResultRecord { serial, authority: id, outcome, at: now() };
        world.store.record_result(result, event(Action::CertificateIssue, "x")).await
    };
    for number in 1..=3 {
        begun(number).await.unwrap();
    }
    ended(1, IssueOutcome::Issued(vec![vec![1]])).await.unwrap();
    world
        .store
        .taint(vec![id], Taint::Stolen, now(), vec![event(Action::AuthorityTaint, "x")])
        .await
        .unwrap();
    let refused = ended(2, IssueOutcome::Issued(vec![vec![1]])).await.unwrap_err();
    assert!(refused.to_string().contains("is believed to be stolen"), "{refused}");
    ended(3, IssueOutcome::Failed("it was stolen".to_owned())).await.unwrap();
    assert_eq!(begun(4).await.unwrap_err().to_string(), refused.to_string());
    let issued = world.store.issued(&[id], now()).await.unwrap();
    assert_eq!(issued.len(), 1, "what the journal had before is ours");
}

/// Signing stops for everybody but ourselves: without a certificate of our own no operator could reach us to look.
#[tokio::test]
async fn only_our_own_certificate_is_signed_while_something_is_found() {
    let intent = |number: u8, profile: Profile| intent(number, AuthorityId::of(SpkiHash([1; 32])), profile);
    let world = World::new().await;
    fill(&world).await;
    let mut connection = meddle(&world.place).await;
    run(&mut connection, "DELETE FROM sealed WHERE kind = 'secret'").await;
    connection.close().await.unwrap();
    assert!(!world.store.check_rollback().await.unwrap().is_empty());
    for (number, profile) in
        [Profile::Node, Profile::Workload, Profile::Operator, Profile::Server].into_iter().enumerate()
    {
        let one = intent(u8::try_from(number).unwrap() + 1, profile);
        let kept = world.store.record_intent(one, None, event(Action::CertificateIntent, "x")).await;
        assert_eq!(kept.is_ok(), profile == Profile::Server, "{profile:?}: {kept:?}");
    }
}

/// A record that is put back while the server runs is not used even before the next comparison.
#[tokio::test]
async fn replayed_key_is_not_opened() {
    let world = World::new().await;
    let ids = fill(&world).await;
    let path = copy_of(&world).await;
    world.store.prepare_data_keys(Some(Class::Ca), event(Action::DataKeyPrepare, "ca")).await.unwrap();
    assert_eq!(world.store.advance().await.unwrap(), Progress::Activated);
    assert_eq!(world.store.advance().await.unwrap(), Progress::Sealed(3));
    // The old data key is still there, so the old record would open.
    let mut connection = meddle(&world.place).await;
    run(
        &mut connection,
        &format!(
            "ATTACH '{}' AS old; UPDATE sealed SET (version, record) = (SELECT version, record FROM old.sealed o
              WHERE o.id = sealed.id) WHERE id = '{}'",
            path.display(),
            ids[0]
        ),
    )
    .await;
    connection.close().await.unwrap();
    let error = world.store.load_key(ids[0]).await.unwrap_err();
    assert!(error.to_string().contains("is back at version 1, the audit log knows 2"), "{error}");
    assert_eq!(world.store.findings().borrow().len(), 1, "raised at once");
    world.store.load_key(ids[1]).await.unwrap();
}

/// A store from before the audit log knew of sealed records: its records get their rows with the migration.
#[tokio::test]
async fn records_of_an_older_schema_are_adopted_once() {
    let world = World::new().await;
    let ids = fill(&world).await;
    let place = world.close().await;
    let mut connection = meddle(&place).await;
    // Back to the first schema, as far as sealing goes.
    run(
        &mut connection,
        "DELETE FROM audit; DROP INDEX sealed_by_key; ALTER TABLE key_slots DROP COLUMN key_id;
         ALTER TABLE data_keys DROP COLUMN state; UPDATE sealed SET version = version",
    )
    .await;
    connection.close().await.unwrap();
    let steps = [schema::SCHEMA.0[0], schema::SEALING];
    let mut connection = meddle(&place).await;
    run(&mut connection, "PRAGMA user_version = 1").await;
    connection.close().await.unwrap();
    let opened = open_as(place.open_options(), Schema(Vec::leak(steps.to_vec()))).await.unwrap();
    let world = World::run(place, opened);
    assert_eq!(world.store.check_rollback().await.unwrap().to_vec(), []);
    for id in ids {
        world.store.load_key(id).await.unwrap();
    }
}
