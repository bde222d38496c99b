//! Examples, by item of the conformance list (`CONFORMANCE.md`), and a random walk.

mod access;
mod delta;
mod order;
mod sotw;
mod walk;

use std::{collections::BTreeMap, time::Duration};

use proto::google::rpc::Status;
use spiffe::{BindingState, Labels, Namespace, SpiffeId, Tenant, VerifiedSvid};

use super::*;
use crate::{Resource, SecretOffer};

const NODE: &str = "edge-1";
const T0: Timestamp = Timestamp::from_unix_secs(1_800_000_000);

use TypeUrl::{Cluster as C, Endpoints as E, Extension as X, Listener as L, Route as R, Secret as S};

fn resource(type_url: TypeUrl, name: &str, content: &str, needs: &[(TypeUrl, &str)]) -> Arc<Resource> {
    let needs = needs.iter().map(|(child, name)| (*child, Arc::from(*name))).collect();
    Arc::new(Resource::new(type_url, name, content.as_bytes().to_vec(), needs))
}

fn content(resource: &Resource) -> String {
    let content = resource.to_any().unwrap().value;
    if content.len() > 64 { format!("{} bytes", content.len()) } else { String::from_utf8(content).unwrap() }
}

fn peer_of(path: &str) -> Arc<Peer> {
    let id = SpiffeId::parse(&format!("spiffe://example.test/{path}")).unwrap();
    let svid = VerifiedSvid::for_tests(id, T0 + Duration::from_secs(3600));
    Arc::new(Peer::new(svid, "192.0.2.7:40000".parse().unwrap()))
}

fn binding_of(node: &str) -> Binding {
    Binding {
        node: NodeId::parse(node).unwrap(),
        tenant: Tenant::default(),
        namespace: Namespace::parse("shop").unwrap(),
        labels: Labels::new(),
        identities: vec![SpiffeId::parse("spiffe://example.test/shop/web").unwrap()],
        issuer: None,
        state: BindingState::Enabled,
        created: T0,
    }
}

fn opening(method: Method) -> Opening {
    Opening {
        peer: peer_of("credence/node/edge-1"),
        method,
        stream: 7,
        now: T0,
        is_blocked: false,
        binding: Some(binding_of(NODE)),
        view: Some(Arc::new(Snapshot::default())),
        limits: Limits::default(),
    }
}

fn node() -> Option<Node> {
    Some(Node { id: NODE.to_owned(), cluster: "shop".to_owned(), ..Node::default() })
}

/// One stream and its other end, told in words: `CDS a=1 b=2`, `CDS -a`.
struct World {
    session: Session,
    delta: bool,
    now: Timestamp,
    view: Snapshot,
    secrets: SecretView,
    last: BTreeMap<TypeUrl, Response>,
    other: Vec<String>,
    requests: usize,
}

impl World {
    fn open(delta: bool, view: Snapshot) -> Self {
        let method = Method { only: None, delta };
        let session =
            Session::open(Opening { view: Some(Arc::new(view.clone())), ..opening(method) }).unwrap();
        Self {
            session,
            delta,
            now: T0,
            view,
            secrets: SecretView::new(),
            last: BTreeMap::new(),
            other: Vec::new(),
            requests: 0,
        }
    }

    /// What is written in answer to `event`, if the reader keeps up.
    fn step(&mut self, event: Event) -> Vec<String> {
        let mut written = Vec::new();
        let mut actions = self.session.step(event, self.now);
        loop {
            let mut sent = false;
            for action in std::mem::take(&mut actions) {
                match action {
                    Action::Send(response) => {
                        sent = true;
                        written.push(self.read(response));
                    }
                    Action::Refuse(refusal) => written.push(format!("refused: {refusal}")),
                    Action::Close(code) => written.push(format!("closed: {code:?}")),
                    Action::Settled { type_url, items, refusal } => {
                        let names: Vec<_> = items.iter().map(|(name, _)| name.to_string()).collect();
                        let verdict = refusal.map_or("acked".to_owned(), |words| format!("nacked {words:?}"));
                        self.other.push(format!("{} {} {verdict}", type_url.word(), names.join(" ")));
                    }
                    Action::Interest { name, wanted } => {
                        self.other.push(format!("{}{name}", if wanted { '+' } else { '-' }));
                    }
                    Action::Dropped(_) => {}
                    Action::Note(note) => self.other.push(format!("{note:?}")),
                }
            }
            if !sent {
                return written;
            }
            actions = self.session.step(Event::Writable, self.now);
        }
    }

    fn read(&mut self, response: Response) -> String {
        let type_url = TypeUrl::parse(&response.type_url);
        let word = type_url.map_or("???", TypeUrl::word);
        let resources = response.resources.iter().map(|r| format!(" {}={}", r.name(), content(r)));
        let removed = response.removed.iter().map(|name| format!(" -{name}"));
        let text = std::iter::once(word.to_owned()).chain(resources).chain(removed).collect();
        if let Some(type_url) = type_url {
            self.last.insert(type_url, response);
        }
        text
    }

