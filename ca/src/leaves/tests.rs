//! The whole way, with an issuer elsewhere that does what it is told: who is asked, what is taken, what is written
//! down.

use std::collections::BTreeSet;

use audit::{Action as Done, Actor, Event as Row, Outcome, Refusals};
use certs::{Clock, ManualClock, Profile, Timestamp};
use spiffe::{AuthorityId, NodeId, Purpose, TrustDomain, verify_svid};

use super::*;
use crate::{
    Manager,
    dependents::{Acknowledged, BundleFile, Dependent, Holding, Presence},
    migration::Begin,
    policy::{Lifetimes, Policy},
    ports::{CertificateFilter, Journal, LeafRequest},
    testing::{Call, FakeDependents, FakeVault, Manner, MemoryStore, request},
};

#[derive(Debug, Default)]
struct Heard(std::sync::Mutex<Vec<Row>>);

impl Refusals for Heard {
    fn refuse(&self, event: Row) {
        self.0.lock().unwrap().push(event);
    }
}

/// What outlives a process.
struct World {
    store: MemoryStore,
    clock: ManualClock,
    heard: Arc<Heard>,
    vault: FakeVault,
    dependents: FakeDependents,
    following: FakeFollowing,
    lists: Option<Duration>,
}

/// The ways into one process.
struct Process {
    ca: Handle,
    desk: LeafDesk,
    outsiders: watch::Sender<Arc<Vec<Outsider>>>,
    named: watch::Sender<Arc<BTreeSet<IssuerName>>>,
}

/// What was seen of leaves.
#[derive(Debug, Clone, Default)]
struct FakeFollowing(Arc<std::sync::Mutex<Followers>>);

impl Following for FakeFollowing {
    fn followers(&self, _: &IssuerName) -> Followers {
        self.0.lock().unwrap().clone()
    }
}

impl World {
    async fn new() -> Self {
        let clock = ManualClock::new(Timestamp::from_unix_secs(1_800_000_000));
        let world = Self {
            store: MemoryStore::new(),
            vault: FakeVault::new("corp", clock.now()),
            clock,
            heard: Arc::default(),
            dependents: FakeDependents::default(),
            following: FakeFollowing::default(),
            lists: None,
        };
        Manager::initialise(&world.deps(), Actor::Host).await.unwrap();
        world
    }

    fn deps(&self) -> Deps {
        Deps {
            authorities: Arc::new(self.store.clone()),
            journal: Arc::new(self.store.clone()),
            revocations: Arc::new(self.store.clone()),
            clock: Arc::new(self.clock.clone()),
            refusals: Arc::clone(&self.heard) as Arc<dyn Refusals>,
            policy: Policy {
                trust_domain: TrustDomain::parse("td").unwrap(),
                lifetimes: Lifetimes::default(),
                max_connection: Duration::from_secs(3600),
                lists: self.lists,
                dev: false,
            },
            epoch: 7,
        }
    }

    /// One life of the process: runs it while `body` goes on, and kills it after.
    async fn life<T>(&self, body: impl AsyncFnOnce(Process) -> T) -> T {
        self.life_with(vec![self.vault.outsider().clone()], body).await
    }

    /// One in which the records of these issuers open at the start.
    async fn life_with<T>(&self, opened: Vec<Outsider>, body: impl AsyncFnOnce(Process) -> T) -> T {
        let deps = self.deps();
        let manager = Manager::open(deps.clone()).await.unwrap();
        let ca = manager.handle();
        let (opened, outsiders) = watch::channel(Arc::new(opened));
        let (_pause, pause) = watch::channel(None);
        let (named, named_read) = watch::channel(Arc::default());
        let leaves = LeavesDeps {
            store: Arc::new(self.store.clone()),
            audit: Arc::new(self.store.clone()),
            signer: Arc::new(self.vault.clone()),
            outsiders,
            named: named_read,
            pause,
        };
        let leaves = Leaves::open(leaves, &deps, ca.clone()).await.unwrap();
        let process = Process { ca, desk: leaves.desk(), outsiders: opened, named };
        let seen: Arc<dyn Dependents> = Arc::new(self.dependents.clone());
        let following: Arc<dyn Following> = Arc::new(self.following.clone());
        tokio::select! {
            () = Box::pin(manager.run(Arc::clone(&seen), CancellationToken::new())) => unreachable!(),
            () = Box::pin(leaves.run(seen, following, CancellationToken::new())) => unreachable!(),
            result = body(process) => result,
        }
    }

