//! What every implementation of the ports must do. The fake runs it here, the store in its own tests.

mod leaves;
mod requests;

use std::{future::Future, time::Duration};

use async_trait::async_trait;
use audit::{Action, Actor, Event};
use certs::{
    Certificate, CrlTemplate, Profile, RevocationReason, SecretKey, Serial, SoftwareSigner, SpkiHash,
    Template, Timestamp, Validity, sign, sign_crl,
};
use spiffe::{
    AuthorityId, NodeId, Purpose, RecoveryRefusal, RecoverySpend, RequestId, Spend, SpiffeId, Tenant,
    TokenRefusal, TokenSpend,
};

pub use self::leaves::leaves_contract;
use crate::ports::{
    Authorities, AuthorityError, AuthorityRecord, AuthorityState, CertificateFilter, CertificateState,
    Intent, IssueOutcome, Journal, JournalError, LeafStore, Leaves, ListRecord, Place, Remaining,
    ResultRecord, Revocations, RevokeError, Revoked, Taint, Transition,
};

/// An empty implementation under test, and the ways into it that the ports do not have.
#[async_trait]
pub trait StoreFixture: Send + Sync {
    /// The journal under test.
    fn journal(&self) -> &dyn Journal;
    /// The authorities under test.
    fn authorities(&self) -> &dyn Authorities;
    /// What was revoked, under test.
    fn revocations(&self) -> &dyn Revocations;
    /// Who signs leaves elsewhere and what they were asked for, under test.
    fn leaves(&self) -> &dyn LeafStore;
    /// Plants a join token for node `web-1`.
    async fn add_token(&self, id: &str, expires: Timestamp);
    /// Revokes it.
    async fn revoke_token(&self, id: &str);
    /// Opens a recovery window until then, and answers its number; closes the one that is open.
    async fn open_recovery(&self, until: Timestamp) -> u64;
    /// Closes the window that is open.
    async fn close_recovery(&self);
    /// Writes the binding of node `web-1` anew.
    async fn bind(&self, created: Timestamp);
    /// Removes the binding of node `web-1`.
    async fn unbind(&self);
    /// Every event that was written with a change since the fixture was made, oldest first.
    async fn events(&self) -> Vec<Event>;
}

fn now() -> Timestamp {
    Timestamp::from_unix_secs(1_800_000_000)
}

fn after(secs: u64) -> Timestamp {
    now() + Duration::from_secs(secs)
}

fn event(object: &str) -> Event {
    Event::done(now(), Actor::System, Action::CertificateIntent, object)
}

fn authority(name: u8) -> AuthorityId {
    AuthorityId::of(SpkiHash([name; 32]))
}

fn intent(authority_name: u8, serial: u8, path: &str, lifetime_secs: u64) -> Intent {
    Intent {
        serial: Serial::from_random([serial; 20]),
        authority: authority(authority_name),
        epoch: 1,
        tbs_sha256: [serial; 32],
        id: SpiffeId::parse(&format!("spiffe://td/{path}")).expect("test identities parse"),
        profile: Profile::Workload,
        tenant: Tenant::default(),
        node: Some(NodeId::parse("web-1").expect("test nodes parse")),
        purpose: Purpose::Delivery,
        spki: SpkiHash([serial; 32]),
        not_before: now() - Validity::BACKDATE,
        not_after: after(lifetime_secs),
        at: now(),
        request_id: RequestId::from_random([serial; 8]),
    }
}

fn result(authority_name: u8, serial: u8, outcome: IssueOutcome) -> ResultRecord {
    ResultRecord {
        serial: Serial::from_random([serial; 20]),
        authority: authority(authority_name),
        outcome,
        at: after(1),
    }
}

fn chain() -> Vec<Vec<u8>> {
    vec![b"leaf".to_vec(), b"issuer".to_vec()]
}

/// Holds a journal against its contract; `factory` makes an empty one for each part.
///
/// # Panics
/// Where the contract is broken.
pub async fn journal_contract<F, Fut, S>(factory: F)
where
    F: Fn() -> Fut,
    Fut: Future<Output = S>,
    S: StoreFixture,
{
    intents_and_results(&factory().await).await;
    listing(&factory().await).await;
    tokens(&factory().await).await;
    recoveries(&factory().await).await;
    recoveries_after_a_theft(&factory().await).await;
}

