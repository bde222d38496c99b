//! Slots whose key somebody else holds, before one that is held in memory: what Vault's Transit is to the server.

use std::{
    fmt,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use async_trait::async_trait;
use certs::SecretBytes;
use sqlx::Connection;

use super::{promises::meddle, rotation::REFUSED, *};

/// A key with versions, at somebody who may be away.
#[derive(Debug)]
struct Held {
    name: &'static str,
    latest: u32,
    minimum: u32,
    away: Option<Outlook>,
}

#[derive(Debug)]
struct FakeKey {
    held: Mutex<Held>,
    asked: AtomicUsize,
}

impl fmt::Display for FakeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a held key")
    }
}

impl FakeKey {
    fn new(name: &'static str) -> Arc<Self> {
        let held = Mutex::new(Held { name, latest: 1, minimum: 1, away: None });
        Arc::new(Self { held, asked: AtomicUsize::new(0) })
    }

    fn set(&self, change: impl FnOnce(&mut Held)) {
        change(&mut self.held.lock().unwrap());
    }

    fn error(code: &'static str, outlook: Outlook) -> RemoteError {
        RemoteError {
            key: "a held key".into(),
            code,
            reason: code.into(),
            hint: format!("mend {code}"),
            outlook,
            is_of_wrapped: code == "too-old",
        }
    }

    fn ask(&self) -> Result<(&'static str, u32, u32), RemoteError> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let held = self.held.lock().unwrap();
        match held.away {
            Some(outlook) => Err(Self::error("away", outlook)),
            None => Ok((held.name, held.latest, held.minimum)),
        }
    }
}

#[async_trait]
impl RemoteKey for FakeKey {
    async fn wrap(&self, root: &SecretBytes, place: &[u8]) -> Result<Wrapped, RemoteError> {
        let (name, version, _) = self.ask()?;
        let bytes = format!("{name}:{version}:{}:{}", hex::encode(place), hex::encode(root.expose_secret()));
        Ok(Wrapped { bytes: bytes.into_bytes(), version, key_id: name.into() })
    }

    async fn unwrap(&self, wrapped: &[u8], place: &[u8]) -> Result<Unwrapped, RemoteError> {
        let (name, latest, minimum) = self.ask()?;
        let text = String::from_utf8(wrapped.to_vec()).unwrap();
        let parts: Vec<&str> = text.split(':').collect();
        if parts[1].parse::<u32>().unwrap() < minimum {
            return Err(Self::error("too-old", Outlook::Passing));
        }
        let is_ours = parts[0] == name && parts[2] == hex::encode(place);
        let root = is_ours.then(|| SecretBytes::new(Zeroizing::new(hex::decode(parts[3]).unwrap())));
        let key = Some(RemoteState { key_id: name.into(), latest, minimum });
        Ok(Unwrapped { root, key, warnings: Vec::new() })
    }
}

fn held(name: &str, key: &Arc<FakeKey>) -> SlotSource {
    SlotSource { name: Some(name.into()), source: KekSource::Transit(key.clone()) }
}

fn slot_event() -> Event {
    event(Action::KekSlotAdd, "slot")
}

impl World {
    async fn slot(&self, name: &str, sources: &[SlotSource]) -> SlotStatus {
        let status = self.store.slot_status(sources).await.unwrap();
        status.into_iter().find(|slot| slot.name == name).unwrap()
    }
}