    fn after(&self, secs: u64) {
        self.clock.advance(Duration::from_secs(secs));
    }

    /// A connected node that has acknowledged these roots.
    fn node(&self, roots: impl IntoIterator<Item = AuthorityId>) {
        self.node_showing(roots, Vec::new());
    }

    fn node_showing(&self, roots: impl IntoIterator<Item = AuthorityId>, holds: Vec<Holding>) {
        let connected = Acknowledged {
            roots: Some(roots.into_iter().collect::<BTreeSet<_>>()),
            lists: None,
            refusal: None,
            proven: BTreeSet::new(),
            file: BundleFile::Current,
        };
        let name = "web-1".to_owned();
        self.dependents.set(vec![Dependent {
            name,
            presence: Presence::Here,
            known: Some(connected),
            holds,
        }]);
    }

    async fn unknown(&self) -> Vec<LeafRequest> {
        let (name, now) = (&self.vault.outsider().source.name, self.clock.now());
        self.store.unknown_leaves(name, now + Duration::from_secs(1), now).await.unwrap()
    }

    async fn count(&self) -> u64 {
        let authority = self.vault.outsider().authority();
        self.store.unexpired_leaves(authority, self.clock.now()).await.unwrap().count
    }
}

impl Process {
    async fn migrate(&self, to: Option<&str>) -> Result<(), MigrateError> {
        self.wish(MigrationWish::Begin(begin(to.unwrap_or("builtin"), &[]))).await
    }

    async fn wish(&self, wish: MigrationWish) -> Result<(), MigrateError> {
        self.desk.migrate(wish, Asked { actor: Actor::Host, reason: "test".to_owned() }).await
    }

    async fn until(&self, wanted: impl Fn(&LeavesStatus) -> bool) -> Arc<LeavesStatus> {
        let mut status = self.desk.status();
        Arc::clone(&*status.wait_for(|status| wanted(status)).await.unwrap())
    }

    /// Waits until the issuer elsewhere is asked, or is not asked any more.
    async fn asks(&self, is_asked: bool) {
        let mut routes = self.desk.routes.clone();
        routes.wait_for(|routes| routes.ways.is_empty() != is_asked).await.unwrap();
    }

    /// Who signs leaves of `spiffe://td/web`.
    fn signs(&self) -> AuthorityId {
        let web = spiffe::SpiffeId::parse("spiffe://td/web").unwrap();
        self.desk.signers().borrow().of(&web, None).authority.unwrap()
    }

    async fn leaf(&self) -> Result<IssuedSvid, IssueError> {
        let key = SecretKey::generate(Profile::Workload.key_kind());
        let request = SvidRequest { public_key: key.public().clone(), ..request("/web", Purpose::Renewal) };
        self.desk.issue_for_key(request, &key).await
    }

    fn roots(&self) -> Vec<AuthorityId> {
        let trust = self.desk.trust();
        let trust = trust.borrow();
        trust.own().authorities().iter().map(|root| AuthorityId::of(root.spki_hash())).collect()
    }
}

fn begin(to: &str, stages: &[u8]) -> Begin {
    let (to, hold) = (IssuerName::parse(to).unwrap(), Duration::from_secs(30));
    Begin { from: None, to, stages: stages.to_vec(), hold, is_hurried: false }
}

/// How the one issuer does.
fn health(status: &LeavesStatus) -> Health {
    status.health.values().next().cloned().unwrap_or_default()
}

fn stands(status: &LeavesStatus) -> Vec<AuthorityState> {
    status.issuers.iter().map(|one| one.state).collect()
}

/// A world whose issuer signs, with nobody connected.
async fn signing() -> World {
    let world = World::new().await;
    world
        .life(async |process| {
            process.migrate(Some("corp")).await.unwrap();
            process.asks(true).await;
        })
        .await;
    world
}