async fn intents_and_results(store: &dyn StoreFixture) {
    let journal = store.journal();
    journal.record_intent(intent(1, 1, "web", 100), None, event("one")).await.expect("first intent");
    assert_eq!(
        journal.record_intent(intent(1, 1, "api", 100), None, event("taken")).await,
        Err(JournalError::SerialTaken(Serial::from_random([1; 20]))),
        "a serial is unique under its authority"
    );
    journal.record_intent(intent(2, 1, "web", 50), None, event("two")).await.expect("another authority");

    let rows = journal.certificates(&CertificateFilter::default()).await.expect("rows");
    assert_eq!(rows.len(), 2);
    assert_eq!(rows[1].intent, intent(1, 1, "web", 100), "an intent reads back as it was written");
    assert_eq!(rows[1].state, CertificateState::Unknown, "an intent without result is of unknown outcome");
    assert_eq!((rows[1].finished, rows[1].chain.len()), (None, 0));

    let issued = result(1, 1, IssueOutcome::Issued(chain()));
    journal.record_result(issued.clone(), event("issued")).await.expect("result");
    assert_eq!(
        journal.record_result(issued, event("again")).await,
        Err(JournalError::NoIntent(Serial::from_random([1; 20]))),
        "an intent has one result"
    );
    assert_eq!(
        journal.record_result(result(1, 9, IssueOutcome::Issued(chain())), event("none")).await,
        Err(JournalError::NoIntent(Serial::from_random([9; 20]))),
        "a result needs its intent"
    );
    let failed = IssueOutcome::Failed("key refused".to_owned());
    journal.record_result(result(2, 1, failed), event("failed")).await.expect("failure");

    let rows = journal.certificates(&CertificateFilter::default()).await.expect("rows");
    assert_eq!((&rows[1].state, rows[1].finished), (&CertificateState::Issued, Some(after(1))));
    assert_eq!(rows[1].chain, chain());
    assert_eq!(rows[0].state, CertificateState::Failed("key refused".to_owned()));

    let objects: Vec<String> = store.events().await.into_iter().map(|event| event.object).collect();
    assert_eq!(objects, ["one", "two", "issued", "failed"], "events come and go with their transaction");
}