#[tokio::test]
async fn a_held_key_opens_its_slot_is_wrapped_anew_by_its_latest_version_and_too_old_a_one_is_said() {
    let world = World::new().await;
    let key = FakeKey::new("kek");
    let add = world.store.add_slot("vault", KekSource::Transit(key.clone()), slot_event());
    add.await.unwrap();
    let sources = [KekSource::File(world.place.kek()).into(), held("vault", &key)];
    let slot = world.slot("vault", &sources).await;
    let state = |latest, minimum| Some(RemoteState { key_id: "kek".into(), latest, minimum });
    assert_eq!(
        (slot.kind, slot.key_id.as_str(), &slot.health),
        (SlotKind::Transit, "kek", &SlotHealth::Opens)
    );
    assert_eq!((slot.version, &slot.key, slot.stale), (Some(1), &state(1, 1), false));

    key.set(|held| held.latest = 3);
    let slot = world.slot("vault", &sources).await;
    assert_eq!((slot.version, &slot.key, slot.stale), (Some(1), &state(3, 1), true));
    key.set(|held| held.minimum = 2);
    let slot = world.slot("vault", &sources).await;
    assert_eq!(slot.health, SlotHealth::Fails("a held key: too-old; mend too-old".into()));
    assert_eq!(slot.version, Some(1), "what the slot says of itself needs nobody");

    // The root key is in memory: what the slot held need not open any more.
    let rewrap = event(Action::KekSlotRewrap, "vault");
    world.store.rewrap_slot("vault", &sources[1].source, rewrap.clone()).await.unwrap();
    let slot = world.slot("vault", &sources).await;
    assert_eq!((slot.version, slot.stale, &slot.health), (Some(3), false, &SlotHealth::Opens));
    let error = world.store.rewrap_slot("primary", &sources[0].source, rewrap.clone()).await.unwrap_err();
    assert_eq!(error.to_string(), "key slot primary is a key-file, whose key has no versions");
    let error = world.store.rewrap_slot("none", &sources[1].source, rewrap.clone()).await.unwrap_err();
    assert!(matches!(error, RotationError::NoSlot(_)), "{error}");
    let filter = audit::AuditFilter { action: Some(Action::KekSlotRewrap), ..Default::default() };
    let rows = audit::AuditLog::list(&world.store, &filter).await.unwrap();
    assert_eq!(rows.len(), 1);
    assert_eq!(rows[0].event.details["key_version"], "3");

    // Another key by that name in the configuration wraps it from now on; away, it changes nothing.
    let other = FakeKey::new("other");
    let before = world.place.bytes();
    other.set(|held| held.away = Some(Outlook::Passing));
    let source = KekSource::Transit(other.clone());
    world.store.rewrap_slot("vault", &source, rewrap.clone()).await.unwrap_err();
    assert!(world.place.bytes() == before);
    world.store.rotate_root(&sources, &[], REFUSED, event(Action::RootKeyRotate, "root")).await.unwrap();
    let place = world.close().await;
    let opened = open(OpenOptions { keys: vec![held("vault", &key)], ..place.open_options() }).await.unwrap();
    World::run(place, opened).close().await;
}

#[tokio::test]
async fn nobody_is_asked_over_a_network_where_a_key_at_hand_opens_the_store() {
    let world = World::new().await;
    let key = FakeKey::new("kek");
    world.store.add_slot("vault", KekSource::Transit(key.clone()), slot_event()).await.unwrap();
    let place = world.close().await;
    let file = || SlotSource::from(KekSource::File(place.kek()));
    let asked = key.asked.load(Ordering::Relaxed);
    let keys = vec![held("vault", &key), file()];
    let opened = open(OpenOptions { keys, ..place.open_options() }).await.unwrap();
    let place = World::run(place, opened).close().await;
    assert_eq!(key.asked.load(Ordering::Relaxed), asked);

    // Alone, it is asked; away, it is said what becomes of that, and nothing is written.
    let before = place.bytes();
    for outlook in [Outlook::Passing, Outlook::Refused, Outlook::Lasting] {
        key.set(|held| held.away = Some(outlook));
        let options = || OpenOptions { keys: vec![held("vault", &key)], ..place.open_options() };
        let error = open(options()).await.unwrap_err();
        let OpenError::Unlock(unlock) = &error else { panic!("{error}") };
        assert_eq!((unlock.outlook(), unlock.remote()[0].code), (outlook, "away"));
        assert_eq!(error.hint().as_deref(), Some("mend away"));
        // With another key that opens nothing: the better of both counts.
        let missing = SlotSource::from(KekSource::File(place.folder.path().join("nowhere")));
        let error =
            open(OpenOptions { keys: vec![missing, held("vault", &key)], ..options() }).await.unwrap_err();
        let OpenError::Unlock(unlock) = &error else { panic!("{error}") };
        assert_eq!(unlock.outlook(), outlook, "{error}");
        assert!(error.hint().unwrap().contains("recovery slot"), "{error}");
    }
    assert!(place.bytes() == before);
    let wrong = FakeKey::new("other");
    let error =
        open(OpenOptions { keys: vec![held("vault", &wrong)], ..place.open_options() }).await.unwrap_err();
    let OpenError::Unlock(unlock) = &error else { panic!("{error}") };
    assert_eq!(unlock.outlook(), Outlook::Lasting);
    assert_eq!(error.to_string(), "a held key is not the key of slot vault (transit)");
}

