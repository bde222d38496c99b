//! Our own set of SVIDs with the verdict that the SPIFFE documents demand, in the manner of x509-limbo: an
//! expected identity or the rule that refuses.

use std::time::Duration;

use certs::{Serial, SpkiHash, Timestamp, Usage};
use credence_spiffe::{AuthorityId, Class, Trust, TrustBundle, TrustDomain, verify_svid};
use fixtures::{
    Blueprint, Credential, KEY_CERT_SIGN, RawName, TestAuthority, TestKey, TestKeyKind, World, der, dns, oid,
    uri,
};

const DOMAIN: &str = "prod.example";
const PARTNER: &str = "partner.example";
const WEB: &str = "spiffe://prod.example/web";
/// The verdict of a chain that is believed.
const ACCEPTED: &str = "accepted";

/// Holds cases against one world and collects what differs.
struct Set {
    world: World,
    partner: World,
    trust: Trust,
    count: usize,
    wrong: Vec<String>,
}

impl Set {
    fn new() -> Self {
        let now = Timestamp::from_unix_millis(1_790_000_000_250);
        let (world, partner) = (World::new(DOMAIN, now), World::new(PARTNER, now));
        let trust = Trust::new(bundle(DOMAIN, &world)).with_federated(bundle(PARTNER, &partner));
        let trust = trust.expect("the domains share nothing");
        Self { world, partner, trust, count: 0, wrong: Vec::new() }
    }

    fn check(&mut self, name: &str, credential: &Credential, usage: Usage, expected: &str) {
        let trust = self.trust.clone();
        self.check_with(&trust, name, credential, usage, expected);
    }

    fn check_with(
        &mut self,
        trust: &Trust,
        name: &str,
        credential: &Credential,
        usage: Usage,
        expected: &str,
    ) {
        self.count += 1;
        let found = match credential.chain() {
            Err(_) => "parse",
            Ok(chain) => match verify_svid(&chain, trust, self.world.now(), usage) {
                Ok(_) => ACCEPTED,
                Err(error) => error.rule(),
            },
        };
        if found != expected {
            self.wrong.push(format!("{name}: expected {expected}, found {found}"));
        }
    }

    /// A leaf with these names.
    fn names(&mut self, name: &str, names: &[RawName], expected: &str) {
        let made = self.world.leaf_with(WEB, |leaf| leaf.with_names(names));
        self.check(name, &made, Usage::Client, expected);
    }

    /// A leaf with this URI name.
    fn id(&mut self, octets: &[u8], expected: &str) {
        let name = String::from_utf8_lossy(octets).into_owned();
        self.names(&format!("{name:?}"), &[(0x86, octets.to_vec())], expected);
    }

    /// A leaf with one thing changed.
    fn leaf(&mut self, name: &str, change: impl FnOnce(Blueprint) -> Blueprint, expected: &str) {
        let made = self.world.leaf_with(WEB, change);
        self.check(name, &made, Usage::Client, expected);
    }

    #[expect(clippy::print_stdout, reason = "the set says how large it is")]
    fn finish(self, family: &str, at_least: usize) {
        println!("{family}: {} SVIDs", self.count);
        assert!(self.wrong.is_empty(), "{} of {} differ: {:#?}", self.wrong.len(), self.count, self.wrong);
        assert!(self.count >= at_least, "{} cases, at least {at_least} are due", self.count);
    }
}

fn bundle(domain: &str, world: &World) -> TrustBundle {
    TrustBundle::new(TrustDomain::parse(domain).expect("a trust domain"), world.anchors(), 1)
}

#[test]
fn every_octet_of_a_path_is_judged_by_the_alphabet() {
    let mut set = Set::new();
    for octet in 0..=255_u8 {
        let fine = octet.is_ascii_alphanumeric() || b"-._/".contains(&octet);
        let expected = if fine { ACCEPTED } else { "spiffe-id" };
        set.id(&[b"spiffe://prod.example/a", [octet].as_slice(), b"b"].concat(), expected);
    }
    set.finish("octets of a path", 256);
}

