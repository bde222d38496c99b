//! Keys follow one another, and whoever pulls the plug in between finds every record readable.

use std::time::Duration;

use audit::{AuditFilter, AuditLog};
use ca::ports::{Authorities, Place as CaPlace};
use spiffe::AuthorityId;
use sqlx::Connection;
use sqlx::Executor as _;
use tokio::time::Instant;

use super::{
    promises::{files, meddle},
    tamper::authority,
    *,
};

pub(crate) const REFUSED: OnlyTransit = OnlyTransit::Refused;

fn named(name: &str, path: PathBuf) -> SlotSource {
    SlotSource { name: Some(name.into()), source: KekSource::File(path) }
}

fn slot_event() -> Event {
    event(Action::KekSlotAdd, "slot")
}

impl World {
    fn kek_named(&self, name: &str) -> PathBuf {
        self.place.folder.path().join(format!("{name}.kek"))
    }

    fn primary(&self) -> SlotSource {
        KekSource::File(self.place.kek()).into()
    }

    async fn add(&self, name: &str) -> SlotSource {
        let path = self.kek_named(name);
        self.store.add_slot(name, KekSource::File(path.clone()), slot_event()).await.unwrap();
        named(name, path)
    }

    /// Authorities with keys.
    async fn keys(&self, count: usize) -> Vec<AuthorityId> {
        let all: Vec<_> = (0..count)
            .map(|_| {
                let (mut record, key) = authority(CaPlace::Root);
                record.state = ca::ports::AuthorityState::Prepared;
                (record, key)
            })
            .collect();
        let ids = all.iter().map(|(record, _)| record.id).collect();
        self.store.insert(all, vec![event(Action::AuthorityPrepare, "many")]).await.unwrap();
        ids
    }

    /// Every key opens, nothing is wrong.
    async fn all_readable(&self, ids: &[AuthorityId]) {
        for id in ids {
            self.store.load_key(*id).await.unwrap();
        }
        let found = self.store.check_rollback().await.unwrap();
        assert!(found.is_empty(), "{found:?}");
        assert_eq!(self.store.integrity().await.unwrap().problems(), Vec::<String>::new());
    }

    async fn finish_rotation(&self) -> Vec<Progress> {
        let mut steps = Vec::new();
        loop {
            match self.store.advance().await.unwrap() {
                Progress::Done => return steps,
                step => steps.push(step),
            }
        }
    }
}

#[tokio::test]
async fn any_one_slot_opens_the_store_and_the_last_one_stays() {
    let world = World::new().await;
    let recovery = world.add("recovery").await;
    let both = [world.primary(), named("recovery", world.kek_named("recovery"))];
    let status = world.store.sealing(&both).await.unwrap();
    let healths: Vec<_> = status.slots.iter().map(|slot| (slot.name.as_str(), &slot.health)).collect();
    assert_eq!(healths, [("primary", &SlotHealth::Opens), ("recovery", &SlotHealth::Opens)]);
    let error = world.store.add_slot("recovery", passphrase("p"), slot_event()).await.unwrap_err();
    assert_eq!(error.to_string(), "key slot recovery exists already");

    // Only with another slot at hand is one removed.
    let alone = [world.primary()];
    let error = world.store.remove_slot("primary", &alone, REFUSED, slot_event()).await.unwrap_err();
    assert!(error.to_string().contains("recovery is offline"), "{error}");
    world.store.remove_slot("primary", &both, REFUSED, slot_event()).await.unwrap();
    let error = world.store.remove_slot("recovery", &both, REFUSED, slot_event()).await.unwrap_err();
    assert!(matches!(error, RotationError::LastSlot(_)), "{error}");

    let place = world.close().await;
    let before = place.bytes();
    let error = open(place.open_options()).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("key file {} is not the key of slot recovery (key-file)", place.kek().display())
    );
    assert!(place.bytes() == before, "the removed key writes nothing");
    // One source that fails beside one that opens is not the end.
    let missing = named("primary", place.folder.path().join("nowhere"));
    let options = OpenOptions { keys: vec![missing, recovery], ..place.open_options() };
    let world = World::run(place, open(options).await.unwrap());
    world.all_readable(&[]).await;
}

