//! Row P1 of the reliability programme: whatever is asked for, under whatever policy and at whatever time, no
//! certificate comes out that its profile does not allow; and what it allows is issued.

mod reader;

use std::{collections::BTreeMap, net::IpAddr};

use certs::{Profile, PublicKey};
use spiffe::{NodeId, SpiffeId, SvidRequest, Tenant};

use self::reader::{bounds, breaches, is_good_serial};
use super::*;
use crate::testing::{Random, full};

/// Requests in one deployment.
const ROUNDS: usize = 50;
const CLASSES: [Profile; 4] = [Profile::Node, Profile::Workload, Profile::Server, Profile::Operator];
const PURPOSES: [Purpose; 8] = [
    Purpose::Enrolment,
    Purpose::NodeRenewal,
    Purpose::Recovery,
    Purpose::Delivery,
    Purpose::Renewal,
    Purpose::ForcedRenewal,
    Purpose::Server,
    Purpose::Operator,
];
const GOOD_NAMES: &[&str] = &["localhost", "a", "cp.prod.example", "xn--bcher-kva.example", "1.2.3.example"];
const BAD_NAMES: &[&str] =
    &["", ".", "a..b", "under_score", "*", "a.*.c", "a b", "-a.b", "1.2.3.4", "bücher.example", "a\0b"];

#[tokio::test]
async fn no_certificate_leaves_its_profile_and_none_that_is_allowed_is_refused() {
    let deployments = if full() { 400 } else { 40 };
    let mut tally = Tally::default();
    for seed in 0..deployments {
        deployment(seed, &mut tally).await;
    }
    println!("P1: {} generated requests of 20000: {:?}", tally.requests, tally.outcomes);
    assert_eq!(tally.requests, deployments as usize * ROUNDS);
    // Everything that can happen did, often enough to mean something.
    for outcome in
        ["issued", "issued again", "cut", "successor", "class", "domain", "life", "names", "node", "purpose"]
            .into_iter()
            .chain(["authority key", "token", "spent", "bad name", "clock of 2050"])
    {
        let count = tally.outcomes.get(outcome).copied().unwrap_or_default();
        assert!(count >= 3, "{outcome} happened {count} times: {:?}", tally.outcomes);
    }
}

#[test]
fn serials_differ_and_have_twenty_octets_with_the_top_bit_clear() {
    let draws = if full() { 1_000_000 } else { 100_000 };
    let mut seen: HashSet<[u8; 20]> = HashSet::with_capacity(draws);
    for _ in 0..draws {
        let serial = Serial::random();
        assert!(is_good_serial(serial.as_bytes()), "{serial}");
        seen.insert(serial.as_bytes().try_into().unwrap());
    }
    assert_eq!(seen.len(), draws, "a serial number came twice");
    // The top bit is clear, and the next one set so that none is shorter; the other 158 are drawn: each is set half of
    // the time.
    for bit in 2..160 {
        let set = seen.iter().filter(|octets| octets[bit / 8] & (0x80 >> (bit % 8)) != 0).count();
        assert!(set > draws * 48 / 100 && set < draws * 52 / 100, "bit {bit} is set in {set} of {draws}");
    }
    println!("P1: {draws} serial numbers of 1000000, all different");
}

#[derive(Default)]
struct Tally {
    requests: usize,
    outcomes: BTreeMap<&'static str, usize>,
}

impl Tally {
    fn count(&mut self, outcome: &'static str) {
        *self.outcomes.entry(outcome).or_default() += 1;
    }
}

/// A join token that a test planted.
struct Token {
    id: String,
    is_good: bool,
    /// The key it was spent for, once it was.
    spent: Option<PublicKey>,
}