#[test]
fn every_octet_of_a_trust_domain_is_judged_by_the_alphabet() {
    let mut set = Set::new();
    for octet in 0..=255_u8 {
        let known = octet.is_ascii_lowercase() || octet.is_ascii_digit() || b"-._/".contains(&octet);
        // A good character makes the name of a domain that nobody trusts.
        let expected = if known { "trust-domain" } else { "spiffe-id" };
        set.id(&[b"spiffe://prod", [octet].as_slice(), b"x.example/web"].concat(), expected);
    }
    set.finish("octets of a trust domain", 256);
}

#[test]
fn identities_are_refused_and_never_normalised() {
    let mut set = Set::new();
    for path in
        ["/a", "/ns/shop/sa/web", "/A", "/...", "/.a", "/a.", "/_", "/-", "/0", "/credences", "/x/credence/y"]
    {
        set.id(format!("spiffe://{DOMAIN}{path}").as_bytes(), ACCEPTED);
    }
    for path in [
        "",
        "/",
        "//",
        "/a/",
        "//a",
        "/a//b",
        "/.",
        "/..",
        "/a/.",
        "/a/..",
        "/./a",
        "/../a",
        "/a/./b",
        "/a/../b",
        "/%61",
        "/a%2Fb",
        "/a%00",
        "/a?b",
        "?b",
        "/a#b",
        "#b",
        "/a;b",
        "/a:b",
        "/a@b",
        "/a b",
        "/a\\b",
        "/a+b",
        "/ä",
        "/а",
        "/a\u{200b}",
        "/a\u{202e}b",
        "/ａ",
        "/a\r\nb",
        "/a\tb",
        "/a\0",
        ":443/a",
        ":/a",
        "@evil.test/a",
        "\0/a",
        " /a",
        "%00/a",
        "/credence",
        "/credence/x",
        "/credence/node",
        "/credence/node/a/b",
        "/credence/server/x",
        "/credence/operator",
        "/credence/operator/a/b",
    ] {
        set.id(format!("spiffe://{DOMAIN}{path}").as_bytes(), "spiffe-id");
    }
    for whole in [
        "spiffe:/prod.example/web",
        "spiffe:prod.example/web",
        "spiffe:///web",
        "spiffe://",
        "spiffe:",
        "SPIFFE://prod.example/web",
        "Spiffe://prod.example/web",
        "spiffe ://prod.example/web",
        " spiffe://prod.example/web",
        "\0spiffe://prod.example/web",
        "https://prod.example/web",
        "spiffee://prod.example/web",
        "xspiffe://prod.example/web",
        "spiffe://PROD.example/web",
        "spiffe://prod.Example/web",
        "spiffe://user@prod.example/web",
        "spiffe://user:pw@prod.example/web",
        "spiffe://[::1]/web",
        "spiffe://prod.example:8443/web",
        "spiffe://pröd.example/web",
        "spiffe://prod。example/web",
        "prod.example/web",
        "/web",
        "web",
        "",
        " ",
        "\u{feff}spiffe://prod.example/web",
    ] {
        set.id(whole.as_bytes(), "spiffe-id");
    }
    set.finish("spellings", 85);
}

#[test]
fn similar_domains_are_other_domains() {
    let mut set = Set::new();
    for domain in [
        "prod.example.evil.test",
        "evil.prod.example",
        "evilprod.example",
        "prod.exampl",
        "rod.example",
        "prod.example.",
        ".prod.example",
        "prod-example",
        "prod_example",
        "prod..example",
        "prod.example2",
        "example",
        "prod",
        "pr0d.example",
        "prod.example-",
        "xn--prd-sna.example",
        "127.0.0.1",
        "partner.exampl",
        "p.artner.example",
    ] {
        set.id(format!("spiffe://{domain}/web").as_bytes(), "trust-domain");
    }
    set.finish("similar domains", 19);
}

#[test]
fn lengths_end_where_the_standard_says() {
    let mut set = Set::new();
    let prefix = format!("spiffe://{DOMAIN}/");
    for (length, expected) in [(2047, ACCEPTED), (2048, ACCEPTED), (2049, "spiffe-id"), (4096, "spiffe-id")] {
        set.id(format!("{prefix}{}", "a".repeat(length - prefix.len())).as_bytes(), expected);
    }
    for (length, expected) in
        [(1, "trust-domain"), (255, "trust-domain"), (256, "spiffe-id"), (2000, "spiffe-id")]
    {
        set.id(format!("spiffe://{}/web", "a".repeat(length)).as_bytes(), expected);
    }
    set.finish("lengths", 8);
}