#[tokio::test]
async fn root_key_is_replaced_for_every_slot_at_hand_or_not_at_all() {
    let world = World::new().await;
    let ids = world.keys(3).await;
    world.add("recovery").await;
    let both = || vec![world.primary(), named("recovery", world.kek_named("recovery"))];
    let (before, files) = (world.store.sealing(&both()).await.unwrap(), world.place.bytes());
    let rotate = event(Action::RootKeyRotate, "root");
    let error = world.store.rotate_root(&[world.primary()], &[], REFUSED, rotate.clone()).await.unwrap_err();
    assert_eq!(error.to_string(), "key slot recovery is not at hand and would no longer open");
    assert!(world.place.bytes() == files);

    world.store.rotate_root(&both(), &[], REFUSED, rotate.clone()).await.unwrap();
    let after = world.store.sealing(&both()).await.unwrap();
    assert_ne!(after.root, before.root);
    assert!(after.slots.iter().all(|slot| slot.health == SlotHealth::Opens), "{after:?}");
    world.all_readable(&ids).await;

    world.store.rotate_root(&[world.primary()], &["recovery".into()], REFUSED, rotate).await.unwrap();
    let place = world.close().await;
    let recovery = named("recovery", place.folder.path().join("recovery.kek"));
    let error = open(OpenOptions { keys: vec![recovery], ..place.open_options() }).await.unwrap_err();
    assert_eq!(error.to_string(), "store has no slot recovery, it has slot primary (key-file)");
    World::open(place).await.all_readable(&ids).await;
}

#[tokio::test]
async fn root_key_that_was_wrapped_beside_a_change_of_slots_is_not_kept() {
    let world = World::new().await;
    let ids = world.keys(1).await;
    world.add("old").await;
    let old = [world.primary(), named("old", world.kek_named("old"))];
    let rotate = event(Action::RootKeyRotate, "root");
    let wrapped = world.store.wrapped_for_slots(&old, &[], REFUSED, rotate.clone()).await.unwrap();
    // As many slots as before, and one of them is another.
    world.add("new").await;
    world.store.remove_slot("old", &old, REFUSED, slot_event()).await.unwrap();
    let error = world.store.write(wrapped).await.unwrap_err();
    assert!(error.to_string().contains("slots were added or removed meanwhile"), "{error}");

    // Asked for at the same time they come one after the other, and each slot holds the root key that there is then.
    let sources = ["new", "next"].map(|name| named(name, world.kek_named(name)));
    let sources: Vec<_> = sources.into_iter().chain([world.primary()]).collect();
    let slots = async {
        world.add("next").await;
        world.store.remove_slot("new", &sources, REFUSED, slot_event()).await.unwrap();
    };
    let (rotated, ()) = tokio::join!(world.store.rotate_root(&sources, &[], REFUSED, rotate), slots);
    rotated.unwrap();
    let status = world.store.slot_status(&sources).await.unwrap();
    let healths: Vec<_> = status.iter().map(|slot| (slot.name.as_str(), &slot.health)).collect();
    assert_eq!(healths, [("next", &SlotHealth::Opens), ("primary", &SlotHealth::Opens)]);
    let place = world.close().await;
    let next = vec![named("next", place.folder.path().join("next.kek"))];
    let opened = open(OpenOptions { keys: next, ..place.open_options() }).await.unwrap();
    World::run(place, opened).all_readable(&ids).await;
}

