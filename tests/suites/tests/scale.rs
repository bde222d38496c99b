//! A thousand streams and ten thousand resources: a change costs the change. Counted, never timed.

use std::{fmt::Write, time::Duration};

use futures::{StreamExt, stream};
use kit::{CDS, DeltaStream, EDS, Identity, LDS, TestWorld, WorldOptions, XdsClient, eventually, within};
use serde_json::json;

const STREAMS: usize = 1_000;
const CLUSTERS: usize = 5_000;
const ALL: Duration = Duration::from_secs(180);

/// Counters whose difference tells what a change cost.
const COUNTERS: [&str; 4] = [
    "credence_xds_resources_encoded_total",
    "credence_xds_resources_hashed_total",
    "credence_xds_responses_sent_total",
    "credence_xds_resources_sent_total",
];

#[tokio::test(flavor = "multi_thread")]
async fn one_changed_endpoint_among_ten_thousand_resources_costs_one_resource() {
    let world = TestWorld::boot("scale", WorldOptions::default()).await;
    enrol(&world).await;
    for text in documents() {
        world.rest().apply(&text).await;
    }
    let mut streams = open(&world).await;
    let interested = streams.pop().expect("there is one more");
    settled(&world).await;

    let before = counters(&world).await;
    world.rest().apply(&endpoints(CLUSTERS - 1, 9_999)).await;
    let mut interested = interested;
    let update = interested.next().await.expect("the interested stream hears of it");
    assert_eq!((update.type_url.as_str(), update.resources.len()), (EDS, 1), "{update:?}");
    interested.ack(&update).await;
    settled(&world).await;
    let after = counters(&world).await;
    let cost: Vec<f64> = before.iter().zip(&after).map(|(before, after)| after - before).collect();
    assert_eq!(cost, [1.0, 1.0, 1.0, 1.0], "{COUNTERS:?}");
    // And nobody else has anything to read.
    let mut others = stream::iter(streams.iter_mut().step_by(50))
        .map(|stream| stream.next_within(Duration::from_millis(1)))
        .buffer_unordered(64);
    while let Some(heard) = others.next().await {
        let silence = heard.expect_err("an uninterested stream was sent something");
        assert!(silence.message().starts_with("kit:"), "{silence:?}");
    }
    drop(others);
    world.finish().await;
}

/// Bindings by the API; the certificates are signed by the world itself, which is faster than a thousand tokens.
async fn enrol(world: &TestWorld) {
    let identity = world.id("scale");
    world
        .enroll_all((0..=STREAMS).map(|number| {
            let role = if number == STREAMS { "interested" } else { "other" };
            json!({ "node": format!("n{number}"), "identities": [identity], "labels": { "role": role } })
        }))
        .await;
}

/// `CLUSTERS` EDS clusters with as many `Endpoints`, in documents of bearable size.
fn documents() -> Vec<String> {
    (0..CLUSTERS / 500)
        .map(|part| {
            let range = part * 500..(part + 1) * 500;
            let mut text = format!(
                "apiVersion: v1\nkind: ProxyConfig\nmetadata: {{name: part-{part}}}\nspec:\n  clusters:\n"
            );
            for number in range.clone() {
                let _ = writeln!(
                    text,
                    "    - {{name: c{number}, type: EDS, edsClusterConfig: {{edsConfig: {{ads: {{}}}}}}}}"
                );
            }
            for number in range {
                text.push_str("---\n");
                text.push_str(&endpoints(number, 1_000));
            }
            text
        })
        .collect()
}

fn endpoints(number: usize, port: u16) -> String {
    kit::endpoints(&format!("c{number}"), "default", &[([127, 0, 0, 1], port).into()])
}

/// Each stream on a connection of its own, as its own node. All hold every cluster; the last also the endpoints of
/// the last cluster.
async fn open(world: &TestWorld) -> Vec<DeltaStream> {
    let signer = world.keys().world();
    let nodes: Vec<(String, Identity)> = (0..=STREAMS)
        .map(|number| {
            let name = format!("n{number}");
            let identity = Identity::of(&signer.leaf(&world.node_id(&name)));
            (name, identity)
        })
        .collect();
    let address = world.ports().xds;
    let last = format!("c{}", CLUSTERS - 1);
    let mut opened: Vec<(usize, DeltaStream)> = stream::iter(nodes.into_iter().enumerate())
        .map(|(number, (name, identity))| {
            let last = last.clone();
            async move {
                let client = XdsClient::new(address, &identity);
                let mut stream = client.delta(&name, "default");
                stream.subscribe(LDS, &[]).await;
                if number == STREAMS {
                    stream.subscribe(CDS, &[]).await;
                    held(&mut stream, CDS, CLUSTERS).await;
                    stream.subscribe(EDS, &[&last]).await;
                    held(&mut stream, EDS, 1).await;
                } else {
                    // Its own share of the endpoints, never the last one.
                    let names: Vec<String> =
                        (0..10).map(|at| format!("c{}", (number * 4 + at) % (CLUSTERS - 1))).collect();
                    let names: Vec<&str> = names.iter().map(String::as_str).collect();
                    stream.subscribe(EDS, &names).await;
                    held(&mut stream, EDS, names.len()).await;
                }
                (number, stream)
            }
        })
        .buffer_unordered(48)
        .collect()
        .await;
    opened.sort_by_key(|(number, _)| *number);
    opened.into_iter().map(|(_, stream)| stream).collect()
}

/// Reads and acknowledges until the stream holds `count` resources of a type.
async fn held(stream: &mut DeltaStream, type_url: &str, count: usize) {
    let mut held = 0;
    while held < count {
        let response = stream.next().await.expect("a response");
        held += if response.type_url == type_url { response.resources.len() } else { 0 };
        stream.ack(&response).await;
    }
}

async fn counters(world: &TestWorld) -> Vec<f64> {
    let text = world.metrics().await;
    COUNTERS
        .iter()
        .map(|name| {
            assert!(text.contains(name), "there is no metric {name}: {text}");
            let of = text.lines().filter(|line| {
                line.starts_with(&format!("{name} ")) || line.starts_with(&format!("{name}{{"))
            });
            of.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
        })
        .collect()
}

/// Waits until two looks in a row see the same counters and every stream open.
async fn settled(world: &TestWorld) {
    let open = within(ALL, "every stream is open", async || {
        let open = world.metric("credence_xds_streams_open").await;
        if open >= STREAMS as f64 + 1.0 { Ok(open) } else { Err(open) }
    })
    .await;
    assert!(open >= STREAMS as f64);
    let mut last = counters(world).await;
    let mut same = 0;
    eventually("nothing moves any more", async || {
        let now = counters(world).await;
        same = if now == last { same + 1 } else { 0 };
        last.clone_from(&now);
        if same >= 3 { Ok(()) } else { Err(now) }
    })
    .await;
}