/// One deployment with a policy and a time of its own, and what is asked of it.
async fn deployment(seed: u64, tally: &mut Tally) {
    let mut random = Random::new(seed);
    // From 2001 to 2080, so on both sides of 2050, when X.509 writes dates another way.
    let start = Timestamp::from_unix_millis(
        1_000_000_000_000 + i64::try_from(random.below(2_500_000_000_000)).unwrap(),
    );
    let uninitialised = World::uninitialised();
    let policy = policy(&mut random, uninitialised.policy.clone());
    let world = World { policy, clock: ManualClock::new(start), ..uninitialised };
    Manager::initialise(&world.deps(), Actor::Host).await.unwrap();
    let issued = world
        .life(async |handle| {
            let mut tokens: Vec<Token> = Vec::new();
            let mut issued: HashSet<Vec<u8>> = HashSet::new();
            // In one of four the store takes no new authority, so that the first one nears its end.
            let ages = random.once_in(4);
            if ages {
                world.store.fail(Call::Insert);
            }
            for round in 0..ROUNDS {
                let place = format!("seed {seed}, request {round}");
                pass_time(&mut random, &world, &handle, ages).await;
                let asked = request_of(&mut random, &world, &mut tokens).await;
                tally.requests += 1;
                judge(&place, &world, &handle, asked, &mut tokens, &mut issued, tally).await;
            }
            issued
        })
        .await;
    // What the journal holds is what came out: nothing was issued behind our back.
    let rows = world.store.certificates(&CertificateFilter::default()).await.unwrap();
    let kept = rows.into_iter().filter(|row| row.state == CertificateState::Issued);
    let kept: HashSet<Vec<u8>> = kept.map(|row| row.chain[0].clone()).collect();
    assert!(
        kept == issued,
        "seed {seed}: the journal holds {} leaves, {} came out",
        kept.len(),
        issued.len()
    );
}

fn policy(random: &mut Random, base: Policy) -> Policy {
    let dev = random.once_in(3);
    let mut of = |profile: Profile, least: Duration| {
        let (min, max) = bounds(profile, dev);
        random.between(min.max(least), max)
    };
    let [node, workload, server, operator] = CLASSES.map(|profile| of(profile, Duration::ZERO));
    let issuing = of(Profile::Issuing, 6 * node.max(workload).max(server));
    let root = of(Profile::Root, 2 * issuing);
    let policy =
        Policy { lifetimes: Lifetimes { root, issuing, node, workload, server, operator }, dev, ..base };
    assert_eq!(policy.problems(), []);
    policy
}

/// Lets time pass, and authorities be replaced; of one that `ages` none is.
async fn pass_time(random: &mut Random, world: &World, handle: &Handle, ages: bool) {
    let issuing = world.policy.lifetimes.issuing;
    if random.once_in(4) {
        let short = random.between(Duration::from_millis(1), issuing / 4);
        world.clock.advance(if ages { issuing / 8 } else { short });
        tokio::task::yield_now().await;
    }
    match random.below(24) {
        _ if ages => {}
        0 => world.store.fail(Call::Insert),
        1 | 2 => world.store.heal(Call::Insert),
        3 => drop(handle.rotate_issuing(Actor::System, "").await),
        _ => {}
    }
}

async fn authorities(world: &World) -> Vec<AuthorityRecord> {
    world.store.load().await.unwrap()
}

/// A good request of any class, and then up to two things about it that are different.
async fn request_of(random: &mut Random, world: &World, tokens: &mut Vec<Token>) -> SvidRequest {
    let profile = *random.of(&CLASSES);
    let (path, purposes): (String, &[Purpose]) = match profile {
        Profile::Node => {
            (format!("/credence/node/{}", name(random)), &[Purpose::Enrolment, Purpose::NodeRenewal])
        }
        Profile::Server => ("/credence/server".to_owned(), &[Purpose::Server, Purpose::Renewal]),
        Profile::Operator => (format!("/credence/operator/{}", name(random)), &[Purpose::Operator]),
        _ => (workload_path(random), &[Purpose::Delivery, Purpose::Renewal, Purpose::ForcedRenewal]),
    };
    let mut asked = request(&path, *random.of(purposes));
    if random.once_in(4) {
        asked.public_key = SecretKey::generate(KeyKind::P384).public().clone();
    }
    let (least, most) = bounds(profile, world.policy.dev);
    asked.lifetime = match random.below(4) {
        0 => *random.of(&[least, most]),
        1 => random.between(least, most),
        _ => world.policy.lifetimes.of(profile),
    };
    if profile == Profile::Server {
        asked.dns_names = (0..random.below(4)).map(|_| (*random.of(GOOD_NAMES)).to_owned()).collect();
        asked.ip_addresses = (0..random.below(3)).map(|_| address(random)).collect();
    }
    if asked.purpose == Purpose::Enrolment {
        asked.spend = Some(Spend::Token(spend(random, &mut asked.public_key, tokens, world)));
    }
    for _ in 0..[0, 0, 1, 1, 2][random.index(5)] {
        bend(random, world, &mut asked, tokens).await;
    }
    asked
}

