//! The client of ACME against a real Pebble: certificates by each way, renewal, limits, faults and kills at each step,
//! accounts, and the mistakes that people make.

#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail the test")]

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use acme::{
    Account, Action, Answered, Ask, CertificateId, ChallengeKind, Client, Desk, Event, ExternalAccount,
    Identifier, Jitter, MIN_KEPT, Names, Opens, Order, OrderStatus, Pace, Presented, ProblemKind,
    Registration, Renewal, RenewalAction, RenewalEvent, Saved, Settings, Trouble, Url, Wanted, thumbprint,
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use certs::{
    Certificate, Chain, Clock, KeyKind, SecretBytes, SecretKey, Signer, SoftwareSigner, Timestamp,
    certificates_from_pem, request_for_names,
};
use http::{Response, StatusCode, header};
use http_body_util::Full;
use kit::{
    Asked, Challenges, Fault, Identity, Needle, Pebble, PebbleOptions, Recorder, Relay, SystemClock,
    http_date, search,
};
use rustls_pki_types::PrivatePkcs8KeyDer;
use serde_json::json;
use tokio::sync::Notify;

fn url(text: &str) -> Url {
    Url::parse(text).unwrap()
}

fn names(all: &[&str]) -> Names {
    Names::try_new(all.iter().map(|text| Identifier::parse(text).unwrap()).collect()).unwrap()
}

fn signer(key: &SecretKey) -> Arc<dyn Signer> {
    Arc::new(SoftwareSigner::try_new(key).unwrap())
}

fn new_signer() -> Arc<dyn Signer> {
    signer(&SecretKey::generate(KeyKind::P256))
}

fn certificate(pem: &str) -> Certificate {
    Certificate::from_der(&certificates_from_pem(pem.as_bytes()).unwrap()[0]).unwrap()
}

fn client_at(directory: &str, pebble: &Pebble) -> Client {
    Client::new(&Settings::new(url(directory), pebble.ca_file()), Arc::new(SystemClock))
}

fn client(pebble: &Pebble) -> Client {
    client_at(&pebble.directory(), pebble)
}

async fn agreed(client: &Client) -> String {
    client.directory().await.unwrap().terms.clone().unwrap()
}

async fn account(client: &Client) -> Account {
    let signer = new_signer();
    let terms = agreed(client).await;
    let contacts = ["mailto:ops@example.com".to_owned()];
    let registration = Registration { contacts: &contacts, agreed: Some(&terms), external: None };
    let found = client.register(&*signer, &registration).await.unwrap();
    assert!(found.is_valid);
    Account { url: found.url, signer }
}

/// What is published in the place of a challenge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wrong {
    Nothing,
    /// What another account would publish.
    Other,
}

/// Stores in memory, and publishes where Pebble looks.
struct Counter<'a> {
    pebble: &'a Pebble,
    challenges: &'a Challenges,
    saved: Mutex<Option<Saved>>,
    reports: Mutex<Vec<(&'static str, Timestamp, Timestamp)>>,
    wrong: Mutex<Option<Wrong>>,
    published: AtomicUsize,
    hurry: Notify,
}

impl<'a> Counter<'a> {
    fn new(pebble: &'a Pebble, challenges: &'a Challenges) -> Self {
        Self {
            pebble,
            challenges,
            saved: Mutex::default(),
            reports: Mutex::default(),
            wrong: Mutex::default(),
            published: AtomicUsize::new(0),
            hurry: Notify::new(),
        }
    }

    fn saved(&self) -> Option<Saved> {
        // As it is read from where it is stored.
        let saved = self.saved.lock().unwrap().as_ref().map(|saved| serde_json::to_string(saved).unwrap());
        saved.map(|text| serde_json::from_str(&text).unwrap())
    }

    fn codes(&self) -> Vec<&'static str> {
        self.reports.lock().unwrap().iter().map(|(code, ..)| *code).collect()
    }
}

#[async_trait::async_trait]
impl Desk for Counter<'_> {
    async fn keep(&self, saved: &Saved) -> Result<(), String> {
        *self.saved.lock().unwrap() = Some(saved.clone());
        Ok(())
    }

    async fn publish(&self, presented: &[Presented]) -> Result<(), String> {
        self.published.fetch_add(1, Ordering::Relaxed);
        let wrong = *self.wrong.lock().unwrap();
        let published = presented.iter().filter_map(|one| match wrong {
            None => Some(one.clone()),
            Some(Wrong::Nothing) => None,
            Some(Wrong::Other) => Some(of_another(one)),
        });
        for one in &published.collect::<Vec<_>>() {
            match one.kind {
                ChallengeKind::Http01 => self.challenges.set_text(&one.path(), &one.key_authorization),
                ChallengeKind::TlsAlpn01 => {
                    let key = SecretKey::generate(KeyKind::P256);
                    let made = one.certificate(&*signer(&key), SystemClock.now()).unwrap();
                    let key = PrivatePkcs8KeyDer::from(key.expose_secret().to_vec()).into();
                    let identity = Identity { chain: vec![made.der().to_vec()], key };
                    self.challenges.set_certificate(&one.server_name(), &identity);
                }
                ChallengeKind::Dns01 => self.pebble.set_txt(&one.record_name(), &one.record_value()).await,
            }
        }
        Ok(())
    }

    async fn withdraw(&self, presented: &mut Vec<Presented>) -> Result<(), String> {
        for one in presented.iter() {
            match one.kind {
                ChallengeKind::Http01 => self.challenges.clear_text(&one.path()),
                ChallengeKind::TlsAlpn01 => self.challenges.clear_certificate(&one.server_name()),
                ChallengeKind::Dns01 => {
                    for one in [one, &of_another(one)] {
                        self.pebble.clear_txt(&one.record_name(), &one.record_value()).await;
                    }
                }
            }
        }
        Ok(())
    }

    fn report(&self, trouble: &Trouble, again: Timestamp) {
        self.reports.lock().unwrap().push((trouble.code(), SystemClock.now(), again));
    }

    async fn hurried(&self) {
        self.hurry.notified().await;
    }
}

/// The same challenge, answered as another account would.
fn of_another(presented: &Presented) -> Presented {
    Presented { key_authorization: format!("{}x", presented.key_authorization), ..presented.clone() }
}

/// One certificate that is wanted, with its key.
struct Wish {
    wanted: Wanted,
    key: SecretKey,
    anchors: Vec<Certificate>,
}