#[test]
fn exactly_one_uri_name_counts_whatever_stands_beside_it() {
    let mut set = Set::new();
    let other = || uri("spiffe://other.example/web");
    set.names("none", &[], "uri-names");
    set.names("two", &[uri(WEB), other()], "uri-names");
    set.names("two, other order", &[other(), uri(WEB)], "uri-names");
    set.names("same twice", &[uri(WEB), uri(WEB)], "uri-names");
    set.names("spiffe and https", &[uri(WEB), uri("https://prod.example")], "uri-names");
    set.names("https and spiffe", &[uri("https://prod.example"), uri(WEB)], "uri-names");
    set.names("ten", &vec![uri(WEB); 10], "uri-names");
    set.names("far apart", &[uri(WEB), dns("a.example"), dns("b.example"), other()], "uri-names");
    set.names("empty beside", &[uri(WEB), uri("")], "uri-names");
    set.names("empty", &[uri("")], "spiffe-id");
    let text = WEB.as_bytes().to_vec();
    for (name, tag) in
        [("as mailbox", 0x81), ("as DNS name", 0x82), ("as address", 0x87), ("as registered id", 0x88)]
    {
        set.names(name, &[(tag, text.clone())], "uri-names");
    }
    for (name, tag) in
        [("constructed", 0xa6), ("universal IA5", 0x16), ("universal UTF-8", 0x0c), ("tag 9", 0x89)]
    {
        set.names(name, &[(tag, text.clone())], "uri-names");
    }
    let other_name =
        [der::object_id(oid::UNKNOWN), der::element(0xa0, &der::element(0x0c, b"spiffe://evil/x"))];
    let other_name: RawName = (0xa0, other_name.concat());
    let directory: RawName = (0xa4, der::name("Evil", "spiffe://evil/x"));
    for (name, beside) in [
        ("DNS beside", dns("web.example")),
        ("wildcard beside", dns("*.web.example")),
        ("address beside", (0x87, vec![10, 0, 0, 1])),
        ("IPv6 beside", (0x87, vec![0; 16])),
        ("mailbox beside", (0x81, b"web@prod.example".to_vec())),
        ("otherName beside", other_name.clone()),
        ("directory name beside", directory),
        ("registered id beside", (0x88, oid::UNKNOWN.to_vec())),
    ] {
        set.names(name, &[uri(WEB), beside.clone()], ACCEPTED);
        set.names(&format!("{name}, first"), &[beside, uri(WEB)], ACCEPTED);
    }
    for (name, beside) in [
        ("underscore", dns("we_b.example")),
        ("empty label", dns("web..example")),
        ("empty DNS name", dns("")),
        ("DNS with NUL", dns("web\0.example")),
        ("DNS with port", dns("web.example:80")),
        ("DNS as URI", dns(WEB)),
        ("wildcard alone", dns("*")),
        ("wildcard inside", dns("w*.web.example")),
        ("address as DNS", dns("10.0.0.1")),
        ("address of 3", (0x87, vec![10, 0, 0])),
        ("address of 8", (0x87, vec![10, 0, 0, 0, 255, 0, 0, 0])),
        ("mailbox without host", (0x81, b"web".to_vec())),
        ("unknown form", (0x8f, b"x".to_vec())),
    ] {
        set.names(name, &[uri(WEB), beside], "name");
    }
    set.names("otherName only", &[other_name], "uri-names");
    set.leaf("uncritical", |leaf| leaf.critical(oid::SUBJECT_ALT_NAME, false), "uncritical-extension");
    set.leaf(
        "twice",
        |mut leaf| {
            let again = leaf.extensions.iter().find(|one| one.oid == oid::SUBJECT_ALT_NAME).cloned();
            leaf.extensions.extend(again);
            leaf
        },
        "duplicate-extension",
    );
    set.leaf("garbage", |leaf| leaf.with(oid::SUBJECT_ALT_NAME, true, vec![0x30, 0x05, 0x86]), "uri-names");
    set.leaf(
        "subject and uncritical",
        |mut leaf| {
            leaf.subject = der::name("Acme", "spiffe://evil/x");
            leaf.with_names(&[uri(WEB)])
        },
        ACCEPTED,
    );
    set.finish("names", 50);
}

