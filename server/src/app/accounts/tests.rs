//! Accounts whose servers are away, or whose directories are not as wanted. What a server does with them stands in the
//! suite `issuer_acme`.

use std::collections::BTreeMap;

use acme::{Directory, Url};
use api::testing::MemoryAcme;
use audit::{Action, Actor, Event};
use certs::{KeyKind, ManualClock, SecretBytes, SecretKey};
use futures::FutureExt;
use spiffe::{RequestId, Tenant};
use zeroize::Zeroizing;

use super::{
    examine::{Standing, judge},
    settle::Verdict,
    *,
};
use crate::app::checks::Checks;

fn now() -> Timestamp {
    Timestamp::from_unix_secs(1_800_000_000)
}

fn settings() -> AcmeSettings {
    AcmeSettings {
        // Nobody listens there.
        directory: "https://127.0.0.1:1/directory".into(),
        ca_file: "/nowhere/roots.pem".into(),
        contacts: Vec::new(),
        agreed: None,
        external: None,
        profile: None,
    }
}

fn name() -> IssuerName {
    IssuerName::parse("le").unwrap()
}

fn caller() -> Caller {
    Caller {
        actor: Actor::Host,
        certificate: None,
        tenant: Tenant::default(),
        request_id: RequestId::random(),
    }
}

fn draft() -> AcmeDraft {
    AcmeDraft { name: name(), acme: settings(), external_key: None }
}

async fn keep(store: &MemoryAcme, account: Option<&str>, next_key: bool) {
    let key = || SecretKey::generate(KeyKind::P256).to_bytes();
    let issuer = AcmeIssuer {
        name: name(),
        acme: settings(),
        account: account.map(str::to_owned),
        is_changing_key: false,
        created: now(),
        updated: now(),
        version: 0,
    };
    let kept = KeptAcme { issuer, key: key(), next_key: next_key.then(key), external_key: None };
    let event = Event::done(now(), Actor::Host, Action::IssuerSet, "le");
    store.put_acme_issuer(kept, 0, event).await.unwrap();
}

/// What somebody sees who waits until `seen` says so.
async fn wait(accounts: &Accounts, seen: impl Fn(&AcmeStanding) -> bool) -> AcmeStanding {
    let mut standings = accounts.standings.clone();
    let found = standings.wait_for(|all| all.get(&name()).is_some_and(&seen)).await.unwrap();
    found[&name()].clone()
}

#[tokio::test]
async fn server_that_is_away_gets_no_account_and_nothing_half_made_is_left() {
    let (store, clock) = (Arc::new(MemoryAcme::default()), ManualClock::new(now()));
    let (accounts, keeper) = open(store.clone(), Arc::new(clock));
    let shutdown = CancellationToken::new();
    let asked = async {
        let refused = accounts.register(&caller(), draft(), "").await.unwrap_err();
        shutdown.cancel();
        refused
    };
    let (refused, ()) = tokio::join!(asked, keeper.run(shutdown.clone()));
    assert!(matches!(&refused, CallError::Issuer { checks, .. } if checks[0].rule == "account"), "{refused}");
    assert!(store.acme_issuers().await.unwrap().is_empty());
    assert_eq!(accounts.standing(&name()), AcmeStanding::default());
    let checks = accounts.examine(&draft()).await;
    let shown: Vec<_> = checks.iter().map(|check| (check.rule.as_str(), check.verdict.as_str())).collect();
    let skipped = ["terms", "external-account", "profile", "renewal-info"].map(|rule| (rule, "skipped"));
    assert_eq!(shown, [vec![("directory", "failed")], skipped.to_vec()].concat());
}

#[tokio::test]
async fn refusal_that_nobody_hears_is_kept_with_its_problem() {
    let (store, clock) = (Arc::new(MemoryAcme::default()), ManualClock::new(now()));
    let (accounts, keeper) = open(store.clone(), Arc::new(clock));
    // Whoever asks does so, and goes away.
    assert!(accounts.register(&caller(), draft(), "").now_or_never().is_none());
    let shutdown = CancellationToken::new();
    let watched = async {
        let seen = wait(&accounts, |standing| standing.failures == 1).await;
        shutdown.cancel();
        seen
    };
    let (seen, ()) = tokio::join!(watched, keeper.run(shutdown.clone()));
    assert!(seen.problem.unwrap().contains("/nowhere/roots.pem"));
    assert_eq!(seen.next, Some(now() + PAUSE.0));
    assert_eq!(store.acme_issuers().await.unwrap().len(), 1);
}