#[tokio::test]
async fn an_issuer_whose_record_no_longer_opens_is_believed_as_before_and_nobody_signs_in_its_place() {
    let world = signing().await;
    let root = world.vault.outsider().root();
    world
        .life(async |process| {
            process.leaf().await.unwrap();
            world.vault.behave(Manner::Sealed);
            process.outsiders.send_replace(Arc::default());
            // Everything runs in this one task: what is ready is taken before this goes on.
            tokio::task::yield_now().await;
            assert_eq!(
                process.migrate(Some("corp")).await,
                Err(MigrateError::NotFound(IssuerName::parse("corp").unwrap()))
            );
            assert!(process.roots().contains(&root), "its leaves are in use");
            let error = process.leaf().await.unwrap_err().to_string();
            assert!(error.contains("issuer corp"), "nobody signs in its place: {error}");
        })
        .await;
    // It is left when somebody says so.
    world
        .life(async |process| {
            process.outsiders.send_replace(Arc::default());
            process.migrate(None).await.unwrap();
            process.asks(false).await;
            process.leaf().await.unwrap();
        })
        .await;
}

#[tokio::test]
async fn an_issuer_that_was_left_is_not_forgotten_while_its_record_does_not_open_and_a_leaf_of_it_may_live() {
    let world = signing().await;
    let root = world.vault.outsider().root();
    world
        .life(async |process| {
            process.leaf().await.unwrap();
            process.migrate(None).await.unwrap();
            process.until(|status| stands(status) == [AuthorityState::Retired]).await;
        })
        .await;
    let longest = Profile::Workload.max_lifetime().as_secs();
    world
        .life_with(Vec::new(), async |process| {
            assert!(!process.roots().contains(&root));
            for _ in 0..4 {
                world.after(600);
                tokio::task::yield_now().await;
            }
            process.outsiders.send_replace(Arc::new(vec![world.vault.outsider().clone()]));
            let mut trust = process.desk.trust();
            trust.wait_for(|trust| trust.own().authorities().len() == 2).await.unwrap();
            assert!(process.roots().contains(&root), "its leaves are believed again");
        })
        .await;
    world
        .life_with(Vec::new(), async |process| {
            world.after(longest);
            process.until(|status| status.issuers.is_empty()).await;
        })
        .await;
}

#[tokio::test]
async fn nothing_of_it_is_delivered_before_every_connected_node_has_acknowledged_its_root() {
    let world = World::new().await;
    let root = world.vault.outsider().root();
    world
        .life(async |process| {
            let own = process.ca.active().borrow().unwrap().id;
            let before = process.roots();
            world.node(before.iter().copied());
            assert_eq!(
                process.migrate(Some("other")).await,
                Err(MigrateError::NotFound(IssuerName::parse("other").unwrap()))
            );
            process.migrate(Some("corp")).await.unwrap();
            assert!(process.roots().contains(&root), "workloads get its root first");
            assert!(
                !process.ca.trust().borrow().own().authorities().contains(&world.vault.outsider().anchor)
            );
            let status = process.until(|status| !status.issuers.is_empty()).await;
            assert_eq!(stands(&status), [AuthorityState::Prepared]);
            world.after(2);
            let status = process.until(|status| !status.issuers[0].waits_for.is_empty()).await;
            assert_eq!(status.issuers[0].waits_for[0].name, "web-1");
            let leaf = process.leaf().await.unwrap();
            assert_eq!((leaf.authority, world.vault.asked()), (own, 0), "the built-in one signs meanwhile");
            assert_eq!(process.signs(), own);

            world.node(before.iter().copied().chain([root]));
            world.after(2);
            process.asks(true).await;
            let authority = process.signs();
            assert_eq!(
                authority,
                world.vault.outsider().authority(),
                "leaves of the one before are replaced"
            );
            let leaf = process.leaf().await.unwrap();
            assert_eq!((leaf.authority, world.vault.asked()), (authority, 1));
            let trust = Arc::clone(&process.desk.trust().borrow());
            // What a peer believes, by the roots alone.
            let trust = Trust::new(spiffe::TrustBundle::clone(trust.own()));
            let now = world.clock.now();
            assert!(verify_svid(&leaf.chain, &trust, now, certs::Usage::Any).is_ok());
            let ours = Arc::clone(&process.ca.trust().borrow());
            assert!(
                verify_svid(&leaf.chain, &ours, now, certs::Usage::Any).is_err(),
                "no door of ours opens"
            );

            // Nodes, this server and operators stay with ours.
            for (path, purpose) in
                [("/credence/node/web-1", Purpose::NodeRenewal), ("/credence/server", Purpose::Server)]
            {
                let key = SecretKey::generate(Profile::Node.key_kind());
                let asked = SvidRequest { public_key: key.public().clone(), ..request(path, purpose) };
                assert_eq!(process.desk.issue_for_key(asked, &key).await.unwrap().authority, own, "{path}");
            }
            assert_eq!(world.vault.asked(), 1);
        })
        .await;
    let words = |row: &Row| (row.action, row.details.get("leaves").cloned().unwrap_or_default());
    let rows: Vec<_> = world.store.events().iter().map(words).filter(|(_, word)| !word.is_empty()).collect();
    assert_eq!(rows, [(Done::IssuerSet, "prepared".to_owned()), (Done::IssuerSet, "active".to_owned())]);
}

