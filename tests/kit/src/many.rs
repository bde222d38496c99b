//! Many nodes at once: enrolled by the API, and run by a fleet.

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use fleet::{Fleet, NodePlan, Start, Until, Waited};
use futures::{StreamExt, stream};
use serde_json::{Value, json};

use crate::{Identity, Rest, TestWorld};

/// Operators that enrol: each may call only so often.
const OPERATORS: usize = 40;
const AT_ONCE: usize = 32;

impl TestWorld {
    /// Enrols nodes by the API, each as `POST /proxies` takes it; answers their join tokens by name.
    ///
    /// # Panics
    /// When one is refused.
    pub async fn enroll_all(&self, nodes: impl IntoIterator<Item = Value>) -> BTreeMap<String, String> {
        let signer = self.keys().world();
        let operators: Vec<Rest> = (0..OPERATORS)
            .map(|number| {
                let id = self.id(&format!("credence/operator/many-{number}"));
                Rest::new(self.ports().rest, Some(Identity::of(&signer.leaf(&id))))
            })
            .collect();
        stream::iter(nodes.into_iter().enumerate())
            .map(|(number, body)| {
                let operator = &operators[number % operators.len()];
                async move {
                    let name = body["node"].as_str().unwrap_or_default().to_owned();
                    let answer = operator.post("/api/v1/proxies", &body).await;
                    (name, answer["token"].as_str().unwrap_or_default().to_owned())
                }
            })
            .buffer_unordered(AT_ONCE)
            .collect()
            .await
    }

    /// Enrols `count` nodes `n0`, `n1`, ... with the label `app=APP`, each with the workload identity `APP/NODE`, and
    /// starts a fleet that plays them. They begin to connect; [`all`] waits for that.
    ///
    /// # Panics
    /// When a node is refused, or the fleet does not start.
    pub async fn start_fleet(&self, count: usize, app: &str) -> Fleet {
        self.start_fleet_behind(count, app, None).await
    }

    /// The same; nodes whose certificates have ended come back from one address, as behind one router.
    ///
    /// # Panics
    /// As [`TestWorld::start_fleet`].
    pub async fn start_fleet_behind(&self, count: usize, app: &str, router: Option<IpAddr>) -> Fleet {
        let tokens = self
            .enroll_all((0..count).map(|number| {
                let identity = self.id(&format!("{app}/n{number}"));
                json!({ "node": format!("n{number}"), "identities": [identity], "labels": { "app": app } })
            }))
            .await;
        let listed = self.rest().get("/api/v1/authorities").await;
        let authorities = listed["items"].as_array().cloned().unwrap_or_default();
        let roots = authorities.iter().filter(|one| one["place"] == "root");
        let nodes = tokens.into_iter().map(|(node, token)| NodePlan {
            node,
            token: Some(token),
            ..NodePlan::default()
        });
        let start = Start {
            xds: self.ports().xds,
            enrolment: Some(self.ports().enrolment),
            recover_from: router,
            trust_domain: self.domain().to_owned(),
            roots: roots.filter_map(|root| root["pem"].as_str()).collect(),
            secrets: vec!["default".to_owned(), format!("spiffe://{}", self.domain())],
            news: true,
            at_once: AT_ONCE,
            nodes: nodes.collect(),
        };
        let program = Fleet::program().unwrap_or_else(|error| panic!("{error:#}"));
        let mut fleet = Fleet::spawn(&program).unwrap_or_else(|error| panic!("{error:#}"));
        fleet.start(start).await.unwrap_or_else(|error| panic!("{error:#}"));
        fleet
    }
}

/// Waits until something holds for every node of a fleet.
///
/// # Panics
/// With what the fleet says of itself, when it does not hold in time.
pub async fn all(fleet: &mut Fleet, until: Until, within: Duration) -> Waited {
    let waited = fleet.wait(until.clone(), within).await.unwrap_or_else(|error| panic!("{error:#}"));
    if !waited.met {
        panic!("{until:?}: not for all within {within:?}: {waited:#?}\n{:#?}", fleet.summary().await);
    }
    waited
}
