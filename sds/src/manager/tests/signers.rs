//! Who signs whose leaves, and what is replaced when that changes.

use std::collections::BTreeSet;

use spiffe::{AuthorityId, Division, IssuerName, OutsideSigner, Share};

use super::*;
use crate::IssuerCounters;

fn named(name: &str) -> IssuerName {
    IssuerName::parse(name).unwrap()
}

fn authority(number: u8) -> AuthorityId {
    AuthorityId::of(certs::SpkiHash([number; 32]))
}

/// `corp` may sign, by the authority of that number, and has the built-in one sign in its place.
fn with_corp(builtin: AuthorityId, corp: u8) -> Signers {
    let corp = OutsideSigner { authority: authority(corp), fallback: Some(IssuerName::builtin()) };
    Signers { outside: [(named("corp"), corp)].into(), ..Signers::builtin(Some(builtin)) }
}

fn at_once() -> SdsSettings {
    SdsSettings { authority_spread: Duration::ZERO, ..settings() }
}

impl World {
    /// Who asked since then, oldest first, and whom its binding names.
    fn asked_since(&self, count: usize) -> Vec<(String, Option<String>)> {
        let of = |one: &SvidRequest| (one.id.path().to_owned(), one.issuer.as_ref().map(ToString::to_string));
        self.issuer.seen().iter().skip(count).map(of).collect()
    }
}

#[tokio::test]
async fn only_leaves_that_move_are_replaced() {
    let world = World::with(two_nodes(), at_once(), HashMap::new());
    for name in ["web-1", "pay-1"] {
        let mut stream = world.open(name);
        stream.want("default").await;
        stream.held("default").await;
        std::mem::forget(stream);
    }
    let builtin = world.issuer.authority();
    // /web is in the 74th hundredth, /payments in the 94th.
    let share = Share { to: named("corp"), percent: 80, is_lenient: false };
    let division = Division { from: IssuerName::builtin(), share: Some(share) };
    let moving = Signers { division, ..with_corp(builtin, 7) };
    world.signers.send_replace(Arc::new(moving.clone()));
    world.status(|status| status.counters().rotations_forced == 1).await;
    assert_eq!(world.asked_since(2), [("/web".to_owned(), None)]);
    // What was given in its place stays: this issuer cannot be asked for more.
    settle().await;
    world.clock.advance(Duration::from_secs(1));
    settle().await;
    assert_eq!(world.issuer.seen().len(), 3);

    // More move, and later the stage is taken back: nobody is hurried.
    let mut all = moving.clone();
    all.division.share.as_mut().unwrap().percent = 100;
    world.signers.send_replace(Arc::new(all));
    world.status(|status| status.counters().rotations_forced == 2).await;
    let mut stopped = moving;
    stopped.division.share.as_mut().unwrap().is_lenient = true;
    world.signers.send_replace(Arc::new(stopped));
    settle().await;
    world.clock.advance(Duration::from_secs(1));
    settle().await;
    assert_eq!(world.issuer.seen().len(), 4);
}

#[tokio::test]
async fn what_a_binding_names_is_asked_for_and_its_leaf_replaced_when_it_names_another() {
    let world = World::with(two_nodes(), at_once(), HashMap::new());
    let mut web = world.open("web-1");
    web.want("default").await;
    let before = web.held("default").await;
    world.signers.send_replace(Arc::new(with_corp(world.issuer.authority(), 7)));
    settle().await;
    assert_eq!(world.issuer.seen().len(), 1, "that somebody else may sign moves nobody");
    let of_corp = Binding { issuer: Some(named("corp")), ..binding("web-1", &["spiffe://td/web"]) };
    world.bindings.send_replace(Arc::new(Bindings::new([of_corp])));
    web.held_other_than("default", &before).await;
    assert_eq!(world.asked_since(1), [("/web".to_owned(), Some("corp".to_owned()))]);
}

#[tokio::test]
async fn what_signs_in_the_place_of_another_is_accepted_until_its_authority_changes() {
    let world = World::with(two_nodes(), at_once(), HashMap::new());
    let division = || Division::whole(named("corp"));
    let of_corp = |builtin| Arc::new(Signers { division: division(), ..with_corp(builtin, 7) });
    world.signers.send_replace(of_corp(world.issuer.authority()));
    settle().await;
    let mut web = world.open("web-1");
    web.want("default").await;
    let before = web.held("default").await;
    let builtin = world.issuer.replace_authority();
    world.signers.send_replace(of_corp(builtin));
    web.held_other_than("default", &before).await;
    assert_eq!(world.issuer.seen().last().unwrap().purpose, Purpose::ForcedRenewal);
    let tally = world.sds.status().borrow().issuer(&named("corp"));
    assert_eq!(tally, IssuerCounters::default(), "it gave none of these");
}

#[tokio::test]
async fn what_is_left_in_a_hurry_is_replaced_at_once_though_leaves_were_to_follow_over_time() {
    // With no jitter whatever is spread is due at once, so that the draw is all of it.
    let settings = SdsSettings { jitter: || Jitter::FULL, ..settings() };
    let world = World::with(two_nodes(), settings, HashMap::new());
    let old = world.issuer.authority();
    let mut web = world.open("web-1");
    web.want("default").await;
    let before = web.held("default").await;
    let active = world.issuer.replace_authority();
    world.signers.send_replace(signs(active));
    settle().await;
    assert_eq!(world.issuer.seen().len(), 1, "it is spread over ten minutes");
    let hurried = BTreeSet::from([old]);
    world.signers.send_replace(Arc::new(Signers { hurried, ..Signers::builtin(Some(active)) }));
    web.held_other_than("default", &before).await;
}

#[tokio::test]
async fn what_an_issuer_gave_and_what_proxies_refused_of_it_is_counted() {
    let world = World::new();
    let mut web = world.open("web-1");
    web.want("default").await;
    let held = web.held("default").await;
    world.sds.settled(&node("web-1"), &"default".into(), held.version(), Some("no such key"));
    world.status(|status| status.issuer(&IssuerName::builtin()).refused == 1).await;
    let counted = world.sds.status().borrow().issuer(&IssuerName::builtin());
    assert_eq!(counted, IssuerCounters { issued: 1, failed: 0, refused: 1 });
}