#[tokio::test]
async fn slot_that_holds_another_root_key_does_not_count_as_one_that_opens() {
    let world = World::new().await;
    let ids = world.keys(1).await;
    world.add("other").await;
    let both = || vec![world.primary(), named("other", world.kek_named("other"))];
    let mut connection = meddle(&world.place).await;
    let held = sqlx::query_scalar("SELECT wrapped FROM key_slots WHERE name = 'other'");
    let before: Vec<u8> = held.fetch_one(&mut connection).await.unwrap();
    let rotate = || event(Action::RootKeyRotate, "root");
    world.store.rotate_root(&both(), &[], REFUSED, rotate()).await.unwrap();
    let put_back = "UPDATE key_slots SET wrapped = ? WHERE name = 'other'";
    sqlx::query(put_back).bind(before).execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();

    let status = world.store.slot_status(&both()).await.unwrap();
    let other = status.iter().find(|slot| slot.name == "other").unwrap();
    let SlotHealth::Fails(why) = &other.health else { panic!("{other:?}") };
    assert!(why.contains("another root key than the store's"), "{why}");
    let error = world.store.remove_slot("primary", &both(), REFUSED, slot_event()).await.unwrap_err();
    assert!(error.to_string().contains("other fails: it holds another root key"), "{error}");
    let error = world.store.rotate_root(&both(), &[], REFUSED, rotate()).await.unwrap_err();
    assert!(error.to_string().contains("other"), "{error}");

    // Another one in its place holds the right one.
    world.add("mended").await;
    world.store.remove_slot("other", &both(), REFUSED, slot_event()).await.unwrap();
    let both = [world.primary(), named("mended", world.kek_named("mended"))];
    world.store.remove_slot("primary", &both, REFUSED, slot_event()).await.unwrap();
    let place = world.close().await;
    let mended = vec![named("mended", place.folder.path().join("mended.kek"))];
    let opened = open(OpenOptions { keys: mended, ..place.open_options() }).await.unwrap();
    World::run(place, opened).all_readable(&ids).await;
}