#[test]
fn every_key_usage_is_judged() {
    let mut set = Set::new();
    for bits in 0..=255_u8 {
        let expected = match bits {
            0 => "malformed-extension",
            _ if bits & (KEY_CERT_SIGN | 0x02) != 0 => "leaf-signs",
            _ if bits & 0x80 == 0 => "no-digital-signature",
            _ => ACCEPTED,
        };
        set.leaf(&format!("bits {bits:#010b}"), |leaf| leaf.with_key_usage(true, bits), expected);
    }
    set.leaf("absent", |leaf| leaf.without(oid::KEY_USAGE), "key-usage");
    set.leaf("uncritical", |leaf| leaf.critical(oid::KEY_USAGE, false), "key-usage");
    for value in [
        vec![],
        vec![0x03, 0x00],
        vec![0x03, 0x02, 0x08, 0x80],
        vec![0x04, 0x01, 0x80],
        vec![0x03, 0x05, 0, 0, 0, 0, 0],
    ] {
        set.leaf(
            &format!("{value:02x?}"),
            |leaf| leaf.with(oid::KEY_USAGE, true, value),
            "malformed-extension",
        );
    }
    set.finish("key usages", 263);
}

#[test]
fn every_set_of_purposes_is_judged() {
    let mut set = Set::new();
    let all = [oid::SERVER_AUTH, oid::CLIENT_AUTH, oid::CODE_SIGNING, oid::ANY_USAGE];
    for subset in 0..16_u8 {
        let purposes: Vec<&[u8]> =
            (0..4).filter(|bit| subset & (1 << bit) != 0).map(|bit| all[usize::from(bit as u8)]).collect();
        let (server, client, any) = (subset & 1 != 0, subset & 2 != 0, subset & 8 != 0);
        for (usage, needed) in
            [(Usage::Server, server), (Usage::Client, client), (Usage::Any, server && client)]
        {
            let expected = match needed {
                _ if purposes.is_empty() => "purpose",
                _ if any => "any-usage",
                true => ACCEPTED,
                false if usage == Usage::Any => "purpose",
                false => "wrong-usage",
            };
            let made = set.world.leaf_with(WEB, |leaf| leaf.with_purposes(&purposes));
            set.check(&format!("{subset:04b} as {usage:?}"), &made, usage, expected);
        }
    }
    let critical = |leaf: Blueprint| leaf.critical(oid::EXTENDED_KEY_USAGE, true);
    set.leaf("critical", critical, ACCEPTED);
    set.finish("purposes", 49);
}

#[test]
fn a_leaf_is_no_authority() {
    let mut set = Set::new();
    set.leaf("CA", |leaf| leaf.with_basic_constraints(true, None), "leaf-is-authority");
    set.leaf("CA with length", |leaf| leaf.with_basic_constraints(true, Some(0)), "leaf-is-authority");
    set.leaf(
        "CA, uncritical",
        |leaf| leaf.with_basic_constraints(true, None).critical(oid::BASIC_CONSTRAINTS, false),
        "leaf-is-authority",
    );
    set.leaf("no BasicConstraints", |leaf| leaf.without(oid::BASIC_CONSTRAINTS), ACCEPTED);
    set.leaf(
        "written FALSE",
        |leaf| leaf.with(oid::BASIC_CONSTRAINTS, true, vec![0x30, 0x03, 0x01, 0x01, 0x00]),
        ACCEPTED,
    );
    set.leaf(
        "TRUE in BER",
        |leaf| leaf.with(oid::BASIC_CONSTRAINTS, true, vec![0x30, 0x03, 0x01, 0x01, 0x01]),
        "malformed-extension",
    );
    set.leaf(
        "garbage",
        |leaf| leaf.with(oid::BASIC_CONSTRAINTS, true, vec![0x31, 0x00]),
        "malformed-extension",
    );
    set.finish("constraints", 7);
}