impl Wish {
    fn new(account: &Account, all: &[&str], kind: ChallengeKind) -> Self {
        let mut wanted = Wanted::try_new(account.url.clone(), names(all), kind).unwrap();
        wanted.profile = Some("default".to_owned());
        Self { wanted, key: SecretKey::generate(KeyKind::P256), anchors: Vec::new() }
    }

    fn csr(&self) -> Vec<u8> {
        let all: Vec<_> = self.wanted.names.as_slice().iter().map(Identifier::to_server_name).collect();
        request_for_names(&all, &*signer(&self.key)).unwrap()
    }

    fn order(&self, account: &Account, saved: Option<Saved>) -> Order {
        Order::new(
            self.wanted.clone(),
            saved,
            self.key.public().clone(),
            thumbprint(account.signer.public()),
            self.anchors.clone(),
            SystemClock.now(),
        )
    }

    async fn obtain(&self, client: &Client, account: &Account, desk: &Counter<'_>) -> Chain {
        let mut order = self.order(account, desk.saved());
        let csr = self.csr();
        let obtaining = client.obtain(account, &mut order, &csr, desk);
        let chain = tokio::time::timeout(Duration::from_secs(120), Box::pin(obtaining)).await;
        let chain =
            chain.unwrap_or_else(|_| panic!("not in time: {:?}", desk.reports.lock().unwrap())).unwrap();
        assert_eq!(order.presented(), []);
        assert_eq!(chain.leaf().spki_der(), self.key.public().spki_der());
        chain
    }
}

/// How many orders of these names became valid.
async fn valid_orders(client: &Client, account: &Account, names: &Names) -> usize {
    let mut count = 0;
    for url in client.orders(account).await.unwrap() {
        let order = client.order(account, &url).await.unwrap();
        if order.status == OrderStatus::Valid && names.is_exactly(&order.names) {
            count += 1;
        }
    }
    count
}

fn answer(status: u16, retry_after: Option<String>, kind: &str) -> Response<Full<Bytes>> {
    let body =
        json!({ "type": format!("urn:ietf:params:acme:error:{kind}"), "detail": "too many" }).to_string();
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = StatusCode::from_u16(status).unwrap();
    response.headers_mut().insert(header::CONTENT_TYPE, "application/problem+json".parse().unwrap());
    if let Some(after) = retry_after {
        response.headers_mut().insert(header::RETRY_AFTER, after.parse().unwrap());
    }
    response
}

#[tokio::test]
async fn certificates_are_had_by_each_way_and_what_was_published_is_withdrawn() {
    let challenges = Challenges::start().await;
    let Some(pebble) = Pebble::start(&PebbleOptions::default(), &challenges).await else { return };
    let client = client(&pebble);
    let account = account(&client).await;
    let root = certificate(&pebble.root(0).await);
    for (kind, all) in [
        (ChallengeKind::Http01, &["shop.example", "www.shop.example", "127.0.0.1"][..]),
        (ChallengeKind::TlsAlpn01, &["tls.example", "127.0.0.1"]),
        (ChallengeKind::Dns01, &["dns.example", "*.dns.example"]),
    ] {
        let desk = Counter::new(&pebble, &challenges);
        let wish = Wish { anchors: vec![root.clone()], ..Wish::new(&account, all, kind) };
        let chain = wish.obtain(&client, &account, &desk).await;
        assert_eq!(chain.leaf().subject_alt_names().len(), all.len());
        assert_eq!(chain.intermediates().len(), 1, "without the root");
        assert!(challenges.is_empty(), "{kind}: something is still published");
        assert_eq!(desk.codes(), [""; 0], "{kind}");
        assert_eq!(valid_orders(&client, &account, &wish.wanted.names).await, 1);
    }
    // Pebble looks three times for each name, as authorities look from several places.
    assert_eq!(challenges.asked().len(), 9, "{:?}", challenges.asked());
}

#[tokio::test]
async fn a_certificate_is_renewed_in_the_window_that_the_server_suggests_and_replaces_the_one_before() {
    let challenges = Challenges::start().await;
    let Some(pebble) = Pebble::start(&PebbleOptions::default(), &challenges).await else { return };
    let client = client(&pebble);
    let account = account(&client).await;
    let mut wish = Wish::new(&account, &["shop.example"], ChallengeKind::Http01);
    let first = wish.obtain(&client, &account, &Counter::new(&pebble, &challenges)).await;
    let id = CertificateId::of(first.leaf()).unwrap();

    let now = SystemClock.now();
    let mut renewal = Renewal::new(first.leaf(), Jitter::new(u32::MAX / 2), now);
    assert_eq!(renewal.step(RenewalEvent::Tick, now), [RenewalAction::Ask]);
    let told = client.renewal(&id).await.unwrap();
    let RenewalEvent::Told { window, retry_after: Some(_) } = &told else { panic!("{told:?}") };
    assert!(window.start > now && window.end < first.leaf().not_after(), "{window:?}");
    assert_eq!(renewal.step(told.clone(), now), [RenewalAction::Keep]);
    assert!(renewal.at() > window.start && renewal.at() < window.end);

    // The authority wants it now.
    let at = |secs: u64| (now - Duration::from_secs(secs)).to_string();
    let answer = json!({
        "suggestedWindow": { "start": at(7200), "end": at(3600) }, "explanationURL": "https://example.com/incident",
    });
    pebble.set_renewal_info(&certs::certificates_to_pem([first.leaf().der()]), &answer).await;
    let told = client.renewal(&id).await.unwrap();
    // It was obtained just now: not within the hour.
    assert_eq!(renewal.step(told, now), [RenewalAction::Keep]);
    let due = renewal.at();
    assert_eq!(due, now + MIN_KEPT);
    assert_eq!(renewal.step(RenewalEvent::Tick, due), [RenewalAction::Keep, RenewalAction::Renew]);
    assert_eq!(renewal.window().unwrap().explanation.as_deref(), Some("https://example.com/incident"));

    wish.wanted.replaces = Some(id.to_string());
    wish.key = SecretKey::generate(KeyKind::P256);
    let desk = Counter::new(&pebble, &challenges);
    let second = wish.obtain(&client, &account, &desk).await;
    assert_ne!(second.leaf().serial(), first.leaf().serial());
    let order = desk.saved().unwrap().order.unwrap();
    assert_eq!(client.order(&account, &order).await.unwrap().replaces, Some(id.to_string()));

    // Replaced is replaced: a third order does not name it again, and is made all the same.
    wish.key = SecretKey::generate(KeyKind::P384);
    let desk = Counter::new(&pebble, &challenges);
    wish.obtain(&client, &account, &desk).await;
    assert!(desk.saved().unwrap().is_replaces_refused);
    let order = desk.saved().unwrap().order.unwrap();
    assert_eq!(client.order(&account, &order).await.unwrap().replaces, None);
    assert_eq!(desk.codes(), [""; 0]);

    // Of a certificate that the server does not know it says nothing.
    let stranger = fixtures::World::new("td", now).leaf("spiffe://td/x").chain().unwrap();
    let trouble = client.renewal(&CertificateId::of(stranger.leaf()).unwrap()).await.unwrap_err();
    assert_eq!(renewal.step(RenewalEvent::of(&trouble), now), [RenewalAction::Keep]);
}