#[tokio::test]
async fn a_request_is_written_down_before_it_is_made_and_its_certificate_when_it_has_passed() {
    let world = signing().await;
    let leaf = world.life(async |process| process.leaf().await.unwrap()).await;
    let rows = world.store.certificates(&CertificateFilter::default()).await.unwrap();
    let [row] = rows.as_slice() else { panic!("{rows:?}") };
    assert_eq!((&row.intent.serial, row.intent.authority), (leaf.chain.leaf().serial(), leaf.authority));
    assert_eq!((row.intent.epoch, row.intent.not_after), (7, leaf.chain.leaf().not_after()));
    assert_eq!(row.chain.len(), 2, "with what leads to the root, and not the root");
    let events = world.store.events();
    let [.., intent, issue] = events.as_slice() else { panic!("{events:?}") };
    assert_eq!((intent.action, issue.action), (Done::CertificateIntent, Done::CertificateIssue));
    assert_eq!(
        (&intent.details["issuer"], &intent.details["role"]),
        (&"corp".to_owned(), &"svid".to_owned())
    );
    assert!(!intent.details.contains_key("serial"), "that is for the issuer to say: {intent:?}");
    assert_eq!(issue.details["serial"], leaf.chain.leaf().serial().to_string());
    assert_eq!(intent.request_id, issue.request_id);
    assert!(world.unknown().await.is_empty());

    world.store.fail(Call::Intent);
    let refused = world.life(async |process| process.leaf().await).await;
    assert!(matches!(refused, Err(IssueError::Unavailable(_))), "{refused:?}");
    assert_eq!(world.vault.asked(), 1, "what is not written down is not asked for");
}

#[tokio::test]
async fn what_is_not_exactly_what_was_asked_for_is_thrown_away() {
    for (manner, told) in [
        (Manner::WrongKey, "its key is another"),
        (Manner::WrongName, "it names spiffe://td/credence/server"),
        (Manner::TooLong, "longer than was asked for"),
        (Manner::WrongSigner, "is no issuing authority of ours"),
    ] {
        let world = signing().await;
        world.vault.behave(manner);
        world
            .life(async |process| {
                let error = process.leaf().await.unwrap_err();
                let IssueError::BadOutput(words) = &error else { panic!("{manner:?}: {error:?}") };
                assert!(words.contains(told), "{manner:?}: {words}");
                let status = process.until(|status| health(status).problem.is_some()).await;
                assert!(health(&status).problem.unwrap().contains(told));
            })
            .await;
        let rows = world.store.certificates(&CertificateFilter::default()).await.unwrap();
        assert!(rows.is_empty() && world.count().await == 0, "{manner:?}: {rows:?}");
        let last = world.store.events().pop().unwrap();
        assert_eq!((last.action, last.outcome), (Done::CertificateFail, Outcome::Failed), "{manner:?}");
    }
}

#[tokio::test]
async fn a_number_that_was_given_before_is_refused() {
    let world = signing().await;
    world.vault.behave(Manner::SameSerial);
    world
        .life(async |process| {
            process.leaf().await.unwrap();
            let again = process.leaf().await;
            assert!(matches!(again, Err(IssueError::BadOutput(_))), "{again:?}");
        })
        .await;
    assert_eq!((world.count().await, world.unknown().await.len()), (1, 0));
}

#[tokio::test]
async fn an_issuer_that_is_away_rests_after_five_failures_and_costs_the_built_in_one_nothing() {
    let world = signing().await;
    world.vault.behave(Manner::Sealed);
    world
        .life(async |process| {
            for _ in 0..5 {
                let error = process.leaf().await.unwrap_err();
                assert_eq!(error.to_string(), "issuer is unavailable: issuer corp: Vault is sealed");
            }
            let error = process.leaf().await.unwrap_err().to_string();
            assert!(error.contains("rests until") && error.contains("Vault is sealed"), "{error}");
            assert_eq!(world.vault.asked(), 5, "it is left alone");
            let status = process.until(|status| health(status).failures == 5).await;
            assert_eq!(health(&status).problem.as_deref(), Some("Vault is sealed"));
            process.ca.issue(request("/credence/node/web-1", Purpose::NodeRenewal)).await.unwrap();

            world.vault.behave(Manner::Good);
            world.after(2);
            process.leaf().await.unwrap();
            process.until(|status| health(status) == Health::default()).await;
        })
        .await;
    assert_eq!(
        (world.count().await, world.unknown().await.len()),
        (1, 0),
        "it was said that nothing is signed"
    );
}

