//! The composition root: every part is made here, given what it needs, and started by name.
//!
//! Order: listeners are bound (so that a port that is taken is said before anything is opened), the store is opened (a
//! wrong key changes nothing, one that is out of reach is waited for: `waiting`) and holds the issuers that the
//! configuration says, if it says any (`declared`), then trust, configuration, delivery,
//! secrets, doors. Ending goes the other way: the doors close and drain, then the parts end, the writer of the store
//! last.

mod accounts;
mod adapters;
mod board;
mod checks;
mod declared;
mod drain;
mod edges;
mod following;
mod hooks;
mod observer;
mod removed;
mod revoking;
mod samples;
mod sealing;
mod secrets;
mod upstreams;
mod waiting;

use std::{collections::HashMap, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use anyhow::{Context, anyhow};
use api::{
    calls::{Calls, Facts, Pauses, Recoveries, configs},
    expiry::{
        AuthorityEndings, EdgeEndings, Expiries, ExpirySource, LeafEndings, LeafFacts, ListEndings,
        TokenEndings,
    },
    node::{NodeDoor, NodeInputs, NodeSettings},
    sources::Renewals,
};
use axum::Router;
use certs::Clock;
use sds::{LeafKey, SdsInputs, SdsManager, SdsSettings};
use tokio::{
    net::TcpListener,
    sync::{Notify, watch},
};
use tokio_util::sync::CancellationToken;
use xds::{SecretSource, XdsDeps, XdsServer, catalog::Catalog};

use self::{
    adapters::{CaRotation, FailingRenewals, MetricsPage, Ready, SdsLeaves},
    board::BoardDelivery,
    drain::Drainage,
    edges::EdgeInputs,
    following::LeafFollowing,
    observer::Observer,
    revoking::CaRevoking,
    sealing::{Sealer, SealerStatus, SlotEndings, StoreKeys},
    secrets::{SecretEndings, SecretFeed},
    upstreams::{UpstreamInputs, Upstreams},
    waiting::Opened,
};
use crate::{
    clock::TrustedClock,
    config::{Config, Listen},
    door::{Door, Registry, Security, Service},
    hooks::{Watched, unusable},
    init::{ca_deps, follow_trust, refresh_endpoint},
    lifecycle::{Parts, Readiness},
    lookout::{self, Lookout, Seen},
    metrics::Metrics,
    own_certificate::{OwnRenewal, OwnStatus},
    presentation::OwnCertificate,
    refusals::RefusalWriter,
    timekeeper::Timekeeper,
    tls::{Admits, Gatekeeper},
};

/// In development mode leaves and nodes follow a new authority at once; otherwise they are spread.
const AUTHORITY_SPREAD: Duration = Duration::from_secs(600);

/// The listeners, bound.
struct Listeners {
    xds: TcpListener,
    enrolment: TcpListener,
    rest: TcpListener,
    probes: Option<TcpListener>,
}

impl Listeners {
    async fn bind(config: &Config) -> anyhow::Result<Self> {
        Ok(Self {
            xds: bind("xDS (server.grpc)", config.grpc).await?,
            enrolment: bind("enrolment (enrolment)", config.enrolment).await?,
            rest: bind("management (server.rest)", config.rest).await?,
            probes: match config.probes {
                Some(listen) => Some(bind("metrics (observability.metrics)", listen).await?),
                None => None,
            },
        })
    }
}

/// Whether somebody else listens where we want to.
fn is_taken(error: &anyhow::Error) -> bool {
    let io = error.chain().find_map(|cause| cause.downcast_ref::<std::io::Error>());
    io.is_some_and(|io| io.kind() == std::io::ErrorKind::AddrInUse)
}

async fn bind(what: &str, listen: Listen) -> anyhow::Result<TcpListener> {
    let address = SocketAddr::new(listen.address, listen.port);
    TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address} for {what}"))
}