#[tokio::test]
async fn half_of_all_nonces_may_be_refused() {
    let challenges = Challenges::start().await;
    let options = PebbleOptions { refused_nonces: 50, ..PebbleOptions::default() };
    let Some(pebble) = Pebble::start(&options, &challenges).await else { return };
    let client = client(&pebble);
    let account = account(&client).await;
    let desk = Counter::new(&pebble, &challenges);
    for index in 0..3 {
        *desk.saved.lock().unwrap() = None;
        let wish = Wish::new(&account, &[&format!("n{index}.example")], ChallengeKind::Http01);
        wish.obtain(&client, &account, &desk).await;
    }
    assert_eq!(desk.codes(), [""; 0]);
}

#[tokio::test]
async fn limits_outages_and_lost_answers_cost_time_and_no_second_certificate() {
    let challenges = Challenges::start().await;
    let Some(pebble) = Pebble::start(&PebbleOptions::default(), &challenges).await else { return };
    // What becomes of the first requests of each kind, in turn.
    type Faults = VecDeque<&'static str>;
    let mut orders: Faults = ["429 seconds", "429 date", "503", "lose request", "lose reply"].into();
    let mut finalizes: Faults = ["lose request", "lose reply"].into();
    let mut others: Faults = ["500", "lose reply", "lose reply", "lose request"].into();
    let limits = Arc::new(Mutex::new(Vec::new()));
    let seen = limits.clone();
    let relay = Relay::start(&pebble.identity(), pebble.address(), move |asked: &Asked| {
        let faults = if asked.path == "/order-plz" {
            &mut orders
        } else if asked.path.starts_with("/finalize-order/") {
            &mut finalizes
        } else if ["/authZ/", "/chalZ/", "/my-order/", "/certZ/"]
            .iter()
            .any(|path| asked.path.starts_with(path))
        {
            &mut others
        } else {
            return Fault::None;
        };
        let now = SystemClock.now();
        match faults.pop_front() {
            None => Fault::None,
            Some("429 seconds") => {
                seen.lock().unwrap().push(now + Duration::from_secs(2));
                Fault::Answer(answer(429, Some("2".to_owned()), "rateLimited"))
            }
            Some("429 date") => {
                let at = (now + Duration::from_secs(4)).floor_secs();
                seen.lock().unwrap().push(at);
                Fault::Answer(answer(429, Some(http_date(at)), "rateLimited"))
            }
            Some("503") => Fault::Answer(Response::builder().status(503).body(Full::default()).unwrap()),
            Some("500") => Fault::Answer(answer(500, None, "serverInternal")),
            Some("lose request") => Fault::LoseRequest,
            Some(_) => Fault::LoseReply,
        }
    })
    .await;
    let client = client_at(&pebble.directory_at(relay.address()), &pebble);
    let account = account(&client).await;
    let wish = Wish::new(&account, &["shop.example"], ChallengeKind::Http01);
    let desk = Counter::new(&pebble, &challenges);
    wish.obtain(&client, &account, &desk).await;

    let reports = desk.reports.lock().unwrap().clone();
    let codes: Vec<&str> = reports.iter().map(|(code, ..)| *code).collect();
    assert_eq!(codes[..5], ["rateLimited", "rateLimited", "unavailable", "lost", "lost"], "{codes:?}");
    // Never sooner than it was said, in whichever form.
    let limits = limits.lock().unwrap().clone();
    for (said, (_, _, again)) in limits.iter().zip(&reports) {
        assert!(again >= said, "{again} and not before {said}");
    }
    let tries: Vec<_> = relay.asked().into_iter().filter(|asked| asked.path == "/order-plz").collect();
    assert_eq!(tries.len(), 5, "the order whose answer was lost is found, and not made again");
    assert_eq!(valid_orders(&client, &account, &wish.wanted.names).await, 1);
    assert_eq!(client.orders(&account).await.unwrap().len(), 1);
    assert!(challenges.is_empty());
}

#[tokio::test]
async fn a_wrong_challenge_is_told_with_what_to_do_and_works_when_it_is_put_right() {
    let challenges = Challenges::start().await;
    let Some(pebble) = Pebble::start(&PebbleOptions::default(), &challenges).await else { return };
    let client = client(&pebble);
    let account = account(&client).await;
    let check = async |kind: ChallengeKind, wrong: Wrong, code: &str, hint: &str| {
        let desk = Counter::new(&pebble, &challenges);
        *desk.wrong.lock().unwrap() = Some(wrong);
        let name = format!("{kind}-{wrong:?}.example").to_lowercase();
        let wish = Wish::new(&account, &[&name], kind);
        let mut order = wish.order(&account, None);
        let csr = wish.csr();
        let mut obtaining = Box::pin(client.obtain(&account, &mut order, &csr, &desk));
        // Until it has failed once; then it is not asked for again for minutes.
        tokio::select! {
            done = &mut obtaining => panic!("{name}: {done:?}"),
            () = kit::eventually("the failure is told", async || {
                let codes = desk.codes();
                if codes.is_empty() { Err(codes) } else { Ok(()) }
            }) => {}
        }
        let (told_code, told, again) = desk.reports.lock().unwrap()[0];
        assert_eq!(told_code, code, "{name}");
        assert!(again.since(told) > Duration::from_secs(200), "{name}: {again}");
        let failures = desk.saved().unwrap().failures;
        assert_eq!(failures.count(code), 1, "{name}");
        let last = failures.last().unwrap();
        assert!(last.text.contains(&name) && last.hint.contains(hint), "{name}: {last:?}");
        // Somebody repairs it, and says so.
        *desk.wrong.lock().unwrap() = None;
        desk.hurry.notify_one();
        tokio::time::timeout(Duration::from_secs(60), obtaining).await.unwrap().unwrap();
        let count = desk.saved().unwrap().failures.count(code);
        assert_eq!(count, 1, "{name}: forgotten by whoever drops what was stored");
        assert_eq!(valid_orders(&client, &account, &wish.wanted.names).await, 1, "{name}");
    };
    tokio::join!(
        check(ChallengeKind::Http01, Wrong::Other, "unauthorized", "something else"),
        check(ChallengeKind::Http01, Wrong::Nothing, "unauthorized", "something else"),
        check(ChallengeKind::TlsAlpn01, Wrong::Other, "unauthorized", "something else"),
        check(ChallengeKind::TlsAlpn01, Wrong::Nothing, "unauthorized", "something else"),
        check(ChallengeKind::Dns01, Wrong::Other, "unauthorized", "something else"),
        check(ChallengeKind::Dns01, Wrong::Nothing, "unauthorized", "something else"),
    );
    assert!(challenges.is_empty(), "something is still published");
}