async fn listing(store: &dyn StoreFixture) {
    let journal = store.journal();
    // Serial, path, lifetime, outcome; oldest first.
    for (serial, path, lifetime, outcome) in [
        (1, "web", 100, Some(true)),
        (2, "web", 300, Some(true)),
        (3, "api", 200, Some(true)),
        (4, "api", 900, Some(false)),
        (5, "api", 400, None),
    ] {
        journal.record_intent(intent(1, serial, path, lifetime), None, event("i")).await.expect("intent");
        let outcome = match outcome {
            Some(true) => IssueOutcome::Issued(chain()),
            Some(false) => IssueOutcome::Failed("no".to_owned()),
            None => continue,
        };
        journal.record_result(result(1, serial, outcome), event("r")).await.expect("result");
    }
    let mut node_less = intent(2, 6, "web", 50);
    node_less.node = None;
    node_less.profile = Profile::Server;
    journal.record_intent(node_less, None, event("i")).await.expect("intent");
    journal.record_result(result(2, 6, IssueOutcome::Issued(chain())), event("r")).await.expect("result");

    let list = async |filter: CertificateFilter, expected: &[u8]| {
        let rows = journal.certificates(&filter).await.expect("rows");
        let serials: Vec<u8> = rows.iter().map(|row| row.intent.serial.as_bytes()[1]).collect();
        assert_eq!(serials, expected, "{filter:?}");
    };
    let all = CertificateFilter::default;
    let api = SpiffeId::parse("spiffe://td/api").expect("parses");
    list(all(), &[6, 5, 4, 3, 2, 1]).await;
    list(CertificateFilter { limit: 2, offset: 1, ..all() }, &[5, 4]).await;
    list(CertificateFilter { id: Some(api), ..all() }, &[5, 4, 3]).await;
    list(CertificateFilter { serial: Some(Serial::from_random([4; 20])), ..all() }, &[4]).await;
    for number in 1..=6 {
        let whole = Serial::from_random([number; 20]).to_string();
        for length in [8, 9, 40] {
            let serial_start = Some(whole[..length].parse().expect("digits"));
            list(CertificateFilter { serial_start, ..all() }, &[number]).await;
        }
    }
    list(CertificateFilter { serial_start: "ffffffff".parse().ok(), ..all() }, &[]).await;
    list(CertificateFilter { node: NodeId::parse("web-1").ok(), ..all() }, &[5, 4, 3, 2, 1]).await;
    list(CertificateFilter { profile: Some(Profile::Server), ..all() }, &[6]).await;
    list(CertificateFilter { authorities: vec![authority(2)], ..all() }, &[6]).await;
    let both = vec![authority(1), authority(2)];
    list(CertificateFilter { authorities: both, limit: 2, ..all() }, &[6, 5]).await;
    list(CertificateFilter { valid_at: Some(after(300)), ..all() }, &[5, 4, 2]).await;
    list(CertificateFilter { newest_only: true, ..all() }, &[6, 3, 2]).await;
    list(CertificateFilter { newest_only: true, valid_at: Some(after(201)), ..all() }, &[2]).await;

    let leaves = async |at: Timestamp, expected: Leaves| {
        assert_eq!(journal.unexpired_leaves(authority(1), at).await, Ok(expected));
    };
    leaves(now(), Leaves { count: 4, last: Some(after(400)) }).await;
    leaves(after(300), Leaves { count: 2, last: Some(after(400)) }).await;
    leaves(after(401), Leaves { count: 0, last: None }).await;

    let mut remaining = journal.remaining(after(60)).await.expect("remaining");
    remaining.sort_by_key(|remaining| remaining.not_after);
    let expected = |path: &str, serial: u8, secs: u64| Remaining {
        id: SpiffeId::parse(&format!("spiffe://td/{path}")).expect("parses"),
        node: NodeId::parse("web-1").ok(),
        profile: Profile::Workload,
        tenant: Tenant::default(),
        serial: Serial::from_random([serial; 20]),
        authority: authority(1),
        issued: now(),
        not_after: after(secs),
    };
    assert_eq!(remaining, [expected("api", 3, 200), expected("web", 2, 300)]);
}

async fn tokens(store: &dyn StoreFixture) {
    let journal = store.journal();
    store.add_token("good", after(600)).await;
    store.add_token("short", after(5)).await;
    store.add_token("gone", after(600)).await;
    store.revoke_token("gone").await;
    let before = store.events().await.len();
    let spend = |token: &str, key: u8| {
        Some(Spend::Token(TokenSpend { token_id: token.to_owned(), spki: SpkiHash([key; 32]) }))
    };
    let enrol = async |token: &str, serial: u8, key: u8, at: Timestamp| {
        let intent = Intent { at, spki: SpkiHash([key; 32]), ..intent(1, serial, "web", 900) };
        journal.record_intent(intent, spend(token, key), event(token)).await
    };
    let refused = |reason: TokenRefusal| Err(JournalError::Token(reason));

    assert_eq!(enrol("none", 1, 1, now()).await, refused(TokenRefusal::Unknown));
    assert_eq!(enrol("gone", 1, 1, now()).await, refused(TokenRefusal::Revoked));
    assert_eq!(enrol("short", 1, 1, after(5)).await, refused(TokenRefusal::Expired));
    assert_eq!(store.events().await.len(), before, "a refused spend writes nothing");
    assert!(journal.certificates(&CertificateFilter::default()).await.expect("rows").is_empty());

    assert_eq!(enrol("good", 1, 1, now()).await, Ok(()));
    assert_eq!(enrol("good", 2, 2, now()).await, refused(TokenRefusal::Spent), "another key");
    assert_eq!(enrol("good", 3, 1, now()).await, Ok(()), "same key, whose first try has no result");
    journal
        .record_result(result(1, 3, IssueOutcome::Failed("no".to_owned())), event("failed"))
        .await
        .expect("result");
    assert_eq!(enrol("good", 4, 1, after(2)).await, Ok(()), "same key, whose try failed");
    journal
        .record_result(result(1, 4, IssueOutcome::Issued(chain())), event("issued"))
        .await
        .expect("result");
    assert_eq!(
        enrol("good", 5, 1, after(10)).await,
        Err(JournalError::AlreadyIssued { chain: chain(), authority: authority(1), issued: after(2) }),
        "same key again gets the same certificate"
    );
    assert_eq!(enrol("good", 6, 2, after(10)).await, refused(TokenRefusal::Spent));
    assert_eq!(enrol("good", 7, 1, after(600)).await, refused(TokenRefusal::Expired), "within its life only");
    store.revoke_token("good").await;
    assert_eq!(enrol("good", 8, 1, after(10)).await, refused(TokenRefusal::Revoked));
}