#[tokio::test]
async fn data_key_is_followed_and_destroyed_and_nothing_of_it_stays() {
    let world = World::new().await;
    let ids = world.keys(450).await;
    let old: Vec<Vec<u8>> = {
        let mut connection = meddle(&world.place).await;
        let wrapped = sqlx::query_scalar("SELECT wrapped FROM data_keys WHERE class = 'ca'");
        let old = wrapped.fetch_all(&mut connection).await.unwrap();
        connection.close().await.unwrap();
        old
    };
    let rotate = || event(Action::DataKeyPrepare, "ca");
    let made = world.store.prepare_data_keys(Some(Class::Ca), rotate()).await.unwrap();
    assert_eq!(made, [Class::Ca]);
    assert_eq!(world.store.prepare_data_keys(Some(Class::Ca), rotate()).await.unwrap(), [], "one at a time");
    assert_eq!(world.store.advance().await.unwrap(), Progress::Activated);
    assert_eq!(world.store.rows_on_old_key().await.unwrap(), 450);
    // Writes and reads go on in between, with the new key and the old one.
    let more = world.keys(1).await;
    world.store.load_key(more[0]).await.unwrap();
    world.store.load_key(ids[0]).await.unwrap();
    assert_eq!(world.store.advance().await.unwrap(), Progress::Sealed(BATCH));
    assert_eq!(world.store.rows_on_old_key().await.unwrap(), 250);
    assert_eq!(
        world.finish_rotation().await,
        [Progress::Sealed(200), Progress::Sealed(50), Progress::Destroyed]
    );
    assert_eq!(world.store.rows_on_old_key().await.unwrap(), 0);
    world.all_readable(&ids).await;
    for bytes in world.place.bytes().values() {
        let lingers = old.iter().any(|key| bytes.windows(48).any(|window| window == &key[54..102]));
        assert!(!lingers, "neither in the database nor in its log");
    }
    let filter = AuditFilter { action: Some(Action::DataKeyDestroy), ..Default::default() };
    assert_eq!(world.store.list(&filter).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_log_that_readers_hold_up_is_emptied_when_they_have_gone() {
    let place = Place::made().await;
    let log = place.data().join("credence.db-wal");
    let (_store, mut writer) = open(place.open_options()).await.unwrap();
    let mut reader = meddle(&place).await;
    reader.execute("BEGIN; SELECT count(*) FROM audit").await.unwrap();
    let version: i64 =
        sqlx::query_scalar("PRAGMA user_version").fetch_one(&mut writer.connection).await.unwrap();
    let same = sqlx::AssertSqlSafe(format!("PRAGMA user_version = {version}"));
    writer.connection.execute(same).await.unwrap();
    let before = Instant::now();
    writer.empty_log().await;
    assert!(writer.empty_log_at.is_some() && fs::metadata(&log).unwrap().len() > 0);
    assert!(before.elapsed() < Duration::from_secs(4), "who writes waits for no reader");
    let patience = pragma(&mut writer.connection, "PRAGMA busy_timeout").await.unwrap();
    assert_eq!(patience, 5000, "and for another writer as long as before");
    reader.close().await.unwrap();
    writer.empty_log().await;
    assert!(writer.empty_log_at.is_none() && fs::metadata(&log).unwrap().len() == 0);
}

#[tokio::test]
async fn what_a_crash_left_of_a_destroyed_key_is_gone_once_the_store_is_open() {
    let world = World::new().await;
    let mut reader = meddle(&world.place).await;
    let wrapped = sqlx::query_scalar("SELECT wrapped FROM data_keys WHERE class = 'ca'");
    let old: Vec<u8> = wrapped.fetch_one(&mut reader).await.unwrap();
    let rotate = event(Action::DataKeyPrepare, "ca");
    world.store.prepare_data_keys(Some(Class::Ca), rotate).await.unwrap();
    assert_eq!(world.store.advance().await.unwrap(), Progress::Activated);
    reader.execute("BEGIN; SELECT count(*) FROM audit").await.unwrap();
    assert_eq!(world.store.advance().await.unwrap(), Progress::Destroyed);
    let lingers = |place: &Place| {
        place.bytes().values().any(|bytes| bytes.windows(48).any(|window| window == &old[54..102]))
    };
    let crashed = files(&world);
    assert!(lingers(&crashed), "the reader holds it");
    let world = World::open(crashed).await;
    assert!(!lingers(&world.place));
}

#[tokio::test]
async fn record_that_does_not_open_keeps_its_key_and_holds_up_no_other() {
    let world = World::new().await;
    let ids = world.keys(5).await;
    let mut connection = meddle(&world.place).await;
    sqlx::query("UPDATE sealed SET record = CAST(substr(record, 1, 90) || x'0000' || substr(record, 93) AS BLOB) WHERE id = ?")
        .bind(ids[2].to_string())
        .execute(&mut connection)
        .await
        .unwrap();
    connection.close().await.unwrap();
    world.store.prepare_data_keys(Some(Class::Ca), event(Action::DataKeyPrepare, "ca")).await.unwrap();
    assert_eq!(world.store.advance().await.unwrap(), Progress::Activated);
    assert_eq!(world.store.advance().await.unwrap(), Progress::Sealed(4));
    let error = world.store.advance().await.unwrap_err();
    assert!(error.to_string().contains(&ids[2].to_string()), "{error}");
    assert_eq!(world.store.rows_on_old_key().await.unwrap(), 1);
    world.store.load_key(ids[4]).await.unwrap();
}

#[tokio::test]
async fn however_many_records_do_not_open_hold_up_no_other() {
    let world = World::new().await;
    let ids = world.keys(2).await;
    let mut connection = meddle(&world.place).await;
    sqlx::query(
        "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?)
         INSERT INTO sealed SELECT tenant, class, kind, printf('!%04d', i), version, record FROM sealed, n WHERE id = ?",
    )
    .bind(i64::try_from(2 * BATCH + 1).unwrap())
    .bind(ids[0].to_string())
    .execute(&mut connection)
    .await
    .unwrap();
    connection.close().await.unwrap();
    world.store.prepare_data_keys(Some(Class::Ca), event(Action::DataKeyPrepare, "ca")).await.unwrap();
    assert_eq!(world.store.advance().await.unwrap(), Progress::Activated);
    assert_eq!(world.store.advance().await.unwrap(), Progress::Sealed(2));
    let error = world.store.advance().await.unwrap_err();
    assert!(error.to_string().contains("!0001"), "{error}");
    for id in ids {
        world.store.load_key(id).await.unwrap();
    }
}

/// The steps between which a plug may be pulled: what the operator does, then what the server does by itself.
async fn step(world: &World, number: usize) {
    let both = [world.primary(), named("next", world.kek_named("next"))];
    match number {
        1 => drop(world.add("next").await),
        2 => {
            world.store.rotate_root(&both, &[], REFUSED, event(Action::RootKeyRotate, "root")).await.unwrap()
        }
        3 => world
            .store
            .remove_slot("primary", &both, REFUSED, event(Action::KekSlotRemove, "primary"))
            .await
            .unwrap(),
        4 => {
            let event = event(Action::DataKeyPrepare, "all");
            assert_eq!(world.store.prepare_data_keys(None, event).await.unwrap().len(), Class::ALL.len());
        }
        5.. => {
            world.store.advance().await.unwrap();
        }
        _ => {}
    }
}

const STEPS: usize = 12;

/// Row S2 of the reliability programme: a crash before and after each step of a rotation of everything. What the
/// crash left opens, goes on by itself and ends with every record readable and none under an old key.
#[tokio::test]
async fn rotation_goes_on_after_a_crash_at_any_step() {
    let rounds = if full() { 20 } else { 2 };
    let mut crashes = 0;
    for round in 0..rounds {
        let world = World::new().await;
        let ids = world.keys(3 + 41 * (round % 3)).await;
        for number in 1..=STEPS {
            step(&world, number).await;
            let left = files(&world);
            let next = world.kek_named("next");
            fs::copy(&next, left.folder.path().join("next.kek")).unwrap();
            let keys = vec![named("primary", left.kek()), named("next", left.folder.path().join("next.kek"))];
            let opened = open(OpenOptions { keys, ..left.open_options() }).await.unwrap();
            let again = World::run(left, opened);
            again.finish_rotation().await;
            assert_eq!(again.store.rows_on_old_key().await.unwrap(), 0, "round {round}, step {number}");
            again.all_readable(&ids).await;
            again.close().await;
            crashes += 1;
        }
        world.finish_rotation().await;
        world.all_readable(&ids).await;
    }
    println!("S2: {crashes} crashes of {} ({STEPS} steps x 20), all resumed", STEPS * 20);
}

/// `tests/run --full` runs every count of the reliability programme, `tests/run` a tenth.
#[expect(clippy::disallowed_methods, reason = "the test command tells by this variable how much to run")]
pub(crate) fn full() -> bool {
    std::env::var("CREDENCE_FULL").is_ok_and(|value| value == "1")
}

/// On a token of SoftHSM2, in a process of its own: the module reads its configuration from the environment.
#[test]
fn token_keeps_its_key_and_opens_its_slot() {
    let module = ["/usr/lib/softhsm/libsofthsm2.so", "/usr/lib64/pkcs11/libsofthsm2.so"]
        .into_iter()
        .find(|path| Path::new(path).exists());
    let Some(module) = module else {
        assert!(!required(), "NOT RUN: there is no SoftHSM2 (apt-get install softhsm2)");
        println!("\n*** NOT RUN: there is no SoftHSM2 (apt-get install softhsm2) ***\n");
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let (conf, tokens) = (folder.path().join("softhsm2.conf"), folder.path().join("tokens"));
    fs::create_dir(&tokens).unwrap();
    fs::write(&conf, format!("directories.tokendir = {}\nobjectstore.backend = file\n", tokens.display()))
        .unwrap();
    let made = std::process::Command::new("softhsm2-util")
        .args(["--init-token", "--free", "--label", "credence", "--so-pin", "5678", "--pin", "1234"])
        .env("SOFTHSM2_CONF", &conf)
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let inside = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["tests::rotation::inside_of_the_token_test", "--exact", "--nocapture"])
        .env("SOFTHSM2_CONF", &conf)
        .env("CREDENCE_TEST_TOKEN", module)
        .output()
        .unwrap();
    let text =
        String::from_utf8_lossy(&inside.stdout).into_owned() + &String::from_utf8_lossy(&inside.stderr);
    assert!(inside.status.success() && text.contains("token test ran"), "{text}");
}

#[expect(
    clippy::disallowed_methods,
    reason = "the test command tells by this variable that nothing may be left out"
)]
fn required() -> bool {
    std::env::var("CREDENCE_REQUIRE_ENVOY").is_ok()
}