#[tokio::test]
async fn what_never_answers_is_given_up_and_its_outcome_stays_unknown_until_it_would_have_ended() {
    let world = signing().await;
    world.vault.behave(Manner::Silent);
    world
        .life(async |process| {
            let asking = process.leaf();
            let time = async {
                while world.vault.asked() == 0 {
                    tokio::task::yield_now().await;
                }
                // A built-in certificate does not wait for it.
                process.ca.issue(request("/credence/node/web-1", Purpose::NodeRenewal)).await.unwrap();
                world.after(11);
            };
            let (answer, ()) = tokio::join!(asking, time);
            let error = answer.unwrap_err().to_string();
            assert!(error.contains("no answer within 10s"), "{error}");
        })
        .await;
    world.vault.behave(Manner::Lost);
    world.life(async |process| process.leaf().await.unwrap_err()).await;
    // And one that a kill leaves behind.
    world.vault.behave(Manner::Silent);
    world
        .life(async |process| {
            tokio::select! {
                _ = process.leaf() => unreachable!("it never answers"),
                () = async { while world.vault.asked() < 3 { tokio::task::yield_now().await } } => {}
            }
        })
        .await;
    world.life(async |_| assert_eq!(world.unknown().await.len(), 3)).await;
    assert_eq!(world.count().await, 3, "each of them may have been signed");
    world.after(13 * 3600);
    assert_eq!((world.unknown().await.len(), world.count().await), (0, 0));
}

#[tokio::test]
async fn a_refusal_of_one_request_stops_nothing_else() {
    let world = signing().await;
    world.vault.behave(Manner::Refuses);
    world
        .life(async |process| {
            for _ in 0..8 {
                let error = process.leaf().await.unwrap_err().to_string();
                assert!(error.contains("unknown role: svid"), "{error}");
            }
            assert_eq!(world.vault.asked(), 8);
            process.until(|status| health(status).failures == 8).await;
        })
        .await;
}

#[tokio::test]
async fn the_root_stays_until_the_last_leaf_has_ended_also_over_a_restart() {
    let world = signing().await;
    let root = world.vault.outsider().root();
    world
        .life(async |process| {
            let own = process.ca.active().borrow().unwrap().id;
            process.leaf().await.unwrap();
            process.migrate(None).await.unwrap();
            process.asks(false).await;
            assert_eq!(process.leaf().await.unwrap().authority, own, "at once");
            assert_eq!(process.signs(), own);
            assert!(process.roots().contains(&root));
            world.after(200);
            let status = process.until(|status| status.issuers[0].leaves.is_some()).await;
            assert_eq!(status.issuers[0].leaves.unwrap().count, 1);
        })
        .await;
    world.after(6 * 3600);
    world
        .life(async |process| {
            assert!(process.roots().contains(&root), "a process begins with it");
            world.after(7 * 3600);
            process.until(|status| status.issuers.is_empty()).await;
            assert!(!process.roots().contains(&root));
        })
        .await;
    let last = world.store.events().pop().unwrap();
    assert_eq!((last.action, &last.details["leaves"]), (Done::IssuerSet, &"removed".to_owned()));
}

#[tokio::test]
async fn whoever_waits_when_the_built_in_one_signs_again_gets_a_leaf_of_it() {
    let world = signing().await;
    world.vault.behave(Manner::Silent);
    world
        .life(async |process| {
            let own = process.ca.active().borrow().unwrap().id;
            // As many as it is asked for at a time, and more that wait.
            let asked = futures::future::join_all((0..36).map(|_| process.leaf()));
            let back = async {
                while world.vault.asked() < 32 {
                    tokio::task::yield_now().await;
                }
                process.migrate(None).await.unwrap();
                process.asks(false).await;
                world.after(11);
            };
            let (answers, ()) = tokio::join!(asked, back);
            let (of_own, lost): (Vec<_>, Vec<_>) = answers.into_iter().partition(Result::is_ok);
            assert_eq!((of_own.len(), lost.len()), (4, 32));
            assert!(of_own.iter().all(|leaf| leaf.as_ref().unwrap().authority == own));
        })
        .await;
}