async fn recoveries(store: &dyn StoreFixture) {
    let journal = store.journal();
    let node = NodeId::parse("web-1").expect("test nodes parse");
    let issue = async |serial: u8, at: Timestamp, spend: Option<Spend>| {
        let key = spend.as_ref().map_or(SpkiHash([serial; 32]), Spend::spki);
        let plain = intent(1, serial, "credence/node/web-1", 900);
        let intent = Intent { at, spki: key, profile: Profile::Node, ..plain };
        journal.record_intent(intent, spend, event("recovery")).await
    };
    let issued = async |serial: u8| {
        let outcome = IssueOutcome::Issued(chain());
        journal.record_result(result(1, serial, outcome), event("issued")).await.expect("result");
    };
    let spend = |window: u64, replaces: u8, key: u8| {
        let replaces = Serial::from_random([replaces; 20]);
        let (node, spki) = (node.clone(), SpkiHash([key; 32]));
        Some(Spend::Recovery(RecoverySpend { window, node, replaces, spki, from: "192.0.2.7".into() }))
    };
    let refused = |reason: RecoveryRefusal| Err(JournalError::Recovery(reason));
    store.bind(now() - Duration::from_secs(60)).await;
    for serial in [1, 2] {
        issue(serial, now(), None).await.expect("intent");
        issued(serial).await;
    }
    assert_eq!(issue(3, after(1), spend(1, 2, 3)).await, refused(RecoveryRefusal::Closed), "off by default");
    let first = store.open_recovery(after(100)).await;
    let written = store.events().await.len();
    assert_eq!(issue(3, after(1), spend(first + 1, 2, 3)).await, refused(RecoveryRefusal::Closed));
    assert_eq!(issue(3, after(100), spend(first, 2, 3)).await, refused(RecoveryRefusal::Closed), "it ends");
    assert_eq!(issue(3, after(1), spend(first, 1, 3)).await, refused(RecoveryRefusal::Superseded));
    store.unbind().await;
    assert_eq!(issue(3, after(1), spend(first, 2, 3)).await, refused(RecoveryRefusal::NotBound));
    store.bind(after(1)).await;
    assert_eq!(
        issue(3, after(2), spend(first, 2, 3)).await,
        refused(RecoveryRefusal::NotBound),
        "bound anew"
    );
    store.unbind().await;
    store.bind(now() - Duration::from_secs(60)).await;
    let rows = journal.certificates(&CertificateFilter::default()).await.expect("rows");
    assert_eq!(rows.len(), 2, "a refused recovery writes nothing");
    assert_eq!(store.events().await.len(), written, "and says nothing in its transaction");

    assert_eq!(issue(3, after(3), spend(first, 2, 3)).await, Ok(()));
    assert_eq!(issue(4, after(3), spend(first, 2, 4)).await, refused(RecoveryRefusal::Spent), "another key");
    assert_eq!(
        issue(4, after(3), spend(first, 2, 3)).await,
        Ok(()),
        "same key, whose first try has no result"
    );
    issued(4).await;
    assert_eq!(
        issue(5, after(5), spend(first, 2, 3)).await,
        Err(JournalError::AlreadyIssued { chain: chain(), authority: authority(1), issued: after(3) }),
        "same key again gets the same certificate"
    );
    assert_eq!(
        issue(5, after(5), spend(first, 4, 5)).await,
        refused(RecoveryRefusal::Spent),
        "once a window"
    );
    store.close_recovery().await;
    assert_eq!(issue(5, after(5), spend(first, 4, 5)).await, refused(RecoveryRefusal::Closed));
    let second = store.open_recovery(after(100)).await;
    assert!(second != first, "each window is another");
    assert_eq!(issue(5, after(6), spend(second, 2, 5)).await, refused(RecoveryRefusal::Superseded));
    assert_eq!(issue(5, after(6), spend(second, 4, 5)).await, Ok(()), "once in each window");
}