#[test]
fn seconds_count_at_both_ends() {
    let mut set = Set::new();
    let now = set.world.now();
    for (name, from, to, expected) in [
        ("long ago", -7200, -3600, "expired"),
        ("ended 1 s ago", -60, -1, "expired"),
        ("last second", -60, 0, ACCEPTED),
        ("first second", 0, 60, ACCEPTED),
        ("only this second", 0, 0, ACCEPTED),
        ("starts in 1 s", 1, 60, "not-yet-valid"),
        ("tomorrow", 86_400, 172_800, "not-yet-valid"),
        ("backwards", 60, -60, "negative-validity"),
    ] {
        let at = |seconds: i64| Timestamp::from_unix_secs(now.unix_secs() + seconds);
        set.leaf(
            name,
            |mut leaf| {
                (leaf.not_before, leaf.not_after) = (at(from), at(to));
                leaf
            },
            expected,
        );
    }
    set.finish("seconds", 8);
}

#[test]
fn only_the_bundle_of_its_own_domain_vouches_for_an_identity() {
    let mut set = Set::new();
    let (now, any) = (set.world.now(), Usage::Any);
    let partner_web = "spiffe://partner.example/web";
    let made = set.partner.leaf(partner_web);
    set.check("partner by partner", &made, any, ACCEPTED);
    let made = set.partner.leaf(WEB);
    set.check("own by partner", &made, any, "unknown-issuer");
    let made = set.world.leaf(partner_web);
    set.check("partner by own", &made, any, "unknown-issuer");
    let stranger = World::new("stranger.example", now);
    set.check("stranger", &stranger.leaf("spiffe://stranger.example/web"), any, "trust-domain");
    set.check("own by stranger", &stranger.leaf(WEB), any, "unknown-issuer");

    // An authority of ours that names the partner's domain, and the other way round.
    for (name, authority_uri, expected) in [
        ("names its domain", "spiffe://prod.example", ACCEPTED),
        ("names another", "spiffe://partner.example", "foreign-authority"),
        ("names a path", "spiffe://prod.example/ca", "foreign-authority"),
        ("names capitals", "spiffe://PROD.example", "foreign-authority"),
        ("names a web site", "https://prod.example", ACCEPTED),
    ] {
        let key = TestKey::generate(TestKeyKind::P256);
        let blueprint = set.world.root().authority_blueprint("another", &key, Some(0), now);
        let blueprint = blueprint.with_names(&[uri(authority_uri)]);
        let authority = TestAuthority::from_blueprint(blueprint, key, Some(set.world.root()));
        let made = set.world.leaf_below(WEB, &[&authority]);
        set.check(&format!("authority {name}"), &made, any, expected);
    }

    // The partner's root vouches for our issuing authority: nobody here asked it to.
    let (root, issuing) = (set.partner.root(), set.world.issuing());
    let spki = root.key().spki_der();
    let cross = Blueprint::authority(issuing.name(), issuing.key(), root.name(), Some(&spki), Some(0), now)
        .sign(root.key());
    let good = set.world.leaf(WEB);
    let key = || TestKey::generate(TestKeyKind::P256);
    let only_cross = Credential::new(vec![good.ders()[0].clone(), cross.clone()], key());
    let both = Credential::new(vec![good.ders()[0].clone(), cross, good.ders()[1].clone()], key());
    set.check("cross-signed by partner", &only_cross, any, "unknown-issuer");
    set.check("cross-signed beside", &both, any, ACCEPTED);
    set.finish("federation", 12);
}