#[tokio::test]
async fn a_change_that_is_not_kept_changes_nothing_and_is_tried_again() {
    let world = World::new().await;
    world.store.fail(Call::DefaultIssuer);
    world
        .life(async |process| {
            let refused = process.migrate(Some("corp")).await;
            assert!(matches!(refused, Err(MigrateError::Failed(_))), "{refused:?}");
            world.store.heal(Call::DefaultIssuer);
            world.store.fail(Call::LeafIssuers);
            process.migrate(Some("corp")).await.unwrap();
            assert!(!process.roots().contains(&world.vault.outsider().root()));
            world.store.heal(Call::LeafIssuers);
            world.after(120);
            process.asks(true).await;
        })
        .await;
}

#[tokio::test]
async fn nobody_else_signs_leaves_while_proxies_check_against_lists_of_ours() {
    let world = World { lists: Some(Duration::from_secs(7 * 86_400)), ..World::new().await };
    world
        .life(async |process| {
            let mut status = process.ca.status();
            status.wait_for(|status| status.lists.is_some()).await.unwrap();
            assert_eq!(process.migrate(Some("corp")).await, Err(MigrateError::Lists));
            assert!(process.desk.status().borrow().issuers.is_empty());
            let already = WishRefusal::Already(IssuerName::builtin());
            assert_eq!(process.migrate(None).await, Err(MigrateError::Refused(already)));
        })
        .await;
}

#[tokio::test]
async fn the_names_of_a_node_and_a_lifetime_beyond_policy_never_reach_it() {
    let world = signing().await;
    world
        .life(async |process| {
            let key = SecretKey::generate(Profile::Workload.key_kind());
            let of = |change: fn(&mut SvidRequest)| {
                let mut asked = SvidRequest {
                    public_key: key.public().clone(),
                    node: NodeId::parse("web-1").ok(),
                    ..request("/web", Purpose::Renewal)
                };
                change(&mut asked);
                asked
            };
            for change in [
                (|asked| asked.lifetime = Duration::from_secs(90 * 86_400)) as fn(&mut SvidRequest),
                |asked| asked.dns_names = vec!["evil.example".to_owned()],
                |asked| asked.id = spiffe::SpiffeId::parse("spiffe://td/credence/node/web-1").unwrap(),
                |asked| asked.id = spiffe::SpiffeId::parse("spiffe://other/web").unwrap(),
            ] {
                let refused = process.desk.issue_for_key(of(change), &key).await;
                assert!(matches!(refused, Err(IssueError::Refused(_))), "{refused:?}");
            }
        })
        .await;
    assert_eq!((world.vault.asked(), world.heard.0.lock().unwrap().len()), (0, 4));
}

#[tokio::test]
async fn leaves_move_stage_by_stage_and_back_and_a_restart_goes_on_where_it_was() {
    let world = World::new().await;
    let of_corp = world.vault.outsider().authority();
    let moved = |process: &Process| process.desk.status().borrow().moved;
    world
        .life(async |process| {
            let own = process.signs();
            // /web is in the 74th hundredth.
            process.wish(MigrationWish::Begin(begin("corp", &[50, 75, 100]))).await.unwrap();
            process.until(|status| status.moved == 50).await;
            assert_eq!((process.signs(), process.leaf().await.unwrap().authority), (own, own));
            let corp = process.migrate(Some("corp")).await;
            assert_eq!(corp, Ok(()), "all at once after all: nobody is behind");
            process.until(|status| status.default.migration.is_none()).await;
            assert_eq!(process.signs(), of_corp);
            process.migrate(None).await.unwrap();
            assert_eq!(process.signs(), own);

            process.wish(MigrationWish::Begin(begin("corp", &[50, 75, 100]))).await.unwrap();
            process.until(|status| status.moved == 50).await;
            world.after(31);
            process.until(|status| status.moved == 75).await;
            assert_eq!((process.signs(), process.leaf().await.unwrap().authority), (of_corp, of_corp));
            let others = request("/payments", Purpose::Delivery);
            assert_eq!(process.desk.signers().borrow().of(&others.id, None).authority, Some(own));
        })
        .await;
    world.following.0.lock().unwrap().behind = 1;
    world
        .life(async |process| {
            assert_eq!(process.signs(), of_corp, "before anything runs");
            world.after(300);
            process.until(|status| status.followers.as_ref().is_some_and(|all| all.behind == 1)).await;
            assert_eq!(moved(&process), 75, "one has not acknowledged");
            process.wish(MigrationWish::Abort).await.unwrap();
            process.until(|status| stands(status) == [AuthorityState::Retired]).await;
            assert_ne!(process.signs(), of_corp);
        })
        .await;
}