/// A node stays away whose certificate is of an authority whose key, or whose root's, may be a thief's.
async fn recoveries_after_a_theft(store: &dyn StoreFixture) {
    let (journal, authorities) = (store.journal(), store.authorities());
    let node = NodeId::parse("web-1").expect("test nodes parse");
    let (root, root_key) = made(Place::Root, AuthorityState::Active);
    let (mut first, first_key) = made(Place::Issuing, AuthorityState::Active);
    let (mut second, second_key) = made(Place::Issuing, AuthorityState::Prepared);
    (first.parent, second.parent) = (Some(root.id), Some(root.id));
    let ids = (root.id, first.id, second.id);
    let made = vec![(root, root_key), (first, first_key), (second, second_key)];
    authorities.insert(made, vec![event("root"), event("first"), event("second")]).await.expect("insert");
    store.bind(now() - Duration::from_secs(60)).await;
    let window = store.open_recovery(after(100)).await;
    let hold = async |serial: u8, authority: AuthorityId| {
        let plain = intent(1, serial, "credence/node/web-1", 900);
        let intent = Intent { authority, profile: Profile::Node, ..plain };
        journal.record_intent(intent, None, event("intent")).await.expect("intent");
        let plain = result(1, serial, IssueOutcome::Issued(chain()));
        journal.record_result(ResultRecord { authority, ..plain }, event("issued")).await.expect("result");
    };
    let come_back = async |replaces: u8, serial: u8| {
        let (replaces, spki) = (Serial::from_random([replaces; 20]), SpkiHash([serial; 32]));
        let spend = RecoverySpend { window, node: node.clone(), replaces, spki, from: "192.0.2.7".into() };
        let plain = intent(9, serial, "credence/node/web-1", 900);
        let intent = Intent { spki, profile: Profile::Node, ..plain };
        journal.record_intent(intent, Some(Spend::Recovery(spend)), event("recovery")).await
    };
    let taint = async |id| {
        let tainted = authorities.taint(vec![id], Taint::Stolen, after(2), vec![event("stolen")]).await;
        tainted.expect("taint");
    };
    let refused = || Err(JournalError::Recovery(RecoveryRefusal::Stolen));
    hold(1, ids.1).await;
    taint(ids.1).await;
    assert_eq!(come_back(1, 2).await, refused());
    hold(3, ids.2).await;
    taint(ids.0).await;
    assert_eq!(come_back(3, 4).await, refused(), "its root's key is");
    hold(5, authority(1)).await;
    assert_eq!(come_back(5, 6).await, Ok(()), "another's is not");
}

/// An authority with a real certificate and key, in `state`.
fn made(place: Place, state: AuthorityState) -> (AuthorityRecord, SecretKey) {
    let key = SecretKey::generate(Profile::Root.key_kind());
    let template = Template {
        profile: Profile::Root,
        serial: Serial::random(),
        validity: Validity::starting(now(), Profile::Root.default_lifetime(), None),
        public_key: key.public().clone(),
        subject: Some(("Credence".to_owned(), "contract".to_owned())),
        uri: "spiffe://td".to_owned(),
        dns_names: Vec::new(),
        ip_addresses: Vec::new(),
    };
    let signer = SoftwareSigner::try_new(&key).expect("a generated key signs");
    let certificate: Certificate = sign(&template, None, &signer).expect("a root signs itself");
    let record = AuthorityRecord {
        id: AuthorityId::of(certificate.spki_hash()),
        place,
        state,
        certificate,
        parent: (place == Place::Issuing).then(|| authority(1)),
        created: now(),
        activated: (state == AuthorityState::Active).then(now),
        retired: None,
        removed: None,
        automatic: place == Place::Issuing,
        tainted: None,
        stolen: None,
        cross: None,
        offline: None,
        between: Vec::new(),
        arrivals: 1,
    };
    (record, key)
}