#[tokio::test]
async fn a_held_key_that_no_slot_is_named_for_opens_what_it_still_can_and_is_not_pressed_otherwise() {
    let world = World::new().await;
    let key = FakeKey::new("kek");
    for (name, version) in [("first", 1), ("second", 2)] {
        key.set(|held| held.latest = version);
        world.store.add_slot(name, KekSource::Transit(key.clone()), slot_event()).await.unwrap();
    }
    let place = world.close().await;
    let source = || SlotSource { name: None, source: KekSource::Transit(key.clone()) };
    // The first slot is too old for it, the second is not.
    key.set(|held| held.minimum = 2);
    let opened = open(OpenOptions { keys: vec![source()], ..place.open_options() }).await.unwrap();
    let place = World::run(place, opened).close().await;

    let refused = async |asked| {
        let before = key.asked.load(Ordering::Relaxed);
        let options = OpenOptions { keys: vec![source()], ..place.open_options() };
        let error = open(options).await.unwrap_err().to_string();
        assert_eq!(key.asked.load(Ordering::Relaxed) - before, asked, "{error}");
        error
    };
    // Both are: it is said why, not that it is another key.
    key.set(|held| held.minimum = 3);
    assert_eq!(refused(2).await, "a held key: too-old");
    // What is so of the key is so of every slot, and is asked once.
    for outlook in [Outlook::Passing, Outlook::Refused, Outlook::Lasting] {
        key.set(|held| held.away = Some(outlook));
        assert_eq!(refused(1).await, "a held key: away");
    }
}

#[test]
fn while_one_of_several_refuses_us_all_are_asked_slowly() {
    let check = |all: &[Outlook], expected| {
        let remote = |outlook: &Outlook| UnlockError::from(KekError::from(FakeKey::error("away", *outlook)));
        assert_eq!(UnlockError::None(all.iter().map(remote).collect()).outlook(), expected, "{all:?}");
        // What opens nothing and is no reason to wait changes nothing of it, wherever it stands.
        let with_near =
            [UnlockError::NoKey { slots: String::new() }].into_iter().chain(all.iter().map(remote));
        assert_eq!(UnlockError::None(with_near.collect()).outlook(), expected, "{all:?}");
    };
    use Outlook::{Lasting, Passing, Refused};
    check(&[], Lasting);
    check(&[Lasting, Lasting], Lasting);
    check(&[Lasting, Passing], Passing);
    check(&[Passing, Lasting], Passing);
    check(&[Passing, Refused], Refused);
    check(&[Refused, Passing], Refused);
    check(&[Refused, Lasting], Refused);
    check(&[Lasting, Passing, Refused, Passing], Refused);
}

#[tokio::test]
async fn what_another_slot_holds_does_not_open_in_this_one() {
    let world = World::new().await;
    let key = FakeKey::new("kek");
    for name in ["first", "second"] {
        world.store.add_slot(name, KekSource::Transit(key.clone()), slot_event()).await.unwrap();
    }
    let place = world.close().await;
    let mut connection = meddle(&place).await;
    let swapped = "UPDATE key_slots SET wrapped = (
                       SELECT CAST(substr(key_slots.wrapped, 1, 26) || substr(other.wrapped, 27) AS BLOB)
                         FROM key_slots AS other WHERE other.name = 'second')
                    WHERE name = 'first'";
    sqlx::query(swapped).execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
    let error =
        open(OpenOptions { keys: vec![held("first", &key)], ..place.open_options() }).await.unwrap_err();
    assert_eq!(error.to_string(), "a held key is not the key of slot first (transit)");
    let opened =
        open(OpenOptions { keys: vec![held("second", &key)], ..place.open_options() }).await.unwrap();
    World::run(place, opened).close().await;
}

