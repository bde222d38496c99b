use certs::{Imported, Timestamp};
use spiffe::{BindingState, Labels, Namespace, SecretName, Tenant, TrustBundle};
use xds::Views;
use zeroize::Zeroizing;

use super::*;
use crate::{
    EdgeSecret, ImportedSecret, SecretFacts,
    edges::testing::{pair, views},
};

fn id(text: &str) -> SpiffeId {
    SpiffeId::parse(text).unwrap()
}

fn node(name: &str) -> NodeId {
    NodeId::parse(name).unwrap()
}

fn binding(name: &str, identities: &[&str], state: BindingState) -> Binding {
    Binding {
        node: node(name),
        tenant: Default::default(),
        namespace: Default::default(),
        labels: Labels::new(),
        identities: identities.iter().map(|text| id(text)).collect(),
        issuer: None,
        state,
        created: Timestamp::EPOCH,
    }
}

struct World {
    bindings: Bindings,
    blocks: BlockList,
    trust: Trust,
    imported: ImportedSecrets,
    edges: EdgeSecrets,
    views: Views,
}

fn edge(tenant: &str, namespace: &str, name: &str) -> EdgeSecret {
    EdgeSecret {
        tenant: Tenant::parse(tenant).unwrap(),
        namespace: Namespace::parse(namespace).unwrap(),
        name: EdgeName::parse(name).unwrap(),
        certificate: None,
        challenges: vec![("shop.example".to_owned(), pair(Timestamp::EPOCH))],
    }
}

fn imported(tenant: Tenant, name: &str, grants: &[&str]) -> ImportedSecret {
    let facts = SecretFacts {
        tenant,
        name: SecretName::from_path(name).unwrap(),
        version: 1,
        grants: grants.iter().map(|text| id(text)).collect(),
        created: Timestamp::EPOCH,
        updated: Timestamp::EPOCH,
    };
    ImportedSecret { facts, value: Imported::generic(Zeroizing::new(b"value".to_vec())).unwrap() }
}

fn world(blocked: &[&str]) -> World {
    World {
        bindings: Bindings::new([
            binding("web-1", &["spiffe://td/web", "spiffe://td/web/admin"], BindingState::Enabled),
            binding("pay-1", &["spiffe://td/payments"], BindingState::Enabled),
            binding("old-1", &["spiffe://td/old"], BindingState::Disabled),
        ]),
        blocks: BlockList::new(blocked.iter().map(|text| {
            (id(text), spiffe::Block { since: Timestamp::EPOCH, reason: String::new(), is_enforced: false })
        })),
        trust: Trust::new(TrustBundle::new(TrustDomain::parse("td").unwrap(), Vec::new(), 1)),
        imported: ImportedSecrets::new([
            imported(Tenant::default(), "default/db", &["spiffe://td/web/admin", "spiffe://td/payments"]),
            imported(Tenant::default(), "default/other", &["spiffe://td/other"]),
            imported(Tenant::parse("other").unwrap(), "default/theirs", &["spiffe://td/web"]),
        ]),
        edges: EdgeSecrets::new([
            edge("default", "default", "shop"),
            edge("default", "default", "hidden"),
            edge("default", "elsewhere", "far"),
            edge("other", "default", "theirs"),
        ]),
        views: Views {
            drained: 7,
            ..views(
                "web-1",
                &[
                    "edge://shop",
                    "edge://shop/shop.example",
                    "edge://shop/other.example",
                    "edge://far",
                    "edge://theirs",
                    "edge://nowhere",
                ],
            )
        },
    }
}

fn asked(world: &World, name: &str, secret: &str) -> Result<Grant, Absence> {
    let facts = Facts {
        bindings: &world.bindings,
        blocks: &world.blocks,
        trust: &world.trust,
        imported: &world.imported,
        edges: &world.edges,
        views: &world.views,
    };
    decide(&node(name), secret, facts)
}