/// Runs the control plane until `shutdown`.
///
/// # Errors
/// When it cannot start, or a part of it ends by itself.
pub(crate) async fn run(
    config: Config,
    config_path: PathBuf,
    clock: Arc<TrustedClock>,
    accept_clock: bool,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let listeners = match Listeners::bind(&config).await {
        // Who has our ports mostly has our store, and is better named by that.
        Err(error) if is_taken(&error) => {
            return Err(store::in_use(&config.data_dir).map_or(error, Into::into));
        }
        bound => bound?,
    };
    let opened =
        waiting::open(config, &config_path, clock.clone(), listeners.probes.as_ref(), &shutdown).await?;
    let Some(Opened { config, store, writer }) = opened else { return Ok(()) };
    declared::hold(&config, &config_path, &store).await?;
    // Ports and store are ours: only now may commands on this host be sent here.
    if let Err(error) = refresh_endpoint(&config) {
        tracing::warn!(error = format!("{error:#}"), "commands on this host may ask at an old address");
    }
    let store_shutdown = CancellationToken::new();
    let mut last = Parts::default();
    last.spawn("store", writer.run(store_shutdown.clone()));
    let timekeeper = Timekeeper { clock: clock.clone(), audit: Arc::new(store.clone()) };
    timekeeper.look_back(accept_clock).await;

    let parts_shutdown = CancellationToken::new();
    let outcome = Box::pin(serve(
        config,
        config_path,
        timekeeper,
        listeners,
        store,
        shutdown,
        parts_shutdown.clone(),
        &mut last,
    ))
    .await;
    parts_shutdown.cancel();
    store_shutdown.cancel();
    let finished = last.finish().await;
    outcome.and(finished)
}