/// What a proxy answers in the place of the server, so many times.
#[derive(Clone, Copy)]
enum Said {
    Seconds,
    Date,
    /// A limit that does not say for how long.
    Limit,
    /// A nonce that is not known, with another, which is not known either, or with none.
    Nonce(Option<&'static str>),
}

impl Said {
    fn answer(self, at: Timestamp) -> Response<Full<Bytes>> {
        match self {
            Self::Seconds => {
                let secs = at.since(SystemClock.now()).as_secs() + 1;
                answer(429, Some(secs.to_string()), "rateLimited")
            }
            Self::Date => answer(429, Some(http_date(at)), "rateLimited"),
            Self::Limit => answer(429, None, "rateLimited"),
            Self::Nonce(next) => {
                let mut refused = answer(400, None, "badNonce");
                if let Some(next) = next {
                    refused.headers_mut().insert("replay-nonce", next.parse().unwrap());
                }
                refused
            }
        }
    }
}

#[tokio::test]
async fn limits_and_refused_nonces_on_any_request_of_an_order_cost_time_and_nothing_else() {
    let challenges = Challenges::start().await;
    let Some(pebble) = Pebble::start(&PebbleOptions::default(), &challenges).await else { return };
    // What is refused, how and how often, and what is told of it.
    let check = async |path: &'static str, said: Said, count: usize, codes: &[&str]| {
        let refused = Arc::new(Mutex::new((0, Vec::new())));
        let seen = Arc::clone(&refused);
        let relay = Relay::start(&pebble.identity(), pebble.address(), move |asked: &Asked| {
            let mut seen = seen.lock().unwrap();
            if seen.0 == count || !asked.path.starts_with(path) {
                return Fault::None;
            }
            seen.0 += 1;
            let at = (SystemClock.now() + Duration::from_secs(3)).floor_secs();
            seen.1.push(at);
            Fault::Answer(said.answer(at))
        })
        .await;
        let client = client_at(&pebble.directory_at(relay.address()), &pebble);
        let account = account(&client).await;
        let desk = Counter::new(&pebble, &challenges);
        let wish =
            Wish::new(&account, &[&format!("p{}.example", relay.address().port())], ChallengeKind::Http01);
        if let Said::Limit = said {
            desk.hurry.notify_one();
        }
        wish.obtain(&client, &account, &desk).await;
        let (count_seen, at) = refused.lock().unwrap().clone();
        assert_eq!((count_seen, desk.codes().as_slice()), (count, codes), "{path}");
        for ((_, told, again), at) in desk.reports.lock().unwrap().iter().zip(&at) {
            let is_kept_to = match said {
                // A guess, of which a quarter may be taken off; nobody waits for it who is in a hurry.
                Said::Limit => again.since(*told) >= Duration::from_secs(15 * 60 * 3 / 4),
                Said::Seconds | Said::Date => again >= at,
                Said::Nonce(_) => true,
            };
            assert!(is_kept_to, "{path}: {again}, and not before {at}");
        }
        assert_eq!(valid_orders(&client, &account, &wish.wanted.names).await, 1, "{path}");
        assert_eq!(client.orders(&account).await.unwrap().len(), 1, "{path}");
    };
    let limited = &["rateLimited"];
    tokio::join!(
        check("/order-plz", Said::Limit, 1, limited),
        check("/authZ/", Said::Seconds, 1, limited),
        check("/chalZ/", Said::Date, 1, limited),
        check("/finalize-order/", Said::Seconds, 1, limited),
        check("/my-order/", Said::Date, 1, limited),
        check("/certZ/", Said::Seconds, 1, limited),
        // Of these nothing is told: the request was not carried out, and is signed again.
        check("/order-plz", Said::Nonce(Some("b2xk")), 3, &[]),
        check("/finalize-order/", Said::Nonce(None), 3, &[]),
        // For ever is told, and ends.
        check("/chalZ/", Said::Nonce(Some("b2xk")), acme::MAX_NONCE_TRIES, &["badNonce"]),
    );
    assert!(challenges.is_empty());
}