#[test]
fn grants_each_name_of_the_grammar_to_its_owner() {
    let world = world(&[]);
    let check = |secret: &str, expected: Grant| {
        assert_eq!(asked(&world, "web-1", secret), Ok(expected), "{secret}");
    };
    let td = TrustDomain::parse("td").unwrap();
    check("default", Grant::Svid(id("spiffe://td/web")));
    check("default?g=7", Grant::Svid(id("spiffe://td/web")));
    check("spiffe://td/web", Grant::Svid(id("spiffe://td/web")));
    check("spiffe://td/web/admin?g=0", Grant::Svid(id("spiffe://td/web/admin")));
    check("spiffe://td", Grant::Context(td.clone()));
    check("spiffe://td?g=7", Grant::Context(td.clone()));
    check("ROOTCA", Grant::Context(td));
    check("ALL?g=2", Grant::All);
}

#[test]
fn what_cannot_check_against_lists_does_not_exist_while_they_are_wanted() {
    let mut world = world(&[]);
    world.trust = world.trust.with_lists(spiffe::Lists::Withdrawn);
    assert_eq!(asked(&world, "web-1", "ALL"), Err(Absence::Unlisted("ALL")));
    assert_eq!(asked(&world, "web-1", "ALL?g=2"), Err(Absence::Unlisted("ALL")));
    assert!(asked(&world, "web-1", "ROOTCA").is_ok());
}

#[test]
fn everything_else_does_not_exist() {
    let world = world(&[]);
    let check = |secret: &str| {
        assert_eq!(asked(&world, "web-1", secret), Err(Absence::UnknownName), "{secret}");
    };
    for secret in [
        "",
        "Default",
        "rootca",
        "all",
        "*",
        "edge://",
        "edge://shop/",
        "edge:///shop",
        "edge://Shop",
        "secret://db",
        "web",
        "?g=1",
    ] {
        check(secret);
    }
    for secret in ["default?", "default?g=", "default?g=01", "default?g=+1", "default?g=-1", "default?h=1"] {
        check(secret);
    }
    // Generations that have not begun.
    for secret in ["default?g=8", "ROOTCA?g=8", "ALL?g=8", "spiffe://td?g=18446744073709551615"] {
        check(secret);
    }
    for secret in ["default?g=1?g=2", "default?g=18446744073709551616", "default?g=1&x=2", "spiffe://"] {
        check(secret);
    }
    for secret in
        ["spiffe://TD", "spiffe://td/", "spiffe://td/../web", "SPIFFE://td/web", "spiffe://td/web#x"]
    {
        check(secret);
    }
}

#[test]
fn refuses_what_belongs_to_another() {
    let world = world(&[]);
    let not_granted = |text: &str| Err(Absence::NotGranted(id(text)));
    assert_eq!(asked(&world, "web-1", "spiffe://td/payments"), not_granted("spiffe://td/payments"));
    assert_eq!(
        asked(&world, "web-1", "spiffe://td/credence/server"),
        not_granted("spiffe://td/credence/server")
    );
    assert_eq!(
        asked(&world, "web-1", "spiffe://td/credence/node/web-1"),
        not_granted("spiffe://td/credence/node/web-1")
    );
    assert_eq!(asked(&world, "web-1", "spiffe://other/web"), not_granted("spiffe://other/web"));
    let other = TrustDomain::parse("other").unwrap();
    assert_eq!(asked(&world, "web-1", "spiffe://other"), Err(Absence::UnknownDomain(other)));
}

#[test]
fn refuses_nodes_that_are_not_bound() {
    let world = world(&[]);
    for name in ["old-1", "stranger"] {
        for secret in ["default", "ROOTCA", "ALL", "spiffe://td/old"] {
            assert_eq!(asked(&world, name, secret), Err(Absence::NotBound(node(name))), "{name} {secret}");
        }
    }
}