#[expect(
    clippy::too_many_lines,
    clippy::too_many_arguments,
    reason = "the composition root reads from top to bottom"
)]
async fn serve(
    config: Config,
    config_path: PathBuf,
    timekeeper: Timekeeper,
    listeners: Listeners,
    store: store::Store,
    shutdown: CancellationToken,
    parts_shutdown: CancellationToken,
    last: &mut Parts,
) -> anyhow::Result<()> {
    let authority_spread = if config.dev { Duration::ZERO } else { AUTHORITY_SPREAD };
    let (readiness, metrics) = (Readiness::default(), Arc::new(Metrics::default()));
    let mut parts = Parts::default();
    let (clock, time): (Arc<dyn Clock>, _) = (timekeeper.clock.clone(), timekeeper.clock.reading());
    spawn(&mut parts, "clock", timekeeper.run(parts_shutdown.clone()));

    let (sink, refusal_writer) = RefusalWriter::new(Arc::new(store.clone()), clock.clone());
    let refusals: Arc<dyn audit::Refusals> = Arc::new(sink);
    parts.spawn("refusals", refusal_writer.run(parts_shutdown.clone()));

    let (wake, sealer_status) = (Arc::new(Notify::new()), watch::Sender::new(SealerStatus::default()));
    let sealing = StoreKeys {
        store: store.clone(),
        config_path: config_path.clone(),
        dev: config.dev,
        clock: clock.clone(),
        wake: wake.clone(),
        status: sealer_status.subscribe(),
    };
    let sealed = sealer_status.subscribe();
    let sealer = Sealer {
        store: store.clone(),
        config: config.clone(),
        config_path,
        clock: clock.clone(),
        wake,
        status: sealer_status,
    };
    spawn(&mut parts, "sealing", sealer.run(parts_shutdown.clone()));
    spawn(&mut parts, "anchor", store.clone().keep_anchor(parts_shutdown.clone()));

    let deps = ca::Deps { refusals: refusals.clone(), ..ca_deps(&config, &store, clock.clone()) };
    let (journal, least_remaining) = (deps.journal.clone(), deps.policy.least_remaining());
    let pauses = Pauses::load(Arc::new(store.clone())).await.map_err(|error| anyhow!("{error}"))?;
    let recoveries = Recoveries::load(Arc::new(store.clone())).await.map_err(|error| anyhow!("{error}"))?;
    let manager = ca::Manager::open(deps.clone()).await.context("cannot open the authority")?;
    let manager = manager.heeding(pauses.watch()).minding(time.clone());
    let ca = manager.handle();
    let (issuers, asking) = Upstreams::resume(UpstreamInputs {
        store: store.clone(),
        ca: ca.clone(),
        clock: clock.clone(),
        pause: pauses.watch(),
        domain: config.trust_domain.clone(),
        lifetime: config.lifetimes.issuing,
        leaf_life: config.lifetimes.leaf.max(config.lifetimes.node).max(config.lifetimes.server),
        workload_life: config.lifetimes.leaf,
    })
    .await
    .map_err(|error| anyhow!("{error}"))?;
    let bindings = api::ports::NodeStore::bindings(&store).await.map_err(|error| anyhow!("{error}"))?;
    let named = watch::Sender::new(following::named(&spiffe::Bindings::new(bindings)));
    let leaves = ca::LeavesDeps {
        store: Arc::new(store.clone()),
        audit: Arc::new(store.clone()),
        named: named.subscribe(),
        signer: Arc::new(issuers.signer()),
        outsiders: issuers.outsiders(),
        pause: pauses.watch(),
    };
    let leaves = ca::Leaves::open(leaves, &deps, ca.clone()).await?;
    let outside = named.borrow().iter().find(|name| !name.is_builtin()).cloned();
    let default = leaves.desk().status().borrow().default.clone();
    let moving = default.migration.map(|migration| migration.to);
    let outside =
        [Some(default.current), moving].into_iter().flatten().find(|name| !name.is_builtin()).or(outside);
    let outside = leaves.members().first().map(|one| one.source.name.clone()).or(outside);
    if let (Some(_), Some(name)) = (config.revocation_lists, outside) {
        return Err(anyhow!(
            "proxies are to check against our revocation lists (ca.revocation_lists), and leaves of issuer {name} may \
             be in use, or a binding names it, for which there is no list: start without lists, credence issuer migrate \
             --to builtin, and turn them on when credence issuer list says that it is idle and named by nobody"
        ));
    }
    let revoked = match config.revocation_lists {
        Some(_) => None,
        None => api::calls::still_revoked(&store, &store, clock.now()).await.unwrap_or_else(|error| {
            tracing::warn!(%error, "how many revoked certificates are believed is not known");
            None
        }),
    };
    if let Some(revoked) = revoked {
        let (certificates, first, last) = (revoked.certificates, revoked.first_ends, revoked.last_ends);
        tracing::warn!(
            certificates,
            first_ends = first,
            last_ends = last,
            "revocation lists are off: proxies believe revoked certificates until they end"
        );
    }
    let leaf_desk = leaves.desk();
    let issuer: Arc<dyn spiffe::SvidIssuer> = Arc::new(ca.clone());

    let stores = configs::Stores {
        documents: Arc::new(store.clone()),
        nodes: Arc::new(store.clone()),
        blocks: Arc::new(store.clone()),
        secrets: Arc::new(store.clone()),
    };
    let status = Arc::new(xds::Board::default());
    let traffic = Arc::new(xds::Traffic::default());
    let catalog = Catalog::new(adapters::context(&config, ca.drain().borrow().generation));
    let counters = catalog.counters().clone();
    let (config_manager, configs) =
        configs::Manager::load(stores, catalog, board::locality(&config, status.clone()))
            .await
            .map_err(|error| anyhow!("{error}"))?;
    spawn(&mut parts, "configuration", config_manager.run(parts_shutdown.clone()));
    let naming = following::follow_named(configs.watch_bindings(), named, parts_shutdown.clone());
    spawn(&mut parts, "named issuers", naming);

    let known = journal.remaining(clock.now()).await?;
    let known: HashMap<LeafKey, _> = known
        .into_iter()
        .filter_map(|leaf| Some((LeafKey { node: leaf.node?, identity: leaf.id }, leaf.not_after)))
        .collect();
    let (imported, expiries) = (watch::Sender::default(), watch::Sender::new(Vec::new()));
    let (imported_read, secrets_read) = (imported.subscribe(), expiries.subscribe());
    let feed = SecretFeed { store: store.clone(), clock: clock.clone(), imported, expiries };
    feed.first().await?;
    spawn(&mut parts, "imported secrets", feed.run(parts_shutdown.clone()));
    let (accounts, account_keeper) = accounts::open(Arc::new(store.clone()), clock.clone());
    spawn(&mut parts, "accounts", account_keeper.run(parts_shutdown.clone()));
    let (edge_secrets, edges_read) = watch::channel(Arc::default());
    let (edge_endings, edges_ending) = watch::channel(Vec::new());
    let (edges, edge_keeper) = edges::Edges::open(EdgeInputs {
        store: Arc::new(store.clone()),
        changes: store.changes(store::Topic::Edges),
        issuer_changes: store.changes(store::Topic::Issuers),
        accounts: accounts.clone(),
        configs: configs.clone(),
        board: status.clone(),
        clock: clock.clone(),
        dns_commands: config.dns_commands.clone(),
        secrets: edge_secrets,
        endings: edge_endings,
    })
    .await?;
    spawn(&mut parts, "edges", edge_keeper.run(parts_shutdown.clone()));
    let (sds, sds_manager) = SdsManager::new(
        SdsSettings { leaf_lifetime: config.lifetimes.leaf, authority_spread, ..SdsSettings::default() },
        SdsInputs {
            issuer: Arc::new(leaf_desk.clone()),
            trust: leaf_desk.trust(),
            bindings: configs.watch_bindings(),
            blocks: configs.watch_blocks(),
            imported: imported_read,
            edges: edges_read,
            views: configs.watch_views(),
            signers: leaf_desk.signers(),
            known,
            refusals: refusals.clone(),
            clock: clock.clone(),
        },
    );
    spawn(&mut parts, "secrets", sds_manager.run(parts_shutdown.clone()));
    let drainage = Drainage { drain: ca.drain(), sds: sds.status(), configs: configs.clone() };
    spawn(&mut parts, "drain", drainage.run(parts_shutdown.clone()));

    let own = Arc::new(OwnCertificate::default());
    let own_status = watch::Sender::new(OwnStatus::default());
    let own_status_read = own_status.subscribe();
    let renewal = OwnRenewal {
        issuer: issuer.clone(),
        own: own.clone(),
        id: config.trust_domain.server_id(),
        names: config.names.clone(),
        lifetime: config.lifetimes.server,
        trust: ca.trust(),
        anchor: ca.anchor(),
        authority: ca.active(),
        status: own_status,
        clock: clock.clone(),
        time: time.clone(),
        unready: Some(readiness.guard("own certificate")),
    };
    parts.spawn("own certificate", renewal.run(parts_shutdown.clone()));

    let secrets: Arc<dyn SecretSource> = Arc::new(sds.clone());
    let limits = xds::Limits::default();
    let xds = XdsServer::new(XdsDeps {
        views: configs.watch_views(),
        bindings: configs.watch_bindings(),
        blocks: configs.watch_blocks(),
        secrets,
        status: status.clone(),
        audit: refusals.clone(),
        clock: clock.clone(),
        traffic: traffic.clone(),
        limits: limits.clone(),
        identifier: concat!("credence/", env!("CARGO_PKG_VERSION")).into(),
    });

    let registry = Arc::new(Registry::default());
    let certificates = registry.clone();
    let node_door = NodeDoor::new(
        NodeSettings {
            lifetime: config.lifetimes.node,
            xds_server: advertised(&config, config.grpc),
            authority_spread,
            ..adapters::node_settings()
        },
        NodeInputs {
            issuer: issuer.clone(),
            store: Arc::new(store.clone()),
            trust: ca.trust(),
            anchor: ca.anchor(),
            authority: ca.active(),
            bindings: configs.watch_bindings(),
            blocks: configs.watch_blocks(),
            recovery: recoveries.watch(),
            journal: journal.clone(),
            refusals: refusals.clone(),
            certified: Box::new(move |node, root| certificates.note_issued(node, root)),
            clock: clock.clone(),
        },
    );

    let forgetting =
        removed::forget(configs.watch_bindings(), status.clone(), node_door.clone(), parts_shutdown.clone());
    spawn(&mut parts, "removed nodes", forgetting);
    let observer = Arc::new(Observer {
        board: status.clone(),
        bindings: configs.watch_bindings(),
        blocks: configs.watch_blocks(),
        began: clock.now(),
        leaf_lifetime: config.lifetimes.leaf,
        admitted_per_second: limits.new_streams_per_second,
        sds: sds.status(),
        journal: journal.clone(),
        nodes: node_door.clone(),
        trust: ca.trust(),
    });
    spawn(&mut parts, "authority", manager.run(observer.clone(), parts_shutdown.clone()));
    let follows = Arc::new(LeafFollowing {
        sds: sds.status(),
        signers: leaf_desk.signers(),
        bindings: configs.watch_bindings(),
    });
    spawn(&mut parts, "leaves", leaves.run(observer.clone(), follows, parts_shutdown.clone()));
    let revoking = Arc::new(CaRevoking { ca: ca.clone(), observer, clock: clock.clone() });

    let following = follow_trust(config.admin_dir.clone(), ca.trust(), parts_shutdown.clone());
    parts.spawn("operator's bundle", following);
    let leaves: Arc<dyn LeafFacts> = Arc::new(SdsLeaves(sds.status()));
    let leaf_endings = LeafEndings {
        journal: journal.clone(),
        bindings: configs.watch_bindings(),
        blocks: configs.watch_blocks(),
        leaves: leaves.clone(),
    };
    let workload_trust = leaf_desk.trust();
    let upstreams = Arc::new(issuers.desk(leaf_desk));
    let authority_endings = AuthorityEndings {
        authorities: Arc::new(store.clone()),
        issuers: Arc::new(store.clone()),
        upstreams: upstreams.clone(),
    };
    let sources: Vec<Arc<dyn ExpirySource>> = vec![
        Arc::new(authority_endings),
        Arc::new(leaf_endings),
        Arc::new(TokenEndings(Arc::new(store.clone()))),
        Arc::new(SecretEndings(secrets_read)),
        Arc::new(EdgeEndings { facts: edges_ending, at_work: Arc::new(edges.clone()) }),
        Arc::new(ListEndings(revoking.clone())),
        Arc::new(SlotEndings(sealed.clone())),
    ];
    let expiries = Expiries::new(sources);
    let seen = watch::Sender::new(Arc::new(Seen::default()));
    let seen_read = seen.subscribe();
    let lookout = Lookout {
        expiries: expiries.clone(),
        journal: journal.clone(),
        bindings: configs.watch_bindings(),
        leaves: leaves.clone(),
        clock: clock.clone(),
        period: lookout::period(&config.lifetimes),
        seen,
    };
    spawn(&mut parts, "lookout", lookout.run(parts_shutdown.clone()));
    let ready: Arc<Ready> = Arc::new(Ready {
        readiness: readiness.clone(),
        broken: store.broken(),
        full: store.full(),
        findings: store.findings(),
        own: own_status_read.clone(),
        ca: ca.status(),
        least_remaining,
        clock: clock.clone(),
        time: time.clone(),
    });
    let renewals: Arc<dyn Renewals> =
        Arc::new(FailingRenewals { sds: sds.status(), own: own_status_read.clone() });
    let watched = Watched { seen: seen_read.clone(), ca: ca.status(), renewals: renewals.clone() };
    for (of, program) in config.programs() {
        if let Some(why) = unusable(program) {
            tracing::warn!(%of, why, "this command cannot be run when it is needed");
        }
    }
    let (herald, desk) = hooks::open(&config, &store, watched, clock.clone());
    let hooks_read = desk.status.clone();
    if let Some(herald) = herald {
        spawn(&mut parts, "hooks", herald.run(parts_shutdown.clone()));
    }
    spawn(&mut parts, "issuers", asking.run(parts_shutdown.clone()));
    metrics.add_source({
        let sources = samples::Sources {
            seen: seen_read,
            hooks: (desk.tellers.clone(), hooks_read),
            recoveries: recoveries.clone(),
            ready: ready.clone(),
            pauses: pauses.clone(),
            ca: ca.status(),
            sds: sds.status(),
            own: own_status_read.clone(),
            counters,
            traffic,
            delivery: status.clone(),
            sealed,
            findings: store.findings(),
            store: store.clone(),
            clock: clock.clone(),
            time: time.clone(),
            issuers: upstreams.clone(),
            accounts: accounts.clone(),
        };
        move || sources.sample()
    });
    let page: Arc<MetricsPage> = Arc::new(MetricsPage(metrics.clone()));
    let calls = Calls {
        domain: config.trust_domain.clone(),
        facts: Arc::new(Facts {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            enrolment_address: advertised(&config, config.enrolment),
            began: clock.now(),
            operator_lifetime: config.lifetimes.operator,
            token_ttl: config.token_ttl,
            default_mtls: adapters::default_mtls(&config),
        }),
        clock: clock.clone(),
        time,
        configs: configs.clone(),
        documents: Arc::new(store.clone()),
        nodes: Arc::new(store.clone()),
        audit: Arc::new(store.clone()),
        refusals: refusals.clone(),
        journal,
        authorities: Arc::new(store.clone()),
        rotation: Arc::new(CaRotation(ca.clone())),
        revoking,
        issuer,
        trust: ca.trust(),
        workload_trust,
        anchor: ca.anchor(),
        delivery: Arc::new(BoardDelivery {
            board: status.clone(),
            xds: xds.clone(),
            nodes: node_door.clone(),
            trust: ca.trust(),
        }),
        pauses,
        recoveries,
        expiries,
        leaves,
        renewals,
        readiness: ready.clone(),
        metrics: page.clone(),
        sealing: Arc::new(sealing),
        secrets: Arc::new(store.clone()),
        hooks: Arc::new(desk),
        issuers: Arc::new(store.clone()),
        upstreams,
        acme_store: Arc::new(store.clone()),
        acme: Arc::new(accounts),
        edges: Arc::new(store.clone()),
        edges_at_work: Arc::new(edges),
    };

    let keeper = Gatekeeper { trust: ca.trust(), blocks: configs.watch_blocks(), clock: clock.clone(), own };
    let renewal_routes =
        Router::new().route_service("/credence.v1.RenewalService/{method}", node_door.renewal_service());
    let enrolment_routes =
        Router::new().route_service("/credence.v1.EnrolmentService/{method}", node_door.enrolment_service());
    let doors = [
        ("xds", listeners.xds, Admits::Nodes, adapters::xds_service(xds, renewal_routes)),
        ("enrolment", listeners.enrolment, Admits::Strangers, adapters::service(enrolment_routes)),
        ("management", listeners.rest, Admits::Operators, adapters::service(api::rest::router(calls))),
    ];
    let open = |name, listener, security, service: Service| Door {
        name,
        listener,
        security,
        service,
        clock: clock.clone(),
        refusals: refusals.clone(),
        bindings: configs.watch_bindings(),
        blocks: configs.watch_blocks(),
        registry: registry.clone(),
        delivery: status.clone(),
        authority_spread,
        fallbacks: std::sync::Mutex::default(),
        metrics: metrics.door(name),
    };
    if let Some(listener) = listeners.probes {
        tracing::info!(door = "probes", address = %listener.local_addr()?, "listening");
        let service = adapters::service(api::rest::probes(ready, page));
        parts.spawn("probes", open("probes", listener, Security::Plain, service).run(shutdown.clone()));
    }

    // Nobody is let in before we can say who we are; until then connections wait in the backlog.
    let mut identified = own_status_read.clone();
    tokio::select! {
        _ = identified.wait_for(|own| own.serial.is_some()) => {}
        outcome = parts.watch(&shutdown) => outcome?,
    }
    for (name, listener, admits, service) in doors {
        tracing::info!(door = name, address = %listener.local_addr()?, "listening");
        let door = open(name, listener, Security::Tls(keeper.clone(), admits), service);
        parts.spawn(name, door.run(shutdown.clone()));
    }
    let outcome = tokio::select! {
        outcome = parts.watch(&shutdown) => outcome,
        outcome = last.watch(&shutdown) => outcome,
    };
    // Doors drain first: they end by themselves once `shutdown` is cancelled.
    shutdown.cancel();
    parts.finish_named(&["xds", "enrolment", "management", "probes"]).await;
    parts_shutdown.cancel();
    outcome.and(parts.finish().await)
}

fn spawn(parts: &mut Parts, name: &'static str, part: impl Future<Output = ()> + Send + 'static) {
    parts.spawn(name, async move {
        part.await;
        anyhow::Ok(())
    });
}

/// How nodes reach a listener: by the first name of our own certificate if it listens everywhere.
fn advertised(config: &Config, listen: Listen) -> String {
    if listen.address.is_unspecified() {
        let name = config.names.first().map_or("localhost", String::as_str);
        return format!("{name}:{}", listen.port);
    }
    SocketAddr::new(listen.address, listen.port).to_string()
}