#[tokio::test]
async fn whatever_a_server_says_of_renewal_the_certificate_is_renewed_in_time() {
    let challenges = Challenges::start().await;
    let Some(pebble) = Pebble::start(&PebbleOptions::default(), &challenges).await else { return };
    let direct = client(&pebble);
    let account = account(&direct).await;
    let wish = Wish::new(&account, &["shop.example"], ChallengeKind::Http01);
    let chain = wish.obtain(&direct, &account, &Counter::new(&pebble, &challenges)).await;
    let (leaf, id) = (chain.leaf(), CertificateId::of(chain.leaf()).unwrap());
    // After how long it is asked again.
    let check = async |what: &str, judge: fn(&Asked) -> Fault, again: Duration| {
        let relay = Relay::start(&pebble.identity(), pebble.address(), judge).await;
        let client = client_at(&pebble.directory_at(relay.address()), &pebble);
        let now = SystemClock.now();
        let mut renewal = Renewal::new(leaf, Jitter::new(u32::MAX / 2), now);
        assert_eq!(renewal.step(RenewalEvent::Tick, now), [RenewalAction::Ask], "{what}");
        let event = client.renewal(&id).await.unwrap_or_else(|trouble| RenewalEvent::of(&trouble));
        assert_eq!(renewal.step(event, now), [RenewalAction::Keep], "{what}");
        assert_eq!(renewal.deadline(), Some(now + again), "{what}");
        let part = renewal.at().since(leaf.not_before()).as_secs_f64()
            / leaf.not_after().since(leaf.not_before()).as_secs_f64();
        assert!((0.6..0.7).contains(&part), "{what}: {part}");
    };
    fn is_about_renewal(asked: &Asked) -> bool {
        asked.path.contains("/renewalInfo/")
    }
    fn said(asked: &Asked, status: u16, retry_after: Option<&str>, body: &'static str) -> Fault {
        if !is_about_renewal(asked) {
            return Fault::None;
        }
        let mut response = Response::builder().status(status);
        if let Some(after) = retry_after {
            response = response.header(header::RETRY_AFTER, after);
        }
        Fault::Answer(response.body(Full::from(body)).unwrap())
    }
    let secs = Duration::from_secs;
    tokio::join!(
        check(
            "no service",
            |asked| match asked.path.as_str() {
                "/dir" => Fault::Change(|directory| {
                    directory.as_object_mut().unwrap().remove("renewalInfo");
                }),
                _ => Fault::None,
            },
            secs(24 * 3600)
        ),
        check("a limit", |asked| said(asked, 429, Some("7200"), ""), secs(7200)),
        check("an outage", |asked| said(asked, 503, None, ""), secs(60)),
        check("a page", |asked| said(asked, 200, Some("60"), "<html>"), secs(60)),
        check(
            "a window that ends before it begins",
            |asked| {
                let window =
                    r#"{"suggestedWindow":{"start":"2027-02-01T00:00:00Z","end":"2027-01-01T00:00:00Z"}}"#;
                said(asked, 200, None, window)
            },
            secs(60)
        ),
        check(
            "no answer",
            |asked| match is_about_renewal(asked) {
                true => Fault::LoseReply,
                false => Fault::None,
            },
            secs(60)
        ),
    );
}

#[tokio::test]
async fn an_order_is_found_among_others_that_are_gone_cannot_be_read_or_are_of_another_profile() {
    let challenges = Challenges::start().await;
    let profile = |name: &str| (name.to_owned(), Duration::from_secs(24 * 3600));
    let options =
        PebbleOptions { profiles: vec![profile("default"), profile("short")], ..PebbleOptions::default() };
    let Some(pebble) = Pebble::start(&options, &challenges).await else { return };
    let spoiled = Arc::new(Mutex::new(BTreeMap::<String, &str>::new()));
    let how = spoiled.clone();
    let relay = Relay::start(&pebble.identity(), pebble.address(), move |asked: &Asked| {
        let page = |status: u16, text: &'static str| {
            Fault::Answer(Response::builder().status(status).body(Full::from(text)).unwrap())
        };
        match how.lock().unwrap().get(&asked.path).copied() {
            None => Fault::None,
            Some("gone") => Fault::Answer(answer(404, None, "malformed")),
            Some("foreign") => Fault::Answer(answer(403, None, "unauthorized")),
            Some("page") => page(404, "<html>nothing here</html>"),
            Some("unreadable") => page(200, "{\"status\":\"deferred\"}"),
            Some("limited") => Fault::Answer(answer(429, Some("5".to_owned()), "rateLimited")),
            Some(_) => page(503, ""),
        }
    })
    .await;
    let client = client_at(&pebble.directory_at(relay.address()), &pebble);
    let account = account(&client).await;
    let all = names(&["shop.example"]);
    let make = async |profile: &str| {
        let ask = Ask::NewOrder { names: all.clone(), profile: Some(profile.to_owned()), replaces: None };
        let made = client.ask(&account, &ask, &[]).await;
        let Event::Answered(made) = made else { panic!("{made:?}") };
        let Answered::Made { url, .. } = *made else { panic!("{made:?}") };
        url
    };
    let find = async |profile: Option<&str>| {
        let ask = Ask::FindOrder { names: all.clone(), profile: profile.map(str::to_owned) };
        match client.ask(&account, &ask, &[]).await {
            Event::Answered(found) => match *found {
                Answered::Found(found) => Ok(found.map(|(url, _)| url)),
                other => panic!("{other:?}"),
            },
            Event::Failed(trouble) => Err(trouble.code()),
            other => panic!("{other:?}"),
        }
    };
    let spoil = |url: &Url, how| {
        let path = url.as_str().split_once("/my-order/").unwrap().1;
        spoiled.lock().unwrap().insert(format!("/my-order/{path}"), how);
    };
    // In whichever order the server lists them, the one that is looked for stands behind others.
    let mut others = Vec::new();
    for _ in 0..4 {
        others.push(make("default").await);
    }
    let (short, sought, late) = (make("short").await, make("default").await, make("short").await);
    for _ in 0..4 {
        others.push(make("default").await);
    }
    assert_eq!(client.orders(&account).await.unwrap().len(), 11);
    for (url, how) in others.iter().zip(["gone", "foreign", "page", "unreadable"].into_iter().cycle()) {
        spoil(url, how);
    }
    assert_eq!(find(Some("default")).await, Ok(Some(sought.clone())));
    let found = find(Some("short")).await.unwrap().unwrap();
    assert!([&short, &late].contains(&&found), "{found}");
    spoil(&sought, "gone");
    assert_eq!(find(Some("default")).await, Ok(None));
    // Of these it is not known that they are nothing.
    for (how, code) in [("down", "unavailable"), ("limited", "rateLimited")] {
        spoil(&sought, how);
        assert_eq!(find(Some("default")).await, Err(code));
    }
}

#[tokio::test]
async fn an_account_is_bound_to_an_external_one_where_the_server_wants_that() {
    let challenges = Challenges::start().await;
    let mac = "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W";
    let options = PebbleOptions {
        external_accounts: vec![("kid-1".to_owned(), mac.to_owned())],
        ..PebbleOptions::default()
    };
    let Some(pebble) = Pebble::start(&options, &challenges).await else { return };
    let client = client(&pebble);
    let terms = agreed(&client).await;
    let signer = new_signer();
    let registration = Registration { contacts: &[], agreed: Some(&terms), external: None };
    assert_eq!(client.register(&*signer, &registration).await, Err(Trouble::ExternalAccountNeeded));
    let secret = |text: &str| SecretBytes::new(text.as_bytes().to_vec().into());
    let wrong = ExternalAccount::parse("kid-1", &secret(&mac.replace('z', "y"))).unwrap();
    let unknown = ExternalAccount::parse("kid-2", &secret(mac)).unwrap();
    for external in [&wrong, &unknown] {
        let registration = Registration { external: Some(external), ..registration };
        let trouble = client.register(&*signer, &registration).await.unwrap_err();
        assert_eq!(trouble.kind(), Some(ProblemKind::Unauthorized), "{trouble}");
    }
    assert_eq!(client.find(&*signer).await, Ok(None));
    let right = ExternalAccount::parse("kid-1", &secret(mac)).unwrap();
    let registration = Registration { external: Some(&right), ..registration };
    let made = client.register(&*signer, &registration).await.unwrap();
    assert_eq!(client.find(&*signer).await.unwrap().unwrap().url, made.url);
    let account = Account { url: made.url, signer };
    let wish = Wish::new(&account, &["shop.example"], ChallengeKind::Http01);
    wish.obtain(&client, &account, &Counter::new(&pebble, &challenges)).await;
}