#[tokio::test]
async fn trouble_stops_a_migration_and_an_operator_goes_on() {
    let world = World::new().await;
    world
        .life(async |process| {
            process.wish(MigrationWish::Begin(begin("corp", &[100]))).await.unwrap();
            process.until(|status| status.moved == 100).await;
            *world.following.0.lock().unwrap() = Followers { failed: 7, ..Followers::default() };
            world.after(2);
            let stopped = |status: &LeavesStatus| {
                status.default.migration.as_ref().is_some_and(|migration| migration.stopped.is_some())
            };
            let status = process.until(stopped).await;
            assert_eq!((status.moved, stands(&status)), (0, vec![AuthorityState::Active]));
            let (web, signers) = (request("/web", Purpose::Renewal).id, process.desk.signers());
            let of_corp = world.vault.outsider().authority();
            assert!(signers.borrow().of(&web, None).accepted.contains(&of_corp), "nobody is hurried back");
            process.wish(MigrationWish::Resume).await.unwrap();
            process.until(|status| status.moved == 100).await;
        })
        .await;
    let rows = world.store.events();
    let stopped = rows.iter().find(|row| row.details.get("migration").is_some_and(|word| word == "stopped"));
    assert_eq!(stopped.unwrap().reason, "7 of 7 leaves within 60 s failed or were refused");
}

#[tokio::test]
async fn a_binding_that_names_an_issuer_has_its_leaves_of_it_and_the_rest_stays() {
    let world = World::new().await;
    let (root, of_corp) = (world.vault.outsider().root(), world.vault.outsider().authority());
    let corp = IssuerName::parse("corp").unwrap();
    world
        .life(async |process| {
            let own = process.signs();
            let of_binding = async || {
                let key = SecretKey::generate(Profile::Workload.key_kind());
                let asked = SvidRequest {
                    public_key: key.public().clone(),
                    issuer: Some(corp.clone()),
                    ..request("/web", Purpose::Renewal)
                };
                process.desk.issue_for_key(asked, &key).await.unwrap().authority
            };
            world.node(process.roots());
            process.named.send_replace(Arc::new([corp.clone(), IssuerName::builtin()].into()));
            process.until(|status| stands(status) == [AuthorityState::Prepared]).await;
            assert_eq!(of_binding().await, own, "the default signs until its root is with everybody");
            world.node(process.roots().into_iter().chain([root]));
            world.after(2);
            process.asks(true).await;
            assert_eq!((of_binding().await, process.leaf().await.unwrap().authority), (of_corp, own));
            assert_eq!(process.desk.status().borrow().default, DefaultIssuer::default());
            // The built-in one is left by other means, and whoever names one that is left has the default.
            let hurried = |from: Option<IssuerName>, to: &str| {
                MigrationWish::Begin(Begin { from, is_hurried: true, ..begin(to, &[]) })
            };
            let refused = process.wish(hurried(None, "corp")).await;
            assert_eq!(refused, Err(MigrateError::Refused(WishRefusal::LeavesBuiltin)));
            process.wish(hurried(Some(corp.clone()), "builtin")).await.unwrap();
            assert_eq!(of_binding().await, own);
            process.migrate(Some("corp")).await.unwrap();
            process.until(|status| status.default.migration.is_none()).await;
            assert_eq!(of_binding().await, of_corp, "it is trusted again");
            process.migrate(None).await.unwrap();
            process.named.send_replace(Arc::default());
            process.until(|status| stands(status) == [AuthorityState::Retired]).await;
            assert_eq!(of_binding().await, own);
        })
        .await;
}