/// Makes one thing about a request different; often that is not allowed then.
async fn bend(random: &mut Random, world: &World, asked: &mut SvidRequest, tokens: &mut Vec<Token>) {
    match random.below(11) {
        0 => asked.id = SpiffeId::parse(&format!("spiffe://{}{}", foreign(random), asked.id.path())).unwrap(),
        1 => {
            let path = *random.of(&[
                "/credence",
                "/credence/root",
                "/credence/node",
                "/credence/node/a/b",
                "/credence/node/UPPER",
                "/credence/server/x",
                "/credence/server",
                "/credence/operator/ann",
                "/credence/node/web-1",
                "/Credence/node/web-1",
                "/credences",
            ]);
            asked.id = SpiffeId::parse(&format!("spiffe://td{path}")).unwrap();
        }
        2 => {
            let all = [&CLASSES[..], &[Profile::Root, Profile::Issuing]].concat();
            asked.profile = *random.of(&all);
        }
        3 => asked.node = random.once_in(2).then(|| NodeId::parse(&name(random)).unwrap()),
        4 => asked.purpose = *random.of(&PURPOSES),
        5 => {
            let (least, most) = bounds(asked.profile, world.policy.dev);
            let tick = Duration::from_millis(1);
            asked.lifetime =
                *random.of(&[Duration::ZERO, tick, least - tick, most + tick, 400 * most, Duration::MAX]);
        }
        6 => asked.dns_names = vec![(*random.of(GOOD_NAMES)).to_owned()],
        7 => asked.dns_names.push((*random.of(BAD_NAMES)).to_owned()),
        8 => asked.ip_addresses.push(address(random)),
        9 => {
            let known = authorities(world).await;
            let spki = random.of(&known).certificate.spki_der();
            asked.public_key = PublicKey::from_spki_der(spki).unwrap();
        }
        _ => {
            asked.spend = match random.below(3) {
                0 => None,
                1 => Some(TokenSpend { token_id: "unknown".to_owned(), spki: asked.public_key.hash() }),
                _ => Some(TokenSpend {
                    spki: SpkiHash([7; 32]),
                    ..spend(random, &mut asked.public_key, tokens, world)
                }),
            }
            .map(Spend::Token);
        }
    }
    if random.once_in(3) {
        asked.tenant = Tenant::parse(&name(random)).unwrap();
    }
}

/// A new token, one that is spent, for its own key or another, or one that is good no more.
fn spend(random: &mut Random, key: &mut PublicKey, tokens: &mut Vec<Token>, world: &World) -> TokenSpend {
    if !tokens.is_empty() && random.once_in(2) {
        let known = random.of(tokens);
        // Its answer was lost, say: whoever spent it asks again.
        if let Some(spender) = known.spent.clone().filter(|_| !random.once_in(4)) {
            *key = spender;
        }
        return TokenSpend { token_id: known.id.clone(), spki: key.hash() };
    }
    let (id, is_good) = (format!("token-{}", tokens.len()), !random.once_in(4));
    let end = if is_good { Timestamp::MAX } else { world.clock.now() };
    world.store.add_token(&id, end);
    if !is_good && random.once_in(2) {
        world.store.add_token(&id, Timestamp::MAX);
        world.store.revoke_token(&id);
    }
    tokens.push(Token { id: id.clone(), is_good, spent: None });
    TokenSpend { token_id: id, spki: key.hash() }
}