#[tokio::test]
async fn a_profile_is_one_that_the_server_has_and_another_chain_is_taken_where_it_is_wanted() {
    let challenges = Challenges::start().await;
    let hour = Duration::from_secs(3600);
    let options = PebbleOptions {
        profiles: vec![("default".to_owned(), 2160 * hour), ("short".to_owned(), 6 * hour)],
        alternate_roots: 2,
        ..PebbleOptions::default()
    };
    let Some(pebble) = Pebble::start(&options, &challenges).await else { return };
    let client = client(&pebble);
    let account = account(&client).await;
    for (profile, life) in [("default", 2160), ("short", 6)] {
        let mut wish = Wish::new(&account, &["shop.example"], ChallengeKind::Http01);
        wish.wanted.profile = Some(profile.to_owned());
        // The last of three chains.
        wish.anchors = vec![certificate(&pebble.root(2).await)];
        let chain = wish.obtain(&client, &account, &Counter::new(&pebble, &challenges)).await;
        let found = chain.leaf().not_after().since(chain.leaf().not_before());
        assert!(found <= life * hour + hour && found + hour >= life * hour, "{profile}: {found:?}");
        let above = chain.intermediates().last().unwrap();
        assert_eq!(above.issuer(), wish.anchors[0].subject());
    }
    let mut wish = Wish::new(&account, &["shop.example"], ChallengeKind::Http01);
    wish.wanted.profile = Some("long".to_owned());
    let mut order = wish.order(&account, None);
    let before = client.orders(&account).await.unwrap().len();
    let mut asked = order.step(Event::Tick, Jitter::NONE, SystemClock.now());
    let Some(Action::Ask(ask)) = asked.pop() else { panic!("{asked:?}") };
    let Event::Failed(trouble) = client.ask(&account, &ask, &wish.csr()).await else {
        panic!("a long profile")
    };
    let offered = vec!["default".to_owned(), "short".to_owned()];
    assert_eq!(trouble, Trouble::NoSuchProfile { profile: "long".to_owned(), offered });
    assert_eq!(client.orders(&account).await.unwrap().len(), before, "nothing was asked");
}

#[tokio::test]
async fn a_change_of_the_accounts_key_leaves_one_of_both_whatever_is_lost() {
    let challenges = Challenges::start().await;
    let Some(pebble) = Pebble::start(&PebbleOptions::default(), &challenges).await else { return };
    let fault = Arc::new(Mutex::new(""));
    let next = fault.clone();
    let relay = Relay::start(&pebble.identity(), pebble.address(), move |asked: &Asked| {
        let mut next = next.lock().unwrap();
        let is_it = match *next {
            "change request" | "change reply" => asked.path == "/rollover-account-key",
            // After the change it is looked whether the key was changed.
            "confirm request" | "confirm reply" => asked.path == "/sign-me-up",
            _ => false,
        };
        if !is_it {
            return Fault::None;
        }
        if std::mem::take(&mut *next).ends_with("request") { Fault::LoseRequest } else { Fault::LoseReply }
    })
    .await;
    let client = client_at(&pebble.directory_at(relay.address()), &pebble);
    let mut account = account(&client).await;
    let expected = [
        ("", true, Opens::New),
        ("change request", false, Opens::Old),
        ("change reply", false, Opens::New),
        ("confirm request", false, Opens::New),
        ("confirm reply", false, Opens::New),
    ];
    for (index, (lost, is_told, opens)) in expected.into_iter().enumerate() {
        let new = new_signer();
        assert_eq!(
            client.opens(&account.url, &*account.signer, &*new).await,
            Ok(Opens::Old),
            "{lost}: before"
        );
        *fault.lock().unwrap() = lost;
        let changed = client.change_key(&account, &*new).await;
        assert_eq!(changed.is_ok(), is_told, "{lost}: {changed:?}");
        // A kill here, or in the middle of it, leaves both keys stored.
        assert_eq!(client.opens(&account.url, &*account.signer, &*new).await, Ok(opens), "{lost}");
        if opens == Opens::New {
            account.signer = new;
        }
        let name = format!("k{index}.example");
        let wish = Wish::new(&account, &[&name], ChallengeKind::Http01);
        wish.obtain(&client, &account, &Counter::new(&pebble, &challenges)).await;
    }
    let (old, new) = (new_signer(), new_signer());
    assert_eq!(client.opens(&account.url, &*old, &*new).await, Ok(Opens::Neither));
}

/// Drives an order by hand, and is killed at the action `kill_at`: before it is carried out, or after it, with nothing
/// of its result known. `None` when killed.
async fn drive(
    client: &Client,
    account: &Account,
    wish: &Wish,
    desk: &Counter<'_>,
    kill_at: Option<(usize, bool)>,
) -> Option<Chain> {
    let (mut order, csr) = (wish.order(account, desk.saved()), wish.csr());
    let mut events = VecDeque::from([Event::Tick]);
    let mut count = 0;
    loop {
        let event = match events.pop_front() {
            Some(event) => event,
            None => {
                SystemClock.sleep_until(order.deadline().expect("there is something to wait for")).await;
                Event::Tick
            }
        };
        for action in order.step(event, Jitter::NONE, SystemClock.now()) {
            let (here, is_after) = kill_at.map_or((false, false), |(at, is_after)| (at == count, is_after));
            count += 1;
            if here && !is_after {
                return None;
            }
            match action {
                Action::Keep(saved) => desk.keep(&saved).await.unwrap(),
                Action::Ask(ask) => events.push_back(Box::pin(client.ask(account, &ask, &csr)).await),
                Action::Publish(all) => {
                    desk.publish(&all).await.unwrap();
                    events.push_back(Event::Published);
                }
                Action::GiveUp(all) => panic!("all of it is withdrawn: {all:?}"),
                Action::Withdraw(mut all) => {
                    desk.withdraw(&mut all).await.unwrap();
                    events.push_back(Event::Withdrawn);
                }
                Action::Report { trouble, again } => desk.report(&trouble, again),
                Action::Obtained(chain) if !here => return Some(chain),
                Action::Obtained(_) => {}
            }
            if here {
                return None;
            }
        }
    }
}