#[tokio::test]
async fn who_is_not_answered_hears_that_it_is_not_known_whatever_the_record_says() {
    let (store, clock) = (Arc::new(MemoryAcme::default()), ManualClock::new(now()));
    let (accounts, _keeper) = open(store.clone(), Arc::new(clock));
    let missing = accounts.unanswered(&name(), "account-key", None).await.unwrap_err();
    assert!(matches!(missing, CallError::NotFound { .. }), "{missing}");
    let outcome = accounts.unanswered(&name(), "account", Some(settings())).await.unwrap();
    assert_eq!((outcome.issuer.version, outcome.issuer.account), (0, None));
    assert_eq!((outcome.check.rule.as_str(), outcome.check.verdict.as_str()), ("account", "warning"));
    keep(&store, Some("https://127.0.0.1:1/account/1"), false).await;
    let outcome = accounts.unanswered(&name(), "account-key", None).await.unwrap();
    assert!(!outcome.issuer.is_changing_key);
    assert_eq!((outcome.check.rule.as_str(), outcome.check.verdict.as_str()), ("account-key", "warning"));
}

#[tokio::test]
async fn what_was_begun_is_gone_on_with_by_the_next_process_and_kept_until_it_is_known() {
    for (account, next_key, told) in [
        (None, false, "is being registered"),
        (Some("https://127.0.0.1:1/account/1"), true, "is getting another key"),
    ] {
        let (store, clock) = (Arc::new(MemoryAcme::default()), ManualClock::new(now()));
        keep(&store, account, next_key).await;
        let (accounts, keeper) = open(store.clone(), Arc::new(clock.clone()));
        let shutdown = CancellationToken::new();
        let watched = async {
            let first = wait(&accounts, |standing| standing.failures == 1).await;
            assert!(first.problem.unwrap().contains("/nowhere/roots.pem"));
            assert_eq!(first.next, Some(now() + PAUSE.0));
            clock.advance(PAUSE.0);
            let second = wait(&accounts, |standing| standing.failures == 2).await;
            assert_eq!(second.next, Some(now() + 3 * PAUSE.0));
            shutdown.cancel();
        };
        let ((), ()) = tokio::join!(watched, keeper.run(shutdown.clone()));
        let kept = store.acme_issuers().await.unwrap();
        assert_eq!((kept[0].issuer.version, kept[0].next_key.is_some()), (1, next_key), "nothing changed");
        let refused = accounts.open(&name()).await.unwrap_err();
        assert!(refused.contains(told) && refused.contains("/nowhere/roots.pem"), "{refused}");
    }
}

#[tokio::test]
async fn what_was_said_of_a_lost_account_is_over_when_the_server_does_something_for_it() {
    let (store, clock) = (Arc::new(MemoryAcme::default()), ManualClock::new(now()));
    keep(&store, Some("https://127.0.0.1:1/account/1"), false).await;
    let (accounts, keeper) = open(store.clone(), Arc::new(clock));
    let shutdown = CancellationToken::new();
    let asked = async {
        let refused = accounts.register_again(&caller(), draft(), "").await.unwrap_err();
        assert!(matches!(&refused, CallError::Issuer { .. }), "{refused}");
        assert!(accounts.standing(&name()).problem.unwrap().contains("/nowhere/roots.pem"));
        accounts.proven(&name());
        let mut standings = accounts.standings.clone();
        let is_over = standings.wait_for(|all| all.is_empty());
        tokio::time::timeout(Duration::from_secs(10), is_over).await.expect("it is said still").unwrap();
        shutdown.cancel();
    };
    tokio::join!(asked, keeper.run(shutdown.clone()));
}

#[test]
fn change_of_a_key_ends_by_which_key_opens_the_account_when_nothing_is_under_way_any_more() {
    use acme::Opens;
    let (soon, later, long) =
        (Duration::from_secs(29), Duration::from_secs(30), Duration::from_secs(15 * 60));
    for (opens, asked, is_wanted, expected) in [
        (Opens::New, Some(soon), false, Verdict::Changed),
        (Opens::New, None, true, Verdict::Changed),
        (Opens::Old, Some(soon), false, Verdict::Wait),
        (Opens::Old, Some(later), false, Verdict::NotChanged),
        (Opens::Old, None, false, Verdict::NotChanged),
        (Opens::Old, Some(soon), true, Verdict::Ask),
        (Opens::Old, Some(later), true, Verdict::Ask),
        // A server that has lost the account is not asked again: whoever asks hears that it has. One that may only be behind
        // others has more time.
        (Opens::Neither, Some(later), false, Verdict::Wait),
        (Opens::Neither, Some(later), true, Verdict::Wait),
        (Opens::Neither, Some(long), false, Verdict::Lost),
        (Opens::Neither, Some(long), true, Verdict::Lost),
        (Opens::Neither, None, false, Verdict::Lost),
    ] {
        assert_eq!(settle::judge(opens, asked, is_wanted), expected, "{opens:?} {asked:?} {is_wanted}");
    }
}