#[test]
fn a_block_hides_the_identity_and_a_blocked_node_sees_nothing() {
    let workload = world(&["spiffe://td/web"]);
    assert_eq!(asked(&workload, "web-1", "default"), Err(Absence::Blocked(id("spiffe://td/web"))));
    assert_eq!(
        asked(&workload, "web-1", "spiffe://td/web/admin"),
        Ok(Grant::Svid(id("spiffe://td/web/admin")))
    );
    let whole = world(&["spiffe://td/credence/node/web-1"]);
    for secret in ["default", "ROOTCA", "ALL", "spiffe://td/web/admin"] {
        let blocked = Err(Absence::Blocked(id("spiffe://td/credence/node/web-1")));
        assert_eq!(asked(&whole, "web-1", secret), blocked, "{secret}");
    }
}

#[test]
fn imported_secret_goes_to_nodes_that_speak_for_an_identity_it_is_granted_to() {
    let check = |world: &World, node: &str, secret: &str, is_granted: bool| {
        let found = asked(world, node, secret);
        let name = || {
            SecretName::from_path(secret.strip_prefix(SecretName::SCHEME).unwrap().split('?').next().unwrap())
        };
        match found {
            Ok(found) => assert!(is_granted && found == Grant::Imported(name().unwrap()), "{node} {secret}"),
            Err(_) => assert!(!is_granted, "{node} {secret}"),
        }
    };
    let free = world(&[]);
    check(&free, "web-1", "secret://default/db", true);
    check(&free, "web-1", "secret://default/db?g=3", true);
    check(&free, "pay-1", "secret://default/db", true);
    check(&free, "old-1", "secret://default/db", false);
    check(&free, "web-1", "secret://default/other", false);
    check(&free, "web-1", "secret://default/theirs", false);
    for name in [
        "secret://default/none",
        "secret://",
        "secret://db",
        "secret://default/db/x",
        "secret://default/DB",
        "secret://default/db?g=03",
    ] {
        check(&free, "web-1", name, false);
    }
    // A blocked identity grants nothing; what another one grants stays.
    check(&world(&["spiffe://td/payments"]), "pay-1", "secret://default/db", false);
    check(&world(&["spiffe://td/web"]), "web-1", "secret://default/db", true);
    check(&world(&["spiffe://td/credence/node/web-1"]), "web-1", "secret://default/db", false);
    let words = |secret| asked(&free, "web-1", secret).unwrap_err().to_string();
    assert_eq!(
        words("secret://default/other").replace("other", "none"),
        words("secret://default/none"),
        "forbidden and absent are one"
    );
}

#[test]
fn an_edge_is_for_the_nodes_of_its_namespace_whose_listeners_show_it() {
    let mut world = world(&[]);
    let shop = || EdgeName::parse("shop").unwrap();
    let challenge = || EdgePart::Challenge("shop.example".to_owned());
    assert_eq!(asked(&world, "web-1", "edge://shop"), Ok(Grant::Edge(shop(), EdgePart::Certificate)));
    assert_eq!(asked(&world, "web-1", "edge://shop/shop.example"), Ok(Grant::Edge(shop(), challenge())));
    let check = |world: &World, who: &str, secret: &str, edge: &str| {
        let expected = Err(Absence::EdgeNotShown(EdgeName::parse(edge).unwrap()));
        assert_eq!(asked(world, who, secret), expected, "{who} {secret}");
    };
    check(&world, "pay-1", "edge://shop", "shop");
    check(&world, "web-1", "edge://hidden", "hidden");
    check(&world, "web-1", "edge://far", "far");
    check(&world, "web-1", "edge://theirs", "theirs");
    check(&world, "web-1", "edge://nowhere", "nowhere");
    check(&world, "web-1", "edge://hidden/shop.example", "hidden");
    let over = Err(Absence::ChallengeOver(shop()));
    assert_eq!(asked(&world, "web-1", "edge://shop/other.example"), over);
    world.views = views("web-1", &["edge://shop"]);
    assert_eq!(asked(&world, "web-1", "edge://shop/shop.example"), over);
    check(&world, "pay-1", "edge://shop/shop.example", "shop");
    world.views = views("web-1", &["edge://hidden"]);
    check(&world, "web-1", "edge://shop", "shop");
    assert!(asked(&world, "web-1", "edge://hidden").is_ok());
}