#[tokio::test]
async fn an_order_goes_on_after_a_kill_at_each_step_and_one_order_becomes_valid() {
    let challenges = Challenges::start().await;
    let Some(pebble) = Pebble::start(&PebbleOptions::default(), &challenges).await else { return };
    let client = client(&pebble);
    let killed_at = async |step: usize, is_after: bool| {
        let account = account(&client).await;
        let name = format!("k{step}{}.example", u8::from(is_after));
        let wish = Wish::new(&account, &[&name], ChallengeKind::Http01);
        let desk = Counter::new(&pebble, &challenges);
        let first = drive(&client, &account, &wish, &desk, Some((step, is_after))).await;
        let chain = match &first {
            Some(chain) => chain.clone(),
            None => drive(&client, &account, &wish, &desk, None).await.expect("nobody kills it again"),
        };
        let codes = desk.codes();
        assert_eq!(chain.leaf().spki_der(), wish.key.public().spki_der(), "{name}");
        assert_eq!(valid_orders(&client, &account, &wish.wanted.names).await, 1, "{name}: {codes:?}");
        let all = client.orders(&account).await.unwrap().len();
        assert_eq!(all, 1, "{name}: no other order was left behind, {codes:?}");
        assert_eq!(codes, [""; 0], "{name}");
        first.is_some()
    };
    // So many at a time, to the first that is over before it is killed.
    let mut step = 0;
    loop {
        let steps: Vec<usize> = (step..step + 8).collect();
        let before = steps.iter().map(|step| killed_at(*step, false));
        let after = steps.iter().map(|step| killed_at(*step, true));
        let ended =
            futures::future::join(futures::future::join_all(before), futures::future::join_all(after)).await;
        step += 8;
        if ended.0.contains(&true) && ended.1.contains(&true) {
            break;
        }
        assert!(step < 100, "an order of a hundred steps");
    }
    assert!(step >= 16, "an order has more than {step} steps");
    assert!(challenges.is_empty());
}

#[tokio::test]
async fn random_kills_and_faults_leave_one_valid_order_and_an_account_that_works() {
    let challenges = Challenges::start().await;
    let Some(pebble) = Pebble::start(&PebbleOptions::default(), &challenges).await else { return };
    let is_calm = Arc::new(AtomicBool::new(true));
    let calm = is_calm.clone();
    let relay = Relay::start(&pebble.identity(), pebble.address(), move |asked: &Asked| {
        let is_read = ["/dir", "/nonce-plz", "/sign-me-up"].contains(&asked.path.as_str());
        if is_read || calm.load(Ordering::Relaxed) {
            return Fault::None;
        }
        match rand::random_range(0..100) {
            0..4 => Fault::LoseRequest,
            4..12 => Fault::LoseReply,
            12..14 => Fault::Answer(answer(503, Some("1".to_owned()), "serverInternal")),
            14..16 => Fault::Answer(answer(429, Some("1".to_owned()), "rateLimited")),
            _ => Fault::None,
        }
    })
    .await;
    let client = client_at(&pebble.directory_at(relay.address()), &pebble);
    let count = if kit::is_full() { 100 } else { 10 };
    let mut all = Vec::new();
    for index in 0..count {
        let account = account(&client).await;
        let wish = Wish::new(&account, &[&format!("r{index}.example")], ChallengeKind::Http01);
        all.push((account, wish, Counter::new(&pebble, &challenges)));
    }
    is_calm.store(false, Ordering::Relaxed);
    let kills = AtomicUsize::new(0);
    let obtain = async |(account, wish, desk): &(Account, Wish, Counter<'_>)| {
        for _ in 0..6 {
            let at = Some((rand::random_range(0..15), rand::random()));
            if drive(&client, account, wish, desk, at).await.is_some() {
                return;
            }
            kills.fetch_add(1, Ordering::Relaxed);
        }
        drive(&client, account, wish, desk, None).await.expect("nobody kills it again");
    };
    for some in all.chunks(10) {
        futures::future::join_all(some.iter().map(&obtain)).await;
    }
    is_calm.store(true, Ordering::Relaxed);
    for (account, wish, desk) in &all {
        let valid = valid_orders(&client, account, &wish.wanted.names).await;
        assert_eq!(valid, 1, "{}: {:?}", wish.wanted.names.as_slice()[0], desk.codes());
        assert!(client.find(&*account.signer).await.unwrap().is_some_and(|found| found.is_valid));
    }
    let kills = kills.into_inner();
    assert!(kills >= count, "{kills} kills of {count} orders");
    assert!(challenges.is_empty());
}