#[test]
fn anchors_and_keys_count_at_the_time_of_the_check() {
    let mut set = Set::new();
    let now = set.world.now();
    let domain = || TrustDomain::parse(DOMAIN).expect("a trust domain");
    let good = set.world.leaf(WEB);
    let hash = SpkiHash::of;
    let own = || Trust::new(bundle(DOMAIN, &set.world));
    let leaf = good.chain().expect("a good chain").leaf().serial().clone();
    let (issuing, root) = (set.world.issuing(), set.world.root());
    let revoked = |by: &TestAuthority, serial: &Serial| {
        let authority = AuthorityId::of(hash(&by.key().spki_der()));
        own().with_revoked(std::sync::Arc::new([(authority, serial.clone())].into()))
    };
    let cases = [
        ("leaf revoked", revoked(issuing, &leaf), "revoked"),
        ("its number revoked under another", revoked(root, &leaf), ACCEPTED),
        ("another revoked", revoked(issuing, &Serial::random()), ACCEPTED),
        ("leaf tainted", own().with_tainted(vec![hash(&good.key().spki_der())]), "tainted-key"),
        (
            "issuing tainted",
            own().with_tainted(vec![hash(&set.world.issuing().key().spki_der())]),
            "tainted-key",
        ),
        ("root tainted", own().with_tainted(vec![hash(&set.world.root().key().spki_der())]), "tainted-key"),
        ("other tainted", own().with_tainted(vec![hash(&set.partner.root().key().spki_der())]), ACCEPTED),
        ("no anchor", Trust::new(TrustBundle::new(domain(), vec![], 2)), "no-anchor"),
        ("other anchor", Trust::new(TrustBundle::new(domain(), set.partner.anchors(), 2)), "unknown-issuer"),
    ];
    for (name, trust, expected) in cases {
        set.check_with(&trust, name, &good, Usage::Server, expected);
    }
    // The root again, same name and key, but other dates and flaws.
    let root = set.world.root();
    let again = |change: &dyn Fn(Blueprint) -> Blueprint| {
        let made = Blueprint::authority(root.name(), root.key(), root.name(), None, Some(1), now);
        certs::Certificate::from_der(&change(made).sign(root.key())).expect("a root reads back")
    };
    let expired = again(&|mut one| {
        one.not_before = now - Duration::from_secs(200);
        one.not_after = now - Duration::from_secs(100);
        one
    });
    let flawed = [
        ("expired", expired, "expired"),
        ("no authority", again(&|one| one.with_basic_constraints(false, None)), "not-authority"),
        (
            "uncritical constraints",
            again(&|one| one.critical(oid::BASIC_CONSTRAINTS, false)),
            "uncritical-extension",
        ),
        ("no constraints", again(&|one| one.without(oid::BASIC_CONSTRAINTS)), "missing-extension"),
        ("no cert sign", again(&|one| one.with_key_usage(true, 0x02)), "no-cert-sign"),
        ("no key id", again(&|one| one.without(oid::SUBJECT_KEY_ID)), "missing-extension"),
        (
            "unknown critical",
            again(&|one| one.with(oid::UNKNOWN, true, vec![5, 0])),
            "unknown-critical-extension",
        ),
        (
            "URI constraint",
            again(&|one| {
                let base = der::sequence(&[&der::element(0x86, b"prod.example")]);
                one.with(oid::NAME_CONSTRAINTS, true, der::sequence(&[&der::element(0xa0, &base)]))
            }),
            "name-constraint",
        ),
    ];
    let valid = root.certificate().clone();
    for (name, certificate, expected) in flawed {
        let alone = Trust::new(TrustBundle::new(domain(), vec![certificate.clone()], 3));
        set.check_with(&alone, &format!("anchor: {name}"), &good, Usage::Server, expected);
        let beside = Trust::new(TrustBundle::new(domain(), vec![certificate, valid.clone()], 3));
        set.check_with(
            &beside,
            &format!("anchor: {name}, beside a good one"),
            &good,
            Usage::Server,
            ACCEPTED,
        );
    }
    set.finish("anchors", 25);
}

#[test]
fn a_path_under_credence_opens_nothing_of_ours_when_it_is_another_domains() {
    let set = Set::new();
    let class = |world: &World, path: &str| {
        let id = format!("spiffe://{}{path}", world.domain());
        let chain = world.leaf(&id).chain().expect("a good chain");
        let svid = verify_svid(&chain, &set.trust, world.now(), Usage::Client).expect("a good SVID");
        svid.class().clone()
    };
    assert_eq!(class(&set.world, "/credence/operator/ann"), Class::Operator("ann".to_owned()));
    assert_eq!(class(&set.partner, "/credence/operator/ann"), Class::Workload);
    assert_eq!(class(&set.partner, "/credence/server"), Class::Workload);
    assert_eq!(class(&set.partner, "/credence/unheard-of"), Class::Workload);
}

#[test]
fn two_domains_may_not_share_an_authority() {
    let set = Set::new();
    let shared = Trust::new(bundle(DOMAIN, &set.world)).with_federated(bundle(PARTNER, &set.world));
    assert!(shared.is_err_and(|error| error.key == set.world.root().certificate().spki_hash()));
}