fn name(random: &mut Random) -> String {
    let length = if random.once_in(8) { 63 } else { 1 + random.index(12) };
    let inside = b"abcdefghijklmnopqrstuvwxyz0123456789-.";
    let text: Vec<u8> = (0..length)
        .map(|at| if at == 0 || at + 1 == length { *random.of(&inside[..36]) } else { *random.of(inside) })
        .collect();
    String::from_utf8(text).unwrap()
}

fn workload_path(random: &mut Random) -> String {
    let letters = b"abcxyzABCXYZ0189-_.";
    let (segments, length) = if random.once_in(10) { (40, 48) } else { (1 + random.index(4), 10) };
    let mut path = String::new();
    for _ in 0..segments {
        // A letter first: a segment of dots alone is none.
        path.push_str("/w");
        path.extend((0..random.index(length)).map(|_| char::from(*random.of(letters))));
    }
    path
}

fn address(random: &mut Random) -> IpAddr {
    let octets = random.octets(16);
    match <[u8; 16]>::try_from(octets.as_slice()) {
        Ok(sixteen) if random.once_in(2) => sixteen.into(),
        _ => [octets[0], octets[1], octets[2], octets[3]].into(),
    }
}

fn foreign(random: &mut Random) -> String {
    (*random.of(&["other", "td.example", "t", "tdx", "xtd", "t-d"])).to_owned()
}

/// Asks, and holds what comes back against the words of the policy.
async fn judge(
    place: &str,
    world: &World,
    handle: &Handle,
    asked: SvidRequest,
    tokens: &mut [Token],
    issued: &mut HashSet<Vec<u8>>,
    tally: &mut Tally,
) {
    let before = authorities(world).await;
    let keys: BTreeSet<SpkiHash> = before.iter().map(|record| record.certificate.spki_hash()).collect();
    let forbidden = forbidden(&asked, &world.policy, &keys);
    let now = world.clock.now();
    let answer = handle.issue(asked.clone()).await;
    let token =
        asked.spend.as_ref().and_then(|spend| tokens.iter_mut().find(|token| token.id == spend.name()));
    match answer {
        Ok(svid) => {
            assert_eq!(forbidden, None, "{place}: {asked:?} was issued");
            let ders: Vec<&[u8]> = svid.chain.certificates().map(Certificate::der).collect();
            let [leaf, issuer] = ders[..] else { panic!("{place}: a chain of {}", ders.len()) };
            assert_eq!(breaches(leaf, issuer, &asked, &world.policy, now), [""; 0], "{place}: {asked:?}");
            let after = authorities(world).await;
            let signer =
                after.iter().find(|record| record.certificate.der() == issuer).expect("a known issuer");
            assert_eq!((signer.place, signer.state), (Place::Issuing, Active), "{place}");
            assert!(issued.insert(leaf.to_vec()), "{place}: the same leaf twice");
            if let Some(token) = token {
                assert!(token.is_good && token.spent.is_none(), "{place}: the token was no good");
                token.spent = Some(asked.public_key);
            }
            let ends = svid.chain.leaf().not_after() + Duration::from_secs(1);
            tally.count(if ends == svid.chain.intermediates()[0].not_after() { "cut" } else { "issued" });
            if now > Timestamp::from_unix_secs(2_524_608_000) {
                tally.count("clock of 2050");
            }
        }
        Err(IssueError::AlreadyIssued(svid)) => {
            assert_eq!(forbidden, None, "{place}: {asked:?}");
            assert!(issued.contains(svid.chain.leaf().der()), "{place}: a leaf that never came out");
            let spent = token.and_then(|token| token.spent.clone());
            assert_eq!(spent, Some(asked.public_key), "{place}");
            tally.count("issued again");
        }
        Err(IssueError::Refused(reason)) => {
            let why = forbidden.unwrap_or_else(|| panic!("{place}: {asked:?} is allowed: {reason}"));
            tally.count(why);
        }
        Err(IssueError::Token(_)) => {
            assert_eq!(forbidden, None, "{place}");
            assert!(
                token.is_none_or(|token| !token.is_good || token.spent.is_some()),
                "{place}: a good token"
            );
            tally.count("spent");
        }
        Err(IssueError::Unavailable(reason)) => {
            let least = 2 * world.policy.lifetimes.workload;
            let active = before.iter().find(|one| one.place == Place::Issuing && one.state == Active);
            let left = active.map(|one| one.certificate.not_after().since(now));
            assert!(left.is_none_or(|left| left < least), "{place}: {reason}, with {left:?} left");
            tally.count("successor");
        }
        // None is asked for that policy would let pass.
        Err(error @ (IssueError::BadOutput(_) | IssueError::Recovery(_))) => {
            panic!("{place}: {asked:?}: {error}")
        }
    }
}