/// Holds authorities against their contract; `factory` makes an empty store.
///
/// # Panics
/// Where the contract is broken.
pub async fn authorities_contract<F, Fut, S>(factory: F)
where
    F: Fn() -> Fut,
    Fut: Future<Output = S>,
    S: StoreFixture,
{
    let store = factory().await;
    let authorities = store.authorities();
    let before = store.events().await.len();
    let (root, root_key) = made(Place::Root, AuthorityState::Active);
    let (first, first_key) = made(Place::Issuing, AuthorityState::Active);
    let (next, next_key) = made(Place::Issuing, AuthorityState::Prepared);
    let (again, again_key) = (first.clone(), first_key.copy_for_tests());
    let public = first_key.public().clone();
    let both = vec![(root.clone(), root_key), (first.clone(), first_key)];
    authorities.insert(both, vec![event("root"), event("first")]).await.expect("insert");
    authorities.insert(vec![(next.clone(), next_key)], vec![event("next")]).await.expect("insert");
    assert_eq!(
        authorities.insert(vec![(again, again_key)], vec![event("again")]).await,
        Err(AuthorityError::Exists(first.id))
    );
    assert_eq!(
        authorities.load().await.expect("load"),
        [root.clone(), first.clone(), next.clone()],
        "records read back as they were written, oldest first"
    );
    assert_eq!(authorities.load_key(first.id).await.expect("key").public(), &public);
    assert_eq!(
        authorities.load_key(authority(9)).await.map(drop),
        Err(AuthorityError::NotFound(authority(9)))
    );

    let step = |id: AuthorityId, from: AuthorityState, to: AuthorityState, secs: u64| Transition {
        id,
        from,
        to,
        at: after(secs),
    };
    let (active, prepared) = (AuthorityState::Active, AuthorityState::Prepared);
    let (retired, removed) = (AuthorityState::Retired, AuthorityState::Removed);
    let activate = step(next.id, prepared, active, 1);
    let retire = step(first.id, active, retired, 1);
    assert_eq!(
        authorities.transition(vec![activate], vec![event("two active")]).await,
        Err(AuthorityError::Conflict(next.id)),
        "one of each place is active"
    );
    assert_eq!(
        authorities.transition(vec![retire, step(next.id, active, retired, 1)], vec![event("half")]).await,
        Err(AuthorityError::Conflict(next.id)),
        "all steps or none"
    );
    assert_eq!(authorities.load().await.expect("load")[1], first);
    authorities
        .transition(vec![retire, activate], vec![event("activate"), event("retire")])
        .await
        .expect("both at once");
    let loaded = authorities.load().await.expect("load");
    assert_eq!((loaded[1].state, loaded[1].retired), (retired, Some(after(1))));
    assert_eq!((loaded[2].state, loaded[2].activated), (active, Some(after(1))));

    authorities
        .transition(vec![step(first.id, retired, removed, 2)], vec![event("remove")])
        .await
        .expect("remove");
    assert_eq!(
        authorities.load_key(first.id).await.map(drop),
        Err(AuthorityError::NotFound(first.id)),
        "removal destroys the key"
    );
    assert_eq!(authorities.load().await.expect("load")[1].removed, Some(after(2)));
    assert_eq!(
        authorities.transition(vec![step(first.id, removed, retired, 3)], vec![event("back")]).await,
        Err(AuthorityError::Conflict(first.id)),
        "what was removed never comes back"
    );
    authorities
        .taint(vec![root.id, next.id], Taint::Stolen, after(4), vec![event("taint")])
        .await
        .expect("taint");
    authorities
        .taint(vec![root.id], Taint::Planned, after(5), vec![event("taint again")])
        .await
        .expect("taint");
    let loaded = authorities.load().await.expect("load");
    assert_eq!(
        [loaded[0].tainted, loaded[2].tainted, loaded[0].stolen, loaded[2].stolen],
        [Some(after(4)); 4],
        "the first time stays"
    );
    assert_eq!(
        authorities.taint(vec![authority(9)], Taint::Planned, after(5), vec![event("none")]).await,
        Err(AuthorityError::NotFound(authority(9)))
    );
    let rolled_back = [step(next.id, active, retired, 6), step(next.id, retired, active, 7)];
    for one in rolled_back {
        authorities
            .transition(vec![one], vec![event("roll back")])
            .await
            .expect("a retired one may sign again");
    }
    let again = authorities.load().await.expect("load");
    let again = again.iter().find(|record| record.id == next.id).expect("it is there");
    assert_eq!((again.activated, again.retired), (Some(after(7)), None), "what signs is not retired");
    let objects: Vec<String> = store.events().await.split_off(before).into_iter().map(|e| e.object).collect();
    assert_eq!(
        objects,
        [
            "root",
            "first",
            "next",
            "activate",
            "retire",
            "remove",
            "taint",
            "taint again",
            "roll back",
            "roll back"
        ]
    );
    requests::contract(&factory().await).await;
}