/// The body of the test above; by itself it has no token and does nothing.
#[tokio::test]
#[expect(clippy::disallowed_methods, reason = "the test above tells it by a variable where the module is")]
async fn inside_of_the_token_test() {
    let Ok(module) = std::env::var("CREDENCE_TEST_TOKEN") else { return };
    let key = |key: &str, pin: &str| TokenKey {
        module: module.clone().into(),
        token: "credence".into(),
        key: key.into(),
        pin: Zeroizing::new(pin.as_bytes().to_vec()),
    };
    let source =
        |name: &str, key: TokenKey| SlotSource { name: Some(name.into()), source: KekSource::Token(key) };
    let world = World::new().await;
    let ids = world.keys(3).await;
    world.store.add_slot("hsm", KekSource::Token(key("kek-1", "1234")), slot_event()).await.unwrap();
    let sources = [source("hsm", key("kek-1", "1234")), world.primary()];
    let status = world.store.sealing(&sources).await.unwrap();
    let hsm = status.slots.iter().find(|slot| slot.name == "hsm").unwrap();
    assert_eq!((&hsm.health, hsm.stale), (&SlotHealth::Opens, false));
    assert!(hsm.key_id.starts_with("kek-1#"), "{}", hsm.key_id);
    assert_eq!(hsm.ends, None, "a key that Credence makes has no end");
    // SoftHSM2 keeps the end of a private key and cannot read it back: the slot is as good as any.
    for (name, is_private, ends) in [("open", false, Some("2031-05-07T23:59:59Z")), ("private", true, None)] {
        let last_day = cryptoki::types::Date::new_from_str_slice("2031", "05", "07").unwrap();
        assert!(key(name, "1234").ensure_until(last_day, is_private).unwrap());
        world.store.add_slot(name, KekSource::Token(key(name, "1234")), slot_event()).await.unwrap();
        let asked = [source(name, key(name, "1234")), world.primary()];
        let status = world.store.slot_status(&asked).await.unwrap();
        let slot = status.iter().find(|slot| slot.name == name).unwrap();
        assert_eq!(slot.health, SlotHealth::Opens);
        assert_eq!(slot.ends.map(|ends| ends.to_string()).as_deref(), ends);
        world.store.remove_slot(name, &asked, REFUSED, slot_event()).await.unwrap();
    }
    world.store.rotate_root(&sources, &[], REFUSED, event(Action::RootKeyRotate, "root")).await.unwrap();
    world.store.remove_slot("primary", &sources, REFUSED, slot_event()).await.unwrap();
    world.all_readable(&ids).await;

    let place = world.close().await;
    let before = place.bytes();
    let check = async |key: TokenKey, expected: &str| {
        let keys = vec![source("hsm", key)];
        let error = open(OpenOptions { keys, ..place.open_options() }).await.unwrap_err();
        let text = error.to_string();
        assert!(text.contains(expected), "{text}");
        assert!(!error.hint().unwrap().is_empty() && !text.contains("1234"), "{text}");
        assert!(place.bytes() == before, "{text}");
    };
    check(key("kek-1", "9999"), "token credence: login failed").await;
    check(key("kek-2", "1234"), "token credence has no AES key kek-2").await;
    check(TokenKey { token: "other".into(), ..key("kek-1", "1234") }, "has no token other, it has credence")
        .await;
    check(TokenKey { module: "/nonexistent.so".into(), ..key("kek-1", "1234") }, "loading the module failed")
        .await;
    let keys = vec![source("hsm", key("kek-1", "1234"))];
    let opened = open(OpenOptions { keys, ..place.open_options() }).await.unwrap();
    World::run(place, opened).all_readable(&ids).await;
    println!("token test ran");
}