    fn nonce(&self, type_url: TypeUrl) -> String {
        self.last.get(&type_url).map(|last| last.nonce.to_string()).unwrap_or_default()
    }

    /// A whole list of names, with the nonce of the last response.
    fn want(&mut self, type_url: TypeUrl, names: &[&str]) -> Vec<String> {
        let nonce = self.nonce(type_url);
        self.want_with(type_url, names, &nonce, None)
    }

    fn want_with(
        &mut self,
        type_url: TypeUrl,
        names: &[&str],
        nonce: &str,
        error: Option<&str>,
    ) -> Vec<String> {
        let version = self.last.get(&type_url).and_then(|last| last.version.clone());
        let request = DiscoveryRequest {
            node: (self.requests == 0).then(node).flatten(),
            type_url: type_url.as_str().to_owned(),
            resource_names: names.iter().map(|name| (*name).to_owned()).collect(),
            response_nonce: nonce.to_owned(),
            version_info: version.map(|version| version.to_string()).unwrap_or_default(),
            error_detail: error.map(status),
            ..DiscoveryRequest::default()
        };
        self.requests += 1;
        self.step(Event::Sotw(Box::new(request)))
    }

    /// Names more and names less, spontaneously.
    fn change(&mut self, type_url: TypeUrl, subscribe: &[&str], unsubscribe: &[&str]) -> Vec<String> {
        self.change_with(type_url, subscribe, unsubscribe, &[], "", None)
    }

    fn change_with(
        &mut self,
        type_url: TypeUrl,
        subscribe: &[&str],
        unsubscribe: &[&str],
        known: &[(&str, &Version)],
        nonce: &str,
        error: Option<&str>,
    ) -> Vec<String> {
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let request = DeltaDiscoveryRequest {
            node: (self.requests == 0).then(node).flatten(),
            type_url: type_url.as_str().to_owned(),
            resource_names_subscribe: owned(subscribe),
            resource_names_unsubscribe: owned(unsubscribe),
            initial_resource_versions: known
                .iter()
                .map(|(name, version)| ((*name).to_owned(), version.to_string()))
                .collect(),
            response_nonce: nonce.to_owned(),
            error_detail: error.map(status),
            ..DeltaDiscoveryRequest::default()
        };
        self.requests += 1;
        self.step(Event::Delta(Box::new(request)))
    }

    /// Acknowledges the last response of a type; `names` is the list that SotW repeats.
    fn ack(&mut self, type_url: TypeUrl, names: &[&str]) -> Vec<String> {
        let nonce = self.nonce(type_url);
        if self.delta {
            self.change_with(type_url, &[], &[], &[], &nonce, None)
        } else {
            self.want_with(type_url, names, &nonce, None)
        }
    }

    fn nack(&mut self, type_url: TypeUrl, names: &[&str], words: &str) -> Vec<String> {
        let nonce = self.nonce(type_url);
        if self.delta {
            self.change_with(type_url, &[], &[], &[], &nonce, Some(words))
        } else {
            self.want_with(type_url, names, &nonce, Some(words))
        }
    }

    fn publish(&mut self, put: &[Arc<Resource>], remove: &[(TypeUrl, &str)]) -> Vec<String> {
        for resource in put {
            self.view.insert(resource.clone());
        }
        for (type_url, name) in remove {
            self.view.remove(*type_url, name);
        }
        let view = Arc::new(self.view.clone());
        self.step(Event::View(Some(view)))
    }

    fn offer(&mut self, name: &str, offer: SecretOffer) -> Vec<String> {
        self.secrets.insert(name.into(), offer);
        let view = self.secrets.clone();
        self.step(Event::Secrets(view))
    }

    /// Lets time pass, and ticks at every deadline on the way.
    fn wait(&mut self, length: Duration) -> Vec<String> {
        let until = self.now + length;
        let mut written = Vec::new();
        while let Some(at) = self.session.deadline().filter(|at| *at <= until) {
            assert!(at > self.now, "a deadline must lie ahead");
            self.now = at;
            written.extend(self.step(Event::Tick));
        }
        self.now = until;
        written
    }

    fn others(&mut self) -> Vec<String> {
        std::mem::take(&mut self.other)
    }
}

fn status(words: &str) -> Status {
    Status { code: 13, message: words.to_owned(), details: Vec::new() }
}

fn view(resources: &[Arc<Resource>]) -> Snapshot {
    let mut view = Snapshot::default();
    resources.iter().for_each(|resource| view.insert(resource.clone()));
    view
}

fn secs(count: u64) -> Duration {
    Duration::from_secs(count)
}

const NOTHING: [&str; 0] = [];

#[test]
fn words_of_strangers_lose_control_characters_and_length() {
    assert_eq!(&*clean_words("bad\n\u{1b}[31mlistener\t"), "bad  [31mlistener ");
    assert_eq!(clean_words(&"é".repeat(5000)).len(), 4096);
}