/// Holds what keeps revocations against its contract; `factory` makes an empty one.
///
/// # Panics
/// Where the contract is broken.
pub async fn revocations_contract<F, Fut, S>(factory: F)
where
    F: Fn() -> Fut,
    Fut: Future<Output = S>,
    S: StoreFixture,
{
    revoked_certificates(&factory().await).await;
    revoked_operators(&factory().await).await;
    numbered_lists(&factory().await).await;
}

fn revoked(authority_name: u8, serial: u8, not_after: Timestamp) -> Revoked {
    Revoked {
        authority: authority(authority_name),
        serial: Serial::from_random([serial; 20]),
        at: after(10),
        reason: RevocationReason::KeyCompromise,
        not_after,
    }
}

async fn revoked_certificates(store: &dyn StoreFixture) {
    let (journal, revocations) = (store.journal(), store.revocations());
    for serial in [1, 2] {
        journal.record_intent(intent(1, serial, "web", 100), None, event("intent")).await.expect("intent");
        let issued = result(1, serial, IssueOutcome::Issued(chain()));
        journal.record_result(issued, event("issued")).await.expect("result");
    }
    let before = store.events().await.len();
    let (first, other) = (revoked(1, 2, after(100)), revoked(2, 2, after(50)));
    revocations.revoke(first.clone(), now(), event("revoke")).await.expect("revoke");
    revocations.revoke(other.clone(), now(), event("the same number")).await.expect("of another authority");
    assert_eq!(
        revocations.revoke(first.clone(), now(), event("again")).await,
        Err(RevokeError::Already(after(10))),
        "once is enough"
    );
    assert_eq!(revocations.revoked(now()).await.expect("all"), [first.clone(), other]);
    assert_eq!(revocations.revoked(after(51)).await.expect("unexpired"), [first]);
    let rows = journal.certificates(&CertificateFilter::default()).await.expect("rows");
    assert_eq!(rows.iter().map(|row| row.revoked).collect::<Vec<_>>(), [Some(after(10)), None]);
    for (valid_at, expected) in [(None, 1), (Some(after(100)), 1), (Some(after(101)), 0)] {
        let only = CertificateFilter { revoked_only: true, valid_at, ..CertificateFilter::default() };
        let rows = journal.certificates(&only).await.expect("revoked ones");
        assert_eq!(rows.len(), expected, "{rows:?}");
        assert!(rows.iter().all(|row| row.revoked == Some(after(10))), "{rows:?}");
    }
    assert!(journal.remaining(now()).await.expect("remaining").is_empty(), "nobody counts on a revoked one");
    let objects: Vec<String> = store.events().await.split_off(before).into_iter().map(|e| e.object).collect();
    assert_eq!(objects, ["revoke", "the same number"]);
}