#[tokio::test]
async fn account_is_opened_with_one_client_as_long_as_its_record_stays() {
    let (store, clock) = (Arc::new(MemoryAcme::default()), ManualClock::new(now()));
    let (accounts, _keeper) = open(store.clone(), Arc::new(clock));
    assert_eq!(accounts.open(&name()).await.unwrap_err(), "there is no ACME server le");
    keep(&store, Some("https://127.0.0.1:1/account/1"), false).await;
    let (first, second) = (accounts.open(&name()).await.unwrap(), accounts.open(&name()).await.unwrap());
    assert!(Arc::ptr_eq(&first.client, &second.client));
    assert_eq!(first.account.url.as_str(), "https://127.0.0.1:1/account/1");
    assert_eq!(first.settings, settings());
    let kept = store.acme_issuers().await.unwrap().remove(0);
    let event = Event::done(now(), Actor::Host, Action::IssuerSet, "le");
    store.put_acme_issuer(kept, 1, event).await.unwrap();
    let third = accounts.open(&name()).await.unwrap();
    assert!(!Arc::ptr_eq(&first.client, &third.client), "another record may lead elsewhere");
}

fn directory(change: impl FnOnce(&mut Directory)) -> Directory {
    let url = |path: &str| Url::parse(&format!("https://acme.example/{path}")).unwrap();
    let mut directory = Directory {
        url: url("directory"),
        new_nonce: url("nonce"),
        new_account: url("account"),
        new_order: url("order"),
        key_change: None,
        renewal_info: Some(url("renewal")),
        terms: Some("https://acme.example/terms/2".into()),
        is_external_account_required: false,
        profiles: BTreeMap::from([("classic".into(), "90 days".into()), ("short".into(), "6 days".into())]),
    };
    change(&mut directory);
    directory
}

#[test]
fn settings_are_judged_by_what_the_directory_says_with_what_to_do() {
    let agreed = |change: &dyn Fn(&mut AcmeSettings)| {
        let mut acme = AcmeSettings { agreed: Some("https://acme.example/terms/2".into()), ..settings() };
        change(&mut acme);
        acme
    };
    let check =
        |of: Directory, acme: AcmeSettings, standing: Standing<'_>, expected: &[(&str, &str, &str)]| {
            let mut checks = Checks::default();
            judge(&of, &acme, standing, &mut checks);
            assert_eq!(checks.0.len(), 4);
            let odd = checks.0.iter().filter(|check| check.verdict != "passed");
            let odd: Vec<_> = odd.map(|check| (check.rule.as_str(), check.verdict.as_str(), check)).collect();
            assert_eq!(odd.len(), expected.len(), "{odd:?}");
            for ((rule, verdict, check), (of, judged, told)) in odd.iter().zip(expected) {
                assert_eq!((rule, verdict), (of, judged), "{check:?}");
                assert!(format!("{} {}", check.found, check.advice).contains(told), "{told}: {check:?}");
            }
        };
    let (good, bad) = ("c2VjcmV0LW9mLXRoZS1hY2NvdW50", "no!");
    let bytes = |text: &str| SecretBytes::new(Zeroizing::new(text.as_bytes().to_vec()));
    let (good, bad) = (bytes(good), bytes(bad));
    let new = Standing::New { external_key: None };
    let bound = |key| Standing::New { external_key: Some(key) };
    let plain = || directory(|_| {});
    let external = || agreed(&|acme| acme.external = Some("kid-1".into()));
    check(plain(), agreed(&|_| {}), new, &[]);
    check(plain(), agreed(&|acme| acme.profile = Some("short".into())), new, &[]);
    check(directory(|of| of.terms = None), settings(), new, &[]);
    let unread = "--agree-terms https://acme.example/terms/2";
    check(plain(), settings(), new, &[("terms", "failed", unread)]);
    let other = agreed(&|acme| acme.agreed = Some("https://acme.example/terms/1".into()));
    check(plain(), other.clone(), new, &[("terms", "failed", unread)]);
    check(plain(), other, Standing::Kept, &[("terms", "warning", "https://acme.example/terms/2")]);
    let unknown = agreed(&|acme| acme.profile = Some("long".into()));
    check(plain(), unknown, new, &[("profile", "failed", "it has classic, short")]);
    let needs = || directory(|of| of.is_external_account_required = true);
    check(needs(), agreed(&|_| {}), new, &[("external-account", "failed", "--external-key-id")]);
    check(needs(), agreed(&|_| {}), Standing::Kept, &[]);
    check(needs(), external(), bound(&good), &[]);
    check(plain(), external(), bound(&good), &[]);
    check(needs(), external(), bound(&bad), &[("external-account", "failed", "base64url")]);
    check(needs(), external(), new, &[("external-account", "failed", "kid-1 has no key")]);
    let silent = directory(|of| of.renewal_info = None);
    check(silent, agreed(&|_| {}), new, &[("renewal-info", "warning", "two thirds")]);
}
