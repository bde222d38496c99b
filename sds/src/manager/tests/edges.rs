//! Certificates for public names, served to who shows them.

use spiffe::{EdgeName, Namespace, Tenant};

use super::*;
use crate::{
    EdgePair, EdgeSecret,
    edges::testing::{pair, views},
};

fn shop(certificate: Option<EdgePair>, challenges: Vec<(String, EdgePair)>) -> Arc<EdgeSecrets> {
    Arc::new(EdgeSecrets::new([EdgeSecret {
        tenant: Tenant::default(),
        namespace: Namespace::default(),
        name: EdgeName::parse("shop").unwrap(),
        certificate,
        challenges,
    }]))
}

fn shows(secrets: &[&str]) -> Arc<Views> {
    Arc::new(views("web-1", secrets))
}

fn chain_of(resource: &Resource) -> Vec<u8> {
    let secret = Secret::decode(&*resource.to_any().unwrap().value).unwrap();
    assert_eq!(secret.name, resource.name().as_ref());
    let Some(secret::Type::TlsCertificate(pair)) = secret.r#type else { panic!("no certificate") };
    match pair.certificate_chain.unwrap().specifier {
        Some(Specifier::InlineBytes(bytes)) => bytes,
        _ => panic!("not inline"),
    }
}

#[tokio::test]
async fn an_edge_comes_with_the_listener_that_shows_it_and_is_replaced_when_it_is_renewed() {
    let world = World::new();
    let (first, second) = (pair(world.clock.now()), pair(world.clock.now()));
    let (one, two) = (first.chain.to_pem().into_bytes(), second.chain.to_pem().into_bytes());
    let (mut web, mut pay) = (world.open("web-1"), world.open("pay-1"));
    web.want("edge://shop").await;
    web.absent("edge://shop").await;
    world.edges.send_replace(shop(None, Vec::new()));
    world.views.send_replace(shows(&["edge://shop"]));
    // Granted, and not obtained yet: nothing is said, so that Envoy waits for it.
    web.silent("edge://shop").await;
    world.edges.send_replace(shop(Some(first), Vec::new()));
    let held = web.held("edge://shop").await;
    assert_eq!(chain_of(&held), one);
    pay.want("edge://shop").await;
    pay.absent("edge://shop").await;

    let challenge = pair(world.clock.now());
    let shown = challenge.chain.to_pem().into_bytes();
    world.edges.send_replace(shop(Some(second), vec![("shop.example".to_owned(), challenge)]));
    assert_eq!(chain_of(&*web.held_other_than("edge://shop", &held).await), two);
    world.views.send_replace(shows(&["edge://shop", "edge://shop/shop.example"]));
    web.want("edge://shop/shop.example").await;
    assert_eq!(chain_of(&*web.held("edge://shop/shop.example").await), shown);
    world.views.send_replace(shows(&[]));
    web.absent("edge://shop").await;
    web.absent("edge://shop/shop.example").await;
    // The listener comes back in the same moment as other news.
    world.blocks.send_replace(blocked(&["spiffe://td/payments"]));
    world.views.send_replace(shows(&["edge://shop"]));
    web.held("edge://shop").await;
    assert!(world.issuer.seen().is_empty(), "nobody signs for edges");
}