/// Why the policy's words forbid it, if they do.
fn forbidden(asked: &SvidRequest, policy: &Policy, keys: &BTreeSet<SpkiHash>) -> Option<&'static str> {
    let text = asked.id.to_string();
    let Some(path) = text.strip_prefix(&format!("spiffe://{}/", policy.trust_domain)) else {
        return Some("domain");
    };
    let segments: Vec<&str> = path.split('/').collect();
    let is_name = |text: &str| {
        let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        (1..=63).contains(&text.len())
            && text.chars().all(|c| good(c) || c == '-' || c == '.')
            && text.starts_with(good)
            && text.ends_with(good)
    };
    // Which node the identity is itself, and whether its class is that of the profile.
    let (fits, own_node) = match (segments[..].as_ref(), asked.profile) {
        (["credence", "node", node], Profile::Node) => (is_name(node), Some(*node)),
        (["credence", "server"], Profile::Server) => (true, None),
        (["credence", "operator", _], Profile::Operator) => (true, None),
        (["credence", ..], _) => (false, None),
        (_, profile) => (profile == Profile::Workload, None),
    };
    if !fits {
        return Some("class");
    }
    let is_for_node = match (asked.profile, asked.node.as_ref()) {
        (Profile::Node, Some(node)) => Some(node.as_str()) == own_node,
        (Profile::Server | Profile::Operator, Some(_)) => false,
        _ => true,
    };
    if !is_for_node {
        return Some("node");
    }
    let purposes: &[Purpose] = match asked.profile {
        Profile::Node => &[Purpose::Enrolment, Purpose::NodeRenewal, Purpose::Recovery],
        Profile::Server => &[Purpose::Server, Purpose::Renewal, Purpose::ForcedRenewal],
        Profile::Operator => &[Purpose::Operator],
        _ => &[Purpose::Delivery, Purpose::Renewal, Purpose::ForcedRenewal, Purpose::Operator],
    };
    if !purposes.contains(&asked.purpose) {
        return Some("purpose");
    }
    let (least, most) = bounds(asked.profile, policy.dev);
    if asked.lifetime < least || asked.lifetime > most {
        return Some("life");
    }
    if asked.profile != Profile::Server && !(asked.dns_names.is_empty() && asked.ip_addresses.is_empty()) {
        return Some("names");
    }
    if keys.contains(&asked.public_key.hash()) {
        return Some("authority key");
    }
    let spends_own = asked.spend.as_ref().map(|spend| spend.spki() == asked.public_key.hash());
    // A recovery spends no token; none is made here that spends what it should.
    let is_recovery = asked.purpose == Purpose::Recovery;
    if is_recovery || spends_own != (asked.purpose == Purpose::Enrolment).then_some(true) {
        return Some("token");
    }
    if asked.dns_names.iter().any(|name| BAD_NAMES.contains(&name.as_str())) {
        return Some("bad name");
    }
    None
}