/// A thief who holds a copy of an operator's certificate renews it too.
async fn revoked_operators(store: &dyn StoreFixture) {
    let (journal, revocations) = (store.journal(), store.revocations());
    for serial in [1, 2, 3] {
        let lifetime = 100 * u64::from(serial);
        let intent = Intent { profile: Profile::Operator, node: None, ..intent(1, serial, "ann", lifetime) };
        journal.record_intent(intent, None, event("intent")).await.expect("intent");
        let issued = result(1, serial, IssueOutcome::Issued(chain()));
        journal.record_result(issued, event("issued")).await.expect("result");
    }
    let counts = async |at: Timestamp| -> Vec<u8> {
        let remaining = journal.remaining(at).await.expect("remaining");
        remaining.iter().map(|one| one.serial.as_bytes()[1]).collect()
    };
    assert_eq!(counts(now()).await, [3]);
    for (serial, expected) in [(3, vec![2]), (2, vec![1]), (1, vec![])] {
        let one = revoked(1, serial, after(100 * u64::from(serial)));
        revocations.revoke(one, now(), event("revoke")).await.expect("revoke");
        assert_eq!(counts(now()).await, expected);
        assert!(counts(after(201)).await.is_empty(), "what has ended counts no more");
    }
}

async fn numbered_lists(store: &dyn StoreFixture) {
    let revocations = store.revocations();
    let (issuer, key) = made(Place::Issuing, AuthorityState::Active);
    let id = issuer.id;
    let made = |number| {
        let (this_update, next_update) = (now(), after(1000 + number));
        let template = CrlTemplate { number, this_update, next_update, revoked: Vec::new() };
        let signer = SoftwareSigner::try_new(&key).expect("a generated key signs");
        let crl = sign_crl(&template, &issuer.certificate, &signer).expect("a list");
        ListRecord { authority: id, number, at: after(number), crl: crl.into() }
    };
    let lists: Vec<ListRecord> = (1..=4).map(made).collect();
    let list = |number: usize| lists[number - 1].clone();
    let reserve = async || revocations.reserve_list(id, now()).await.expect("a number");
    assert_eq!((reserve().await, reserve().await, reserve().await), (1, 2, 3), "numbers grow");
    assert_eq!(revocations.reserve_list(authority(9), now()).await, Ok(1), "for each authority");
    assert_eq!(revocations.lists().await, Ok(Vec::new()), "a number is no list");
    let before = store.events().await.len();
    revocations.keep_list(list(2), event("second")).await.expect("list");
    assert_eq!(revocations.lists().await.expect("lists"), [list(2)], "a list reads back as it was written");
    for wrong in [list(1), list(2), list(4)] {
        let (authority, number) = (wrong.authority, wrong.number);
        assert_eq!(
            revocations.keep_list(wrong, event("not reserved")).await,
            Err(JournalError::NotReserved { authority, number }),
            "a number is used once, reserved before, and never goes back"
        );
    }
    revocations.keep_list(list(3), event("third")).await.expect("list");
    assert_eq!(revocations.lists().await.expect("lists"), [list(3)], "the newest of each");
    assert_eq!(reserve().await, 4);
    let objects: Vec<String> = store.events().await.split_off(before).into_iter().map(|e| e.object).collect();
    assert_eq!(objects, ["second", "third"]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::MemoryStore;

    #[async_trait]
    impl StoreFixture for MemoryStore {
        fn journal(&self) -> &dyn Journal {
            self
        }
        fn authorities(&self) -> &dyn Authorities {
            self
        }
        fn revocations(&self) -> &dyn Revocations {
            self
        }
        fn leaves(&self) -> &dyn LeafStore {
            self
        }
        async fn add_token(&self, id: &str, expires: Timestamp) {
            Self::add_token(self, id, expires);
        }
        async fn revoke_token(&self, id: &str) {
            Self::revoke_token(self, id);
        }
        async fn open_recovery(&self, until: Timestamp) -> u64 {
            Self::open_recovery(self, until)
        }
        async fn close_recovery(&self) {
            Self::close_recovery(self);
        }
        async fn bind(&self, created: Timestamp) {
            Self::bind(self, &NodeId::parse("web-1").unwrap(), Some(created));
        }
        async fn unbind(&self) {
            Self::bind(self, &NodeId::parse("web-1").unwrap(), None);
        }
        async fn events(&self) -> Vec<Event> {
            Self::events(self)
        }
    }

    #[tokio::test]
    async fn the_fake_keeps_the_contract() {
        journal_contract(async || MemoryStore::new()).await;
        leaves_contract(async || MemoryStore::new()).await;
        authorities_contract(async || MemoryStore::new()).await;
        revocations_contract(async || MemoryStore::new()).await;
    }
}