#[tokio::test]
async fn mistakes_are_told_with_what_to_do_about_them() {
    let challenges = Challenges::start().await;
    let Some(pebble) = Pebble::start(&PebbleOptions::default(), &challenges).await else { return };
    let settings = |directory: &str| Settings {
        timeout: Duration::from_secs(2),
        ..Settings::new(url(directory), pebble.ca_file())
    };
    let ask = async |settings: Settings| {
        Client::new(&settings, Arc::new(SystemClock)).directory().await.unwrap_err()
    };
    let check = |trouble: &Trouble, code: &str, pace: Pace, hint: &str| {
        assert_eq!((trouble.code(), trouble.pace()), (code, pace), "{trouble}");
        assert!(trouble.hint().contains(hint), "{trouble}: {}", trouble.hint());
    };
    // Another path of the right server, and a page of another.
    let base = format!("https://{}", pebble.address());
    let wrong = ask(settings(&format!("{base}/directory"))).await;
    check(&wrong, "not-acme", Pace::Operator, "directory of an ACME server");
    let nonce = ask(settings(&format!("{base}/nonce-plz"))).await;
    check(&nonce, "not-acme", Pace::Operator, "directory of an ACME server");
    let page = Recorder::start(Some(&pebble.identity()), async |asked: Asked| {
        let body = match asked.path.as_str() {
            "/endless" => "x".repeat(acme::MAX_ANSWER + 1),
            "/silent" => std::future::pending().await,
            _ => "<html><body>Welcome to nginx!</body></html>".to_owned(),
        };
        let mut response = Response::new(Full::new(Bytes::from(body)));
        if asked.path == "/moved" {
            *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
            let to = "https://elsewhere.example/directory?token=x".parse().unwrap();
            response.headers_mut().insert(header::LOCATION, to);
        }
        response
    })
    .await;
    let at = |path: &str| settings(&format!("https://{}/{path}", page.address()));
    check(&ask(at("")).await, "not-acme", Pace::Operator, "directory of an ACME server");
    check(&ask(at("endless")).await, "not-acme", Pace::Operator, "directory");
    check(&ask(at("silent")).await, "lost", Pace::Soon, "nothing");
    check(&ask(at("moved")).await, "redirected", Pace::Operator, "https://elsewhere.example itself");
    // Nobody there, and somebody else there.
    let nobody = ask(settings("https://127.0.0.1:9/dir")).await;
    check(&nobody, "unreachable", Pace::Soon, "running");
    let other = fixtures::World::new("td", SystemClock.now());
    let file = pebble.folder().join("other.pem");
    std::fs::write(&file, certs::certificates_to_pem([other.root().der()])).unwrap();
    let unknown = ask(Settings { ca_file: file, ..settings(&pebble.directory()) }).await;
    check(&unknown, "not-believed", Pace::Operator, "CA file");
    let absent = ask(Settings { ca_file: "nowhere.pem".into(), ..settings(&pebble.directory()) }).await;
    check(&absent, "file", Pace::Operator, "PEM");
    std::fs::write(pebble.folder().join("empty.pem"), "").unwrap();
    let empty = Settings { ca_file: pebble.folder().join("empty.pem"), ..settings(&pebble.directory()) };
    check(&ask(empty).await, "file", Pace::Operator, "PEM");

    // Terms, and others than the server has.
    let client = client(&pebble);
    let signer = new_signer();
    let terms = agreed(&client).await;
    for agreed in [None, Some("https://example.com/others")] {
        let registration = Registration { contacts: &[], agreed, external: None };
        let trouble = client.register(&*signer, &registration).await.unwrap_err();
        assert_eq!(trouble, Trouble::TermsNotAgreed { terms: terms.clone() });
        assert!(trouble.hint().contains(&terms));
    }
    assert_eq!(client.find(&*signer).await, Ok(None), "no account was made");
    let contacts = ["ops@example.com".to_owned()];
    let registration = Registration { contacts: &contacts, agreed: Some(&terms), external: None };
    let trouble = client.register(&*signer, &registration).await.unwrap_err();
    check(&trouble, "unsupportedContact", Pace::Operator, "mailto:");
    // An account that the server does not know any more.
    let gone = Account { url: url(&format!("{base}/my-account/none")), signer };
    let trouble = client.orders(&gone).await.unwrap_err();
    assert!(trouble.kind().is_some() && trouble.pace() >= Pace::Validation, "{trouble}");
}

/// The octets of every text in a signed request: of its parts, and of those within them.
fn open(value: &serde_json::Value, parts: &mut Vec<Vec<u8>>) {
    for text in value.as_object().unwrap().values() {
        if text.is_object() {
            open(text, parts);
            continue;
        }
        let Some(Ok(octets)) = text.as_str().map(|text| URL_SAFE_NO_PAD.decode(text)) else { continue };
        if let Ok(within @ serde_json::Value::Object(_)) = serde_json::from_slice(&octets) {
            open(&within, parts);
        }
        parts.push(octets);
    }
}

#[tokio::test]
async fn what_another_host_is_sent_is_signed_and_nothing_else() {
    let challenges = Challenges::start().await;
    let Some(pebble) = Pebble::start(&PebbleOptions::default(), &challenges).await else { return };
    let other = Recorder::start(Some(&pebble.identity()), async |_| answer(403, None, "unauthorized")).await;
    let elsewhere = format!("https://{}", other.address());
    let named = elsewhere.clone();
    let first = Recorder::start(Some(&pebble.identity()), move |asked: Asked| {
        let named = named.clone();
        async move {
            let body = json!({
                "newNonce": format!("https://{}/nonce", asked.header("host")),
                "newAccount": format!("{named}/account"), "newOrder": format!("{named}/order"),
            });
            let mut response = Response::new(Full::new(Bytes::from(body.to_string())));
            response.headers_mut().insert("replay-nonce", "abc".parse().unwrap());
            response
        }
    })
    .await;
    let client = client_at(&format!("https://{}/dir", first.address()), &pebble);
    let mac = "c2VjcmV0IHNlY3JldCBzZWNyZXQ";
    let external =
        ExternalAccount::parse("kid-1", &SecretBytes::new(mac.as_bytes().to_vec().into())).unwrap();
    let key = SecretKey::generate(KeyKind::P256);
    let signer = signer(&key);
    let registration = Registration { contacts: &[], agreed: None, external: Some(&external) };
    assert!(client.register(&*signer, &registration).await.is_err());
    let [asked] = &other.asked()[..] else { panic!("{:?}", other.asked()) };
    assert_eq!(asked.header("content-type"), "application/jose+json");
    assert_eq!((asked.header("authorization"), asked.header("cookie")), ("", ""));
    let body: serde_json::Value = serde_json::from_slice(&asked.body).unwrap();
    let members: Vec<&String> = body.as_object().unwrap().keys().collect();
    assert_eq!(members, ["payload", "protected", "signature"]);
    // What is signed stands in it in base64url, the binding by the MAC key once more within that.
    let mut parts = vec![asked.body.to_vec()];
    open(&body, &mut parts);
    let has = |text: &str| parts.iter().any(|part| String::from_utf8_lossy(part).contains(text));
    assert!(has("/account\"") && has("termsOfServiceAgreed") && has("\"alg\":\"HS256\""), "all was opened");
    let texts: Vec<(&str, &[u8])> = parts.iter().map(|part| ("a part", part.as_slice())).collect();
    let needles = [
        Needle::new("the MAC key as it was given", mac.as_bytes()),
        Needle::new("the MAC key", b"secret secret secret"),
        Needle::scalar("the account's key", key.expose_secret()),
    ];
    let sightings = search(&needles, &texts, &[]);
    assert!(sightings.is_empty(), "{sightings:?}");
    let there = search(&[Needle::new("the binding", b"\"HS256\",\"kid\":\"kid-1\"")], &texts, &[]);
    assert!(!there.is_empty(), "what stands in the innermost part is found");
    assert_eq!(first.asked().len(), 2, "the directory and a nonce");
}
