//! Addresses of clusters.

use std::collections::BTreeMap;

use proto::envoy::config::{
    core::v3::Locality as EnvoyLocality,
    endpoint::v3::{
        ClusterLoadAssignment, Endpoint as EnvoyEndpoint, LbEndpoint, LocalityLbEndpoints,
        lb_endpoint::HostIdentifier,
    },
};

use super::{Made, made, socket_address};
use crate::model::{Endpoint, FieldPath, Locality};

/// Priority and locality.
type Group<'a> = (u32, Option<&'a Locality>);

/// Indices of endpoints by priority and locality, which is how Envoy wants them.
pub(super) fn groups(endpoints: &[Endpoint]) -> Vec<(Group<'_>, Vec<usize>)> {
    let mut groups: BTreeMap<_, Vec<usize>> = BTreeMap::new();
    for (index, endpoint) in endpoints.iter().enumerate() {
        let key = (endpoint.priority.unwrap_or(0), endpoint.locality.as_ref());
        groups.entry(key).or_default().push(index);
    }
    groups.into_iter().collect()
}

pub(super) fn assignment(cluster: &str, endpoints: &[Endpoint]) -> ClusterLoadAssignment {
    let localities =
        groups(endpoints).into_iter().map(|((priority, locality), members)| LocalityLbEndpoints {
            priority,
            locality: locality.map(|locality| EnvoyLocality {
                region: locality.region.clone().unwrap_or_default(),
                zone: locality.zone.clone().unwrap_or_default(),
                sub_zone: locality.sub_zone.clone().unwrap_or_default(),
            }),
            lb_endpoints: members.into_iter().map(|index| lb_endpoint(&endpoints[index])).collect(),
            ..Default::default()
        });
    let endpoints = localities.collect();
    ClusterLoadAssignment { cluster_name: cluster.to_owned(), endpoints, ..Default::default() }
}

/// The assignment of an EDS cluster that nobody has given addresses to: without it Envoy would wait.
pub(crate) fn empty(cluster: &str) -> Made {
    made(&assignment(cluster, &[]), FieldPath::default())
}

fn lb_endpoint(endpoint: &Endpoint) -> LbEndpoint {
    LbEndpoint {
        load_balancing_weight: endpoint.weight,
        host_identifier: Some(HostIdentifier::Endpoint(EnvoyEndpoint {
            address: Some(socket_address(&endpoint.address, endpoint.port.get())),
            ..Default::default()
        })),
        ..Default::default()
    }
}