#[tokio::test]
async fn another_signs_in_the_place_of_one_that_rests_only_where_an_operator_said_so() {
    let world = signing().await;
    let outsider = Outsider { fallback: Some(IssuerName::builtin()), ..world.vault.outsider().clone() };
    world.vault.behave(Manner::Sealed);
    // What cannot be put on record at once is so later.
    world.store.fail(Call::Append);
    world
        .life(async |process| {
            let own = process.ca.active().borrow().unwrap().id;
            process.outsiders.send_replace(Arc::new(vec![outsider.clone()]));
            let mut signers = process.desk.signers();
            let has_fallback =
                |signers: &Arc<Signers>| signers.outside.values().any(|one| one.fallback.is_some());
            signers.wait_for(has_fallback).await.unwrap();
            for _ in 0..5 {
                process.leaf().await.unwrap_err();
            }
            assert_eq!(process.leaf().await.unwrap().authority, own);
            assert_eq!(process.signs(), outsider.authority(), "it is asked again when it has rested");
            let web = request("/web", Purpose::Renewal).id;
            assert!(process.desk.signers().borrow().of(&web, None).fallback == Some(own));
            process.until(|status| health(status).stands_in == Some(IssuerName::builtin())).await;
            assert!(world.store.failed(Call::Append) > 0);
            world.store.heal(Call::Append);
            world.after(2);
            let is_told = || world.store.events().iter().any(|row| row.action == Done::IssuerFallback);
            while !is_told() {
                tokio::task::yield_now().await;
            }
            world.vault.behave(Manner::Good);
            world.after(2);
            assert_eq!(process.leaf().await.unwrap().authority, outsider.authority());
            process.until(|status| health(status) == Health::default()).await;
            tokio::task::yield_now().await;
        })
        .await;
    let rows = world.store.events();
    let told = rows.iter().filter(|row| row.action == Done::IssuerFallback);
    let told: Vec<_> = told.map(|row| (row.reason.as_str(), row.details["signs_instead"].as_str())).collect();
    assert_eq!(told, [("Vault is sealed", "builtin"), ("", "nobody")]);
}

#[tokio::test]
async fn another_root_of_an_issuer_signs_when_everybody_believes_it_and_the_one_before_until_then() {
    let world = signing().await;
    let first = world.vault.outsider().clone();
    let second = FakeVault::new("corp", world.clock.now());
    let next =
        Outsider { source: Source { generation: 1, ..first.source.clone() }, ..second.outsider().clone() };
    world.vault.follow(&second);
    world
        .life(async |process| {
            process.leaf().await.unwrap();
            world.node(process.roots());
            process.outsiders.send_replace(Arc::new(vec![next.clone(), first.clone()]));
            process.until(|status| status.issuers.len() == 2).await;
            assert!(process.roots().contains(&next.root()));
            assert_eq!(process.leaf().await.unwrap().authority, first.authority());
            world.node(process.roots());
            world.after(2);
            let turned = [AuthorityState::Retired, AuthorityState::Active];
            process.until(|status| stands(status) == turned).await;
            assert_eq!(process.signs(), next.authority());
            assert_eq!(process.leaf().await.unwrap().authority, next.authority());
            assert!(process.roots().contains(&first.root()), "leaves under it are in use");
            // Back to the first: that is the root of now again.
            process.outsiders.send_replace(Arc::new(vec![first.clone(), next.clone()]));
            let back = [AuthorityState::Active, AuthorityState::Retired];
            process.until(|status| stands(status) == back).await;
            assert_eq!(process.leaf().await.unwrap().authority, first.authority());
        })
        .await;
}

#[tokio::test]
async fn one_that_is_left_in_a_hurry_is_believed_until_nobody_shows_it() {
    let world = signing().await;
    let (root, of_corp) = (world.vault.outsider().root(), world.vault.outsider().authority());
    world
        .life(async |process| {
            let leaf = process.leaf().await.unwrap();
            let id = request("/web", Purpose::Renewal).id;
            let until = leaf.chain.leaf().not_after();
            let holding = Holding { id, authority: of_corp, serial: None, until };
            world.node_showing(process.roots(), vec![holding]);
            let hurried = Begin { is_hurried: true, ..begin("builtin", &[]) };
            process.wish(MigrationWish::Begin(hurried)).await.unwrap();
            world.after(61);
            process.until(|status| status.issuers[0].waits_for.len() == 1).await;
            assert!(process.desk.signers().borrow().hurries(of_corp));
            assert!(process.roots().contains(&root));
            world.node(process.roots());
            world.after(2);
            process.until(|status| status.issuers.is_empty()).await;
            assert!(!process.roots().contains(&root), "its leaf has not ended, and nobody shows it");
        })
        .await;
}
