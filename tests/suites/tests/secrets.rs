//! No private key and no token stands anywhere but with its owner.

#![expect(clippy::panic, clippy::unwrap_used, reason = "helpers of tests fail the test")]

use kit::{Needle, Outcome, Pair, TestWorld, WorldOptions, envoy, renew, search, try_http};
use rustls_pki_types::PrivateKeyDer;

#[tokio::test(flavor = "multi_thread")]
async fn no_private_scalar_and_no_token_is_found_anywhere_and_a_planted_one_is() {
    let envoy = envoy("1.40.0");
    let has_envoy = envoy.is_some();
    let mut world = TestWorld::boot("secrets", WorldOptions { envoy, ..WorldOptions::default() }).await;
    if has_envoy {
        Pair::start(&mut world).await;
    }
    let alice = world.node("alice", &["alice"]).await;
    let workload = world.workload(&alice, "default").await;
    let renewed = renew(world.ports().xds, &alice.identity).await.unwrap();
    let unspent = world.enroll("bob", &["bob"]).await;
    // Work that moves secrets about: a rotation, a restart, refusals.
    world.command(&["ca", "rotate", "intermediate", "--yes"]).await;
    world
        .run(&["agent", "join", &format!("{unspent}x"), "--server", "127.0.0.1:1", "--pin", "sha256:00"])
        .await;
    let after_rotation = world.workload(&alice, "default").await;

    let mut needles = Vec::new();
    for (name, key) in [
        ("alice's node key", &alice.identity.key),
        ("alice's workload key", &workload.key),
        ("alice's renewed node key", &renewed.key),
        ("alice's workload key after rotation", &after_rotation.key),
        ("the operator's key", &pem_key(&world, "credence-admin/operator.key")),
    ] {
        needles.push(Needle::scalar(name, key.secret_der()));
    }
    for (name, key) in world.keys().private() {
        needles.push(Needle::scalar(name, &key));
    }
    for node in if has_envoy { &["web", "pay"][..] } else { &[] } {
        let key = pem_key(&world, &format!("{node}/certs/current/key.pem"));
        needles.push(Needle::scalar(format!("{node}'s node key"), key.secret_der()));
    }
    for (name, token) in [("a spent token", &alice.token), ("an unspent token", &unspent)] {
        let secret = token.split('_').nth(3).unwrap();
        needles.push(Needle::new(name, secret.as_bytes()));
        needles.push(Needle::new(format!("{name}, as octets"), &unhex(secret)));
    }

    let texts = texts(&world).await;
    let texts: Vec<(&str, &[u8])> =
        texts.iter().map(|(place, text)| (place.as_str(), text.as_bytes())).collect();
    let folder = world.sandbox().path("");
    let logs: Vec<_> = std::fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|end| end == "log" || end == "yaml"))
        .collect();
    assert!(!logs.is_empty());
    let data = folder.join("credence-data");
    let mut folders: Vec<&std::path::Path> = logs.iter().map(std::path::PathBuf::as_path).collect();
    folders.push(&data);
    let node_logs: Vec<_> = ["web", "pay"].iter().map(|node| folder.join(node).join("envoy.log")).collect();
    folders.extend(node_logs.iter().map(std::path::PathBuf::as_path));
    let found = search(&needles, &texts, &folders);
    assert!(found.is_empty(), "{found:#?}");

    // The search itself works: each needle is found where it is planted, beside the real database.
    let planted = data.join("planted");
    std::fs::write(&planted, needles.iter().flat_map(|needle| needle.octets.clone()).collect::<Vec<_>>())
        .unwrap();
    let found = search(&needles, &[], &folders);
    for needle in &needles {
        assert!(
            found.iter().any(|one| one.needle == needle.name),
            "{} was planted and not found",
            needle.name
        );
    }
    std::fs::remove_file(planted).unwrap();
    world.finish().await;
}

/// Everything that the control plane says to anybody.
async fn texts(world: &TestWorld) -> Vec<(String, String)> {
    let mut texts = vec![("/metrics".to_owned(), world.metrics().await)];
    let paths = [
        "configs?text=true",
        "proxies",
        "proxies/alice",
        "proxies/alice/status",
        "proxies/alice/config",
        "proxies/alice/explain",
        "tokens",
        "identities",
        "authorities",
        "certificates?limit=500",
        "stats",
        "status",
        "audit?limit=500",
    ];
    for path in paths {
        let path = format!("/api/v1/{path}");
        texts.push((path.clone(), world.rest().get(&path).await.to_string()));
    }
    let Outcome::Http { body, .. } = try_http(world.ports().rest, None, "/api/v1/status").await else {
        panic!("no answer without a certificate");
    };
    texts.push(("the answer to a stranger".to_owned(), body));
    for command in [
        &["status"][..],
        &["proxy", "show", "alice"],
        &["token", "list"],
        &["audit", "list"],
        &["cert", "list", "--all"],
        &["ca", "show"],
    ] {
        let (_, out, errors) = world.run(command).await;
        texts.push((format!("{command:?}"), out + &errors));
    }
    texts
}

fn pem_key(world: &TestWorld, name: &str) -> PrivateKeyDer<'static> {
    use rustls_pki_types::pem::PemObject;
    PrivateKeyDer::from_pem_file(world.sandbox().path(name)).unwrap()
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len() / 2).map(|at| u8::from_str_radix(&text[2 * at..2 * at + 2], 16).unwrap()).collect()
}