#[tokio::test]
async fn slots_of_transit_alone_are_left_only_where_somebody_says_so() {
    let world = World::new().await;
    let keys = [FakeKey::new("one"), FakeKey::new("two")];
    for (name, key) in ["one", "two"].into_iter().zip(&keys) {
        world.store.add_slot(name, KekSource::Transit(key.clone()), slot_event()).await.unwrap();
    }
    let sources = [KekSource::File(world.place.kek()).into(), held("one", &keys[0]), held("two", &keys[1])];
    let before = world.place.bytes();
    let words = "without key slot primary only Vault's Transit opens the store: whoever loses that Vault loses \
                 everything";
    let remove = event(Action::KekSlotRemove, "primary");
    let error = world.store.remove_slot("primary", &sources, REFUSED, remove.clone()).await.unwrap_err();
    assert_eq!(error.to_string(), words);
    assert!(error.hint().contains("--insecure-single-slot"), "{}", error.hint());
    let left = ["primary".to_owned()];
    let rotate = event(Action::RootKeyRotate, "root");
    let error = world.store.rotate_root(&sources, &left, REFUSED, rotate).await.unwrap_err();
    assert_eq!(error.to_string(), words);
    let replace = |kind| world.store.may_replace_slot("primary", kind, REFUSED);
    assert_eq!(replace(SlotKind::Transit).await.unwrap_err().to_string(), words);
    replace(SlotKind::KeyFile).await.unwrap();
    assert!(world.place.bytes() == before);

    let accepted = OnlyTransit::Accepted;
    world.store.remove_slot("primary", &sources, accepted, remove.clone()).await.unwrap();
    // Of two that are both in Vault one may go: nothing is lost by it that was not lost before. The last one stays.
    world.store.remove_slot("one", &sources, accepted, remove.clone()).await.unwrap();
    let error = world.store.remove_slot("two", &sources, accepted, remove).await.unwrap_err();
    assert!(matches!(error, RotationError::LastSlot(_)), "{error}");
    world.close().await;
}

#[tokio::test]
async fn a_slot_whose_key_refuses_is_not_made() {
    let world = World::new().await;
    let key = FakeKey::new("kek");
    key.set(|held| held.away = Some(Outlook::Lasting));
    let before = world.place.bytes();
    let add = || world.store.add_slot("vault", KekSource::Transit(key.clone()), slot_event());
    assert_eq!(add().await.unwrap_err().to_string(), "a held key: away");
    assert!(world.place.bytes() == before);
    key.set(|held| held.away = None);
    add().await.unwrap();
    world.close().await;
}

#[tokio::test]
async fn a_new_store_is_not_made_where_only_somebody_else_would_open_it_or_nobody_could() {
    let place = Place::empty();
    let key = FakeKey::new("kek");
    let slot = |key: &Arc<FakeKey>| NewSlot {
        name: "vault".into(),
        source: KekSource::Transit(key.clone()),
        cost: Cost::default(),
    };
    let options = |slots| InitOptions { slots, ..place.init_options() };
    let nothing_is_left = || assert_eq!(fs::read_dir(place.folder.path()).unwrap().count(), 0);
    let error = initialise(options(vec![slot(&key)])).await.unwrap_err();
    assert!(matches!(error, InitError::OnlyTransit), "{error}");
    assert_eq!(key.asked.load(Ordering::Relaxed), 0, "nobody is asked in vain");
    let twice = vec![place.init_options().slots.remove(0), place.init_options().slots.remove(0)];
    let error = initialise(options(twice)).await.unwrap_err();
    assert!(matches!(error, InitError::SameName(_)), "{error}");
    nothing_is_left();
    // What it wraps, it would not unwrap.
    key.set(|held| held.minimum = 2);
    let beside = vec![place.init_options().slots.remove(0), slot(&key)];
    let error = initialise(options(beside)).await.unwrap_err();
    assert_eq!(error.hint().unwrap(), "mend too-old", "{error}");
    nothing_is_left();
    key.set(|held| held.minimum = 1);
    let alone = InitOptions { only_transit: OnlyTransit::Accepted, ..options(vec![slot(&key)]) };
    initialise(alone).await.unwrap();
    open(OpenOptions { keys: vec![held("vault", &key)], ..place.open_options() }).await.unwrap();
}
