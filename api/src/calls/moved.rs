//! What an older text of a document brings back, or does not, of the addresses that clusters go to.

use xds::model::{Cluster, ClusterType, Document, Spec};

/// The clusters of a document, in the order of the text.
fn clusters(document: &Document) -> &[Cluster] {
    match &document.spec {
        Spec::ProxyConfig(config) => &config.clusters,
        Spec::Endpoints(_) => &[],
    }
}

fn addresses(cluster: &Cluster) -> String {
    let all: Vec<_> = cluster.endpoints.iter().map(|one| format!("{}:{}", one.address, one.port)).collect();
    if all.is_empty() { "none".to_owned() } else { all.join(", ") }
}

/// Clusters whose own addresses are others in `old` than in `now`: they go back with the text, wherever servers have
/// moved since.
pub(super) fn going_back(old: &Document, now: &Document) -> Vec<String> {
    let before = |name: &str| clusters(now).iter().find(|cluster| cluster.name == name).map(addresses);
    let moved = clusters(old).iter().filter(|cluster| cluster.cluster_type != ClusterType::Eds);
    moved
        .filter_map(|cluster| {
            let (back, is) = (addresses(cluster), before(&cluster.name)?);
            (back != is).then(|| {
                format!(
                    "cluster {} goes back to endpoints {back}, from {is}: look whether they are there",
                    cluster.name
                )
            })
        })
        .collect()
}

/// The clusters of `document` that have their addresses from `Endpoints`, each with the name of these.
pub(super) fn elsewhere(document: &Document) -> impl Iterator<Item = (&str, &str)> {
    let by_eds = clusters(document).iter().filter(|cluster| cluster.cluster_type == ClusterType::Eds);
    by_eds.map(|cluster| {
        let config = cluster.eds_cluster_config.as_ref();
        let named = config.and_then(|config| config.service_name.as_deref());
        (cluster.name.as_str(), named.unwrap_or(&cluster.name))
    })
}
